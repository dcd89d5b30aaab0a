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
use crate::catalog::{items, publish, spi, table};
use crate::error::{given, Error};

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn rename_schema(
    task: Option<&str>,
    table_name: Option<&str>,
    new_schema: Option<&str>,
) -> Result<i64, ErrorReport> {
    let new_schema = given("new_schema", new_schema)?;
    name::check_new("schema", new_schema)?;
    let draft = load(task)?;
    let subject = match name::parse(given("table_name", table_name)?)? {
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
fn rename_table(
    task: Option<&str>,
    table_name: Option<&str>,
    new_name: Option<&str>,
) -> Result<i64, ErrorReport> {
    let new_name = given("new_name", new_name)?;
    name::check_new("table", new_name)?;
    let draft = load(task)?;
    let subject = Subject::Table(one_table(&draft, table_name)?);
    Ok(rename(&draft, RuleKind::RenameTable, &subject, new_name)?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn rename_column(
    task: Option<&str>,
    table_name: Option<&str>,
    column_name: Option<&str>,
    new_name: Option<&str>,
) -> Result<i64, ErrorReport> {
    let new_name = given("new_name", new_name)?;
    name::check_new("column", new_name)?;
    let draft = load(task)?;
    let subject = one_column(&draft, table_name, column_name)?;
    Ok(rename(&draft, RuleKind::RenameColumn, &subject, new_name)?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn exclude_column(
    task: Option<&str>,
    table_name: Option<&str>,
    column_name: Option<&str>,
) -> Result<i64, ErrorReport> {
    let draft = load(task)?;
    let table = one_table(&draft, table_name)?;
    let column_name = given("column_name", column_name)?;
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

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_filter(
    task: Option<&str>,
    table_name: Option<&str>,
    expression: Option<&str>,
) -> Result<Option<i64>, ErrorReport> {
    let draft = load(task)?;
    let table = one_table(&draft, table_name)?;
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
    let draft = load(task)?;
    let table = one_table(&draft, table_name)?;
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
    let draft = load(task)?;
    let subject = one_column(&draft, table_name, column_name)?;
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
    let draft = load(task)?;
    let subject = one_column(&draft, table_name, column_name)?;
    let expression = Some(given_expression(expression)?);
    Ok(propose(draft, Given { kind: RuleKind::SetValue, subject, type_name: None, expression })?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_transformation(id: Option<i64>) -> Result<(), ErrorReport> {
    #[derive(Deserialize)]
    struct Of {
        task: String,
    }
    let id = given("id", id)?;
    let sql = "SELECT t.name AS task FROM trem.rule AS r JOIN trem.task AS t USING (task_id)
               WHERE r.id = $1";
    let Some(Of { task }) = spi::row(sql, &[id.into()])? else {
        Err(Error::Missing {
            what: "transformation",
            name: id.to_string(),
            hint: "SELECT * FROM trem.transformation; lists them.".to_owned(),
        })?
    };
    let task = draft::find_for_change(&task)?;
    spi::run("DELETE FROM trem.rule WHERE id = $1", &[id.into()])?;
    drafted(&task);
    Ok(())
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn make_mask_key(key_name: Option<&str>) -> Result<(), ErrorReport> {
    Ok(publish::make_mask_key(given("key_name", key_name)?)?)
}

fn load(task: Option<&str>) -> Result<Draft, Error> {
    Draft::load(draft::find_for_change(given("task", task)?)?)
}

fn of_task(draft: &Draft, schema: &str, name: &str) -> Result<Table, Error> {
    items::of_task(draft, table::find(schema, name)?)
}

fn one_table(draft: &Draft, table_name: Option<&str>) -> Result<Table, Error> {
    let (schema, name) = name::parse_table(given("table_name", table_name)?)?;
    of_task(draft, &schema, &name)
}

fn one_column(
    draft: &Draft,
    table_name: Option<&str>,
    column_name: Option<&str>,
) -> Result<Subject, Error> {
    let table = one_table(draft, table_name)?;
    let attnum = table.column_named(given("column_name", column_name)?)?.attnum;
    Ok(Subject::Column(table, attnum))
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
