//! An expression that fails on one row stops the task at that transaction, or, when the task says
//! so, leaves the row out and records it. Either way the rest is right, and the message says what
//! to do.

use trem_tests::{noise, Pair};

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, v int, name text);
    INSERT INTO item SELECT n, n, 'name ' || n FROM generate_series(1, 20) n";

const RULE: &str = "set_value('t', 'public.item', 'v', '1000 / v')";
const SKIP: &str = r#"{"on_error": "skip_row"}"#;
const ON_TARGET: &str = "SELECT * FROM item";

fn drafted(options: &str) -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(ITEM);
    pair.create_task_with("t", &["public.item"], "full_load_and_cdc", options);
    pair.call(&[RULE]);
    pair
}

fn copied(options: &str) -> Pair {
    let mut pair = drafted(options);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same("SELECT id, 1000 / v, name FROM item", ON_TARGET);
    pair
}

/// Replaces the rule by one that computes every row.
fn mend(pair: &mut Pair) {
    let rule = pair.source.number("SELECT id FROM trem.transformation");
    let mended = RULE.replace("1000 / v", "1000 / nullif(v, 0)");
    pair.call(&[&format!("drop_transformation({rule})"), &mended, "start_task('t', keep => true)"]);
}

/// The positions in a message.
fn positions(message: &str) -> Vec<String> {
    let is_position = |word: &&str| match word.split_once('/') {
        Some((high, low)) => [high, low].iter().all(|half| u32::from_str_radix(half, 16).is_ok()),
        None => false,
    };
    let words = message.split(|c: char| !(c.is_ascii_hexdigit() || c == '/'));
    words.filter(is_position).map(str::to_owned).collect()
}

#[test]
fn the_task_stops_at_the_transaction_and_goes_on_when_the_rule_is_mended() {
    let mut pair = copied("{}");
    pair.source.exec("UPDATE item SET name = 'before' WHERE id = 1");
    let from = pair.source.text("SELECT pg_current_wal_insert_lsn()");
    pair.source.exec(
        "BEGIN; INSERT INTO item VALUES (30, 3, 'same transaction');
        UPDATE item SET v = 0 WHERE id = 5; UPDATE item SET v = 7 WHERE id = 6; COMMIT",
    );
    let to = pair.source.text("SELECT pg_current_wal_insert_lsn()");
    pair.source.exec("UPDATE item SET name = 'after' WHERE id = 2");
    pair.refuse("t", &["task=t", "item", "(key: id)", "22012", "skip_row", "start_task"]);
    let message = pair.wait_for_error("t");
    for part in ["item", "(key: id)", "22012", "skip_row", "start_task"] {
        assert!(message.contains(part), "\"{part}\" is missing in: {message}");
    }
    let named = positions(&message).iter().any(|lsn| {
        pair.source.holds(&format!("SELECT '{lsn}'::pg_lsn BETWEEN '{from}' AND '{to}'"))
    });
    assert!(named, "the position, between {from} and {to}, is missing in: {message}");
    // What was before has arrived, the transaction has not, and it stops there again.
    let arrived = "SELECT count(*) FILTER (WHERE name = 'before') = 1 AND count(*) = 20 FROM item";
    assert!(pair.target.holds(arrived));
    pair.refuse("t", &["22012"]);
    assert!(pair.target.holds(arrived));
    mend(&mut pair);
    pair.replicate("t");
    pair.assert_same("SELECT id, 1000 / nullif(v, 0), name FROM item", ON_TARGET);
}

#[test]
fn a_service_goes_on_by_itself_when_the_rule_is_mended() {
    let mut pair = copied("{}");
    pair.expect_log("22012");
    let mut applier = pair.applier("t");
    pair.source.exec("UPDATE item SET v = 0 WHERE id = 5");
    pair.wait_for_error("t");
    mend(&mut pair);
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same("SELECT id, 1000 / nullif(v, 0), name FROM item", ON_TARGET);
}

#[test]
fn the_task_goes_on_when_it_is_told_to_skip_such_rows() {
    let mut pair = copied("{}");
    pair.source.exec("UPDATE item SET v = 0 WHERE id = 5; UPDATE item SET v = 8 WHERE id = 6");
    pair.refuse("t", &["22012"]);
    pair.call(&[&format!("alter_task('t', '{SKIP}')"), "start_task('t')"]);
    pair.replicate("t");
    let on_source = "SELECT id, 1000 / CASE WHEN id = 5 THEN 5 ELSE v END, name FROM item";
    pair.assert_same(on_source, ON_TARGET);
    assert_eq!(pair.source.number("SELECT count(*) FROM trem.exception"), 1);
}

#[test]
fn a_copy_that_fails_on_a_row_is_done_when_the_row_is_mended() {
    let mut pair = drafted("{}");
    pair.source.exec("UPDATE item SET v = 0 WHERE id = 7");
    pair.start_task("t");
    pair.refuse("t", &["item", "22012", "start_task"]);
    pair.source.exec("UPDATE item SET v = 70 WHERE id = 7");
    pair.replicate("t");
    pair.assert_same("SELECT id, 1000 / v, name FROM item", ON_TARGET);
}

/// Rows of `trem.exception`, and what the target keeps of them, which must be the same.
fn exceptions(pair: &mut Pair) -> Vec<String> {
    let line = "concat_ws(' ', operation, key, sqlstate)";
    let told = format!(
        "SELECT {line} FROM trem.exception WHERE task = 't' AND table_name = 'public.item'
             AND rule_id = (SELECT min(id) FROM trem.transformation) ORDER BY {line} COLLATE \"C\""
    );
    let kept = format!(
        "SELECT {line} FROM trem_target.exception e JOIN trem_target.progress USING (task_id)
         WHERE task = 't' ORDER BY {line} COLLATE \"C\""
    );
    let lines = |rows: Vec<Vec<Option<String>>>| -> Vec<String> {
        rows.into_iter().filter_map(|row| row[0].clone()).collect()
    };
    let (told, kept) = (lines(pair.source.rows(&told)), lines(pair.target.rows(&kept)));
    assert_eq!(told, kept);
    told
}

#[test]
fn skipped_rows_are_recorded_and_the_rest_flows() {
    let mut pair = copied(SKIP);
    pair.follow("t", |source| {
        source.exec("INSERT INTO item VALUES (100, 0, 'skipped'), (101, 4, 'next to it')");
        source.exec("UPDATE item SET v = 0, name = 'skipped' WHERE id IN (3, 4)");
        source.exec("DELETE FROM item WHERE id = 1");
        source.exec("UPDATE item SET name = 'other' WHERE id IN (7, 8)");
        source.exec("UPDATE item SET name = 'skipped again' WHERE id = 3");
    });
    assert_eq!(
        exceptions(&mut pair),
        ["insert (100) 22012", "update (3) 22012", "update (3) 22012", "update (4) 22012"]
    );
    let positions = "SELECT count(DISTINCT commit_lsn) FROM trem.exception";
    assert_eq!(pair.source.number(positions), 3);
    // The target's row stays as it was.
    pair.assert_same(
        "SELECT id, 1000 / CASE WHEN id IN (3, 4) THEN id ELSE v END,
             CASE WHEN id IN (3, 4) THEN 'name ' || id ELSE name END FROM item WHERE id <> 100",
        ON_TARGET,
    );
    // Rows that were left out are changed and deleted like others.
    pair.follow("t", |source| {
        source.exec("UPDATE item SET v = 5 WHERE id IN (3, 100)");
        source.exec("DELETE FROM item WHERE id = 4; INSERT INTO item VALUES (200, 0, 'skipped')");
        source.exec("DELETE FROM item WHERE id = 200");
    });
    pair.assert_same("SELECT id, 1000 / v, name FROM item", ON_TARGET);
}

/// The row under the old key is none of the source's any more.
#[test]
fn a_row_whose_key_changed_while_it_could_not_be_computed_is_right_in_the_end() {
    let mut pair = copied(SKIP);
    pair.follow("t", |source| {
        source.exec("UPDATE item SET id = 300, v = 0 WHERE id = 3");
        source.exec("UPDATE item SET id = 400, v = 0 WHERE id = 4");
        source.exec("UPDATE item SET v = 9 WHERE id = 300");
        source.exec("DELETE FROM item WHERE id = 400");
    });
    pair.assert_same("SELECT id, 1000 / v, name FROM item", ON_TARGET);
}

#[test]
fn a_copy_skips_rows_as_well() {
    let mut pair = drafted(SKIP);
    pair.source.exec("UPDATE item SET v = 0 WHERE id IN (2, 20)");
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same("SELECT id, 1000 / v, name FROM item WHERE v <> 0", ON_TARGET);
    assert_eq!(exceptions(&mut pair), ["insert (2) 22012", "insert (20) 22012"]);
    pair.follow("t", |source| source.exec("UPDATE item SET v = 5 WHERE v = 0"));
    pair.assert_same("SELECT id, 1000 / v, name FROM item", ON_TARGET);
}

#[test]
fn a_filter_may_fail_on_a_row() {
    let mut pair = Pair::new();
    pair.source.exec(ITEM);
    pair.create_task_with("t", &["public.item"], "full_load_and_cdc", SKIP);
    pair.call(&["set_filter('t', 'public.item', '1000 / v > 100')"]);
    pair.source.exec("UPDATE item SET v = 0 WHERE id = 2");
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same("SELECT * FROM item WHERE 1000 / nullif(v, 0) > 100", ON_TARGET);
    pair.follow("t", |source| {
        source
            .exec("INSERT INTO item VALUES (100, 0, 'skipped'), (101, 4, 'in'), (102, 40, 'out')");
        source.exec("UPDATE item SET v = 0 WHERE id = 15");
        source.exec("DELETE FROM item WHERE id = 100");
    });
    pair.assert_same("SELECT * FROM item WHERE 1000 / nullif(v, 0) > 100", ON_TARGET);
    assert_eq!(
        exceptions(&mut pair),
        ["insert (100) 22012", "insert (2) 22012", "update (15) 22012"]
    );
}

#[test]
fn a_key_that_cannot_be_computed_is_left_out() {
    let mut pair = Pair::new();
    pair.source.exec(ITEM);
    pair.create_task_with("t", &["public.item"], "full_load_and_cdc", SKIP);
    pair.call(&["set_value('t', 'public.item', 'id', 'nullif(id, 5) * 1000000')"]);
    pair.start_task("t");
    pair.replicate("t");
    let on_source = "SELECT id * 1000000, v, name FROM item WHERE id < 2000 AND id <> 5";
    pair.assert_same(on_source, ON_TARGET);
    pair.follow("t", |source| {
        source.exec("INSERT INTO item VALUES (2147, 1, 'last'), (2148, 1, 'too large')");
        source.exec("DELETE FROM item WHERE id = 2148; UPDATE item SET id = 2149 WHERE id = 6");
        source.exec("UPDATE item SET v = 0 WHERE id = 5; DELETE FROM item WHERE id = 7");
        source.exec("UPDATE item SET id = 8 WHERE id = 5; UPDATE item SET id = 5 WHERE id = 9")
    });
    let kept = "SELECT count(*) FROM item WHERE id = 6000000";
    assert_eq!(pair.target.number(kept), 1, "the row stays as it was");
}

/// Kinds of errors that one row's values can cause.
#[test]
fn every_kind_of_failing_row_is_caught() {
    let mut pair = Pair::new();
    pair.source.exec(
        "CREATE DOMAIN public.positive AS int CHECK (VALUE > 0);
         CREATE TABLE item (id int PRIMARY KEY, v text); INSERT INTO item VALUES (1, '1')",
    );
    pair.create_task_with("t", &["public.item"], "full_load_and_cdc", SKIP);
    let cases = [
        ("v::int", "int", "x", "22P02"),
        ("v::int", "int", "99999999999", "22003"),
        ("v::int::smallint", "int", "99999", "22003"),
        ("(v || '-01-01')::date", "date", "99999999", "22008"),
        ("('2024-01-' || v)::date", "date", "y", "22007"),
        ("sqrt(v::float8)", "float8", "-1", "2201F"),
        ("ln(v::numeric)", "numeric", "0", "2201E"),
        ("substr(v, 1, -length(v))", "text", "long", "22011"),
        ("regexp_replace('a', v, '')", "text", "(", "2201B"),
        ("v::int", "public.positive", "0", "23514"),
        ("v::jsonb", "jsonb", "{", "22P02"),
        ("decode(v, 'hex')", "bytea", "1", "22023"),
        ("('{' || v || '}')::int[]", "int[]", "{", "22P02"),
        ("int4range(5, v::int)", "int4range", "1", "22000"),
    ];
    let numbered: Vec<_> = cases.iter().zip(2..).collect();
    for ((expression, type_name, _, _), id) in &numbered {
        let guarded = format!("CASE WHEN id = {id} THEN {expression} END");
        pair.call(&[&format!(
            "add_column('t', 'public.item', 'c{id}', '{type_name}', $e${guarded}$e$)"
        )]);
    }
    pair.start_task("t");
    pair.replicate("t");
    pair.follow("t", |source| {
        for ((_, _, value, _), id) in &numbered {
            source.exec(&format!("INSERT INTO item VALUES ({id}, '{value}')"));
        }
    });
    let found = pair.source.rows("SELECT key, sqlstate FROM trem.exception ORDER BY key::text");
    let mut expected: Vec<_> = numbered
        .iter()
        .map(|((_, _, _, sqlstate), id)| {
            vec![Some(format!("({id})")), Some((*sqlstate).to_owned())]
        })
        .collect();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(pair.target.number("SELECT count(*) FROM item"), 1);
}

/// The row has to be read again, and there the expression fails.
#[test]
fn a_row_read_again_that_cannot_be_computed_is_skipped() {
    let mut pair = Pair::new();
    pair.source.exec(&format!(
        "CREATE TABLE item (id int PRIMARY KEY, v int, large text);
         INSERT INTO item SELECT n, n, {} FROM generate_series(1, 6) n",
        noise("n")
    ));
    pair.create_task_with("t", &["public.item"], "full_load_and_cdc", SKIP);
    pair.call(&["add_column('t', 'public.item', 'w', 'text', '1000 / v || left(large, 5)')"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.follow("t", |source| {
        source.exec("UPDATE item SET v = 0 WHERE id IN (2, 3); UPDATE item SET v = 9 WHERE id = 4");
    });
    assert_eq!(exceptions(&mut pair), ["update (2) 22012", "update (3) 22012"]);
    let columns =
        |v: &str| format!("SELECT id, {v}, large, 1000 / ({v}) || left(large, 5) FROM item");
    pair.assert_same(&columns("CASE WHEN id IN (2, 3) THEN id ELSE v END"), ON_TARGET);
    pair.follow("t", |source| source.exec("UPDATE item SET v = 10"));
    pair.assert_same(&columns("v"), ON_TARGET);
}

#[test]
fn a_row_read_again_that_cannot_be_computed_stops_the_task() {
    let mut pair = Pair::new();
    pair.source.exec(&format!(
        "CREATE TABLE item (id int PRIMARY KEY, v int, large text);
         INSERT INTO item SELECT n, n, {} FROM generate_series(1, 6) n",
        noise("n")
    ));
    pair.create_task("t", &["public.item"]);
    pair.call(&["add_column('t', 'public.item', 'w', 'text', '1000 / v || left(large, 5)')"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.source.exec("UPDATE item SET v = 0 WHERE id = 2");
    pair.refuse("t", &["task=t", "item", "22012", "skip_row"]);
    // The row is read as it is now, so here it can be mended.
    pair.source.exec("UPDATE item SET v = 10 WHERE id = 2");
    pair.replicate("t");
    pair.assert_same("SELECT *, 1000 / v || left(large, 5) FROM item", ON_TARGET);
}
