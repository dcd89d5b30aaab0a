//! Rows of the WAL become rows of the stream: one call into the server per row (to deform it), no
//! allocation, then one encoder per column.
//!
//! A value that an UPDATE did not touch and that is TOASTed on disk is not in the WAL. If the old
//! row is there and has the value (FULL, or a key column) it is taken from there, because it is the
//! same; else the column is announced as unchanged and its field is NULL.
//!
//! A table with rules takes the way of `ruled` instead; the others pay nothing for there being one.

mod change;
mod ruled;

use pgrx::pg_sys::{self, Datum};
use trem_wire::codec::{self, Operation};
use trem_wire::definition::Definition;

use super::emit::Emitter;
use super::encode::{self, append, is_on_disk};
use super::error::StreamError;
use super::frame::empty;
use super::identity::OldRow;
use super::relation::{table_name, Mapping};
use super::rules::TableRules;
use crate::pg::Evaluator;

/// One row, taken apart. The values point into the row; results of rules lie behind them.
#[derive(Default)]
struct Deformed {
    values: Vec<Datum>,
    nulls: Vec<bool>,
}

impl Deformed {
    /// # Safety
    /// `tuple` is a row with this descriptor, of `attribute_count` attributes.
    #[inline]
    unsafe fn fill(&mut self, row: pg_sys::HeapTuple, relation: &Target<'_>) {
        let count = relation.mapping.value_count;
        if self.values.len() < count {
            self.values.resize(count, Datum::null());
            self.nulls.resize(count, true);
        }
        // SAFETY: both arrays have room for all attributes of the descriptor.
        unsafe {
            pg_sys::heap_deform_tuple(
                row,
                relation.descriptor,
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            );
        }
    }

    fn get(&self, attribute: usize) -> Option<Datum> {
        (!self.nulls[attribute]).then(|| self.values[attribute])
    }
}

/// The relation that changes.
pub(crate) struct Target<'a> {
    pub(crate) definition: &'a Definition,
    pub(crate) mapping: &'a mut Mapping,
    /// Has as many attributes as the mapping says.
    pub(crate) descriptor: pg_sys::TupleDesc,
    pub(crate) rules: Option<&'a TableRules>,
}

impl Target<'_> {
    fn key_not_in_wal(&self, reason: &'static str) -> StreamError {
        StreamError::KeyNotInWal {
            task: self.definition.task.clone(),
            table: table_name(&self.definition.tables[self.mapping.table]),
            reason,
        }
    }

    fn value_not_in_wal(&self, column: usize) -> StreamError {
        let table = &self.definition.tables[self.mapping.table];
        StreamError::ValueNotInWal {
            task: self.definition.task.clone(),
            table: table_name(table),
            column: self.mapping.column_name(table, column).to_owned(),
        }
    }

    fn key_lost(&self) -> StreamError {
        StreamError::TableChanged {
            task: self.definition.task.clone(),
            table: table_name(&self.definition.tables[self.mapping.table]),
            change: "It has no key any more.".to_owned(),
        }
    }
}

const NO_IDENTITY: &str = "The table has no replica identity.";
const NO_OLD_KEY: &str = "The old key was not logged.";

/// Buffers that are used for one row after the other.
pub(crate) struct Rows {
    pub(crate) evaluator: Evaluator,
    new: Deformed,
    old: Deformed,
    /// For each column of the relation: not in the WAL.
    unchanged: Vec<bool>,
    /// For each column of the relation: computed from what is not in the WAL.
    unknown: Vec<bool>,
    /// For each attribute: not in the WAL. Kept for what rules read only.
    missing: Vec<bool>,
    old_key: Vec<u8>,
    new_key: Vec<u8>,
}

impl Rows {
    pub(crate) fn new() -> Rows {
        Rows {
            evaluator: Evaluator::new(),
            new: Deformed::default(),
            old: Deformed::default(),
            unchanged: Vec::new(),
            unknown: Vec::new(),
            missing: Vec::new(),
            old_key: Vec::new(),
            new_key: Vec::new(),
        }
    }

    /// # Safety
    /// `new` is a row of the target, and not null; so in the functions below, where `old` may be.
    pub(crate) unsafe fn insert(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        new: pg_sys::HeapTuple,
    ) -> Result<(), StreamError> {
        if target.mapping.key_lost {
            return Err(target.key_lost());
        }
        // SAFETY: as promised by the caller.
        unsafe { self.new.fill(new, target) };
        if let Some(column) = find_on_disk(target.mapping, &self.new) {
            return Err(target.value_not_in_wal(column));
        }
        if let Some(rules) = target.rules {
            // SAFETY: the new row was taken apart.
            return unsafe { self.insert_ruled(out, target, rules) };
        }
        let out = out.row(Operation::Insert, target.mapping);
        // SAFETY: the values are those of the mapping's attributes, and none is on disk.
        unsafe { encode_row(target.mapping, &self.new, out) };
        Ok(())
    }

    /// # Safety
    /// As for [`Rows::insert`].
    pub(crate) unsafe fn update(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        new: pg_sys::HeapTuple,
        old: pg_sys::HeapTuple,
    ) -> Result<(), StreamError> {
        match target.mapping.old_row {
            OldRow::None => return Err(target.key_not_in_wal(NO_IDENTITY)),
            OldRow::Full if old.is_null() => return Err(target.key_not_in_wal(NO_OLD_KEY)),
            OldRow::Full | OldRow::Key => {}
        }
        // SAFETY: as promised by the caller.
        unsafe {
            self.new.fill(new, target);
            if !old.is_null() {
                self.old.fill(old, target);
            }
        }
        if let Some(rules) = target.rules {
            // SAFETY: the rows were taken apart.
            return unsafe { self.update_ruled(out, target, rules, !old.is_null()) };
        }
        let any_unchanged = self.find_unchanged(target, !old.is_null())?;
        // SAFETY: what is on disk was replaced or set to NULL.
        let send_old = !old.is_null() && unsafe { self.old_is_needed(target)? };

        let out = out.row(Operation::Update, target.mapping);
        let old_row = send_old.then_some(|out: &mut Vec<u8>| append(out, &self.old_key));
        codec::encode_update_row(out, any_unchanged, false, old_row);
        // SAFETY: as above.
        unsafe { encode_row(target.mapping, &self.new, out) };
        if any_unchanged {
            codec::encode_column_set(out, self.unchanged.len(), |at| self.unchanged[at]);
        }
        Ok(())
    }

    /// # Safety
    /// As for [`Rows::insert`].
    pub(crate) unsafe fn delete(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        old: pg_sys::HeapTuple,
    ) -> Result<(), StreamError> {
        if target.mapping.old_row == OldRow::None {
            return Err(target.key_not_in_wal(NO_IDENTITY));
        }
        if old.is_null() {
            return Err(target.key_not_in_wal(NO_OLD_KEY));
        }
        // SAFETY: as promised by the caller.
        unsafe { self.old.fill(old, target) };
        if let Some(column) = find_on_disk(target.mapping, &self.old) {
            return Err(target.value_not_in_wal(column));
        }
        if let Some(rules) = target.rules {
            // SAFETY: the old row was taken apart.
            return unsafe { self.delete_ruled(out, target, rules) };
        }
        let out = out.row(Operation::Delete, target.mapping);
        // SAFETY: the values are those of the mapping's attributes, and none is on disk.
        unsafe { encode_address(target.mapping, &self.old, out) };
        Ok(())
    }

    /// Notes which columns of the new row are not in the WAL, after taking from the old row what it
    /// has. Such values are set to NULL, so that nobody follows them.
    fn find_unchanged(&mut self, target: &Target<'_>, has_old: bool) -> Result<bool, StreamError> {
        let mut any = false;
        self.unchanged.clear();
        self.unchanged.resize(target.mapping.columns.len(), false);
        if !target.mapping.toastable {
            return Ok(false);
        }
        for (at, column) in target.mapping.columns.iter().enumerate() {
            let attribute = column.attribute;
            // SAFETY: the attribute is of variable length and the value not NULL.
            let on_disk = |value: Datum| unsafe { is_on_disk(value) };
            if !column.toastable || !self.new.get(attribute).is_some_and(on_disk) {
                continue;
            }
            match self.old.get_if(has_old, attribute).filter(|&value| !on_disk(value)) {
                Some(value) => self.new.values[attribute] = value,
                None if column.key => return Err(target.key_not_in_wal(NO_OLD_KEY)),
                None => {
                    self.new.nulls[attribute] = true;
                    self.unchanged[at] = true;
                    any = true;
                }
            }
        }
        Ok(any)
    }

    /// Encodes the old key and tells whether it differs from the new one; without a key the whole
    /// old row, always needed.
    unsafe fn old_is_needed(&mut self, target: &mut Target<'_>) -> Result<bool, StreamError> {
        if let Some(column) = find_on_disk(target.mapping, &self.old) {
            return Err(target.value_not_in_wal(column));
        }
        empty(&mut self.old_key);
        // SAFETY: the values are those of the mapping's attributes, and none is on disk.
        unsafe { encode_address(target.mapping, &self.old, &mut self.old_key) };
        if target.mapping.key_count == 0 {
            return Ok(true);
        }
        empty(&mut self.new_key);
        // SAFETY: as above.
        unsafe { encode_address(target.mapping, &self.new, &mut self.new_key) };
        Ok(self.old_key != self.new_key)
    }
}

impl Deformed {
    fn get_if(&self, there: bool, attribute: usize) -> Option<Datum> {
        if there {
            self.get(attribute)
        } else {
            None
        }
    }
}

/// The first column whose value is only a pointer to disk.
#[inline]
fn find_on_disk(mapping: &Mapping, row: &Deformed) -> Option<usize> {
    if !mapping.toastable {
        return None;
    }
    mapping.columns.iter().position(|column| {
        // SAFETY: the attribute is of variable length and the value not NULL.
        column.toastable
            && row.get(column.attribute).is_some_and(|value| unsafe { is_on_disk(value) })
    })
}

/// All columns of a row.
#[inline]
unsafe fn encode_row(mapping: &mut Mapping, row: &Deformed, out: &mut Vec<u8>) {
    out.extend_from_slice(&(mapping.columns.len() as u16).to_be_bytes());
    for column in &mut mapping.columns {
        if row.nulls[column.attribute] {
            encode::null(out);
        } else {
            // SAFETY: the caller vouches for the values.
            unsafe { column.encoder.encode(row.values[column.attribute], out) };
        }
    }
}

/// What addresses a row: its key columns, or all columns where there is no key.
unsafe fn encode_address(mapping: &mut Mapping, row: &Deformed, out: &mut Vec<u8>) {
    if mapping.key_count == 0 {
        // SAFETY: the caller vouches for the values.
        return unsafe { encode_row(mapping, row, out) };
    }
    out.extend_from_slice(&(mapping.key_count as u16).to_be_bytes());
    for column in mapping.columns.iter_mut().filter(|column| column.key) {
        match row.get(column.attribute) {
            None => encode::null(out),
            // SAFETY: the caller vouches for the values.
            Some(value) => unsafe { column.encoder.encode(value, out) },
        }
    }
}
