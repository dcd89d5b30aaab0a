//! Changes that are netted by key and carried out set-wise end as they do one by one: whatever
//! happens to a row, and whatever rows do to each other.
//!
//! The changes are made while nobody follows, so that they come in one group.

use trem_tests::{noise, Pair, Random};

const ITEM: &str = "public.item";

/// A table with 1,000 rows on both sides.
fn with_item(create: &str) -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(&format!(
        "{create}; INSERT INTO item SELECT n, 'v' || n, n * 10 FROM generate_series(1, 1000) n"
    ));
    pair.create_task("t", &[ITEM]);
    pair.start_task("t");
    pair.replicate("t");
    pair
}

const PLAIN: &str = "CREATE TABLE item (id int PRIMARY KEY, v text, n int)";

/// Makes a backlog of these statements, each a transaction of its own, and follows it.
fn check(mut pair: Pair, statements: &[&str]) -> Pair {
    for statement in statements {
        pair.source.exec(statement);
    }
    pair.replicate("t");
    pair.assert_same_table(ITEM);
    assert_eq!(pair.conflicts(), 0);
    pair
}

#[test]
fn keys_that_move_and_swap() {
    check(
        with_item(PLAIN),
        &[
            "UPDATE item SET id = id + 5000 WHERE id <= 100",
            "BEGIN; UPDATE item SET id = -1 WHERE id = 201; UPDATE item SET id = 201 WHERE id = 202;
             UPDATE item SET id = 202 WHERE id = -1; COMMIT",
            "UPDATE item SET id = id - 5000, v = 'back' WHERE id > 5050",
            "UPDATE item SET id = 6001 WHERE id = 301; UPDATE item SET id = 6002 WHERE id = 6001",
            "UPDATE item SET id = 301 WHERE id = 6002",
        ],
    );
}

#[test]
fn a_key_that_is_used_again_and_again() {
    check(
        with_item(PLAIN),
        &[
            "INSERT INTO item SELECT n, 'new', 0 FROM generate_series(2001, 2100) n",
            "DELETE FROM item WHERE id > 1000",
            "INSERT INTO item SELECT n, 'newer', 0 FROM generate_series(2001, 2050) n",
            "UPDATE item SET v = 'changed' WHERE id > 2040",
            "DELETE FROM item WHERE id <= 100",
            "INSERT INTO item SELECT n, NULL, n FROM generate_series(1, 50) n",
            "UPDATE item SET n = n + 1 WHERE id <= 75",
            "DELETE FROM item WHERE id BETWEEN 20 AND 30",
        ],
    );
}

#[test]
fn a_truncate_takes_what_came_before_it() {
    check(
        with_item(PLAIN),
        &[
            "UPDATE item SET v = 'lost'",
            "BEGIN; INSERT INTO item SELECT n, 'lost' FROM generate_series(2001, 2100) n;
             TRUNCATE item; INSERT INTO item SELECT n, 'kept' FROM generate_series(2050, 2200) n;
             COMMIT",
            "UPDATE item SET n = 7 WHERE id > 2100",
        ],
    );
}

/// The bytes of 1.0 and 1.00 differ and the values are equal: the key's index takes one of them.
#[test]
fn a_numeric_key_that_changes_its_scale() {
    let pair = with_item("CREATE TABLE item (id numeric PRIMARY KEY, v text, n int)");
    check(
        pair,
        &[
            "UPDATE item SET id = id * 1.0 WHERE id <= 100",
            "UPDATE item SET v = 'scaled' WHERE id <= 50",
            "DELETE FROM item WHERE id BETWEEN 200 AND 300",
            "INSERT INTO item SELECT n * 1.00, 'again', n FROM generate_series(200, 300) n",
            "UPDATE item SET id = round(id), n = 0 WHERE id BETWEEN 40 AND 60",
            "DELETE FROM item WHERE id BETWEEN 250 AND 260",
            "INSERT INTO item SELECT n, 'as it was', n FROM generate_series(250, 260) n",
        ],
    );
}

#[test]
fn a_second_unique_index_whose_values_swap() {
    let pair = with_item("CREATE TABLE item (id int PRIMARY KEY, v text UNIQUE, n int)");
    check(
        pair,
        &[
            "BEGIN; UPDATE item SET v = 'free' WHERE id = 1; UPDATE item SET v = 'v1' WHERE id = 2;
             UPDATE item SET v = 'v2' WHERE id = 1; COMMIT",
            "BEGIN; DELETE FROM item WHERE id = 3; INSERT INTO item VALUES (3000, 'v3'); COMMIT",
            "UPDATE item SET v = 'w' || id WHERE id > 100",
            "UPDATE item SET v = 'w' || (id + 1) || 'x', n = 0 WHERE id > 200",
        ],
    );
}

#[test]
fn a_second_unique_index_that_only_the_target_has() {
    let mut pair = with_item(PLAIN);
    pair.target.exec("CREATE UNIQUE INDEX ON item (v)");
    check(
        pair,
        &[
            "UPDATE item SET v = 'free' WHERE id = 1",
            "UPDATE item SET v = 'v1' WHERE id = 2",
            "UPDATE item SET v = 'v2' WHERE id = 1",
            "UPDATE item SET n = n + 1",
        ],
    );
}

#[test]
fn rows_that_refer_to_each_other() {
    let mut pair = Pair::new();
    for session in [&mut pair.source, &mut pair.target] {
        session.exec(
            "CREATE TABLE item (id int PRIMARY KEY, v text, n int);
             CREATE TABLE part (id int PRIMARY KEY, item int REFERENCES item)",
        );
    }
    pair.target.exec("ALTER TABLE item OWNER TO loader; ALTER TABLE part OWNER TO loader");
    let options = r#"{"target_tables": "keep"}"#;
    pair.create_task_with("t", &[ITEM, "public.part"], "cdc", options);
    pair.start_task("t");
    pair.replicate("t");
    let mut pair = check(
        pair,
        &[
            "BEGIN; INSERT INTO item SELECT n FROM generate_series(1, 100) n;
             INSERT INTO part SELECT n, n FROM generate_series(1, 100) n; COMMIT",
            "DELETE FROM part WHERE id <= 50; DELETE FROM item WHERE id <= 50",
            "INSERT INTO item SELECT n FROM generate_series(1, 50) n;
             UPDATE part SET item = item - 50",
        ],
    );
    pair.assert_same_table("public.part");
}

/// What is not in the WAL is taken from the row as it was netted, or left as the target has it.
#[test]
fn a_large_value_that_an_update_leaves_out() {
    let mut pair = Pair::new();
    let body = noise("n");
    pair.source.exec(&format!(
        "CREATE TABLE item (id int PRIMARY KEY, v text, body text, other text);
         INSERT INTO item SELECT n, 'v', {body}, {body} FROM generate_series(1, 60) n"
    ));
    pair.create_task("t", &[ITEM]);
    pair.start_task("t");
    pair.replicate("t");
    check(
        pair,
        &[
            &format!(
                "BEGIN; INSERT INTO item SELECT n, 'new', {body}, NULL
                 FROM generate_series(101, 150) n;
                 UPDATE item SET v = 'new and changed' WHERE id > 100;
                 UPDATE item SET id = id + 1000 WHERE id > 140; COMMIT"
            ),
            "UPDATE item SET v = 'changed'",
            "UPDATE item SET other = 'short' WHERE id % 3 = 0",
            "UPDATE item SET v = 'moved', id = id + 500 WHERE id BETWEEN 10 AND 20",
            "UPDATE item SET v = 'twice' WHERE id % 2 = 0",
            "DELETE FROM item WHERE id % 7 = 0",
        ],
    );
}

/// A row that is about to be read again under its key moves away, and its large values are not in
/// the WAL: once the target kept those it had, though one of them had changed before the move.
#[test]
fn a_row_that_moves_while_it_waits_to_be_read_again() {
    let mut pair = Pair::new();
    let (large, other) = (noise("n"), noise("id + 100"));
    pair.source.exec(&format!(
        "CREATE TABLE item (id int PRIMARY KEY, n int, a text, b text);
         INSERT INTO item SELECT n, 1, 'a' || {large}, {large} FROM generate_series(1, 5) n"
    ));
    pair.create_task("t", &[ITEM]);
    pair.call(&["set_filter('t', 'public.item', 'a > $$9$$ OR n > 5')"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same_table(ITEM);
    pair.source.exec(&format!(
        "BEGIN; UPDATE item SET b = {other}; UPDATE item SET id = id + 50, n = 6 WHERE id < 4;
         COMMIT"
    ));
    pair.replicate("t");
    pair.assert_same_table(ITEM);
}

/// An update that finds nothing must not be committed as if all were well: once the row was lost.
#[test]
fn rows_that_someone_took_from_the_target_come_back() {
    let mut pair = with_item(PLAIN);
    pair.target.exec("DELETE FROM item WHERE id IN (10, 500); INSERT INTO item VALUES (2005, 'x')");
    pair.expect_log("anew, carefully");
    for statement in [
        "UPDATE item SET n = 0",
        "INSERT INTO item SELECT n, 'new', 0 FROM generate_series(2001, 2100) n",
        "DELETE FROM item WHERE id BETWEEN 600 AND 700",
    ] {
        pair.source.exec(statement);
    }
    pair.replicate("t");
    pair.assert_same_table(ITEM);
    assert_eq!(pair.conflicts(), 3);
}

/// A large transaction is carried out in parts. What the first part found must be known before the
/// last one commits, which by itself has nothing to wait for.
#[test]
fn a_row_that_is_missing_in_the_first_part_of_a_large_transaction_comes_back() {
    let mut pair = with_item(PLAIN);
    pair.target.exec("DELETE FROM item WHERE id = 2");
    pair.expect_log("anew, carefully");
    pair.source.exec(
        "BEGIN;
         UPDATE item SET v = repeat('as large as half a part', 650000) WHERE id <= 2;
         INSERT INTO item SELECT n, 'new', 0 FROM generate_series(2001, 2100) n;
         COMMIT",
    );
    pair.replicate("t");
    pair.assert_same_table(ITEM);
}

#[test]
fn a_delete_of_rows_that_are_gone_is_counted() {
    let mut pair = with_item(PLAIN);
    pair.target.exec("DELETE FROM item WHERE id <= 30");
    pair.source.exec("DELETE FROM item WHERE id <= 400");
    pair.replicate("t");
    pair.assert_same_table(ITEM);
    assert_eq!(pair.conflicts(), 30);
}

/// The target's table may have its columns in another order, and more of them.
#[test]
fn a_table_that_was_there_with_other_columns_between() {
    let mut pair = Pair::new();
    pair.source.exec(PLAIN);
    pair.target.exec(
        "CREATE TABLE item (gone int, n int, extra text DEFAULT 'extra', v text,
             id int PRIMARY KEY, twice int GENERATED ALWAYS AS (n * 2) STORED);
         ALTER TABLE item DROP COLUMN gone; ALTER TABLE item OWNER TO loader",
    );
    pair.create_task_with("t", &[ITEM], "cdc", r#"{"target_tables": "keep"}"#);
    pair.start_task("t");
    pair.replicate("t");
    for statement in [
        "INSERT INTO item SELECT n, 'v' || n, n FROM generate_series(1, 500) n",
        "UPDATE item SET n = n + 1 WHERE id % 2 = 0",
        "DELETE FROM item WHERE id % 5 = 0",
        "INSERT INTO item SELECT n, 'again', n FROM generate_series(5, 200, 5) n",
    ] {
        pair.source.exec(statement);
    }
    pair.replicate("t");
    let rows = "SELECT id, v, n FROM item";
    pair.assert_same(rows, rows);
    let wrong = "SELECT count(*) FROM item WHERE twice <> n * 2 OR extra IS DISTINCT FROM 'extra'";
    assert_eq!(pair.target.number(wrong), 0);
}

#[test]
fn a_key_of_several_columns_in_another_order() {
    let pair = with_item("CREATE TABLE item (id int, v text, n int, PRIMARY KEY (n, id))");
    check(
        pair,
        &[
            "UPDATE item SET v = 'changed' WHERE id % 2 = 0",
            "UPDATE item SET n = n + 1 WHERE id % 3 = 0",
            "DELETE FROM item WHERE id % 5 = 0",
        ],
    );
}

#[test]
fn random_changes_of_rows_that_enter_and_leave_a_filter() {
    let mut pair = Pair::new();
    pair.source.exec(&format!(
        "{PLAIN}; INSERT INTO item SELECT n, 'v', n FROM generate_series(1, 200) n"
    ));
    pair.create_task("t", &[ITEM]);
    pair.call(&["set_filter('t', 'public.item', 'n % 3 = 0')"]);
    pair.start_task("t");
    pair.replicate("t");
    let mut random = Random::new();
    for _ in 0..3 {
        for _ in 0..400 {
            pair.source.exec(&random_change(&mut random));
        }
        pair.replicate("t");
        pair.assert_same("SELECT * FROM item WHERE n % 3 = 0", "SELECT * FROM item");
    }
    assert_eq!(pair.conflicts(), 0);
}

#[test]
fn random_changes() {
    let mut pair = with_item(PLAIN);
    let mut random = Random::new();
    for _ in 0..3 {
        for _ in 0..400 {
            pair.source.exec(&random_change(&mut random));
        }
        pair.replicate("t");
        pair.assert_same_table(ITEM);
    }
    assert_eq!(pair.conflicts(), 0);
}

/// A change of a few rows among the first 200; one that moves a key goes where nobody is.
fn random_change(random: &mut Random) -> String {
    let (id, n) = (random.below(200), random.below(1000));
    let last = id + random.below(5);
    match random.below(10) {
        0..3 => format!(
            "INSERT INTO item SELECT i, 'new {n}', {n} FROM generate_series({id}, {last}) i
             ON CONFLICT DO NOTHING"
        ),
        3..5 => format!("DELETE FROM item WHERE id BETWEEN {id} AND {last}"),
        5..7 => format!("UPDATE item SET v = '{n}', n = {n} WHERE id BETWEEN {id} AND {last}"),
        7..9 => format!("UPDATE item SET n = n + {n} WHERE id BETWEEN {id} AND {last}"),
        _ => format!(
            "UPDATE item SET id = {last}, n = n + 1
             WHERE id = {id} AND NOT EXISTS (SELECT FROM item WHERE id = {last})"
        ),
    }
}
