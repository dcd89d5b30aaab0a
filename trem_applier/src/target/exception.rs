//! Rows that the source could not compute, kept in `trem_target.exception` when the task skips
//! them.

use tokio_postgres::types::{PgLsn, ToSql};
use trem_wire::message::{ErrorRow, Operation, Relation};
use trem_wire::Lsn;

use super::quote_table;
use crate::connect::Client;
use crate::error::{Error, Kind, Result};
use crate::value::Value;

/// Records a row in the open transaction. Its key is kept as text, as the target's types write it.
pub(super) async fn record(
    client: &Client,
    task_id: &str,
    relation: &Relation,
    error: &ErrorRow,
    commit_lsn: Option<Lsn>,
) -> Result<()> {
    let key: Vec<_> = relation.columns.iter().filter(|column| column.key).collect();
    let fields: Vec<_> = error.key().fields().collect();
    let known = key.len() == fields.len();
    let casts: Vec<_> = key
        .iter()
        .enumerate()
        .filter(|_| known)
        .map(|(n, column)| format!("${}::{}", n + 8, column.type_name))
        .collect();
    let row = match known && !casts.is_empty() {
        true => format!("ROW({})::text", casts.join(", ")),
        false => "NULL".to_owned(),
    };
    let sql = format!(
        "INSERT INTO trem_target.exception (task_id, source_table, target_table, operation,
             rule_id, sqlstate, commit_lsn, key)
         VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7, {row})"
    );
    let operation = match error.operation {
        Operation::Insert => "insert",
        Operation::Update => "update",
        Operation::Delete => "delete",
    };
    let source = quote_table(&relation.source_schema, &relation.source_name);
    let target = quote_table(&relation.target_schema, &relation.target_name);
    let lsn = commit_lsn.map(|lsn| PgLsn::from(lsn.0));
    let values: Vec<_> =
        fields.iter().map(|field| Value::new(relation.format, &error.key, *field)).collect();
    let mut parameters: Vec<&(dyn ToSql + Sync)> =
        vec![&task_id, &source, &target, &operation, &error.rule_id, &error.sqlstate, &lsn];
    if known {
        parameters.extend(values.iter().map(|value| value as &(dyn ToSql + Sync)));
    }
    client.execute(&sql, &parameters).await?;
    Ok(())
}

/// The error that stops the task at such a row. Names the key's columns, never their values.
pub(super) fn stop(relation: &Relation, error: &ErrorRow) -> Error {
    let key: Vec<_> = relation.key().map(|at| relation.columns[at].name.as_str()).collect();
    let message = format!(
        "rule {} cannot compute a row of {} (key: {})",
        error.rule_id,
        quote_table(&relation.source_schema, &relation.source_name),
        key.join(", ")
    );
    Error::new(Kind::RowFailed, message).sqlstate(&error.sqlstate).hint(
        "Mend the rule (trem.transformation lists it) or the row, then SELECT \
         trem.start_task(...); or skip such rows: SELECT \
         trem.alter_task(..., '{\"on_error\": \"skip_row\"}').",
    )
}
