//! Rows of one table for the copy, as the source's rules make them: frames, as in the stream.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio_postgres::types::{ToSql, Type};
use trem_wire::definition::{DefinedLeaf, Definition};
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
