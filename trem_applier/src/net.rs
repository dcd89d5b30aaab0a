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
//!              insert        update, whole   update, part     delete
//! (nothing)    Insert(row)   Update(row)     Update(part)     Delete
//! Insert       refused       Insert(row)     Insert(merged)   (nothing)
//! Update       refused       Update(row)     Update(merged)   Delete
//! Delete       Update(row)   refused         refused          refused
//! ```
//! `Insert`: the target has no such row. `Update`: it has, and these columns change.
//!
//! # A table with a filter
//! Its updates do not tell whether the target has the row, and a delete may be of a row that never
//! passed. So they lead to *put* (insert or update, whatever it takes), and a delete expects
//! nothing:
//! ```text
//!              insert        update, whole   update, part     delete
//! (nothing)    Insert(row)   Put(row)        refused          Delete
//! Insert       refused       Insert(row)     Insert(merged)   (nothing)
//! Put          refused       Put(row)        Put(merged)      Delete
//! Delete       Put(row)      Put(row)        refused          Delete
//! ```
//!
//! *Refused* means that the change cannot be netted: a part is missing that only the target or the
//! source has, or the stream and the group's start disagree. The caller carries out what is netted
//! so far, then this change in source order, where the target says what is wrong, if anything is.
//!
//! # Keys
//! Keys are compared byte by byte, though the target may call different bytes equal (numeric 1.0
//! and 1.00). Every key that the stream names is that of a stored row, as it was stored; so no row
//! ever goes by two names at a time, and a row that changes its name is a delete and an insert. It
//! is enough that deletes are carried out first, then updates, then inserts.

use std::collections::hash_map::Entry;
use std::collections::HashMap;

use bytes::Bytes;
use trem_wire::message::{Operation, Relation, Run, UpdatedRow};
use trem_wire::row::{Row, RowWriter};

/// Which columns of a row a change brings, by position. `None`: all.
pub type Present = Option<Box<[bool]>>;

/// What is left to do for one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Net {
    Insert(Bytes),
    Update(Bytes, Present),
    Put(Bytes),
    Delete,
}

/// The change cannot be netted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// About what an entry takes beside the bytes of key and row.
const ENTRY_BYTES: usize = 96;

/// The netted changes of one table.
#[derive(Debug, Default)]
pub struct Table {
    filtered: bool,
    rows: HashMap<Bytes, Net>,
    bytes: usize,
}

impl Table {
    pub fn new(filtered: bool) -> Self {
        Table { filtered, ..Table::default() }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// No more memory than this was taken in.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Everything that is left to do, in no particular order.
    pub fn into_rows(self) -> impl Iterator<Item = (Bytes, Net)> {
        self.rows.into_iter()
    }

    /// Everything that is left to do, in the order in which it may be done: a key may be equal to
    /// another on the target.
    pub fn in_order(self) -> Vec<(Bytes, Net)> {
        let mut rows: Vec<_> = self.rows.into_iter().collect();
        rows.sort_by_key(|(_, net)| match net {
            Net::Delete => 0,
            Net::Update(..) => 1,
            Net::Put(_) => 2,
            Net::Insert(_) => 3,
        });
        rows
    }

    pub fn insert(&mut self, key: Bytes, row: Bytes) -> Result<(), Refused> {
        self.bytes += key.len() + row.len() + ENTRY_BYTES;
        let filtered = self.filtered;
        match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Net::Insert(row));
                Ok(())
            }
            Entry::Occupied(mut entry) => match entry.get() {
                Net::Delete => {
                    entry.insert(if filtered { Net::Put(row) } else { Net::Update(row, None) });
                    Ok(())
                }
                Net::Insert(_) | Net::Put(_) | Net::Update(..) => Err(Refused),
            },
        }
    }

    pub fn delete(&mut self, key: Bytes) -> Result<(), Refused> {
        self.bytes += key.len() + ENTRY_BYTES;
        let filtered = self.filtered;
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
                Net::Update(..) | Net::Put(_) => {
                    entry.insert(Net::Delete);
                    Ok(())
                }
                Net::Delete if filtered => Ok(()),
                Net::Delete => Err(Refused),
            },
        }
    }

    /// A row under the key it had.
    pub fn update(&mut self, key: Bytes, row: Bytes, present: Present) -> Result<(), Refused> {
        self.bytes += key.len() + row.len() + ENTRY_BYTES;
        let filtered = self.filtered;
        let mut entry = match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(match (filtered, present) {
                    (false, present) => Net::Update(row, present),
                    (true, None) => Net::Put(row),
                    (true, Some(_)) => return Err(Refused),
                });
                return Ok(());
            }
            Entry::Occupied(entry) => entry,
        };
        let next = match (entry.get(), present) {
            (Net::Delete, None) if filtered => Net::Put(row),
            (Net::Delete, _) => return Err(Refused),
            (Net::Insert(_), None) => Net::Insert(row),
            (Net::Put(_), None) => Net::Put(row),
            (Net::Update(..), None) => Net::Update(row, None),
            (Net::Insert(before), Some(present)) => Net::Insert(merge(before, &row, &present)),
            (Net::Put(before), Some(present)) => Net::Put(merge(before, &row, &present)),
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

    /// A row whose key changed. Under the old key nothing is left. Refused, it changed nothing.
    fn update_key(
        &mut self,
        old: Bytes,
        new: Bytes,
        row: Bytes,
        present: Present,
    ) -> Result<(), Refused> {
        let before = self.rows.get(&old);
        let whole = match (present, before) {
            (None, _) => row,
            (Some(present), Some(Net::Insert(before) | Net::Put(before))) => {
                merge(before, &row, &present)
            }
            (Some(present), Some(Net::Update(before, None))) => merge(before, &row, &present),
            (Some(_), _) => return Err(Refused),
        };
        let is_free = matches!(self.rows.get(&new), None | Some(Net::Delete));
        let is_there = self.filtered || !matches!(before, Some(Net::Delete));
        if !is_free || !is_there {
            return Err(Refused);
        }
        self.delete(old)?;
        self.insert(new, whole)
    }

    /// Takes a run in, up to the first change that is refused. The rows that are left then go in
    /// source order.
    pub fn take_in(
        &mut self,
        operation: Operation,
        relation: &Relation,
        run: &Run,
    ) -> Result<(), Run> {
        let rows = &run.rows;
        match operation {
            Operation::Insert => take(run, run.rows(), |row| {
                self.insert(key_of(relation, row), rows.slice_ref(row.as_bytes()))
            }),
            Operation::Delete => {
                take(run, run.rows(), |row| self.delete(rows.slice_ref(row.as_bytes())))
            }
            Operation::Update => {
                take(run, run.updated_rows(), |row| self.take_update(relation, rows, row))
            }
        }
    }

    fn take_update(
        &mut self,
        relation: &Relation,
        rows: &Bytes,
        row: UpdatedRow<'_>,
    ) -> Result<(), Refused> {
        if !row.unknown.is_empty() {
            return Err(Refused);
        }
        let present = match row.unchanged.is_empty() {
            true => None,
            false => {
                Some((0..relation.columns.len()).map(|at| !row.unchanged.contains(at)).collect())
            }
        };
        let key = key_of(relation, row.new);
        let new = rows.slice_ref(row.new.as_bytes());
        match row.old {
            None => self.update(key, new, present),
            Some(old) => self.update_key(rows.slice_ref(old.as_bytes()), key, new, present),
        }
    }
}

/// Hands out the rows of a run until one is refused, and then gives the run from there on.
fn take<R: Span>(
    run: &Run,
    rows: impl Iterator<Item = R>,
    mut take: impl FnMut(R) -> Result<(), Refused>,
) -> Result<(), Run> {
    let mut at = 0;
    for (taken, row) in (0..).zip(rows) {
        let length = row.length();
        if take(row).is_err() {
            let row_count = run.row_count - taken;
            return Err(Run { relation: run.relation, row_count, rows: run.rows.slice(at..) });
        }
        at += length;
    }
    Ok(())
}

/// A row of a run that knows how many of the run's bytes it takes.
trait Span {
    fn length(&self) -> usize;
}

impl Span for Row<'_> {
    fn length(&self) -> usize {
        self.as_bytes().len()
    }
}

impl Span for UpdatedRow<'_> {
    fn length(&self) -> usize {
        self.byte_count()
    }
}

/// `row` where `present`, `before` elsewhere.
fn merge(before: &Bytes, row: &Bytes, present: &[bool]) -> Bytes {
    let rows = (Row::decode(before), Row::decode(row));
    let (Ok(before), Ok(row)) = rows else {
        unreachable!("rows were checked when they were decoded")
    };
    let mut merged = Vec::with_capacity(before.as_bytes().len().max(row.as_bytes().len()));
    let mut writer = RowWriter::new(&mut merged, column_count(present.len()));
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
    let key = || {
        let columns = relation.columns.iter().zip(row.fields());
        columns.filter(|(column, _)| column.key).map(|(_, field)| field)
    };
    let (count, length) =
        key().fold((0, 2), |(n, length), field| (n + 1, length + 4 + field.map_or(0, <[u8]>::len)));
    // Of exactly its length, so that it becomes `Bytes` as it is.
    let mut bytes = Vec::with_capacity(length);
    let mut writer = RowWriter::new(&mut bytes, column_count(count));
    for field in key() {
        match field {
            Some(field) => writer.field(field),
            None => writer.null(),
        }
    }
    bytes.into()
}

fn column_count(count: usize) -> i16 {
    i16::try_from(count).expect("a table has at most 1,600 columns")
}

#[cfg(test)]
mod tests;
