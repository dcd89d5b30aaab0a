//! Very many rows that cannot be computed are no burden: they are left out and recorded, memory
//! stays flat, and the sender of the stream obeys.

use trem_tests::{wait_for, Pair};

/// Three rows of ten fail.
const FILL: &str = "INSERT INTO item SELECT n, CASE WHEN n % 10 < 3 THEN 0 ELSE n END, md5(n::text)
    FROM generate_series(1, 200000) n";

const ON_SOURCE: &str = "SELECT id, 1000000 / v, name FROM item WHERE v <> 0";
const ON_TARGET: &str = "SELECT * FROM item";

fn drafted() -> Pair {
    let mut pair = Pair::new();
    pair.source.exec("CREATE TABLE item (id int PRIMARY KEY, v int, name text)");
    let options = r#"{"on_error": "skip_row"}"#;
    pair.create_task_with("t", &["public.item"], "full_load_and_cdc", options);
    pair.call(&["set_value('t', 'public.item', 'v', '1000000 / v')"]);
    pair
}

fn check_contents(pair: &mut Pair) {
    pair.assert_same(ON_SOURCE, ON_TARGET);
    let keys = "SELECT format('(%s)', id) FROM item WHERE v = 0";
    pair.assert_same(keys, "SELECT key FROM trem_target.exception");
    let told = "SELECT count(*) FROM trem.exception WHERE sqlstate = '22012'";
    assert_eq!(pair.source.number(told), 60_000);
}

/// Memory of a process that is its own, in kB.
fn memory(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("RssAnon")).expect("its memory");
    let number = line.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    number.expect("a number")
}

#[test]
fn a_copy_of_200_000_rows_leaves_60_000_out() {
    let mut pair = drafted();
    pair.source.exec(FILL);
    pair.start_task("t");
    pair.replicate("t");
    check_contents(&mut pair);
}

#[test]
fn a_stream_of_200_000_rows_leaves_60_000_out() {
    let mut pair = drafted();
    pair.start_task("t");
    let mut applier = pair.applier("t");
    pair.wait_for_phase("t", "cdc");
    pair.catch_up("t", &mut applier);
    let sender = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'trem_t'";
    let sender = pair.source.text(sender);
    let before = memory(&sender);
    pair.source.exec(FILL);
    pair.catch_up("t", &mut applier);
    // What one row takes is at least some hundred bytes: nothing is kept of 60,000.
    let after = memory(&sender);
    assert!(after < before + 20_000, "memory grew from {before} kB to {after} kB");
    applier.terminate();
    check_contents(&mut pair);
}

#[test]
fn the_sender_can_be_ended_while_rows_fail() {
    let mut pair = drafted();
    pair.start_task("t");
    let mut applier = pair.applier("t");
    pair.wait_for_phase("t", "cdc");
    pair.catch_up("t", &mut applier);
    pair.expect_log("");
    let from = pair.source.text("SELECT pg_current_wal_insert_lsn()");
    pair.source.exec(FILL);
    let sent = format!(
        "SELECT pid FROM pg_stat_replication JOIN pg_replication_slots ON active_pid = pid
         WHERE slot_name = 'trem_t' AND sent_lsn > '{from}'"
    );
    let source = &mut pair.source;
    wait_for("the stream to flow", || source.value(&sent).is_some());
    let ended = format!("SELECT bool_and(pg_terminate_backend(pid, 10000)) FROM ({sent}) s");
    assert!(pair.source.holds(&ended), "it ends within ten seconds");
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.replicate("t");
    check_contents(&mut pair);
}
