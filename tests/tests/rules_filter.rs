//! A filter on a column that is not of the key follows rows: they enter, leave, stay in and stay
//! out, under the default replica identity as under FULL.

use trem_tests::{Outcome, Pair};

/// Rows with every kind of answer of the filter `v > 10`; `v` of the others is null.
const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, v int, name text);
    INSERT INTO item SELECT n, CASE n % 3 WHEN 0 THEN 20 WHEN 1 THEN 5 END, 'name ' || n
    FROM generate_series(1, 30) n";

const ON_SOURCE: &str = "SELECT * FROM item WHERE v > 10";
const ON_TARGET: &str = "SELECT * FROM item";

/// Makes a filtered copy of `item`; the identity is one of `ALTER TABLE item REPLICA IDENTITY`.
fn copied(identity: &str) -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(ITEM);
    pair.source.exec(&format!("ALTER TABLE item REPLICA IDENTITY {identity}"));
    pair.create_task("t", &["public.item"]);
    pair.call(&["set_filter('t', 'public.item', 'v > 10')"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same(ON_SOURCE, ON_TARGET);
    pair
}

/// Follows the statements, each a transaction, under both identities, and all as one transaction.
#[track_caller]
fn check(statements: &[&str]) {
    let together = format!("BEGIN; {}; COMMIT", statements.join("; "));
    for identity in ["DEFAULT", "FULL"] {
        for statements in [statements, &[&together]] {
            let mut pair = copied(identity);
            pair.follow("t", |source| statements.iter().for_each(|sql| source.exec(sql)));
            pair.assert_same(ON_SOURCE, ON_TARGET);
            assert_eq!(pair.conflicts(), 0, "nothing was put right");
        }
    }
}

#[test]
fn rows_enter_leave_stay_in_and_stay_out() {
    check(&[
        "UPDATE item SET v = 11 WHERE id = 1",
        "UPDATE item SET v = 12 WHERE id = 2",
        "UPDATE item SET v = 10 WHERE id = 3",
        "UPDATE item SET v = 21, name = 'in' WHERE id = 6",
        "UPDATE item SET name = 'in' WHERE id = 9",
        "UPDATE item SET v = 6, name = 'out' WHERE id = 4",
        "UPDATE item SET name = 'out' WHERE id = 7",
    ]);
}

#[test]
fn an_unknown_answer_of_the_filter_is_a_no() {
    check(&[
        "UPDATE item SET v = NULL WHERE id = 3",
        "UPDATE item SET name = 'still null' WHERE id = 2",
        "UPDATE item SET v = 20 WHERE id = 5",
        "UPDATE item SET v = NULL WHERE id = 4",
        "INSERT INTO item VALUES (100, NULL, 'null'), (101, 11, 'in'), (102, 10, 'out')",
        "UPDATE item SET v = NULL WHERE id = 101",
        "UPDATE item SET v = 50 WHERE id = 101",
    ]);
}

#[test]
fn deletes_take_what_is_there() {
    check(&[
        "DELETE FROM item WHERE id = 3",
        "DELETE FROM item WHERE id = 1",
        "DELETE FROM item WHERE id = 2",
        "INSERT INTO item VALUES (3, 30, 'again'), (1, 30, 'now in'), (2, 1, 'out')",
        "DELETE FROM item WHERE v > 10 AND id > 20",
        "DELETE FROM item WHERE v <= 10 AND id > 20",
    ]);
}

#[test]
fn keys_change_across_the_filter() {
    check(&[
        // In to in, in to out, out to in, out to out.
        "UPDATE item SET id = id + 100 WHERE id = 3",
        "UPDATE item SET id = id + 100, v = 1 WHERE id = 6",
        "UPDATE item SET id = id + 100, v = 99 WHERE id = 1",
        "UPDATE item SET id = id + 100 WHERE id = 4",
        // A key that is given from one row to another.
        "UPDATE item SET id = 3, v = 77 WHERE id = 7",
        "UPDATE item SET id = 7 WHERE id = 9",
        "UPDATE item SET id = -1, v = 1 WHERE id = 12; UPDATE item SET id = 12,
         v = 99 WHERE id = 10;
         UPDATE item SET id = 10, v = 50 WHERE id = -1",
        "UPDATE item SET id = id + 1000, v = 25 - v",
    ]);
}

#[test]
fn a_key_is_left_and_taken_again() {
    check(&[
        "DELETE FROM item WHERE id = 3; INSERT INTO item VALUES (3, 5, 'out')",
        "DELETE FROM item WHERE id = 1; INSERT INTO item VALUES (1, 15, 'in')",
        "INSERT INTO item VALUES (200, 15, 'in'); DELETE FROM item WHERE id = 200",
        "INSERT INTO item VALUES (201, 5, 'out'); UPDATE item SET v = 15 WHERE id = 201",
        "INSERT INTO item VALUES (202, 15, 'in'); UPDATE item SET v = 5 WHERE id = 202",
        "UPDATE item SET v = 15 WHERE id = 202; UPDATE item SET id = 203 WHERE id = 202",
        "UPDATE item SET v = 5 WHERE id = 203; UPDATE item SET v = 25, id = 204 WHERE id = 203",
    ]);
}

#[test]
fn a_truncate_takes_all_rows_and_new_ones_come() {
    check(&[
        "TRUNCATE item",
        "INSERT INTO item VALUES (1, 15, 'in'), (2, 5, 'out'), (3, NULL, 'null')",
        "UPDATE item SET v = 15 WHERE id = 2",
    ]);
}

#[test]
fn many_rows_go_in_and_out() {
    check(&[
        "INSERT INTO item SELECT n, n % 23, 'many' FROM generate_series(1001, 9000) n",
        "UPDATE item SET v = v + 7",
        "UPDATE item SET v = v - 12, name = 'turned' WHERE id % 2 = 0",
        "UPDATE item SET id = id + 100000 WHERE id % 3 = 0",
        "DELETE FROM item WHERE id % 5 = 0",
    ]);
}

#[test]
fn a_filter_works_with_an_identity_of_another_index() {
    let mut pair = Pair::new();
    pair.source.exec(
        "CREATE TABLE item (a int PRIMARY KEY, b int NOT NULL, v int);
         CREATE UNIQUE INDEX item_b ON item (b);
         ALTER TABLE item REPLICA IDENTITY USING INDEX item_b;
         INSERT INTO item SELECT n, n, n % 20 FROM generate_series(1, 60) n",
    );
    pair.create_task("t", &["public.item"]);
    pair.call(&["set_filter('t', 'public.item', 'v > 10')"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.follow("t", |source| {
        source.exec("UPDATE item SET v = 20 - v; UPDATE item SET b = b + 100 WHERE a % 2 = 0");
        source.exec("UPDATE item SET b = b + 200, v = 20 - v; DELETE FROM item WHERE a % 7 = 0");
    });
    pair.assert_same(ON_SOURCE, ON_TARGET);
}

/// Without a key no row can be found again: only with all of its values in the WAL.
#[test]
fn rows_of_a_table_without_key_enter_and_leave() {
    let mut pair = Pair::new();
    pair.source.exec(
        "CREATE TABLE item (a int, v int, name text); ALTER TABLE item REPLICA IDENTITY FULL;
         INSERT INTO item SELECT n % 10, n % 20, 'name' FROM generate_series(1, 60) n;
         INSERT INTO item TABLE item; INSERT INTO item VALUES (NULL, NULL, NULL)",
    );
    pair.create_task("t", &["public.item"]);
    pair.call(&[
        "set_filter('t', 'public.item', 'v > 10')",
        "set_value('t', 'public.item', 'name', 'name || v')",
    ]);
    pair.start_task("t");
    pair.replicate("t");
    pair.follow("t", |source| {
        source.exec("UPDATE item SET v = 20 - v WHERE a < 5");
        source.exec("UPDATE item SET name = 'other' WHERE v = 15; DELETE FROM item WHERE v = 17");
        source.exec("UPDATE item SET v = 12 WHERE v IS NULL; DELETE FROM item WHERE a = 7");
        source.exec("DELETE FROM item WHERE ctid = (SELECT min(ctid) FROM item WHERE v = 18)");
        source.exec("UPDATE item SET v = v + 1");
    });
    pair.assert_same("SELECT a, v, name || v FROM item WHERE v > 10", ON_TARGET);
    assert_eq!(pair.conflicts(), 0, "nothing was put right");
}

/// What a peek of the stream shows, one line for each change.
fn stream(pair: &mut Pair) -> Vec<String> {
    let sql = "SELECT operation || ' ' || coalesce(data::text, '')
        FROM trem.peek_changes('t') WHERE table_name IS NOT NULL AND operation <> 'relation'";
    pair.source.rows(sql).into_iter().map(|row| row[0].clone().unwrap_or_default()).collect()
}

/// A filter of key columns alone knows of a deleted row that it was never carried over.
#[test]
fn a_row_that_fails_a_filter_of_its_key_leaves_in_silence() {
    let mut pair = Pair::new();
    pair.source.exec(ITEM);
    pair.create_task("t", &["public.item"]);
    pair.call(&["set_filter('t', 'public.item', 'id > 10')"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.source.exec("DELETE FROM item WHERE id <= 10; INSERT INTO item VALUES (1, 1, 'x')");
    assert_eq!(stream(&mut pair), Vec::<String>::new());
    pair.source.exec("DELETE FROM item WHERE id = 11");
    assert_eq!(stream(&mut pair).len(), 1);
}

#[test]
fn a_row_that_stays_out_is_not_spoken_of_with_identity_full() {
    let mut pair = copied("FULL");
    pair.source.exec("UPDATE item SET name = 'x' WHERE v <= 10 OR v IS NULL");
    pair.source
        .exec("UPDATE item SET id = id + 1000 WHERE v <= 10; DELETE FROM item WHERE v <= 10");
    assert_eq!(stream(&mut pair), Vec::<String>::new());
}

fn says(outcome: &Outcome, parts: &[&str]) {
    outcome.assert_code(1).assert_says(parts);
}

/// Which rows to delete would have to be guessed.
#[test]
fn an_update_whose_old_key_is_not_in_the_wal_stops_the_task() {
    let mut pair = copied("DEFAULT");
    pair.source.exec("ALTER TABLE item REPLICA IDENTITY NOTHING");
    pair.source.exec("UPDATE item SET v = 1 WHERE id = 3");
    let outcome = pair.run_until_caught_up("t");
    says(&outcome, &["item"]);
    pair.expect_log("");
}
