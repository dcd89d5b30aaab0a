//! What a task's worker tells the source about itself, for `trem.task_status` and
//! `trem.table_status`.
//!
//! The worker changes the report whenever it likes; a task of its own sends the newest, at most
//! once a second, over a connection of its own. A report that cannot be sent is no error of the
//! task: the next one says it again.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use trem_wire::Lsn;

use crate::conninfo::ConnInfo;
use crate::error::Error;
use crate::metrics;
use crate::source::control::Control;
use crate::target::Counts;

const AT_MOST_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Starting,
    Waiting,
    FullLoad,
    Cdc,
    Stopped,
    Failed,
    Finished,
}

impl Phase {
    pub const ALL: [Phase; 7] = [
        Phase::Starting,
        Phase::Waiting,
        Phase::FullLoad,
        Phase::Cdc,
        Phase::Stopped,
        Phase::Failed,
        Phase::Finished,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Waiting => "waiting",
            Phase::FullLoad => "full_load",
            Phase::Cdc => "cdc",
            Phase::Stopped => "stopped",
            Phase::Failed => "failed",
            Phase::Finished => "finished",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TablePhase {
    Pending,
    Loading,
    Live,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TableReport {
    pub oid: u32,
    /// As the target has it, for metrics: the source knows it.
    #[serde(skip)]
    pub target_table: String,
    pub state: TablePhase,
    pub rows_loaded: u64,
    pub bytes_loaded: u64,
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub conflicts: u64,
    pub overlap_end: Option<Lsn>,
}

impl TableReport {
    pub fn new(oid: u32, target_table: String, state: TablePhase) -> Self {
        TableReport {
            oid,
            target_table,
            state,
            rows_loaded: 0,
            bytes_loaded: 0,
            inserts: 0,
            updates: 0,
            deletes: 0,
            conflicts: 0,
            overlap_end: None,
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    pub phase: Phase,
    pub applied_lsn: Option<Lsn>,
    pub confirmed_lsn: Option<Lsn>,
    pub last_error: Option<String>,
    pub last_error_hint: Option<String>,
    pub tables: BTreeMap<u32, TableReport>,
}

impl Report {
    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "phase": self.phase.name(),
            "applied_lsn": self.applied_lsn,
            "confirmed_lsn": self.confirmed_lsn,
            "last_error": self.last_error,
            "last_error_hint": self.last_error_hint,
            "applier": format!("pid {}", std::process::id()),
            "tables": self.tables.values().collect::<Vec<_>>(),
        })
    }

    /// Adds what was applied since `before` to the tables' totals.
    pub fn add_counts(&mut self, before: &HashMap<u32, Counts>, now: &HashMap<u32, Counts>) {
        for (oid, counts) in now {
            let old = before.get(oid).copied().unwrap_or_default();
            if let Some(table) = self.tables.get_mut(oid) {
                table.inserts += counts.inserts - old.inserts;
                table.updates += counts.updates - old.updates;
                table.deletes += counts.deletes - old.deletes;
                table.conflicts += counts.conflicts - old.conflicts;
            }
        }
    }
}

/// Hands reports to the source. Clones share one report.
#[derive(Clone)]
pub struct Reporter {
    report: watch::Sender<Report>,
    flush: mpsc::Sender<oneshot::Sender<()>>,
}

impl Reporter {
    pub fn spawn(source: ConnInfo, task: &str) -> Self {
        let report = Report {
            phase: Phase::Starting,
            applied_lsn: None,
            confirmed_lsn: None,
            last_error: None,
            last_error_hint: None,
            tables: BTreeMap::new(),
        };
        let (report, watched) = watch::channel(report);
        let (flush, flushes) = mpsc::channel(1);
        tokio::spawn(send_reports(source, task.to_owned(), watched, flushes));
        Reporter { report, flush }
    }

    pub fn update(&self, change: impl FnOnce(&mut Report)) {
        self.report.send_modify(change);
    }

    /// Enters a phase. The last error stays visible until streaming goes well again.
    pub fn phase(&self, phase: Phase) {
        self.update(|report| {
            report.phase = phase;
            if matches!(phase, Phase::Cdc | Phase::Finished) {
                report.last_error = None;
                report.last_error_hint = None;
            }
        });
    }

    pub fn error(&self, phase: Phase, error: &Error) {
        self.update(|report| {
            report.phase = phase;
            report.last_error = Some(error.to_string());
            report.last_error_hint = error.hint_text().map(str::to_owned);
        });
    }

    /// Sends the newest report now, and waits until it is there or cannot be sent.
    pub async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        if self.flush.send(done).await.is_ok() {
            let _ = tokio::time::timeout(AT_MOST_EVERY * 3, sent).await;
        }
    }
}

async fn send_reports(
    source: ConnInfo,
    task: String,
    mut report: watch::Receiver<Report>,
    mut flushes: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let mut control: Option<Control> = None;
    let mut next = tokio::time::Instant::now();
    loop {
        let flushed = tokio::select! {
            changed = async {
                tokio::time::sleep_until(next).await;
                report.changed().await
            } => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
            flush = flushes.recv() => match flush {
                Some(done) => Some(done),
                None => return,
            },
        };
        let newest = {
            let report = report.borrow_and_update();
            metrics::publish(&task, &report);
            report.to_json()
        };
        if let Err(error) = send(&source, &task, &mut control, &newest).await {
            tracing::debug!(task = %task, "report not sent: {error}");
            control = None;
        }
        if let Some(done) = flushed {
            let _ = done.send(());
        }
        next = tokio::time::Instant::now() + AT_MOST_EVERY;
    }
}

async fn send(
    source: &ConnInfo,
    task: &str,
    control: &mut Option<Control>,
    report: &serde_json::Value,
) -> Result<(), Error> {
    let open = match control.take() {
        Some(open) => open,
        None => Control::connect(source, &format!("{task}:report")).await?,
    };
    open.report(task, report).await?;
    *control = Some(open);
    Ok(())
}
