//! A row that the stream cannot give whole is read again from the source. What is read may be older
//! than the change (a commit is streamed before it is visible) or newer.

use std::thread::{self, JoinHandle};

use trem_tests::{noise, wait_for, Applier, Pair};

const RULES: [&str; 2] = [
    // Not an AND, which `v` alone could settle.
    "set_filter('t', 'public.doc', 'CASE WHEN large > $$0$$ THEN v > 3 END')",
    "add_column('t', 'public.doc', 'mixed', 'text', 'v || left(large, 8)')",
];

const ON_SOURCE: &str = "SELECT *, v || left(large, 8) FROM doc WHERE v > 3 AND large > '0'";
const ON_TARGET: &str = "SELECT * FROM doc";

/// Rows 1 to 10 with a large value; the even ones match the filter.
fn copied(pair: &mut Pair) {
    pair.source.exec(
        "CREATE TABLE doc (id int PRIMARY KEY, v int, u int, large text);
         CREATE UNIQUE INDEX doc_u ON doc (u); CREATE TABLE filler (id int PRIMARY KEY,
         large text)",
    );
    fill(pair);
    pair.create_task("t", &["public.doc", "public.filler"]);
    pair.call(&RULES);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same(ON_SOURCE, ON_TARGET);
}

fn fill(pair: &mut Pair) {
    pair.source.exec(&format!(
        "INSERT INTO doc SELECT n, CASE n % 2 WHEN 0 THEN 5 ELSE 1 END, n, {}
         FROM generate_series(1, 10) n",
        noise("n")
    ));
}

/// Enough changes to end a group: what comes after them is applied after its rows are read again.
fn end_group(pair: &mut Pair) {
    pair.source.exec(&format!(
        "INSERT INTO filler SELECT n + coalesce((SELECT max(id) FROM filler), 0), {}
         FROM generate_series(1, 100) n",
        noise("n")
    ));
}

/// Statements that commit, and are not visible before the standby that nobody is has confirmed.
struct Pending {
    writer: JoinHandle<()>,
}

impl Pending {
    fn write(pair: &mut Pair, sql: &str) -> Self {
        let mut session = pair.source_cluster.connect("shop");
        let sql = sql.to_owned();
        let writer = thread::spawn(move || {
            session.exec("SET application_name = 'pending'; SET synchronous_commit = on");
            session.exec(&sql);
        });
        let source = &mut pair.source;
        wait_for("a commit to wait for its standby", || {
            source.holds(
                "SELECT EXISTS (SELECT FROM pg_stat_activity
                     WHERE application_name = 'pending' AND wait_event = 'SyncRep')",
            )
        });
        Pending { writer }
    }

    /// Nobody is waited for any more.
    fn release(self, pair: &Pair) {
        pair.source_cluster.configure(&[("synchronous_standby_names", "''")]);
        pair.source_cluster.reload();
        self.writer.join().expect("the writer ends");
    }
}

/// Sees the applier look for the transaction several times, in vain.
fn see_it_wait(pair: &mut Pair) {
    let looks = "SELECT xact_start FROM pg_stat_activity
        WHERE application_name = 'trem:t:reread' AND xact_start IS NOT NULL";
    let mut seen = std::collections::BTreeSet::new();
    let source = &mut pair.source;
    wait_for("the applier to look again and again", || {
        // A snapshot of the statistics is kept only within a transaction.
        seen.extend(source.value(looks));
        seen.len() > 10
    });
}

/// Follows a source where whoever asks for it waits for a standby that nobody is.
fn following_without_standby() -> (Pair, Applier) {
    // Only the writer waits for standbys: what TREM writes on the source is not the matter here.
    let mut pair = Pair::with_settings(&[("synchronous_commit", "local")], &[]);
    copied(&mut pair);
    pair.source_cluster.configure(&[("synchronous_standby_names", "'nobody'")]);
    pair.source_cluster.reload();
    wait_for("the setting", || pair.source.text("SHOW synchronous_standby_names") == "nobody");
    let applier = pair.applier("t");
    pair.wait_for_phase("t", "cdc");
    (pair, applier)
}

/// A change that needs rows to be read again, which the source does not show yet.
#[track_caller]
fn check_pending(sql: &str) {
    let (mut pair, mut applier) = following_without_standby();
    let before = pair.target.rows("SELECT id, v, mixed FROM doc ORDER BY id");
    let pending = Pending::write(&mut pair, sql);
    see_it_wait(&mut pair);
    let during = pair.target.rows("SELECT id, v, mixed FROM doc ORDER BY id");
    assert_eq!(during, before, "the target is not ahead of what the source shows");
    pair.assert_same(ON_SOURCE, ON_TARGET);
    pending.release(&pair);
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same(ON_SOURCE, ON_TARGET);
}

/// A stream ends at a publish that is in the WAL. While nobody could see it the applier came back
/// with the old definition, met the publish, and came back, without a pause.
#[test]
fn a_publish_that_nobody_sees_yet_is_waited_for() {
    let (mut pair, mut applier) = following_without_standby();
    pair.call(&["set_value('t', 'public.doc', 'u', '-u')"]);
    let pending = Pending::write(&mut pair, "SELECT trem.start_task('t', keep => true)");
    pair.source.exec(&format!("INSERT INTO doc VALUES (12, 12, 12, {})", noise("12")));
    applier.wait_for_log("the definition changed");
    let looks = "SELECT query_start FROM pg_stat_activity
        WHERE application_name = 'trem:t:control'";
    let mut seen = std::collections::BTreeSet::new();
    wait_for("the applier to look for it again", || {
        seen.extend(pair.source.value(looks));
        seen.len() > 2
    });
    pending.release(&pair);
    pair.catch_up("t", &mut applier);
    applier.terminate();
    assert_eq!(applier.log().matches("the definition changed").count(), 1);
    pair.assert_same(
        "SELECT id, v, CASE id WHEN 12 THEN -u ELSE u END, large, v || left(large, 8)
         FROM doc WHERE v > 3 AND large > '0'",
        ON_TARGET,
    );
}

#[test]
fn a_row_that_enters_the_filter_waits_until_the_source_shows_it() {
    check_pending("UPDATE doc SET v = 9 WHERE id = 3");
}

#[test]
fn a_row_that_leaves_the_filter_stays_until_the_source_shows_it() {
    check_pending("UPDATE doc SET v = v - 4 WHERE id IN (4, 6)");
}

#[test]
fn a_key_that_changes_waits_until_the_source_shows_it() {
    check_pending("UPDATE doc SET id = id + 100, v = 8 WHERE id IN (1, 2)");
}

#[test]
fn rows_of_several_changes_wait_for_all_of_them() {
    check_pending(
        "BEGIN; UPDATE doc SET v = 7 WHERE id <= 4; UPDATE doc SET id = 1000 WHERE id = 1;
         UPDATE doc SET v = v + 1; COMMIT",
    );
}

/// A re-read at the end of a group sees what later groups bring, which then meets rows that are
/// there already, or gone.
#[track_caller]
fn check_later(asks: &str, later: &[&str]) {
    let mut pair = Pair::new();
    copied(&mut pair);
    pair.source.exec(asks);
    end_group(&mut pair);
    for sql in later {
        pair.source.exec(sql);
    }
    end_group(&mut pair);
    pair.replicate("t");
    pair.assert_same(ON_SOURCE, ON_TARGET);
    pair.assert_same_table("filler");
    // The same, met as it happens.
    pair.source.exec("TRUNCATE doc");
    fill(&mut pair);
    pair.replicate("t");
    pair.follow("t", |source| {
        source.exec(asks);
        later.iter().for_each(|sql| source.exec(sql));
    });
    pair.assert_same(ON_SOURCE, ON_TARGET);
}

#[test]
fn a_row_read_again_may_be_gone_already() {
    check_later("UPDATE doc SET v = v + 1 WHERE id <= 6", &["DELETE FROM doc WHERE id IN (2, 4)"]);
}

#[test]
fn a_row_read_again_may_be_deleted_and_made_anew_later() {
    check_later(
        "UPDATE doc SET v = v + 1 WHERE id = 2",
        &["DELETE FROM doc WHERE id = 2", "INSERT INTO doc VALUES (2, 8, 2, 'anew')"],
    );
}

#[test]
fn a_row_read_again_may_have_another_key_already() {
    check_later(
        "UPDATE doc SET v = v + 1 WHERE id IN (2, 3, 4)",
        &[
            "UPDATE doc SET id = id + 100 WHERE id IN (2, 3)",
            "UPDATE doc SET id = 2 WHERE id = 4",
            "UPDATE doc SET v = 9 WHERE id = 103",
        ],
    );
}

#[test]
fn a_row_read_again_may_have_left_the_filter_already_and_come_back() {
    check_later(
        "UPDATE doc SET v = v + 1 WHERE id = 2",
        &["UPDATE doc SET v = 1 WHERE id = 2", "UPDATE doc SET v = 9, u = 50 WHERE id = 2"],
    );
}

/// What is read again holds the value already, while another row of the target holds it still.
#[test]
fn a_unique_value_is_handed_from_row_to_row_around_a_re_read() {
    check_later(
        "UPDATE doc SET v = v + 1 WHERE id IN (2, 4)",
        &[
            "BEGIN; UPDATE doc SET u = -2 WHERE id = 2; UPDATE doc SET u = 2 WHERE id = 4; COMMIT",
            "BEGIN; UPDATE doc SET u = -6 WHERE id = 6; UPDATE doc SET u = 6 WHERE id = 2; COMMIT",
            "BEGIN; DELETE FROM doc WHERE id = 8; UPDATE doc SET u = 8 WHERE id = 6; COMMIT",
            "UPDATE doc SET u = 4 WHERE id = 6",
        ],
    );
}

/// The row that was at the key before is no source of the large value of the row that moves there.
#[test]
fn a_key_is_given_to_another_row_with_its_large_value_unchanged() {
    check_later(
        "UPDATE doc SET v = v + 1 WHERE id IN (2, 4, 6)",
        &[
            "BEGIN; UPDATE doc SET id = 20 WHERE id = 2; UPDATE doc SET id = 2 WHERE id = 4;
             UPDATE doc SET id = 4 WHERE id = 20; COMMIT",
            "DELETE FROM doc WHERE id = 6",
            "UPDATE doc SET id = 6, v = 5 WHERE id = 2",
            "INSERT INTO doc VALUES (2, 6, 2000, 'new')",
        ],
    );
}

#[test]
fn a_row_made_and_deleted_in_one_group_is_not_there() {
    check_later(
        "BEGIN; UPDATE doc SET v = v + 1 WHERE id = 2; INSERT INTO doc VALUES (30, 9, 30, 'x');
         UPDATE doc SET v = 8 WHERE id = 30; DELETE FROM doc WHERE id = 30; COMMIT",
        &["INSERT INTO doc VALUES (31, 9, 31, 'x')", "DELETE FROM doc WHERE id = 31"],
    );
}

#[test]
fn a_truncate_after_a_re_read_takes_all() {
    check_later(
        "UPDATE doc SET v = v + 1 WHERE id = 2",
        &["TRUNCATE doc", "INSERT INTO doc VALUES (2, 9, 2, 'new'), (3, 1, 3, 'out')"],
    );
}

/// Where rows are ahead is kept with the table: a new process knows it as well.
#[test]
fn a_kill_after_a_re_read_loses_nothing() {
    let mut pair = Pair::new();
    copied(&mut pair);
    pair.source.exec("UPDATE doc SET v = v + 1 WHERE id IN (2, 4, 6)");
    end_group(&mut pair);
    pair.source.exec("DELETE FROM doc WHERE id = 2; UPDATE doc SET id = 2 WHERE id = 4");
    end_group(&mut pair);
    pair.source.exec("UPDATE doc SET v = v + 1, u = 2 WHERE id = 2");
    let mut blocker = pair.target_cluster.connect("warehouse");
    let mut applier = kill_after_first_group(&mut pair, &mut blocker);
    applier.kill();
    blocker.exec("ROLLBACK");
    let ahead = "SELECT count(*) FROM trem_target.table_state WHERE reread_end IS NOT NULL";
    assert_eq!(pair.target.number(ahead), 1);
    pair.replicate("t");
    pair.assert_same(ON_SOURCE, ON_TARGET);
}

/// The second filling cannot be written, so only the first group is committed.
fn kill_after_first_group(pair: &mut Pair, blocker: &mut trem_tests::Database) -> Applier {
    blocker.exec("BEGIN; INSERT INTO filler VALUES (150)");
    let applier = pair.applier("t");
    let target = &mut pair.target;
    wait_for("the first group to be committed", || {
        target.number("SELECT count(*) FROM filler") == 100
    });
    applier
}
