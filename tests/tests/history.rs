//! Rows that were written while a table looked otherwise. The walsender reads them by the catalog
//! of their time, whatever the stream's start has read of today's; what they lack is read again.

use trem_tests::{noise, Outcome, Pair};

/// A task of one table, copied; the applier is away.
fn copied(table: &str, rules: &[&str]) -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(table);
    pair.create_task("t", &["public.p"]);
    pair.call(rules);
    pair.start_task("t");
    pair.replicate("t");
    pair
}

const P: &str = "CREATE TABLE p (id int PRIMARY KEY, m text, a int);
    INSERT INTO p SELECT n, 'm' || n, n FROM generate_series(1, 5) n";

/// The same on both sides.
fn on_both(pair: &mut Pair, sql: &str) {
    pair.source.exec(sql);
    pair.target.exec(sql);
}

/// Publishes, and serves until all is there.
#[track_caller]
fn kept(pair: &mut Pair) {
    pair.call(&["start_task('t', keep => true)"]);
    pair.replicate("t");
    assert_eq!(pair.conflicts(), 0, "rows that were not as the source had them");
}

#[track_caller]
fn stopped(pair: &mut Pair, parts: &[&str]) -> Outcome {
    let outcome = pair.refuse("t", parts);
    let log = pair.source_cluster.log();
    assert!(!log.contains("terminated by signal"), "the server crashed:\n{log}");
    outcome
}

/// At the start of a stream the plugin opens the tables to compile their rules, and a walsender
/// never forgets what it has cached. Changes of before `ALTER TYPE` were taken apart by today's
/// descriptor: the number 1600000 was followed as a pointer to a text. The walsender died by
/// SIGSEGV, took every backend along, and did so again at each start.
#[test]
fn a_number_is_no_pointer_where_the_column_is_a_text_now() {
    for value in ["1600000", "1000000"] {
        let mut pair = copied(P, &["set_value('t', 'public.p', 'm', 'upper(m)')"]);
        pair.source.exec(&format!("INSERT INTO p VALUES (6, 'yyy', {value})"));
        pair.source.exec("UPDATE p SET m = 'zzz' WHERE id = 1");
        on_both(&mut pair, "ALTER TABLE p ALTER a TYPE text");
        pair.source.exec("INSERT INTO p VALUES (7, 'yyy', 'text')");
        kept(&mut pair);
        pair.assert_same("SELECT id, upper(m), a FROM p", "TABLE p");
        let log = pair.source_cluster.log();
        assert!(!log.contains("terminated by signal"), "the server crashed:\n{log}");
    }
}

/// With a filter the table was opened at the start of the stream, so its replica identity was that
/// of today. Old rows of before were looked for by a key that they did not carry; the task stopped
/// for ever, and the remedy was to give the table the identity that it had.
#[test]
fn a_replica_identity_of_before_counts_for_rows_of_before() {
    let mut pair = copied(P, &["set_filter('t', 'public.p', 'a <> 3')"]);
    pair.source.exec("UPDATE p SET m = 'changed' WHERE id < 3");
    pair.source.exec("DELETE FROM p WHERE id = 4");
    pair.source.exec("ALTER TABLE p REPLICA IDENTITY FULL");
    pair.source.exec("UPDATE p SET id = 50 WHERE id = 5");
    kept(&mut pair);
    pair.source.exec("UPDATE p SET a = 3 WHERE id = 1");
    pair.source.exec("ALTER TABLE p REPLICA IDENTITY DEFAULT");
    pair.source.exec("UPDATE p SET a = 4 WHERE id = 1");
    kept(&mut pair);
    pair.assert_same("SELECT * FROM p WHERE a <> 3", "TABLE p");
}

/// A column that history does not have was left out of its rows, and so it was NULL on the target.
#[test]
fn a_column_that_was_added_is_not_null_in_rows_of_before() {
    let mut pair = copied(P, &[]);
    pair.source.exec("INSERT INTO p VALUES (6, 'a', 6)");
    pair.source.exec("UPDATE p SET m = 'b' WHERE id = 1");
    on_both(&mut pair, "ALTER TABLE p ADD c int NOT NULL DEFAULT 5");
    pair.source.exec("UPDATE p SET c = 7 WHERE id = 6");
    kept(&mut pair);
    pair.assert_same_table("p");
}

/// What becomes of a row that is to be read again, before its group ends: it moves, it goes, it
/// comes back, by changes that the stream can give whole.
#[track_caller]
fn change_again(more: &str, rules: &[&str], sabotage: &str) -> Pair {
    let q = "CREATE TABLE q (id int PRIMARY KEY, v int); INSERT INTO q VALUES (1, 1)";
    let rules = [&["add_table('t', 'public.q')"], rules].concat();
    let mut pair = copied(&format!("{P}; {q}; {more}"), &rules);
    pair.source.exec("INSERT INTO p SELECT n, 'new', n FROM generate_series(11, 60) n");
    pair.source.exec("UPDATE q SET v = 2");
    pair.source.exec("UPDATE p SET m = 'changed' WHERE id < 3 OR id > 50");
    on_both(&mut pair, "ALTER TABLE p ADD c int NOT NULL DEFAULT 5");
    for sql in [
        "UPDATE p SET c = 6 WHERE id = 11",
        "DELETE FROM p WHERE id = 12",
        "UPDATE p SET id = 113, c = 8 WHERE id = 13",
        "DELETE FROM p WHERE id = 14",
        "INSERT INTO p VALUES (14, 'again', 14, 9)",
        "BEGIN; UPDATE p SET id = 115 WHERE id = 15; UPDATE p SET id = 15 WHERE id = 16; COMMIT",
        "INSERT INTO p SELECT n, 'more', n, n FROM generate_series(200, 240) n",
        "DELETE FROM p WHERE id IN (17, 200)",
        "UPDATE p SET m = 'last' WHERE id IN (5, 18)",
    ] {
        pair.source.exec(sql);
    }
    pair.target.exec(sabotage);
    pair.call(&["start_task('t', keep => true)"]);
    pair.replicate("t");
    pair
}

#[test]
fn rows_that_lack_a_column_are_changed_again_in_the_same_group() {
    let mut pair = change_again("", &[], "");
    assert_eq!(pair.conflicts(), 0);
    pair.assert_same_table("p");
}

#[test]
fn rows_that_lack_a_column_are_changed_again_in_source_order() {
    let mut pair = change_again("CREATE UNIQUE INDEX p_a ON p (a)", &[], "");
    assert_eq!(pair.conflicts(), 0);
    pair.assert_same_table("p");
}

#[test]
fn rows_that_lack_a_column_are_changed_again_behind_a_filter() {
    let mut pair = change_again("", &["set_filter('t', 'public.p', 'a % 4 <> 2')"], "");
    assert_eq!(pair.conflicts(), 0);
    pair.assert_same("SELECT * FROM p WHERE a % 4 <> 2", "TABLE p");
}

/// A row that somebody deleted on the target makes the group fail: it is applied one by one then.
#[test]
fn rows_that_lack_a_column_are_changed_again_one_by_one() {
    for more in ["", "CREATE UNIQUE INDEX p_a ON p (a)"] {
        let mut pair = change_again(more, &[], "DELETE FROM q");
        assert_eq!(pair.conflicts(), 1, "the row that was deleted");
        pair.assert_same_table("p");
    }
}

/// A value of before has a label, and an expression names another one that came later. The server
/// looks for labels in the catalog of the row's time, where that one is not.
#[test]
fn a_rule_names_a_label_that_is_later_than_the_row() {
    let table = "CREATE TYPE mood AS ENUM ('bad', 'good');
        CREATE TABLE p (id int PRIMARY KEY, m mood);
        INSERT INTO p VALUES (1, 'bad'), (2, 'good')";
    let mut pair = copied(table, &["add_column('t', 'public.p', 'c', 'bool', 'false')"]);
    pair.source.exec("INSERT INTO p VALUES (3, 'bad'), (4, 'good')");
    on_both(&mut pair, "ALTER TYPE mood ADD VALUE 'awful' BEFORE 'bad'");
    on_both(&mut pair, "ALTER TYPE mood ADD VALUE 'better' BEFORE 'good'");
    pair.source.exec("INSERT INTO p VALUES (5, 'awful'), (6, 'better'), (7, 'good')");
    let rule = pair.source.number("SELECT id FROM trem.transformation");
    let computed = "m <= 'awful' OR 'better' <= m OR m BETWEEN 'awful' AND 'awful'";
    pair.call(&[
        &format!("drop_transformation({rule})"),
        &format!("add_column('t', 'public.p', 'c', 'bool', $${computed}$$)"),
    ]);
    pair.target.exec("UPDATE p SET c = true WHERE id = 2");
    kept(&mut pair);
    pair.assert_same(
        &format!("SELECT id, m::text, {computed} FROM p"),
        "SELECT id, m::text, c FROM p",
    );
}

/// Made by a rule, a label must be there when the row is evaluated.
#[test]
fn a_rule_makes_a_label_that_is_later_than_the_row() {
    let mut pair = copied(
        "CREATE TYPE mood AS ENUM ('bad', 'good');
         CREATE TABLE p (id int PRIMARY KEY, m text, k mood);
         INSERT INTO p VALUES (1, 'bad'), (2, 'good')",
        &["change_type('t', 'public.p', 'm', 'public.mood')"],
    );
    on_both(&mut pair, "ALTER TYPE mood ADD VALUE 'awful' BEFORE 'bad'");
    kept(&mut pair);
    pair.source.exec("INSERT INTO p VALUES (3, 'new')");
    pair.source.exec("UPDATE p SET m = 'fair' WHERE id = 3");
    on_both(&mut pair, "ALTER TYPE mood ADD VALUE 'new'");
    on_both(&mut pair, "ALTER TYPE mood ADD VALUE 'fair'");
    kept(&mut pair);
    pair.assert_same("SELECT id, m FROM p", "SELECT id, m::text FROM p");
}

/// What came before the change that stops the stream was thrown away with its group, also where it
/// was complete, and came only when the task went on.
#[test]
fn transactions_before_the_stop_are_applied() {
    let mut pair = copied(P, &["set_value('t', 'public.p', 'm', 'upper(m)')"]);
    for id in 11..14 {
        pair.source.exec(&format!("INSERT INTO p VALUES ({id}, 'x', {id})"));
    }
    let reached = pair.source.text("SELECT pg_current_wal_insert_lsn()");
    pair.source.exec("ALTER TABLE p RENAME a TO b");
    pair.source.exec("ALTER TABLE p DROP b");
    pair.source.exec("INSERT INTO p VALUES (14, 'x')");
    stopped(&mut pair, &["public.p", "\"a\" was dropped", "start_task", "reload_table"]);
    pair.assert_same("SELECT id FROM p WHERE id < 14", "SELECT id FROM p");
    let applied = "SELECT applied_lsn FROM trem.task_status WHERE task = 't'";
    let before = pair.source.text(applied);
    let said = "SELECT last_error FROM trem.task_status WHERE task = 't'";
    assert!(pair.source.text(said).contains(&before), "the error says after which position");
    let near =
        format!("SELECT '{before}'::pg_lsn BETWEEN '{reached}'::pg_lsn - 1000 AND '{reached}'");
    assert!(pair.source.holds(&near), "{before} is that of the third, before {reached}");
    pair.target.exec("ALTER TABLE p DROP a");
    kept(&mut pair);
    pair.assert_same("SELECT id, upper(m) FROM p", "TABLE p");
}

/// The transaction that stops the stream is so large that a part of it has arrived: it must go, and
/// what was in the same group before it must stay.
#[test]
fn transactions_before_the_stop_are_applied_when_a_part_of_the_next_has_arrived() {
    let mut pair = copied(P, &[]);
    let large =
        format!("INSERT INTO p SELECT n, {}, n FROM generate_series(1000, 1300) n", noise("n"));
    for id in 11..14 {
        pair.source.exec(&format!("INSERT INTO p VALUES ({id}, 'x', {id})"));
    }
    pair.source.exec(&format!(
        "BEGIN; {large}; ALTER TABLE p ADD c int; INSERT INTO p VALUES (14, 'x', 14, 1); COMMIT"
    ));
    stopped(&mut pair, &["public.p", "\"c\" was added", "transaction at"]);
    pair.assert_same("SELECT id, m, a FROM p WHERE id < 14", "TABLE p");
    pair.target.exec("ALTER TABLE p ADD c int");
    kept(&mut pair);
    pair.assert_same_table("p");
}

/// A row is read again by the shape that was published: where the table has another one since, it
/// is told, and nothing is guessed.
#[test]
fn a_table_is_altered_again_before_rows_that_lack_a_column_are_read() {
    let other = format!("{P}; CREATE TABLE q (id int PRIMARY KEY)");
    let mut pair = copied(&other, &["add_table('t', 'public.q')"]);
    pair.source.exec("INSERT INTO q VALUES (1)");
    pair.source.exec("INSERT INTO p VALUES (6, 'a', 6)");
    on_both(&mut pair, "ALTER TABLE p ADD c int NOT NULL DEFAULT 5");
    pair.call(&["start_task('t', keep => true)"]);
    pair.source.exec("INSERT INTO p VALUES (7, 'a', 7, 7)");
    pair.source.exec("ALTER TABLE p ALTER a TYPE bigint");
    pair.source.exec("INSERT INTO p VALUES (8, 'a', 8, 8)");
    stopped(&mut pair, &["public", "no longer of type", "start_task", "reload_table"]);
    pair.assert_same_table("q");
    pair.target.exec("ALTER TABLE p ALTER a TYPE bigint");
    kept(&mut pair);
    pair.assert_same_table("p");
}

const PARTITIONED: &str =
    "CREATE TABLE p (id int, m text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
    CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
    INSERT INTO p VALUES (1, 'a'), (101, 'b')";

#[test]
fn rows_of_a_partition_from_after_it_was_one_say_so() {
    let mut pair = copied(PARTITIONED, &[]);
    pair.source.exec("ALTER TABLE p DETACH PARTITION p2");
    pair.source.exec("INSERT INTO p2 VALUES (102, 'c')");
    stopped(&mut pair, &["public.p2", "was detached", "reload_table", "start_task"]);
    pair.call(&["reload_table('t', 'public.p')", "start_task('t', keep => true)"]);
    pair.replicate("t");
    pair.assert_same_table("p");
}

/// Two rows had the same value in what is the key now. Applied by that key they were one row, and
/// deleting one of them deleted the other: nobody said so.
#[test]
fn a_key_that_was_not_unique_addresses_no_rows_of_before() {
    let mut pair = copied(
        "CREATE TABLE p (id int NOT NULL, m text); ALTER TABLE p REPLICA IDENTITY FULL;
         INSERT INTO p VALUES (1, 'a')",
        &[],
    );
    pair.source.exec("INSERT INTO p VALUES (2, 'a')");
    pair.source.exec("INSERT INTO p VALUES (2, 'b')");
    pair.source.exec("DELETE FROM p WHERE m = 'a' AND id = 2");
    on_both(&mut pair, "ALTER TABLE p ADD PRIMARY KEY (id)");
    pair.call(&["start_task('t', keep => true)"]);
    stopped(&mut pair, &["public.p", "another key", "reload_table"]);
    pair.call(&["reload_table('t', 'public.p')"]);
    pair.replicate("t");
    pair.assert_same_table("p");
}
