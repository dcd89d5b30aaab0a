//! Random expressions over random rows, through the walsender: no crash, no task that stops for
//! good while it may skip rows, and the copy gives what the stream gives.
//!
//! `TREM_EXPRESSIONS=100000` evaluates as many (an expression on a row each) in place of
//! [`EVALUATIONS`], in rounds.

mod grammar;
mod values;

use grammar::{Expression, Grammar};
use trem_tests::{wait_for, Pair, Random};

const EVALUATIONS: u64 = 6_000;

/// Of a round: tables, expressions of each, rows for each expression. A row is for one expression:
/// one that fails would leave the others out.
const TABLES: u64 = 10;
const EXPRESSIONS: u64 = 20;
const ROWS: u64 = 30;
const ROUND: u64 = TABLES * EXPRESSIONS * ROWS;

const SKIP: &str = r#"{"on_error": "skip_row"}"#;

/// Of rows that both tables have, those whose results differ.
const DIFFERENT: &str = "SELECT id, a::text, b::text FROM a FULL JOIN b USING (id)
    WHERE to_jsonb(a)::text IS DISTINCT FROM to_jsonb(b)::text
       OR a::text IS DISTINCT FROM b::text";

struct Round {
    pair: Pair,
    random: Random,
    grammar: Grammar,
    refused: u64,
}

#[test]
fn random_expressions_end_no_stream_and_copy_as_they_stream() {
    let wanted = std::env::var("TREM_EXPRESSIONS").ok().and_then(|count| count.parse().ok());
    let wanted: u64 = wanted.unwrap_or(EVALUATIONS);
    let mut seeds = Random::new();
    for round in 0..wanted.div_ceil(ROUND) {
        let seed = seeds.number();
        println!("round {round}: seed {seed}");
        check(Random::from_seed(seed));
    }
}

fn check(random: Random) {
    let mut pair = Pair::new();
    pair.source.exec(values::TYPES);
    pair.target.exec(values::TYPES);
    // Some of the values cannot be compared, so none is a key.
    let grammar = Grammar::read(&mut pair.source);
    let mut round = Round { pair, random, grammar, refused: 0 };
    for table in 0..TABLES {
        round.create(table);
    }
    round.copy_and_stream();
    for table in 0..TABLES {
        round.compare(table);
    }
    println!("refused {} expressions", round.refused);
}

impl Round {
    /// The table twice, with its rules; the first with its rows.
    fn create(&mut self, table: u64) {
        let random = &mut self.random;
        let wanted = EXPRESSIONS * 2;
        let drawn: Vec<_> =
            (0..wanted).map(|at| self.grammar.expression(random, &format!("c{at}"))).collect();
        let columns: Vec<_> = drawn
            .iter()
            .flat_map(|expression| &expression.columns)
            .map(|(name, kind)| format!("{name} {}", kind.name))
            .collect();
        let (first, second) = (format!("a{table}"), format!("b{table}"));
        let columns = columns.join(", ");
        self.pair.source.exec(&format!(
            "CREATE TABLE {first} (id int PRIMARY KEY, {columns});
             CREATE TABLE {second} (LIKE {first} INCLUDING ALL)"
        ));
        let task = format!("t{table}");
        let names = [format!("public.{first}"), format!("public.{second}")];
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        self.pair.create_task_with(&task, &names, "full_load_and_cdc", SKIP);
        let mut admitted: Vec<Expression> = Vec::new();
        for expression in drawn {
            if admitted.len() as u64 == EXPRESSIONS {
                break;
            }
            match self.add(&task, &names, &expression, admitted.len() as u64) {
                true => admitted.push(expression),
                false => self.refused += 1,
            }
        }
        assert!(admitted.len() as u64 > EXPRESSIONS / 3, "few are admitted: {}", admitted.len());
        self.exclude_inputs(&task, &names);
        self.fill(&first, &admitted);
    }

    fn add(&mut self, task: &str, tables: &[&str], expression: &Expression, at: u64) -> bool {
        let (mut sql, mut result) = (expression.sql.clone(), expression.result.as_str());
        if values::AS_TEXT.contains(&result) || result.ends_with("[]") {
            (sql, result) = (format!("({sql})::text"), "text");
        }
        // Their names without a length mean a length of one.
        let result = match result {
            "character" => "bpchar",
            "bit" => "bit varying",
            other => other,
        };
        tables.iter().all(|table| {
            let guarded = format!("CASE WHEN id % {EXPRESSIONS} = {at} THEN {sql} END");
            let call = format!(
                "SELECT trem.add_column('{task}', '{table}', 'r{at}', '{result}', $e${guarded}$e$)"
            );
            match self.pair.source.try_exec(&call) {
                Ok(()) => true,
                Err(failure) => {
                    assert_eq!(failure.sqlstate, "22023", "{failure}: {sql}");
                    false
                }
            }
        })
    }

    /// The target has results only: not all that is read has a type there, or passes.
    fn exclude_inputs(&mut self, task: &str, tables: &[&str]) {
        for table in tables {
            self.pair.source.exec(&format!(
                "SELECT trem.exclude_column('{task}', '{table}', attname)
                 FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 1"
            ));
        }
    }

    fn fill(&mut self, table: &str, admitted: &[Expression]) {
        for (at, expression) in (0..).zip(admitted) {
            let names: Vec<_> = expression.columns.iter().map(|column| &*column.0).collect();
            let rows: Vec<_> =
                (0..ROWS).map(|row| self.row(row * EXPRESSIONS + at, expression)).collect();
            let columns = [&["id"][..], &names].concat().join(", ");
            let rows = rows.join(", ");
            self.pair.source.exec(&format!("INSERT INTO {table} ({columns}) VALUES {rows}"));
        }
    }

    /// Values of a row for an expression, as SQL writes them.
    fn row(&mut self, id: u64, expression: &Expression) -> String {
        let mut fields = vec![id.to_string()];
        for (_, kind) in &expression.columns {
            let drawn = self.random.below(2 * kind.values.len() as u64 + 1) as usize;
            // One in some is NULL.
            let value = kind.values.get(drawn / 2);
            fields.push(value.map_or("NULL".to_owned(), |value| values::sql(kind, value)));
        }
        format!("({})", fields.join(", "))
    }

    fn copy_and_stream(&mut self) {
        for table in 0..TABLES {
            let task = format!("t{table}");
            self.pair.start_task(&task);
            self.pair.replicate(&task);
            self.pair.source.exec(&format!("INSERT INTO b{table} SELECT * FROM a{table}"));
            let mut applier = self.pair.applier(&task);
            self.pair.catch_up(&task, &mut applier);
            applier.terminate();
        }
    }

    /// The copy gave what the stream gives: results, and rows that were left out.
    fn compare(&mut self, table: u64) {
        let named = |sql: &str, a: &str, b: &str| {
            sql.replace("a FULL JOIN b", &format!("{a} AS a FULL JOIN {b} AS b"))
        };
        let (a, b) = (format!("a{table}"), format!("b{table}"));
        let different = self.pair.target.rows(&named(DIFFERENT, &a, &b));
        if !different.is_empty() {
            let rules = "SELECT column_name, arguments::text FROM trem.transformation
                WHERE kind = 'add_column' AND table_name = ";
            let rules = self.pair.source.rows(&format!("{rules}'public.{a}'"));
            panic!("copy and stream differ in {a}: {different:#?} by the rules {rules:#?}");
        }
        let failed = |name: &str| {
            format!(
                "SELECT coalesce(string_agg(DISTINCT concat_ws(' ', key, sqlstate), ', '), '')
                 FROM trem.exception WHERE task = 't{table}' AND table_name = 'public.{name}'"
            )
        };
        let all = self.pair.source.number(&format!("SELECT count(*) FROM {a}"));
        let copied = self.pair.target.number(&format!("SELECT count(*) FROM {a}"));
        println!("table {a}: {copied} of {all} rows are computed");
        let (left, right) =
            (self.pair.source.text(&failed(&a)), self.pair.source.text(&failed(&b)));
        assert_eq!(left, right);
        let recorded = self.pair.source.number(&format!(
            "SELECT count(*) FROM trem.exception WHERE table_name = 'public.{a}'"
        ));
        assert_eq!(copied + recorded, all);
        let running = "SELECT count(*) = 0 FROM pg_stat_replication";
        wait_for("the stream to end", || self.pair.source.holds(running));
    }
}
