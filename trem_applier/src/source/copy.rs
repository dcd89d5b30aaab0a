//! Rows of one table for the copy, through the task's view.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::types::{ToSql, Type};
use trem_wire::definition::{DefinedLeaf, DefinedRowFormat, DefinedTable};

use super::snapshot;
use crate::connect::Client;
use crate::error::{Error, Kind, Result};

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

/// An error unless the snapshot shows the table as it was published: the same partitions, all
/// logged. One that came or went between the publish and the snapshot would be in neither the copy
/// nor the stream.
pub async fn check_parts(client: &Client, exported: &str, table: &DefinedTable) -> Result<()> {
    snapshot::begin(client, exported).await?;
    let sql = "WITH RECURSIVE part (oid) AS (
                   SELECT $1::oid
                   UNION ALL
                   SELECT i.inhrelid
                   FROM part JOIN pg_class AS c USING (oid) JOIN pg_inherits AS i
                        ON i.inhparent = c.oid AND NOT i.inhdetachpending
                   WHERE c.relkind = 'p')
               SELECT array_agg(c.oid ORDER BY c.oid) FILTER (WHERE c.relpersistence = 'p'),
                      count(*) FILTER (WHERE c.relpersistence <> 'p')
               FROM part JOIN pg_class AS c USING (oid) WHERE c.relkind <> 'p'";
    let row = client.query_one(sql, &[&table.oid]).await?;
    client.batch_execute("COMMIT").await?;
    let parts: Vec<u32> = row.get::<_, Option<_>>(0).unwrap_or_default();
    let mut published: Vec<u32> = table.leaves.iter().map(|leaf| leaf.oid).collect();
    published.sort_unstable();
    if parts == published && row.get::<_, i64>(1) == 0 {
        return Ok(());
    }
    let message = "it does not have the partitions, or the rows, that it had when it was published";
    Err(Error::new(Kind::TableChanged, message)
        .hint("Publish the task again with SELECT trem.start_task(...)."))
}

/// A value that the source's own expression refuses: one row is at fault, not the task.
fn row_failed(error: Error) -> Error {
    if error.kind() != Kind::Refused {
        return error;
    }
    let failed = Error::new(Kind::RowFailed, "an expression of the task's rules fails on a row")
        .hint(
            "trem.transformation lists the rules. Mend the rule or the row, then SELECT \
             trem.start_task(...); or set the task's option on_error to skip_row.",
        );
    match error.sqlstate_code() {
        Some(sqlstate) => failed.sqlstate(sqlstate),
        None => failed,
    }
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
