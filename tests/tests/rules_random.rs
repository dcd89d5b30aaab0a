//! Random histories of rows that go in and out of a filter, against SQL.

use trem_tests::{Database, Pair, Random};

/// Rows of one history have one `h`; keys are few, so that they meet often.
const COLUMNS: &str =
    "h int NOT NULL, k int NOT NULL, v int, n text, large text, PRIMARY KEY (h, k)";

const HISTORIES: u64 = 300;
const KEYS: u64 = 5;

/// The tables, each with a replica identity: its statements.
const TABLES: [(&str, &str); 3] = [
    ("by_key", ""),
    ("by_row", "ALTER TABLE by_row REPLICA IDENTITY FULL"),
    (
        "by_index",
        "CREATE UNIQUE INDEX by_index_other ON by_index (k, h);
         ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_other",
    ),
];

/// Makes statements of a history; what they do to rows that are not there is nothing.
struct Histories {
    random: Random,
    /// Values that PostgreSQL keeps out of line, and so out of the WAL when they do not change.
    large: bool,
}

impl Histories {
    fn value(&mut self) -> String {
        match self.random.below(4) {
            0 => "NULL".to_owned(),
            n => (n * 10 - 10 + self.random.below(3)).to_string(),
        }
    }

    /// The answer of a filter over this value hangs on its first letter.
    fn large_value(&mut self) -> String {
        match (self.large, self.random.below(3)) {
            (false, _) | (_, 0) => format!("'{}'", self.random.below(9)),
            _ => format!("repeat('{}', 3000)", self.random.below(1_000_000)),
        }
    }

    fn statement(&mut self, table: &str, h: u64) -> String {
        let (k, other) = (self.random.below(KEYS), self.random.below(KEYS));
        let (v, large) = (self.value(), self.large_value());
        let row = format!("h = {h} AND k = {k}");
        let free = format!("NOT EXISTS (SELECT FROM {table} WHERE h = {h} AND k = {other})");
        match self.random.below(9) {
            0 | 1 => format!(
                "INSERT INTO {table} VALUES ({h}, {k}, {v}, 'n', {large}) ON CONFLICT DO NOTHING"
            ),
            2 | 3 => format!("UPDATE {table} SET v = {v} WHERE {row}"),
            4 => format!("UPDATE {table} SET n = n || '.' WHERE {row}"),
            5 => format!("UPDATE {table} SET large = {large} WHERE {row}"),
            6 => format!("UPDATE {table} SET k = {other} WHERE {row} AND {free}"),
            7 => format!("UPDATE {table} SET k = {other}, v = {v} WHERE {row} AND {free}"),
            _ => format!("DELETE FROM {table} WHERE {row}"),
        }
    }

    /// Statements of one to three histories and tables, some of them rolled back.
    fn transaction(&mut self, histories: u64) -> String {
        let mut statements = vec!["BEGIN".to_owned()];
        for _ in 0..=self.random.below(3) {
            let h = self.random.below(histories);
            let table = TABLES[self.random.below(3) as usize].0;
            let undone = self.random.below(6) == 0;
            if undone {
                statements.push("SAVEPOINT s".to_owned());
            }
            for _ in 0..=self.random.below(3) {
                statements.push(self.statement(table, h));
            }
            if undone {
                statements.push("ROLLBACK TO s".to_owned());
            }
        }
        statements.push("COMMIT".to_owned());
        statements.join("; ")
    }

    fn write(&mut self, source: &mut Database, transactions: u64, histories: u64) {
        for _ in 0..transactions {
            source.exec(&self.transaction(histories));
        }
    }
}

/// Copies while histories are written, is killed in their middle, and compares all at the end.
fn check(large: bool, histories: u64, rules: &[&str], on_source: &str) {
    let mut pair = Pair::new();
    let mut made = Histories { random: Random::new(), large };
    for (table, identity) in TABLES {
        pair.source.exec(&format!(
            "CREATE TABLE {table} ({COLUMNS}); ALTER TABLE {table} ALTER large SET STORAGE EXTERNAL;
             {identity}"
        ));
    }
    made.write(&mut pair.source, histories, histories);
    pair.create_task("t", &["public.*"]);
    for (table, _) in TABLES {
        for rule in rules {
            pair.call(&[&rule.replace("TABLE", table)]);
        }
    }
    pair.start_task("t");
    let mut applier = pair.applier("t");
    made.write(&mut pair.source, histories * 3, histories);
    // While it is down a backlog grows, which is then applied in large groups.
    applier.kill();
    made.write(&mut pair.source, histories * 3, histories);
    let mut applier = pair.applier("t");
    made.write(&mut pair.source, histories * 3, histories);
    pair.catch_up("t", &mut applier);
    applier.terminate();
    for (table, _) in TABLES {
        pair.assert_same(&on_source.replace("TABLE", table), &format!("SELECT * FROM {table}"));
    }
    let rows = pair.target.number("SELECT count(*) FROM by_key");
    assert!(rows > histories as i64 / 4, "the filter lets some rows pass: {rows}");
}

#[test]
fn random_histories_across_a_filter_end_as_sql_says() {
    check(
        false,
        HISTORIES,
        &["set_filter('t', 'public.TABLE', 'v > 5 AND large <> $$7$$')"],
        "SELECT * FROM TABLE WHERE v > 5 AND large <> '7'",
    );
}

#[test]
fn random_histories_of_large_values_end_as_sql_says() {
    check(
        true,
        HISTORIES,
        &[
            "set_filter('t', 'public.TABLE', 'v > 5')",
            "set_value('t', 'public.TABLE', 'large', '$$x$$ || large')",
            "add_column('t', 'public.TABLE', 'mixed', 'text', 'left(large, 5) || n')",
        ],
        "SELECT h, k, v, n, 'x' || large, left(large, 5) || n FROM TABLE WHERE v > 5",
    );
}

#[test]
fn random_histories_across_a_filter_of_large_values_end_as_sql_says() {
    check(
        true,
        HISTORIES,
        &["set_filter('t', 'public.TABLE', 'v > 5 OR large < $$5$$')"],
        "SELECT * FROM TABLE WHERE v > 5 OR large < '5'",
    );
}

/// Without rules, so that a failure above is not blamed on them.
#[test]
fn random_histories_of_large_values_without_rules_end_as_they_are() {
    check(true, HISTORIES / 3, &[], "SELECT * FROM TABLE");
}
