//! Rules: each function checks its rule against the table at once, drafts it and returns its id.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::task::drafted;
use crate::catalog::draft::{self, Draft, RuleKind};
use crate::catalog::name::{self, TableName};
use crate::catalog::rule::{self, Given, Subject};
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
    Ok(rename(&draft, RuleKind::RenameSchema, &subject, new_schema)?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn rename_table(task: &str, table_name: &str, new_name: &str) -> Result<i64, ErrorReport> {
    name::check_new("table", new_name)?;
    let draft = load(task)?;
    let subject = Subject::Table(one_table(&draft, table_name)?);
    Ok(rename(&draft, RuleKind::RenameTable, &subject, new_name)?)
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
    let subject = one_column(&draft, table_name, column_name)?;
    Ok(rename(&draft, RuleKind::RenameColumn, &subject, new_name)?)
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
    let subject = Subject::Column(table, column);
    rule::check_exclusion(&draft, &subject)?;
    let id = rule::store(&draft, RuleKind::ExcludeColumn, &subject, json!({}))?;
    drafted(&draft.task);
    Ok(id)
}

// The functions below take nulls, because one that did nothing at a null would leave a column bare
// whose mask somebody believes to have set.

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_filter(
    task: Option<&str>,
    table_name: Option<&str>,
    expression: Option<&str>,
) -> Result<Option<i64>, ErrorReport> {
    let draft = load(given("task", task)?)?;
    let table = one_table(&draft, given("table_name", table_name)?)?;
    if expression.is_none() {
        if rule::remove_filter(&draft, &table)? {
            drafted(&draft.task);
        } else {
            notice!("table {} has no filter", table.display());
        }
        return Ok(None);
    }
    let subject = Subject::Table(table);
    let kind = RuleKind::SetFilter;
    Ok(Some(propose(draft, Given { kind, subject, type_name: None, expression })?))
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn add_column(
    task: Option<&str>,
    table_name: Option<&str>,
    column_name: Option<&str>,
    column_type: Option<&str>,
    expression: Option<&str>,
) -> Result<i64, ErrorReport> {
    let draft = load(given("task", task)?)?;
    let table = one_table(&draft, given("table_name", table_name)?)?;
    let subject = Subject::NewColumn(table, given("column_name", column_name)?.to_owned());
    let type_name = Some(given("column_type", column_type)?);
    let expression = Some(given_expression(expression)?);
    Ok(propose(draft, Given { kind: RuleKind::AddColumn, subject, type_name, expression })?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn change_type(
    task: Option<&str>,
    table_name: Option<&str>,
    column_name: Option<&str>,
    new_type: Option<&str>,
    using_expression: default!(Option<&str>, "NULL"),
) -> Result<i64, ErrorReport> {
    let draft = load(given("task", task)?)?;
    let table_name = given("table_name", table_name)?;
    let subject = one_column(&draft, table_name, given("column_name", column_name)?)?;
    let type_name = Some(given("new_type", new_type)?);
    let (kind, expression) = (RuleKind::ChangeType, using_expression);
    Ok(propose(draft, Given { kind, subject, type_name, expression })?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_value(
    task: Option<&str>,
    table_name: Option<&str>,
    column_name: Option<&str>,
    expression: Option<&str>,
) -> Result<i64, ErrorReport> {
    let draft = load(given("task", task)?)?;
    let table_name = given("table_name", table_name)?;
    let subject = one_column(&draft, table_name, given("column_name", column_name)?)?;
    let expression = Some(given_expression(expression)?);
    Ok(propose(draft, Given { kind: RuleKind::SetValue, subject, type_name: None, expression })?)
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
    let dropped: Option<Dropped> = spi::returned(sql, &[id.into()])?;
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

fn one_column(draft: &Draft, table_name: &str, column_name: &str) -> Result<Subject, Error> {
    let table = one_table(draft, table_name)?;
    let attnum = table.column_named(column_name)?.attnum;
    Ok(Subject::Column(table, attnum))
}

fn given<'a>(argument: &str, value: Option<&'a str>) -> Result<&'a str, Error> {
    value.ok_or_else(|| Error::invalid(format!("{argument} is null"), ""))
}

fn given_expression(expression: Option<&str>) -> Result<&str, Error> {
    expression.ok_or_else(|| {
        Error::invalid("expression is null", "To make the column null, write 'NULL' as a text.")
    })
}

fn rename(draft: &Draft, kind: RuleKind, subject: &Subject, new_name: &str) -> Result<i64, Error> {
    let id = rule::store(draft, kind, subject, json!({ "new_name": new_name }))?;
    drafted(&draft.task);
    Ok(id)
}

fn propose(draft: Draft, given: Given<'_>) -> Result<i64, Error> {
    let id = rule::propose(&draft, given)?;
    drafted(&draft.task);
    Ok(id)
}
