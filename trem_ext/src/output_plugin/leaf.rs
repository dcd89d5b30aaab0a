//! One table or partition of a task as it is now, ready to be read: through the same rules and
//! encoders as the stream, so that a copy and the changes that follow it cannot differ.
//!
//! It is opened by OID and locked as a reader locks it, so its owner may not have put anything else
//! in its place; and it is read as that owner, so that nothing of theirs (a domain's check, say)
//! runs with the rights of whoever asked.

use pgrx::datum::DatumWithOid;
use pgrx::{pg_sys, spi, Spi};
use trem_wire::codec::Operation;
use trem_wire::definition::{DefinedLeaf, DefinedTable, Definition};

use super::emit::{Emitter, Output};
use super::error::StreamError;
use super::relation::{Mapping, Source};
use super::rules::Rules;
use super::tuple::{Rows, Target};
use crate::pg::table::{self, Locked};
use crate::pg::{self, PinnedSettings};

pub(super) struct Leaf {
    /// With the leaf's table alone.
    definition: Definition,
    rules: Rules,
    pub(super) mapping: Mapping,
    rows: Rows,
    pub(super) locked: Locked,
    /// For the values of one row.
    scratch: pg_sys::MemoryContext,
}

impl Leaf {
    /// Opens a leaf of the definition. Called by an SQL function, in its memory for several calls.
    pub(super) fn open(definition: &Definition, leaf: u32) -> Result<Leaf, StreamError> {
        let (table, defined) = find(definition, leaf)?;
        let locked = table::lock(leaf).ok_or_else(|| unreadable("it was dropped"))?;
        check(&locked)?;
        let definition =
            Definition { tables: vec![table.clone()], types: Vec::new(), ..definition.clone() };
        let mut settings = PinnedSettings::for_call();
        // SAFETY: in an SQL function there is a transaction and a snapshot; its memory outlives the
        // result; the relation is open until its shape was looked at.
        let opened = unsafe {
            let memory = pg_sys::CurrentMemoryContext;
            let scratch = pg::child_context(memory, c"trem row");
            let rules = Rules::compile(&definition, memory, scratch)?;
            let relation = pg_sys::relation_open(locked.oid, pg_sys::NoLock as i32);
            let source = Source {
                definition: &definition,
                table: 0,
                leaf: Some(defined),
                older: false,
                rules: rules.of(&definition, 0)?,
            };
            let mapping = Mapping::new(&source, relation, memory)?;
            pg_sys::CurrentMemoryContext = memory;
            pg_sys::relation_close(relation, pg_sys::NoLock as i32);
            Leaf { rules, mapping, rows: Rows::of_table(), locked, scratch, definition }
        };
        settings.restore();
        Ok(opened)
    }

    /// Runs what reads rows: as the owner, under the pinned settings.
    pub(super) fn read<T>(
        &mut self,
        work: impl FnOnce(&mut Leaf) -> Result<T, StreamError>,
    ) -> Result<T, StreamError> {
        let mut settings = PinnedSettings::for_call();
        self.rows.evaluator.begin();
        let evaluation = pg::Evaluation::begin(self.locked.owner);
        let result = work(self);
        drop(evaluation);
        self.rows.evaluator.end();
        settings.restore();
        result
    }

    /// One row into the frame: as an insert, as an error row, or not at all (the filter).
    ///
    /// # Safety
    /// The row is one of this leaf, with this descriptor; in [`Leaf::read`].
    pub(super) unsafe fn put(
        &mut self,
        output: &mut Output,
        row: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
    ) -> Result<(), StreamError> {
        self.with_target(descriptor, |rows, target| {
            let mut out = Emitter::new(target.definition, output, std::ptr::null_mut());
            // SAFETY: as promised by the caller.
            unsafe { rows.change(&mut out, target, Operation::Insert, (row, std::ptr::null_mut())) }
        })
    }

    /// The key of a row as the target has it; `None`: it cannot be computed.
    ///
    /// # Safety
    /// As for [`Leaf::put`].
    pub(super) unsafe fn key_of(
        &mut self,
        row: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
    ) -> Result<Option<Vec<u8>>, StreamError> {
        self.with_target(descriptor, |rows, target| {
            // SAFETY: as promised by the caller.
            unsafe { rows.key_of(target, row) }
        })
    }

    pub(super) fn table(&self) -> &DefinedTable {
        &self.definition.tables[0]
    }

    /// Runs what looks at one row, in memory that is given back with the next one.
    fn with_target<T>(
        &mut self,
        descriptor: pg_sys::TupleDesc,
        work: impl FnOnce(&mut Rows, &mut Target<'_>) -> T,
    ) -> T {
        // SAFETY: the context is this leaf's own; the current one is put back.
        unsafe {
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::MemoryContextReset(self.scratch);
            pg_sys::CurrentMemoryContext = self.scratch;
            let mut target = Target {
                definition: &self.definition,
                mapping: &mut self.mapping,
                descriptor,
                rules: self.rules.get(0),
            };
            let result = work(&mut self.rows, &mut target);
            pg_sys::CurrentMemoryContext = before;
            result
        }
    }

    /// What rows are written to.
    pub(super) fn output(&self) -> Result<Output, StreamError> {
        Output::new(&self.definition, trem_wire::compress::Compression::None)
    }
}

fn find(definition: &Definition, leaf: u32) -> Result<(&DefinedTable, &DefinedLeaf), StreamError> {
    let found = definition.tables.iter().find_map(|table| {
        let leaf = table.leaves.iter().find(|defined| defined.oid == leaf)?;
        Some((table, leaf))
    });
    found.ok_or_else(|| StreamError::Internal {
        what: "the relation is not one of the task",
        reason: format!("Task \"{}\" has no relation {leaf}.", definition.task),
    })
}

/// Locks a leaf of the definition, until the transaction ends. Whether its file is the one that the
/// active snapshot shows.
pub(crate) fn lock(definition: &Definition, leaf: u32) -> Result<bool, StreamError> {
    find(definition, leaf)?;
    let locked = table::lock(leaf).ok_or_else(|| unreadable("it was dropped"))?;
    // The column is as of the snapshot, the function is now.
    const SAME: &str =
        "SELECT relfilenode OPERATOR(pg_catalog.=) pg_catalog.pg_relation_filenode(oid)
        FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) $1";
    let same = Spi::connect(|client| {
        let arguments = [DatumWithOid::from(locked.oid)];
        let found = client.select(SAME, Some(1), &arguments)?;
        match found.is_empty() {
            true => Ok(None),
            false => found.first().get_one::<bool>(),
        }
    });
    let same = same.map_err(|error: spi::Error| unreadable(&error.to_string()))?;
    Ok(same == Some(true))
}

/// What is read must be a table, and all of it.
fn check(locked: &Locked) -> Result<(), StreamError> {
    if !locked.has_rows() {
        return Err(unreadable("it is no table any more"));
    }
    if !locked.shows_all_to(locked.owner) || locked.hides_rows_from_owner() {
        return Err(unreadable("its owner may not read all of it"));
    }
    Ok(())
}

pub(super) fn unreadable(reason: &str) -> StreamError {
    StreamError::Internal { what: "the table cannot be read", reason: format!("{reason}.") }
}
