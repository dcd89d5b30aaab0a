//! The messages of the stream, as the applier sees them. [`codec`](crate::codec) has their bytes.
//!
//! A source transaction is `Begin`, any number of the others, `Commit`; it may span frames, and a
//! frame may hold several messages. Transactions come one after another in commit order and are
//! never interleaved. A transaction that changes nothing of the task is silent.
//! A `Relation` comes once per stream before the first change that names its `oid`, and again when
//! the table's shape changed; the later one counts from there on.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::DecodeError;
use crate::primitive::Reader;
use crate::row::{ColumnSet, Row};
use crate::Lsn;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    Begin(Begin),
    Relation(Arc<Relation>),
    Insert(Run),
    Update(Run),
    Delete(Run),
    Truncate(Truncate),
    /// A change whose new row could not be computed.
    Error(ErrorRow),
    /// A logical decoding message with TREM's prefix, written inside a transaction.
    Logical(Logical),
    Commit(Commit),
}

/// The start of a source transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begin {
    /// 64-bit transaction id (with epoch), for `pg_visible_in_snapshot`.
    pub xid: u64,
    /// Position of the commit record. Windows are compared with this one.
    pub commit_lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00:00 UTC.
    pub commit_timestamp: i64,
}

/// The end of a source transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// First position after the commit record: the one to record as applied and to confirm.
    pub end_lsn: Lsn,
}

/// How the fields of a relation's rows are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowFormat {
    /// The types' binary send format: rows go into COPY as they are.
    Binary,
    /// The types' text output, for a relation with a type whose binary form means something only in
    /// the database it comes from (arrays of enums, `regclass`, ...).
    Text,
}

/// One table as the stream describes it: its columns on the target, in the order of the rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relation {
    /// OID of the source table (of the root, for a partitioned one).
    pub oid: u32,
    pub source_schema: String,
    pub source_name: String,
    pub target_schema: String,
    pub target_name: String,
    pub format: RowFormat,
    /// The task filters its rows: an update may be of a row that the target does not have yet.
    pub filtered: bool,
    pub columns: Vec<Column>,
}

impl Relation {
    /// Positions of the key columns. Empty: no key, and a row is found by all its columns.
    pub fn key(&self) -> impl Iterator<Item = usize> + '_ {
        self.columns.iter().enumerate().filter(|(_, column)| column.key).map(|(at, _)| at)
    }

    #[must_use]
    pub fn has_key(&self) -> bool {
        self.columns.iter().any(|column| column.key)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Attribute number in the source table; 0 for a column that only the target has.
    pub attnum: i16,
    /// Name on the target.
    pub name: String,
    /// Type OID on the source.
    pub type_oid: u32,
    /// The type as SQL names it, schema-qualified unless built in: `numeric(10,2)`, `app.mood`.
    pub type_name: String,
    /// Part of the key: the replica-identity columns.
    pub key: bool,
}

/// Consecutive rows of one relation and one operation, still encoded.
///
/// Inserts: rows of all columns. Deletes: rows of the key columns only (all columns without a key).
/// Updates: see [`UpdatedRow`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    pub relation: u32,
    pub row_count: u32,
    pub rows: Bytes,
}

impl Run {
    /// The rows of an insert or delete run. The codec validated them, so none fails.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let mut reader = Reader::new(&self.rows);
        (0..self.row_count).map(move |_| Row::read(&mut reader, &self.rows).expect("validated"))
    }

    /// The rows of an update run.
    pub fn updated_rows(&self) -> impl Iterator<Item = UpdatedRow<'_>> {
        let mut reader = Reader::new(&self.rows);
        (0..self.row_count)
            .map(move |_| UpdatedRow::read(&mut reader, &self.rows).expect("validated"))
    }
}

/// One row of an update run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpdatedRow<'a> {
    /// The key the row had before, where the update changed it: key columns only. Without a key:
    /// always there, and the whole old row.
    pub old: Option<Row<'a>>,
    /// The new row, all columns. Fields in `unchanged` or `unknown` are NULL and mean nothing.
    pub new: Row<'a>,
    /// Columns whose value the update did not touch and that are not in the WAL (TOAST): the
    /// target keeps what it has.
    pub unchanged: ColumnSet<'a>,
    /// Columns whose value depends on one that is not in the WAL: the row must be read again.
    pub unknown: ColumnSet<'a>,
}

pub(crate) const UPDATE_HAS_OLD: u8 = 1;
pub(crate) const UPDATE_HAS_UNCHANGED: u8 = 2;
pub(crate) const UPDATE_HAS_UNKNOWN: u8 = 4;

impl<'a> UpdatedRow<'a> {
    /// How many bytes of the run the row takes.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        let old = self.old.map_or(0, |old| old.as_bytes().len());
        let sets = self.unchanged.byte_count() + self.unknown.byte_count();
        1 + old + self.new.as_bytes().len() + sets
    }

    pub(crate) fn read(reader: &mut Reader<'a>, whole: &'a [u8]) -> Result<Self, DecodeError> {
        let flags = reader.byte()?;
        if flags & !(UPDATE_HAS_OLD | UPDATE_HAS_UNCHANGED | UPDATE_HAS_UNKNOWN) != 0 {
            return Err(DecodeError::Malformed("update row with unknown flags"));
        }
        let old = match flags & UPDATE_HAS_OLD {
            0 => None,
            _ => Some(Row::read(reader, whole)?),
        };
        let new = Row::read(reader, whole)?;
        let mut set = |flag| match flags & flag {
            0 => Ok(ColumnSet::default()),
            _ => ColumnSet::read(reader, new.field_count()),
        };
        let unchanged = set(UPDATE_HAS_UNCHANGED)?;
        let unknown = set(UPDATE_HAS_UNKNOWN)?;
        Ok(UpdatedRow { old, new, unchanged, unknown })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Truncate {
    /// Tables truncated by one statement, in its order.
    pub relations: Vec<u32>,
    pub cascade: bool,
    pub restart_identity: bool,
}

/// A change of a row for which an expression failed. Never holds the message, which may carry
/// values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorRow {
    pub relation: u32,
    /// The change that was to be made: insert or update.
    pub operation: Operation,
    /// The rule whose expression failed, as `trem.transformation` lists it.
    pub rule_id: i64,
    /// Five characters, of class 22 or 23.
    pub sqlstate: String,
    /// One row of the key columns as the target has them; a row of no fields if the key could not
    /// be computed either, and for a relation without a key.
    pub key: Bytes,
}

impl ErrorRow {
    /// The key's fields. The codec validated them.
    #[must_use]
    pub fn key(&self) -> Row<'_> {
        Row::read(&mut Reader::new(&self.key), &self.key).expect("validated")
    }
}

/// What a change does to a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Logical {
    pub content: Bytes,
}
