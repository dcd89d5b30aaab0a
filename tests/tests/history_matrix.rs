//! Tables that change while the applier is away: each kind of change, under each kind of rule, in
//! one transaction with rows before and after it or in several, published before the applier comes
//! back or not. What arrives is what the rules make of the source, or the task stops and says what
//! to do; done to the letter, that leads there. The server never crashes.
//!
//! Every cell is a task with one table; all of a rule are served at once. The target is changed by
//! hand as the source was, which is what `keep` promises.

use trem_tests::{difference, Content, Pair};

/// What happens to a table. `$t` is its name.
struct Case {
    name: &'static str,
    /// Before the table is made: types.
    types: &'static str,
    /// The column that changes.
    column: &'static str,
    /// Between the parentheses of CREATE TABLE, behind the columns.
    key: &'static str,
    /// Behind the parentheses.
    partition: &'static str,
    /// After the table is made.
    setup: &'static str,
    /// Two values of the column, before and after the change.
    values: [&'static str; 2],
    values_after: [&'static str; 2],
    change: &'static str,
    /// The same on the target, where it differs.
    change_on_target: Option<&'static str>,
    /// What a rule reads: a text that the change leaves as it is.
    reads: &'static str,
    /// Where it must be written in other words then.
    reads_after: Option<&'static str>,
    /// The column as the target has it after the change; empty: it is gone.
    column_after: &'static str,
    /// The target cannot be changed by hand so that it is the same.
    reload: bool,
    /// What it brings cannot be used in its own transaction.
    alone: bool,
    /// Published, the stream cannot go on: what addresses the rows of before is not in the WAL.
    stops: bool,
}

const CASE: Case = Case {
    name: "",
    types: "",
    column: "a int",
    key: ", PRIMARY KEY (id)",
    partition: "",
    setup: "",
    values: ["11", "12"],
    values_after: ["11", "12"],
    change: "",
    change_on_target: None,
    reads: "right(a::text, 1)",
    reads_after: None,
    column_after: "a",
    reload: false,
    alone: false,
    stops: false,
};

const RETYPES: &[Case] = &[
    Case { name: "a wider type", change: "ALTER TABLE $t ALTER a TYPE bigint", ..CASE },
    Case {
        name: "a narrower type",
        column: "a bigint",
        change: "ALTER TABLE $t ALTER a TYPE int",
        ..CASE
    },
    Case {
        name: "a longer length",
        column: "a varchar(5)",
        values: ["'x1'", "'x2'"],
        values_after: ["'longer1'", "'longer2'"],
        change: "ALTER TABLE $t ALTER a TYPE varchar(20)",
        ..CASE
    },
    Case {
        name: "a shorter length",
        column: "a varchar(20)",
        values: ["'longer1'", "'longer2'"],
        values_after: ["'x1'", "'x2'"],
        change: "ALTER TABLE $t ALTER a TYPE varchar(5) USING right(a, 5)",
        ..CASE
    },
    Case {
        name: "another scale",
        column: "a numeric(10,4)",
        values: ["1.1101", "1.1202"],
        values_after: ["1.11", "1.12"],
        change: "ALTER TABLE $t ALTER a TYPE numeric(10,2)",
        reads: "left(a::text, 3)",
        ..CASE
    },
    Case {
        name: "a number becomes a text",
        values_after: ["'n1'", "'n2'"],
        change: "ALTER TABLE $t ALTER a TYPE text",
        ..CASE
    },
    Case {
        name: "a text becomes a number",
        column: "a text",
        values: ["'1600001'", "'1600002'"],
        change: "ALTER TABLE $t ALTER a TYPE int USING a::int",
        ..CASE
    },
    Case {
        name: "another type by an expression",
        values: ["1600001", "1600002"],
        values_after: ["'n1'", "'n2'"],
        change: "ALTER TABLE $t ALTER a TYPE text USING 'v' || a",
        ..CASE
    },
    Case {
        name: "a time gets a zone",
        column: "a timestamp",
        values: ["'2020-01-01 10:00'", "'2020-01-02 10:00'"],
        values_after: ["'2020-01-01 10:00Z'", "'2020-01-02 10:00Z'"],
        change: "ALTER TABLE $t ALTER a TYPE timestamptz",
        reads: "extract(day FROM a)::text",
        ..CASE
    },
    Case {
        name: "a time loses its zone",
        column: "a timestamptz",
        values: ["'2020-01-01 10:00Z'", "'2020-01-02 10:00Z'"],
        values_after: ["'2020-01-01 10:00'", "'2020-01-02 10:00'"],
        change: "ALTER TABLE $t ALTER a TYPE timestamp",
        reads: "extract(day FROM a)::text",
        ..CASE
    },
    Case {
        name: "the key's type",
        change: "ALTER TABLE $t ALTER id TYPE varchar(100)",
        stops: true,
        ..CASE
    },
];

const COLUMNS: &[Case] = &[
    Case {
        name: "a column is added",
        change: "ALTER TABLE $t ADD b text",
        column_after: "a, b",
        ..CASE
    },
    Case {
        name: "a column with a constant default is added",
        change: "ALTER TABLE $t ADD b int NOT NULL DEFAULT 5",
        column_after: "a, b",
        ..CASE
    },
    Case {
        name: "a column with a volatile default is added",
        change: "ALTER TABLE $t ADD b float8 NOT NULL DEFAULT random()",
        column_after: "a, b",
        reload: true,
        ..CASE
    },
    Case {
        name: "a column is added and its default changed",
        change: "ALTER TABLE $t ADD b int DEFAULT 5; ALTER TABLE $t ALTER b SET DEFAULT 6",
        column_after: "a, b",
        ..CASE
    },
    Case {
        name: "a column is added that rules read",
        change: "ALTER TABLE $t ADD b text DEFAULT '1'",
        reads_after: Some("coalesce(b, right(a::text, 1))"),
        column_after: "a, b",
        reload: true,
        ..CASE
    },
    Case {
        name: "a column is dropped",
        change: "ALTER TABLE $t DROP a",
        reads: "right(u::text, 1)",
        column_after: "",
        ..CASE
    },
    Case {
        name: "a column is renamed",
        change: "ALTER TABLE $t RENAME a TO b",
        reads_after: Some("right(b::text, 1)"),
        column_after: "b",
        ..CASE
    },
    Case {
        name: "a column is dropped and made anew",
        values_after: ["'n1'", "'n2'"],
        change: "ALTER TABLE $t DROP a; ALTER TABLE $t ADD a text DEFAULT 'd1'",
        reads: "right(u::text, 1)",
        ..CASE
    },
    Case {
        name: "a default of before is read later",
        setup: "INSERT INTO $t (id, m, u) VALUES ('old1', 'm', 91), ('old2', 'm', 92);
                ALTER TABLE $t DROP a; ALTER TABLE $t ADD a int NOT NULL DEFAULT 17;
                ALTER TABLE $t REPLICA IDENTITY FULL",
        change: "ALTER TABLE $t ALTER a TYPE bigint",
        ..CASE
    },
];

const IDENTITIES: &[Case] = &[
    Case {
        name: "the whole row identifies",
        change: "ALTER TABLE $t REPLICA IDENTITY FULL",
        ..CASE
    },
    Case {
        name: "the key identifies again",
        setup: "ALTER TABLE $t REPLICA IDENTITY FULL",
        change: "ALTER TABLE $t REPLICA IDENTITY DEFAULT",
        ..CASE
    },
    Case {
        name: "an index identifies",
        setup: "CREATE UNIQUE INDEX $t_u ON $t (u)",
        change: "ALTER TABLE $t REPLICA IDENTITY USING INDEX $t_u",
        change_on_target: Some(
            "ALTER TABLE $t DROP CONSTRAINT $t_pkey; ALTER TABLE $t ADD PRIMARY KEY (u)",
        ),
        stops: true,
        ..CASE
    },
    Case {
        name: "the key instead of an index",
        setup: "CREATE UNIQUE INDEX $t_u ON $t (u);
                ALTER TABLE $t REPLICA IDENTITY USING INDEX $t_u",
        change: "ALTER TABLE $t REPLICA IDENTITY DEFAULT",
        change_on_target: Some(
            "ALTER TABLE $t DROP CONSTRAINT IF EXISTS $t_u, DROP CONSTRAINT IF EXISTS $t_pkey;
             DROP INDEX IF EXISTS $t_u; ALTER TABLE $t ADD PRIMARY KEY (id)",
        ),
        stops: true,
        ..CASE
    },
    Case {
        name: "nothing identifies",
        change: "ALTER TABLE $t REPLICA IDENTITY NOTHING",
        stops: true,
        ..CASE
    },
    Case {
        name: "nothing identified before",
        setup: "ALTER TABLE $t REPLICA IDENTITY FULL; ALTER TABLE $t DROP CONSTRAINT $t_pkey",
        change: "ALTER TABLE $t ADD PRIMARY KEY (id)",
        stops: true,
        ..CASE
    },
    Case {
        name: "the key is another column",
        change: "ALTER TABLE $t DROP CONSTRAINT $t_pkey; ALTER TABLE $t ADD PRIMARY KEY (u)",
        stops: true,
        ..CASE
    },
    Case {
        name: "the key becomes shorter",
        key: ", PRIMARY KEY (id, m)",
        change: "ALTER TABLE $t DROP CONSTRAINT $t_pkey; ALTER TABLE $t ADD PRIMARY KEY (id)",
        stops: true,
        ..CASE
    },
    Case {
        name: "the key becomes longer",
        change: "ALTER TABLE $t DROP CONSTRAINT $t_pkey; ALTER TABLE $t ADD PRIMARY KEY (id, u)",
        stops: true,
        ..CASE
    },
    Case {
        name: "a column is added to a table without a key",
        key: "",
        setup: "ALTER TABLE $t REPLICA IDENTITY FULL",
        change: "ALTER TABLE $t ADD b int NOT NULL DEFAULT 5",
        column_after: "a, b",
        stops: true,
        ..CASE
    },
    Case {
        name: "a table without a key gets a wider type",
        key: "",
        setup: "ALTER TABLE $t REPLICA IDENTITY FULL",
        change: "ALTER TABLE $t ALTER a TYPE bigint",
        stops: true,
        ..CASE
    },
];

const MOOD: &str = "CREATE TYPE $t_mood AS ENUM ('bad', 'good')";
const PAIR: &str = "CREATE TYPE $t_pair AS (x int, y int)";

const TYPES: &[Case] = &[
    Case {
        name: "a label comes before others",
        types: MOOD,
        column: "a $t_mood",
        values: ["'bad'", "'good'"],
        values_after: ["'awful'", "'good'"],
        change: "ALTER TYPE $t_mood ADD VALUE 'awful' BEFORE 'bad'",
        alone: true,
        reads: "(a > 'bad')::text",
        ..CASE
    },
    Case {
        name: "a label is renamed",
        types: MOOD,
        column: "a $t_mood",
        values: ["'bad'", "'good'"],
        values_after: ["'sad'", "'good'"],
        change: "ALTER TYPE $t_mood RENAME VALUE 'bad' TO 'sad'",
        reads: "length(a::text)::text",
        ..CASE
    },
    Case {
        name: "a label of an array is renamed",
        types: MOOD,
        column: "a $t_mood[]",
        values: ["'{bad}'", "'{good,bad}'"],
        values_after: ["'{sad}'", "'{good,sad}'"],
        change: "ALTER TYPE $t_mood RENAME VALUE 'bad' TO 'sad'",
        reads: "cardinality(a)::text",
        ..CASE
    },
    Case {
        name: "an attribute is dropped and made anew",
        types: PAIR,
        column: "a $t_pair",
        values: ["(1, 1600001)", "(2, 1600002)"],
        values_after: ["(1, 'n1')", "(2, 'n2')"],
        change: "ALTER TYPE $t_pair DROP ATTRIBUTE y; ALTER TYPE $t_pair ADD ATTRIBUTE y text",
        reads: "(a).x::text",
        ..CASE
    },
    Case {
        name: "a type is made for a column that was there",
        change: "CREATE DOMAIN $t_small AS int CHECK (VALUE < 100);
                 ALTER TABLE $t ALTER a TYPE $t_small",
        ..CASE
    },
];

const PARTITIONS: &str = "CREATE TABLE $t_1 PARTITION OF $t FOR VALUES IN (11);
    CREATE TABLE $t_2 PARTITION OF $t FOR VALUES IN (12)";

const PARTITIONED: Case = Case {
    key: ", PRIMARY KEY (id, a)",
    partition: " PARTITION BY LIST (a)",
    setup: PARTITIONS,
    change_on_target: Some(""),
    ..CASE
};

const PARTITION_CHANGES: &[Case] = &[
    Case {
        name: "a row moves between partitions",
        change: "UPDATE $t SET a = 23 - a",
        reads: "right(u::text, 1)",
        ..PARTITIONED
    },
    Case {
        name: "a partition is detached",
        change: "ALTER TABLE $t DETACH PARTITION $t_2;
                 CREATE TABLE $t_3 PARTITION OF $t FOR VALUES IN (12, 13)",
        change_on_target: Some("DELETE FROM $t WHERE a = 12"),
        reload: true,
        ..PARTITIONED
    },
    Case {
        name: "a partition is attached",
        change: "CREATE TABLE $t_3 (LIKE $t INCLUDING ALL);
                 INSERT INTO $t_3 VALUES ('p1', 'm', 61, 'w', 13), ('p2', 'm', 62, 'w', 13);
                 ALTER TABLE $t ATTACH PARTITION $t_3 FOR VALUES IN (13)",
        values_after: ["13", "12"],
        reload: true,
        ..PARTITIONED
    },
    Case {
        name: "a partition has other numbers",
        setup: "CREATE TABLE $t_1 PARTITION OF $t FOR VALUES IN (11);
                CREATE TABLE $t_2 (gone int, a int NOT NULL, u int NOT NULL, w text, m text
                    NOT NULL, id text NOT NULL); ALTER TABLE $t_2 DROP gone;
                ALTER TABLE $t ATTACH PARTITION $t_2 FOR VALUES IN (12)",
        change: "ALTER TABLE $t ADD b int NOT NULL DEFAULT 5",
        change_on_target: None,
        column_after: "a, b",
        ..PARTITIONED
    },
];

const LOADED: &str = "INSERT INTO $t (id, m, u, a) VALUES ('l1', 'm', 1, $1), ('l2', 'm', 2, $2),
    ('l3', 'm', 3, $1), ('l4', 'm', 4, $2), ('l5', 'm', 5, $1)";

const BEFORE: &[&str] = &[
    "INSERT INTO $t (id, m, u, a) VALUES ('b1', 'new', 11, $1), ('b2', 'new', 12, $2),
        ('b3', 'new', 13, $1), ('b4', 'new', 14, $2), ('b5', 'new', 15, $1)",
    "UPDATE $t SET m = 'changed' WHERE id IN ('l1', 'b2', 'old1')",
    "UPDATE $t SET a = $2 WHERE id = 'l3'",
    "UPDATE $t SET id = 'l5x' WHERE id = 'l5'",
    "UPDATE $t SET u = 112 WHERE id = 'b5'",
    "DELETE FROM $t WHERE id IN ('l4', 'b3', 'old2')",
];

/// `$a` is the column that changed, with a comma before it.
const AFTER: &[&str] = &[
    "INSERT INTO $t (id, m, u$a) VALUES ('n1', 'new', 21$1), ('n2', 'new', 22$2)",
    "UPDATE $t SET m = 'again' WHERE id IN ('b1', 'l2', 'n1')",
    "DELETE FROM $t WHERE id IN ('b4', 'n2')",
    "UPDATE $t SET id = 'b2x' WHERE id = 'b2'",
    "INSERT INTO $t (id, m, u$a) VALUES ('b4', 'once more', 24$1)",
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    None,
    Filter,
    Value,
    MaskedKey,
}

/// How the change comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    OneTransaction,
    Several,
    /// As several, and the applier comes back before somebody publishes.
    NotPublished,
}

/// Nobody publishes for every second rule only: that is about the words, not about rows.
fn ways(rule: Rule) -> &'static [Way] {
    match rule {
        Rule::None | Rule::Value => &[Way::OneTransaction, Way::Several, Way::NotPublished],
        Rule::Filter | Rule::MaskedKey => &[Way::OneTransaction, Way::Several],
    }
}

struct Cell {
    case: &'static Case,
    rule: Rule,
    way: Way,
    /// Of the table and of the task.
    table: String,
    /// The target was changed as the source was, and the rules follow the table.
    adapted: bool,
}

impl Cell {
    fn name(&self) -> String {
        format!("{} ({:?}, {:?}, {})", self.case.name, self.rule, self.way, self.table)
    }

    fn sql(&self, text: &str) -> String {
        text.replace("$t", &self.table)
    }

    fn reads(&self) -> &'static str {
        match self.case.reads_after {
            Some(reads) if self.adapted => reads,
            _ => self.case.reads,
        }
    }

    fn filter(&self) -> String {
        format!("{} NOT IN ('2', '4', 'true')", self.reads())
    }

    fn rule_call(&self) -> Option<String> {
        let (task, table) = (&self.table, format!("public.{}", self.table));
        match self.rule {
            Rule::None => None,
            Rule::Filter => Some(format!("set_filter('{task}', '{table}', $${}$$)", self.filter())),
            Rule::Value => Some(format!(
                "set_value('{task}', '{table}', 'w', $$upper(w) || {}$$)",
                self.reads()
            )),
            Rule::MaskedKey => {
                let sql = "trem.pseudonym(id, 'mk')";
                Some(format!("set_value('{task}', '{table}', 'id', $${sql}$$)"))
            }
        }
    }

    /// What the rules make of the source.
    fn on_source(&self) -> String {
        let id = match self.rule {
            Rule::MaskedKey => "trem.pseudonym(id, 'mk')",
            _ => "id::text",
        };
        let w = match self.rule {
            Rule::Value => format!("upper(w) || {}", self.reads()),
            _ => "w".to_owned(),
        };
        let filter = match self.rule {
            Rule::Filter => self.filter(),
            _ => "true".to_owned(),
        };
        format!("SELECT {id} AS id, m, u, {w} AS w{} FROM $t WHERE {filter}", self.columns())
    }

    fn on_target(&self) -> String {
        format!("SELECT id::text AS id, m, u, w{} FROM $t", self.columns())
    }

    /// Those that are there after the change, with a comma before them.
    fn columns(&self) -> String {
        match self.case.column_after {
            "" => String::new(),
            columns => format!(", {columns}"),
        }
    }

    fn make(&self, pair: &mut Pair) {
        let Case { types, column, key, partition, setup, values, .. } = self.case;
        pair.source.exec(&self.sql(types));
        pair.source.exec(&self.sql(&format!(
            "CREATE TABLE $t (id text NOT NULL, m text NOT NULL, u int NOT NULL,
                w text DEFAULT 'w', {column}{key}){partition}"
        )));
        pair.source.exec(&self.sql(setup));
        pair.source.exec(&with_values(&self.sql(LOADED), values, ""));
        pair.create_task(&self.table, &[&format!("public.{}", self.table)]);
        if let Some(call) = self.rule_call() {
            pair.call(&[&call]);
        }
        pair.start_task(&self.table);
    }

    fn change(&self, pair: &mut Pair) {
        let Case { values, values_after, change, column_after, .. } = self.case;
        let name = column_after.split(',').next().unwrap_or_default();
        let comma = if name.is_empty() { "" } else { ", " };
        let before = BEFORE.iter().map(|sql| with_values(sql, values, ""));
        let after = AFTER.iter().map(|sql| {
            let sql = sql.replace("$a", &format!("{comma}{name}"));
            with_values(&sql, if name.is_empty() { &["", ""] } else { values_after }, comma)
        });
        let all = before.chain([(*change).to_owned()]).chain(after);
        let all: Vec<String> = all.map(|sql| self.sql(&sql)).collect();
        match self.way {
            Way::OneTransaction => pair.source.exec(&all.join(";\n")),
            Way::Several | Way::NotPublished => all.iter().for_each(|sql| pair.source.exec(sql)),
        }
    }

    /// Does to the target, and to the rules, what was done to the source.
    fn adapt(&mut self, pair: &mut Pair) {
        let change = self.case.change_on_target.unwrap_or(self.case.change);
        pair.target.exec(&self.sql(change));
        self.adapted = true;
        if self.case.reads_after.is_some() {
            let rules = format!("SELECT id FROM trem.transformation WHERE task = '{}'", self.table);
            for rule in pair.source.rows(&rules) {
                let id = rule[0].clone().unwrap_or_default();
                pair.call(&[&format!("drop_transformation({id})")]);
            }
            if let Some(call) = self.rule_call() {
                pair.call(&[&call]);
            }
        }
    }

    /// `keep`: the target is as the source was before the stream goes on.
    fn publish(&mut self, pair: &mut Pair, keep: bool) -> Result<(), String> {
        self.adapt(pair);
        let reload = format!("SELECT trem.reload_table('{0}', 'public.{0}')", self.table);
        let start = format!("SELECT trem.start_task('{}', keep => true)", self.table);
        let calls = if keep && !self.case.reload { vec![start] } else { vec![reload, start] };
        run_all(pair, &calls)
    }

    /// What the task says that it stopped for, with the remedy.
    fn error(&self, pair: &mut Pair) -> Option<(String, String)> {
        let query = format!(
            "SELECT last_error, coalesce(last_error_hint, '') FROM trem.task_status
             WHERE task = '{}' AND last_error IS NOT NULL",
            self.table
        );
        let row = pair.source.rows(&query).into_iter().next()?;
        Some((row[0].clone().unwrap_or_default(), row[1].clone().unwrap_or_default()))
    }

    /// Does what the hint says: the statements in it, and before them what it tells in words.
    fn follow(&mut self, pair: &mut Pair, hint: &str) -> Result<(), String> {
        if !self.adapted {
            self.adapt(pair);
        }
        if hint.contains("REPLICA IDENTITY FULL") {
            pair.source.exec(&self.sql("ALTER TABLE $t REPLICA IDENTITY FULL"));
        }
        let statements = statements(hint);
        let kept = statements.iter().find(|sql| sql.contains("keep =>") && !self.case.reload);
        let chosen = match kept {
            Some(kept) => vec![kept.clone()],
            None => statements.into_iter().filter(|sql| !sql.contains("keep =>")).collect(),
        };
        if chosen.is_empty() {
            return Err(format!("no statement in the hint: {hint}"));
        }
        run_all(pair, &chosen)
    }

    fn differs(&self, pair: &mut Pair) -> Option<String> {
        let (source, target) = (self.sql(&self.on_source()), self.sql(&self.on_target()));
        let sides = ((&mut pair.source, source.as_str()), (&mut pair.target, target.as_str()));
        difference(sides.0, sides.1, Content::Text)
    }
}

fn with_values(sql: &str, values: &[&str; 2], comma: &str) -> String {
    let value = |at: usize| format!("{comma}{}", values[at]);
    sql.replace("$1", &value(0)).replace("$2", &value(1))
}

/// The calls of TREM's functions in a hint.
fn statements(hint: &str) -> Vec<String> {
    let calls = hint.split("SELECT trem.").skip(1);
    calls.filter_map(|call| Some(format!("SELECT trem.{})", call.split_once(')')?.0))).collect()
}

fn run_all(pair: &mut Pair, statements: &[String]) -> Result<(), String> {
    for sql in statements {
        pair.source.try_exec(sql).map_err(|failure| format!("{sql}: {failure}"))?;
    }
    Ok(())
}

/// As often as one remedy may lead to another.
const ROUNDS: usize = 3;

/// All cells of a rule, side by side.
fn check(rule: Rule, cases: &[&'static [Case]]) {
    let many =
        [("max_replication_slots", "200"), ("max_wal_senders", "200"), ("max_connections", "900")];
    let mut pair = Pair::with_settings(&many, &many);
    pair.expect_log("");
    let mut cells = Vec::new();
    for case in cases.iter().copied().flatten() {
        for &way in ways(rule) {
            let table = format!("t{}", cells.len());
            if !(case.alone && way == Way::OneTransaction) {
                cells.push(Cell { case, rule, way, table, adapted: false });
            }
        }
    }
    cells.iter().for_each(|cell| cell.make(&mut pair));
    serve(&mut pair).assert_code(0);
    let mut faults = Vec::new();
    for cell in &mut cells {
        cell.change(&mut pair);
        if cell.way != Way::NotPublished {
            let fault = cell.publish(&mut pair, true).err();
            note(&mut faults, cell, fault);
        }
    }
    let mut open: Vec<&mut Cell> = cells.iter_mut().collect();
    for round in 0..=ROUNDS {
        serve(&mut pair);
        let log = pair.source_cluster.log();
        assert!(!log.contains("terminated by signal"), "the server crashed:\n{log}");
        let mut still = Vec::new();
        for cell in open {
            let error = cell.error(&mut pair);
            let published = round == 0 && cell.way != Way::NotPublished;
            if published && error.is_some() != cell.case.stops {
                let stopped = format!("stopped by {error:?}, not as the case says");
                note(&mut faults, cell, Some(stopped));
            }
            match error {
                None if !cell.adapted => {
                    // It went on without what is new, as a task that hides values does.
                    let fault = cell.publish(&mut pair, false).err();
                    note(&mut faults, cell, fault);
                    still.push(cell);
                }
                None => note(&mut faults, cell, cell.differs(&mut pair)),
                Some((error, hint)) if round < ROUNDS => match cell.follow(&mut pair, &hint) {
                    Ok(()) => still.push(cell),
                    Err(fault) => note(&mut faults, cell, Some(format!("{error}: {fault}"))),
                },
                Some((error, _)) => note(&mut faults, cell, Some(error)),
            }
        }
        open = still;
        if open.is_empty() {
            break;
        }
    }
    assert!(faults.is_empty(), "{} cells:\n{}", faults.len(), faults.join("\n"));
}

fn note(faults: &mut Vec<String>, cell: &Cell, fault: Option<String>) {
    faults.extend(fault.map(|fault| format!("{}: {fault}", cell.name())));
}

fn serve(pair: &mut Pair) -> trem_tests::Outcome {
    pair.applier_with(&["run", "--until-caught-up"], &[]).wait()
}

const ALL: [&[Case]; 5] = [RETYPES, COLUMNS, IDENTITIES, TYPES, PARTITION_CHANGES];

#[test]
fn tables_change_that_have_no_rules() {
    check(Rule::None, &ALL);
}

#[test]
fn tables_change_that_have_a_filter() {
    check(Rule::Filter, &ALL);
}

#[test]
fn tables_change_that_have_a_computed_column() {
    check(Rule::Value, &ALL);
}

#[test]
fn tables_change_that_have_a_masked_key() {
    check(Rule::MaskedKey, &ALL);
}
