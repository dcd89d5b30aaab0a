//! The task's views as the only door to the source's tables, and the look at what is behind it.
//!
//! A view reads its table by OID. Before PostgreSQL 16 an owner can make a view of an empty table,
//! which keeps its OID: then functions of the owner's would run in our session, or there would be
//! no rows and nobody told. So nobody reads a view who has not locked it here, which locks the
//! table behind it, and then seen that it is one.

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::types::Oid;
use trem_wire::definition::DefinedLeaf;

use crate::connect::Client;
use crate::error::{Error, Kind, Result};

/// A view and the table behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// As SQL names it.
    pub name: String,
    leaf: Oid,
    /// For messages.
    leaf_name: String,
}

impl View {
    pub fn of(leaf: &DefinedLeaf) -> Self {
        View {
            name: format!("trem_read.{}", escape_identifier(&leaf.view)),
            leaf: leaf.oid,
            leaf_name: format!("{}.{}", leaf.schema, leaf.name),
        }
    }
}

/// Locks views, and the tables behind them, until the open transaction ends: as they are found to
/// be they stay.
pub async fn lock(client: &Client, views: &[View]) -> Result<()> {
    if views.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = views.iter().map(|view| view.name.as_str()).collect();
    // A lock on a view locks what is behind it with the right of the view's owner.
    client.batch_execute(&format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "))).await?;
    // Only what has rows of its own has a file. The function looks at the catalog as it is now, not
    // as the transaction's snapshot has it.
    let sql = "SELECT oid FROM unnest($1::oid[]) AS oid WHERE pg_relation_filenode(oid) IS NULL";
    let leaves: Vec<Oid> = views.iter().map(|view| view.leaf).collect();
    let replaced = client.query(sql, &[&leaves]).await?;
    let replaced = replaced.first().map(|row| row.get::<_, Oid>(0));
    match views.iter().find(|view| Some(view.leaf) == replaced) {
        None => Ok(()),
        Some(view) => {
            let message = format!("{} is no table any more on the source", view.leaf_name);
            Err(Error::new(Kind::TableChanged, message).hint(
                "Make it a table again, or remove it from the task with trem.remove_table; then \
                 SELECT trem.start_task(...) on the source.",
            ))
        }
    }
}
