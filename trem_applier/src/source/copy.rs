//! Rows of one table for the copy, through the task's view.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::types::{ToSql, Type};
use trem_wire::definition::{DefinedLeaf, DefinedRowFormat, DefinedTable};
use trem_wire::sqlstate::is_of_the_session;

use super::snapshot;
use crate::connect::Client;
use crate::error::{self, Error, Kind, Result};

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

/// An error that a value of a row is to blame for, if it is not a rule's own: a data exception, a
/// limit, or data that the source itself cannot read.
fn row_failed(error: Error) -> Error {
    let Some(sqlstate) = error.sqlstate_code() else { return error };
    let of_a_value = ["22", "23", "54", "XX"].iter().any(|class| sqlstate.starts_with(class));
    if error.kind() == Kind::RowFailed || is_of_the_session(sqlstate.as_bytes()) || !of_a_value {
        return error;
    }
    error::row_failed("the source cannot read a row", sqlstate)
}

/// The rows one by one, those that cannot be computed apart: frames of messages, unpacked as the
/// stream's are. Slower than [`rows`], for a table where that failed.
pub async fn frames(
    client: &Client,
    task: &str,
    leaf: &DefinedLeaf,
) -> Result<Pin<Box<impl Stream<Item = Result<Bytes>>>>> {
    let sql = "SELECT frame FROM trem.applier_rows($1, $2) AS frame";
    let statement = client.prepare_typed(sql, &[Type::TEXT, Type::OID]).await?;
    let parameters: [&(dyn ToSql + Sync); 2] = [&task, &leaf.oid];
    let stream = client.query_raw(&statement, parameters).await?;
    Ok(Box::pin(stream.map(|row| {
        let row = row.map_err(Error::from)?;
        Ok(Bytes::copy_from_slice(row.try_get::<_, &[u8]>(0)?))
    })))
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
    Ok(Box::pin(stream.map(|row| row.map_err(|error| row_failed(error.into())))))
}
