//! Rows that the source could not compute, kept in `trem_target.exception` when the task skips
//! them.
//!
//! A record is open as long as the target does not have what the source has for its row: neither
//! the row as it is, nor, where it was deleted, no row. It is settled when the row was applied
//! whole, read again, deleted or truncated, or when its table is loaded again; it is kept as a log,
//! with the time in `settled_at`. A record without a key (not even that could be computed) is
//! settled with its whole table only. What open records mean for changes is in
//! [`skipped`](super::skipped).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::try_join_all;
use postgres_protocol::escape::escape_literal;
use serde_json::{json, Value as Json};
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::Statement;
use trem_wire::message::{ErrorRow, Operation, Relation};
use trem_wire::Lsn;

use super::quote_table;
use crate::connect::Client;
use crate::error::{Error, Kind, Result};
use crate::value::Value;

/// Failed rows that are recorded together, one statement each, all sent before the first result.
pub const TOGETHER: usize = 256;

/// Parameters before those of the key.
const FIXED: usize = 8;

/// A row that failed, and the transaction that it is of; none in a load.
#[derive(Debug)]
pub struct Failed {
    pub relation: Arc<Relation>,
    pub row: ErrorRow,
    pub commit_lsn: Option<Lsn>,
}

/// Records failed rows of one load, in its open transaction.
#[derive(Default)]
pub struct Recorder {
    /// By whether the row brought its key.
    statements: HashMap<bool, Statement>,
}

impl Recorder {
    pub async fn record(
        &mut self,
        client: &Client,
        task_id: &str,
        failed: &[Failed],
    ) -> Result<()> {
        for some in failed.chunks(TOGETHER) {
            for Failed { relation, row, .. } in some {
                let keyed = has_key(relation, row);
                if let std::collections::hash_map::Entry::Vacant(entry) =
                    self.statements.entry(keyed)
                {
                    entry.insert(client.prepare(&insert(relation, keyed)).await?);
                }
            }
            try_join_all(some.iter().map(|failed| {
                let keyed = has_key(&failed.relation, &failed.row);
                send(client, &self.statements[&keyed], task_id, failed)
            }))
            .await?;
        }
        Ok(())
    }
}

/// The row brought its whole key.
pub(super) fn has_key(relation: &Relation, row: &ErrorRow) -> bool {
    relation.has_key() && relation.key().count() == row.key().field_count()
}

/// The key is kept as text, as the target's types write it.
pub(super) fn insert(relation: &Relation, keyed: bool) -> String {
    let key = match keyed {
        true => key_text(relation, FIXED + 1),
        false => "NULL".to_owned(),
    };
    format!(
        "INSERT INTO trem_target.exception (task_id, source_oid, source_table, target_table,
             operation, rule_id, sqlstate, commit_lsn, key)
         VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7, $8, {key})"
    )
}

/// The key as it is kept, of parameters from this one on.
fn key_text(relation: &Relation, first_parameter: usize) -> String {
    let casts: Vec<_> = relation
        .key()
        .enumerate()
        .map(|(n, at)| format!("${}::{}", first_parameter + n, relation.columns[at].type_name))
        .collect();
    format!("ROW({})::text", casts.join(", "))
}

/// Settles the open records of a row. Parameters: its key.
pub(super) fn settle(relation: &Relation, task_id: &str) -> String {
    let (is_open, key) = (is_open(task_id, &[relation.oid]), key_text(relation, 1));
    format!(
        "UPDATE trem_target.exception AS e SET settled_at = now() FROM (SELECT {key} AS key) AS k
         WHERE {is_open} AND {IS_OF_KEY}"
    )
}

/// One row if the row has an open record. Parameters: its key.
pub(super) fn find(relation: &Relation, task_id: &str) -> String {
    let (is_open, key) = (is_open(task_id, &[relation.oid]), key_text(relation, 1));
    format!(
        "SELECT FROM trem_target.exception AS e, (SELECT {key} AS key) AS k
         WHERE {is_open} AND {IS_OF_KEY} LIMIT 1"
    )
}

/// Settles all open records of whole tables.
pub(super) fn settle_tables(task_id: &str, oids: &[u32]) -> String {
    let is_open = is_open(task_id, oids);
    format!("UPDATE trem_target.exception AS e SET settled_at = now() WHERE {is_open}")
}

/// The hash is in the index: a key may be longer than an index can take.
const IS_OF_KEY: &str = "hashtextextended(e.key, 0) = hashtextextended(k.key, 0) AND e.key = k.key";

fn is_open(task_id: &str, oids: &[u32]) -> String {
    let oids: Vec<_> = oids.iter().map(u32::to_string).collect();
    format!(
        "e.task_id = {}::uuid AND e.source_oid IN ({}) AND e.settled_at IS NULL",
        escape_literal(task_id),
        oids.join(", ")
    )
}

/// The table is emptied or none of the task's any more.
pub async fn settle_table(client: &Client, task_id: &str, oid: u32) -> Result<()> {
    Ok(client.batch_execute(&settle_tables(task_id, &[oid])).await?)
}

/// The tables that have open records.
pub(super) async fn tables(client: &Client, task_id: &str) -> Result<HashSet<u32>> {
    let sql = "SELECT DISTINCT source_oid FROM trem_target.exception
               WHERE task_id = $1::text::uuid AND settled_at IS NULL";
    let rows = client.query(sql, &[&task_id]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

pub(super) async fn send(
    client: &Client,
    statement: &Statement,
    task_id: &str,
    failed: &Failed,
) -> std::result::Result<u64, tokio_postgres::Error> {
    let Failed { relation, row, commit_lsn } = failed;
    let operation = match row.operation {
        Operation::Insert => "insert",
        Operation::Update => "update",
        Operation::Delete => "delete",
    };
    let source = quote_table(&relation.source_schema, &relation.source_name);
    let target = quote_table(&relation.target_schema, &relation.target_name);
    let lsn = commit_lsn.map(|lsn| PgLsn::from(lsn.0));
    let key: Vec<_> =
        row.key().fields().map(|field| Value::new(relation.format, &row.key, field)).collect();
    let mut parameters: Vec<&(dyn ToSql + Sync)> =
        vec![&task_id, &relation.oid, &source, &target, &operation];
    parameters.extend([&row.rule_id as &(dyn ToSql + Sync), &row.sqlstate, &lsn]);
    if has_key(relation, row) {
        parameters.extend(key.iter().map(|value| value as &(dyn ToSql + Sync)));
    }
    client.execute(statement, &parameters).await
}

/// The next records after number `after`, at most `count`, and the number of the last.
pub async fn read(
    client: &Client,
    task_id: &str,
    after: i64,
    count: i64,
) -> Result<Option<(i64, Json)>> {
    let sql = "SELECT id, source_table, operation, rule_id, sqlstate, commit_lsn::text, key
               FROM trem_target.exception
               WHERE task_id = $1::text::uuid AND id > $2 ORDER BY id LIMIT $3";
    let rows = client.query(sql, &[&task_id, &after, &count]).await?;
    let record = |row: &tokio_postgres::Row| {
        json!({
            "table": row.get::<_, String>(1),
            "operation": row.get::<_, String>(2),
            "rule_id": row.get::<_, i64>(3),
            "sqlstate": row.get::<_, String>(4),
            "commit_lsn": row.get::<_, Option<String>>(5),
            "key": row.get::<_, Option<String>>(6),
        })
    };
    Ok(rows.last().map(|last| (last.get(0), rows.iter().map(record).collect())))
}

/// The error that stops the task at such a row. Names the key's columns, never their values.
pub(super) fn stop(failed: &Failed) -> Error {
    let Failed { relation, row, .. } = failed;
    let key: Vec<_> = relation.key().map(|at| relation.columns[at].name.as_str()).collect();
    // Of a row that was read again it may not be known; and a value may be damaged by itself.
    let rule = match row.rule_id {
        0 => "the source".to_owned(),
        id => format!("rule {id}"),
    };
    let message = format!(
        "{rule} cannot compute a row of {} (key: {})",
        quote_table(&relation.source_schema, &relation.source_name),
        key.join(", ")
    );
    Error::new(Kind::RowFailed, message).sqlstate(&row.sqlstate).hint(
        "Mend the rule (trem.transformation lists it) or the row, then SELECT \
         trem.start_task(...); or skip such rows: SELECT \
         trem.alter_task(..., '{\"on_error\": \"skip_row\"}') and start it again.",
    )
}
