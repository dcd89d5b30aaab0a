//! The part of a session that applies set-wise: what is gathered, and when it is carried out.
//!
//! Changes of a table that may be netted wait in [`Gather`](super::Gather) until the group ends, or
//! until they are too many, or until something in source order must come after them. The group is
//! then carried out by a job in the background, and the next one is gathered meanwhile. Whoever
//! needs the connection, or the outcome, calls [`join`](Session::join) first.

use std::sync::Arc;

use trem_wire::message::{Operation, Relation, Run};
use trem_wire::Lsn;

use super::{Session, Transaction};
use crate::error::{Error, Kind, Result};
use crate::target::layout::Layout;
use crate::target::setwise::{Commit, Done, Frame, Setwise, Work};

/// Gathered changes are carried out when they take this much, even in the midst of a transaction.
const GATHERED_BYTES_MAX: usize = 16 << 20;

/// So few rows are quicker with a statement each, sent ahead.
const ROWS_FEW: usize = 24;

impl Session {
    /// Gathers a run, if its table's changes may be netted. What comes back is to be applied now,
    /// in source order.
    pub(super) async fn gather(
        &mut self,
        operation: Operation,
        relation: &Arc<Relation>,
        run: Run,
    ) -> Result<Option<Run>> {
        if self.gather.holds_other(relation) {
            self.carry_out_gathered(None).await?;
        }
        // So large a row might not fit into an array.
        let is_huge = run.rows.len() > GATHERED_BYTES_MAX;
        let layout = match is_huge || self.changes.is_in_order(relation) {
            true => None,
            false => self.layout(relation).await?,
        };
        let Some(layout) = layout else {
            self.gather.pass(&run);
            if self.gather.holds(relation.oid) || self.gather.bytes() >= GATHERED_BYTES_MAX {
                self.carry_out_gathered(None).await?;
            }
            return Ok(Some(run));
        };
        let rest = self.gather.take_in(operation, relation, &layout, &run);
        let left = rest.as_ref().err().map_or(0, |rest| rest.row_count);
        self.changes.count(relation, operation, run.row_count - left);
        match rest {
            Ok(()) if self.gather.bytes() < GATHERED_BYTES_MAX => Ok(None),
            Ok(()) => self.carry_out_part().await.map(|()| None),
            Err(rest) => self.carry_out_gathered(None).await.map(|()| Some(rest)),
        }
    }

    async fn layout(&mut self, relation: &Arc<Relation>) -> Result<Option<Arc<Layout>>> {
        if let Some(layout) = self.gather.layout(relation) {
            return Ok(layout);
        }
        self.join().await?;
        self.changes.close_copy().await?;
        self.gather.find_layout(&self.client, relation).await
    }

    /// Carries out what is gathered, in the open transaction, and waits for it. `end`: the group's
    /// end, if it is at hand.
    pub(super) async fn carry_out_gathered(&mut self, end: Option<Lsn>) -> Result<()> {
        if self.gather.is_empty() {
            return Ok(());
        }
        self.begin(end).await?;
        self.changes.close_copy().await?;
        if self.gather.row_count() <= ROWS_FEW {
            for table in self.gather.take() {
                self.changes.apply_netted(table).await?;
            }
            return Ok(());
        }
        let work = self.take_work();
        self.start_job(Frame { begin: None, commit: None }, work).await?;
        self.join().await
    }

    /// Starts to carry out what is gathered, in a transaction that goes on.
    async fn carry_out_part(&mut self) -> Result<()> {
        let work = self.take_work();
        if !self.changes.is_quiet() {
            self.join().await?;
            self.changes.close_copy().await?;
        }
        let here = self.sent_lsn;
        let begin = (self.transaction == Transaction::Closed).then_some((here, here));
        if begin.is_some() {
            self.transaction = Transaction::Locked;
        }
        self.start_job(Frame { begin, commit: None }, work).await
    }

    /// Everything of the group is gathered, or was; and it is enough to be worth a job.
    pub(super) fn may_end_in_background(&self) -> bool {
        let parts = match self.transaction {
            Transaction::Closed => self.gather.row_count() > ROWS_FEW,
            Transaction::Locked => self.changes.is_quiet(),
            Transaction::Recorded => false,
        };
        parts && self.failed.is_empty()
    }

    /// Starts to carry out what is gathered and to commit it.
    pub(super) async fn end_in_background(&mut self, applied_lsn: Lsn) -> Result<()> {
        let work = self.take_work();
        let here = self.sent_lsn;
        let is_open = self.transaction == Transaction::Locked;
        let begin = (!is_open).then_some((here, applied_lsn));
        let commit = Some(Commit { moves: is_open.then_some((here, applied_lsn)), applied_lsn });
        self.transaction = Transaction::Closed;
        self.changes.leave();
        self.sent_lsn = applied_lsn;
        self.start_job(Frame { begin, commit }, work).await
    }

    /// What is gathered, sorted; best while a job still runs.
    fn take_work(&mut self) -> Vec<Work> {
        self.gather.take().into_iter().map(Work::new).collect()
    }

    /// Starts a job as soon as the last one has sent everything. That one may still read results;
    /// one more may not.
    async fn start_job(&mut self, frame: Frame, work: Vec<Work>) -> Result<()> {
        let setwise = self.sent().await?;
        while self.jobs.len() > 1 {
            self.join_one().await?;
        }
        self.jobs.push_back(setwise.start(&self.thread, frame, work));
        Ok(())
    }

    /// Waits until the last job has sent everything.
    async fn sent(&mut self) -> Result<Setwise> {
        if let (None, Some(job)) = (&self.setwise, self.jobs.back_mut()) {
            self.setwise = job.sent().await;
        }
        match self.setwise.take() {
            Some(setwise) => Ok(setwise),
            None => {
                self.join().await?;
                Err(Error::new(Kind::Internal, "a job of the target's session was lost"))
            }
        }
    }

    /// There is a job that was not joined yet.
    pub fn has_job(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// A job is sending; the next one would have to wait.
    pub fn is_busy(&mut self) -> bool {
        if let (None, Some(job)) = (&self.setwise, self.jobs.back_mut()) {
            self.setwise = job.try_sent();
        }
        self.setwise.is_none()
    }

    /// Waits until a job has sent everything, or else until one ends. Cancel safe.
    pub async fn job_moved(&mut self) -> Result<()> {
        match self.setwise.is_some() {
            true => self.join_one().await,
            false => {
                self.setwise = Some(self.sent().await?);
                Ok(())
            }
        }
    }

    /// Waits for the end of all jobs. Cancel safe.
    pub async fn join(&mut self) -> Result<()> {
        if let (None, Some(job)) = (&self.setwise, self.jobs.back_mut()) {
            self.setwise = job.sent().await;
        }
        while self.has_job() {
            self.join_one().await?;
        }
        Ok(())
    }

    /// Waits for the end of the oldest job. Cancel safe.
    async fn join_one(&mut self) -> Result<()> {
        let Some(job) = self.jobs.front_mut() else { return Ok(()) };
        let done = job.done().await;
        self.jobs.pop_front();
        self.note_done(done?);
        Ok(())
    }

    fn note_done(&mut self, done: Done) {
        for (oid, conflicts) in done.conflicts {
            self.changes.counts.entry(oid).or_default().conflicts += conflicts;
        }
        if let Some(committed) = done.committed {
            self.applied_lsn = committed.applied_lsn;
            self.unflushed.push_back((committed.applied_lsn, committed.inserted));
            self.flushed_up_to(committed.flushed);
        }
    }
}
