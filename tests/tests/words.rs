//! Nothing raw in words: what an expression says about a row, as an error, a warning or a notice,
//! reaches neither the logs of server and applier nor the task's state, nor who reads a view.

use trem_tests::{Pair, Settings};

const SKIP: &str = r#"{"on_error": "skip_row"}"#;

/// In rows only.
const SECRET: &str = "QZSECRETQZ";

/// Whoever runs the server may want to know everything.
const LOUD: Settings<'_> = &[("log_min_messages", "debug1"), ("client_min_messages", "debug1")];

/// Each quotes its argument when it fails, or says something about it when it does not.
const EXPRESSIONS: [(&str, &str); 16] = [
    ("v::int", "int"),
    ("v::jsonb", "jsonb"),
    ("v::inet", "inet"),
    ("v::date", "date"),
    ("v::interval", "interval"),
    ("v::numeric", "numeric"),
    ("v::uuid", "uuid"),
    ("v::bit(4)", "bit(4)"),
    ("(v || '(')::tsquery::text", "text"),
    ("md5(to_tsquery('english', v || ' ' || v)::text)", "text"),
    ("regexp_replace('a', v || '(', '')", "text"),
    ("to_date(v, 'YYYY-MM-DD')", "date"),
    ("to_timestamp(v, 'YYYY-MM')::text", "text"),
    ("date_trunc(v, '2024-01-01'::timestamp)", "timestamp"),
    ("xpath(v || '[', x)::text", "text"),
    ("convert_from(convert_to(v, v), 'UTF8')", "text"),
];

/// These succeed, and speak.
const SPEAKING: [(&str, &str); 3] = [
    ("xpath('/*', x)::text", "text"),
    ("to_tsvector('simple', repeat(v, 300))::text", "text"),
    ("to_tsquery('english', left('the', length(v)))::text", "text"),
];

/// A document that libxml complains about, with a piece of it, and takes all the same.
fn document() -> String {
    format!("<a xmlns=\"{SECRET}\">{SECRET}</a>")
}

fn row(id: u32) -> String {
    format!("INSERT INTO item VALUES ({id}, '{SECRET}', '{}')", document())
}

/// A table for each expression, so that each fails by itself; in one task.
fn drafted(expressions: &[(&str, &str)], options: &str) -> Pair {
    let mut pair = Pair::with_settings(LOUD, &[]);
    for at in 0..expressions.len() {
        pair.source.exec(&format!("CREATE TABLE item{at} (id int PRIMARY KEY, v text, x xml)"));
    }
    pair.create_task_with("t", &["public.*"], "full_load_and_cdc", options);
    for (at, (expression, result)) in expressions.iter().enumerate() {
        pair.call(&[
            &format!("add_column('t', 'public.item{at}', 'c', '{result}', $e${expression}$e$)"),
            &format!("exclude_column('t', 'public.item{at}', 'v')"),
            &format!("exclude_column('t', 'public.item{at}', 'x')"),
        ]);
    }
    pair
}

fn insert(pair: &mut Pair, tables: usize, id: u32) {
    for at in 0..tables {
        pair.source.exec(&row(id).replace("item", &format!("item{at}")));
    }
}

/// Everything that is written about the task.
fn words(pair: &mut Pair) -> String {
    let reported = pair.source.rows(
        "SELECT to_jsonb(s)::text FROM trem.task_status s UNION ALL
         SELECT to_jsonb(s)::text FROM trem.table_status s UNION ALL
         SELECT to_jsonb(e)::text FROM trem.exception e",
    );
    let reported: Vec<_> = reported.into_iter().flatten().flatten().collect();
    format!("{}\n{}", reported.join("\n"), pair.source_cluster.log())
}

#[track_caller]
fn says_nothing(words: &str) {
    let found: Vec<_> = words.lines().filter(|line| line.contains(SECRET)).collect();
    assert!(found.is_empty(), "the secret is in:\n{}", found.join("\n"));
}

#[test]
fn errors_of_skipped_rows_say_nothing() {
    let mut pair = drafted(&EXPRESSIONS, SKIP);
    insert(&mut pair, EXPRESSIONS.len(), 1);
    pair.start_task("t");
    let copied = pair.applier_with(&["run", "--task", "t", "--until-caught-up"], &[]).wait();
    copied.assert_code(0);
    insert(&mut pair, EXPRESSIONS.len(), 2);
    let streamed = pair.applier_with(&["run", "--task", "t", "--until-caught-up"], &[]).wait();
    streamed.assert_code(0);
    says_nothing(&copied.log);
    says_nothing(&streamed.log);
    says_nothing(&words(&mut pair));
    let failed = pair
        .source
        .rows("SELECT table_name, count(*) FROM trem.exception GROUP BY 1 HAVING count(*) = 2");
    assert_eq!(failed.len(), EXPRESSIONS.len(), "each fails in the copy and in the stream");
}

#[test]
fn errors_that_stop_a_task_say_nothing() {
    // One of each three: every task needs clusters of its own.
    for (expression, result) in EXPRESSIONS.into_iter().step_by(3) {
        let mut pair = drafted(&[(expression, result)], "{}");
        pair.start_task("t");
        pair.replicate("t");
        insert(&mut pair, 1, 1);
        let stopped = pair.refuse("t", &["SQLSTATE"]);
        says_nothing(&stopped.log);
        says_nothing(&words(&mut pair));
        // And the copy of it.
        pair.call(&["reload_table('t', 'public.item0')", "start_task('t')"]);
        let stopped = pair.refuse("t", &["SQLSTATE"]);
        says_nothing(&stopped.log);
        says_nothing(&words(&mut pair));
    }
}

#[test]
fn warnings_and_notices_have_no_listener() {
    let mut pair = drafted(&SPEAKING, "{}");
    insert(&mut pair, SPEAKING.len(), 1);
    pair.start_task("t");
    let copied = pair.applier_with(&["run", "--task", "t", "--until-caught-up"], &[]).wait();
    copied.assert_code(0);
    insert(&mut pair, SPEAKING.len(), 2);
    let streamed = pair.applier_with(&["run", "--task", "t", "--until-caught-up"], &[]).wait();
    streamed.assert_code(0);
    for at in 0..SPEAKING.len() {
        assert_eq!(pair.target.number(&format!("SELECT count(*) FROM item{at}")), 2);
    }
    let words = words(&mut pair);
    says_nothing(&words);
    for part in ["xmlns", "word is too long", "only stop words"] {
        assert!(!words.contains(part), "{part}");
        assert!(!copied.log.contains(part) && !streamed.log.contains(part), "{part}");
    }
}

/// Whoever may read a view may turn everything on.
#[test]
fn a_view_says_nothing_to_who_reads_it() {
    let all: Vec<_> = EXPRESSIONS.iter().chain(&SPEAKING).copied().collect();
    let mut pair = drafted(&all, "{}");
    insert(&mut pair, all.len(), 1);
    pair.start_task("t");
    let views = pair.source.rows(
        "SELECT format('%I.%I', schemaname, viewname) FROM pg_views WHERE schemaname = 'trem_read'",
    );
    assert_eq!(views.len(), all.len());
    let conninfo = pair.source_conninfo();
    for view in views.into_iter().flatten().flatten() {
        for read in ["SELECT c FROM", "SELECT count(c) FROM"] {
            let read = format!("{read} {view}");
            let loud = ["SET client_min_messages = debug5", "\\set VERBOSITY verbose", &read];
            let (_, printed) = pair.source_cluster.psql(&conninfo, &loud);
            let failed = printed.contains("cannot compute a row");
            let quoted: Vec<_> = printed.lines().filter(|line| line.contains(SECRET)).collect();
            // What succeeds may show its result.
            let is_result = |line: &&str| !line.contains("ERROR") && !line.contains("WARNING");
            assert!(!failed || quoted.is_empty(), "{view}: {printed}");
            assert!(quoted.iter().all(is_result), "{view}: {printed}");
            for part in ["xmlns", "word is too long", "only stop words"] {
                assert!(!printed.contains(part) || is_document(&printed), "{view}: {printed}");
            }
        }
    }
    says_nothing(&pair.source_cluster.log());
}

/// The result of an expression that gives the document back.
fn is_document(printed: &str) -> bool {
    printed.contains("<a xmlns") && !printed.contains("WARNING")
}

/// The server's log is read by others than the database: a trigger on the target may quote a row in
/// an error of its own making.
#[test]
fn errors_that_a_trigger_makes_up_say_nothing() {
    for raise in [
        "RAISE EXCEPTION 'no %', NEW.v",
        "RAISE SQLSTATE '45000' USING MESSAGE = NEW.v,
        HINT = NEW.v, DETAIL = NEW.v",
    ] {
        let mut pair = Pair::new();
        pair.source.exec("CREATE TABLE item (id int PRIMARY KEY, v text)");
        pair.create_task("t", &["public.item"]);
        pair.start_task("t");
        pair.replicate("t");
        pair.target.exec(&format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN {raise}; END$$;
             CREATE TRIGGER refuse BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION refuse();
             ALTER TABLE item ENABLE ALWAYS TRIGGER refuse"
        ));
        pair.source.exec(&format!("INSERT INTO item VALUES (1, '{SECRET}')"));
        let stopped = pair.refuse("t", &["a trigger or function raised an exception"]);
        says_nothing(&stopped.log);
        says_nothing(&words(&mut pair));
    }
}
