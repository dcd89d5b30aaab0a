//! Serves many tasks at once: one worker each, started, woken, retried and stopped alone.
//!
//! # What wakes it
//! A NOTIFY of the source (its payload names the task that was started, stopped, published or
//! dropped), a worker that ended, a pause that is over, a lost connection to the source, a signal.
//! It never polls: after a lost connection it lists the tasks anew.
//!
//! # What becomes of a worker that failed
//! [`Error::policy`](crate::error::Error::policy) decides: again after a pause that doubles up to
//! [`PAUSE_MAX`]; a few times; at once; or not until the task is started again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{watch, Notify};
use tokio::task::JoinSet;
use tokio_postgres::Notification;

use crate::conninfo::ConnInfo;
use crate::error::{Error, Kind, Policy, Result};
use crate::report::{Phase, Reporter};
use crate::source::control::{Control, Task};
use crate::stop::Stop;
use crate::telemetry::Bars;
use crate::worker::{Outcome, Worker};

/// In the name of its sessions.
const ROLE: &str = "supervisor";

const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A worker that ran this long before it failed starts with the shortest pause again.
const RAN_WELL: Duration = Duration::from_secs(60);

/// How often something that may never pass is tried; with an end in sight, everything.
const FEW_TIMES: u32 = 5;

#[derive(Clone, Debug)]
pub struct Options {
    pub source: ConnInfo,
    /// Empty: every started task.
    pub tasks: Vec<String>,
    pub until_caught_up: bool,
}

/// Why the program ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Done,
    /// With `--until-caught-up`: at least one task failed; each was reported.
    TaskFailed,
}

struct Running {
    worker: tokio::task::Id,
    stop: watch::Sender<bool>,
    wake: Arc<Notify>,
    reporter: Reporter,
    started_at: Instant,
    failures: u32,
    task: Task,
}

type Ended = (String, Result<Outcome>);

struct Supervisor {
    options: Options,
    /// Its session listens.
    control: Control,
    bars: Bars,
    running: HashMap<String, Running>,
    workers: JoinSet<Ended>,
    failed: bool,
}

/// Serves until done, or until `stop` says so.
pub async fn run(options: Options, bars: Bars, mut stop: Stop) -> Result<End> {
    let (control, mut notifications) = Control::listen(&options.source, ROLE).await?;
    let mut supervisor = Supervisor {
        options,
        control,
        bars,
        running: HashMap::new(),
        workers: JoinSet::new(),
        failed: false,
    };
    supervisor.refresh(None, true).await?;
    loop {
        if supervisor.options.until_caught_up && supervisor.workers.is_empty() {
            return Ok(if supervisor.failed { End::TaskFailed } else { End::Done });
        }
        tokio::select! {
            notification = notifications.recv() => match notification {
                Some(notification) => {
                    supervisor.notified(notification.payload()).await;
                }
                None => {
                    if let Some(again) = supervisor.listen_again(&mut stop).await {
                        notifications = again;
                    }
                }
            },
            Some(ended) = supervisor.workers.join_next() => {
                if let Some(task) = supervisor.ended(ended).await {
                    supervisor.notified(&task).await;
                }
            }
            () = stop.asked() => {
                supervisor.stop_all().await;
                return Ok(End::Done);
            }
        }
    }
}

impl Supervisor {
    /// The source went away: until it is back the workers retry on their own. `None`: asked to
    /// stop.
    async fn listen_again(&mut self, stop: &mut Stop) -> Option<UnboundedReceiver<Notification>> {
        tracing::info!("the connection that listens to the source is lost: connecting again");
        let mut pause = PAUSE_MIN;
        loop {
            let listened = tokio::select! {
                listened = self.listen() => listened,
                () = stop.asked() => return None,
            };
            match listened {
                Ok(notifications) => {
                    if let Err(error) = self.refresh(None, false).await {
                        tracing::warn!("the tasks cannot be listed: {error}");
                    }
                    return Some(notifications);
                }
                Err(error) => tracing::debug!("the source is not back: {error}"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                () = stop.asked() => return None,
            }
        }
    }

    async fn listen(&mut self) -> Result<UnboundedReceiver<Notification>> {
        let (control, notifications) = Control::listen(&self.options.source, ROLE).await?;
        self.control = control;
        Ok(notifications)
    }

    async fn notified(&mut self, task: &str) {
        if let Some(running) = self.running.get(task) {
            running.wake.notify_one();
        }
        if self.options.until_caught_up {
            return;
        }
        if let Err(error) = self.refresh(Some(task), false).await {
            tracing::warn!(task = %task, "the tasks cannot be listed: {error}");
        }
    }

    /// Starts workers for started tasks and stops those of stopped ones. `only`: one task.
    async fn refresh(&mut self, only: Option<&str>, first: bool) -> Result<()> {
        let tasks = self.control.tasks().await?;
        if first {
            self.check_named(&tasks)?;
        }
        let names = &self.options.tasks;
        let wanted: Vec<_> = tasks
            .into_iter()
            .filter(|task| task.started && (names.is_empty() || names.contains(&task.name)))
            .collect();
        for (name, running) in &self.running {
            if !wanted.iter().any(|task| task.name == *name) && !running.stop.send_replace(true) {
                tracing::info!(task = %name, "stopping: the open group is finished first");
            }
        }
        for task in wanted {
            let due = only.is_none_or(|only| only == task.name);
            if due && !self.running.contains_key(&task.name) {
                self.start(task, 0, Duration::ZERO);
            }
        }
        Ok(())
    }

    fn check_named(&self, tasks: &[Task]) -> Result<()> {
        for name in &self.options.tasks {
            let task = tasks.iter().find(|task| task.name == *name).ok_or_else(|| {
                let message = format!("there is no task \"{name}\" that this role may serve");
                let names: Vec<_> = tasks.iter().map(|task| task.name.as_str()).collect();
                let hint = match names.is_empty() {
                    true => "Create one with trem.create_task, or connect as the role named in \
                             the task's source endpoint."
                        .to_owned(),
                    false => format!("It may serve: {}.", names.join(", ")),
                };
                Error::new(Kind::Argument, message).hint(hint)
            })?;
            if !task.started && self.options.until_caught_up {
                let message = format!("task \"{name}\" is not started");
                return Err(Error::new(Kind::Argument, message)
                    .hint(format!("SELECT trem.start_task('{name}');")));
            }
        }
        if tasks.iter().any(|task| task.started) {
            return Ok(());
        }
        if self.options.until_caught_up {
            return Err(Error::new(Kind::Argument, "there is no started task to serve")
                .hint("Start one with SELECT trem.start_task('name')."));
        }
        tracing::info!("no task is started yet: waiting for one");
        Ok(())
    }

    fn start(&mut self, task: Task, failures: u32, pause: Duration) {
        let (stop, stopped) = Stop::new();
        let name = task.name.clone();
        let wake = Arc::new(Notify::new());
        let reporter = Reporter::spawn(self.options.source.clone(), &name);
        let worker = Worker {
            source: self.options.source.clone(),
            task: task.clone(),
            until_caught_up: self.options.until_caught_up,
            stop: stopped.clone(),
            wake: Arc::clone(&wake),
            reporter: reporter.clone(),
            bars: self.bars.clone(),
        };
        let worker = self.workers.spawn(after(pause, stopped, worker)).id();
        let started_at = Instant::now() + pause;
        let running = Running { worker, stop, wake, reporter, started_at, failures, task };
        self.running.insert(name, running);
    }

    /// Takes in the end of a worker. The task whose state on the source is to be looked at comes
    /// back: it changed when the worker could not be told any more.
    async fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) -> Option<String> {
        let (name, result) = match ended {
            Ok(ended) => ended,
            Err(died) => {
                let of = self.running.iter().find(|(_, running)| running.worker == died.id());
                let name = of.map(|(name, _)| name.clone())?;
                (name, Err(Error::new(Kind::Internal, format!("the worker died: {died}"))))
            }
        };
        let running = self.running.remove(&name)?;
        let stopping = *running.stop.borrow();
        let changed = stopping || running.wake.notified().now_or_never().is_some();
        let look_again = changed.then(|| name.clone());
        let error = match result {
            Ok(outcome) => {
                let phase = match outcome {
                    Outcome::CaughtUp | Outcome::Stopped => Phase::Stopped,
                    Outcome::Finished => Phase::Finished,
                };
                tracing::info!(task = %name, "{}", outcome_text(outcome));
                running.reporter.phase(phase);
                running.reporter.flush().await;
                return look_again;
            }
            Err(error) => error,
        };
        let ran_well = running.started_at.elapsed() > RAN_WELL;
        let failures = if ran_well { 1 } else { running.failures + 1 };
        let again = match error.policy() {
            Policy::Retry => !self.options.until_caught_up || failures < FEW_TIMES,
            Policy::RetryFewTimes => failures < FEW_TIMES,
            Policy::Restart => true,
            Policy::Stop => false,
        };
        if again && !stopping {
            let pause = (PAUSE_MIN * 2_u32.pow(failures.min(10) - 1)).min(PAUSE_MAX);
            tracing::warn!("{error}; again in {} ms", pause.as_millis());
            running.reporter.error(Phase::Starting, &error);
            running.reporter.flush().await;
            self.restart(running.task, failures, pause).await;
            return None;
        }
        self.failed = true;
        match error.hint_text() {
            Some(hint) => tracing::error!(hint = %hint, "{error}"),
            None => tracing::error!("{error}"),
        }
        running.reporter.error(Phase::Failed, &error);
        running.reporter.flush().await;
        look_again
    }

    /// With the task as the source has it now: its endpoint may have been mended.
    async fn restart(&mut self, task: Task, failures: u32, pause: Duration) {
        // A session of its own: what made the worker fail may have cut ours off unnoticed.
        let listed = async {
            let control = Control::connect(&self.options.source, ROLE).await?;
            control.tasks().await
        };
        let task = match listed.await {
            Ok(tasks) => tasks.into_iter().find(|now| now.name == task.name && now.started),
            Err(error) => {
                tracing::debug!(task = %task.name, "the source does not answer: {error}");
                Some(task)
            }
        };
        if let Some(task) = task {
            self.start(task, failures, pause);
        }
    }

    /// Ends every worker cleanly and waits for them.
    async fn stop_all(&mut self) {
        for running in self.running.values() {
            running.stop.send_replace(true);
        }
        while let Some(ended) = self.workers.join_next().await {
            self.ended(ended).await;
        }
    }
}

async fn after(pause: Duration, mut stop: Stop, worker: Worker) -> Ended {
    let name = worker.task.name.clone();
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = stop.asked() => return (name, Ok(Outcome::Stopped)),
    }
    let result = worker.run().await;
    (name, result)
}

fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::CaughtUp => "caught up",
        Outcome::Finished => "full load finished",
        Outcome::Stopped => "stopped",
    }
}
