//! What the WAL does not show: partitions that come with rows or go, rewrites, tables that are
//! unlogged for a time, types that are altered, names. A grid: each change, while the applier runs
//! and while it is away, with the hint to load again followed and with the one to keep. In the end
//! the target has what the source has, or the task stopped and said what to do, and doing exactly
//! that got it there.

use trem_tests::{wait_for_value, Content, Failure, Pair};

/// One thing that happens to a table. `{s}` stands for the case's own schema.
struct Case {
    name: &'static str,
    tables: &'static [&'static str],
    setup: &'static str,
    /// Each is a transaction.
    change: &'static [&'static str],
    /// Rows written afterwards; `{n}` is another number each time.
    write: &'static str,
    /// What somebody does on the target to adapt it by hand.
    adapt: &'static str,
    /// What must be the same: on the source, on the target.
    same: &'static [(&'static str, &'static str)],
    /// The task must not stop: nothing is missing.
    silent: bool,
}

const PARTITIONED: &str = "CREATE TABLE {s}.p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE {s}.p1 PARTITION OF {s}.p FOR VALUES FROM (0) TO (100);
    CREATE TABLE {s}.p2 PARTITION OF {s}.p FOR VALUES FROM (100) TO (200);
    INSERT INTO {s}.p SELECT n, 'v' || n FROM generate_series(1, 199, 11) n";
const PLAIN: &str = "CREATE TABLE {s}.d (id int PRIMARY KEY, v text);
    INSERT INTO {s}.d SELECT n, 'v' || n FROM generate_series(1, 20) n";
const SAME_P: (&str, &str) = ("SELECT * FROM {s}.p", "SELECT * FROM {s}.p");
const SAME_D: (&str, &str) = ("SELECT * FROM {s}.d", "SELECT * FROM {s}.d");

const PARTITIONS: [Case; 9] = [
    Case {
        name: "a partition with rows is attached",
        tables: &["{s}.p"],
        setup: PARTITIONED,
        change: &[
            "CREATE TABLE {s}.p3 (id int PRIMARY KEY, v text);
             INSERT INTO {s}.p3 SELECT n, 'old' || n FROM generate_series(200, 205) n",
            "ALTER TABLE {s}.p ATTACH PARTITION {s}.p3 FOR VALUES FROM (200) TO (300)",
        ],
        write: "INSERT INTO {s}.p VALUES (210 + {n}, 'new'); UPDATE {s}.p SET v = v || '+'
                WHERE id IN (12, 203)",
        adapt: "INSERT INTO {s}.p SELECT n, 'old' || n FROM generate_series(200, 205) n",
        same: &[SAME_P],
        silent: false,
    },
    Case {
        name: "a tree of partitions with rows is attached",
        tables: &["{s}.p"],
        setup: PARTITIONED,
        change: &["CREATE TABLE {s}.q (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
             CREATE TABLE {s}.q1 PARTITION OF {s}.q FOR VALUES FROM (200) TO (250);
             CREATE TABLE {s}.q2 PARTITION OF {s}.q FOR VALUES FROM (250) TO (300);
             INSERT INTO {s}.q SELECT n, 'old' || n FROM generate_series(200, 299, 13) n;
             ALTER TABLE {s}.p ATTACH PARTITION {s}.q FOR VALUES FROM (200) TO (300)"],
        write: "INSERT INTO {s}.p VALUES (202 + {n}, 'new'); DELETE FROM {s}.p WHERE id = 12",
        adapt: "INSERT INTO {s}.p SELECT n, 'old' || n FROM generate_series(200, 299, 13) n",
        same: &[SAME_P],
        silent: false,
    },
    Case {
        name: "an empty table is attached",
        tables: &["{s}.p"],
        setup: PARTITIONED,
        change: &[
            "CREATE TABLE {s}.p3 (id int PRIMARY KEY, v text)",
            "ALTER TABLE {s}.p ATTACH PARTITION {s}.p3 FOR VALUES FROM (200) TO (300)",
        ],
        write: "INSERT INTO {s}.p VALUES (210 + {n}, 'new')",
        adapt: "",
        same: &[SAME_P],
        silent: true,
    },
    Case {
        name: "a partition is made",
        tables: &["{s}.p"],
        setup: PARTITIONED,
        change: &["CREATE TABLE {s}.p3 PARTITION OF {s}.p FOR VALUES FROM (200) TO (300)"],
        write: "INSERT INTO {s}.p VALUES (210 + {n}, 'new')",
        adapt: "",
        same: &[SAME_P],
        silent: true,
    },
    Case {
        name: "a partition is detached",
        tables: &["{s}.p"],
        setup: PARTITIONED,
        change: &["ALTER TABLE {s}.p DETACH PARTITION {s}.p2", "DELETE FROM {s}.p2 WHERE id < 150"],
        write: "INSERT INTO {s}.p VALUES (50 + {n}, 'new')",
        adapt: "DELETE FROM {s}.p WHERE id >= 100",
        same: &[SAME_P],
        silent: false,
    },
    Case {
        name: "a partition is detached concurrently",
        tables: &["{s}.p"],
        setup: PARTITIONED,
        change: &["ALTER TABLE {s}.p DETACH PARTITION {s}.p2 CONCURRENTLY"],
        write: "INSERT INTO {s}.p VALUES (50 + {n}, 'new')",
        adapt: "DELETE FROM {s}.p WHERE id >= 100",
        same: &[SAME_P],
        silent: false,
    },
    Case {
        name: "a partition is detached, changed and attached again",
        tables: &["{s}.p"],
        setup: PARTITIONED,
        change: &[
            "ALTER TABLE {s}.p DETACH PARTITION {s}.p2",
            "UPDATE {s}.p2 SET v = 'apart'; DELETE FROM {s}.p2 WHERE id > 180",
            "ALTER TABLE {s}.p ATTACH PARTITION {s}.p2 FOR VALUES FROM (100) TO (200)",
        ],
        write: "INSERT INTO {s}.p VALUES (50 + {n}, 'new'); UPDATE {s}.p SET v = v || '+'
                WHERE id IN (100, 111)",
        adapt: "UPDATE {s}.p SET v = 'apart' WHERE id >= 100; DELETE FROM {s}.p WHERE id > 180",
        same: &[SAME_P],
        silent: false,
    },
    Case {
        name: "a partition is dropped",
        tables: &["{s}.p"],
        setup: PARTITIONED,
        change: &["DROP TABLE {s}.p2"],
        write: "INSERT INTO {s}.p VALUES (50 + {n}, 'new')",
        adapt: "DELETE FROM {s}.p WHERE id >= 100",
        same: &[SAME_P],
        silent: false,
    },
    Case {
        name: "one partition is unlogged for a time",
        tables: &["{s}.p"],
        setup: PARTITIONED,
        change: &[
            "ALTER TABLE {s}.p2 SET UNLOGGED",
            "UPDATE {s}.p SET v = 'unlogged' WHERE id > 150",
            "ALTER TABLE {s}.p2 SET LOGGED",
        ],
        write: "INSERT INTO {s}.p VALUES (50 + {n}, 'new')",
        adapt: "UPDATE {s}.p SET v = 'unlogged' WHERE id > 150",
        same: &[SAME_P],
        silent: false,
    },
];

const STORAGE: [Case; 7] = [
    Case {
        name: "a table is unlogged for a time",
        tables: &["{s}.d"],
        setup: PLAIN,
        change: &[
            "ALTER TABLE {s}.d SET UNLOGGED",
            "INSERT INTO {s}.d VALUES (101, 'unlogged'); DELETE FROM {s}.d WHERE id = 3",
            "ALTER TABLE {s}.d SET LOGGED",
        ],
        write: "INSERT INTO {s}.d VALUES (200 + {n}, 'new')",
        adapt: "INSERT INTO {s}.d VALUES (101, 'unlogged'); DELETE FROM {s}.d WHERE id = 3",
        same: &[SAME_D],
        silent: false,
    },
    Case {
        name: "a column gets other values of the same type",
        tables: &["{s}.d"],
        setup: PLAIN,
        change: &["ALTER TABLE {s}.d ALTER v TYPE text USING v || '!'"],
        write: "INSERT INTO {s}.d VALUES (200 + {n}, 'new')",
        adapt: "UPDATE {s}.d SET v = v || '!'",
        same: &[SAME_D],
        silent: false,
    },
    Case {
        name: "a column of a partitioned table gets other values",
        tables: &["{s}.p"],
        setup: PARTITIONED,
        change: &["ALTER TABLE {s}.p ALTER v TYPE text USING v || '!'"],
        write: "INSERT INTO {s}.p VALUES (50 + {n}, 'new')",
        adapt: "UPDATE {s}.p SET v = v || '!'",
        same: &[SAME_P],
        silent: false,
    },
    Case {
        name: "a column with a volatile default is added",
        tables: &["{s}.d"],
        setup: PLAIN,
        change: &["ALTER TABLE {s}.d ADD r float8 DEFAULT random() * 0 + 7"],
        write: "INSERT INTO {s}.d VALUES (200 + {n}, 'new', 8)",
        adapt: "ALTER TABLE {s}.d ADD r float8 DEFAULT 7",
        same: &[SAME_D],
        silent: false,
    },
    Case {
        name: "attributes of a composite type are dropped and added",
        tables: &["{s}.k"],
        setup: "CREATE TYPE {s}.c AS (a int, b int);
                CREATE TABLE {s}.k (id int PRIMARY KEY, c {s}.c, cs {s}.c[]);
                INSERT INTO {s}.k SELECT n, t::{s}.c, ARRAY[t]::{s}.c[]
                FROM generate_series(1, 9) n, format('(%s,%s)', n, n) t",
        change: &["ALTER TYPE {s}.c DROP ATTRIBUTE b", "ALTER TYPE {s}.c ADD ATTRIBUTE d int"],
        write: "INSERT INTO {s}.k VALUES (200 + {n}, '(7,8)', NULL)",
        adapt: "ALTER TYPE {s}.c DROP ATTRIBUTE b, ADD ATTRIBUTE d int",
        same: &[("SELECT * FROM {s}.k", "SELECT * FROM {s}.k")],
        silent: false,
    },
    Case {
        name: "a label of an enum is renamed",
        tables: &["{s}.m"],
        setup: "CREATE TYPE {s}.mood AS ENUM ('sad', 'happy');
                CREATE TABLE {s}.m (id int PRIMARY KEY, mood {s}.mood);
                INSERT INTO {s}.m SELECT n, 'sad' FROM generate_series(1, 9) n",
        change: &["ALTER TYPE {s}.mood RENAME VALUE 'sad' TO 'blue'"],
        write: "INSERT INTO {s}.m VALUES (200 + {n}, 'happy')",
        // Loaded again or not, the target's type is somebody's to alter.
        adapt: "ALTER TYPE {s}.mood RENAME VALUE 'sad' TO 'blue'",
        same: &[("SELECT * FROM {s}.m", "SELECT * FROM {s}.m")],
        silent: false,
    },
    Case {
        name: "a table is vacuumed, clustered and truncated",
        tables: &["{s}.d"],
        setup: PLAIN,
        change: &[
            "VACUUM FULL {s}.d",
            "CLUSTER {s}.d USING d_pkey",
            "TRUNCATE {s}.d; CREATE INDEX ON {s}.d (v); ANALYZE {s}.d",
        ],
        write: "INSERT INTO {s}.d VALUES (200 + {n}, 'new')",
        adapt: "",
        same: &[SAME_D],
        silent: true,
    },
];

const NAMES: [Case; 8] = [
    Case {
        name: "a table is replaced through its name",
        tables: &["{s}.*"],
        setup: "CREATE TABLE {s}.d (id int PRIMARY KEY, v text UNIQUE);
                CREATE TABLE {s}.d2 (id int PRIMARY KEY, v text UNIQUE);
                INSERT INTO {s}.d SELECT n, 'd' || n FROM generate_series(1, 20) n;
                INSERT INTO {s}.d2 SELECT n, 'd2 ' || n FROM generate_series(5, 9) n",
        change: &["ALTER TABLE {s}.d RENAME TO d_old; ALTER TABLE {s}.d2 RENAME TO d"],
        write: "INSERT INTO {s}.d VALUES (200 + {n}, 'new'||{n}); UPDATE {s}.d_old SET v = v || '+'
                WHERE id = 3",
        adapt: "ALTER TABLE {s}.d RENAME TO d_old; ALTER TABLE {s}.d2 RENAME TO d",
        same: &[SAME_D, ("SELECT * FROM {s}.d_old", "SELECT * FROM {s}.d_old")],
        silent: false,
    },
    Case {
        name: "a table is replaced by one that is made anew",
        tables: &["{s}.*"],
        setup: PLAIN,
        change: &["ALTER TABLE {s}.d RENAME TO d_old;
             CREATE TABLE {s}.d (id int PRIMARY KEY, v text);
             INSERT INTO {s}.d SELECT id, 'copy of ' || v FROM {s}.d_old"],
        write: "INSERT INTO {s}.d VALUES (200 + {n}, 'new'); DELETE FROM {s}.d_old WHERE id = 3",
        adapt: "ALTER TABLE {s}.d RENAME TO d_old",
        same: &[SAME_D, ("SELECT * FROM {s}.d_old", "SELECT * FROM {s}.d_old")],
        silent: false,
    },
    Case {
        name: "a table that the task names is renamed",
        tables: &["{s}.d"],
        setup: PLAIN,
        change: &["ALTER TABLE {s}.d RENAME TO e"],
        write: "INSERT INTO {s}.e VALUES (200 + {n}, 'new')",
        adapt: "ALTER TABLE {s}.d RENAME TO e",
        same: &[("SELECT * FROM {s}.e", "SELECT * FROM {s}.e")],
        silent: false,
    },
    Case {
        name: "a schema is renamed",
        tables: &["{s}.d"],
        setup: PLAIN,
        change: &["ALTER SCHEMA {s} RENAME TO {s}_new"],
        write: "INSERT INTO {s}_new.d VALUES (200 + {n}, 'new')",
        adapt: "ALTER SCHEMA {s} RENAME TO {s}_new",
        same: &[("SELECT * FROM {s}_new.d", "SELECT * FROM {s}_new.d")],
        silent: false,
    },
    Case {
        name: "a table, and its schema, get their names back",
        tables: &["{s}.*"],
        setup: PLAIN,
        change: &[
            "ALTER TABLE {s}.d RENAME TO e",
            "ALTER TABLE {s}.e RENAME TO d",
            "ALTER SCHEMA {s} RENAME TO {s}_new",
            "ALTER SCHEMA {s}_new RENAME TO {s}",
        ],
        write: "INSERT INTO {s}.d VALUES (200 + {n}, 'new')",
        adapt: "",
        same: &[SAME_D],
        silent: true,
    },
    Case {
        name: "a table goes to another schema",
        tables: &["{s}.d"],
        setup: PLAIN,
        change: &["CREATE SCHEMA {s}_other; ALTER TABLE {s}.d SET SCHEMA {s}_other"],
        write: "INSERT INTO {s}_other.d VALUES (200 + {n}, 'new')",
        adapt: "CREATE SCHEMA {s}_other AUTHORIZATION loader;
                ALTER TABLE {s}.d SET SCHEMA {s}_other",
        same: &[("SELECT * FROM {s}_other.d", "SELECT * FROM {s}_other.d")],
        silent: false,
    },
    Case {
        name: "a table of a pattern is dropped",
        tables: &["{s}.*"],
        setup: "CREATE TABLE {s}.d (id int PRIMARY KEY, v text); INSERT INTO {s}.d VALUES (1, 'd');
                CREATE TABLE {s}.e (id int PRIMARY KEY); INSERT INTO {s}.e VALUES (1)",
        change: &["DROP TABLE {s}.d"],
        write: "INSERT INTO {s}.e VALUES (200 + {n})",
        adapt: "",
        same: &[("SELECT * FROM {s}.e", "SELECT * FROM {s}.e")],
        silent: false,
    },
    Case {
        name: "a table of the task is dropped",
        tables: &["{s}.d", "{s}.e"],
        setup: "CREATE TABLE {s}.d (id int PRIMARY KEY, v text); INSERT INTO {s}.d VALUES (1, 'd');
                CREATE TABLE {s}.e (id int PRIMARY KEY); INSERT INTO {s}.e VALUES (1)",
        change: &["DROP TABLE {s}.d"],
        write: "INSERT INTO {s}.e VALUES (200 + {n})",
        adapt: "",
        same: &[("SELECT * FROM {s}.e", "SELECT * FROM {s}.e")],
        silent: false,
    },
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Applier {
    Running,
    Away,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Follow {
    Reload,
    Keep,
}

/// One case on its way.
struct Grid<'a> {
    pair: &'a mut Pair,
    task: String,
    case: &'a Case,
    follow: Follow,
    adapted: bool,
    stops: u32,
    written: u32,
}

impl Grid<'_> {
    fn sql(&self, text: &str) -> String {
        text.replace("{s}", &self.task).replace("{n}", &self.written.to_string())
    }

    fn write(&mut self) {
        self.written += 1;
        let write = self.sql(self.case.write);
        self.pair.source.exec(&write);
    }

    /// Does what a hint says: its statements, those that this way takes.
    fn obey(&mut self, hint: &str) {
        let mut obeyed = false;
        for (on_target, statement) in statements(hint) {
            let keeps = statement.contains("keep =>");
            let reloads = statement.contains("reload_table");
            if on_target {
                self.pair.target.exec(&statement);
                obeyed = true;
                continue;
            }
            let starts = statement.contains("start_task") && !keeps && hint.contains("keep =>");
            match self.follow {
                Follow::Keep if reloads || starts => continue,
                Follow::Reload if keeps && hint.contains("reload_table") => continue,
                _ => {}
            }
            if keeps && !self.adapted && self.follow == Follow::Keep {
                self.adapted = true;
                let adapt = self.sql(self.case.adapt);
                self.pair.target.exec(&adapt);
            }
            obeyed = true;
            while let Err(failure) = self.pair.source.try_exec(&statement) {
                self.refused(&failure);
            }
        }
        assert!(obeyed, "{}: nothing to do in: {hint}", self.case.name);
    }

    fn refused(&mut self, failure: &Failure) {
        assert!(!failure.hint.is_empty(), "{}: no way on: {failure}", self.case.name);
        self.stops += 1;
        assert!(self.stops < 9, "{}: again and again: {failure}", self.case.name);
        let hint = match failure.detail.contains("remove_table") {
            // Of the problems that keep a task from being started, each line has its own.
            true => format!("{} {}", failure.detail, failure.hint),
            false => failure.hint.clone(),
        };
        self.obey(&hint);
    }

    fn stopped(&mut self, said: &str) {
        self.stops += 1;
        assert!(self.stops < 9, "{}: again and again: {said}", self.case.name);
        assert!(said.contains(&self.task), "{}: which table? {said}", self.case.name);
        self.obey(said);
    }

    /// Runs until the applier has caught up, however often it stops on its way.
    fn run_away(&mut self) {
        loop {
            let outcome = self.pair.run_until_caught_up(&self.task);
            if outcome.code == Some(0) {
                return;
            }
            outcome.assert_code(1);
            let errors = outcome.log.lines().filter(|line| line.contains("ERROR"));
            self.stopped(&errors.collect::<Vec<_>>().join("\n"));
        }
    }

    fn run_along(&mut self, applier: &mut trem_tests::Applier) {
        loop {
            let task = &self.task;
            let mark = self.pair.source.text(&format!(
                "SELECT trem.applier_barrier('{task}', 'test-' || gen_random_uuid())"
            ));
            let reached = format!(
                "SELECT applied_lsn > '{mark}' AND NOT EXISTS (
                     SELECT FROM trem_target.table_state s
                     WHERE s.task_id = p.task_id AND state <> 'live')
                 FROM trem_target.progress p WHERE task = '{task}'"
            );
            let failed = format!(
                "SELECT concat_ws(E'\\n', last_error, last_error_hint) FROM trem.task_status
                 WHERE task = '{task}' AND phase = 'failed'"
            );
            let (source, target) = (&mut self.pair.source, &mut self.pair.target);
            let said = wait_for_value(&format!("{}: its end", self.case.name), || {
                if let Some(outcome) = applier.ended() {
                    panic!("the applier ended: {outcome:#?}");
                }
                let said = source.value(&failed);
                said.map(Some).or_else(|| target.holds(&reached).then_some(None))
            });
            let Some(said) = said else { return };
            // What it said before the remedy is no news.
            self.pair.source.exec(
                "UPDATE trem.task_report SET phase = 'starting', last_error = NULL,
                 last_error_hint = NULL",
            );
            self.stopped(&said);
        }
    }

    fn compare(&mut self) {
        for (on_source, on_target) in self.case.same {
            let (on_source, on_target) = (self.sql(on_source), self.sql(on_target));
            self.pair.assert_same_as(&on_source, &on_target, Content::Text);
        }
    }
}

/// The statements of a hint, and whether they are for the target.
fn statements(hint: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for words in ["SELECT trem.", "ALTER TABLE "] {
        for (at, _) in hint.match_indices(words) {
            let rest = &hint[at..];
            let (mut depth, mut quoted) = (0, false);
            let end = rest.char_indices().find_map(|(at, c)| {
                match c {
                    '\'' => quoted = !quoted,
                    '(' if !quoted => depth += 1,
                    ')' if !quoted => depth -= 1,
                    _ => {}
                }
                let closed = c == ')' && depth == 0 && words.starts_with("SELECT");
                (closed || c == ';' && !quoted).then_some(at + 1)
            });
            let statement = rest[..end.unwrap_or(rest.len())].to_owned();
            found.push((at, hint[..at].ends_with("On the target: "), statement));
        }
    }
    found.sort();
    found.into_iter().map(|(_, on_target, statement)| (on_target, statement)).collect()
}

fn run(pair: &mut Pair, number: usize, case: &Case, applier: Applier, follow: Follow) {
    let task = format!("c{number}_{applier:?}_{follow:?}").to_lowercase();
    eprintln!("{task}: {}", case.name);
    let mut grid =
        Grid { pair, task: task.clone(), case, follow, adapted: false, stops: 0, written: 0 };
    // Another table of the task, so that one that is loaded again is not all there is.
    let other = "CREATE TABLE {s}.other (id int PRIMARY KEY); INSERT INTO {s}.other VALUES (1)";
    let setup = grid.sql(&format!("CREATE SCHEMA {{s}}; {other}; {}", case.setup));
    grid.pair.source.exec(&setup);
    let by_name = case.tables.iter().all(|table| !table.ends_with('*'));
    let other = by_name.then_some(&"{s}.other");
    let tables: Vec<String> =
        case.tables.iter().chain(other).map(|table| grid.sql(table)).collect();
    grid.pair.create_task(&task, &tables.iter().map(String::as_str).collect::<Vec<_>>());
    grid.pair.start_task(&task);
    let mut service = None;
    match applier {
        Applier::Away => grid.pair.replicate(&task),
        Applier::Running => {
            let mut started = grid.pair.applier(&task);
            grid.pair.catch_up(&task, &mut started);
            service = Some(started);
        }
    }
    for change in case.change {
        let change = grid.sql(change);
        grid.pair.source.exec(&change);
    }
    grid.write();
    // The type on the target is somebody's to alter, whatever becomes of the rows.
    if case.name.contains("enum") {
        grid.adapted = true;
        let adapt = grid.sql(case.adapt);
        grid.pair.target.exec(&adapt);
    }
    for _ in 0..2 {
        match &mut service {
            None => grid.run_away(),
            Some(service) => grid.run_along(service),
        }
        grid.compare();
        grid.write();
    }
    if let Some(mut service) = service {
        service.terminate();
    }
    assert!(case.silent || grid.stops > 0, "{}: nobody was told", case.name);
    grid.pair
        .source
        .exec(&format!("SELECT trem.stop_task('{task}'); SELECT trem.drop_task('{task}')"));
}

fn grid(cases: &[Case]) {
    let mut pair = Pair::new();
    pair.expect_log("");
    for (number, case) in cases.iter().enumerate() {
        for applier in [Applier::Running, Applier::Away] {
            for follow in [Follow::Reload, Follow::Keep] {
                run(&mut pair, number, case, applier, follow);
            }
        }
    }
}

#[test]
fn partitions_come_and_go() {
    grid(&PARTITIONS);
}

#[test]
fn tables_are_rewritten() {
    grid(&STORAGE);
}

#[test]
fn names_change() {
    grid(&NAMES);
}
