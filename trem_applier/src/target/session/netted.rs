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
use crate::error::Result;
use crate::target::layout::Layout;
use crate::target::setwise::{Commit, Done, Frame, Running, Setwise};

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
            if self.gather.holds(relation.oid) {
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
        let frame = Frame { begin: None, commit: None };
        let tables = self.gather.take();
        let done = self.idle_setwise().run(frame, tables).await?;
        self.note_done(done);
        Ok(())
    }

    /// Starts to carry out what is gathered, in a transaction that goes on.
    async fn carry_out_part(&mut self) -> Result<()> {
        self.join().await?;
        self.changes.close_copy().await?;
        let here = self.applied_lsn;
        let begin = (self.transaction == Transaction::Closed).then_some((here, here));
        if begin.is_some() {
            self.transaction = Transaction::Locked;
        }
        self.start_job(Frame { begin, commit: None });
        Ok(())
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
        self.join().await?;
        let here = self.applied_lsn;
        let is_open = self.transaction == Transaction::Locked;
        let begin = (!is_open).then_some((here, applied_lsn));
        let commit = Some(Commit { moves_from: is_open.then_some(here), applied_lsn });
        self.transaction = Transaction::Closed;
        self.changes.leave();
        self.start_job(Frame { begin, commit });
        Ok(())
    }

    fn start_job(&mut self, frame: Frame) {
        let tables = self.gather.take();
        self.job = Some(self.idle_setwise().start(frame, tables));
    }

    fn idle_setwise(&mut self) -> Setwise {
        self.setwise.take().expect("no job runs")
    }

    /// A job was started and not joined yet.
    pub fn has_job(&self) -> bool {
        self.job.is_some()
    }

    /// A job runs, and has not come to its end.
    pub fn is_busy(&self) -> bool {
        self.job.as_ref().is_some_and(|job| !job.is_finished())
    }

    /// Waits for the job that runs, if one does. Cancel safe.
    pub async fn join(&mut self) -> Result<()> {
        let Some(job) = &mut self.job else { return Ok(()) };
        let done = Running::done(job).await;
        self.job = None;
        self.note_done(done?);
        Ok(())
    }

    fn note_done(&mut self, done: Done) {
        self.setwise = Some(done.setwise);
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
