//! Following the slot: stream in, actions out, positions back.
//!
//! # Order
//! A change is applied, its group committed, the commit flushed by the target, and only then its
//! position confirmed to the source. Idle positions take the same way: recorded first, at most
//! every few seconds, then confirmed. So the slot's `confirmed_flush_lsn` is never past the durable
//! `applied_lsn`, whatever dies when.
//!
//! # When a group fails
//! A constraint that refuses a row, or a row that is not there, rolls the group back. The stream is
//! opened again at `applied_lsn` and the same transactions are applied one by one, carefully: rows
//! that are not as the source had them are put right and counted. If that fails too, it is the
//! task's error, with the transaction's position. So it is with a row that the source could not
//! compute: the transactions before are applied, and the task stops at exactly that one.
//!
//! # When the source ends the stream
//! A table that changed, a key that is not in the WAL: what came before is right, and is applied
//! before the task stops or goes on with a newer definition. Where a part of the failing
//! transaction is in the group already, that goes, and the stream is opened once more to take the
//! transactions before it in groups of their own.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{interval, interval_at, sleep, MissedTickBehavior};
use trem_wire::compress::Compression;
use trem_wire::definition::{Definition, OnError};
use trem_wire::message::{Message, Relation};
use trem_wire::{slot_name, Lsn};
use uuid::Uuid;

use super::pace::{self, Pace};
use super::prepare::start_over;
use super::{applied, Outcome, Run};
use crate::apply::{Action, Apply, Event, Limits, Snapshot, Window};
use crate::conninfo::ConnInfo;
use crate::error::{Error, Kind, Policy, Result};
use crate::report::Phase;
use crate::source::control::Control;
use crate::source::replication::{ReplicationConnection, ReplicationStream};
use crate::source::reread::{Read, Reader};
use crate::source::stream::{Stream, StreamEvent};
use crate::target::exception;
use crate::target::progress::{self, Progress};
use crate::target::reread::{Found, FoundRow, Reread};
use crate::target::session::Session;
use crate::target::Counts;

/// How often idle positions are recorded on the target.
const IDLE_RECORD_EVERY: Duration = Duration::from_secs(10);

/// How often the target's flush position is looked at, and the state reported.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How often the slot's held WAL is compared with `wal_keep_bytes`.
const WAL_CHECK_EVERY: Duration = Duration::from_secs(10);

/// How long the source may take to let go of a slot whose stream we have closed. It notices when
/// it sends something, or at the latest when it wants to know whether we are still there.
const SLOT_PATIENCE: Duration = Duration::from_secs(60);

/// There is no way to wait for that.
const SLOT_LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a stop waits for the end of the open source transaction; then it is rolled back.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Skipped rows that the source is told of at a time.
const TOLD_TOGETHER: i64 = 10_000;

/// Messages are carried out when they hold this much, even if more is at hand.
const BATCH_BYTES: usize = 256 * 1024;

/// Everything that can wake the loop.
enum Wake {
    Stream(StreamEvent),
    /// The stream is over.
    Ended(Error),
    Tick,
    Changed,
    /// The target is ready for the next group, or the open one has waited long enough.
    Ready,
    Stop,
}

/// The state of one stream.
struct Follow {
    apply: Apply,
    pace: Pace,
    reader: SourceReader,
    stream: Stream,
    /// The barrier to reach, with `--until-caught-up` or in mode full_load.
    barrier: Option<Barrier>,
    counts: HashMap<u32, Counts>,
    recorded_at: Instant,
    /// The last record of a skipped row that the source was told of.
    told: i64,
    /// Finish the open group, then end like this.
    ending: Option<Ending>,
    /// The stream ended, or rows cannot be read again, and the group holds whole transactions that
    /// could not be committed.
    left_behind: bool,
    /// It was not the stream that failed, but the target or what is read for it.
    failed_in_group: bool,
    stop_by: Option<Instant>,
}

impl Follow {
    /// Hands in a message; after it the group ends if it is enough for a target that is not busy.
    fn receive(&mut self, message: Message, busy: bool, actions: &mut Vec<Action>) -> Result<()> {
        hand_in(&mut self.apply, Event::Received(message), actions)?;
        match pace::is_enough(self.apply.group_bytes()) && !busy {
            true => hand_in(&mut self.apply, Event::Idle, actions),
            false => Ok(()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    CaughtUp,
    DefinitionChanged,
    Stopped,
}

/// Rows that the stream cannot give whole come from the source.
struct SourceReader(Reader);

impl Reread for SourceReader {
    async fn read(&mut self, relation: &Relation, keys: &[Bytes], xids: &[u64]) -> Result<Found> {
        let (rows, position) = self.0.read(relation, keys, xids).await?;
        let found = |read| match read {
            Read::Row(row) => FoundRow::Row(row),
            Read::None => FoundRow::None,
            Read::Failed { rule_id, sqlstate } => FoundRow::Failed { rule_id, sqlstate },
        };
        Ok(Found { rows: rows.into_iter().map(found).collect(), position })
    }
}

struct Barrier {
    token: String,
    seen: bool,
}

impl Run {
    /// Follows the slot until there is a reason to end. `None`: the definition changed.
    pub(super) async fn follow(
        &mut self,
        definition: &Arc<Definition>,
        progress: &Progress,
    ) -> Result<Option<Outcome>> {
        loop {
            if self.stopping() {
                return Ok(Some(Outcome::Stopped));
            }
            let mut follow = match self.open(definition, progress).await {
                Err(error) if error.kind() == Kind::DefinitionNotCurrent => {
                    self.session.flush().await?;
                    return Ok(None);
                }
                opened => opened?,
            };
            let held = held_wal(Arc::clone(&self.control), Arc::clone(definition));
            let result = tokio::select! {
                result = self.follow_stream(definition, &mut follow) => result,
                error = held => Err(error),
            };
            let error = match result {
                Ok(ending) => {
                    match follow.stream.finish().await {
                        // The source had something to say after what we were waiting for.
                        Err(error) if error.kind() == Kind::DefinitionNotCurrent => {}
                        finished => finished?,
                    }
                    return Ok(match ending {
                        Ending::CaughtUp => Some(Outcome::CaughtUp),
                        Ending::Stopped => Some(Outcome::Stopped),
                        Ending::DefinitionChanged => None,
                    });
                }
                Err(error) => error,
            };
            if error.kind() == Kind::DefinitionNotCurrent {
                // What came before was applied, unless it is of the transaction that published.
                drop(follow);
                self.reopen_session().await?;
                return Ok(None);
            }
            if error.kind() == Kind::WalKept {
                drop(follow);
                self.slot_is_free().await?;
                self.drop_slot().await?;
                return Err(error);
            }
            self.go_back(&follow, error)?;
            drop(follow);
            self.reopen_session().await?;
            self.slot_is_free().await?;
        }
    }

    /// What failed is done anew, with smaller steps; gives the error back where that was done.
    fn go_back(&mut self, follow: &Follow, error: Error) -> Result<()> {
        let failed_at = self.failed_at(follow, &error);
        let of_row = matches!(error.kind(), Kind::Refused | Kind::RowMissing | Kind::RowFailed);
        if of_row && self.careful_until < failed_at {
            self.careful_until = failed_at;
        } else if follow.left_behind && self.singly_until < failed_at {
            self.singly_until = failed_at;
        } else {
            let between = !follow.failed_in_group && follow.apply.open_transaction().is_none();
            let place = if between { "after" } else { "transaction at" };
            return Err(self.with_remedy(error).context(format!("{place} {failed_at}")));
        }
        tracing::info!(
            task = %self.name(),
            at = %failed_at,
            "anew, one transaction at a time: {error}"
        );
        Ok(())
    }

    /// A value that the target's column does not take, for which PostgreSQL has no hint.
    fn with_remedy(&self, error: Error) -> Error {
        let is_of_value = error.sqlstate_code().is_some_and(|code| code.starts_with("22"));
        if error.kind() != Kind::Refused || !is_of_value || error.hint_text().is_some() {
            return error;
        }
        error.hint(format!(
            "Give the target's column the type that it has on the source (its length, the labels \
             of an enum), then start the task again: SELECT trem.start_task('{}');",
            self.name()
        ))
    }

    /// Waits until the source has noticed that we left the stream.
    async fn slot_is_free(&self) -> Result<()> {
        let slot = slot_name(self.name());
        let until = Instant::now() + SLOT_PATIENCE;
        while let Some(pid) = self.control.slot(&slot).await?.and_then(|slot| slot.active_pid) {
            if Instant::now() > until {
                let message = format!("slot \"{slot}\" is still in use on the source, by {pid}");
                return Err(Error::new(Kind::Conflict, message));
            }
            sleep(SLOT_LOOK_EVERY).await;
        }
        Ok(())
    }

    /// The transaction of an error: the one that was applied last, or else the one that was being
    /// received.
    fn failed_at(&self, follow: &Follow, error: &Error) -> Lsn {
        let of_row = matches!(error.kind(), Kind::Refused | Kind::RowMissing | Kind::RowFailed);
        if of_row || follow.failed_in_group {
            return self.session.commit_lsn();
        }
        let open = follow.apply.open_transaction().map(|begin| begin.commit_lsn);
        open.unwrap_or_else(|| follow.apply.applied_lsn())
    }

    /// A session in which a statement failed is thrown away, with its transaction.
    async fn reopen_session(&mut self) -> Result<()> {
        let task = &self.worker.task;
        let session = Session::open(&self.target, &task.name, &task.task_id).await?;
        let old = std::mem::replace(&mut self.session, session);
        drop(old);
        let mut stop = self.worker.stop.clone();
        // The lock is free as soon as the server notices that the old session is gone, or later if
        // another applier was waiting for it.
        tokio::select! {
            locked = self.session.lock() => locked,
            () = stop.asked() => Ok(()),
        }
    }

    async fn open(&mut self, definition: &Arc<Definition>, progress: &Progress) -> Result<Follow> {
        let client = self.session.client();
        let stored = progress::read(client, &definition.task_id).await?;
        let from = stored.as_ref().map_or(applied(progress), |stored| stored.applied_lsn);
        let records = progress::read_tables(client, &definition.task_id).await?;
        let windows = windows(&records)?;
        self.session.set_tables(definition, &records);
        // Nothing lies between a commit record and the one before it, so they may be the same.
        let careful = self.careful_until >= from;
        self.session.start(from, progress.timeline, careful).await?;
        let singly = careful || self.singly_until >= from;
        let limits = match singly {
            true => Limits { group_transactions: 1, ..Limits::default() },
            false => Limits::default(),
        };
        let proto_version = self.control.proto_version().await?;
        let opening =
            open_stream(self.worker.source.clone(), Arc::clone(definition), proto_version, from);
        let stream = Stream::open(opening, from).await?;
        tracing::info!(task = %self.name(), from = %from, "following");
        self.worker.reporter.phase(Phase::Cdc);
        let now = Instant::now();
        Ok(Follow {
            apply: Apply::new(from, windows, limits),
            pace: Pace::default(),
            reader: SourceReader(Reader::new(&self.worker.source, definition)),
            stream,
            barrier: self.send_barrier(definition),
            counts: self.session.counts().clone(),
            recorded_at: now,
            told: 0,
            ending: None,
            left_behind: false,
            failed_in_group: false,
            stop_by: None,
        })
    }

    /// Emits the barrier that ends the stream, if this run has an end. It is written by a session
    /// of its own: its commit may have to wait for a standby while we go on applying.
    fn send_barrier(&self, definition: &Definition) -> Option<Barrier> {
        if !self.worker.until_caught_up && definition.mode.has_cdc() {
            return None;
        }
        let token = Uuid::new_v4().to_string();
        let (source, sent, task) =
            (self.worker.source.clone(), token.clone(), self.worker.task.name.clone());
        tokio::spawn(async move {
            let emitted = async {
                Control::connect(&source, &format!("{task}:barrier"))
                    .await?
                    .emit_barrier(&task, &sent)
                    .await
            };
            if let Err(error) = emitted.await {
                tracing::warn!(task = %task, "the barrier could not be written: {error}");
            }
        });
        Some(Barrier { token, seen: false })
    }

    async fn follow_stream(
        &mut self,
        definition: &Definition,
        follow: &mut Follow,
    ) -> Result<Ending> {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = self.worker.stop.clone();
        let wake = Arc::clone(&self.worker.wake);
        loop {
            if let (Some(ending), true) = (follow.ending, follow.apply.at_boundary()) {
                return self.finish(definition, follow, ending).await;
            }
            let event = tokio::select! {
                event = follow.stream.next() => event.map_or_else(Wake::Ended, Wake::Stream),
                _ = tick.tick() => Wake::Tick,
                moved = self.session.job_moved(), if self.session.has_job() => {
                    moved?;
                    Wake::Ready
                }
                () = follow.pace.due(), if !self.session.is_busy() => Wake::Ready,
                () = wake.notified() => Wake::Changed,
                () = stop.asked(), if follow.stop_by.is_none() => Wake::Stop,
            };
            match event {
                Wake::Stream(event) => self.receive(follow, event).await?,
                Wake::Ended(error) => return Err(self.apply_before(follow, error).await?),
                Wake::Tick => {
                    self.look(definition, follow).await?;
                    if follow.stop_by.is_some_and(|by| Instant::now() >= by) {
                        return Ok(Ending::Stopped);
                    }
                }
                Wake::Ready if follow.pace.is_due() => {
                    let mut actions = Vec::new();
                    hand_in(&mut follow.apply, Event::Idle, &mut actions)?;
                    follow.pace.look(follow.apply.has_group());
                    self.carry_out(follow, actions).await?;
                }
                Wake::Ready => {}
                Wake::Changed => {
                    let version = self.control.definition(self.name()).await?.definition_version;
                    if version != definition.definition_version {
                        follow.ending.get_or_insert(Ending::DefinitionChanged);
                    }
                }
                Wake::Stop => {
                    follow.ending = Some(Ending::Stopped);
                    follow.stop_by = Some(Instant::now() + STOP_PATIENCE);
                }
            }
        }
    }

    /// Hands in an event and what came with it, and carries out what that means.
    async fn receive(&mut self, follow: &mut Follow, event: StreamEvent) -> Result<()> {
        let mut actions = Vec::new();
        let mut next = Some(event);
        let mut bytes = 0;
        while let Some(event) = next {
            match event {
                StreamEvent::Messages { messages, late } => {
                    follow.pace.note(late);
                    for message in messages {
                        bytes += message_bytes(&message);
                        follow.receive(message, self.session.is_busy(), &mut actions)?;
                    }
                }
                StreamEvent::Passed { position, asked } => {
                    // A server that shuts down asks, and waits until it is confirmed.
                    let record = asked || follow.recorded_at.elapsed() >= IDLE_RECORD_EVERY;
                    follow.pace.note(Duration::ZERO);
                    hand_in(&mut follow.apply, Event::Idle, &mut actions)?;
                    let passed = Event::Passed { position, record };
                    hand_in(&mut follow.apply, passed, &mut actions)?;
                }
            }
            if bytes >= BATCH_BYTES || follow.ending.is_some() {
                break;
            }
            next = follow.stream.try_next();
            follow.pace.look(follow.apply.has_group());
            // While the target is at work, too, the group may grow.
            if next.is_none() && follow.pace.is_due() && !self.session.is_busy() {
                hand_in(&mut follow.apply, Event::Idle, &mut actions)?;
            }
        }
        if follow.ending.is_some() {
            hand_in(&mut follow.apply, Event::Idle, &mut actions)?;
        }
        follow.pace.look(follow.apply.has_group());
        self.carry_out(follow, actions).await
    }

    /// The source ended the stream with an error: applies what came before, and gives it back.
    async fn apply_before(&mut self, follow: &mut Follow, error: Error) -> Result<Error> {
        if error.policy() == Policy::Retry {
            return Ok(error);
        }
        if follow.apply.open_transaction().is_some() {
            follow.left_behind = follow.apply.holds_whole();
            return Ok(error);
        }
        let mut actions = Vec::new();
        hand_in(&mut follow.apply, Event::Idle, &mut actions)?;
        self.carry_out(follow, actions).await?;
        self.session.flush().await?;
        let (applied, counts) = (self.session.applied_lsn(), self.session.counts().clone());
        self.worker.reporter.update(|report| {
            report.applied_lsn = Some(applied);
            report.add_counts(&follow.counts, &counts);
        });
        Ok(error)
    }

    async fn carry_out(&mut self, follow: &mut Follow, actions: Vec<Action>) -> Result<()> {
        let mut reached = false;
        for action in &actions {
            match action {
                Action::Barrier { token } => {
                    if let Some(barrier) = &mut follow.barrier {
                        barrier.seen |= barrier.token == *token;
                    }
                }
                Action::Commit { .. } | Action::Advance { .. } => {
                    follow.recorded_at = Instant::now();
                    reached |= follow.barrier.as_ref().is_some_and(|barrier| barrier.seen);
                }
                _ => {}
            }
        }
        if let Err(error) = self.session.execute(actions, &mut follow.reader).await {
            follow.failed_in_group = true;
            follow.left_behind = error.kind() == Kind::TableChanged;
            return Err(error);
        }
        if reached {
            follow.ending.get_or_insert(Ending::CaughtUp);
        }
        follow.stream.confirm(self.session.durable_lsn());
        let applied = self.session.applied_lsn();
        if applied > self.careful_until {
            self.session.set_careful(false);
        }
        if applied > self.careful_until.max(self.singly_until) {
            follow.apply.set_limits(Limits::default());
        }
        Ok(())
    }

    /// What is done now and then: confirm what became durable, report, keep the slot in bounds.
    async fn look(&mut self, definition: &Definition, follow: &mut Follow) -> Result<()> {
        // A job that runs brings the positions itself; what it takes in meanwhile must not wait.
        let tells = definition.options.on_error == OnError::SkipRow;
        if tells || !self.session.is_busy() {
            self.session.check_flush().await?;
        }
        let durable = self.session.durable_lsn();
        follow.stream.confirm(durable);
        let counts = self.session.counts().clone();
        let applied = self.session.applied_lsn();
        self.worker.reporter.update(|report| {
            report.applied_lsn = Some(applied);
            report.confirmed_lsn = Some(durable);
            report.add_counts(&follow.counts, &counts);
        });
        follow.counts = counts;
        if tells && !self.session.is_in_group() {
            self.tell_exceptions(definition, follow).await?;
        }
        Ok(())
    }

    /// Tells the source of rows that were skipped, so that `trem.exception` shows them there. It
    /// knows those that it was told of before.
    async fn tell_exceptions(&self, definition: &Definition, follow: &mut Follow) -> Result<()> {
        let client = self.session.client();
        let read = exception::read(client, &definition.task_id, follow.told, TOLD_TOGETHER);
        if let Some((last, records)) = read.await? {
            self.control.tell_exceptions(&definition.task, &records).await?;
            follow.told = last;
        }
        Ok(())
    }

    async fn finish(
        &mut self,
        definition: &Definition,
        follow: &mut Follow,
        ending: Ending,
    ) -> Result<Ending> {
        self.session.flush().await?;
        if definition.options.on_error == OnError::SkipRow {
            let mut told = None;
            while told != Some(follow.told) {
                told = Some(follow.told);
                self.tell_exceptions(definition, follow).await?;
            }
        }
        follow.stream.confirm(self.session.durable_lsn());
        let applied = self.session.applied_lsn();
        let counts = self.session.counts().clone();
        self.worker.reporter.update(|report| {
            report.applied_lsn = Some(applied);
            report.confirmed_lsn = Some(applied);
            report.add_counts(&follow.counts, &counts);
        });
        Ok(ending)
    }
}

/// Ends when the slot holds back more WAL than the task may, also while the target stands still.
async fn held_wal(control: Arc<Control>, definition: Arc<Definition>) -> Error {
    let Some(limit) = definition.options.wal_keep_bytes else { return pending().await };
    let slot = slot_name(&definition.task);
    let mut look = interval_at((Instant::now() + WAL_CHECK_EVERY).into(), WAL_CHECK_EVERY);
    loop {
        look.tick().await;
        let held = match control.slot(&slot).await {
            Ok(slot) => slot.map_or(0, |slot| slot.held_bytes),
            Err(error) => return error,
        };
        if held > limit {
            let message = format!(
                "slot \"{slot}\" holds back {held} bytes of WAL, more than wal_keep_bytes ({limit})"
            );
            return Error::new(Kind::WalKept, message).hint(start_over(&definition));
        }
    }
}

/// The slot's stream, and how often the source wants a status.
async fn open_stream(
    source: ConnInfo,
    definition: Arc<Definition>,
    proto_version: u32,
    from: Lsn,
) -> Result<(ReplicationStream, Duration)> {
    let version = definition.definition_version.to_string();
    let compression = match definition.options.compression {
        Compression::Zstd => "zstd",
        Compression::None => "none",
    };
    let proto_version = proto_version.to_string();
    let options = [
        ("task", definition.task.as_str()),
        ("definition_version", version.as_str()),
        ("proto_version", proto_version.as_str()),
        ("compression", compression),
    ];
    let name = format!("trem:{}:stream", definition.task);
    let source = source.with_application_name(&name);
    let mut replication = ReplicationConnection::connect(&source).await?;
    let status_every = replication.status_interval().await?;
    let stream = replication.start(&slot_name(&definition.task), from, &options).await?;
    Ok((stream, status_every))
}

fn hand_in(apply: &mut Apply, event: Event, actions: &mut Vec<Action>) -> Result<()> {
    apply.handle(event, actions).map_err(|error| Error::new(Kind::Protocol, error.to_string()))
}

fn message_bytes(message: &Message) -> usize {
    match message {
        Message::Insert(run) | Message::Update(run) | Message::Delete(run) => run.rows.len(),
        Message::Begin(_)
        | Message::Relation(_)
        | Message::Truncate(_)
        | Message::Error(_)
        | Message::Logical(_)
        | Message::Commit(_) => 64,
    }
}

fn windows(records: &[progress::TableRecord]) -> Result<HashMap<u32, Window>> {
    let mut windows = HashMap::new();
    for record in records {
        let Some(text) = &record.snapshot else { continue };
        let snapshot = Snapshot::parse(text).ok_or_else(|| {
            Error::new(Kind::Mismatch, "trem_target.table_state holds a snapshot that is none")
        })?;
        windows.insert(record.source_oid, Window { overlap_end: record.overlap_end, snapshot });
    }
    Ok(windows)
}
