//! The tables and patterns of a draft, added and removed.

use super::draft::{Draft, Task};
use super::name::{self, TableName};
use super::table::{self, Table};
use super::{plan, spi};
use crate::error::Error;

/// Adds a table, which must be one that can be replicated, or a pattern.
pub(crate) fn add(task: &Task, table_name: &str) -> Result<(), Error> {
    let task_id = || task.task_id.as_str().into();
    match name::parse(table_name)? {
        TableName::Table { schema, name } => {
            let table = table::load_one(table::find(&schema, &name)?)?;
            if let Some(reason) = &table.refusal {
                return Err(Error::NotReplicable {
                    table: table.display(),
                    reason: reason.clone(),
                    hint: plan::remedy(&table),
                });
            }
            // What a pattern left out is back.
            spi::run(
                "DELETE FROM trem.task_table
                 WHERE task_id = $1::uuid AND kind = 'excluded' AND table_oid = $2::oid",
                &[task_id(), i64::from(table.oid).into()],
            )?;
            spi::run(
                "INSERT INTO trem.task_table (task_id, kind, name, table_oid)
                 VALUES ($1::uuid, 'table', $2, $3::oid)
                 ON CONFLICT DO NOTHING",
                &[task_id(), table.display().into(), i64::from(table.oid).into()],
            )?;
        }
        TableName::Pattern { schema } => {
            if !table::schema_exists(&schema)? {
                return Err(Error::Missing {
                    what: "schema",
                    name: format!("\"{schema}\""),
                    hint: "SELECT * FROM trem.list_schemas(); lists what there is.".to_owned(),
                });
            }
            if name::is_reserved_schema(&schema) {
                return Err(Error::invalid(
                    format!("schema \"{schema}\" belongs to the system"),
                    "Only tables of users can be replicated.",
                ));
            }
            spi::run(
                "INSERT INTO trem.task_table (task_id, kind, name, schema_name)
                 VALUES ($1::uuid, 'pattern', quote_ident($2) || '.*', $2)
                 ON CONFLICT DO NOTHING",
                &[task_id(), schema.into()],
            )?;
        }
    }
    Ok(())
}

/// Removes a table with its rules (one that a pattern matches is left out from now on), or a
/// pattern with all tables of its schema.
pub(crate) fn remove(task: &Task, table_name: &str) -> Result<(), Error> {
    match name::parse(table_name)? {
        TableName::Table { schema, name } => remove_table(task, &schema, &name),
        TableName::Pattern { schema } => remove_pattern(task, &schema, table_name),
    }
}

fn remove_table(task: &Task, schema: &str, table: &str) -> Result<(), Error> {
    let display = name::display(schema, table);
    let task_id = || task.task_id.as_str().into();
    // By name first: the table may be gone.
    let mut removed = spi::run(
        "DELETE FROM trem.task_table
         WHERE task_id = $1::uuid AND kind = 'table' AND name = $2
           AND NOT EXISTS (SELECT FROM pg_class WHERE oid = table_oid)
         RETURNING id",
        &[task_id(), display.as_str().into()],
    )?;
    let oid = match table::find(schema, table) {
        Ok(oid) => i64::from(oid),
        Err(_) if removed > 0 => return forget_dropped(task),
        Err(error) => return Err(error),
    };
    removed += spi::run(
        "DELETE FROM trem.task_table
         WHERE task_id = $1::uuid AND kind = 'table' AND table_oid = $2::oid RETURNING id",
        &[task_id(), oid.into()],
    )?;
    removed += spi::run(
        "INSERT INTO trem.task_table (task_id, kind, name, table_oid)
         SELECT $1::uuid, 'excluded', $3, $2::oid
         WHERE EXISTS (SELECT FROM trem.task_table
                       WHERE task_id = $1::uuid AND kind = 'pattern' AND schema_name = $4)
         ON CONFLICT DO NOTHING RETURNING id",
        &[task_id(), oid.into(), display.as_str().into(), schema.into()],
    )?;
    if removed == 0 {
        return Err(not_in_task(task, display));
    }
    spi::run(
        "DELETE FROM trem.rule WHERE task_id = $1::uuid AND table_oid = $2::oid",
        &[task_id(), oid.into()],
    )?;
    Ok(())
}

/// Rules of tables that no longer exist.
fn forget_dropped(task: &Task) -> Result<(), Error> {
    spi::run(
        "DELETE FROM trem.rule
         WHERE task_id = $1::uuid AND NOT EXISTS (SELECT FROM pg_class WHERE oid = table_oid)
           AND table_oid IS NOT NULL",
        &[task.task_id.as_str().into()],
    )?;
    Ok(())
}

fn remove_pattern(task: &Task, schema: &str, table_name: &str) -> Result<(), Error> {
    let removed = spi::run(
        "DELETE FROM trem.task_table AS t
         WHERE task_id = $1::uuid
           AND (schema_name = $2
                OR EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n
                               ON n.oid = c.relnamespace
                           WHERE c.oid = t.table_oid AND n.nspname = $2))
         RETURNING id",
        &[task.task_id.as_str().into(), schema.into()],
    )?;
    if removed == 0 {
        return Err(not_in_task(task, table_name.to_owned()));
    }
    spi::run(
        "DELETE FROM trem.rule AS r
         WHERE task_id = $1::uuid
           AND (schema_name = $2
                OR EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n
                               ON n.oid = c.relnamespace
                           WHERE c.oid = r.table_oid AND n.nspname = $2))",
        &[task.task_id.as_str().into(), schema.into()],
    )?;
    Ok(())
}

fn not_in_task(task: &Task, table: String) -> Error {
    Error::invalid(
        format!("table {table} is not in task \"{}\"", task.name),
        format!(
            "SELECT * FROM trem.explain_task('{0}'); lists its tables; SELECT \
             trem.add_table('{0}', '<schema.table>'); adds one.",
            task.name
        ),
    )
}

/// A table that the draft has.
pub(crate) fn of_task(draft: &Draft, oid: u32) -> Result<Table, Error> {
    let table = table::load_one(oid)?;
    if plan::contains(draft, &table) && table.refusal.is_none() {
        Ok(table)
    } else {
        Err(not_in_task(&draft.task, table.display()))
    }
}

/// Whether the draft has any table of the schema.
pub(crate) fn schema_of_task(draft: &Draft, schema: &str) -> Result<(), Error> {
    let by_pattern = draft.items.iter().any(|item| item.schema_name.as_deref() == Some(schema));
    if by_pattern || plan::build(draft)?.shapes.iter().any(|shape| shape.table.schema == schema) {
        Ok(())
    } else {
        Err(not_in_task(&draft.task, format!("{schema}.*")))
    }
}
