//! Reads rows of a table again, by key, through the task's views.
//!
//! A commit is streamed before it is visible to others (it may wait for a synchronous standby). So
//! a read counts only if its snapshot shows every transaction that asks for it; otherwise it waits
//! and looks again. All keys of a call are read under one snapshot, and the position that comes
//! back is the source's insert position after that snapshot was taken: nothing in the rows is
//! later.
//!
//! When a rule cannot compute a row, the keys are read one by one, so that only such rows fail; and
//! of such a row one computed column after the other, to find the rule (see [`blame`]).

mod blame;
mod key;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::types::{FromSql, PgLsn, ToSql, Type};
use tokio_postgres::{Row as ResultRow, Statement};
use trem_wire::definition::Definition;
use trem_wire::message::{Relation, RowFormat};
use trem_wire::row::{Row, RowWriter};
use trem_wire::Lsn;

use self::blame::Suspect;
use super::snapshot;
use super::view::{self, View};
use crate::connect::{connect, Client};
use crate::conninfo::ConnInfo;
use crate::error::{Error, Kind, Result};
use crate::value::Value;

/// How often visibility is looked at again: PostgreSQL has nothing to wait on for it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A wait that lasts longer than this is said, once.
const SAY_AFTER: Duration = Duration::from_secs(10);

/// Keys asked for at a time, one statement each.
const PIPELINED: usize = 64;

/// What one key gives.
pub enum Read {
    Row(Bytes),
    None,
    /// A rule cannot compute the row: which (0: not known), and the error's SQLSTATE.
    Failed {
        rule_id: i64,
        sqlstate: String,
    },
}

/// The connection is opened when the first row must be read again.
pub struct Reader {
    source: ConnInfo,
    task: String,
    client: Option<Client>,
    /// By table OID.
    views: HashMap<u32, Vec<View>>,
    /// By table OID.
    rules: HashMap<u32, Vec<Suspect>>,
    prepared: HashMap<u32, (Relation, Vec<Prepared>)>,
}

/// How a row is read by its key through one view.
#[derive(Clone)]
struct Prepared {
    view: View,
    /// See [`key::condition`].
    condition: String,
    statement: Statement,
}

impl Reader {
    pub fn new(source: &ConnInfo, definition: &Definition) -> Self {
        let views = definition
            .tables
            .iter()
            .map(|table| (table.oid, table.leaves.iter().map(View::of).collect()));
        Reader {
            source: source.with_application_name(&format!("trem:{}:reread", definition.task)),
            task: definition.task.clone(),
            client: None,
            views: views.collect(),
            rules: definition.tables.iter().map(|t| (t.oid, blame::suspects(t))).collect(),
            prepared: HashMap::new(),
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
            _ => {
                self.prepared.clear();
                connect(&self.source).await?
            }
        };
        let prepared = self.prepare(&client, relation).await?;
        let position = see(&client, &self.task, xids).await?;
        view::lock(&client, self.views.get(&relation.oid).map_or(&[][..], Vec::as_slice)).await?;
        let mut rows = Vec::with_capacity(keys.len());
        for some in keys.chunks(PIPELINED) {
            client.batch_execute("SAVEPOINT keys").await?;
            let reads = some.iter().map(|key| read_row(&client, &prepared, relation, key));
            match try_join_all(reads).await {
                Ok(read) => rows.extend(read),
                Err(error) if is_of_a_row(&error) => {
                    client.batch_execute("ROLLBACK TO keys").await?;
                    rows.extend(self.one_by_one(&client, &prepared, relation, some).await?);
                }
                Err(error) => return Err(error),
            }
        }
        client.batch_execute("COMMIT").await?;
        snapshot::wait_for_flush(&client, position).await?;
        self.client = Some(client);
        Ok((rows, position))
    }

    async fn prepare(&mut self, client: &Client, relation: &Relation) -> Result<Vec<Prepared>> {
        if let Some((described, prepared)) = self.prepared.get(&relation.oid) {
            if described == relation {
                return Ok(prepared.clone());
            }
        }
        let views = self.views.get(&relation.oid).map_or(&[][..], Vec::as_slice);
        let mut prepared = Vec::with_capacity(views.len());
        for view in views {
            let condition = key::condition(client, relation, view).await?;
            let sql = select(relation, view, &condition, 0..relation.columns.len());
            let statement = client.prepare(&sql).await?;
            prepared.push(Prepared { view: view.clone(), condition, statement });
        }
        self.prepared.insert(relation.oid, (relation.clone(), prepared.clone()));
        Ok(prepared)
    }

    /// Each key in a subtransaction, under the same snapshot.
    async fn one_by_one(
        &self,
        client: &Client,
        prepared: &[Prepared],
        relation: &Relation,
        keys: &[Bytes],
    ) -> Result<Vec<Read>> {
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            client.batch_execute("SAVEPOINT key").await?;
            rows.push(match read_row(client, prepared, relation, key).await {
                Err(error) if is_of_a_row(&error) => {
                    client.batch_execute("ROLLBACK TO key").await?;
                    let sqlstate = error.sqlstate_code().unwrap_or_default().to_owned();
                    let rule_id = self.find_rule(client, relation, key).await?;
                    Read::Failed { rule_id, sqlstate }
                }
                read => read?,
            });
            client.batch_execute("RELEASE key").await?;
        }
        Ok(rows)
    }
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

/// Reads some columns of the row with a key.
fn select(
    relation: &Relation,
    view: &View,
    condition: &str,
    columns: impl Iterator<Item = usize>,
) -> String {
    let column = |at: usize| format!("v.{}", escape_identifier(&relation.columns[at].name));
    let columns: Vec<_> = columns
        .map(|at| match relation.format {
            RowFormat::Binary => column(at),
            RowFormat::Text => key::text(&column(at)),
        })
        .collect();
    format!("SELECT {} FROM {} AS v WHERE {condition}", columns.join(", "), view.name)
}

/// A rule's expression fails on the values of a row: the SQLSTATEs of which the stream makes an
/// error row, see the extension's `pg/evaluate.rs`.
fn is_of_a_row(error: &Error) -> bool {
    let is =
        |code: &str| code.starts_with("22") || ["23502", "23514", "54000", "0A000"].contains(&code);
    error.sqlstate_code().is_some_and(is)
}

fn values(relation: &Relation, key: &Bytes) -> Result<Vec<Value>> {
    let fields = Row::decode(key)?.fields();
    Ok(fields.map(|field| Value::new(relation.format, key, field)).collect())
}

async fn read_row(
    client: &Client,
    prepared: &[Prepared],
    relation: &Relation,
    key: &Bytes,
) -> Result<Read> {
    for Prepared { statement, .. } in prepared {
        let values = values(relation, key)?;
        let parameters: Vec<_> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        if let Some(row) = client.query_opt(statement, &parameters).await? {
            return copy_row(&row).map(Read::Row);
        }
    }
    Ok(Read::None)
}

/// A row of a result as COPY's binary format has it.
fn copy_row(row: &ResultRow) -> Result<Bytes> {
    let mut bytes = Vec::new();
    let count = i16::try_from(row.len())
        .map_err(|_| Error::new(Kind::Protocol, "a row of more than 32,767 columns"))?;
    let mut writer = RowWriter::new(&mut bytes, count);
    for at in 0..row.len() {
        match row.try_get::<_, Raw<'_>>(at)? {
            Raw(Some(field)) => writer.field(field),
            Raw(None) => writer.null(),
        }
    }
    Ok(bytes.into())
}

/// A field as its bytes are, of any type.
struct Raw<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(
        _: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(Some(raw)))
    }

    fn from_sql_null(
        _: &Type,
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
