//! Tables that change while the applier is away: each kind of change, under each kind of rule, in
//! one transaction with rows before and after it or in several, published before the applier comes
//! back or not. What arrives is what the rules make of the source, or the task stops and says what
//! to do; done to the letter, that leads there. The server never crashes.
//!
//! Every cell is a task with one table; all of a rule are served at once. The target is changed by
//! hand as the source was, which is what `keep` promises.

#[path = "history_matrix/cases.rs"]
mod cases;

use trem_tests::{difference, Content, Pair};

use cases::{Case, ALL};

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
