//! What an applier reads of the tables themselves: `trem.applier_rows` for a copy,
//! `trem.applier_reread` for single rows. Both give frames as the stream has them, and both need no
//! right of the caller's but to serve the task: only its tables are read, and each as its owner.
//!
//! They stream only in a list of columns; as a table (FROM) their rows would be gathered first.

// pgrx raises its own report, which is large, from an `Err`: one per statement.
#![allow(clippy::result_large_err)]

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::{given, Error};
use crate::output_plugin::{lock_leaf, published_definition, KeyedRows, LeafRows};

/// Locks a leaf as a reader does, until the transaction ends. False: TRUNCATE, VACUUM FULL, CLUSTER
/// or ALTER TABLE gave it a new file since the transaction's snapshot was taken, which does not
/// show the rows in it.
#[pg_extern(volatile)]
#[search_path(pg_catalog, trem, pg_temp)]
fn applier_lock(
    task: Option<&str>,
    definition_version: Option<i64>,
    leaf: Option<pg_sys::Oid>,
) -> Result<bool, ErrorReport> {
    let (task, leaf) = (given("task", task)?, given("leaf", leaf)?);
    let version = given("definition_version", definition_version)?;
    let definition = published_definition(task, version)?;
    Ok(lock_leaf(&definition, leaf.to_u32())?)
}

/// The rows of a leaf, or of its blocks from `first_block` to before `end_block`.
#[pg_extern(volatile)]
#[search_path(pg_catalog, trem, pg_temp)]
fn applier_rows(
    task: Option<&str>,
    definition_version: Option<i64>,
    leaf: Option<pg_sys::Oid>,
    first_block: default!(Option<i64>, "0"),
    end_block: default!(Option<i64>, "NULL"),
) -> Result<SetOfIterator<'static, Vec<u8>>, ErrorReport> {
    let (task, leaf) = (given("task", task)?, given("leaf", leaf)?);
    let version = given("definition_version", definition_version)?;
    let first = block("first_block", given("first_block", first_block)?)?;
    let end = end_block.map(|end| block("end_block", end)).transpose()?;
    let definition = published_definition(task, version)?;
    let mut rows = LeafRows::open(&definition, leaf.to_u32(), (first, end))?;
    Ok(SetOfIterator::new(std::iter::from_fn(move || match rows.next_frame() {
        Ok(frame) => frame,
        Err(error) => error.raise(),
    })))
}

fn block(argument: &str, number: i64) -> Result<u32, Error> {
    u32::try_from(number)
        .map_err(|_| Error::invalid(format!("{argument} is not the number of a block"), ""))
}

/// The rows of these keys, in their order; NULL for a key that has none.
#[pg_extern(volatile)]
#[search_path(pg_catalog, trem, pg_temp)]
fn applier_reread(
    task: Option<&str>,
    definition_version: Option<i64>,
    table_oid: Option<pg_sys::Oid>,
    keys: Option<Array<'_, &[u8]>>,
) -> Result<SetOfIterator<'static, Option<Vec<u8>>>, ErrorReport> {
    let (task, table) = (given("task", task)?, given("table_oid", table_oid)?);
    let version = given("definition_version", definition_version)?;
    let keys = given("keys", keys)?;
    let keys: Vec<_> =
        keys.iter().map(|key| given("a key", key.map(<[u8]>::to_vec))).collect::<Result<_, _>>()?;
    let definition = published_definition(task, version)?;
    let mut rows = KeyedRows::open(&definition, table.to_u32(), keys)?;
    Ok(SetOfIterator::new(std::iter::from_fn(move || match rows.next_frame() {
        Ok(frame) => frame,
        Err(error) => error.raise(),
    })))
}
