//! One stream: what it was asked for, and where it is. It lives in the decoding context and goes
//! with it, also after an error.
//!
//! Nothing is written at the begin of a transaction: a begin message goes before the first change
//! of the task, and a transaction without one stays silent.

use pgrx::pg_sys::{self, ReorderBufferChangeType as Action};
use trem_wire::codec::{self, Operation};
use trem_wire::definition::Definition;
use trem_wire::message::{Commit, Truncate};
use trem_wire::{Lsn, MESSAGE_PREFIX};

use super::cache::Cache;
use super::definition;
use super::emit::{Emitter, Output};
use super::error::StreamError;
use super::options::Options;
use super::rules::Rules;
use super::tuple::{Rows, Target};
use super::turn::Turn;
use super::unseen;
use crate::pg::{self, PinnedSettings};
use crate::wal_message::{self, Key, Message};

/// How many changes are skipped in a row before the server is told that we are alive.
const SKIPPED_MAX: u32 = 100;

pub(crate) struct Session {
    definition: Definition,
    rules: Rules,
    settings: PinnedSettings,
    cache: Cache,
    output: Output,
    rows: Rows,
    /// The current memory context of every callback that may allocate; reset for each change.
    memory: pg_sys::MemoryContext,
    skipped: u32,
    message_key: Option<Key>,
    _turn: Option<Turn>,
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
        // SAFETY: a global of the backend.
        if unsafe { pg_sys::am_walsender } {
            pg::handle_division();
        }
        // SAFETY: the decoding context's memory is live, and goes together with the session.
        let (memory, relations, expressions) = unsafe {
            let parent = (*context).context;
            (
                pg::child_context(parent, c"trem change"),
                pg::child_context(parent, c"trem relations"),
                pg::child_context(parent, c"trem expressions"),
            )
        };
        let pinned = definition::read(&options, expressions, memory)?;
        let definition = pinned.definition;
        Ok(Session {
            cache: Cache::new(&definition, relations),
            output: Output::new(&definition, options.compression)?,
            rows: Rows::new(),
            memory,
            skipped: 0,
            settings: pinned.settings,
            rules: pinned.rules,
            message_key: pinned.message_key,
            definition,
            // SAFETY: as above.
            _turn: unsafe { Turn::take_over(context) },
        })
    }

    pub(crate) fn close(&mut self) {
        self.settings.restore();
    }

    pub(crate) fn begin(&mut self) {
        self.output.begun = false;
        self.rows.evaluator.begin();
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
        // SAFETY: the transaction and the change of a callback are valid.
        let (commit_lsn, action) = unsafe { (Lsn((*transaction).final_lsn), (*change).action) };
        let operation = match action {
            Action::REORDER_BUFFER_CHANGE_INSERT => Operation::Insert,
            Action::REORDER_BUFFER_CHANGE_UPDATE => Operation::Update,
            Action::REORDER_BUFFER_CHANGE_DELETE => Operation::Delete,
            _ => return Ok(()),
        };
        let (definition, cache) = (&self.definition, &mut self.cache);
        // SAFETY: the relation is open in a change callback.
        let found = unsafe { cache.find(definition, &self.rules, relation, commit_lsn)? };
        let Some(mapping) = found else {
            self.skip(context);
            return Ok(());
        };
        let rules = self.rules.get(mapping.table);
        // SAFETY: the transaction of a callback is valid.
        let _at_hand = rules.map(|_| unsafe { at_hand(transaction, operation) });
        let mut out = Emitter::new(definition, &mut self.output, transaction);
        let rows = &mut self.rows;
        // SAFETY: the action says which of the tuples are there; they are rows of the relation.
        unsafe {
            let descriptor = (*relation).rd_att;
            let mut target = Target { definition, mapping, descriptor, rules };
            let (new, old) = (pg::new_tuple(change), pg::old_tuple(change));
            rows.change(&mut out, &mut target, operation, (new, old))?;
            if !out.emitted {
                self.skip(context);
            } else if self.output.frame.is_full() {
                self.output.frame.write(context, false)?;
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
            let (definition, cache) = (&self.definition, &mut self.cache);
            // SAFETY: as above.
            let found = unsafe { cache.find(definition, &self.rules, relation, commit_lsn)? };
            let Some(mapping) = found else { continue };
            Emitter::new(definition, &mut self.output, transaction).describe_once(mapping);
            oids.push(mapping.oid);
        }
        if oids.is_empty() {
            self.skip(context);
            return Ok(());
        }
        self.output.begin_once(transaction);
        // SAFETY: in a truncate callback this is the union's live arm.
        let (cascade, restart_identity) =
            unsafe { ((*change).data.truncate.cascade, (*change).data.truncate.restart_seqs) };
        let truncate = Truncate { relations: oids, cascade, restart_identity };
        codec::encode_truncate(self.output.frame.message(), &truncate);
        Ok(())
    }

    /// A logical decoding message: one that TREM wrote is passed on if the applier waits for it, or
    /// says that this definition ends here.
    ///
    /// # Safety
    /// `transaction` and `lsn` are those of a message callback.
    pub(crate) unsafe fn message(
        &mut self,
        transaction: *mut pg_sys::ReorderBufferTXN,
        lsn: Lsn,
        prefix: &[u8],
        content: &[u8],
    ) -> Result<(), StreamError> {
        if transaction.is_null() || prefix != MESSAGE_PREFIX.as_bytes() {
            return Ok(());
        }
        // SAFETY: the transaction of a callback is valid, and is the whole one.
        let xid = pg::full_xid(unsafe { (*transaction).xid });
        let Some(text) = self.message_key.as_ref().and_then(|key| key.open(content, xid)) else {
            return Ok(());
        };
        // What was before the publish, it has seen.
        let later = lsn > self.definition.published_lsn;
        match wal_message::read(text, &self.definition) {
            Some(Message::Published(current)) => Err(StreamError::DefinitionNotCurrent {
                task: self.definition.task.clone(),
                asked: self.definition.definition_version,
                current,
            }),
            Some(Message::Changed { change, relation, root }) if later => {
                match unseen::of_table(&self.definition, change, relation, root) {
                    Some(error) => Err(error),
                    None => Ok(()),
                }
            }
            Some(Message::SchemaRenamed(schema)) if later => {
                match unseen::of_schema(&self.definition, schema) {
                    Some(error) => Err(error),
                    None => Ok(()),
                }
            }
            Some(Message::Barrier(token)) => {
                self.output.begin_once(transaction);
                let content = format!("barrier:{token}");
                codec::encode_logical(self.output.frame.message(), content.as_bytes());
                Ok(())
            }
            _ => Ok(()),
        }
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
            pg_sys::OutputPluginUpdateProgress(context, !self.output.begun);
            if !std::mem::take(&mut self.output.begun) {
                return Ok(());
            }
            let end_lsn = Lsn((*transaction).end_lsn);
            codec::encode_commit(self.output.frame.message(), &Commit { end_lsn });
            self.output.frame.write(context, true)
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

/// What the metadata functions say while the change is decoded.
///
/// # Safety
/// `transaction` is the one of a change callback.
unsafe fn at_hand(
    transaction: *mut pg_sys::ReorderBufferTXN,
    operation: Operation,
) -> pg::ChangeAtHand {
    // SAFETY: the transaction is committed, so its time is that of the commit.
    let commit = unsafe {
        pg::CommitAtHand {
            lsn: (*transaction).final_lsn,
            timestamp: (*transaction).xact_time.commit_time,
        }
    };
    pg::ChangeAtHand::new(commit, operation)
}
