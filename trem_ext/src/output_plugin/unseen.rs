//! A command changed a table in a way that no row in the WAL shows: whether that ends the stream of
//! a definition, and how it is said.
//!
//! Whatever the task's option `ddl` says: it may have a stream ignore that a table looks different,
//! not that rows are missing. A rename alone loses nothing.

use pgrx::spi;
use trem_wire::definition::{Ddl, DefinedTable, Definition};

use super::error::StreamError;
use super::relation::table_name;
use crate::wal_message::Change;

pub(crate) fn of_table(
    definition: &Definition,
    change: Change,
    relation: u32,
    root: u32,
) -> Option<StreamError> {
    let has_leaf = |table: &DefinedTable| table.leaves.iter().any(|leaf| leaf.oid == relation);
    let mut tables = definition.tables.iter();
    let table = match change {
        Change::Attached => tables.find(|table| table.oid == root || has_leaf(table)),
        Change::Renamed | Change::Moved => tables.find(|table| table.oid == relation),
        _ => tables.find(|table| table.oid == relation || has_leaf(table)),
    }?;
    let matters = match change {
        // With a rule of its own it keeps its name on the target.
        Change::Renamed => table.target_name == table.source_name && follows_names(definition),
        Change::Moved => follows_names(definition),
        // Its root is gone as well, or dropped in the same command.
        _ => true,
    };
    let leaf = table.leaves.iter().find(|leaf| leaf.oid == relation && leaf.oid != table.oid);
    matters.then(|| StreamError::ChangedUnseen {
        task: definition.task.clone(),
        table: table_name(table),
        leaf: leaf.map(|leaf| spi::quote_qualified_identifier(&leaf.schema, &leaf.name)),
        change,
    })
}

pub(crate) fn of_schema(definition: &Definition, schema: &str) -> Option<StreamError> {
    let table = definition.tables.iter().find(|table| table.source_schema == schema)?;
    follows_names(definition).then(|| StreamError::ChangedUnseen {
        task: definition.task.clone(),
        table: table_name(table),
        leaf: None,
        change: Change::Moved,
    })
}

fn follows_names(definition: &Definition) -> bool {
    definition.options.ddl != Ddl::Ignore
}
