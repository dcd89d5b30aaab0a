//! Source transactions arrive whole, in order and once, whatever happens inside them.

use trem_tests::{Database, Pair};

const TABLES: [&str; 2] = ["public.one", "public.two"];

/// Two tables with a key, copied and ready to be followed.
fn following() -> Pair {
    let mut pair = Pair::new();
    for table in TABLES {
        pair.source.exec(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, v text, n numeric);
             INSERT INTO {table} SELECT g, 'v' || g, g * 1.5 FROM generate_series(1, 100) g"
        ));
    }
    pair.create_task("t", &TABLES);
    pair.start_task("t");
    pair.replicate("t");
    pair
}

/// Follows while `change` runs, then compares both tables.
fn check(change: impl FnOnce(&mut Database)) -> Pair {
    let mut pair = following();
    pair.follow("t", change);
    for table in TABLES {
        pair.assert_same_table(table);
    }
    pair
}

#[test]
fn what_is_rolled_back_never_arrives() {
    check(|source| {
        source.exec("BEGIN");
        source.exec("INSERT INTO one VALUES (1001, 'never', 0); DELETE FROM two");
        source.exec("ROLLBACK");
        source.exec("INSERT INTO one VALUES (1002, 'after', 1)");
    });
}

#[test]
fn what_is_rolled_back_to_a_savepoint_never_arrives() {
    check(|source| {
        source.exec("BEGIN");
        source.exec("INSERT INTO one VALUES (1001, 'kept', 0)");
        source.exec("SAVEPOINT a");
        source.exec("INSERT INTO one VALUES (1002, 'undone', 0); UPDATE two SET v = 'undone'");
        source.exec("SAVEPOINT b");
        source.exec("DELETE FROM one WHERE id < 50");
        source.exec("ROLLBACK TO a");
        source.exec("INSERT INTO one VALUES (1002, 'kept too', 0)");
        source.exec("RELEASE a");
        source.exec("COMMIT");
    });
}

#[test]
fn one_transaction_may_change_several_tables() {
    check(|source| {
        source.exec(
            "BEGIN; UPDATE one SET n = n + 1; UPDATE two SET n = n - 1;
             INSERT INTO one VALUES (1001); INSERT INTO two VALUES (1001);
             DELETE FROM two WHERE id % 2 = 0; UPDATE one SET v = NULL WHERE id < 20; COMMIT",
        );
    });
}

#[test]
fn a_truncate_between_inserts_takes_what_was_before_it() {
    check(|source| {
        source.exec(
            "BEGIN; INSERT INTO one VALUES (1001, 'lost'); TRUNCATE one;
             INSERT INTO one VALUES (1001, 'kept'), (1002, 'kept'); COMMIT;
             INSERT INTO two VALUES (1001, 'lost'); TRUNCATE two, one; INSERT INTO one VALUES (5)",
        );
    });
}

#[test]
fn keys_may_change_be_swapped_and_be_used_again() {
    check(|source| {
        source.exec("UPDATE one SET id = id + 1000 WHERE id <= 50");
        source.exec(
            "BEGIN; UPDATE two SET id = -1 WHERE id = 1; UPDATE two SET id = 1 WHERE id = 2;
             UPDATE two SET id = 2 WHERE id = -1; COMMIT;
             BEGIN; DELETE FROM two WHERE id = 3; INSERT INTO two VALUES (3, 'again'); COMMIT;
             BEGIN; INSERT INTO two VALUES (2001, 'short life'); DELETE FROM two WHERE id = 2001;
             COMMIT",
        );
        source.exec("UPDATE one SET id = id - 1000 WHERE id > 1000");
        source.exec("UPDATE one SET id = id + 1 WHERE id = 100; INSERT INTO one VALUES (100)");
    });
}

#[test]
fn the_last_of_many_changes_of_a_row_counts() {
    check(|source| {
        for n in 0..300 {
            source.exec(&format!("UPDATE one SET n = {n}, v = 'v{n}' WHERE id = {}", n % 3 + 1));
        }
    });
}

#[test]
fn a_transaction_of_200_000_rows_arrives_whole() {
    check(|source| {
        source.exec(
            "BEGIN; INSERT INTO one SELECT n, md5(n::text), n FROM generate_series(1001, 201000) n;
             UPDATE one SET v = 'u' WHERE id % 4 = 0; DELETE FROM one WHERE id % 10 = 0; COMMIT",
        );
    });
}

#[test]
fn a_transaction_without_changes_is_passed_over() {
    check(|source| {
        source.exec("CREATE TABLE not_of_the_task (id int)");
        source.exec("BEGIN; SELECT txid_current(); COMMIT; INSERT INTO not_of_the_task VALUES (1)");
        source.exec("BEGIN; UPDATE one SET v = v WHERE false; COMMIT");
        source.exec("INSERT INTO one VALUES (1001)");
    });
}

/// A reader never sees half of a transaction that moves rows between two tables.
#[test]
fn a_reader_of_the_target_sees_whole_transactions_only() {
    let mut pair = following();
    let mut applier = pair.applier("t");
    for n in 1..=100 {
        pair.source.exec(&format!(
            "BEGIN; INSERT INTO one VALUES ({n} + 5000); DELETE FROM two WHERE id = {n}; COMMIT"
        ));
        let sum = "SELECT (SELECT count(*) FROM one) + (SELECT count(*) FROM two)";
        assert_eq!(pair.target.number(sum), 200);
    }
    pair.catch_up("t", &mut applier);
    applier.terminate();
    assert_eq!(pair.target.number("SELECT count(*) FROM two"), 0);
}

/// Copies and follows one table made by `create`.
fn check_table(create: &str, change: &str) -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(create);
    pair.create_task("t", &["public.item"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same_table("public.item");
    pair.follow("t", |source| source.exec(change));
    pair.assert_same_table("public.item");
    pair
}

const ITEM_CHANGES: &str = "UPDATE item SET v = v || '!' WHERE a % 3 = 0;
    UPDATE item SET a = a + 1000 WHERE a % 7 = 0; DELETE FROM item WHERE a % 5 = 0;
    INSERT INTO item SELECT n, n, 'new' FROM generate_series(2001, 2050) n;
    UPDATE item SET v = NULL WHERE a = 1; UPDATE item SET v = 'back' WHERE a = 1";

#[test]
fn a_table_with_identity_full_and_a_key_is_followed_by_its_key() {
    check_table(
        "CREATE TABLE item (a int PRIMARY KEY, b int, v text);
         ALTER TABLE item REPLICA IDENTITY FULL;
         INSERT INTO item SELECT n, n, 'v' || n FROM generate_series(1, 200) n",
        ITEM_CHANGES,
    );
}

#[test]
fn a_table_may_be_identified_by_another_unique_index() {
    check_table(
        "CREATE TABLE item (a int NOT NULL, b int PRIMARY KEY, v text);
         CREATE UNIQUE INDEX item_a ON item (a);
         ALTER TABLE item REPLICA IDENTITY USING INDEX item_a;
         INSERT INTO item SELECT n, n, 'v' || n FROM generate_series(1, 200) n",
        ITEM_CHANGES,
    );
}

#[test]
fn a_table_without_key_and_with_identity_full_is_followed_row_by_row() {
    check_table(
        "CREATE TABLE item (a int, b int, v text);
         ALTER TABLE item REPLICA IDENTITY FULL;
         INSERT INTO item SELECT n % 50, n, 'v' FROM generate_series(1, 200) n;
         INSERT INTO item SELECT 8, 8, 'twin' FROM generate_series(1, 5);
         INSERT INTO item VALUES (NULL, NULL, NULL), (NULL, NULL, NULL)",
        "UPDATE item SET v = v || '!' WHERE a % 3 = 0; DELETE FROM item WHERE a % 5 = 0;
         DELETE FROM item WHERE ctid = (SELECT min(ctid) FROM item WHERE v = 'twin');
         UPDATE item SET b = 9 WHERE ctid = (SELECT max(ctid) FROM item WHERE v = 'twin');
         DELETE FROM item WHERE ctid = (SELECT min(ctid) FROM item WHERE a IS NULL);
         INSERT INTO item VALUES (1, 1, 'new'), (1, 1, 'new')",
    );
}

#[test]
fn a_table_without_key_and_identity_takes_inserts() {
    let mut pair = check_table(
        "CREATE TABLE item (a int, v text);
         INSERT INTO item VALUES (1, 'x'), (1, 'x'), (NULL, NULL)",
        "INSERT INTO item VALUES (1, 'x'), (2, 'y')",
    );
    let findings = pair.source.rows("SELECT severity, message FROM trem.check_task('t')");
    let warned = findings.iter().any(|finding| finding[0].as_deref() == Some("warning"));
    assert!(warned, "check_task says that only inserts can be followed: {findings:?}");
}

#[test]
fn a_composite_key_of_several_types_is_followed() {
    check_table(
        "CREATE TABLE item (v text, a int, b uuid, c timestamptz, PRIMARY KEY (c, a, b));
         INSERT INTO item SELECT 'v' || n, n, md5(n::text)::uuid, '2024-01-01'::timestamptz
             + n * interval '1 microsecond' FROM generate_series(1, 200) n",
        "UPDATE item SET v = upper(v) WHERE a % 2 = 0; UPDATE item SET c = c + interval '1 day'
         WHERE a % 3 = 0; DELETE FROM item WHERE a % 5 = 0",
    );
}

#[test]
fn partitions_are_followed_under_the_name_of_their_root() {
    check_table(
        "CREATE TABLE item (a int, b int, v text, PRIMARY KEY (a)) PARTITION BY RANGE (a);
         CREATE TABLE item_low (v text, b int, a int NOT NULL);
         ALTER TABLE item ATTACH PARTITION item_low FOR VALUES FROM (MINVALUE) TO (100);
         CREATE TABLE item_high PARTITION OF item FOR VALUES FROM (100) TO (MAXVALUE);
         INSERT INTO item SELECT n, n, 'v' || n FROM generate_series(1, 200) n",
        ITEM_CHANGES,
    );
}

/// The applier looks now and then how far the target has flushed. It once did that on the session
/// whose COPY was open, and both waited for each other for ever.
#[test]
fn a_long_run_of_inserts_follows_a_commit_that_is_not_flushed() {
    let mut pair = Pair::with_settings(&[], &[("wal_writer_delay", "10s")]);
    pair.source.exec("CREATE TABLE one (id int PRIMARY KEY, v text, n numeric)");
    pair.create_task_with(
        "t",
        &["public.one"],
        "full_load_and_cdc",
        "{\"on_error\": \"skip_row\"}",
    );
    pair.start_task("t");
    pair.replicate("t");
    pair.follow("t", |source| {
        source.exec("INSERT INTO one VALUES (0, 'first', 0)");
        source.exec("INSERT INTO one SELECT g, 'v' || g, g FROM generate_series(1, 400000) g");
    });
    pair.assert_same_table("public.one");
}

/// Somebody writes to the target while nothing is applied: `tamper` there, then `change` on the
/// source, followed by a transaction that only inserts. Ends like the source, and counts `mended`.
fn check_mended(tamper: &str, change: &str, mended: i64) {
    let mut pair = following();
    pair.target.exec(tamper);
    pair.follow("t", |source| {
        source.exec(change);
        source.exec("INSERT INTO two VALUES (1001, 'after', 1)");
    });
    for table in TABLES {
        pair.assert_same_table(table);
    }
    assert_eq!(pair.conflicts(), mended, "rows that were not as the source had them");
}

/// COMMIT was once sent before it was known that the update had found no row: what was missing
/// then stayed missing, and the source had been told that it was applied.
#[test]
fn an_update_of_a_row_that_the_target_lost_brings_it_back() {
    check_mended("DELETE FROM one WHERE id = 7", "UPDATE one SET v = 'new' WHERE id = 7", 1);
}

#[test]
fn a_key_update_of_a_row_that_the_target_lost_brings_it_back() {
    check_mended("DELETE FROM one WHERE id = 7", "UPDATE one SET id = 1007 WHERE id = 7", 1);
}

#[test]
fn many_updates_of_rows_that_the_target_lost_bring_them_back() {
    check_mended("DELETE FROM one WHERE id <= 40", "UPDATE one SET n = n + 1 WHERE id <= 60", 40);
}

#[test]
fn a_delete_of_a_row_that_the_target_lost_is_counted() {
    check_mended("DELETE FROM one WHERE id = 7", "DELETE FROM one WHERE id BETWEEN 5 AND 9", 1);
}

#[test]
fn an_insert_of_a_row_that_the_target_has_already_replaces_it() {
    check_mended(
        "INSERT INTO one SELECT g, 'foreign', 0 FROM generate_series(1001, 1040) g",
        "INSERT INTO one SELECT g, 'ours', g FROM generate_series(1030, 1060) g;
         INSERT INTO one VALUES (1001);
         INSERT INTO one SELECT g FROM generate_series(1002, 1029) g",
        40,
    );
}
