//! `trem.applier_summary`: what a table comes to, for a comparison with the target: its number of
//! rows and a sum of hashes over them as the rules make them. Each partition is read as its owner.

// pgrx raises its own report, which is large, from an `Err`: one per statement.
#![allow(clippy::result_large_err)]

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use trem_wire::definition::{DefinedLeaf, DefinedTable};

use crate::catalog::name::{display, quoted};
use crate::error::{given, Error};
use crate::output_plugin::published_definition;
use crate::pg::table::{self, Locked};
use crate::pg::{self, PinnedSettings};

/// A line for each partition; the hashes are to be added up.
#[pg_extern(volatile)]
#[search_path(pg_catalog, trem, pg_temp)]
fn applier_summary(
    task: Option<&str>,
    definition_version: Option<i64>,
    table_oid: Option<pg_sys::Oid>,
) -> Result<TableIterator<'static, (name!(row_count, i64), name!(hash, AnyNumeric))>, ErrorReport> {
    let (task, oid) = (given("task", task)?, given("table_oid", table_oid)?);
    let version = given("definition_version", definition_version)?;
    let definition = published_definition(task, version)?;
    let table = definition.tables.iter().find(|table| table.oid == oid.to_u32());
    let table = table.ok_or_else(|| Error::invalid("the table is not one of the task", ""))?;
    let lines = table.leaves.iter().map(|leaf| summary(table, leaf));
    Ok(TableIterator::new(lines.collect::<Result<Vec<_>, Error>>()?))
}

fn summary(table: &DefinedTable, leaf: &DefinedLeaf) -> Result<(i64, AnyNumeric), Error> {
    let unreadable = || {
        let name = display(&table.source_schema, &table.source_name);
        let hint = "trem.check_task says more.";
        Error::invalid(format!("{name} or a partition of it is no table any more"), hint)
    };
    let locked = table::lock(leaf.oid).filter(Locked::has_rows).ok_or_else(unreadable)?;
    let sql = statement(table, leaf, &locked).ok_or_else(unreadable)?;
    let found = pg::as_role(locked.owner, || {
        let mut settings = PinnedSettings::for_expressions();
        let found = Spi::get_two::<i64, AnyNumeric>(&sql);
        settings.restore();
        found
    });
    match found? {
        (Some(rows), Some(hash)) => Ok((rows, hash)),
        _ => Err(unreadable()),
    }
}

/// Expressions know the table and its columns by the names of the publish.
fn statement(table: &DefinedTable, leaf: &DefinedLeaf, locked: &Locked) -> Option<String> {
    let now = |attnum: i16| pg::column_name(locked.oid, leaf.attnum(attnum));
    let passed = table.columns.iter().filter(|column| column.expression.is_none());
    let passed = passed.map(|column| (column.attnum, column.source_name.as_str()));
    let inputs = table.inputs.iter().map(|input| (input.attnum, input.name.as_str()));
    let mut read: Vec<(i16, &str)> = passed.chain(inputs).collect();
    read.sort_unstable();
    read.dedup();
    let read = read
        .into_iter()
        .map(|(attnum, then)| Some(format!("{} AS {}", quoted(&now(attnum)?), quoted(then))));
    let read = read.collect::<Option<Vec<_>>>()?.join(", ");
    let columns = table.columns.iter().map(|column| match &column.expression {
        Some(expression) => expression.sql.clone(),
        None => quoted(&column.source_name),
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    let filter = table.filter.as_ref().map_or("true", |filter| &filter.sql);
    Some(format!(
        "SELECT count(*),
                coalesce(sum(hashtextextended(ROW({columns})::text, 0)::numeric), 0)
         FROM (SELECT {read} FROM ONLY {}.{}) AS {} WHERE {filter}",
        quoted(&locked.schema),
        quoted(&locked.name),
        quoted(&table.source_name),
    ))
}
