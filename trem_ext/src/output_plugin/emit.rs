//! Where the messages about one change go: into the frame, after the begin of its transaction and
//! the description of its relation where those are not there yet. Nothing is written for a change
//! that comes to nothing, so a transaction outside of all filters stays silent.

use pgrx::pg_sys;
use trem_wire::codec::{self, Operation};
use trem_wire::definition::Definition;
use trem_wire::message::{Begin, ErrorRow};
use trem_wire::Lsn;

use super::frame::Frame;
use super::relation::Mapping;
use crate::pg;

pub(crate) struct Emitter<'a> {
    pub(crate) definition: &'a Definition,
    pub(crate) frame: &'a mut Frame,
    /// Null for rows that no transaction brings.
    pub(crate) transaction: *mut pg_sys::ReorderBufferTXN,
    /// The begin message of the transaction is in the stream.
    pub(crate) begun: &'a mut bool,
    /// The fingerprint of the table's last description in the stream.
    pub(crate) described: &'a mut Option<u64>,
    pub(crate) emitted: bool,
}

impl Emitter<'_> {
    #[inline]
    fn announce(&mut self, mapping: &Mapping) {
        self.emitted = true;
        if !*self.begun {
            begin(self.frame, self.transaction);
            *self.begun = true;
        }
        if *self.described != Some(mapping.fingerprint) {
            *self.described = Some(mapping.fingerprint);
            let table = &self.definition.tables[mapping.table];
            codec::encode_relation(self.frame.message(), &mapping.describe(table));
        }
    }

    /// The buffer for one more row.
    #[inline]
    pub(crate) fn row(&mut self, operation: Operation, mapping: &Mapping) -> &mut Vec<u8> {
        self.announce(mapping);
        self.frame.row(operation, mapping.oid)
    }

    pub(crate) fn error(&mut self, mapping: &Mapping, error: &ErrorRow) {
        self.announce(mapping);
        codec::encode_error_row(self.frame.message(), error);
    }

    /// The buffer for a message about the relation.
    pub(crate) fn describe_once(&mut self, mapping: &Mapping) {
        if self.described.is_none() {
            self.announce(mapping);
        }
    }
}

/// Writes the begin message of a transaction.
pub(crate) fn begin(frame: &mut Frame, transaction: *mut pg_sys::ReorderBufferTXN) {
    if transaction.is_null() {
        return;
    }
    // SAFETY: called with the transaction of a callback, which is a committed top-level one.
    let (xid, commit_lsn, commit_timestamp) = unsafe {
        let transaction = &*transaction;
        (transaction.xid, transaction.final_lsn, transaction.xact_time.commit_time)
    };
    let begin = Begin { xid: pg::full_xid(xid), commit_lsn: Lsn(commit_lsn), commit_timestamp };
    codec::encode_begin(frame.message(), &begin);
}
