//! Nothing raw leaves the source: what is masked, left out or filtered is in no byte that the
//! applier ever gets, and its credentials get it by no other statement.

use trem_tests::{noise, Applier, Database, Pair, Recorder};

/// Values of these words must never pass.
const RAW: [&str; 4] = ["RAWMAIL", "RAWSECRET", "RAWCARD", "OUTOFSCOPE"];

/// A word in a bigint, whose eight bytes in binary are the word.
const RAW_NUMBER: &[u8; 8] = b"RAWBIGNO";

fn raw_number() -> i64 {
    i64::from_be_bytes(*RAW_NUMBER)
}

fn table(name: &str, identity: &str) -> String {
    format!(
        "CREATE TABLE {name} (id int PRIMARY KEY, scope bool, name text, mail text, secret text,
             card text, number bigint, body text);
         ALTER TABLE {name} REPLICA IDENTITY {identity};
         INSERT INTO {name} SELECT n, n % 2 = 0,
         CASE n % 2 WHEN 0 THEN 'INSCOPE' ELSE 'OUTOFSCOPE' END,
             'RAWMAIL' || n, 'RAWSECRET' || n, 'RAWCARD' || n, {number},
             CASE n % 2 WHEN 0 THEN 'INBODY' ELSE 'OUTOFSCOPE' END || {body}
         FROM generate_series(1, 40) n",
        number = raw_number(),
        body = noise("n"),
    )
}

const RULES: [&str; 6] = [
    "set_filter('t', 'TABLE', 'scope')",
    "set_value('t', 'TABLE', 'mail', 'md5(mail) || scope')",
    "exclude_column('t', 'TABLE', 'secret')",
    "change_type('t', 'TABLE', 'card', 'int', 'length(card)')",
    "set_value('t', 'TABLE', 'number', 'number % 10 + length(secret)')",
    "add_column('t', 'TABLE', 'start', 'text', 'left(body, 6) || left(mail, 3)')",
];

const ON_SOURCE: &str = "SELECT id, scope, name, md5(mail) || scope, length(card),
    number % 10 + length(secret), body, left(body, 6) || left(mail, 3) FROM TABLE WHERE scope";

fn add_rules(pair: &mut Pair, table: &str) {
    for rule in RULES {
        pair.call(&[&rule.replace("TABLE", table)]);
    }
}

#[track_caller]
fn same(pair: &mut Pair, table: &str) {
    pair.assert_same(&ON_SOURCE.replace("TABLE", table), &format!("SELECT * FROM {table}"));
}

fn change(source: &mut Database, table: &str) {
    let body = noise("id * 9");
    for sql in [
        "UPDATE TABLE SET mail = 'RAWMAIL new' || id, secret = 'RAWSECRET new' WHERE id % 3 = 0",
        "UPDATE TABLE SET card = 'RAWCARD new' WHERE id % 5 = 0",
        "UPDATE TABLE SET scope = false, name = 'OUTOFSCOPE' WHERE id IN (4, 6)",
        "UPDATE TABLE SET name = 'OUTOFSCOPE again' WHERE NOT scope",
        // Entering: what it was before is no business of the target.
        "UPDATE TABLE SET scope = true, name = 'INSCOPE', body = 'INBODY' WHERE id IN (7, 9)",
        "UPDATE TABLE SET id = id + 100 WHERE id % 4 < 2",
        "UPDATE TABLE SET id = id + 1000, scope = NOT scope, name = CASE WHEN scope THEN
            'OUTOFSCOPE' ELSE 'INSCOPE' END,
            body = CASE WHEN scope THEN 'OUTOFSCOPE' ELSE 'INBODY' END
         WHERE id % 7 = 0",
        "DELETE FROM TABLE WHERE id % 11 = 0",
        &format!(
            "BEGIN; INSERT INTO TABLE VALUES (500, false, 'OUTOFSCOPE', 'RAWMAIL', 'RAWSECRET',
                 'RAWCARD', {number}, 'OUTOFSCOPE' || (SELECT {body} FROM (SELECT 1 AS id) i));
             UPDATE TABLE SET mail = 'RAWMAIL 2' WHERE id = 500; COMMIT",
            number = raw_number(),
        ),
    ] {
        source.exec(&sql.replace("TABLE", table));
    }
}

#[track_caller]
fn nothing_raw(recorder: &Recorder) {
    let decimal = raw_number().to_string();
    let words = RAW.iter().map(|word| word.as_bytes());
    for word in words.chain([RAW_NUMBER.as_slice(), decimal.as_bytes()]) {
        let shown = String::from_utf8_lossy(word);
        assert_eq!(recorder.count(word), 0, "{shown} passed: {}", recorder.around(word));
    }
}

fn check(identity: &str) {
    let mut pair = Pair::new();
    let recorder = pair.record();
    pair.source.exec(&table("person", identity));
    pair.create_task_with(
        "t",
        &["public.person"],
        "full_load_and_cdc",
        r#"{"compression": "none"}"#,
    );
    add_rules(&mut pair, "public.person");
    pair.start_task("t");
    pair.replicate("t");
    same(&mut pair, "public.person");
    nothing_raw(&recorder);
    let copied = recorder.count(b"INBODY");
    assert!(copied >= 20, "the recorder sees what the copy may show: {copied}");
    pair.follow("t", |source| change(source, "person"));
    same(&mut pair, "public.person");
    nothing_raw(&recorder);
    assert!(recorder.count(b"INBODY") > copied, "the recorder sees the stream");
}

#[test]
fn nothing_masked_and_nothing_out_of_scope_is_on_the_wire() {
    check("DEFAULT");
}

#[test]
fn nothing_masked_and_nothing_out_of_scope_is_on_the_wire_with_identity_full() {
    check("FULL");
}

/// The server's own message about such a row quotes the value.
#[test]
fn an_expression_that_fails_shows_no_value() {
    for options in
        [r#"{"compression": "none"}"#, r#"{"compression": "none", "on_error": "skip_row"}"#]
    {
        let mut pair = Pair::new();
        let recorder = pair.record();
        pair.source.exec(
            "CREATE TABLE item (id int PRIMARY KEY, v text); INSERT INTO item VALUES (1, '17');
             CREATE TABLE copied (id int PRIMARY KEY, v text);
             INSERT INTO copied VALUES (1, 'RAWMAIL')",
        );
        pair.create_task_with("t", &["public.item"], "full_load_and_cdc", options);
        pair.call(&["change_type('t', 'public.item', 'v', 'int')"]);
        pair.create_task_with("u", &["public.copied"], "full_load_and_cdc", options);
        pair.call(&["change_type('u', 'public.copied', 'v', 'int')"]);
        pair.start_task("t");
        pair.start_task("u");
        pair.replicate("t");
        pair.expect_log("");
        pair.source.exec("INSERT INTO item VALUES (2, 'RAWMAIL')");
        let streamed = pair.run_until_caught_up("t");
        let copied = pair.run_until_caught_up("u");
        for outcome in [&streamed, &copied] {
            assert!(!outcome.log.contains("RAWMAIL"), "no log shows a value: {}", outcome.log);
        }
        nothing_raw(&recorder);
    }
}

/// Draft rules are nothing to a stream that runs: what is published is published whole.
#[test]
fn a_table_and_its_mask_are_added_to_a_running_task_in_separate_statements() {
    let mut pair = Pair::new();
    let recorder = pair.record();
    pair.source.exec(
        "CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain SELECT generate_series(1, 9)",
    );
    let options = r#"{"compression": "none"}"#;
    pair.create_task_with("t", &["public.plain"], "full_load_and_cdc", options);
    pair.start_task("t");
    let mut applier = pair.applier("t");
    pair.catch_up("t", &mut applier);
    pair.source.exec(&table("person", "DEFAULT"));
    let touch = |pair: &mut Pair, applier: &mut Applier| {
        pair.source.exec(
            "UPDATE person SET mail = 'RAWMAIL' || id; INSERT INTO plain
            SELECT max(id) + 1 FROM plain",
        );
        pair.catch_up("t", applier);
        nothing_raw(&recorder);
    };
    pair.call(&["add_table('t', 'public.person')"]);
    touch(&mut pair, &mut applier);
    for rule in RULES {
        pair.call(&[&rule.replace("TABLE", "public.person")]);
        touch(&mut pair, &mut applier);
    }
    assert!(pair.target.holds("SELECT to_regclass('public.person') IS NULL"));
    pair.start_task("t");
    wait_for_table(&mut pair, "public.person");
    touch(&mut pair, &mut applier);
    change(&mut pair.source, "person");
    pair.catch_up("t", &mut applier);
    applier.terminate();
    same(&mut pair, "public.person");
    pair.assert_same_table("plain");
    nothing_raw(&recorder);
}

fn wait_for_table(pair: &mut Pair, table: &str) {
    let live = format!(
        "SELECT EXISTS (SELECT FROM trem.table_status
             WHERE task = 't' AND table_name = '{table}' AND state = 'live')"
    );
    let source = &mut pair.source;
    trem_tests::wait_for("the new table to be copied", || source.holds(&live));
}

/// A task over one empty table, not started, and everything that will pass.
fn recorded_item() -> (Pair, Recorder) {
    let mut pair = Pair::new();
    let recorder = pair.record();
    pair.source.exec("CREATE TABLE item (id int PRIMARY KEY, v text)");
    let options = r#"{"compression": "none"}"#;
    pair.create_task_with("t", &["public.item"], "full_load_and_cdc", options);
    (pair, recorder)
}

/// A filter that is taken back lets new rows pass, and only after it was published.
#[test]
fn a_rule_that_changes_counts_from_when_it_is_published() {
    let (mut pair, recorder) = recorded_item();
    pair.call(&["set_value('t', 'public.item', 'v', 'NULL')"]);
    pair.start_task("t");
    let mut applier = pair.applier("t");
    pair.source.exec("INSERT INTO item VALUES (1, 'RAWMAIL 1')");
    pair.catch_up("t", &mut applier);
    let rule = pair.source.number("SELECT id FROM trem.transformation");
    pair.call(&[&format!("drop_transformation({rule})")]);
    pair.source.exec("INSERT INTO item VALUES (2, 'RAWMAIL 2')");
    pair.catch_up("t", &mut applier);
    nothing_raw(&recorder);
    pair.source.failure("SELECT trem.start_task('t')").assert_says(&["item", "keep"]);
    nothing_raw(&recorder);
    pair.call(&["start_task('t', keep => true)"]);
    pair.source.exec("INSERT INTO item VALUES (3, 'shown')");
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same("VALUES (1, NULL), (2, NULL), (3, 'shown')", "SELECT id, v FROM item");
    nothing_raw(&recorder);
}

/// The walsender could send what was committed next before the applier heard of the publish: rows
/// written right after a mask was published arrived raw.
#[test]
fn what_is_committed_after_a_publish_goes_by_its_rules_at_once() {
    let (mut pair, recorder) = recorded_item();
    pair.start_task("t");
    let mut applier = pair.applier("t");
    pair.source.exec("INSERT INTO item VALUES (1, 'shown'), (2, 'shown')");
    pair.catch_up("t", &mut applier);
    pair.source.exec("UPDATE item SET v = 'shown again'");
    pair.catch_up("t", &mut applier);
    applier.pause();
    pair.source.exec("UPDATE item SET v = 'shown too' WHERE id = 1");
    pair.call(&["set_value('t', 'public.item', 'v', 'md5(v)')", "start_task('t', keep => true)"]);
    pair.source.exec(
        "INSERT INTO item VALUES (3, 'RAWMAIL 3'); UPDATE item SET v = 'RAWMAIL 2' WHERE id = 2",
    );
    let end = pair.source.text("SELECT pg_current_wal_insert_lsn()");
    let source = &mut pair.source;
    trem_tests::wait_for("the walsender to send everything, or to give up", || {
        source.holds(&format!(
            "SELECT NOT EXISTS (SELECT FROM pg_replication_slots s
                 JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE r.sent_lsn < '{end}')"
        ))
    });
    applier.resume();
    pair.catch_up("t", &mut applier);
    applier.terminate();
    nothing_raw(&recorder);
    let masked =
        "SELECT id, v FROM (VALUES (2, md5('RAWMAIL 2')), (3, md5('RAWMAIL 3'))) r (id, v)";
    pair.assert_same(masked, "SELECT id, v FROM item WHERE id > 1");
    // Whether it goes by the old rules or the new ones depends on when it was applied.
    let either = "SELECT v IN ('shown too', md5('shown too')) FROM item WHERE id = 1";
    assert!(pair.target.holds(either));
}
