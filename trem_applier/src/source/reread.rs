//! Reads rows of a table again, by key, as the task's rules make them on the source.
//!
//! A commit is streamed before it is visible to others (it may wait for a synchronous standby). So
//! a read counts only if its snapshot shows every transaction that asks for it; otherwise it waits
//! and looks again. All keys of a call are read under one snapshot, and the position that comes
//! back is the source's insert position after that snapshot was taken: nothing in the rows is
//! later.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{pin_mut, TryStreamExt};
use tokio_postgres::types::{PgLsn, ToSql, Type};
use trem_wire::codec::decode_frame;
use trem_wire::compress::Unpacker;
use trem_wire::definition::Definition;
use trem_wire::message::{Message, Relation};
use trem_wire::Lsn;

use super::snapshot;
use crate::connect::{connect, Client};
use crate::conninfo::ConnInfo;
use crate::error::{Error, Kind, Result};

/// How often visibility is looked at again: PostgreSQL has nothing to wait on for it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A wait that lasts longer than this is said, once.
const SAY_AFTER: Duration = Duration::from_secs(10);

/// What one key gives.
pub enum Read {
    Row(Bytes),
    None,
    /// A rule cannot compute the row: which, and the error's SQLSTATE.
    Failed {
        rule_id: i64,
        sqlstate: String,
    },
}

/// The connection is opened when the first row must be read again.
pub struct Reader {
    source: ConnInfo,
    task: String,
    definition_version: i64,
    client: Option<Client>,
}

impl Reader {
    pub fn new(source: &ConnInfo, definition: &Definition) -> Self {
        Reader {
            source: source.with_application_name(&format!("trem:{}:reread", definition.task)),
            task: definition.task.clone(),
            definition_version: definition.definition_version,
            client: None,
        }
    }

    /// The rows of these keys as the source has them now, and the position they may be up to.
    pub async fn read(
        &mut self,
        relation: &Relation,
        keys: &[Bytes],
        xids: &[u64],
    ) -> Result<(Vec<Read>, Lsn)> {
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => connect(&self.source).await?,
        };
        let position = see(&client, &self.task, xids).await?;
        let rows = self.rows(&client, relation, keys).await?;
        client.batch_execute("COMMIT").await?;
        snapshot::wait_for_flush(&client, position).await?;
        self.client = Some(client);
        Ok((rows, position))
    }

    async fn rows(
        &self,
        client: &Client,
        relation: &Relation,
        keys: &[Bytes],
    ) -> Result<Vec<Read>> {
        let sql = "SELECT trem.applier_reread($1, $2, $3, $4)";
        let types = [Type::TEXT, Type::INT8, Type::OID, Type::BYTEA_ARRAY];
        let statement = client.prepare_typed(sql, &types).await?;
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        let parameters: [&(dyn ToSql + Sync); 4] =
            [&self.task, &self.definition_version, &relation.oid, &keys];
        let found = client.query_raw(&statement, parameters).await?;
        pin_mut!(found);
        let mut unpacker = Unpacker::new()?;
        let mut rows = Vec::with_capacity(keys.len());
        while let Some(row) = found.try_next().await? {
            rows.push(match row.try_get::<_, Option<&[u8]>>(0)? {
                None => Read::None,
                Some(frame) => {
                    let frame = unpacker.unpack(&Bytes::copy_from_slice(frame))?;
                    one(relation, decode_frame(&frame)?)?
                }
            });
        }
        match rows.len() == keys.len() {
            true => Ok(rows),
            false => Err(Error::new(Kind::Protocol, "another number of rows than of keys")),
        }
    }
}

/// The row that a frame holds; its relation is described in the first frame of a call.
fn one(relation: &Relation, messages: Vec<Message>) -> Result<Read> {
    let mut read = Read::None;
    for message in messages {
        read = match message {
            Message::Relation(described) if *described == *relation => continue,
            Message::Insert(run) if run.row_count == 1 => Read::Row(run.rows),
            Message::Error(row) => Read::Failed { rule_id: row.rule_id, sqlstate: row.sqlstate },
            _ => {
                let message = "a row read again is not of the relation that the stream describes";
                return Err(Error::new(Kind::Protocol, message));
            }
        };
    }
    Ok(read)
}

/// Opens a transaction whose snapshot shows all of `xids`; gives the position after it was taken.
async fn see(client: &Client, task: &str, xids: &[u64]) -> Result<Lsn> {
    let xids: Vec<String> = xids.iter().map(u64::to_string).collect();
    let sql = "SELECT coalesce(bool_and(pg_visible_in_snapshot(x::xid8, pg_current_snapshot())),
                               true), pg_current_wal_insert_lsn()
               FROM unnest($1::text[]) AS x";
    let start = Instant::now();
    let mut said = false;
    loop {
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let row = client.query_one(sql, &[&xids]).await?;
        if row.get(0) {
            return Ok(Lsn(row.get::<_, PgLsn>(1).into()));
        }
        client.batch_execute("ROLLBACK").await?;
        if start.elapsed() > SAY_AFTER && !said {
            said = true;
            tracing::info!(task = %task, "waiting for commits of the source to become visible");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
