//! Rows that the source could not compute, kept in `trem_target.exception` when the task skips
//! them.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::try_join_all;
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
const FIXED: usize = 7;

/// A row that failed, and the transaction that it is of; none in a load.
#[derive(Debug)]
pub struct Failed {
    pub relation: Arc<Relation>,
    pub row: ErrorRow,
    pub commit_lsn: Option<Lsn>,
}

/// Records failed rows in the open transaction of a session.
#[derive(Default)]
pub struct Recorder {
    statements: HashMap<(u32, bool), Statement>,
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
                    self.statements.entry((relation.oid, keyed))
                {
                    entry.insert(client.prepare(&insert(relation, keyed)).await?);
                }
            }
            try_join_all(some.iter().map(|failed| {
                let keyed = has_key(&failed.relation, &failed.row);
                send(client, &self.statements[&(failed.relation.oid, keyed)], task_id, failed)
            }))
            .await?;
        }
        Ok(())
    }
}

/// The row brought its whole key.
fn has_key(relation: &Relation, row: &ErrorRow) -> bool {
    relation.has_key() && relation.key().count() == row.key().field_count()
}

/// The key is kept as text, as the target's types write it.
fn insert(relation: &Relation, keyed: bool) -> String {
    let casts: Vec<_> = relation
        .key()
        .enumerate()
        .map(|(n, at)| format!("${}::{}", n + FIXED + 1, relation.columns[at].type_name))
        .collect();
    let key = match keyed {
        true => format!("ROW({})::text", casts.join(", ")),
        false => "NULL".to_owned(),
    };
    format!(
        "INSERT INTO trem_target.exception (task_id, source_table, target_table, operation,
             rule_id, sqlstate, commit_lsn, key)
         VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7, {key})"
    )
}

async fn send(
    client: &Client,
    statement: &Statement,
    task_id: &str,
    failed: &Failed,
) -> Result<()> {
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
        vec![&task_id, &source, &target, &operation, &row.rule_id, &row.sqlstate, &lsn];
    if has_key(relation, row) {
        parameters.extend(key.iter().map(|value| value as &(dyn ToSql + Sync)));
    }
    client.execute(statement, &parameters).await?;
    Ok(())
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
    // Of a row that was read again it is not known.
    let rule = match row.rule_id {
        0 => "a rule".to_owned(),
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
