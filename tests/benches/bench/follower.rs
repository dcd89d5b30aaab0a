//! One that follows the source into a target database of its own: TREM, or a native subscription.
//!
//! Prepared first (slot made, nothing running), then started and stopped as often as wanted. What
//! is timed is the same for both: from the start until a row that was committed last is visible on
//! the target.

use std::time::{Duration, Instant};

use trem_tests::{look_until, wait_for, Applier, Database};

use crate::arena::{Arena, TARGET_ROLE};
use crate::process::{cpu_seconds, peak_mib};
use crate::report::Figures;
use crate::tables;

/// No workload takes as long; a follower that is stuck fails the bench then.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1800);

/// Exact enough, and next to no load: on two cores that are both busy it would be noticed.
const POLL: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Trem,
    Native,
}

impl Kind {
    pub(crate) const BOTH: [Kind; 2] = [Kind::Trem, Kind::Native];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Trem => "trem",
            Kind::Native => "native",
        }
    }
}

pub(crate) struct Follower {
    kind: Kind,
    /// Of its task or subscription, and of its database.
    name: String,
    pub(crate) target: Database,
    applier: Option<Applier>,
}

impl Follower {
    /// Everything before the workload: database, task or subscription, slot.
    pub(crate) fn prepare(arena: &mut Arena, kind: Kind, name: &str) -> Self {
        Self::prepare_with(arena, kind, name, "bench", "")
    }

    /// The same, a native one with a publication of its own, TREM with rules (SQL, `{task}` is the
    /// task's name).
    pub(crate) fn prepare_with(
        arena: &mut Arena,
        kind: Kind,
        name: &str,
        publication: &str,
        rules: &str,
    ) -> Self {
        let create = format!("CREATE DATABASE {name} TEMPLATE model OWNER {TARGET_ROLE}");
        arena.target.exec(&create);
        let target = arena.target_cluster.connect(name);
        let mut follower = Follower { kind, name: name.to_owned(), target, applier: None };
        match kind {
            Kind::Trem => follower.create_task(arena, rules),
            Kind::Native => {
                let from = arena.superuser_conninfo();
                follower.target.exec(&format!(
                    "CREATE SUBSCRIPTION {name} CONNECTION '{from}' PUBLICATION {publication}
                     WITH (binary, copy_data = false, enabled = false)"
                ));
            }
        }
        follower
    }

    fn create_task(&mut self, arena: &mut Arena, rules: &str) {
        let name = &self.name;
        let host = arena.target_cluster.folder().display().to_string();
        let tables = arena.tables_quoted();
        arena.source.exec(&format!(
            "SELECT trem.create_endpoint('{name}', 'target', dbname => '{name}', host => '{host}', \
             port => 5432, username => '{TARGET_ROLE}');
             SELECT trem.create_task('{name}', 'src', '{name}', ARRAY[{tables}], mode => 'cdc', \
             options => '{{\"target_tables\": \"keep\"}}');
             {}",
            rules.replace("{task}", name)
        ));
        arena.source.exec(&format!("SELECT trem.start_task('{name}')"));
        self.start_applier(arena, &["--until-caught-up"]);
        let mut applier = self.applier.take().expect("it was started");
        wait(arena, "the task's slot", || {
            applier.ended().map(|outcome| outcome.assert_code(0).code)
        });
    }

    fn start_applier(&mut self, arena: &Arena, more: &[&str]) {
        let source = arena.applier_conninfo();
        let mut arguments = vec!["run", "--source", &source, "--task", &self.name];
        arguments.extend(more);
        let log = arena.target_cluster.folder().join(format!("{}.log", self.name));
        self.applier = Some(Applier::start(&arguments, &[], log));
    }

    /// Returns at once; [`wait_for_mark`](Self::wait_for_mark) tells when it has caught up.
    pub(crate) fn start(&mut self, arena: &Arena) {
        match self.kind {
            Kind::Trem => self.start_applier(arena, &[]),
            Kind::Native => {
                self.target.exec(&format!("ALTER SUBSCRIPTION {} ENABLE", self.name));
            }
        }
    }

    /// Until everything up to the mark is visible on the target.
    pub(crate) fn wait_for_mark(&mut self, arena: &Arena, mark: u64) {
        let query = format!("SELECT EXISTS (SELECT FROM mark WHERE id = {mark})");
        let (target, applier) = (&mut self.target, &mut self.applier);
        wait(arena, &format!("{} to catch up", self.name), || {
            if let Some(outcome) = applier.as_mut().and_then(Applier::ended) {
                panic!("the applier ended, code {:?}:\n{}", outcome.code, outcome.log);
            }
            target.holds(&query).then_some(())
        });
    }

    /// Stops it; the slot stays.
    pub(crate) fn stop(&mut self, arena: &mut Arena) {
        match self.kind {
            Kind::Trem => {
                let mut applier = self.applier.take().expect("it was started");
                applier.terminate();
                let log = applier.log();
                let bad = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
                let bad: Vec<_> = log.lines().filter(bad).collect();
                assert!(bad.is_empty(), "the applier complained:\n{}", bad.join("\n"));
            }
            Kind::Native => {
                self.target.exec(&format!("ALTER SUBSCRIPTION {} DISABLE", self.name));
            }
        }
        let slot = self.slot();
        wait_for(&format!("slot {slot} to be free"), || {
            arena.source.holds(&format!(
                "SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{slot}'"
            ))
        });
    }

    fn slot(&self) -> String {
        match self.kind {
            Kind::Trem => format!("trem_{}", self.name),
            Kind::Native => self.name.clone(),
        }
    }

    /// Both clusters at rest, nothing left over from whoever ran before.
    pub(crate) fn settle(&mut self, arena: &mut Arena) {
        self.target.exec("VACUUM");
        arena.settle();
    }

    /// Starts it with a backlog that ends with `mark`, and measures until it has caught up.
    pub(crate) fn catch_up(&mut self, arena: &mut Arena, mark: u64) -> Figures {
        self.settle(arena);
        let began = Instant::now();
        self.start(arena);
        self.wait_for_mark(arena, mark);
        let seconds = began.elapsed().as_secs_f64();
        let mut figures = self.usage(arena);
        figures.insert("seconds", seconds);
        self.stop(arena);
        figures
    }

    /// CPU time of everybody who takes part, since they started, and the applier's memory.
    pub(crate) fn usage(&mut self, arena: &mut Arena) -> Figures {
        let mut figures = Figures::new();
        let of_slot = format!(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'",
            self.slot()
        );
        figures.insert("walsender_cpu_seconds", cpu_of(&mut arena.source, &of_slot));
        let on_target = format!(
            "SELECT pid FROM pg_stat_activity
             WHERE datname = '{}' AND application_name <> 'trem_tests'",
            self.name
        );
        figures.insert("target_cpu_seconds", cpu_of(&mut arena.target, &on_target));
        if let Some(applier) = &self.applier {
            figures.insert("applier_cpu_seconds", cpu_seconds(applier.pid()));
            figures.insert("applier_peak_mib", peak_mib(applier.pid()));
        }
        figures
    }

    /// Compares a query on the source with one on its target, whole contents.
    pub(crate) fn compare(&mut self, arena: &mut Arena, on_source: &str, on_target: &str) {
        let here = arena.source.text(&tables::digest(on_source));
        let there = self.target.text(&tables::digest(on_target));
        let name = &self.name;
        assert!(here == there, "{name}: {on_source}\n  source: {here}\n  target: {there}");
    }

    /// Compares every table.
    pub(crate) fn compare_all(&mut self, arena: &mut Arena) {
        for table in arena.tables().to_vec() {
            let query = format!("SELECT * FROM {table}");
            self.compare(arena, &query, &query);
        }
    }

    /// Gives back slot and space.
    pub(crate) fn remove(mut self, arena: &mut Arena) {
        let name = self.name.clone();
        match self.kind {
            Kind::Trem => arena
                .source
                .exec(&format!("SELECT trem.stop_task('{name}'); SELECT trem.drop_task('{name}')")),
            Kind::Native => self.target.exec(&format!("DROP SUBSCRIPTION {name}")),
        }
        drop(self);
        arena.target.exec(&format!("DROP DATABASE {name} WITH (FORCE)"));
    }
}

fn cpu_of(database: &mut Database, pids: &str) -> f64 {
    let pids = database.rows(pids).into_iter().filter_map(|row| row[0].as_deref()?.parse().ok());
    pids.map(cpu_seconds).sum()
}

/// Waits long, and tells what the servers said when it was in vain.
pub(crate) fn wait<T>(arena: &Arena, what: &str, look: impl FnMut() -> Option<T>) -> T {
    look_until(DEADLINE, POLL, look).unwrap_or_else(|| {
        let logs = [arena.source_cluster.log(), arena.target_cluster.log()];
        panic!("waited {DEADLINE:?} in vain for {what}; the servers say:\n{}", logs.join("\n"))
    })
}
