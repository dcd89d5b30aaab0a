//! Rows of one table for the copy, as the source's rules make them: frames, as in the stream.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio_postgres::types::{ToSql, Type};
use trem_wire::definition::{DefinedLeaf, DefinedTable, Definition};
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
pub async fn lock(
    client: &Client,
    exported: &str,
    definition: &Definition,
    leaf: &DefinedLeaf,
) -> Result<Heap> {
    snapshot::begin(client, exported).await?;
    let sql = "SELECT trem.applier_lock($1, $2, $3)";
    let statement = client.prepare_typed(sql, &[Type::TEXT, Type::INT8, Type::OID]).await?;
    let parameters: [&(dyn ToSql + Sync); 3] =
        [&definition.task, &definition.definition_version, &leaf.oid];
    let same: bool = client.query_one(&statement, &parameters).await?.get(0);
    Ok(if same { Heap::AsInSnapshot } else { Heap::Rewritten })
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

/// The rows of a leaf that [`lock`] has locked: frames of messages, to be unpacked as the stream's
/// are.
pub async fn frames(
    client: &Client,
    definition: &Definition,
    leaf: &DefinedLeaf,
) -> Result<Pin<Box<impl Stream<Item = Result<Bytes>>>>> {
    // In a list of columns it streams; in FROM the server would gather all of it first.
    let sql = "SELECT trem.applier_rows($1, $2, $3)";
    let statement = client.prepare_typed(sql, &[Type::TEXT, Type::INT8, Type::OID]).await?;
    let parameters: [&(dyn ToSql + Sync); 3] =
        [&definition.task, &definition.definition_version, &leaf.oid];
    let stream = client.query_raw(&statement, parameters).await?;
    Ok(Box::pin(stream.map(|row| {
        let row = row.map_err(|error| row_failed(error.into()))?;
        Ok(Bytes::copy_from_slice(row.try_get::<_, &[u8]>(0)?))
    })))
}
