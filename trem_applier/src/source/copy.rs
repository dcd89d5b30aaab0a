//! Rows of one table for the copy, through the task's view.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use postgres_protocol::escape::escape_identifier;
use trem_wire::definition::{DefinedLeaf, DefinedRowFormat, DefinedTable};

use super::snapshot;
use crate::connect::Client;
use crate::error::{Error, Result};

/// What [`lock`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heap {
    AsInSnapshot,
    /// TRUNCATE, VACUUM FULL, CLUSTER or ALTER TABLE gave the table a new file since the snapshot
    /// was taken: the snapshot does not show its rows.
    Rewritten,
}

/// Opens a transaction under the snapshot and keeps the table's file as it is until its end.
pub async fn lock(client: &Client, exported: &str, leaf: &DefinedLeaf) -> Result<Heap> {
    snapshot::begin(client, exported).await?;
    let view = view(leaf);
    // A lock on the view locks the table behind it with the right of the view's owner.
    client.batch_execute(&format!("LOCK TABLE {view} IN ACCESS SHARE MODE")).await?;
    // The column is as of the snapshot, the function is now.
    let sql = "SELECT relfilenode = pg_relation_filenode(oid) FROM pg_class WHERE oid = $1";
    let same: Option<bool> = match client.query_opt(sql, &[&leaf.oid]).await? {
        Some(row) => row.get(0),
        None => None,
    };
    Ok(if same == Some(true) { Heap::AsInSnapshot } else { Heap::Rewritten })
}

fn view(leaf: &DefinedLeaf) -> String {
    format!("trem_read.{}", escape_identifier(&leaf.view))
}

/// The rows, in the format of the table, as COPY gives them.
pub async fn rows(
    client: &Client,
    table: &DefinedTable,
    leaf: &DefinedLeaf,
) -> Result<Pin<Box<impl Stream<Item = Result<Bytes>>>>> {
    let columns: Vec<_> = table.columns.iter().map(|c| escape_identifier(&c.name)).collect();
    let format = match table.row_format {
        DefinedRowFormat::Binary => "binary",
        DefinedRowFormat::Text => "text",
    };
    let sql = format!(
        "COPY (SELECT {} FROM {}) TO STDOUT (FORMAT {format})",
        columns.join(", "),
        view(leaf)
    );
    let stream = client.copy_out(&sql).await?;
    Ok(Box::pin(stream.map(|row| row.map_err(Error::from))))
}
