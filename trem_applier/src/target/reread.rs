//! Rows that the stream cannot give whole: they are read again from the source, by key.
//!
//! # Which
//! - A row with an *unknown* column: an expression or the filter needs a value that is not in the
//!   WAL.
//! - An update with *unchanged* columns that finds no row: it entered a filter.
//!
//! # When, and what it means
//! Keys are collected while a group is applied and read before it commits, or when there are many.
//! The read sees every transaction of the group that came since the first of them was collected, so
//! what it brings is never older than what was applied. It may be newer: up to the position R that
//! the source's WAL had reached. Until the stream has passed R the table is *ahead* in these rows,
//! and changes of the table are applied one by one, tolerating rows that are there already or gone
//! (see [`careful`](super::careful)). R is stored with the table, in the same transaction.
//!
//! A row that cannot be computed as it is read is one that failed, as if the stream had said so.

use std::future::Future;

use bytes::Bytes;
use trem_wire::message::Relation;
use trem_wire::Lsn;

use crate::error::Result;

/// Keys that wait are read when there are this many.
pub(super) const KEYS_MAX: usize = 1_000;

/// What the source has for some keys now.
#[derive(Debug)]
pub struct Found {
    /// For each key, in the order asked.
    pub rows: Vec<FoundRow>,
    /// R: nothing in the rows is later than this position.
    pub position: Lsn,
}

/// What the source has for one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FoundRow {
    /// The whole row as the task's rules make it.
    Row(Bytes),
    /// No row, or one that the filter does not let pass.
    None,
    /// A row that a rule cannot compute: which (0: not known), and the error's SQLSTATE.
    Failed { rule_id: i64, sqlstate: String },
}

/// Reads rows again on the source. Implemented by whoever joins source and target.
pub trait Reread: Send {
    /// `keys`: rows of the key columns. Waits until all transactions `xids` are visible.
    fn read(
        &mut self,
        relation: &Relation,
        keys: &[Bytes],
        xids: &[u64],
    ) -> impl Future<Output = Result<Found>> + Send;
}
