//! `trem.applier_rows`: what a table has, as the stream would bring it. Says nothing of its own;
//! see [`LeafRows`].

// pgrx raises its own report, which is large, from an `Err`: one per statement.
#![allow(clippy::result_large_err)]

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::output_plugin::{published_definition, LeafRows};

/// Reads with the rights of the extension's owner; the definition is given only to who may serve
/// the task, and only its tables are read.
#[pg_extern(volatile, strict, security_definer)]
#[search_path(pg_catalog, trem, pg_temp)]
fn applier_rows(
    task: &str,
    leaf: pg_sys::Oid,
) -> Result<SetOfIterator<'static, Vec<u8>>, ErrorReport> {
    let definition = published_definition(task)?;
    let mut rows = LeafRows::open(definition, leaf.to_u32())?;
    Ok(SetOfIterator::new(std::iter::from_fn(move || match rows.next_frame() {
        Ok(frame) => frame,
        Err(error) => error.raise(),
    })))
}
