//! What happens to a source database beside replication: it is dumped and restored, renamed, read
//! on a standby, and TREM is removed from it. Nothing of TREM stands in the way, and where a task
//! cannot go on it says so, with a statement that leads on.

use std::process::Command;

use trem_tests::{output, server_programs, wait_for, Cluster, Database, Pair};

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, v text);
    INSERT INTO item SELECT n, 'v' FROM generate_series(1, 100) n";

fn running(tables: &str) -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(tables);
    pair.create_task("t", &["public.*"]);
    pair.start_task("t");
    pair.replicate("t");
    pair
}

/// Everything that `check_task` says of a task.
fn checked(source: &mut Database, task: &str) -> String {
    source.text(&format!(
        "SELECT coalesce(string_agg(concat_ws(' ', severity, check_name, message, hint), E'\\n'), \
         '') FROM trem.check_task('{task}')"
    ))
}

fn dump(cluster: &Cluster, dbname: &str, user: &str) -> String {
    let pg_dump = server_programs().join("pg_dump");
    output(Command::new(pg_dump).arg("-d").arg(cluster.conninfo(dbname, user)))
}

/// Restores a dump as the superuser, who must find nothing wrong with it.
fn restore(cluster: &Cluster, dump: &str, dbname: &str) {
    let file = cluster.folder().join("dump.sql");
    std::fs::write(&file, dump).expect("to keep the dump");
    let restored = Command::new(server_programs().join("psql"))
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d"])
        .arg(cluster.conninfo(dbname, "postgres"))
        .arg("-f")
        .arg(&file)
        .output()
        .expect("to run psql");
    let said = String::from_utf8_lossy(&restored.stderr).into_owned();
    assert!(restored.status.success(), "{said}");
}

#[test]
fn a_standby_shows_and_checks_its_tasks() {
    let pair = running(ITEM);
    let folder = pair.source_cluster.folder().join("standby");
    let standby = pair.source_cluster.standby(folder);
    let mut session = standby.connect("shop");
    let told = checked(&mut session, "t");
    assert!(told.contains("this server is a standby"), "{told}");
    assert_eq!(session.text("SELECT state FROM trem.task_status WHERE task = 't'"), "started");
    for read in [
        "SELECT count(*) FROM trem.list_tables()",
        "SELECT count(*) FROM trem.table_counts(exact => true)",
        "SELECT count(*) FROM trem.table_schema('public.item')",
        "SELECT count(*) FROM trem.explain_task('t')",
        "SELECT count(*) FROM trem.preview('t', 'public.item')",
        "SELECT count(*) FROM trem.table_status",
        "SELECT count(*) FROM trem.transformation",
    ] {
        assert!(session.number(read) >= 0, "{read}");
    }
    for write in ["SELECT trem.start_task('t')", "SELECT trem.add_table('t', 'public.item')"] {
        let failure = session.failure(write);
        assert!(failure.message.contains("standby"), "{write}: {failure}");
        assert!(failure.hint.contains("primary"), "{write}: {failure}");
    }
}

/// pg_dump reads the tables of an extension that asks for it, and gives up at the first one that it
/// may not read: then TREM would keep a database's owner from backing it up.
#[test]
fn the_databases_owner_dumps_it_who_is_no_superuser() {
    let mut pair = Pair::new();
    pair.source.exec(
        "CREATE ROLE landlord LOGIN;
         ALTER DATABASE shop OWNER TO landlord;
         SET ROLE landlord;
         CREATE SCHEMA app;
         CREATE TABLE app.item (id int PRIMARY KEY, v text);
         RESET ROLE",
    );
    pair.source.exec("SELECT trem.alter_endpoint('dst', password => 'geheim')");
    pair.create_task("t", &["app.item"]);
    pair.call(&["set_value('t', 'app.item', 'v', $$trem.pseudonym(v, 'k')$$)"]);
    pair.start_task("t");
    let dumped = dump(&pair.source_cluster, "shop", "landlord");
    assert!(dumped.contains("COPY trem.task "), "the tasks are in it:\n{dumped}");
    assert!(!dumped.contains("geheim"), "passwords are in no dump:\n{dumped}");
    let everything = dump(&pair.source_cluster, "shop", "postgres");
    assert!(!everything.contains("geheim"), "nor in that of a superuser");
}

/// The definition in a dump holds OIDs. Those of another database may be there, of other tables.
#[test]
fn a_task_from_a_restored_dump_goes_on_once_it_is_published_there() {
    let mut pair = running(ITEM);
    pair.call(&[
        "create_task('m', 'src', 'dst', '{public.item}')",
        "rename_schema('m', 'public.item', 'masked')",
        "set_value('m', 'public.item', 'v', $$trem.pseudonym(v, 'k')$$)",
        "start_task('m')",
    ]);
    pair.replicate("m");
    let masked = "SELECT * FROM masked.item ORDER BY id";
    let before = pair.target.rows(masked);
    let dumped = dump(&pair.source_cluster, "shop", "postgres");
    // Another database of the same server: the slots stay behind, and OIDs are others.
    pair.call(&["stop_task('t')", "stop_task('m')"]);
    pair.source.exec("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
    let mut server = pair.source_cluster.connect("postgres");
    server.exec("CREATE DATABASE restored TEMPLATE template0");
    restore(&pair.source_cluster, &dumped, "restored");

    let mut restored = pair.source_cluster.connect("restored");
    let told = checked(&mut restored, "t");
    assert!(told.contains("alter_endpoint('src', dbname => 'restored')"), "{told}");
    assert!(told.contains("published in another database"), "{told}");
    let source = pair.source_cluster.conninfo("restored", "trem_applier");
    let run = ["run", "--task", "t", "--until-caught-up", "--source", &source];
    let refused = pair.applier_of(&run).wait();
    refused.assert_code(1).assert_says(&["another database", "SELECT trem.start_task('t')"]);
    pair.expect_log("");

    restored.exec("SELECT trem.alter_endpoint('src', dbname => 'restored')");
    restored.exec("SELECT trem.start_task('t')");
    restored.exec("SELECT trem.start_task('m')");
    restored.exec("INSERT INTO item VALUES (1000, 'new')");
    // The tables of the target are the task's own: what the old database left in them is replaced.
    pair.applier_of(&run).wait().assert_code(0);
    let run = ["run", "--task", "m", "--until-caught-up", "--source", &source];
    pair.applier_of(&run).wait().assert_code(0);
    assert_eq!(restored.rows("TABLE item ORDER BY 1"), pair.target.rows("TABLE item ORDER BY 1"));
    let after = pair.target.rows(masked);
    assert_eq!(after[..before.len()], before, "the keys of pseudonyms came with the dump");
    assert_eq!(after.len(), before.len() + 1);
}

#[test]
fn a_renamed_database_is_told_with_the_statement_that_leads_on() {
    let mut pair = running(ITEM);
    let mut server = pair.source_cluster.connect("postgres");
    pair.source = pair.source_cluster.connect("postgres");
    wait_for("the database to be left", || {
        server.try_exec("ALTER DATABASE shop RENAME TO store").is_ok()
    });
    let mut store = pair.source_cluster.connect("store");
    let refused = store.failure("SELECT trem.start_task('t')");
    let remedy = "SELECT trem.alter_endpoint('src', dbname => 'store');";
    assert!(refused.everything().contains(remedy), "{refused}");
    store.exec(remedy);
    store.exec("SELECT trem.start_task('t'); UPDATE item SET v = 'new'");
    let source = pair.source_cluster.conninfo("store", "trem_applier");
    let run = ["run", "--task", "t", "--until-caught-up", "--source", &source];
    pair.applier_of(&run).wait().assert_code(0);
    assert_eq!(store.rows("TABLE item ORDER BY 1"), pair.target.rows("TABLE item ORDER BY 1"));
}

/// A slot that nobody knows any more keeps WAL until the disk is full.
#[test]
fn the_extension_is_not_dropped_while_its_tasks_have_slots() {
    let mut pair = running(ITEM);
    for statement in
        ["DROP EXTENSION trem", "DROP EXTENSION trem CASCADE", "DROP SCHEMA trem CASCADE"]
    {
        let failure = pair.source.failure(statement);
        assert!(failure.message.contains("trem_t"), "{failure}");
        assert!(failure.hint.contains("SELECT trem.drop_task('t');"), "{failure}");
    }
    pair.call(&["stop_task('t')", "drop_task('t')"]);
    // One that was left by a task that is gone: by hand.
    pair.source.exec("SELECT pg_create_logical_replication_slot('trem_gone', 'trem')");
    let failure = pair.source.failure("DROP EXTENSION trem CASCADE");
    let remedy = "SELECT pg_drop_replication_slot('trem_gone');";
    assert!(failure.hint.contains(remedy), "{failure}");
    pair.source.exec(remedy);
    pair.source.exec("DROP EXTENSION trem CASCADE");
    assert_eq!(pair.source.number("SELECT count(*) FROM pg_replication_slots"), 0);
    assert_eq!(pair.source.number("SELECT count(*) FROM pg_event_trigger"), 0);
}

/// Extension and applier are installed one after the other, on machines of their own.
#[test]
fn an_applier_that_does_not_know_the_extensions_stream_says_so() {
    let mut pair = running(ITEM);
    // As an extension would answer that has left all of today's versions behind.
    pair.source.exec(
        "CREATE OR REPLACE FUNCTION trem.applier_protocol()
         RETURNS TABLE (oldest int, newest int, extension_version text)
         LANGUAGE sql IMMUTABLE AS $$ SELECT 98, 99, '9.0.0' $$",
    );
    pair.refuse("t", &["version 9.0.0", "98 to 99", "ALTER EXTENSION trem UPDATE"]);
}
