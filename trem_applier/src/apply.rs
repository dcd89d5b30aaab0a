//! What the stream's messages mean for the target: a state machine with no I/O, no clock and no
//! async. Events go in, actions come out; the worker carries the actions out, in order.
//!
//! # Groups
//! Whole source transactions are applied in one target transaction, a *group*. A group ends, always
//! right after a source commit, when nothing more is at hand ([`Event::Idle`]) or when it is large
//! ([`Limits`]). So nothing waits when the stream is idle, and a backlog is applied in few commits.
//! The group's last action is [`Action::Commit`] with the `end_lsn` of its last transaction: the
//! target records it as `applied_lsn` in the same transaction. A transaction of any size flows
//! through: its changes are handed out as they come, and nothing is kept here but the open
//! transaction's header.
//!
//! # Windows
//! A table loaded under a snapshot that is later than the slot's first position already has part of
//! what the stream brings. Its [`Window`] says which: of a transaction with
//! `commit_lsn < overlap_end` the changes of this table are skipped exactly if the snapshot sees
//! its transaction id. Positions alone would not do: a transaction can be in the WAL before a
//! snapshot is taken and still be invisible to it. The snapshot is closed under row conflicts
//! (whoever changed a row after a transaction T waited for T to be visible), so what remains
//! applies exactly, without upserts, also to a table without a key.
//!
//! # Crash argument
//! Nothing here survives the process and nothing here needs to. After a crash the stream starts
//! again at the durable `applied_lsn`, at a transaction boundary; windows are durable with their
//! tables; every decision is a function of these and of the stream.

use std::collections::HashMap;
use std::sync::Arc;

use trem_wire::message::{Begin, ErrorRow, Message, Relation, Run};
use trem_wire::Lsn;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The stream brought a message.
    Received(Message),
    /// Everything that has arrived was handed in.
    Idle,
    /// The source has nothing for us up to this position, which is worth a transaction of its own
    /// on the target or not: later positions tell the same.
    Passed { position: Lsn, record: bool },
}

/// What to do on the target, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// The changes that follow belong to this source transaction. Comes before its first change.
    Transaction {
        xid: u64,
        commit_lsn: Lsn,
    },
    Insert(Arc<Relation>, Run),
    Update(Arc<Relation>, Run),
    Delete(Arc<Relation>, Run),
    /// Several tables, because foreign keys may tie them.
    Truncate(Vec<Arc<Relation>>),
    /// The source could not compute a row: stop, or record it, as the task wants.
    RowFailed(Arc<Relation>, ErrorRow),
    /// Ends the group: record the position in its transaction and commit.
    Commit {
        applied_lsn: Lsn,
        transactions: u64,
    },
    /// No group is open and nothing is due before this position: it may be recorded.
    Advance {
        applied_lsn: Lsn,
    },
    /// A barrier's transaction is part of the group that the next `Commit` ends.
    Barrier {
        token: String,
    },
}

/// Bytes that a changed row takes beside its own until it is applied: rows are netted by key.
const NETTED: usize = 96;

/// When a group is large.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub group_bytes: usize,
    pub group_transactions: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { group_bytes: 8 << 20, group_transactions: 20_000 }
    }
}

/// The transactions that a snapshot sees, by 64-bit transaction id, as `pg_snapshot` has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

impl Snapshot {
    /// Reads the text of a `pg_snapshot`: `xmin:xmax:xip,xip`. `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let list = parts.next()?;
        let mut in_progress = list
            .split(',')
            .filter(|xid| !xid.is_empty())
            .map(|xid| xid.parse().ok())
            .collect::<Option<Vec<u64>>>()?;
        in_progress.sort_unstable();
        Some(Snapshot { xmin, xmax, in_progress })
    }

    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }
}

/// How much of the stream a table's copy already holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    pub overlap_end: Lsn,
    pub snapshot: Snapshot,
}

/// A stream that breaks its own rules. A bug on the other side, or another program's stream.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("{message} outside a transaction, after {after}")]
    OutsideTransaction { message: &'static str, after: Lsn },
    #[error("transaction {xid} starts inside transaction {open}")]
    Nested { xid: u64, open: u64 },
    #[error("change of a table (OID {relation}) that the stream has not described")]
    UnknownRelation { relation: u32 },
}

/// The state: the open source transaction, the open group, the tables as last described.
#[derive(Debug)]
pub struct Apply {
    limits: Limits,
    relations: HashMap<u32, Arc<Relation>>,
    windows: HashMap<u32, Window>,
    open: Option<Begin>,
    /// The open transaction's header was handed out.
    announced: bool,
    group: Group,
    applied_lsn: Lsn,
    /// What the last commit or advance was told to record.
    recorded_lsn: Lsn,
}

/// What the open group holds so far.
#[derive(Debug, Default)]
struct Group {
    bytes: usize,
    transactions: u64,
}

impl Apply {
    /// Starts at a durable position. `windows` by table OID, for tables whose window may be open.
    pub fn new(applied_lsn: Lsn, windows: HashMap<u32, Window>, limits: Limits) -> Self {
        let windows = windows.into_iter().filter(|(_, w)| w.overlap_end > applied_lsn).collect();
        Apply {
            limits,
            relations: HashMap::new(),
            windows,
            open: None,
            announced: false,
            group: Group::default(),
            applied_lsn,
            recorded_lsn: applied_lsn,
        }
    }

    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The `end_lsn` of the last transaction handed out whole.
    pub fn applied_lsn(&self) -> Lsn {
        self.applied_lsn
    }

    /// Whole transactions wait for the group's commit, and [`Event::Idle`] would bring it.
    pub fn has_group(&self) -> bool {
        self.holds_whole() && self.open.is_none()
    }

    /// What the rows take that wait for the group's commit, or were handed out for it, in bytes.
    pub fn group_bytes(&self) -> usize {
        self.group.bytes
    }

    /// No source transaction is open and no group waits for its commit.
    pub fn at_boundary(&self) -> bool {
        self.open.is_none() && self.group.transactions == 0
    }

    /// Whole transactions wait for the group's commit.
    pub fn holds_whole(&self) -> bool {
        self.group.transactions > 0
    }

    /// The source transaction that is being handed out.
    pub fn open_transaction(&self) -> Option<&Begin> {
        self.open.as_ref()
    }

    pub fn handle(&mut self, event: Event, actions: &mut Vec<Action>) -> Result<(), ApplyError> {
        match event {
            Event::Received(message) => self.receive(message, actions),
            Event::Idle => {
                if self.open.is_none() {
                    self.end_group(actions);
                }
                Ok(())
            }
            Event::Passed { position, record } => {
                if self.at_boundary() {
                    self.moved_to(position.max(self.applied_lsn));
                    if record && self.applied_lsn > self.recorded_lsn {
                        self.recorded_lsn = self.applied_lsn;
                        actions.push(Action::Advance { applied_lsn: self.applied_lsn });
                    }
                }
                Ok(())
            }
        }
    }

    fn receive(&mut self, message: Message, actions: &mut Vec<Action>) -> Result<(), ApplyError> {
        match message {
            Message::Begin(begin) => {
                self.announced = false;
                if let Some(open) = self.open.replace(begin) {
                    return Err(ApplyError::Nested { xid: begin.xid, open: open.xid });
                }
            }
            Message::Relation(relation) => {
                self.relations.insert(relation.oid, relation);
            }
            Message::Insert(run) => self.change("insert", run, Action::Insert, 0, actions)?,
            Message::Update(run) => self.change("update", run, Action::Update, NETTED, actions)?,
            Message::Delete(run) => self.change("delete", run, Action::Delete, NETTED, actions)?,
            Message::Truncate(truncate) => {
                let begin = *self.inside("truncate")?;
                let mut relations = Vec::with_capacity(truncate.relations.len());
                for oid in truncate.relations {
                    let relation = self.relation(oid)?;
                    if !self.is_copied(oid, &begin) {
                        relations.push(relation);
                    }
                }
                if !relations.is_empty() {
                    self.announce(&begin, actions);
                    actions.push(Action::Truncate(relations));
                }
            }
            Message::Error(error) => {
                let begin = *self.inside("error row")?;
                let relation = self.relation(error.relation)?;
                if !self.is_copied(error.relation, &begin) {
                    self.announce(&begin, actions);
                    actions.push(Action::RowFailed(relation, error));
                }
            }
            Message::Logical(logical) => {
                self.inside("message")?;
                let content = std::str::from_utf8(&logical.content).unwrap_or_default();
                if let Some(token) = content.strip_prefix("barrier:") {
                    actions.push(Action::Barrier { token: token.to_owned() });
                }
            }
            Message::Commit(commit) => {
                self.inside("commit")?;
                self.open = None;
                self.group.transactions += 1;
                self.moved_to(commit.end_lsn);
                if self.is_large() {
                    self.end_group(actions);
                }
            }
        }
        Ok(())
    }

    fn change(
        &mut self,
        message: &'static str,
        run: Run,
        action: fn(Arc<Relation>, Run) -> Action,
        row_cost: usize,
        actions: &mut Vec<Action>,
    ) -> Result<(), ApplyError> {
        let begin = *self.inside(message)?;
        let relation = self.relation(run.relation)?;
        if !self.is_copied(run.relation, &begin) {
            self.group.bytes += run.rows.len() + run.row_count as usize * row_cost;
            self.announce(&begin, actions);
            actions.push(action(relation, run));
        }
        Ok(())
    }

    fn announce(&mut self, begin: &Begin, actions: &mut Vec<Action>) {
        if !std::mem::replace(&mut self.announced, true) {
            let Begin { xid, commit_lsn, .. } = *begin;
            actions.push(Action::Transaction { xid, commit_lsn });
        }
    }

    fn inside(&self, message: &'static str) -> Result<&Begin, ApplyError> {
        let outside = ApplyError::OutsideTransaction { message, after: self.applied_lsn };
        self.open.as_ref().ok_or(outside)
    }

    fn relation(&self, oid: u32) -> Result<Arc<Relation>, ApplyError> {
        let unknown = ApplyError::UnknownRelation { relation: oid };
        self.relations.get(&oid).cloned().ok_or(unknown)
    }

    /// The table's copy holds what this transaction did to it.
    fn is_copied(&self, relation: u32, begin: &Begin) -> bool {
        self.windows.get(&relation).is_some_and(|window| {
            begin.commit_lsn < window.overlap_end && window.snapshot.sees(begin.xid)
        })
    }

    fn is_large(&self) -> bool {
        self.group.bytes >= self.limits.group_bytes
            || self.group.transactions >= self.limits.group_transactions
    }

    fn end_group(&mut self, actions: &mut Vec<Action>) {
        let group = std::mem::take(&mut self.group);
        if group.transactions > 0 {
            let transactions = group.transactions;
            self.recorded_lsn = self.applied_lsn;
            actions.push(Action::Commit { applied_lsn: self.applied_lsn, transactions });
        }
    }

    fn moved_to(&mut self, position: Lsn) {
        self.applied_lsn = position;
        self.windows.retain(|_, window| window.overlap_end > position);
    }
}

#[cfg(test)]
mod tests;
