//! `trem.applier_rows`: what a table has, as the stream would bring it. Says nothing of its own;
//! see [`LeafRows`].

// pgrx raises its own report, which is large, from an `Err`: one per statement.
#![allow(clippy::result_large_err)]

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::given;
use crate::output_plugin::{published_definition, LeafRows};

/// Needs no right of the caller's but to serve the task: the definition is given to nobody else,
/// only its tables are read, and each as its owner. In a list of columns its rows are sent as they
/// come; as a table (FROM) they would be gathered first.
#[pg_extern(volatile)]
#[search_path(pg_catalog, trem, pg_temp)]
fn applier_rows(
    task: Option<&str>,
    leaf: Option<pg_sys::Oid>,
) -> Result<SetOfIterator<'static, Vec<u8>>, ErrorReport> {
    let (task, leaf) = (given("task", task)?, given("leaf", leaf)?);
    let definition = published_definition(task)?;
    let mut rows = LeafRows::open(definition, leaf.to_u32())?;
    Ok(SetOfIterator::new(std::iter::from_fn(move || match rows.next_frame() {
        Ok(frame) => frame,
        Err(error) => error.raise(),
    })))
}
