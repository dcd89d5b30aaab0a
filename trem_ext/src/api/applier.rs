//! What the applier calls. It has rights on none of TREM's tables: these functions read and write
//! for it, each after it has asked whether the caller may serve the task.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::Value;

use super::report::rows;
use crate::catalog::applier::{self, served};
use crate::error::given;

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn applier_tasks() -> Result<
    TableIterator<
        'static,
        (
            name!(task_id, String),
            name!(name, String),
            name!(mode, String),
            name!(state, String),
            name!(definition_version, Option<i64>),
            name!(options, JsonB),
            name!(target, JsonB),
        ),
    >,
    ErrorReport,
> {
    let tasks = applier::tasks()?;
    Ok(TableIterator::new(tasks.into_iter().map(|task| {
        let (options, target) = (JsonB(task.options), JsonB(task.target));
        let version = task.definition_version;
        (task.task_id, task.name, task.mode, task.state, version, options, target)
    })))
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn applier_endpoint(name: Option<&str>) -> Result<JsonB, ErrorReport> {
    Ok(JsonB(applier::endpoint_of_task(given("name", name)?)?))
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn applier_definition(task: Option<&str>) -> Result<JsonB, ErrorReport> {
    Ok(JsonB(applier::definition(&served(given("task", task)?)?)?))
}

/// Which definition of which task is current: cheap to ask, where the whole may be large.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn applier_version(task: Option<&str>) -> Result<String, ErrorReport> {
    let task = served(given("task", task)?)?;
    Ok(format!("{}:{}", task.task_id, task.definition_version.unwrap_or_default()))
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn applier_report(task: Option<&str>, report: Option<JsonB>) -> Result<(), ErrorReport> {
    let task = served(given("task", task)?)?;
    Ok(applier::report(&task, given("report", report)?)?)
}

/// Idempotent: what was reported before is left as it is.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn applier_exception(task: Option<&str>, exceptions: Option<JsonB>) -> Result<(), ErrorReport> {
    let task = served(given("task", task)?)?;
    Ok(applier::exceptions(&task, given("exceptions", exceptions)?)?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn applier_check(
    task: Option<&str>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(severity, String),
            name!(table_name, Option<String>),
            name!(check_name, String),
            name!(message, String),
            name!(hint, Option<String>),
        ),
    >,
    ErrorReport,
> {
    Ok(rows(applier::problems(served(given("task", task)?)?)?))
}

/// The rows of `applier_status`, which is in SQL (sql/applier.sql), as an array.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn applier_status_rows() -> Result<JsonB, ErrorReport> {
    Ok(JsonB(Value::Array(applier::status()?)))
}
