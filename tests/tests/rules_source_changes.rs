//! The source changes between the writing of rows and their decoding: columns are renamed, dropped
//! or retyped, functions replaced. What arrives is right, or the task stops and says what to do.

use trem_tests::Pair;

const PERSON: &str = "CREATE TABLE person (id int PRIMARY KEY, note text, secret text, v int);
    INSERT INTO person SELECT n, 'note ' || n, 'RAW' || n, n FROM generate_series(1, 20) n";

const RULES: [&str; 3] = [
    "set_value('t', 'public.person', 'secret', 'md5(secret)')",
    "add_column('t', 'public.person', 'label', 'text', 'upper(note) || v')",
    "set_filter('t', 'public.person', 'v > 5')",
];

/// Of a table as it was when it was published.
const ON_SOURCE: &str = "SELECT id, note, md5(secret), v, upper(note) || v FROM person WHERE v > 5";
const ON_TARGET: &str = "SELECT * FROM person";

fn copied() -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(PERSON);
    pair.create_task("t", &["public.person"]);
    pair.call(&RULES);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same(ON_SOURCE, ON_TARGET);
    pair
}

fn write(pair: &mut Pair, from: usize) {
    pair.source.exec(&format!(
        "INSERT INTO person SELECT n, 'note ' || n, 'RAW' || n, n FROM generate_series({from},
         {from} + 9) n;
         UPDATE person SET v = v + 1 WHERE id % 3 = 0; DELETE FROM person WHERE id = {from} + 4"
    ));
}

/// Nothing raw ever is on the target, whatever the columns are called.
#[track_caller]
fn nothing_raw(pair: &mut Pair) {
    let raw = "SELECT count(*) FROM person p WHERE p::text LIKE '%RAW%'";
    assert_eq!(pair.target.number(raw), 0, "raw values arrived");
}

/// Runs the task, which ends well or stops with a remedy, which `mend` follows.
#[track_caller]
fn right_or_stopped(pair: &mut Pair, mend: impl FnOnce(&mut Pair)) {
    let outcome = pair.run_until_caught_up("t");
    nothing_raw(pair);
    if outcome.code == Some(0) {
        return;
    }
    pair.expect_log("");
    outcome.assert_code(1).assert_says(&["person", "trem."]);
    mend(pair);
    pair.replicate("t");
    nothing_raw(pair);
}

/// Makes all rules anew, as they are written now, and loads the table again.
fn start_over(pair: &mut Pair, rules: &[&str]) {
    let old = pair.source.rows("SELECT id FROM trem.transformation ORDER BY id");
    for rule in old {
        let id = rule[0].clone().unwrap_or_default();
        pair.call(&[&format!("drop_transformation({id})")]);
    }
    pair.call(rules);
    pair.call(&["reload_table('t', 'public.person')", "start_task('t')"]);
}

#[test]
fn columns_are_renamed_after_rows_were_written() {
    let mut pair = copied();
    write(&mut pair, 100);
    pair.source.exec("ALTER TABLE person RENAME secret TO hidden");
    pair.source.exec("ALTER TABLE person RENAME note TO remark");
    let renamed = |sql: &str| sql.replace("secret", "hidden").replace("note", "remark");
    right_or_stopped(&mut pair, |pair| {
        let rules: Vec<String> = RULES.iter().map(|rule| renamed(rule)).collect();
        pair.target.exec("ALTER TABLE person RENAME secret TO hidden");
        pair.target.exec("ALTER TABLE person RENAME note TO remark");
        start_over(pair, &rules.iter().map(String::as_str).collect::<Vec<_>>());
    });
    pair.assert_same(&renamed(ON_SOURCE), ON_TARGET);
}

/// Expressions are bound to columns, not to what happens to have their name.
#[test]
fn columns_swap_their_names_after_rows_were_written() {
    let mut pair = copied();
    write(&mut pair, 100);
    pair.source.exec("ALTER TABLE person RENAME secret TO x");
    pair.source.exec("ALTER TABLE person RENAME note TO secret");
    pair.source.exec("ALTER TABLE person RENAME x TO note");
    pair.source.exec("INSERT INTO person (id, secret, note, v) VALUES (500, 'note', 'RAW', 50)");
    right_or_stopped(&mut pair, |pair| {
        let swapped = [
            "set_value('t', 'public.person', 'note', 'md5(note)')",
            "add_column('t', 'public.person', 'label', 'text', 'upper(secret) || v')",
            RULES[2],
        ];
        pair.target.exec("DROP TABLE person");
        start_over(pair, &swapped);
    });
    pair.assert_same(
        "SELECT id, secret, md5(note), v, upper(secret) || v FROM person WHERE v > 5",
        "TABLE person",
    );
}

#[test]
fn a_column_that_an_expression_uses_is_dropped_after_rows_were_written() {
    let mut pair = copied();
    write(&mut pair, 100);
    pair.source.exec("ALTER TABLE person DROP COLUMN v");
    right_or_stopped(&mut pair, |pair| {
        pair.target.exec("DROP TABLE person");
        start_over(pair, &RULES[..1]);
    });
    pair.assert_same(
        "SELECT id, note, md5(secret) FROM person",
        "SELECT id, note, secret FROM person",
    );
}

#[test]
fn a_column_that_an_expression_uses_changes_its_type_after_rows_were_written() {
    let mut pair = copied();
    write(&mut pair, 100);
    pair.source.exec("ALTER TABLE person ALTER v TYPE text USING 'v' || v");
    pair.source.exec("INSERT INTO person VALUES (600, 'note', 'RAW', 'v9')");
    right_or_stopped(&mut pair, |pair| {
        pair.target.exec("DROP TABLE person");
        start_over(pair, &[RULES[0], RULES[1], "set_filter('t', 'public.person', 'v > $$v5$$')"]);
    });
    pair.assert_same(&ON_SOURCE.replace("v > 5", "v > 'v5'"), ON_TARGET);
}

/// A new column is not masked by anything yet.
#[test]
fn a_column_is_added_after_rows_were_written() {
    let mut pair = copied();
    write(&mut pair, 100);
    pair.source.exec("ALTER TABLE person ADD COLUMN more text DEFAULT 'RAW'");
    pair.source.exec("INSERT INTO person VALUES (600, 'note', 'RAW', 9, 'RAW')");
    right_or_stopped(&mut pair, |pair| {
        pair.call(&[
            "exclude_column('t', 'public.person', 'more')",
            "start_task('t', keep => true)",
        ]);
    });
    pair.assert_same(ON_SOURCE, ON_TARGET);
}

#[test]
fn a_table_is_renamed_and_moved_after_rows_were_written() {
    let mut pair = copied();
    write(&mut pair, 100);
    pair.source.exec("CREATE SCHEMA app; ALTER TABLE person SET SCHEMA app");
    pair.source.exec("ALTER TABLE app.person RENAME TO people; CREATE TABLE person (id int)");
    let outcome = pair.run_until_caught_up("t");
    nothing_raw(&mut pair);
    if outcome.code != Some(0) {
        pair.expect_log("");
        outcome.assert_code(1).assert_says(&["person", "trem."]);
        return;
    }
    pair.assert_same(&ON_SOURCE.replace("FROM person", "FROM app.people"), ON_TARGET);
}

/// Names are looked up where the rule was read, wherever others are made later.
#[test]
fn functions_and_operators_of_the_same_names_are_made_after_rows_were_written() {
    let mut pair = copied();
    write(&mut pair, 100);
    pair.source.exec(
        "CREATE FUNCTION public.upper(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'RAW';
         CREATE FUNCTION public.md5(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'RAW';
         CREATE FUNCTION public.never(int, int) RETURNS bool IMMUTABLE LANGUAGE sql RETURN true;
         CREATE OPERATOR public.> (LEFTARG = int, RIGHTARG = int, FUNCTION = public.never);
         ALTER DATABASE shop SET search_path = public, pg_catalog;
         ALTER ROLE trem_applier SET search_path = public, pg_catalog",
    );
    pair.replicate("t");
    pair.assert_same(ON_SOURCE, ON_TARGET);
}

/// Making JSON would call it, and such code cannot run while decoding.
#[test]
fn a_cast_to_json_is_made_while_the_stream_runs() {
    let rule = |value: &str| {
        format!(
            "add_column('t', 'public.person', 'doc', 'jsonb', 'jsonb_build_array(id, {value})')"
        )
    };
    let mut pair = Pair::new();
    pair.source.exec(
        "CREATE TYPE mood AS ENUM ('good', 'bad');
         CREATE TABLE person (id int PRIMARY KEY, m mood); INSERT INTO person VALUES (1, 'good')",
    );
    pair.create_task("t", &["public.person"]);
    pair.call(&[&rule("m")]);
    pair.start_task("t");
    let mut applier = pair.applier("t");
    pair.wait_for_phase("t", "cdc");
    pair.source.exec("INSERT INTO person VALUES (2, 'bad')");
    pair.catch_up("t", &mut applier);
    pair.expect_log("becomes JSON by a cast");
    pair.source.exec(
        "CREATE FUNCTION told(mood) RETURNS json IMMUTABLE
             LANGUAGE plpgsql AS 'BEGIN RETURN to_json(1); END';
         CREATE CAST (mood AS json) WITH FUNCTION told(mood);
         INSERT INTO person VALUES (3, 'bad')",
    );
    let message = pair.wait_for_error("t");
    for part in ["public.person", "becomes JSON by a cast", "start_task"] {
        assert!(message.contains(part), "\"{part}\" is missing in: {message}");
    }
    assert_eq!(pair.target.text("SELECT max(id) FROM person"), "2");
    let made = pair.source.number("SELECT id FROM trem.transformation");
    pair.call(&[&format!("drop_transformation({made})"), &rule("m::text")]);
    pair.call(&["start_task('t', keep => true)"]);
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same("SELECT id, m, jsonb_build_array(id, m::text) FROM person", ON_TARGET);
}

/// Only a superuser can do this. In another language than C a function cannot run while decoding:
/// the server would end at it.
#[test]
fn a_built_in_function_is_replaced_after_rows_were_written() {
    for language in
        ["plpgsql AS 'BEGIN RETURN lower($1); END'", "sql AS 'SELECT lower($1) LIMIT 1'"]
    {
        let mut pair = copied();
        write(&mut pair, 100);
        pair.source.exec(&format!(
            "CREATE OR REPLACE FUNCTION pg_catalog.upper(text) RETURNS text IMMUTABLE STRICT
             LANGUAGE {language}"
        ));
        pair.refuse("t", &["person", "upper", "trem."]);
        assert!(pair.source.holds("SELECT true"), "the server is up");
        pair.source.exec(
            "CREATE OR REPLACE FUNCTION pg_catalog.upper(text) RETURNS text IMMUTABLE STRICT
             LANGUAGE internal AS 'upper'",
        );
        pair.replicate("t");
        pair.assert_same(ON_SOURCE, ON_TARGET);
    }
}
