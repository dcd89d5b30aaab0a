//! The life of one task: from taking it on to following its slot.
//!
//! # Protocol
//! ```text
//! 1. open the target session, take the task's advisory lock
//! 2. read the published definition
//! 3. check both sides; nothing is written before that
//! 4. no progress on the target:  drop an orphan slot, create the slot, record progress and tables
//!    progress there:             slot, system and timeline must be the ones it came from
//! 5. bring the target's tables in line with the definition: added, reloaded, removed
//! 6. load what is not live
//! 7. follow the slot from applied_lsn
//! 8. definition changed:  finish the group, back to 2
//! ```
//! # Crash argument
//! Every step starts from what is durable. The slot is created before progress is recorded, so a
//! crash between leaves a slot without progress, which is dropped (nothing was copied from it).
//! Progress and table records are one transaction. From then on the target's `applied_lsn` says
//! where to go on, and the slot is never confirmed past it.
//!
//! `prepare` does 3 to 5, `follow` does 7.
//!
//! # Stop
//! It is looked at between these steps, and inside of the long ones. A server may keep us waiting
//! in any of them, say for a lock on a table of the target: a while after the request the worker is
//! dropped where it is.

mod follow;
mod pace;
mod prepare;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use trem_wire::definition::Definition;
use trem_wire::Lsn;

use crate::conninfo::ConnInfo;
use crate::error::{Error, Kind, Result};
use crate::load::Load;
use crate::report::{Phase, Reporter};
use crate::source::control::{Control, Task};
use crate::source::snapshot::Holder;
use crate::stop::Stop;
use crate::target::progress::{self, Progress};
use crate::target::session::Session;
use crate::telemetry::Bars;

/// How long an applier waits for one that holds the task before it says so.
const LOCK_TIMEOUT: &str = "10s";

/// A definition that was published is looked for again after this time; a notification is sooner.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long a stop may take, when a server does not answer, before everything is given up.
const STOP_MAX: Duration = Duration::from_secs(15);

/// After this time it is said that it cannot be seen.
const TOLD_AFTER: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// With `--until-caught-up`: everything committed before it started is applied.
    CaughtUp,
    /// A task of mode full_load is done.
    Finished,
    /// Asked to stop.
    Stopped,
}

/// What a worker is given, and by what it is told to stop or to look again.
#[derive(Clone)]
pub struct Worker {
    pub source: ConnInfo,
    pub task: Task,
    pub until_caught_up: bool,
    pub stop: Stop,
    /// Something about the task changed on the source.
    pub wake: Arc<Notify>,
    pub reporter: Reporter,
    pub bars: Bars,
}

/// One run of a worker: connections and what it has learnt.
struct Run {
    worker: Worker,
    target: ConnInfo,
    control: Arc<Control>,
    session: Session,
    /// Changes up to here are applied one by one, because a group failed.
    careful_until: Lsn,
    /// Groups up to here are of one transaction each, because the stream ended in the next one.
    singly_until: Lsn,
}

/// A slot that was created just now, with the snapshot that belongs to it.
type Fresh = Option<(Holder, Lsn)>;

impl Worker {
    /// Serves the task until it is done, stopped, or fails.
    pub async fn run(self) -> Result<Outcome> {
        let name = self.task.name.clone();
        let stop = self.stop.clone();
        let result = tokio::select! {
            result = self.serve() => result,
            () = long_asked(stop) => {
                tracing::info!(task = %name, "a server does not answer: what is open is given up");
                Ok(Outcome::Stopped)
            }
        };
        result.map_err(|error| error.context(format!("task \"{name}\"")))
    }

    async fn serve(self) -> Result<Outcome> {
        self.reporter.phase(Phase::Starting);
        let target = ConnInfo::from_target(&self.task.target)
            .map_err(|error| error.context("target endpoint"))?;
        let name = format!("{}:control", self.task.name);
        let session = async {
            let session = Session::open(&target, &self.task.name, &self.task.task_id).await;
            session.map_err(|error| at_target(error, &self.task.target))
        };
        let (control, session) = tokio::try_join!(Control::connect(&self.source, &name), session)?;
        let control = Arc::new(control);
        let mut run = Run {
            worker: self,
            target,
            control,
            session,
            careful_until: Lsn::INVALID,
            singly_until: Lsn::INVALID,
        };
        run.take_task().await?;
        run.life().await
    }
}

impl Run {
    fn name(&self) -> &str {
        &self.worker.task.name
    }

    fn stopping(&self) -> bool {
        self.worker.stop.is_asked()
    }

    async fn take_task(&self) -> Result<()> {
        if self.session.try_lock().await? {
            return Ok(());
        }
        self.worker.reporter.phase(Phase::Waiting);
        tracing::info!(task = %self.name(), "another applier serves the task: waiting for it");
        self.session
            .client()
            .batch_execute(&format!("SET lock_timeout = '{LOCK_TIMEOUT}'"))
            .await?;
        let mut stop = self.worker.stop.clone();
        let locked = tokio::select! {
            locked = self.session.lock() => locked,
            () = stop.asked() => return Ok(()),
        };
        locked.map_err(|error| match error.kind() {
            Kind::Conflict => Error::new(Kind::Taken, "the task is taken by another applier")
                .hint("Run one applier for a task; this one tries again until the other ends."),
            _ => error,
        })?;
        self.session.client().batch_execute("SET lock_timeout = 0").await.map_err(Into::into)
    }

    async fn life(&mut self) -> Result<Outcome> {
        loop {
            if self.stopping() {
                return Ok(Outcome::Stopped);
            }
            let definition = Arc::new(self.control.definition(&self.worker.task.name).await?);
            let (progress, fresh) = self.prepare(&definition).await?;
            let progress = match progress {
                Some(progress) => progress,
                None => return Ok(Outcome::Finished),
            };
            if let Err(error) = self.load(&definition, fresh).await {
                // A view or a table may be gone because a newer definition has no use for it.
                let version = self.control.definition(self.name()).await?.definition_version;
                if version == definition.definition_version {
                    return Err(error);
                }
                tracing::info!(task = %self.name(), "the definition changed during the load");
                continue;
            }
            if self.stopping() {
                return Ok(Outcome::Stopped);
            }
            if let Some(outcome) = self.follow(&definition, &progress).await? {
                return self.end(&definition, outcome).await;
            }
            tracing::info!(task = %self.name(), "the definition changed");
            self.newer_than(definition.definition_version).await?;
        }
    }

    /// Waits until a newer definition is visible. The stream tells of it as soon as it is in the
    /// WAL; while its commit waits for a synchronous standby nobody sees it yet.
    async fn newer_than(&self, version: i64) -> Result<()> {
        let mut stop = self.worker.stop.clone();
        let began = Instant::now();
        let mut told = false;
        while self.control.definition(self.name()).await?.definition_version == version {
            if !told && began.elapsed() >= TOLD_AFTER {
                told = true;
                tracing::warn!(
                    task = %self.name(),
                    "the task was published again and the new definition cannot be seen yet: its \
                     commit waits for a synchronous standby of the source"
                );
            }
            tokio::select! {
                () = self.worker.wake.notified() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = stop.asked() => return Ok(()),
            }
        }
        Ok(())
    }

    async fn load(&self, definition: &Arc<Definition>, fresh: Fresh) -> Result<()> {
        let records = progress::read_tables(self.session.client(), &definition.task_id).await?;
        let pending: Vec<_> = definition
            .tables
            .iter()
            .filter(|table| {
                records.iter().any(|record| {
                    record.source_oid == table.oid && record.state == progress::TableState::Loading
                })
            })
            .cloned()
            .collect();
        if pending.is_empty() {
            return Ok(());
        }
        self.worker.reporter.phase(Phase::FullLoad);
        tracing::info!(task = %self.name(), tables = pending.len(), "full load");
        let load = Load {
            source: self.worker.source.clone(),
            target: self.target.clone(),
            definition: Arc::clone(definition),
            reporter: self.worker.reporter.clone(),
            bars: self.worker.bars.clone(),
        };
        let mut stop = self.worker.stop.clone();
        tokio::select! {
            loaded = load.run(pending, fresh) => loaded,
            () = stop.asked() => Ok(()),
        }
    }

    /// What is left to do when the stream has ended well.
    async fn end(&self, definition: &Definition, outcome: Outcome) -> Result<Outcome> {
        if outcome != Outcome::CaughtUp || definition.mode.has_cdc() {
            return Ok(outcome);
        }
        progress::finish(self.session.client(), &definition.task_id).await?;
        self.drop_slot().await?;
        Ok(Outcome::Finished)
    }
}

/// Asked to stop, and long enough ago to end whatever is waited for. That is as good as a kill:
/// what is not committed is rolled back and comes again.
async fn long_asked(mut stop: Stop) {
    stop.asked().await;
    tokio::time::sleep(STOP_MAX).await;
}

/// Names the endpoint, and how it is mended.
fn at_target(error: Error, endpoint: &serde_json::Value) -> Error {
    let name = endpoint["name"].as_str().unwrap_or_default();
    let error = error.context(format!("target endpoint \"{name}\""));
    if error.kind() != Kind::Authentication {
        return error;
    }
    let quoted = name.replace('\'', "''");
    let remedy = format!(
        "SELECT trem.alter_endpoint('{quoted}', ...) changes the endpoint's username, password, \
         dbname, host, port or options."
    );
    let hint = match error.hint_text() {
        Some(hint) => format!("{hint} {remedy}"),
        None => remedy,
    };
    error.hint(hint)
}

/// The task has progress and its slot: what `follow` starts from.
fn applied(progress: &Progress) -> Lsn {
    progress.applied_lsn
}
