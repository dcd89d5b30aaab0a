//! One stream: what it was asked for, and where it is. It lives in the decoding context and goes
//! with it, also after an error.
//!
//! Nothing is written at the begin of a transaction: a begin message goes before the first change
//! of the task, and a transaction without one stays silent.

use pgrx::pg_sys::{self, ReorderBufferChangeType as Action};
use trem_wire::codec;
use trem_wire::definition::Definition;
use trem_wire::message::{Begin, Commit, Truncate};
use trem_wire::{Lsn, MESSAGE_PREFIX};

use super::cache::Cache;
use super::definition;
use super::error::StreamError;
use super::frame::Frame;
use super::options::Options;
use super::settings::PinnedSettings;
use super::tuple::{Rows, Target};
use crate::pg;

/// How many changes are skipped in a row before the server is told that we are alive.
const SKIPPED_MAX: u32 = 100;

pub(crate) struct Session {
    definition: Definition,
    settings: PinnedSettings,
    cache: Cache,
    /// For each table of the definition: the fingerprint of the last description in the stream.
    described: Vec<Option<u64>>,
    frame: Frame,
    rows: Rows,
    /// The current memory context of every callback that may allocate; reset for each change.
    memory: pg_sys::MemoryContext,
    /// The begin message of the transaction at hand is in the stream.
    begun: bool,
    skipped: u32,
}

/// Puts back the memory context that the server had set.
struct Scratch(pg_sys::MemoryContext);

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: it was the current context when the callback started, and lives longer than it.
        unsafe { pg_sys::CurrentMemoryContext = self.0 };
    }
}

impl Session {
    /// # Safety
    /// `context` is the decoding context of a startup callback; the session does not outlive it.
    pub(crate) unsafe fn open(
        context: *mut pg_sys::LogicalDecodingContext,
    ) -> Result<Session, StreamError> {
        // SAFETY: in a startup callback.
        let options = unsafe { Options::of(context)? };
        let (definition, settings) = definition::read(&options)?;
        // SAFETY: the decoding context's memory is live, and goes together with the session.
        let (memory, relations) = unsafe {
            let parent = (*context).context;
            (
                pg::child_context(parent, c"trem change"),
                pg::child_context(parent, c"trem relations"),
            )
        };
        Ok(Session {
            cache: Cache::new(&definition, relations),
            described: vec![None; definition.tables.len()],
            frame: Frame::new(options.compression)?,
            rows: Rows::default(),
            memory,
            begun: false,
            skipped: 0,
            settings,
            definition,
        })
    }

    pub(crate) fn close(&mut self) {
        self.settings.restore();
    }

    pub(crate) fn begin(&mut self) {
        self.begun = false;
    }

    /// # Safety
    /// The arguments are those of a change callback.
    pub(crate) unsafe fn change(
        &mut self,
        context: *mut pg_sys::LogicalDecodingContext,
        transaction: *mut pg_sys::ReorderBufferTXN,
        relation: pg_sys::Relation,
        change: *mut pg_sys::ReorderBufferChange,
    ) -> Result<(), StreamError> {
        let _scratch = self.scratch();
        // SAFETY: the transaction of a callback is valid.
        let commit_lsn = Lsn(unsafe { (*transaction).final_lsn });
        // SAFETY: the relation is open in a change callback.
        let found = unsafe { self.cache.find(&self.definition, relation, commit_lsn)? };
        let Some(mapping) = found else {
            self.skip(context);
            return Ok(());
        };
        if !self.begun {
            start(&mut self.frame, transaction);
            self.begun = true;
        }
        if self.described[mapping.table] != Some(mapping.fingerprint) {
            self.described[mapping.table] = Some(mapping.fingerprint);
            let table = &self.definition.tables[mapping.table];
            codec::encode_relation(self.frame.message(), &mapping.describe(table));
        }
        let (rows, frame) = (&mut self.rows, &mut self.frame);
        // SAFETY: the action says which of the tuples are there; they are rows of the relation.
        unsafe {
            let descriptor = (*relation).rd_att;
            let mut target = Target { definition: &self.definition, mapping, descriptor };
            let (new, old) = (pg::new_tuple(change), pg::old_tuple(change));
            match (*change).action {
                Action::REORDER_BUFFER_CHANGE_INSERT => rows.insert(frame, &mut target, new)?,
                Action::REORDER_BUFFER_CHANGE_UPDATE => {
                    rows.update(frame, &mut target, new, old)?
                }
                Action::REORDER_BUFFER_CHANGE_DELETE => rows.delete(frame, &mut target, old)?,
                _ => {}
            }
            if frame.is_full() {
                frame.write(context, false)?;
                self.skipped = 0;
            }
        }
        Ok(())
    }

    /// # Safety
    /// The arguments are those of a truncate callback.
    pub(crate) unsafe fn truncate(
        &mut self,
        context: *mut pg_sys::LogicalDecodingContext,
        transaction: *mut pg_sys::ReorderBufferTXN,
        relations: &[pg_sys::Relation],
        change: *mut pg_sys::ReorderBufferChange,
    ) -> Result<(), StreamError> {
        let _scratch = self.scratch();
        // SAFETY: the transaction of a callback is valid.
        let commit_lsn = Lsn(unsafe { (*transaction).final_lsn });
        // SAFETY: the relations are open in a truncate callback.
        let truncated = unsafe { self.cache.truncated(&self.definition, relations, commit_lsn)? };
        let mut oids = Vec::with_capacity(truncated.len());
        for relation in truncated {
            // SAFETY: as above.
            let found = unsafe { self.cache.find(&self.definition, relation, commit_lsn)? };
            let Some(mapping) = found else { continue };
            if !self.begun {
                start(&mut self.frame, transaction);
                self.begun = true;
            }
            if self.described[mapping.table].is_none() {
                self.described[mapping.table] = Some(mapping.fingerprint);
                let table = &self.definition.tables[mapping.table];
                codec::encode_relation(self.frame.message(), &mapping.describe(table));
            }
            oids.push(mapping.oid);
        }
        if oids.is_empty() {
            self.skip(context);
            return Ok(());
        }
        // SAFETY: in a truncate callback this is the union's live arm.
        let (cascade, restart_identity) =
            unsafe { ((*change).data.truncate.cascade, (*change).data.truncate.restart_seqs) };
        let truncate = Truncate { relations: oids, cascade, restart_identity };
        codec::encode_truncate(self.frame.message(), &truncate);
        Ok(())
    }

    /// A logical decoding message: one of ours inside a transaction is passed on.
    pub(crate) fn message(
        &mut self,
        transaction: *mut pg_sys::ReorderBufferTXN,
        prefix: &[u8],
        content: &[u8],
    ) {
        if transaction.is_null() || prefix != MESSAGE_PREFIX.as_bytes() {
            return;
        }
        if !self.begun {
            start(&mut self.frame, transaction);
            self.begun = true;
        }
        codec::encode_logical(self.frame.message(), content);
    }

    /// # Safety
    /// The arguments are those of a commit callback.
    pub(crate) unsafe fn commit(
        &mut self,
        context: *mut pg_sys::LogicalDecodingContext,
        transaction: *mut pg_sys::ReorderBufferTXN,
    ) -> Result<(), StreamError> {
        let _scratch = self.scratch();
        self.skipped = 0;
        // SAFETY: in a commit callback; the transaction is valid.
        unsafe {
            pg_sys::OutputPluginUpdateProgress(context, !self.begun);
            if !std::mem::take(&mut self.begun) {
                return Ok(());
            }
            let end_lsn = Lsn((*transaction).end_lsn);
            codec::encode_commit(self.frame.message(), &Commit { end_lsn });
            self.frame.write(context, true)
        }
    }

    /// Makes our memory context the current one, emptied, until the result is dropped.
    fn scratch(&self) -> Scratch {
        // SAFETY: the context is this session's own; what the last change left is not used again.
        unsafe {
            if !(*self.memory).isReset {
                pg_sys::MemoryContextReset(self.memory);
            }
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = self.memory;
            Scratch(before)
        }
    }

    /// On 15 a long stretch without output would let the connection time out: the server asks for
    /// no progress there by itself.
    fn skip(&mut self, context: *mut pg_sys::LogicalDecodingContext) {
        self.skipped += 1;
        if self.skipped >= SKIPPED_MAX && !pg::SERVER_REPORTS_PROGRESS {
            self.skipped = 0;
            // SAFETY: called in a change or truncate callback, with its context.
            unsafe { pg_sys::OutputPluginUpdateProgress(context, false) };
        }
    }
}

fn start(frame: &mut Frame, transaction: *mut pg_sys::ReorderBufferTXN) {
    // SAFETY: called with the transaction of a callback, which is a committed top-level one.
    let (xid, commit_lsn, commit_timestamp) = unsafe {
        let transaction = &*transaction;
        (transaction.xid, transaction.final_lsn, transaction.xact_time.commit_time)
    };
    let begin = Begin { xid: pg::full_xid(xid), commit_lsn: Lsn(commit_lsn), commit_timestamp };
    codec::encode_begin(frame.message(), &begin);
}
