//! Large values that an update does not touch are not in the WAL. Whatever a rule makes of them,
//! the target gets the right value: never NULL, never an old one, never a row that is not its.

use trem_tests::{noise, Database, Pair};

/// One way in which rules meet large values.
struct Case {
    rules: &'static [&'static str],
    on_source: &'static str,
}

const PASSED_THROUGH: Case = Case {
    rules: &["set_value('t', 'public.doc', 'v', 'v + 1')"],
    on_source: "SELECT id, v + 1, a, b FROM doc",
};

const IN_AN_EXPRESSION_ALONE: Case = Case {
    rules: &[
        "set_value('t', 'public.doc', 'a', 'upper(a)')",
        "change_type('t', 'public.doc', 'b', 'bytea', 'b::bytea')",
        "add_column('t', 'public.doc', 'hash', 'text', 'md5(a)')",
    ],
    on_source: "SELECT id, v, upper(a), b::bytea, md5(a) FROM doc",
};

const MIXED_WITH_ANOTHER_COLUMN: Case = Case {
    rules: &[
        "set_value('t', 'public.doc', 'a', 'v || a')",
        "add_column('t', 'public.doc', 'both', 'text', 'right(a, 9) || left(b, 9)')",
    ],
    on_source: "SELECT id, v, v || a, b, right(a, 9) || left(b, 9) FROM doc",
};

const DECIDING_THE_FILTER: Case = Case {
    rules: &["set_filter('t', 'public.doc', 'a < $$8$$ OR v > 5')"],
    on_source: "SELECT * FROM doc WHERE a < '8' OR v > 5",
};

const BEHIND_A_FILTER: Case = Case {
    rules: &["set_filter('t', 'public.doc', 'v > 3')"],
    on_source: "SELECT * FROM doc WHERE v > 3",
};

const ALL_TOGETHER: Case = Case {
    rules: &[
        "set_filter('t', 'public.doc', 'v > 3 AND b <> $$8$$')",
        "set_value('t', 'public.doc', 'a', 'upper(a)')",
        "set_value('t', 'public.doc', 'b', 'b || v')",
        "set_value('t', 'public.doc', 'id', 'id * 10')",
    ],
    on_source: "SELECT id * 10, v, upper(a), b || v FROM doc WHERE v > 3 AND b <> '8'",
};

fn fill(source: &mut Database, table: &str) {
    source.exec(&format!(
        "INSERT INTO {table} SELECT n, n % 8, {a}, {b} FROM generate_series(1, 24) n",
        a = noise("n"),
        b = noise("n * 1000"),
    ));
}

/// What happens to rows; `v` goes from 0 to 7. Each statement is a transaction.
fn change(source: &mut Database, table: &str) {
    let (fresh, other) = (noise("id * 7"), noise("id * 11"));
    for sql in [
        "UPDATE doc SET v = v",
        "UPDATE doc SET v = 7 - v WHERE id % 2 = 0",
        &format!("UPDATE doc SET a = {fresh} WHERE id % 4 = 0"),
        &format!("UPDATE doc SET b = {other} WHERE id % 4 = 1"),
        "UPDATE doc SET a = 'short' WHERE id % 8 = 2",
        "UPDATE doc SET b = NULL WHERE id % 8 = 3",
        "UPDATE doc SET id = id + 100 WHERE id % 3 = 0",
        "UPDATE doc SET id = id + 200, v = 7 - v WHERE id % 3 = 1 AND id < 100",
        // All within one transaction: in and out, and in again under another key.
        "BEGIN; UPDATE doc SET v = 0 WHERE id IN (5, 8); UPDATE doc SET v = 6 WHERE id IN (5, 8);
         UPDATE doc SET id = 305 WHERE id = 5; UPDATE doc SET id = 5 WHERE id = 8;
         UPDATE doc SET v = v + 1 WHERE id = 5; COMMIT",
        &format!(
            "BEGIN; INSERT INTO doc VALUES (50, 1, {a}, 'b'); UPDATE doc SET v = 5 WHERE id = 50;
             UPDATE doc SET id = 51 WHERE id = 50; INSERT INTO doc VALUES (60, 5, {a}, {b});
             UPDATE doc SET v = 6 WHERE id = 60; DELETE FROM doc WHERE id = 60; COMMIT",
            a = noise("'new'"),
            b = noise("'other'"),
        ),
        "UPDATE doc SET v = v + 2 WHERE v BETWEEN 2 AND 4",
        "DELETE FROM doc WHERE id % 7 = 0",
    ] {
        source.exec(&sql.replace("doc", table));
    }
}

fn check(case: &Case, identity: &str) {
    let mut pair = Pair::with_settings(&[("log_connections", "on")], &[]);
    pair.source.exec(&format!(
        "CREATE TABLE doc (id int PRIMARY KEY, v int, a text, b text);
         ALTER TABLE doc REPLICA IDENTITY {identity}"
    ));
    fill(&mut pair.source, "doc");
    pair.create_task("t", &["public.doc"]);
    pair.call(case.rules);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same(case.on_source, "SELECT * FROM doc");
    // First one by one as they come, then as a backlog.
    pair.follow("t", |source| change(source, "doc"));
    pair.assert_same(case.on_source, "SELECT * FROM doc");
    pair.source.exec("TRUNCATE doc");
    fill(&mut pair.source, "doc");
    pair.replicate("t");
    change(&mut pair.source, "doc");
    pair.replicate("t");
    pair.assert_same(case.on_source, "SELECT * FROM doc");
    let read_again = pair.source_cluster.log().contains("trem:t:reread");
    assert!(identity != "FULL" || !read_again, "with FULL all is in the WAL");
}

/// Each case under each identity.
macro_rules! cases {
    ($($name:ident: $case:expr, $identity:expr;)*) => {
        $(#[test] fn $name() { check(&$case, $identity); })*
    };
}

cases! {
    a_large_value_is_passed_through: PASSED_THROUGH, "DEFAULT";
    a_large_value_is_passed_through_with_identity_full: PASSED_THROUGH, "FULL";
    a_large_value_is_used_alone: IN_AN_EXPRESSION_ALONE, "DEFAULT";
    a_large_value_is_used_alone_with_identity_full: IN_AN_EXPRESSION_ALONE, "FULL";
    a_large_value_is_mixed_with_another_column: MIXED_WITH_ANOTHER_COLUMN, "DEFAULT";
    a_large_value_is_mixed_with_another_column_with_identity_full:
        MIXED_WITH_ANOTHER_COLUMN, "FULL";
    a_large_value_decides_the_filter: DECIDING_THE_FILTER, "DEFAULT";
    a_large_value_decides_the_filter_with_identity_full: DECIDING_THE_FILTER, "FULL";
    a_row_with_large_values_enters_a_filter: BEHIND_A_FILTER, "DEFAULT";
    a_row_with_large_values_enters_a_filter_with_identity_full: BEHIND_A_FILTER, "FULL";
    large_values_meet_all_kinds_of_rules: ALL_TOGETHER, "DEFAULT";
    large_values_meet_all_kinds_of_rules_with_identity_full: ALL_TOGETHER, "FULL";
}

/// What is made of large values: rules of a table, and the columns that come of them.
const USES: [(&[&str], &str); 3] = [
    (&["set_value('t', '{table}', 'v', 'v + 1')"], "id, v + 1, a, b"),
    (
        &[
            "set_value('t', '{table}', 'a', 'upper(a)')",
            "change_type('t', '{table}', 'b', 'bytea', 'b::bytea')",
            "add_column('t', '{table}', 'hash', 'text', 'md5(a)')",
        ],
        "id, v, upper(a), b::bytea, md5(a)",
    ),
    (
        &[
            "set_value('t', '{table}', 'a', 'v || a')",
            "add_column('t', '{table}', 'both', 'text', 'right(a, 9) || left(b, 9)')",
        ],
        "id, v, v || a, b, right(a, 9) || left(b, 9)",
    ),
];

/// None; one that rows enter; one that a large value decides, alone and with another column; one
/// that the key decides.
const FILTERS: [&str; 5] = ["true", "v > 3", "a < '8'", "b < '8' OR v > 5", "id % 5 < 3"];

/// Every use behind every filter, each in a table of its own.
fn check_combinations(identity: &str) {
    let mut pair = Pair::new();
    let mut tables = Vec::new();
    for (use_at, (rules, columns)) in USES.into_iter().enumerate() {
        for (filter_at, filter) in FILTERS.into_iter().enumerate() {
            let table = format!("doc_{use_at}_{filter_at}");
            pair.source.exec(&format!(
                "CREATE TABLE {table} (id int NOT NULL, v int, a text, b text);
                 CREATE UNIQUE INDEX {table}_id ON {table} (id)"
            ));
            pair.source.exec(&match identity {
                "INDEX" => format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {table}_id"),
                _ => format!(
                    "ALTER TABLE {table} ADD PRIMARY KEY USING INDEX {table}_id,
                     REPLICA IDENTITY {identity}"
                ),
            });
            tables.push((table, rules, columns, filter));
        }
    }
    let names: Vec<_> = tables.iter().map(|(table, ..)| format!("public.{table}")).collect();
    pair.create_task("t", &names.iter().map(String::as_str).collect::<Vec<_>>());
    for (table, rules, _, filter) in &tables {
        for rule in *rules {
            pair.call(&[&rule.replace("{table}", &format!("public.{table}"))]);
        }
        pair.call(&[&format!("set_filter('t', 'public.{table}', $f${filter}$f$)")]);
        fill(&mut pair.source, table);
    }
    let compare = |pair: &mut Pair| {
        for (table, _, columns, filter) in &tables {
            let on_source = format!("SELECT {columns} FROM {table} WHERE {filter}");
            pair.assert_same(&on_source, &format!("SELECT * FROM {table}"));
        }
    };
    pair.start_task("t");
    pair.replicate("t");
    compare(&mut pair);
    pair.follow("t", |source| tables.iter().for_each(|(table, ..)| change(source, table)));
    compare(&mut pair);
    assert_eq!(pair.conflicts(), 0);
}

#[test]
fn every_use_behind_every_filter() {
    check_combinations("DEFAULT");
}

#[test]
fn every_use_behind_every_filter_with_identity_full() {
    check_combinations("FULL");
}

#[test]
fn every_use_behind_every_filter_with_an_index_as_identity() {
    check_combinations("INDEX");
}

#[test]
fn check_task_says_that_rows_will_be_read_again() {
    let mut pair = Pair::new();
    pair.source.exec("CREATE TABLE doc (id int PRIMARY KEY, v int, a text, b text)");
    pair.create_task("t", &["public.doc"]);
    pair.call(MIXED_WITH_ANOTHER_COLUMN.rules);
    pair.call(DECIDING_THE_FILTER.rules);
    let warned = "SELECT count(*) FROM trem.check_task('t')
        WHERE severity = 'warning' AND hint LIKE '%REPLICA IDENTITY FULL%'";
    assert!(pair.source.number(warned) >= 2);
    pair.source.exec("ALTER TABLE doc REPLICA IDENTITY FULL");
    assert_eq!(pair.source.number(warned), 0);
}
