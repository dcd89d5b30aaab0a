//! Rules: each function checks its rule against the table at once, drafts it and returns its id.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde::Deserialize;
use serde_json::json;

use super::task::drafted;
use crate::catalog::draft::{self, Draft, RuleKind};
use crate::catalog::name::{self, TableName};
use crate::catalog::table::Table;
use crate::catalog::{items, spi, table};
use crate::error::Error;

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn rename_schema(task: &str, table_name: &str, new_schema: &str) -> Result<i64, ErrorReport> {
    name::check_new("schema", new_schema)?;
    let draft = load(task)?;
    let subject = match name::parse(table_name)? {
        TableName::Table { schema, name } => Subject::Table(of_task(&draft, &schema, &name)?),
        TableName::Pattern { schema } => {
            items::schema_of_task(&draft, &schema)?;
            Subject::Schema(schema)
        }
    };
    Ok(set(&draft, RuleKind::RenameSchema, subject, Some(new_schema))?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn rename_table(task: &str, table_name: &str, new_name: &str) -> Result<i64, ErrorReport> {
    name::check_new("table", new_name)?;
    let draft = load(task)?;
    let table = one_table(&draft, table_name)?;
    Ok(set(&draft, RuleKind::RenameTable, Subject::Table(table), Some(new_name))?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn rename_column(
    task: &str,
    table_name: &str,
    column_name: &str,
    new_name: &str,
) -> Result<i64, ErrorReport> {
    name::check_new("column", new_name)?;
    let draft = load(task)?;
    let table = one_table(&draft, table_name)?;
    let column = table.column_named(column_name)?.attnum;
    Ok(set(&draft, RuleKind::RenameColumn, Subject::Column(table, column), Some(new_name))?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn exclude_column(task: &str, table_name: &str, column_name: &str) -> Result<i64, ErrorReport> {
    let draft = load(task)?;
    let table = one_table(&draft, table_name)?;
    let column = table.column_named(column_name)?.attnum;
    if table.is_key(column) {
        Err(Error::invalid(
            format!("column \"{column_name}\" is part of the key of {}", table.display()),
            "Without it changes would not find their rows; a key column cannot be left out.",
        ))?;
    }
    Ok(set(&draft, RuleKind::ExcludeColumn, Subject::Column(table, column), None)?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_transformation(id: i64) -> Result<(), ErrorReport> {
    #[derive(Deserialize)]
    struct Dropped {
        task: String,
    }
    let sql = "DELETE FROM trem.rule AS r USING trem.task AS t
               WHERE r.id = $1 AND t.task_id = r.task_id RETURNING t.name AS task";
    let dropped: Option<Dropped> = spi::row(sql, &[id.into()])?;
    let Some(dropped) = dropped else {
        Err(Error::Missing {
            what: "transformation",
            name: id.to_string(),
            hint: "SELECT * FROM trem.transformation; lists them.".to_owned(),
        })?
    };
    drafted(&draft::find(&dropped.task)?);
    Ok(())
}

/// What a rule is about.
enum Subject {
    Schema(String),
    Table(Table),
    Column(Table, i16),
}

fn load(task: &str) -> Result<Draft, Error> {
    Draft::load(draft::find_for_change(task)?)
}

fn of_task(draft: &Draft, schema: &str, name: &str) -> Result<Table, Error> {
    items::of_task(draft, table::find(schema, name)?)
}

fn one_table(draft: &Draft, table_name: &str) -> Result<Table, Error> {
    let (schema, name) = name::parse_table(table_name)?;
    of_task(draft, &schema, &name)
}

/// Drafts a rule. One of the same kind about the same subject gives way.
fn set(
    draft: &Draft,
    kind: RuleKind,
    subject: Subject,
    new_name: Option<&str>,
) -> Result<i64, Error> {
    #[derive(Deserialize)]
    struct Made {
        id: i64,
    }
    let (schema, table, attnum) = match &subject {
        Subject::Schema(schema) => (Some(schema.as_str()), None, None),
        Subject::Table(table) => (None, Some(table), None),
        Subject::Column(table, attnum) => (None, Some(table), Some(*attnum)),
    };
    let column = attnum.and_then(|attnum| table?.column(attnum)).map(|column| column.name.as_str());
    let display = match (table, schema) {
        (Some(table), _) => table.display(),
        (None, schema) => format!("{}.*", schema.unwrap_or_default()),
    };
    let oid = table.map(|table| i64::from(table.oid));
    let task_id = draft.task.task_id.as_str();
    spi::run(
        "DELETE FROM trem.rule
         WHERE task_id = $1::uuid AND kind = $2 AND table_oid::oid IS NOT DISTINCT FROM $3::oid
           AND schema_name IS NOT DISTINCT FROM $4 AND attnum IS NOT DISTINCT FROM $5",
        &[task_id.into(), kind.as_str().into(), oid.into(), schema.into(), attnum.into()],
    )?;
    let arguments = match new_name {
        Some(new_name) => json!({ "new_name": new_name }),
        None => json!({}),
    };
    let made: Option<Made> = spi::row(
        "INSERT INTO trem.rule
             (task_id, kind, table_oid, schema_name, attnum, table_name, column_name, arguments)
         VALUES ($1::uuid, $2, $3::oid, $4, $5, $6, $7, $8) RETURNING id",
        &[
            task_id.into(),
            kind.as_str().into(),
            oid.into(),
            schema.into(),
            attnum.into(),
            display.into(),
            column.into(),
            JsonB(arguments).into(),
        ],
    )?;
    drafted(&draft.task);
    made.map(|made| made.id).ok_or_else(|| Error::Catalog("the rule has no id".to_owned()))
}
