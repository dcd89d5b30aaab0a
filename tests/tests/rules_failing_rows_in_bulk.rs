//! Very many rows that cannot be computed are no burden: they are left out and recorded, memory
//! stays flat, and the sender of the stream obeys.

use trem_tests::{wait_for, Applier, Pair};

const ON_SOURCE: &str = "SELECT id, 1000000 / v, name FROM item WHERE v <> 0";
const ON_TARGET: &str = "SELECT * FROM item";

/// A transaction of the source that is larger goes to its disk: what its sender keeps of it in
/// memory is none of ours.
const SMALL_BUFFER: (&str, &str) = ("logical_decoding_work_mem", "'1MB'");

/// Three rows of ten fail.
fn fill(rows: std::ops::RangeInclusive<u32>) -> String {
    format!(
        "INSERT INTO item SELECT n, CASE WHEN n % 10 < 3 THEN 0 ELSE n END, md5(n::text)
         FROM generate_series({}, {}) n",
        rows.start(),
        rows.end()
    )
}

fn drafted() -> Pair {
    let mut pair = Pair::with_settings(&[SMALL_BUFFER], &[]);
    pair.source.exec("CREATE TABLE item (id int PRIMARY KEY, v int, name text)");
    let options = r#"{"on_error": "skip_row"}"#;
    pair.create_task_with("t", &["public.item"], "full_load_and_cdc", options);
    pair.call(&["set_value('t', 'public.item', 'v', '1000000 / v')"]);
    pair
}

fn following() -> (Pair, Applier) {
    let mut pair = drafted();
    pair.start_task("t");
    let mut applier = pair.applier("t");
    pair.wait_for_phase("t", "cdc");
    pair.catch_up("t", &mut applier);
    (pair, applier)
}

fn check_contents(pair: &mut Pair, failed: i64) {
    pair.assert_same(ON_SOURCE, ON_TARGET);
    let keys = "SELECT format('(%s)', id) FROM item WHERE v = 0";
    pair.assert_same(keys, "SELECT key FROM trem_target.exception");
    let told = "SELECT count(*) FROM trem.exception WHERE sqlstate = '22012'";
    assert_eq!(pair.source.number(told), failed);
    assert_eq!(pair.conflicts(), 0);
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
    pair.source.exec(&fill(1..=200_000));
    pair.start_task("t");
    pair.replicate("t");
    check_contents(&mut pair, 60_000);
}

#[test]
fn a_stream_of_1_000_000_rows_leaves_300_000_out_and_memory_stays_flat() {
    let (mut pair, mut applier) = following();
    let sender = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'trem_t'";
    let backend = "SELECT pid FROM pg_stat_activity WHERE application_name = 'trem:t:apply'";
    let processes = [
        ("the sender", pair.source.text(sender)),
        ("the target's backend", pair.target.text(backend)),
        ("the applier", applier.pid().to_string()),
    ];
    let measure = || processes.iter().map(|(_, pid)| memory(pid)).collect::<Vec<_>>();
    pair.source.exec(&fill(1..=200_000));
    pair.catch_up("t", &mut applier);
    let before = measure();
    pair.source.exec(&fill(200_001..=1_000_000));
    pair.catch_up("t", &mut applier);
    // Of 240,000 more rows nothing is kept; one alone would take some hundred bytes.
    for ((name, _), (before, after)) in processes.iter().zip(before.into_iter().zip(measure())) {
        assert!(after < before + 10_000, "{name}: memory grew from {before} kB to {after} kB");
        println!("{name}: {before} kB, {after} kB");
    }
    // A stop does not wait until the source was told of all of them.
    let source = &mut pair.source;
    wait_for("the source to be told of each row", || {
        source.number("SELECT count(*) FROM trem.exception") == 300_000
    });
    applier.terminate();
    check_contents(&mut pair, 300_000);
}

/// The stream is opened again, to go through the transaction one by one, while its sender is still
/// busy with the rest of it.
#[test]
fn a_row_that_fails_early_in_a_large_transaction_stops_the_task() {
    let mut pair = Pair::with_settings(&[SMALL_BUFFER], &[]);
    pair.source.exec("CREATE TABLE item (id int PRIMARY KEY, v int, name text)");
    pair.create_task("t", &["public.item"]);
    pair.call(&["set_value('t', 'public.item', 'v', '1000000 / v')"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.source.exec("INSERT INTO item VALUES (0, 1, 'before')");
    pair.source
        .exec("INSERT INTO item SELECT n, n - 10, md5(n::text) FROM generate_series(1, 500000) n");
    pair.refuse("t", &["transaction at", "item", "22012", "skip_row"]);
    assert_eq!(pair.target.text("SELECT string_agg(name, ' ') FROM item"), "before");
}

#[test]
fn the_sender_can_be_ended_while_rows_fail() {
    let (mut pair, mut applier) = following();
    pair.expect_log("");
    let from = pair.source.text("SELECT pg_current_wal_insert_lsn()");
    pair.source.exec(&fill(1..=200_000));
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
    check_contents(&mut pair, 60_000);
}
