//! Publishing while tables change: what comes between the publish's look at the catalog and its
//! position in the WAL, or between the publish and the copy, is in neither unless somebody sees to
//! it.

use std::thread;

use trem_tests::{wait_for, Database, Pair};

const PARTITIONED: &str = "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
    INSERT INTO p SELECT n, 'v' || n FROM generate_series(1, 9) n;
    CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)";

fn loaded() -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(PARTITIONED);
    pair.create_task("t", &["public.p", "public.other"]);
    pair.start_task("t");
    pair.replicate("t");
    pair
}

/// Calls start_task in a session of its own, which has to wait; `meanwhile` lets it go on.
fn start_while_locked(pair: &mut Pair, meanwhile: impl FnOnce(&mut Database)) {
    let config = pair.source_cluster.config("shop", "postgres");
    let starting = thread::spawn(move || {
        let mut session = Database::try_connect(&config).expect("a session");
        session.try_exec("SELECT trem.start_task('t')")
    });
    let mut look = pair.source_cluster.connect("shop");
    wait_for("start_task to wait for a lock", || {
        look.holds(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'
             AND query LIKE 'SELECT trem.start_task%')",
        )
    });
    meanwhile(&mut pair.source);
    starting.join().expect("the thread").expect("start_task");
}

/// The position was taken after the catalog was read, and the wait for a lock lay between: the
/// partition was not in the definition, and its row was taken for one of before the publish.
#[test]
fn a_partition_is_made_while_a_publish_waits() {
    let mut pair = loaded();
    // Something to publish.
    pair.call(&["alter_task('t', '{\"full_load_jobs\": 2}')"]);
    pair.source.exec("BEGIN");
    pair.source.exec(
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
         INSERT INTO p VALUES (101, 'made meanwhile')",
    );
    start_while_locked(&mut pair, |source| source.exec("COMMIT"));
    pair.source.exec("INSERT INTO p VALUES (102, 'later')");
    pair.replicate("t");
    pair.assert_same_table("p");
}

#[test]
fn a_table_is_renamed_while_a_publish_waits() {
    let mut pair = loaded();
    pair.source.exec("BEGIN");
    pair.source.exec("ALTER TABLE other RENAME TO another");
    let config = pair.source_cluster.config("shop", "postgres");
    let starting = thread::spawn(move || {
        let mut session = Database::try_connect(&config).expect("a session");
        session.failure("SELECT trem.start_task('t')")
    });
    let mut look = pair.source_cluster.connect("shop");
    wait_for("start_task to wait for a lock", || {
        look.holds("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    });
    pair.source.exec("COMMIT");
    // It saw what the catalog was when it had its locks.
    starting.join().expect("the thread").assert_says(&["public.another", "renamed"]);
}

/// Readers and writers of a task's tables are not kept waiting, and keep nobody waiting.
#[test]
fn a_publish_does_not_wait_for_writers() {
    let mut pair = loaded();
    pair.source.exec("BEGIN");
    pair.source.exec("INSERT INTO p VALUES (50, 'open'); INSERT INTO other VALUES (2)");
    let mut session = pair.source_cluster.connect("shop");
    session.exec("SET lock_timeout = '5s'; SELECT trem.reload_table('t', 'public.p')");
    session.exec("BEGIN; SELECT trem.start_task('t')");
    pair.source.exec("INSERT INTO p VALUES (51, 'open'); COMMIT");
    session.exec("COMMIT");
    pair.replicate("t");
    pair.assert_same_table("p");
}

/// Partitions come, with rows, all the while the task is published again and again and its applier
/// follows. Whatever stops it, `start_task` alone is the remedy: no row is missing.
#[test]
fn partitions_are_made_while_a_task_is_published_again_and_again() {
    let mut pair = loaded();
    pair.expect_log("");
    let mut applier = pair.applier("t");
    let config = pair.source_cluster.config("shop", "postgres");
    let writing = thread::spawn(move || {
        let mut session = Database::try_connect(&config).expect("a session");
        for at in 1..=40 {
            let (from, to) = (at * 100, at * 100 + 100);
            session.exec(&format!(
                "CREATE TABLE made_{at} PARTITION OF p FOR VALUES FROM ({from}) TO ({to})"
            ));
            session.exec(&format!("INSERT INTO p VALUES ({from}, 'a'), ({from} + 1, 'b')"));
            session.exec(&format!("UPDATE p SET v = v || '+' WHERE id IN ({from}, {at})"));
        }
    });
    while !writing.is_finished() {
        pair.start_task("t");
    }
    writing.join().expect("the thread");
    pair.start_task("t");
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same_table("p");
    assert_eq!(pair.conflicts(), 0);
}

/// The slot does not exist yet, so no stream would ever bring the rows.
#[test]
fn a_partition_is_made_between_the_publish_and_the_first_load() {
    let mut pair = Pair::new();
    pair.source.exec(PARTITIONED);
    pair.create_task("t", &["public.p"]);
    pair.start_task("t");
    pair.source.exec(
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
         INSERT INTO p VALUES (101, 'before the slot')",
    );
    pair.refuse("t", &["partitions", "trem.start_task"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same_table("p");
}

/// The stream would leave the partition's rows out as being in the copy, which does not have them.
#[test]
fn a_partition_is_made_between_the_publish_and_a_later_load() {
    let mut pair = Pair::new();
    pair.source.exec(PARTITIONED);
    pair.create_task("t", &["public.other"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.call(&["add_table('t', 'public.p')", "start_task('t')"]);
    pair.source.exec(
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
         INSERT INTO p VALUES (101, 'before the copy')",
    );
    pair.refuse("t", &["partitions", "trem.start_task"]);
    pair.source.exec("INSERT INTO p VALUES (102, 'later')");
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same_table("p");
}

/// A publish in the transaction of the change itself has seen it.
#[test]
fn a_change_and_its_publish_are_one_transaction() {
    let mut pair = loaded();
    let change = "ALTER TABLE p ALTER v TYPE text USING v || '!'";
    let refused = pair.source.failure(&format!("{change}; SELECT trem.start_task('t')"));
    refused.assert_says(&[
        "public.p",
        "rewritten",
        "reload_table('t', 'public.p')",
        "keep => true",
    ]);
    pair.target.exec(change);
    pair.source.exec(&format!("{change}; SELECT trem.start_task('t', keep => true)"));
    pair.source.exec("INSERT INTO p VALUES (10, 'later')");
    pair.replicate("t");
    pair.assert_same_table("p");
    assert_eq!(pair.source.number("SELECT count(*) FROM trem.table_change"), 0, "left behind");
}

/// What happened is said before anybody starts the task, and loading one table again does not cover
/// up what happened to another.
#[test]
fn each_table_is_asked_about_by_its_name() {
    let mut pair = loaded();
    pair.source.exec(
        "CREATE TABLE p2 (id int PRIMARY KEY, v text); INSERT INTO p2 VALUES (101, 'old');
         ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (100) TO (200);
         ALTER TABLE other SET UNLOGGED",
    );
    pair.source.exec("INSERT INTO other VALUES (2)");
    pair.source.exec("ALTER TABLE other SET LOGGED");
    let check = "SELECT string_agg(table_name || ': ' || message || ' ' || hint, E'\\n')
                 FROM trem.check_task('t') WHERE severity = 'error' AND check_name = 'changed'";
    let said = pair.source.text(check);
    for part in ["public.p: its partition public.p2 was attached", "public.other: it was unlogged"]
    {
        assert!(said.contains(part), "\"{part}\" is missing in: {said}");
    }
    pair.call(&["reload_table('t', 'public.p')"]);
    let refused = pair.source.failure("SELECT trem.start_task('t')");
    refused.assert_says(&["public.other: it was unlogged"]);
    assert!(!refused.everything().contains("public.p:"), "{refused}");
    pair.call(&["reload_table('t', 'public.other')"]);
    pair.replicate("t");
    pair.assert_same_table("p");
    pair.assert_same_table("other");
}

/// The applier's check compares names with those that `%I` makes: a table called "order" was none
/// of the task's, and nobody heard what was wrong with it.
#[test]
fn a_table_whose_name_is_a_keyword_is_checked() {
    let mut pair = Pair::new();
    pair.source
        .exec(r#"CREATE SCHEMA app; CREATE TABLE app."order" (id int PRIMARY KEY, "user" int)"#);
    pair.source.exec(r#"INSERT INTO app."order" VALUES (1, 2)"#);
    pair.create_task("t", &[r#"app."order""#]);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same_table(r#"app."order""#);
    pair.source.exec(r#"ALTER TABLE app."order" SET UNLOGGED"#);
    pair.refuse("t", &[r#"app."order""#, "unlogged"]);
}
