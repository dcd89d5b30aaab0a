//! Changes of one group, netted by key: what is left to do for each row when the order between rows
//! does not matter. No I/O, no clock; bytes in, bytes out.
//!
//! # When it may be used
//! For a table with a key whose rows do not depend on each other: no second unique or exclusion
//! constraint on the target, no trigger or foreign key that fires while we apply. Everything else
//! is applied in source order. Before the group's first change the target holds exactly what the
//! source held (the table's window is closed and it is not ahead of the stream).
//!
//! # States of a key
//! ```text
//!              insert        update, whole      update, part           delete
//! (nothing)    Insert(row)   Update(row)        Update(part)           Delete
//! Insert       refused       Insert(row)        Insert(merged)         (nothing)
//! Update       refused       Update(row)        Update(merged)         Delete
//! Delete       Replace(row)  refused            refused                refused
//! Replace      refused       Replace(row)       Replace(merged)        Delete
//! ```
//! `Insert`: the target has no such row. `Update`: it has, and these columns change. `Replace`: it
//! has, and gets all columns. *Refused* means that the stream and the group's start disagree; the
//! caller applies the group in order, where the target says what is wrong.
//!
//! An update that moves the key is a delete of the old key and an insert of the whole row under the
//! new one. When some of its columns are not in the WAL the row cannot be made whole here unless this
//! group made it: the caller is told to carry out what is netted so far, then this one change alone.

use std::collections::hash_map::Entry;
use std::collections::HashMap;

use bytes::Bytes;
use trem_wire::message::{Relation, Run, UpdatedRow};
use trem_wire::row::{Row, RowWriter};

/// What is left to do for one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Net {
    Insert(Bytes),
    Replace(Bytes),
    /// The row, and which of its columns are in it: `present[at]`. All of them: `None`.
    Update(Bytes, Option<Box<[bool]>>),
    Delete,
}

/// What the caller must do about a change that was not taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Carry out what is netted, then this change by itself.
    Alone,
    /// The group does not follow from what the target had: apply it in order.
    Contradiction,
}

/// The netted changes of one table.
#[derive(Debug, Default)]
pub struct Table {
    rows: HashMap<Bytes, Net>,
    bytes: usize,
}

impl Table {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// About how much memory the rows take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Everything that is left to do, in no particular order.
    pub fn take(&mut self) -> HashMap<Bytes, Net> {
        self.bytes = 0;
        std::mem::take(&mut self.rows)
    }

    pub fn insert(&mut self, key: Bytes, row: Bytes) -> Result<(), Refusal> {
        self.bytes += key.len() + row.len();
        match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Net::Insert(row));
                Ok(())
            }
            Entry::Occupied(mut entry) => match entry.get() {
                Net::Delete => {
                    entry.insert(Net::Replace(row));
                    Ok(())
                }
                Net::Insert(_) | Net::Replace(_) | Net::Update(..) => Err(Refusal::Contradiction),
            },
        }
    }

    pub fn delete(&mut self, key: Bytes) -> Result<(), Refusal> {
        self.bytes += key.len();
        match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Net::Delete);
                Ok(())
            }
            Entry::Occupied(mut entry) => match entry.get() {
                Net::Insert(_) => {
                    entry.remove();
                    Ok(())
                }
                Net::Update(..) | Net::Replace(_) => {
                    entry.insert(Net::Delete);
                    Ok(())
                }
                Net::Delete => Err(Refusal::Contradiction),
            },
        }
    }

    /// A row under the key it had. `present`: which columns the change brings; `None`: all.
    pub fn update(
        &mut self,
        key: Bytes,
        row: Bytes,
        present: Option<Box<[bool]>>,
    ) -> Result<(), Refusal> {
        self.bytes += key.len() + row.len();
        let mut entry = match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Net::Update(row, present));
                return Ok(());
            }
            Entry::Occupied(entry) => entry,
        };
        let next = match (entry.get(), present) {
            (Net::Delete, _) => return Err(Refusal::Contradiction),
            (Net::Insert(_), None) => Net::Insert(row),
            (Net::Replace(_), None) => Net::Replace(row),
            (Net::Update(..), None) => Net::Update(row, None),
            (Net::Insert(before), Some(present)) => Net::Insert(merge(before, &row, &present)),
            (Net::Replace(before), Some(present)) => Net::Replace(merge(before, &row, &present)),
            (Net::Update(before, had), Some(present)) => {
                let merged = merge(before, &row, &present);
                let both = had
                    .as_ref()
                    .map(|had| had.iter().zip(&present).map(|(had, has)| *had || *has).collect());
                Net::Update(merged, both)
            }
        };
        entry.insert(next);
        Ok(())
    }

    /// A row whose key changed. Under the old key nothing is left.
    pub fn update_key(
        &mut self,
        old: Bytes,
        new: Bytes,
        row: Bytes,
        present: Option<Box<[bool]>>,
    ) -> Result<(), Refusal> {
        let whole = match (present, self.rows.get(&old)) {
            (None, _) => row,
            (Some(present), Some(Net::Insert(before) | Net::Replace(before))) => {
                merge(before, &row, &present)
            }
            (Some(_), _) => return Err(Refusal::Alone),
        };
        self.delete(old)?;
        self.insert(new, whole)
    }
}

/// `row` where `present`, `before` elsewhere.
fn merge(before: &Bytes, row: &Bytes, present: &[bool]) -> Bytes {
    let rows = (Row::decode(before), Row::decode(row));
    let (Ok(before), Ok(row)) = rows else {
        unreachable!("rows were checked when they were decoded")
    };
    let mut merged = Vec::with_capacity(before.as_bytes().len().max(row.as_bytes().len()));
    let count = i16::try_from(present.len()).expect("a table has at most 1,600 columns");
    let mut writer = RowWriter::new(&mut merged, count);
    for ((before, row), present) in before.fields().zip(row.fields()).zip(present) {
        match if *present { row } else { before } {
            Some(field) => writer.field(field),
            None => writer.null(),
        }
    }
    merged.into()
}

/// The key columns of a whole row, as a row of their own: what a netted row is found by.
pub fn key_of(relation: &Relation, row: Row<'_>) -> Bytes {
    let columns = relation.columns.iter().zip(row.fields());
    let key: Vec<_> = columns.filter(|(column, _)| column.key).map(|(_, field)| field).collect();
    let mut bytes = Vec::with_capacity(16 * key.len());
    let count = i16::try_from(key.len()).expect("a table has at most 1,600 columns");
    let mut writer = RowWriter::new(&mut bytes, count);
    for field in key {
        match field {
            Some(field) => writer.field(field),
            None => writer.null(),
        }
    }
    bytes.into()
}

/// Takes a run of updates in, up to the first that is refused: its number in the run, and why.
pub fn update_run(
    table: &mut Table,
    relation: &Relation,
    run: &Run,
) -> Result<(), (usize, Refusal)> {
    for (at, row) in run.updated_rows().enumerate() {
        take_update(table, relation, run, row).map_err(|refusal| (at, refusal))?;
    }
    Ok(())
}

fn take_update(
    table: &mut Table,
    relation: &Relation,
    run: &Run,
    row: UpdatedRow<'_>,
) -> Result<(), Refusal> {
    if !row.unknown.is_empty() {
        return Err(Refusal::Alone);
    }
    let present = match row.unchanged.is_empty() {
        true => None,
        false => Some((0..relation.columns.len()).map(|at| !row.unchanged.contains(at)).collect()),
    };
    let key = key_of(relation, row.new);
    let new = run.rows.slice_ref(row.new.as_bytes());
    match row.old {
        None => table.update(key, new, present),
        Some(old) => table.update_key(run.rows.slice_ref(old.as_bytes()), key, new, present),
    }
}
