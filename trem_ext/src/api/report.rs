//! What a task would do and what is in its way: check_task, explain_task, preview.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::draft::{self, Draft};
use crate::catalog::problem::Problem;
use crate::catalog::statement::{self, IndexNames};
use crate::catalog::{check, options, plan, preview};
use crate::error::given;

pub(super) type Checked = TableIterator<
    'static,
    (
        name!(severity, String),
        name!(table_name, Option<String>),
        name!(check_name, String),
        name!(message, String),
        name!(hint, Option<String>),
    ),
>;

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn check_task(
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
    let draft = Draft::load(draft::find(given("task", task)?)?)?;
    let mut plan = plan::build(&draft)?;
    Ok(rows(check::all(&draft, &mut plan)?))
}

pub(super) fn rows(problems: Vec<Problem>) -> Checked {
    TableIterator::new(problems.into_iter().map(|problem| {
        (
            problem.severity.as_str().to_owned(),
            problem.table,
            problem.check.to_owned(),
            problem.message,
            (!problem.hint.is_empty()).then_some(problem.hint),
        )
    }))
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn explain_task(
    task: Option<&str>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(source_table, String),
            name!(target_table, String),
            name!(select_statement, String),
            name!(create_statements, Vec<String>),
            name!(not_carried_over, Vec<String>),
        ),
    >,
    ErrorReport,
> {
    let draft = Draft::load(draft::find(given("task", task)?)?)?;
    let plan = plan::build(&draft)?;
    let options = options::effective(&draft.task.options, false)?;
    let names = IndexNames::new(&plan.shapes);
    let explained: Vec<_> = plan
        .shapes
        .iter()
        .map(|shape| {
            let types = plan.types.defined(shape.types()).into_iter().map(|of| of.create_statement);
            let indexes = statement::indexes(shape, options.indexes, &names);
            let create_indexes = indexes.statements.into_iter().map(|index| index.create_statement);
            let create = types.chain([statement::create_table(shape)]).chain(create_indexes);
            let mut left_out = shape.table.not_carried.clone();
            left_out.extend(indexes.left_out);
            (
                shape.table.display(),
                shape.target_display(),
                shape.select(),
                create.collect::<Vec<_>>(),
                left_out,
            )
        })
        .collect();
    Ok(TableIterator::new(explained))
}

/// The rows of `preview`, as texts: one that passed through here as JSON would lose digits of its
/// numbers.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
fn preview_rows(
    task: Option<&str>,
    table_name: Option<&str>,
    row_count: Option<i64>,
) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    let draft = Draft::load(draft::find(given("task", task)?)?)?;
    let table_name = given("table_name", table_name)?;
    let rows = preview::rows(&draft, table_name, given("row_count", row_count)?)?;
    Ok(SetOfIterator::new(rows))
}
