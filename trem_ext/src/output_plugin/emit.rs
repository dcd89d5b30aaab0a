//! Where the messages about one change go: into the frame, after the begin of its transaction and
//! the description of its relation where those are not there yet. Nothing is written for a change
//! that comes to nothing, so a transaction outside of all filters stays silent.

use pgrx::pg_sys;
use trem_wire::codec::{self, Operation};
use trem_wire::compress::Compression;
use trem_wire::definition::{DefinedTable, Definition};
use trem_wire::message::{Begin, Column, ErrorRow, Relation};
use trem_wire::Lsn;

use super::error::StreamError;
use super::frame::{Frame, Mark};
use super::relation::{row_format, Mapping};
use crate::pg;

/// The stream so far, as far as what comes next depends on it.
pub(crate) struct Output {
    pub(crate) frame: Frame,
    /// The begin message of the transaction at hand is in the stream.
    pub(crate) begun: bool,
    /// For each table of the definition: its description is in the stream. There is only one,
    /// whatever the table looked like in history.
    described: Vec<bool>,
}

impl Output {
    pub(crate) fn new(
        definition: &Definition,
        compression: Compression,
    ) -> Result<Output, StreamError> {
        let described = vec![false; definition.tables.len()];
        Ok(Output { frame: Frame::new(compression)?, begun: false, described })
    }

    /// Writes the begin message of a transaction that has none yet.
    pub(crate) fn begin_once(&mut self, transaction: *mut pg_sys::ReorderBufferTXN) {
        if !self.begun {
            begin(&mut self.frame, transaction);
            self.begun = true;
        }
    }
}

pub(crate) struct Emitter<'a> {
    definition: &'a Definition,
    output: &'a mut Output,
    /// Null for rows that no transaction brings.
    transaction: *mut pg_sys::ReorderBufferTXN,
    pub(crate) emitted: bool,
}

pub(crate) struct Progress {
    frame: Mark,
    begun: bool,
    emitted: bool,
    described: bool,
}

impl<'a> Emitter<'a> {
    pub(crate) fn new(
        definition: &'a Definition,
        output: &'a mut Output,
        transaction: *mut pg_sys::ReorderBufferTXN,
    ) -> Emitter<'a> {
        Emitter { definition, output, transaction, emitted: false }
    }

    /// How far the stream is before a change of this relation.
    #[inline]
    pub(crate) fn progress(&self, mapping: &Mapping) -> Progress {
        Progress {
            frame: self.output.frame.mark(),
            begun: self.output.begun,
            emitted: self.emitted,
            described: self.output.described[mapping.table],
        }
    }

    /// Takes back what was said since.
    pub(crate) fn undo(&mut self, mapping: &Mapping, to: &Progress) {
        self.output.frame.undo(to.frame);
        self.output.begun = to.begun;
        self.output.described[mapping.table] = to.described;
        self.emitted = to.emitted;
    }

    #[inline]
    fn announce(&mut self, mapping: &Mapping) {
        self.emitted = true;
        self.output.begin_once(self.transaction);
        if !std::mem::replace(&mut self.output.described[mapping.table], true) {
            let table = &self.definition.tables[mapping.table];
            codec::encode_relation(self.output.frame.message(), &describe(table));
        }
    }

    /// The buffer for one more row.
    #[inline]
    pub(crate) fn row(&mut self, operation: Operation, mapping: &Mapping) -> &mut Vec<u8> {
        self.announce(mapping);
        self.output.frame.row(operation, mapping.oid)
    }

    pub(crate) fn error(&mut self, mapping: &Mapping, error: &ErrorRow) {
        self.announce(mapping);
        codec::encode_error_row(self.output.frame.message(), error);
    }

    /// The buffer for a message about the relation.
    pub(crate) fn describe_once(&mut self, mapping: &Mapping) {
        if !self.output.described[mapping.table] {
            self.announce(mapping);
        }
    }
}

/// The description that goes before the table's rows.
fn describe(table: &DefinedTable) -> Relation {
    let columns = table.columns.iter().map(|column| Column {
        attnum: column.attnum,
        name: column.name.clone(),
        type_oid: column.type_oid,
        type_name: column.type_name.clone(),
        key: column.key,
    });
    Relation {
        oid: table.oid,
        source_schema: table.source_schema.clone(),
        source_name: table.source_name.clone(),
        target_schema: table.target_schema.clone(),
        target_name: table.target_name.clone(),
        format: row_format(table),
        filtered: table.filter.is_some(),
        columns: columns.collect(),
    }
}

fn begin(frame: &mut Frame, transaction: *mut pg_sys::ReorderBufferTXN) {
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
