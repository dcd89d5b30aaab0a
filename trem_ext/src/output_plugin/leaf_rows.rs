//! The rows of a table or partition, for a copy: frames of a relation, inserts and error rows.
//!
//! The table is scanned by its OID under the snapshot of the caller, a frame at a time
//! ([`table_scan`]): nothing is planned and nothing spooled, and between two frames nothing is held
//! but the lock.

use pgrx::pg_sys;
use trem_wire::definition::Definition;

use super::emit::Output;
use super::error::StreamError;
use super::leaf::Leaf;
use crate::pg;
use crate::pg::table_scan::{self, FewBuffers, Place};

pub(crate) struct LeafRows {
    leaf: Leaf,
    output: Output,
    buffers: FewBuffers,
    /// `None`: at the end.
    next: Option<Place>,
    /// The block before which to end.
    end: Option<u32>,
}

impl LeafRows {
    /// Opens the rows of `leaf` in the blocks from `first` to before `end`. Called by an SQL
    /// function, in its memory for several calls.
    pub(crate) fn open(
        definition: &Definition,
        leaf: u32,
        (first, end): (u32, Option<u32>),
    ) -> Result<LeafRows, StreamError> {
        pg::forget_shortage();
        let leaf = Leaf::open(definition, leaf)?;
        Ok(LeafRows {
            output: leaf.output()?,
            leaf,
            buffers: FewBuffers::new(),
            next: (end != Some(0)).then(|| Place::of_block(first)),
            end,
        })
    }

    /// The next frame; `None` after the last one. Called in the statement that opened the rows.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Vec<u8>>, StreamError> {
        let LeafRows { leaf, output, buffers, next, end } = self;
        if let Some(from) = *next {
            // SAFETY: the relation is locked, and open meanwhile; a statement has a snapshot.
            *next = leaf.read(|leaf| unsafe {
                let no_lock = pg_sys::NoLock as i32;
                let relation = pg_sys::relation_open(leaf.locked.oid, no_lock);
                let descriptor = (*relation).rd_att;
                let next = table_scan::scan(relation, buffers, (from, *end), |row| {
                    leaf.put(output, row, descriptor)?;
                    Ok(output.frame.is_full())
                });
                pg_sys::relation_close(relation, no_lock);
                next
            })?;
        }
        pg::check_memory();
        match output.frame.is_empty() {
            true => Ok(None),
            false => output.frame.take().map(Some),
        }
    }
}
