//! An expression that fails on one row stops the task at that transaction, or, when the task says
//! so, leaves the row out and records it. Either way the rest is right, and the message says what
//! to do.

use trem_tests::{noise, Pair};

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, v int, name text);
    INSERT INTO item SELECT n, n, 'name ' || n FROM generate_series(1, 20) n";

const RULE: &str = "set_value('t', 'public.item', 'v', '1000 / v')";
const SKIP: &str = r#"{"on_error": "skip_row"}"#;
const ON_TARGET: &str = "SELECT * FROM item";

/// Rows with a value that an update leaves out of the WAL.
fn large_item() -> String {
    format!(
        "CREATE TABLE item (id int PRIMARY KEY, v int, large text);
         INSERT INTO item SELECT n, n, {} FROM generate_series(1, 6) n",
        noise("n")
    )
}

const LARGE_RULE: &str =
    "add_column('t', 'public.item', 'w', 'text', '1000 / v || left(large, 5)')";

fn drafted_as(create_item: &str, rules: &[&str], options: &str) -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(create_item);
    pair.create_task_with("t", &["public.item"], "full_load_and_cdc", options);
    pair.call(rules);
    pair
}

fn copied_as(create_item: &str, rules: &[&str], options: &str) -> Pair {
    let mut pair = drafted_as(create_item, rules, options);
    pair.start_task("t");
    pair.replicate("t");
    pair
}

fn drafted(options: &str) -> Pair {
    drafted_as(ITEM, &[RULE], options)
}

fn copied(options: &str) -> Pair {
    let mut pair = copied_as(ITEM, &[RULE], options);
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
    // Transactions that the applier finds at once, and would apply together.
    pair.source.exec("UPDATE item SET name = 'before' WHERE id = 1");
    pair.source.exec("UPDATE item SET name = 'before' WHERE id = 3");
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
    let applied = |pair: &mut Pair| {
        pair.assert_same(
            "SELECT id, 1000 / CASE id WHEN 5 THEN 5 WHEN 6 THEN 6 ELSE v END,
                 CASE WHEN id = 2 THEN 'name 2' ELSE name END FROM item WHERE id <> 30",
            ON_TARGET,
        );
    };
    applied(&mut pair);
    pair.refuse("t", &["22012"]);
    applied(&mut pair);
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
        source.exec("UPDATE item SET id = 500, v = 0 WHERE id = 5");
        source.exec("INSERT INTO item VALUES (5, 50, 'another')");
        source.exec("UPDATE item SET id = 600, v = 6 WHERE id = 500");
    });
    assert_eq!(open(&mut pair), 0);
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
    let filter = "set_filter('t', 'public.item', '1000 / v > 100')";
    let mut pair = drafted_as(ITEM, &[filter], SKIP);
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
    let rule = "set_value('t', 'public.item', 'id', 'nullif(id, 5) * 1000000')";
    let mut pair = copied_as(ITEM, &[rule], SKIP);
    let on_source = "SELECT id * 1000000, v, name FROM item WHERE id < 2000 AND id <> 5";
    pair.assert_same(on_source, ON_TARGET);
    pair.follow("t", |source| {
        source.exec("INSERT INTO item VALUES (2147, 1, 'last'), (2148, 1, 'too large')");
        source.exec("DELETE FROM item WHERE id = 2148; UPDATE item SET id = 2149 WHERE id = 6");
        source.exec("UPDATE item SET v = 0 WHERE id = 5; DELETE FROM item WHERE id = 7");
        source.exec("UPDATE item SET id = 7 WHERE id = 5; UPDATE item SET id = 5 WHERE id = 9")
    });
    // A row whose new key cannot be computed stays as it was.
    pair.assert_same(
        "SELECT CASE id WHEN 2149 THEN 6 WHEN 5 THEN 9 ELSE id END * 1000000, v, name FROM item",
        ON_TARGET,
    );
}

/// Kinds of errors that one row's values can cause.
#[test]
fn every_kind_of_failing_row_is_caught() {
    let create = "CREATE DOMAIN public.positive AS int CHECK (VALUE > 0);
        CREATE TABLE item (id int PRIMARY KEY, v text); INSERT INTO item VALUES (1, '1')";
    let mut pair = drafted_as(create, &[], SKIP);
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
    let mut pair = copied_as(&large_item(), &[LARGE_RULE], SKIP);
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
    let mut pair = copied_as(&large_item(), &[LARGE_RULE], "{}");
    pair.source.exec("UPDATE item SET v = 0 WHERE id = 2");
    pair.refuse("t", &["task=t", "item", "22012", "skip_row"]);
    // The row is read as it is now, so here it can be mended.
    pair.source.exec("UPDATE item SET v = 10 WHERE id = 2");
    pair.replicate("t");
    pair.assert_same("SELECT *, 1000 / v || left(large, 5) FROM item", ON_TARGET);
}

/// Records of rows that the target does not have as the source has them.
fn open(pair: &mut Pair) -> i64 {
    pair.target.number("SELECT count(*) FROM trem_target.exception WHERE settled_at IS NULL")
}

/// While a row could not be computed its large value changed. The update that mends it does not
/// bring that value, and what the target has is stale.
#[test]
fn a_skipped_row_that_comes_with_values_left_out_is_read_again() {
    for identity in ["DEFAULT", "FULL"] {
        let create = format!(
            "CREATE TABLE item (id int PRIMARY KEY, v int, large text, other text);
             ALTER TABLE item ALTER large SET STORAGE EXTERNAL;
             ALTER TABLE item ALTER other SET STORAGE EXTERNAL;
             ALTER TABLE item REPLICA IDENTITY {identity};
             INSERT INTO item SELECT n, n, {0}, {0} FROM generate_series(1, 8) n",
            noise("n")
        );
        let mask = "set_value('t', 'public.item', 'other', 'md5(other)')";
        let mut pair = copied_as(&create, &[RULE, mask], SKIP);
        let on_source = "SELECT id, 1000 / v, large, md5(other) FROM item";
        pair.assert_same(on_source, ON_TARGET);
        pair.follow("t", |source| {
            source.exec(&format!(
                "UPDATE item SET v = 0, large = {0}, other = {0} WHERE id IN (1, 2, 3, 4);
                 INSERT INTO item SELECT id, 0, {0}, {0} FROM generate_series(11, 14) id",
                noise("id + 100")
            ));
        });
        assert_eq!(open(&mut pair), 8);
        pair.follow("t", |source| {
            source.exec("UPDATE item SET v = 5 WHERE id IN (1, 11)");
            source.exec("UPDATE item SET v = 5, id = id + 100 WHERE id IN (2, 12)");
            source.exec("UPDATE item SET v = 0 WHERE id IN (3, 13)");
            source.exec("UPDATE item SET v = 6 WHERE id IN (3, 13)");
            source.exec("DELETE FROM item WHERE id IN (4, 14)");
            source.exec("UPDATE item SET v = 7 WHERE id IN (5, 6)");
            source.exec("UPDATE item SET v = 8 WHERE id IN (1, 11, 102, 112)");
        });
        pair.assert_same(on_source, ON_TARGET);
        assert_eq!(open(&mut pair), 0);
        assert_eq!(pair.conflicts(), 0);
    }
}

/// Skipped, mended and skipped again while no applier runs: all of it is applied together.
#[test]
fn rows_fail_and_are_mended_in_one_transaction() {
    let mut pair = copied(SKIP);
    pair.source.exec(
        "BEGIN; UPDATE item SET v = 0 WHERE id <= 6; UPDATE item SET v = 5 WHERE id <= 3;
         UPDATE item SET v = 0, name = 'again' WHERE id = 3; DELETE FROM item WHERE id = 4;
         INSERT INTO item VALUES (4, 0, 'new'), (40, 0, 'new'), (41, 0, 'new'), (42, 0, 'new');
         UPDATE item SET v = 4 WHERE id IN (4, 40); DELETE FROM item WHERE id = 41; COMMIT",
    );
    pair.replicate("t");
    pair.assert_same(
        "SELECT id, CASE id WHEN 3 THEN 1000 / 5 WHEN 5 THEN 1000 / 5 WHEN 6 THEN 1000 / 6
             ELSE 1000 / v END, CASE WHEN id = 3 THEN 'name 3' ELSE name END
         FROM item WHERE id <> 42",
        ON_TARGET,
    );
    assert_eq!(open(&mut pair), 4);
    pair.follow("t", |source| {
        source.exec("BEGIN; INSERT INTO item VALUES (50, 0, 'gone'); TRUNCATE item; COMMIT");
        source.exec("INSERT INTO item VALUES (60, 6, 'first'), (61, 0, 'skipped')");
    });
    pair.assert_same("SELECT id, 1000 / v, name FROM item WHERE v <> 0", ON_TARGET);
    assert_eq!(open(&mut pair), 1);
    // A table that is loaded again starts over with what the copy skips.
    pair.source.exec("INSERT INTO item VALUES (62, 0, 'skipped')");
    pair.call(&["reload_table('t', 'public.item')", "start_task('t')"]);
    pair.replicate("t");
    pair.assert_same("SELECT id, 1000 / v, name FROM item WHERE v <> 0", ON_TARGET);
    assert_eq!(open(&mut pair), 2);
}

/// Without a key there is nothing to find a skipped row by: what it was goes.
#[test]
fn rows_without_a_key_fail() {
    let create = "CREATE TABLE item (v int, name text); ALTER TABLE item REPLICA IDENTITY FULL;
        INSERT INTO item SELECT n % 5 + 1, 'name' FROM generate_series(1, 20) n";
    let mut pair = copied_as(create, &[RULE], SKIP);
    pair.follow("t", |source| {
        source.exec("UPDATE item SET v = 0, name = 'skipped' WHERE v IN (1, 2)");
        source.exec(
            "UPDATE item SET v = 10 WHERE v = 0 AND ctid = ANY (ARRAY(
            SELECT ctid FROM item WHERE v = 0 LIMIT 3))",
        );
        source.exec("DELETE FROM item WHERE ctid = (SELECT ctid FROM item WHERE v = 0 LIMIT 1)");
    });
    pair.assert_same("SELECT 1000 / v, name FROM item WHERE v <> 0", ON_TARGET);
}
