//! What may be wrong around a task: servers, rights, settings, tables of the target, and servers
//! and definitions that change while it runs. Each is told with its remedy; what passes by itself
//! is survived.

use std::process::Command;

use trem_tests::{server_programs, wait_for, Applier, Cluster, Database, Pair};

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, v text);
    INSERT INTO item SELECT n, 'v' FROM generate_series(1, 100) n";

fn started() -> Pair {
    started_with("{}")
}

fn started_with(options: &str) -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(ITEM);
    pair.create_task_with("t", &["public.item"], "full_load_and_cdc", options);
    pair.start_task("t");
    pair
}

fn nothing_was_written(pair: &mut Pair) {
    let written = "SELECT count(*) FROM pg_class WHERE relname IN ('item', 'progress')";
    assert_eq!(pair.target.number(written), 0, "nothing is half done");
    assert_eq!(pair.source.number("SELECT count(*) FROM pg_replication_slots"), 0);
}

/// A server of its own settings on which the task is refused at its start.
#[track_caller]
fn check_start(settings: &[(&str, &str)], before: &str, parts: &[&str]) {
    let mut pair = Pair::with_settings(settings, &[]);
    pair.source.exec(ITEM);
    pair.create_task("t", &["public.item"]);
    pair.source.exec(before);
    assert_start_says(&mut pair, parts);
    nothing_was_written(&mut pair);
}

/// The start is refused, and what it says together with `check_task`, to which it sends, holds
/// `parts`.
#[track_caller]
fn assert_start_says(pair: &mut Pair, parts: &[&str]) {
    let refused = pair.source.failure("SELECT trem.start_task('t')");
    let checked = pair
        .source
        .text("SELECT string_agg(concat_ws(' ', message, hint), E'\\n') FROM trem.check_task('t')");
    for part in parts {
        let told = refused.everything() + &checked;
        assert!(told.contains(part), "\"{part}\" is missing in:\n{told}");
    }
}

#[test]
fn a_wal_level_below_logical_is_told_with_its_remedy() {
    let settings = [("wal_level", "replica")];
    check_start(&settings, "SELECT 1", &["ALTER SYSTEM SET wal_level = logical"]);
}

#[test]
fn a_plugin_that_is_not_listed_is_told_with_its_remedy() {
    let pair = Pair::new();
    if !pair
        .source_cluster
        .connect("shop")
        .holds("SELECT count(*) > 0 FROM pg_settings WHERE name = 'output_plugin_libraries'")
    {
        return; // An older minor release loads any plugin.
    }
    drop(pair);
    let settings = [("output_plugin_libraries", "'pgoutput, test_decoding'")];
    let remedy = "ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, trem";
    check_start(&settings, "SELECT 1", &[remedy, "pg_reload_conf"]);
}

#[test]
fn a_role_without_replication_right_is_told_with_its_remedy() {
    let parts = ["trem_applier", "ALTER ROLE \"trem_applier\" REPLICATION"];
    check_start(&[], "ALTER ROLE trem_applier NOREPLICATION", &parts);
}

#[test]
fn a_role_that_is_gone_is_told_with_its_remedy() {
    let drop = "DROP OWNED BY trem_applier; DROP ROLE trem_applier";
    check_start(&[], drop, &["CREATE ROLE \"trem_applier\" LOGIN REPLICATION"]);
}

#[test]
fn a_source_without_free_slots_is_told_with_its_remedy() {
    let mut pair = Pair::with_settings(&[("max_replication_slots", "1")], &[]);
    pair.source.exec(ITEM);
    pair.create_task("t", &["public.item"]);
    pair.source.exec("SELECT pg_create_physical_replication_slot('taken')");
    assert_start_says(&mut pair, &["ALTER SYSTEM SET max_replication_slots"]);
}

#[test]
fn a_right_taken_away_after_the_start_is_told_with_its_remedy() {
    let mut pair = started();
    pair.source.exec("ALTER ROLE trem_applier NOREPLICATION");
    pair.refuse("t", &["ALTER ROLE \"trem_applier\" REPLICATION"]);
    nothing_was_written(&mut pair);
}

#[test]
fn a_target_that_cannot_be_reached_is_told_and_waited_for() {
    let mut pair = started();
    pair.expect_log("");
    pair.target_cluster.stop();
    pair.applier_with(&["check", "--task", "t"], &[]).wait().assert_code(1);
    let mut applier = pair.applier("t");
    let error = pair.wait_for_error("t");
    assert!(error.contains("connect") || error.contains("reach"), "{error}");
    pair.target_cluster.start();
    pair.reconnect();
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same_table("public.item");
}

#[test]
fn a_wrong_password_is_told_with_its_remedy() {
    let mut pair = started();
    pair.target.exec("CREATE ROLE trem_password LOGIN PASSWORD 'right'");
    pair.source.exec(
        "SELECT trem.alter_endpoint('dst', username => 'trem_password', password => 'wrong')",
    );
    let outcome = pair.refuse("t", &["password", "trem_password", "hint"]);
    assert!(!outcome.log.contains("wrong\""), "{}", outcome.log);
    nothing_was_written(&mut pair);
}

#[test]
fn a_password_from_the_environment_or_a_file_is_used() {
    let mut pair = started();
    pair.target.exec(
        "CREATE ROLE trem_password LOGIN PASSWORD 'right'; GRANT loader TO trem_password;
        GRANT CREATE ON DATABASE warehouse TO trem_password",
    );
    pair.source.exec(
        "SELECT trem.alter_endpoint('dst', username => 'trem_password',
        options => '{\"password_env\": \"DST_PASSWORD\"}')",
    );
    let arguments = ["run", "--task", "t", "--until-caught-up"];
    pair.applier_with(&arguments, &[("DST_PASSWORD", "right")]).wait().assert_code(0);
    let file = pair.source_cluster.folder().join("password");
    std::fs::write(&file, "right\n").expect("to write the password");
    pair.source.exec(&format!(
        "SELECT trem.alter_endpoint('dst', options => '{{\"password_env\": null,
         \"password_file\": \"{}\"}}')",
        file.display()
    ));
    pair.replicate("t");
    pair.assert_same_table("public.item");
}

#[test]
fn a_password_variable_that_is_not_set_is_named() {
    let mut pair = started();
    pair.source
        .exec("SELECT trem.alter_endpoint('dst', options => '{\"password_env\": \"NOT_SET\"}')");
    pair.refuse("t", &["NOT_SET"]);
    nothing_was_written(&mut pair);
}

#[test]
fn a_target_role_that_may_not_create_is_told_with_its_remedy() {
    let mut pair = started();
    pair.target.exec("CREATE ROLE weak LOGIN");
    pair.source.exec("SELECT trem.alter_endpoint('dst', username => 'weak')");
    pair.refuse("t", &["GRANT CREATE ON DATABASE"]);
    nothing_was_written(&mut pair);
}

#[test]
fn a_target_database_that_does_not_exist_is_named() {
    let mut pair = started();
    pair.source.exec("SELECT trem.alter_endpoint('dst', dbname => 'nowhere')");
    pair.refuse("t", &["nowhere"]);
}

#[test]
fn a_target_table_with_rows_is_left_alone() {
    let mut pair = started();
    pair.target.exec(
        "CREATE TABLE item (id int PRIMARY KEY, v text); INSERT INTO item VALUES (-1);
        ALTER TABLE item OWNER TO loader",
    );
    pair.refuse("t", &["item", "truncate"]);
    assert_eq!(pair.target.number("SELECT count(*) FROM item"), 1);
    assert_eq!(pair.source.number("SELECT count(*) FROM pg_replication_slots"), 0);
}

#[test]
fn a_target_table_with_rows_is_emptied_when_asked() {
    let mut pair = started_with("{\"target_tables\": \"truncate\"}");
    pair.target.exec(
        "CREATE TABLE item (id int PRIMARY KEY, v text); INSERT INTO item VALUES (-1);
        ALTER TABLE item OWNER TO loader",
    );
    pair.replicate("t");
    pair.assert_same_table("public.item");
}

#[test]
fn rows_of_a_target_table_are_kept_when_asked() {
    let mut pair = started_with("{\"target_tables\": \"keep\"}");
    pair.target.exec(
        "CREATE TABLE item (id int PRIMARY KEY, v text); INSERT INTO item VALUES (-1);
        ALTER TABLE item OWNER TO loader",
    );
    pair.replicate("t");
    pair.assert_same("SELECT * FROM item", "SELECT * FROM item WHERE id > 0");
    assert_eq!(pair.target.number("SELECT count(*) FROM item"), 101);
}

#[test]
fn a_target_table_with_other_columns_is_told_with_its_remedy() {
    let mut pair = started();
    pair.target.exec(
        "CREATE TABLE item (id bigint PRIMARY KEY, w text);
        ALTER TABLE item OWNER TO loader",
    );
    pair.refuse("t", &["\"v\"", "\"id\"", "bigint"]);
    assert_eq!(pair.source.number("SELECT count(*) FROM pg_replication_slots"), 0);
}

#[test]
fn a_target_table_of_another_task_is_not_taken() {
    let mut pair = started();
    pair.replicate("t");
    pair.create_task_with("u", &["public.item"], "full_load", "{\"target_tables\": \"truncate\"}");
    pair.start_task("u");
    pair.refuse("u", &["item", "t"]);
    pair.assert_same_table("public.item");
}

#[test]
fn a_check_tells_everything_wrong_on_both_sides() {
    let mut pair = started();
    pair.source.exec("ALTER ROLE trem_applier NOREPLICATION");
    pair.target.exec("CREATE TABLE item (id bigint PRIMARY KEY); ALTER TABLE item OWNER TO loader");
    let outcome = pair.applier_with(&["check", "--task", "t"], &[]).wait();
    outcome.assert_code(1).assert_says(&["REPLICATION", "\"id\"", "\"v\""]);
    nothing_was_written_but_the_table(&mut pair);
}

fn nothing_was_written_but_the_table(pair: &mut Pair) {
    assert_eq!(pair.target.number("SELECT count(*) FROM pg_class WHERE relname = 'progress'"), 0);
}

#[test]
fn a_check_of_a_sound_task_finds_nothing_to_stop_it() {
    let mut pair = started();
    pair.applier_with(&["check", "--task", "t"], &[]).wait().assert_code(0);
    nothing_was_written(&mut pair);
    pair.replicate("t");
    pair.applier_with(&["check", "--task", "t"], &[]).wait().assert_code(0);
}

#[test]
fn status_and_inspect_tell_what_there_is() {
    let mut pair = started();
    pair.replicate("t");
    pair.applier_with(&["status"], &[]).wait().assert_code(0).assert_says(&["t", "cdc"]);
    let arguments = ["inspect", "--endpoint", "dst"];
    pair.applier_with(&arguments, &[]).wait().assert_code(0).assert_says(&["item"]);
}

/// A service that has copied, with the clusters around it about to misbehave.
fn serving(pair: &mut Pair) -> Applier {
    pair.expect_log("");
    let mut applier = pair.applier("t");
    pair.catch_up("t", &mut applier);
    applier
}

#[track_caller]
fn check_goes_on(disturb: impl FnOnce(&mut Pair)) {
    let mut pair = started();
    let mut applier = serving(&mut pair);
    pair.source.exec("UPDATE item SET v = 'before'");
    disturb(&mut pair);
    pair.reconnect();
    pair.source.exec("DELETE FROM item WHERE id < 10; INSERT INTO item VALUES (1000, 'after')");
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same_table("public.item");
}

#[test]
fn a_restart_of_the_source_is_survived() {
    check_goes_on(|pair| pair.source_cluster.restart());
}

/// Its shutdown waits until the client has confirmed exactly what the walsender noted as sent, also
/// when the source told of that position before and it was not worth recording then.
#[test]
fn a_source_that_shuts_down_is_let_go() {
    let mut pair = started();
    let mut applier = serving(&mut pair);
    for round in 0..3 {
        let value = format!("round {round}");
        pair.source.exec(&format!("UPDATE item SET v = '{value}'"));
        let there = format!("SELECT count(*) = 100 FROM public.item WHERE v = '{value}'");
        wait_for("the last change on the target", || pair.target.holds(&there));
        pair.source_cluster.restart();
        pair.reconnect();
    }
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same_table("public.item");
}

/// As above, for the walsender's half: we decode records in its turns, and it must note them. There
/// is no applier here, whose reports would give it something else to note.
#[test]
fn a_source_that_shuts_down_has_noted_all_that_it_sent() {
    let mut pair = started();
    pair.replicate("t");
    let received = pair.source_cluster.folder().join("received");
    let mut client = Command::new(server_programs().join("pg_recvlogical"))
        .args(["-d", &pair.source_cluster.conninfo("shop", "postgres")])
        .args(["--slot=trem_t", "--start", "--no-loop", "--status-interval=1"])
        .args(["--fsync-interval=1", "-o", "task=t", "-o", "definition_version=1"])
        .args(["-o", "proto_version=1", "-o", "compression=none", "-f"])
        .arg(&received)
        .spawn()
        .expect("to start pg_recvlogical");
    let sent = || std::fs::metadata(&received).map_or(0, |file| file.len());
    let value = "what is sent in one turn";
    pair.source.exec(&format!("UPDATE item SET v = '{value}'"));
    wait_for("the change to be sent", || sent() > 100 * value.len() as u64);
    pair.source_cluster.stop();
    client.wait().expect("the end of pg_recvlogical");
    pair.source_cluster.start();
}

#[test]
fn a_crash_of_the_source_is_survived() {
    check_goes_on(|pair| {
        pair.source_cluster.crash();
        pair.source_cluster.start();
    });
}

#[test]
fn a_restart_of_the_target_is_survived() {
    check_goes_on(|pair| pair.target_cluster.restart());
}

#[test]
fn a_crash_of_the_target_is_survived() {
    check_goes_on(|pair| {
        pair.target_cluster.crash();
        pair.target_cluster.start();
    });
}

const WAITS_FOR_LOCK: &str = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted";

/// A service that follows, and cannot apply what comes: the table on the target is locked until
/// the session that is returned is dropped.
fn standing_still(pair: &mut Pair, rows: u32) -> (Applier, Database) {
    let applier = pair.applier("t");
    pair.wait_for_phase("t", "cdc");
    let mut lock = pair.target_cluster.connect("warehouse");
    lock.exec("BEGIN; LOCK TABLE item");
    pair.source.exec(&format!(
        "INSERT INTO item SELECT 1000 + n, repeat(md5(n::text), 32)
         FROM generate_series(1, {rows}) n"
    ));
    wait_for("the applier to wait for the lock", || pair.target.holds(WAITS_FOR_LOCK));
    (applier, lock)
}

#[track_caller]
fn check_goes_on_after(lock: Database, pair: &mut Pair, applier: &mut Applier) {
    drop(lock);
    pair.catch_up("t", applier);
    applier.terminate();
    pair.assert_same_table("public.item");
}

/// More comes than the applier keeps in memory, so that it reads nothing more from its stream; yet
/// the source must hear from it.
#[test]
fn a_target_that_stands_still_for_long_keeps_its_stream() {
    let mut pair = Pair::with_settings(&[("wal_sender_timeout", "4s")], &[]);
    pair.source.exec(ITEM);
    pair.create_task("t", &["public.item"]);
    pair.start_task("t");
    let (mut applier, lock) = standing_still(&mut pair, 100_000);
    let sender = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'trem_t'";
    let serves = pair.source.text(sender);
    let now = pair.source.text("SELECT clock_timestamp()");
    let later = format!(
        "SELECT reply_time > '{now}'::timestamptz + interval '8 s' FROM pg_stat_replication"
    );
    let source = &mut pair.source;
    wait_for("a reply much later", || source.holds(&later));
    assert_eq!(pair.source.text(sender), serves);
    check_goes_on_after(lock, &mut pair, &mut applier);
}

#[test]
fn a_stop_does_not_wait_for_a_target_that_stands_still() {
    let mut pair = started();
    let (mut applier, lock) = standing_still(&mut pair, 1000);
    applier.terminate();
    assert!(pair.target.holds(WAITS_FOR_LOCK));
    drop(lock);
    pair.replicate("t");
    pair.assert_same_table("public.item");
}

/// It was started while its worker was still about to stop, and nobody looked again.
#[test]
fn a_task_that_is_stopped_and_started_again_at_once_goes_on() {
    let mut pair = started();
    let (mut applier, lock) = standing_still(&mut pair, 1000);
    pair.call(&["stop_task('t')"]);
    applier.wait_for_log("stopping");
    pair.call(&["start_task('t')"]);
    check_goes_on_after(lock, &mut pair, &mut applier);
}

#[test]
fn a_task_whose_target_stands_still_gives_up_its_slot_when_it_keeps_too_much_wal() {
    let mut pair = started_with(r#"{"wal_keep_bytes": 1000000}"#);
    pair.expect_log("wal_keep_bytes");
    let (mut applier, _lock) = standing_still(&mut pair, 50_000);
    let message = pair.wait_for_error("t");
    assert!(message.contains("wal_keep_bytes (1000000)"), "{message}");
    assert_eq!(pair.source.number("SELECT count(*) FROM pg_replication_slots"), 0);
    applier.terminate();
    pair.refuse("t", &["slot", "reload"]);
}

/// The applier has read a definition and is about to open the stream with it: the source refuses,
/// and the session of the target must then make the table that came with the newer one. It was
/// read only by then.
#[test]
fn a_definition_published_while_the_stream_is_opened_takes_effect() {
    let mut pair = started();
    pair.replicate("t");
    let mut lock = pair.target_cluster.connect("warehouse");
    lock.exec("BEGIN; LOCK TABLE trem_target.progress IN SHARE MODE");
    let mut applier = pair.applier("t");
    wait_for("the applier to wait for the lock", || pair.target.holds(WAITS_FOR_LOCK));
    pair.source.exec("CREATE TABLE more (id int PRIMARY KEY); INSERT INTO more VALUES (1), (2)");
    pair.source.exec("SELECT trem.add_table('t', 'public.more')");
    pair.start_task("t");
    check_goes_on_after(lock, &mut pair, &mut applier);
    pair.assert_same_table("public.more");
}

fn cut(cluster: &Cluster, dbname: &str) {
    cluster.connect(dbname).exec(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name LIKE 'trem%' AND application_name <> 'trem_tests'",
    );
}

#[test]
fn connections_cut_on_either_side_are_survived() {
    check_goes_on(|pair| {
        cut(&pair.source_cluster, "shop");
        pair.source.exec("UPDATE item SET v = 'between'");
        cut(&pair.target_cluster, "warehouse");
    });
}

#[test]
fn a_definition_changed_while_running_takes_effect() {
    let mut pair = started();
    let mut applier = serving(&mut pair);
    pair.source.exec("CREATE TABLE more (id int PRIMARY KEY); INSERT INTO more VALUES (1), (2)");
    pair.source.exec("SELECT trem.add_table('t', 'public.more')");
    pair.start_task("t");
    pair.source.exec("INSERT INTO more VALUES (3); DELETE FROM item WHERE id < 50");
    let target = &mut pair.target;
    wait_for("the added table to be loaded", || {
        let loaded = "SELECT count(*) = 2 FROM trem_target.table_state WHERE state = 'live'";
        target.holds(loaded)
    });
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same_table("public.item");
    pair.assert_same_table("public.more");
}

#[test]
fn a_table_removed_while_running_is_no_longer_followed() {
    let mut pair = Pair::new();
    pair.source.exec(ITEM);
    pair.source.exec("CREATE TABLE more (id int PRIMARY KEY); INSERT INTO more VALUES (1), (2)");
    pair.create_task("t", &["public.item", "public.more"]);
    pair.start_task("t");
    let mut applier = serving(&mut pair);
    pair.source.exec("SELECT trem.remove_table('t', 'public.more'); SELECT trem.start_task('t')");
    pair.source.exec("INSERT INTO more VALUES (3); DELETE FROM item WHERE id < 50");
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same_table("public.item");
    assert_eq!(pair.target.number("SELECT count(*) FROM more"), 2);
}

#[test]
fn a_table_reloaded_while_running_is_copied_again() {
    let mut pair = started();
    let mut applier = serving(&mut pair);
    pair.target.exec("DELETE FROM item WHERE id > 50; UPDATE item SET v = 'spoiled'");
    pair.source.exec("SELECT trem.reload_table('t', 'public.item')");
    pair.source.exec("DELETE FROM item WHERE id < 10");
    let target = &mut pair.target;
    wait_for("the table to be loaded again", || target.holds("SELECT count(*) > 50 FROM item"));
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same_table("public.item");
}

/// DDL is not followed yet: the task stops at that place and says so.
#[track_caller]
fn check_ddl(ddl: &str) {
    let mut pair = started();
    let mut applier = serving(&mut pair);
    pair.source.exec("UPDATE item SET v = 'before the change'");
    pair.catch_up("t", &mut applier);
    pair.source.exec(&format!("{ddl}; DELETE FROM item WHERE id < 50"));
    let error = pair.wait_for_error("t");
    assert!(error.contains("item"), "{error}");
    assert!(error.contains("trem.start_task") || error.contains("trem.reload_table"), "{error}");
    assert_eq!(pair.target.number("SELECT count(*) FROM item"), 100, "nothing is half done");
    assert!(applier.ended().is_none(), "the service stays");
    applier.terminate();
}

#[test]
fn an_added_column_stops_the_task_with_its_remedy() {
    check_ddl("ALTER TABLE item ADD COLUMN w int");
}

#[test]
fn a_dropped_column_stops_the_task_with_its_remedy() {
    // The view through which the applier reads depends on the column.
    check_ddl("ALTER TABLE item DROP COLUMN v");
}

#[test]
fn a_renamed_column_stops_the_task_with_its_remedy() {
    check_ddl("ALTER TABLE item RENAME COLUMN v TO w");
}

#[test]
fn a_changed_type_stops_the_task_with_its_remedy() {
    check_ddl("ALTER TABLE item ALTER COLUMN v TYPE varchar(20)");
}

#[test]
fn a_change_without_key_stops_the_task_with_its_remedy() {
    let mut pair = Pair::new();
    pair.source.exec("CREATE TABLE item (id int, v text); INSERT INTO item VALUES (1, 'v')");
    pair.create_task("t", &["public.item"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.source.exec("UPDATE item SET v = 'new'");
    pair.refuse("t", &["item", "REPLICA IDENTITY FULL"]);
    assert_eq!(pair.target.text("SELECT v FROM item"), "v");
}

#[test]
fn a_row_that_the_target_refuses_stops_the_task_without_showing_it() {
    let mut pair = started();
    pair.replicate("t");
    pair.target.exec("ALTER TABLE item ADD CHECK (v <> 'classified')");
    pair.source
        .exec("UPDATE item SET v = 'classified' WHERE id = 5; DELETE FROM item WHERE id = 6");
    let outcome = pair.refuse("t", &["item"]);
    assert!(!outcome.log.contains("classified"), "{}", outcome.log);
    assert_eq!(pair.target.number("SELECT count(*) FROM item"), 100, "nothing is half done");
    pair.target.exec("ALTER TABLE item DROP CONSTRAINT item_v_check");
    pair.replicate("t");
    pair.assert_same_table("public.item");
}
