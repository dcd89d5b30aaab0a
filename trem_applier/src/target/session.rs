//! The session that applies: carries out the actions of [`apply`](crate::apply) on the target.
//!
//! # One target transaction
//! ```text
//! BEGIN; compare-and-set progress; changes ...; [progress]; COMMIT
//! ```
//! Changes of most tables are gathered and carried out set-wise by a job in the background, see
//! [`setwise`](super::setwise) and [`gather`](super::gather); what follows is about the others,
//! which are applied at once and in source order, see [`changes`](super::changes).
//!
//! The compare-and-set is the first statement. When the group's end is at hand it writes the new
//! `applied_lsn` at once; when the group is still coming in it only proves and locks the old one,
//! and the new one is written last. A position that is not what we recorded makes it fail (division
//! by zero, SQLSTATE 22012), which aborts the transaction on the server: so everything after it may
//! be sent without waiting, and nothing of it can be committed. Should BEGIN itself fail, what was
//! sent after it would be transactions of their own: those are read only in this session.
//!
//! # Pipelining
//! Statements are sent without waiting for their results; results are read in order, at the latest
//! before COMMIT is trusted. Long runs of inserts go through COPY, undecoded.
//!
//! # After an error
//! The session is dropped, and with it the server rolls back. The stream starts again at
//! `applied_lsn`; nothing is redone from memory. `careful` then applies the same changes one by
//! one: an insert of a row that is there and an update of a row that is missing become upserts, and
//! are counted.
//!
//! # Durability
//! Commits are asynchronous. After each one the position of the target's own WAL is read; the
//! group's `applied_lsn` may be confirmed to the source once the target has flushed past it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use trem_wire::definition::{Definition, OnError};
use trem_wire::message::Operation;
use trem_wire::Lsn;
use uuid::Uuid;

use super::changes::{Changes, Counts};
use super::exception::{self, Failed};
use super::gather::Gather;
use super::pipeline::Pipeline;
use super::place::Place;
use super::progress;
use super::progress::TableRecord;
use super::reread::Reread;
use super::setwise::{self, Running, Setwise};
use super::thread::Thread;
use crate::apply::Action;
use crate::connect::Client;
use crate::conninfo::ConnInfo;
use crate::error::{Error, Result};

mod netted;

/// Messages of triggers are nobody's business here, and more than the answer to a statement that is
/// read later keeps the client from reading at all.
const SETTINGS: &str =
    "SET synchronous_commit = off; SET lock_timeout = 0; SET client_min_messages = error";

pub struct Session {
    client: Arc<Client>,
    thread: Thread,
    task_id: String,
    owner: Uuid,
    /// The last position that was committed.
    applied_lsn: Lsn,
    /// The last one whose commit a job was started for: the next transaction starts from it.
    sent_lsn: Lsn,
    transaction: Transaction,
    place: Place,
    changes: Changes,
    gather: Gather,
    /// With us while no job is sending.
    setwise: Option<Setwise>,
    /// The last may be sending; one before it may still be reading its results.
    jobs: VecDeque<Running>,
    on_error: OnError,
    /// Rows of the open group that are to be recorded.
    failed: Vec<Failed>,
    /// Applied positions with the target's WAL position that makes each durable.
    unflushed: VecDeque<(Lsn, Lsn)>,
    durable_lsn: Lsn,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transaction {
    Closed,
    /// The compare-and-set has written the group's last position.
    Recorded,
    /// The old position is proven and locked; the new one is still to be written.
    Locked,
}

impl Session {
    /// Opens the session in which changes are applied. Takes no lock yet.
    pub async fn open(info: &ConnInfo, task: &str, task_id: &str) -> Result<Self> {
        let info = info.with_application_name(&format!("trem:{task}:apply"));
        let (thread, client) = Thread::connect(&info).await?;
        client.batch_execute(SETTINGS).await?;
        // Without the right to it, triggers fire and foreign keys are checked, in source order.
        let replica = "SET session_replication_role = replica";
        if let Err(error) = client.batch_execute(replica).await {
            tracing::info!(
                task = %task,
                "triggers and foreign keys of the target stay active: {}",
                Error::from(error)
            );
        }
        let owner = Uuid::new_v4();
        let place = Place::new(task_id, owner);
        Ok(Session {
            setwise: Some(Setwise::new(Arc::clone(&client), place.clone())),
            changes: Changes::new(Pipeline::new(Arc::clone(&client)), task_id),
            client,
            thread,
            task_id: task_id.to_owned(),
            owner,
            applied_lsn: Lsn::INVALID,
            sent_lsn: Lsn::INVALID,
            transaction: Transaction::Closed,
            place,
            gather: Gather::default(),
            jobs: VecDeque::new(),
            on_error: OnError::Stop,
            failed: Vec::new(),
            unflushed: VecDeque::new(),
            durable_lsn: Lsn::INVALID,
        })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn owner(&self) -> Uuid {
        self.owner
    }

    /// Takes the task's advisory lock if it is free; it goes with the session.
    pub async fn try_lock(&self) -> Result<bool> {
        let key = progress::lock_key(&self.task_id);
        let row = self.client.query_one("SELECT pg_try_advisory_lock($1)", &[&key]).await?;
        Ok(row.get(0))
    }

    /// Waits for the task's advisory lock.
    pub async fn lock(&self) -> Result<()> {
        let key = progress::lock_key(&self.task_id);
        self.client.execute("SELECT pg_advisory_lock($1)", &[&key]).await?;
        Ok(())
    }

    /// Tells what the task wants, and how its tables stand.
    pub fn set_tables(&mut self, definition: &Definition, records: &[TableRecord]) {
        self.on_error = definition.options.on_error;
        self.changes.ahead =
            records.iter().map(|record| (record.source_oid, record.reread_end)).collect();
        let unique = |table: &trem_wire::definition::DefinedTable| {
            let sets = table.index_statements.iter().map(|index| index.unique_columns.clone());
            sets.filter(|columns| !columns.is_empty()).collect()
        };
        self.changes.unique_columns =
            definition.tables.iter().map(|table| (table.oid, unique(table))).collect();
    }

    /// Takes the task over and says from where changes are applied: the durable `applied_lsn`.
    pub async fn start(&mut self, applied_lsn: Lsn, timeline: u32, careful: bool) -> Result<()> {
        self.client.batch_execute("SET synchronous_commit = on").await?;
        self.client.batch_execute(setwise::SETTINGS).await?;
        progress::claim(&self.client, &self.task_id, self.owner, timeline).await?;
        self.client
            .batch_execute("SET synchronous_commit = off; SET default_transaction_read_only = on")
            .await?;
        self.applied_lsn = applied_lsn;
        self.sent_lsn = applied_lsn;
        self.durable_lsn = applied_lsn;
        self.changes.careful = careful;
        self.changes.skipped = exception::tables(&self.client, &self.task_id).await?;
        Ok(())
    }

    pub fn set_careful(&mut self, careful: bool) {
        self.changes.careful = careful;
    }

    /// The last position that was committed.
    pub fn applied_lsn(&self) -> Lsn {
        self.applied_lsn
    }

    /// The last position that survives a crash of the target: it may be confirmed to the source.
    pub fn durable_lsn(&self) -> Lsn {
        self.durable_lsn
    }

    /// The commit of the source transaction whose changes were applied last. While all statements
    /// are awaited one by one, a failure is that transaction's.
    pub fn commit_lsn(&self) -> Lsn {
        self.changes.commit_lsn()
    }

    /// By table OID, since the session began.
    pub fn counts(&self) -> &HashMap<u32, Counts> {
        &self.changes.counts
    }

    /// Carries out actions in order. After an error the session must not be used again.
    pub async fn execute(&mut self, actions: Vec<Action>, reader: &mut impl Reread) -> Result<()> {
        let mut commits: VecDeque<Lsn> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Commit { applied_lsn, .. } => Some(*applied_lsn),
                _ => None,
            })
            .collect();
        for action in actions {
            let end = commits.front().copied();
            if matches!(action, Action::Commit { .. }) {
                commits.pop_front();
            }
            if let Err(error) = self.carry_out(action, end, reader).await {
                return Err(self.changes.root_cause(error).await);
            }
        }
        Ok(())
    }

    async fn carry_out(
        &mut self,
        action: Action,
        end: Option<Lsn>,
        reader: &mut impl Reread,
    ) -> Result<()> {
        match action {
            Action::Transaction { xid, commit_lsn } => {
                self.changes.enter(xid, commit_lsn);
                Ok(())
            }
            Action::Insert(relation, run) => {
                let Some(run) = self.gather(Operation::Insert, &relation, run).await? else {
                    return Ok(());
                };
                self.begin(end).await?;
                self.changes.insert(&relation, &run).await
            }
            Action::Update(relation, run) => {
                let Some(run) = self.gather(Operation::Update, &relation, run).await? else {
                    return Ok(());
                };
                self.begin(end).await?;
                self.record_failed().await?;
                self.changes.update(&relation, &run).await?;
                self.read_again(reader, false).await
            }
            Action::Delete(relation, run) => {
                let Some(run) = self.gather(Operation::Delete, &relation, run).await? else {
                    return Ok(());
                };
                self.begin(end).await?;
                self.record_failed().await?;
                self.changes.delete(&relation, &run).await
            }
            Action::Truncate(relations) => {
                self.carry_out_gathered(end).await?;
                self.begin(end).await?;
                self.record_failed().await?;
                self.changes.truncate(&relations).await
            }
            Action::Commit { applied_lsn, .. } => {
                if self.may_end_in_background() {
                    return self.end_in_background(applied_lsn).await;
                }
                self.carry_out_gathered(end).await?;
                self.begin(end).await?;
                self.read_again(reader, true).await?;
                self.record_failed().await?;
                self.commit(applied_lsn).await
            }
            Action::Advance { applied_lsn } => {
                self.begin(Some(applied_lsn)).await?;
                self.commit(applied_lsn).await
            }
            Action::RowFailed(relation, row) => {
                let commit_lsn = Some(self.changes.commit_lsn());
                self.begin(end).await?;
                self.note_failed(Failed { relation, row, commit_lsn }).await
            }
            Action::Barrier { .. } => Ok(()),
        }
    }

    /// A row that the source could not compute: stops, or records it, as the task wants.
    async fn note_failed(&mut self, failed: Failed) -> Result<()> {
        if self.on_error == OnError::Stop {
            return Err(exception::stop(&failed));
        }
        self.changes.skipped.insert(failed.relation.oid);
        self.failed.push(failed);
        match self.failed.len() < exception::TOGETHER {
            true => Ok(()),
            false => self.record_failed().await,
        }
    }

    /// Later changes of such rows must find them recorded.
    async fn record_failed(&mut self) -> Result<()> {
        match self.failed.is_empty() {
            true => Ok(()),
            false => self.changes.record(std::mem::take(&mut self.failed)).await,
        }
    }

    /// Reads rows again, and stores with their tables how far ahead of the stream they are now.
    async fn read_again(&mut self, reader: &mut impl Reread, group_ends: bool) -> Result<()> {
        let (ahead, failed) = self.changes.read_again(reader, group_ends).await?;
        for failed in failed {
            self.note_failed(failed).await?;
        }
        for (oid, position) in ahead {
            progress::write_reread_end(&self.client, &self.task_id, oid, position).await?;
        }
        Ok(())
    }

    async fn begin(&mut self, end: Option<Lsn>) -> Result<()> {
        self.join().await?;
        if self.transaction != Transaction::Closed {
            return Ok(());
        }
        self.changes.pipeline.send_simple(setwise::BEGIN.to_owned()).await;
        self.transaction = match end {
            Some(end) => {
                self.send_progress(end).await?;
                Transaction::Recorded
            }
            None => {
                self.send_progress(self.applied_lsn).await?;
                Transaction::Locked
            }
        };
        Ok(())
    }

    async fn send_progress(&mut self, new: Lsn) -> Result<()> {
        self.place.send_move(&mut self.changes.pipeline, self.applied_lsn, new).await
    }

    async fn commit(&mut self, applied_lsn: Lsn) -> Result<()> {
        self.changes.close_copy().await?;
        if self.transaction == Transaction::Locked {
            self.send_progress(applied_lsn).await?;
        }
        // An update that finds no row is no error of the server: it would commit what is missing.
        // Whatever else fails turns the COMMIT into a ROLLBACK, and is read before it.
        if self.changes.pipeline.must_be_read() {
            self.changes.settle(0).await?;
        }
        self.changes.pipeline.send_simple("COMMIT".to_owned()).await;
        self.changes.settle(0).await?;
        self.changes.leave();
        self.transaction = Transaction::Closed;
        self.applied_lsn = applied_lsn;
        self.sent_lsn = applied_lsn;
        self.note_flush(Some(applied_lsn)).await
    }

    /// Whether the target transaction of a group is open. Then its COPY may be open too, and a
    /// query on the same connection would wait for its end, which waits for us.
    pub fn is_in_group(&self) -> bool {
        self.transaction != Transaction::Closed
    }

    /// Looks how far the target has flushed, between groups. To be called now and then.
    pub async fn check_flush(&mut self) -> Result<()> {
        self.join().await?;
        match self.unflushed.is_empty() || self.is_in_group() {
            true => Ok(()),
            false => self.note_flush(None).await,
        }
    }

    async fn note_flush(&mut self, applied: Option<Lsn>) -> Result<()> {
        let (inserted, flushed) = setwise::wal_positions(&self.client).await?;
        if let Some(applied) = applied {
            self.unflushed.push_back((applied, inserted));
        }
        self.flushed_up_to(flushed);
        Ok(())
    }

    fn flushed_up_to(&mut self, flushed: Lsn) {
        while let Some(&(applied, needed)) = self.unflushed.front() {
            if needed > flushed {
                break;
            }
            self.durable_lsn = applied;
            self.unflushed.pop_front();
        }
    }

    /// Makes everything committed so far durable now, for a clean end. Then the session is for
    /// other statements, until it starts to apply again.
    pub async fn flush(&mut self) -> Result<()> {
        self.join().await?;
        self.client.batch_execute("SET default_transaction_read_only = off").await?;
        if self.unflushed.is_empty() {
            return Ok(());
        }
        self.client.batch_execute("SET synchronous_commit = on").await?;
        let touch = "UPDATE trem_target.progress SET updated_at = now()
                     WHERE task_id = $1::text::uuid";
        self.client.execute(touch, &[&self.task_id]).await?;
        self.client.batch_execute("SET synchronous_commit = off").await?;
        self.durable_lsn = self.applied_lsn;
        self.unflushed.clear();
        Ok(())
    }
}
