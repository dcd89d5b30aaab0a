//! Rows of the WAL become rows of the stream: one call into the server per row (to deform it), no
//! allocation, then one encoder per column.
//!
//! A value that an UPDATE did not touch and that is TOASTed on disk is not in the WAL. If the old
//! row is there and has the value (FULL, or a key column) it is taken from there, because it is the
//! same; else the column is announced as unchanged and its field is NULL.
//!
//! A column that history does not have in the form of the definition (see [`form`](super::form)) is
//! unknown in each of its rows. An insert with such a column is sent as an update, because only an
//! update can say that the applier has to read the row again.
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
    /// Columns that history does not have are NULL, results of rules are until they are put there.
    ///
    /// # Safety
    /// `row` is a row with this descriptor, of `attribute_count` attributes.
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
        self.nulls[relation.mapping.attribute_count..count].fill(true);
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
            older: self.mapping.older,
        }
    }

    fn value_not_in_wal(&self, column: usize) -> StreamError {
        let table = &self.definition.tables[self.mapping.table];
        StreamError::ValueNotInWal {
            task: self.definition.task.clone(),
            table: table_name(table),
            column: table.columns[column].source_name.clone(),
        }
    }

    fn changed(&self, change: String) -> StreamError {
        StreamError::TableChanged {
            task: self.definition.task.clone(),
            table: table_name(&self.definition.tables[self.mapping.table]),
            change,
            older: self.mapping.older,
        }
    }

    /// Rows can be addressed, if nothing else is wrong.
    #[inline]
    fn check_address(&self) -> Result<(), StreamError> {
        match &self.mapping.unaddressable {
            None => Ok(()),
            Some(change) => Err(self.changed(change.clone())),
        }
    }
}

const NO_OLD_KEY: &str = "The old key was not logged.";

/// Buffers that are used for one row after the other.
pub(crate) struct Rows {
    pub(crate) evaluator: Evaluator,
    new: Deformed,
    old: Deformed,
    /// For each column of the relation: not in the WAL.
    unchanged: Vec<bool>,
    /// For each column of the relation: history does not have it in its form, or it is computed
    /// from what is not in the WAL.
    unknown: Vec<bool>,
    /// For each attribute: not in the WAL. Kept for what rules read only.
    missing: Vec<bool>,
    old_key: Vec<u8>,
    new_key: Vec<u8>,
    /// The rows are those of the table as it is: what is stored apart from them can be fetched.
    of_table: bool,
}

impl Rows {
    /// Rows of the WAL.
    pub(crate) fn new() -> Rows {
        Rows {
            of_table: false,
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

    /// Rows of a table, under a snapshot that shows them.
    pub(crate) fn of_table() -> Rows {
        Rows { of_table: true, ..Rows::new() }
    }

    /// Fetches what is stored apart from a row and wanted: of its key, or of all of it.
    ///
    /// # Safety
    /// The new row was taken apart, and is a visible one of the table.
    unsafe fn fetch_large(&mut self, target: &Target<'_>, key_only: bool) {
        let mapping = &*target.mapping;
        let columns =
            mapping.columns.iter().filter(|column| column.toastable && (column.key || !key_only));
        let inputs = mapping.inputs.iter().flat_map(|inputs| inputs.fetched(key_only));
        for attribute in columns.map(|column| column.attribute).chain(inputs) {
            // SAFETY: the attribute is of variable length and the value not NULL. What is fetched
            // lies in the current memory context.
            unsafe {
                if let Some(value) = self.new.get(attribute).filter(|&value| is_on_disk(value)) {
                    let fetched = pg_sys::detoast_external_attr(value.cast_mut_ptr());
                    self.new.values[attribute] = Datum::from(fetched);
                }
            }
        }
    }

    /// The key of a row of the table, as the target has it; `None`: it cannot be computed.
    ///
    /// # Safety
    /// As for [`Rows::insert`].
    pub(crate) unsafe fn key_of(
        &mut self,
        target: &mut Target<'_>,
        row: pg_sys::HeapTuple,
    ) -> Result<Option<Vec<u8>>, StreamError> {
        // SAFETY: as promised by the caller.
        unsafe {
            self.new.fill(row, target);
            self.fetch_large(target, true);
            if let Some(rules) = target.rules {
                if !self.compute_key(target, rules)? {
                    return Ok(None);
                }
            }
            let mut key = Vec::new();
            encode_address(target.mapping, &self.new, &mut key);
            Ok(Some(key))
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
        target.check_address()?;
        if target.mapping.key_lost {
            return Err(target.changed("It has no key any more.".to_owned()));
        }
        // SAFETY: as promised by the caller.
        unsafe {
            self.new.fill(new, target);
            if self.of_table {
                self.fetch_large(target, false);
            }
        }
        if let Some(column) = find_on_disk(target.mapping, &self.new) {
            return Err(target.value_not_in_wal(column));
        }
        if let Some(rules) = target.rules {
            // SAFETY: the new row was taken apart.
            return unsafe { self.insert_ruled(out, target, rules) };
        }
        if target.mapping.lacks_columns {
            self.reset_notes(target);
            // SAFETY: the values are those of the mapping's attributes, and none is on disk.
            return unsafe { self.send_update(out, target, false) };
        }
        let out = out.row(Operation::Insert, target.mapping);
        // SAFETY: as above.
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
        target.check_address()?;
        match target.mapping.old_row {
            OldRow::None => return Err(target.key_not_in_wal(target.mapping.no_old_row)),
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
        self.reset_notes(target);
        self.find_unchanged(target, !old.is_null())?;
        // SAFETY: what is on disk was replaced or set to NULL.
        unsafe { self.send_update(out, target, !old.is_null()) }
    }

    /// # Safety
    /// As for [`Rows::insert`].
    pub(crate) unsafe fn delete(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        old: pg_sys::HeapTuple,
    ) -> Result<(), StreamError> {
        target.check_address()?;
        if target.mapping.old_row == OldRow::None {
            return Err(target.key_not_in_wal(target.mapping.no_old_row));
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

    fn reset_notes(&mut self, target: &Target<'_>) {
        let columns = &target.mapping.columns;
        self.unchanged.clear();
        self.unchanged.resize(columns.len(), false);
        self.unknown.clear();
        self.unknown.extend(columns.iter().map(|column| column.encoder.is_none()));
        self.missing.clear();
        self.missing.resize(target.mapping.attribute_count, false);
    }

    /// Notes which columns of the new row are not in the WAL, after taking from the old row what it
    /// has. Such values are set to NULL, so that nobody follows them.
    fn find_unchanged(&mut self, target: &Target<'_>, has_old: bool) -> Result<(), StreamError> {
        if !target.mapping.toastable {
            return Ok(());
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
                }
            }
        }
        Ok(())
    }

    /// An update; what was noted as unchanged or unknown is NULL in the new row.
    unsafe fn send_update(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        has_old: bool,
    ) -> Result<(), StreamError> {
        // SAFETY: what is on disk was replaced or set to NULL; keys were computed.
        let send_old = has_old && unsafe { self.old_is_needed(target)? };
        let any_unchanged = self.unchanged.contains(&true);
        let any_unknown = self.unknown.contains(&true);
        let out = out.row(Operation::Update, target.mapping);
        let old_row = send_old.then_some(|out: &mut Vec<u8>| append(out, &self.old_key));
        codec::encode_update_row(out, any_unchanged, any_unknown, old_row);
        // SAFETY: as above.
        unsafe { encode_row(target.mapping, &self.new, out) };
        for (any, noted) in [(any_unchanged, &self.unchanged), (any_unknown, &self.unknown)] {
            if any {
                codec::encode_column_set(out, noted.len(), |at| noted[at]);
            }
        }
        Ok(())
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
        match &mut column.encoder {
            // SAFETY: the caller vouches for the values.
            Some(encoder) if !row.nulls[column.attribute] => unsafe {
                encoder.encode(row.values[column.attribute], out);
            },
            _ => encode::null(out),
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
        match (row.get(column.attribute), &mut column.encoder) {
            // SAFETY: the caller vouches for the values.
            (Some(value), Some(encoder)) => unsafe { encoder.encode(value, out) },
            _ => encode::null(out),
        }
    }
}
