//! A source and a target, ready for a task.

use std::path::PathBuf;

use crate::compare::{difference, Content};
use crate::wait::wait_for;
use crate::{applier, places, Applier, Cluster, Database, Outcome, Recorder, Settings};

/// Two clusters with an open session of the superuser in each database.
///
/// Names that every test may use: source database `shop`, the applier's role there `trem_applier`
/// (LOGIN REPLICATION, nothing else), endpoints `src` and `dst`, target database `warehouse`, owned
/// by `loader`, the role that the applier uses there.
pub struct Pair {
    // Sessions before clusters: fields are dropped in order.
    pub source: Database,
    pub target: Database,
    pub source_cluster: Cluster,
    pub target_cluster: Cluster,
    folder: PathBuf,
    /// Where appliers find the source's socket.
    source_socket: PathBuf,
    appliers: u32,
    expected_in_logs: Vec<String>,
}

pub(crate) const SOURCE_DB: &str = "shop";
pub(crate) const TARGET_DB: &str = "warehouse";
pub(crate) const APPLIER_ROLE: &str = "trem_applier";
pub(crate) const TARGET_ROLE: &str = "loader";

impl Pair {
    #[must_use]
    pub fn new() -> Self {
        Self::with_settings(&[], &[])
    }

    /// Clusters whose postgresql.conf differs from the harness's.
    #[must_use]
    pub fn with_settings(source: Settings<'_>, target: Settings<'_>) -> Self {
        let folder = places::new_test_folder();
        let source_cluster = Cluster::new(folder.join("s"), source);
        let target_cluster = Cluster::new(folder.join("t"), target);
        source_cluster.connect("postgres").exec(&format!("CREATE DATABASE {SOURCE_DB}"));
        let mut on_target = target_cluster.connect("postgres");
        on_target.exec(&format!("CREATE ROLE {TARGET_ROLE} LOGIN"));
        on_target.exec(&format!("CREATE DATABASE {TARGET_DB} OWNER {TARGET_ROLE}"));
        let mut pair = Pair {
            source_socket: source_cluster.folder().to_owned(),
            source: source_cluster.connect(SOURCE_DB),
            target: target_cluster.connect(TARGET_DB),
            source_cluster,
            target_cluster,
            folder,
            appliers: 0,
            expected_in_logs: Vec::new(),
        };
        pair.target.exec(&format!("GRANT ALL ON SCHEMA public TO {TARGET_ROLE}"));
        pair.source.exec("CREATE EXTENSION trem");
        pair.source.exec(&format!("CREATE ROLE {APPLIER_ROLE} LOGIN REPLICATION"));
        pair.create_endpoints();
        pair
    }

    fn create_endpoints(&mut self) {
        let host = self.target_cluster.folder().display().to_string();
        self.source.exec(&format!(
            "SELECT trem.create_endpoint('src', 'source', dbname => '{SOURCE_DB}', \
             username => '{APPLIER_ROLE}');
             SELECT trem.create_endpoint('dst', 'target', dbname => '{TARGET_DB}', \
             host => '{host}', port => 5432, username => '{TARGET_ROLE}')"
        ));
    }

    /// A draft task of mode full_load_and_cdc from `src` to `dst`; table names as SQL has them.
    pub fn create_task(&mut self, task: &str, tables: &[&str]) {
        self.create_task_with(task, tables, "full_load_and_cdc", "{}");
    }

    pub fn create_task_with(&mut self, task: &str, tables: &[&str], mode: &str, options: &str) {
        let quoted: Vec<_> =
            tables.iter().map(|table| format!("'{}'", table.replace('\'', "''"))).collect();
        let tables = quoted.join(", ");
        self.source.exec(&format!(
            "SELECT trem.create_task('{task}', 'src', 'dst', ARRAY[{tables}], mode => '{mode}', \
             options => '{options}')"
        ));
    }

    /// Calls functions of the schema trem, one after the other.
    pub fn call(&mut self, calls: &[&str]) {
        for call in calls {
            self.source.exec(&format!("SELECT trem.{call}"));
        }
    }

    /// Publishes and starts a task.
    pub fn start_task(&mut self, task: &str) {
        self.source.exec(&format!("SELECT trem.start_task('{task}')"));
    }

    /// Where the applier finds the source.
    #[must_use]
    pub fn source_conninfo(&self) -> String {
        let host = self.source_socket.display();
        format!("host={host} port=5432 dbname={SOURCE_DB} user={APPLIER_ROLE}")
    }

    /// From here on all that passes between the source and appliers is kept.
    pub fn record(&mut self) -> Recorder {
        let recorder = Recorder::new(self.folder.join("r"), self.source_cluster.folder());
        recorder.folder().clone_into(&mut self.source_socket);
        recorder
    }

    /// Starts the program with these arguments; a `--source` is added.
    pub fn applier_with(&mut self, arguments: &[&str], environment: &[(&str, &str)]) -> Applier {
        let source = self.source_conninfo();
        let mut all = vec![arguments[0], "--source", &source];
        all.extend(&arguments[1..]);
        self.program(&all, environment)
    }

    /// Starts the program with exactly these arguments.
    pub fn applier_of(&mut self, arguments: &[&str]) -> Applier {
        self.program(arguments, &[])
    }

    fn program(&mut self, arguments: &[&str], environment: &[(&str, &str)]) -> Applier {
        let log = self.applier_log(self.appliers);
        self.appliers += 1;
        Applier::start(arguments, environment, log)
    }

    fn applier_log(&self, number: u32) -> PathBuf {
        self.folder.join(format!("applier-{number}.log"))
    }

    /// Starts a service for one task.
    pub fn applier(&mut self, task: &str) -> Applier {
        self.applier_with(&["run", "--task", task], &[])
    }

    /// Runs the task until it has caught up, whatever comes of it.
    pub fn run_until_caught_up(&mut self, task: &str) -> Outcome {
        self.applier_with(&["run", "--task", task, "--until-caught-up"], &[]).wait()
    }

    /// Runs the task, which must fail and say each of `parts`; its complaints are expected.
    #[track_caller]
    pub fn refuse(&mut self, task: &str, parts: &[&str]) -> Outcome {
        let outcome = self.run_until_caught_up(task);
        outcome.assert_code(1).assert_says(parts);
        self.expect_log("");
        outcome
    }

    /// Runs the task until it has caught up, which must succeed.
    #[track_caller]
    pub fn replicate(&mut self, task: &str) {
        self.run_until_caught_up(task).assert_code(0);
    }

    /// Waits until everything that the source committed so far is applied by this applier.
    ///
    /// A transactional message of TREM's own marks the place, so that it is reached also when
    /// nothing else of the task comes after.
    #[track_caller]
    pub fn catch_up(&mut self, task: &str, applier: &mut Applier) {
        let marked = self
            .source
            .text(&format!("SELECT trem.applier_barrier('{task}', 'test-' || gen_random_uuid())"));
        // A slot made after the mark starts beyond it: then the copy has it, once it is done.
        let reached = format!(
            "SELECT applied_lsn > '{marked}' AND NOT EXISTS (SELECT FROM trem_target.table_state s
                 WHERE s.task_id = p.task_id AND state <> 'live')
             FROM trem_target.progress p WHERE task = '{task}'"
        );
        let target = &mut self.target;
        wait_for(&format!("task {task} to apply {marked}"), || {
            if let Some(outcome) = applier.ended() {
                panic!("the applier ended while a test waited for it: {outcome:#?}");
            }
            // Before its first start the table is not there.
            let rows = target.try_rows(&reached).unwrap_or_default();
            rows.first().and_then(|row| row[0].as_deref()) == Some("t")
        });
    }

    /// Serves the task while `change` changes the source, until all of it is applied; then stops
    /// the service.
    #[track_caller]
    pub fn follow(&mut self, task: &str, change: impl FnOnce(&mut Database)) {
        let mut applier = self.applier(task);
        change(&mut self.source);
        self.catch_up(task, &mut applier);
        applier.terminate();
    }

    /// Waits until the source shows this phase of the task.
    pub fn wait_for_phase(&mut self, task: &str, phase: &str) {
        let query = format!("SELECT phase = '{phase}' FROM trem.task_status WHERE task = '{task}'");
        let source = &mut self.source;
        wait_for(&format!("task {task} to be in phase {phase}"), || source.holds(&query));
    }

    /// Waits until the source shows an error of the task, and gives message and hint.
    pub fn wait_for_error(&mut self, task: &str) -> String {
        let query = format!(
            "SELECT concat_ws(E'\\n', last_error, last_error_hint) FROM trem.task_status \
             WHERE task = '{task}' AND last_error IS NOT NULL"
        );
        let source = &mut self.source;
        crate::wait_for_value(&format!("task {task} to report an error"), || source.value(&query))
    }

    /// Compares two queries, bit by bit.
    #[track_caller]
    pub fn assert_same(&mut self, on_source: &str, on_target: &str) {
        self.assert_same_as(on_source, on_target, Content::Binary);
    }

    /// Compares a table that has one name and the same columns on both sides, bit by bit.
    #[track_caller]
    pub fn assert_same_table(&mut self, table: &str) {
        let query = format!("SELECT * FROM {table}");
        self.assert_same(&query, &query);
    }

    #[track_caller]
    pub fn assert_same_as(&mut self, on_source: &str, on_target: &str, content: Content) {
        let found =
            difference((&mut self.source, on_source), (&mut self.target, on_target), content);
        if let Some(found) = found {
            panic!("{on_source} on the source and {on_target} on the target differ: {found}");
        }
    }

    /// Opens the sessions again, after a restart of either cluster.
    pub fn reconnect(&mut self) {
        self.source = self.source_cluster.connect(SOURCE_DB);
        self.target = self.target_cluster.connect(TARGET_DB);
    }

    /// Rows that an applier found not to be as the source had them, of all tables so far.
    pub fn conflicts(&mut self) -> i64 {
        self.source.number("SELECT coalesce(sum(conflicts), 0) FROM trem.table_status")
    }

    /// A session on the source as the applier's role.
    #[must_use]
    pub fn as_applier(&self) -> Database {
        self.source_cluster.connect_as(SOURCE_DB, APPLIER_ROLE)
    }

    /// From here on a WARN or ERROR line of an applier may hold `part`.
    pub fn expect_log(&mut self, part: &str) {
        self.expected_in_logs.push(part.to_owned());
    }

    /// The WARN and ERROR lines that nobody announced.
    fn unexpected_lines(&self) -> Vec<String> {
        let logs = (0..self.appliers).map(|number| applier::read(&self.applier_log(number)));
        let lines: Vec<String> = logs.flat_map(|log| complaints(&log)).collect();
        let expected = |line: &String| self.expected_in_logs.iter().any(|part| line.contains(part));
        lines.into_iter().filter(|line| !expected(line)).collect()
    }

    fn logs(&self) -> Vec<(String, String)> {
        let appliers = (0..self.appliers).map(|number| {
            (format!("applier-{number}.log"), applier::read(&self.applier_log(number)))
        });
        let clusters = [
            ("source.log".to_owned(), self.source_cluster.log()),
            ("target.log".to_owned(), self.target_cluster.log()),
        ];
        appliers.chain(clusters).collect()
    }

    fn report_failure(&self) {
        let kept = places::failed_folder(&places::test_name());
        // Only a help for people: a test that failed must not fail once more here.
        let _ = std::fs::create_dir_all(&kept);
        for (name, log) in self.logs() {
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            eprintln!("--- end of {name} ({} lines) ---\n{tail}", lines.len());
            let _ = std::fs::write(kept.join(name), log);
        }
        eprintln!("--- whole logs: {} ---", kept.display());
        if std::env::var_os("TREM_KEEP").is_some() {
            eprintln!("left running in {}", self.folder.display());
            let (source, target) = (&self.source_cluster, &self.target_cluster);
            eprintln!("  psql '{}'", source.conninfo(SOURCE_DB, "postgres"));
            eprintln!("  psql '{}'", target.conninfo(TARGET_DB, "postgres"));
        }
    }
}

/// The lines of a log with level WARN or ERROR.
fn complaints(log: &str) -> Vec<String> {
    let complains = |line: &&str| {
        line.split_whitespace().take(4).any(|word| word == "WARN" || word == "ERROR")
            || line.contains("panicked at")
    };
    log.lines().filter(complains).map(str::to_owned).collect()
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report_failure();
            if std::env::var_os("TREM_KEEP").is_some() {
                return;
            }
        }
        self.source_cluster.shut_down();
        self.target_cluster.shut_down();
        let unexpected = self.unexpected_lines();
        let complained = !unexpected.is_empty() && !std::thread::panicking();
        if complained {
            self.report_failure();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
        if complained {
            panic!("the applier complained, and no test said it may:\n{}", unexpected.join("\n"));
        }
    }
}
