//! Nothing is lost and nothing comes twice, whatever dies and whenever; and when source and target
//! do not belong together any more, it is noticed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use trem_tests::{wait_for, Database, Pair, Random};

const ACCOUNTS: u64 = 200;
const TOTAL: i64 = 200_000;

/// Moves money between accounts, transaction by transaction, until it is told to stop.
struct Bank {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bank {
    fn open(pair: &mut Pair) {
        // The log is long enough for a kill to meet its copy.
        pair.source.exec(
            "CREATE SCHEMA bank;
             CREATE TABLE bank.account (id int PRIMARY KEY, balance bigint NOT NULL);
             CREATE TABLE bank.transfer (id bigint PRIMARY KEY, payer int, payee int, amount bigint,
                 note text);
             INSERT INTO bank.account SELECT n, 1000 FROM generate_series(1, 200) n;
             INSERT INTO bank.transfer SELECT -n, 1, 1, 0, repeat(md5(n::text), 8)
             FROM generate_series(1, 100000) n",
        );
    }

    fn start(session: Database, random: Random) -> Self {
        let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (done, stop) = (done.clone(), stop.clone());
            std::thread::spawn(move || work(session, random, &done, &stop))
        };
        Bank { done, stop, thread: Some(thread) }
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    fn close(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("closed once").join().expect("the bank's work succeeds");
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn work(mut session: Database, mut random: Random, done: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let id = done.load(Ordering::Relaxed) + 1;
        session.exec(&transfer(id, &mut random));
        done.store(id, Ordering::Relaxed);
    }
}

/// One transaction: it moves an amount; sometimes it changes its mind on the way.
fn transfer(id: u64, random: &mut Random) -> String {
    let (payer, payee) = (random.below(ACCOUNTS) + 1, random.below(ACCOUNTS) + 1);
    let amount = random.below(100);
    let change_of_mind = "SAVEPOINT s; UPDATE bank.account SET balance = 0; ROLLBACK TO s;";
    let undone = if random.below(10) == 0 { change_of_mind } else { "" };
    let end = if random.below(20) == 0 { "ROLLBACK" } else { "COMMIT" };
    format!(
        "BEGIN; UPDATE bank.account SET balance = balance - {amount} WHERE id = {payer}; {undone}
         UPDATE bank.account SET balance = balance + {amount} WHERE id = {payee};
         INSERT INTO bank.transfer VALUES ({id}, {payer}, {payee}, {amount}, 'moved'); {end}"
    )
}

/// Looks at the target until it is told to stop: once the accounts are live, their total is always
/// the same. Gives the number of looks that saw them.
fn watch(mut session: Database, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    let live = "SELECT EXISTS (SELECT FROM trem_target.table_state
                WHERE target_name = 'account' AND state = 'live')";
    std::thread::spawn(move || {
        let mut looks = 0;
        while !stop.load(Ordering::Relaxed) {
            // Before its first start there are no such tables.
            let is_live =
                session.try_rows(live).is_ok_and(|rows| rows[0][0].as_deref() == Some("t"));
            if is_live {
                let total = session.number("SELECT sum(balance) FROM bank.account");
                assert_eq!(total, TOTAL, "half a transaction was visible on the target");
                looks += 1;
            }
        }
        looks
    })
}

fn assert_bank_is_the_same(pair: &mut Pair) {
    pair.assert_same_table("bank.account");
    pair.assert_same_table("bank.transfer");
    assert_eq!(pair.target.number("SELECT sum(balance) FROM bank.account"), TOTAL);
}

/// Allowed after a kill: what the dead one held may not be free at once.
const AFTER_A_KILL: [&str; 4] = ["is active for PID", "is taken", "orphan", "without progress"];

#[test]
fn money_stays_constant_while_the_applier_is_killed_at_25_random_moments() {
    let mut pair = Pair::new();
    let mut random = Random::new();
    Bank::open(&mut pair);
    pair.create_task("bank", &["bank.*"]);
    pair.start_task("bank");
    AFTER_A_KILL.iter().for_each(|part| pair.expect_log(part));

    let stop = Arc::new(AtomicBool::new(false));
    let watcher = watch(pair.target_cluster.connect("warehouse"), stop.clone());
    let bank = Bank::start(pair.source_cluster.connect("shop"), Random::new());
    for kill in 0..25 {
        let mut applier = pair.applier("bank");
        // The moment is that of a random transfer: sometimes at once, sometimes well into CDC.
        let goal = bank.done() + 1 + random.below([100, 1000, 4000][kill % 3]);
        wait_for("transfers", || bank.done() >= goal || applier.ended().is_some());
        assert!(applier.ended().is_none(), "it ended by itself:\n{}", applier.log());
        applier.kill();
    }
    let mut applier = pair.applier("bank");
    pair.wait_for_phase("bank", "cdc");
    let goal = bank.done() + 500;
    wait_for("transfers during CDC", || bank.done() >= goal);
    bank.close();
    pair.catch_up("bank", &mut applier);
    applier.terminate();
    stop.store(true, Ordering::Relaxed);
    let looks = watcher.join().expect("the total was constant");
    assert!(looks > 0, "nobody looked while it ran");
    assert_bank_is_the_same(&mut pair);
}

#[test]
fn the_applier_goes_on_after_source_and_target_crash() {
    let mut pair = Pair::with_settings(&[("fsync", "on")], &[("fsync", "on")]);
    Bank::open(&mut pair);
    pair.create_task("bank", &["bank.*"]);
    pair.start_task("bank");
    pair.expect_log("");
    let mut applier = pair.applier("bank");
    pair.catch_up("bank", &mut applier);
    for _ in 0..3 {
        let mut random = Random::new();
        let last = pair.source.number("SELECT greatest(max(id), 0) FROM bank.transfer") as u64;
        for id in last + 1..=last + 200 {
            pair.source.exec(&transfer(id, &mut random));
        }
        pair.target_cluster.crash();
        pair.target_cluster.start();
        pair.source_cluster.crash();
        pair.source_cluster.start();
        pair.reconnect();
    }
    pair.catch_up("bank", &mut applier);
    applier.terminate();
    assert_bank_is_the_same(&mut pair);
}

fn following() -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(
        "CREATE TABLE item (id int PRIMARY KEY, v text);
        INSERT INTO item SELECT n, 'v' FROM generate_series(1, 100) n",
    );
    pair.create_task("t", &["public.item"]);
    pair.start_task("t");
    pair.replicate("t");
    pair
}

/// After the remedy that every such message names.
fn reload(pair: &mut Pair) {
    pair.source.exec("SELECT trem.reload_table('t', 'public.item'); SELECT trem.start_task('t')");
    pair.replicate("t");
    pair.assert_same_table("public.item");
}

#[test]
fn a_slot_advanced_behind_the_appliers_back_is_noticed() {
    let mut pair = following();
    pair.source.exec("DELETE FROM item WHERE id < 50");
    pair.source.exec("SELECT pg_replication_slot_advance('trem_t', pg_current_wal_lsn())");
    pair.refuse("t", &["trem_t", "trem.reload_table"]);
    assert_eq!(pair.target.number("SELECT count(*) FROM item"), 100, "nothing is half done");
    reload(&mut pair);
}

#[test]
fn a_target_restored_to_an_older_state_is_noticed() {
    let mut pair = following();
    pair.target_cluster.save();
    pair.reconnect();
    pair.follow("t", |source| source.exec("DELETE FROM item WHERE id < 50"));
    pair.target_cluster.restore();
    pair.reconnect();
    assert_eq!(pair.target.number("SELECT count(*) FROM item"), 100);
    pair.refuse("t", &["trem_t", "trem.reload_table"]);
    reload(&mut pair);
}

#[test]
fn a_slot_that_is_gone_is_noticed() {
    let mut pair = following();
    pair.source.exec("SELECT pg_drop_replication_slot('trem_t'); DELETE FROM item WHERE id < 50");
    pair.refuse("t", &["trem_t", "trem.reload_table"]);
    assert_eq!(pair.target.number("SELECT count(*) FROM item"), 100, "nothing is half done");
    reload(&mut pair);
}

#[test]
fn a_slot_left_over_without_progress_is_dropped() {
    let mut pair = following();
    pair.target.exec("DROP SCHEMA trem_target CASCADE; DROP TABLE item");
    pair.expect_log("trem_t");
    pair.replicate("t");
    pair.assert_same_table("public.item");
}

#[test]
fn a_second_applier_waits_and_says_that_the_task_is_taken() {
    let mut pair = following();
    AFTER_A_KILL.iter().for_each(|part| pair.expect_log(part));
    let mut first = pair.applier("t");
    pair.catch_up("t", &mut first);
    let mut second = pair.applier("t");
    second.wait_for_log("taken");
    pair.source.exec("DELETE FROM item WHERE id < 10");
    pair.catch_up("t", &mut first);
    assert!(second.ended().is_none(), "the second one waits");
    first.kill();
    pair.source.exec("DELETE FROM item WHERE id < 20");
    pair.catch_up("t", &mut second);
    second.terminate();
    pair.assert_same_table("public.item");
}

#[test]
fn the_slot_is_never_confirmed_past_what_the_target_has_applied() {
    let mut pair = following();
    let mut applier = pair.applier("t");
    for n in 0..50 {
        pair.source.exec(&format!("UPDATE item SET v = '{n}'"));
        // Confirmed first: it may only grow until the other is read.
        let confirmed = pair.source.text(
            "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'trem_t'",
        );
        let behind = format!("SELECT applied_lsn >= '{confirmed}' FROM trem_target.progress");
        assert!(pair.target.holds(&behind), "confirmed {confirmed}");
    }
    pair.catch_up("t", &mut applier);
    applier.terminate();
}

#[test]
fn an_idle_task_lets_the_source_remove_its_wal() {
    let mut pair = following();
    let applier = pair.applier("t");
    pair.source.exec("CREATE TABLE elsewhere (v text)");
    let written = pair.source.text("SELECT pg_current_wal_lsn()");
    pair.source.exec("INSERT INTO elsewhere SELECT md5(n::text) FROM generate_series(1, 50000) n");
    let source = &mut pair.source;
    wait_for("the slot to move past changes of other tables", || {
        source.holds(&format!("SELECT confirmed_flush_lsn > '{written}' FROM pg_replication_slots"))
    });
    let mut applier = applier;
    applier.terminate();
}
