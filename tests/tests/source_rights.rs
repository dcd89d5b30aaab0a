//! What users wrote runs as the owner of their table, whoever has it run: alice owns a table and
//! spies; the superuser, the extension's owner and the applier's role must never run her code.

use trem_tests::{Database, Pair};

/// Alice may define tasks over her own tables. Whatever calls one of her spies as somebody else is
/// an error that says so; one that only constants reach is called when a plan is made.
const ALICE: &str = "
    CREATE ROLE alice LOGIN;
    CREATE SCHEMA app AUTHORIZATION alice;
    SELECT trem.grant_operator('alice');
    SET ROLE alice;
    CREATE FUNCTION app.spy(text) RETURNS bool LANGUAGE plpgsql AS $$
    BEGIN
        IF current_user <> 'alice' THEN RAISE EXCEPTION 'SPIED as %', current_user; END IF;
        RETURN true;
    END $$;
    CREATE FUNCTION app.constant_spy(int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$
    BEGIN
        IF current_user <> 'alice' THEN RAISE EXCEPTION 'SPIED as %', current_user; END IF;
        RETURN true;
    END $$;
    RESET ROLE";

/// What no server may say in these tests.
const SPIED: &str = "SPIED";

fn with_alice() -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(ALICE);
    // The harness knows where the target is; with endpoints of her own she can make tasks.
    let create = pair.source.text(
        "SELECT format('SELECT trem.create_endpoint(''a_dst'', ''target'', dbname => %L,
             host => %L, port => %s, username => %L)', dbname, host, port, username)
         FROM trem.endpoint WHERE name = 'dst'",
    );
    let mut alice = alice(&pair);
    alice.exec(&create);
    alice.exec("SELECT trem.create_endpoint('a_src', 'source', username => 'trem_applier')");
    pair
}

fn alice(pair: &Pair) -> Database {
    pair.source_cluster.connect_as("shop", "alice")
}

fn create_task(alice: &mut Database, table: &str, options: &str) {
    alice.exec(&format!(
        "SELECT trem.create_task('t', 'a_src', 'a_dst', '{{{table}}}', options => '{options}')"
    ));
}

/// Nothing of alice's ran as somebody else, and she is what she was.
#[track_caller]
fn nobody_was_spied_on(pair: &mut Pair) {
    let log = pair.source_cluster.log();
    assert!(!log.contains(SPIED), "{log}");
    assert!(pair.source.holds("SELECT NOT rolsuper FROM pg_roles WHERE rolname = 'alice'"));
}

/// Everything that a superuser does with a task of somebody else's.
fn superuser_looks_at_everything(pair: &mut Pair, table: &str) {
    for call in [
        "SELECT trem.check_task('t')".to_owned(),
        "SELECT trem.explain_task('t')".to_owned(),
        format!("SELECT trem.preview('t', '{table}')"),
        "SELECT trem.table_counts('app', exact => true)".to_owned(),
        "SELECT trem.table_schema('app.doc')".to_owned(),
        "SELECT trem.list_tables('app')".to_owned(),
        "SELECT trem.applier_check('t')".to_owned(),
        "SELECT trem.start_task('t')".to_owned(),
    ] {
        if let Err(failure) = pair.source.try_exec(&call) {
            panic!("{call}: {failure}");
        }
    }
}

/// A literal goes through the input function of its type, which checks the domains inside. They
/// were innocent when the rule was made. `applier_check`, a SECURITY DEFINER function, read the
/// literal as a superuser at every start; so did a superuser who looked at the task.
#[test]
fn checks_of_domains_in_literals_run_as_the_tables_owner() {
    for (column, filter) in [
        ("app.c", "v IS DISTINCT FROM '(1)'::app.c"),
        ("app.vip[]", "NOT v @> '{vip}'"),
        ("app.vip[]", "v IS NULL OR v <> '{vip,x}'"),
    ] {
        let mut pair = with_alice();
        let mut alice = alice(&pair);
        alice.exec(&format!(
            "CREATE DOMAIN app.vip AS text;
             CREATE TYPE app.c AS (f app.vip);
             CREATE TABLE app.doc (id int PRIMARY KEY, v {column}, note text);
             INSERT INTO app.doc SELECT n, NULL, 'note ' || n FROM generate_series(1, 20) n"
        ));
        create_task(&mut alice, "app.doc", "{}");
        alice.exec(&format!(
            "SELECT trem.set_filter('t', 'app.doc', $q$ ({filter}) IS NOT FALSE $q$)"
        ));
        alice.exec("SELECT trem.exclude_column('t', 'app.doc', 'v')");
        alice.exec("ALTER DOMAIN app.vip ADD CHECK (app.spy(VALUE)) NOT VALID");
        alice.exec("ALTER DOMAIN app.vip ADD CHECK (app.constant_spy(1)) NOT VALID");
        superuser_looks_at_everything(&mut pair, "app.doc");
        pair.replicate("t");
        pair.follow("t", |source| source.exec("UPDATE app.doc SET note = 'new' WHERE id < 5"));
        pair.assert_same("SELECT id, note FROM app.doc", "SELECT * FROM app.doc");
        nobody_was_spied_on(&mut pair);
    }
}

/// A type that a rule gives to a column may be anybody's: its author must be a member of the
/// table's owner, because the type's code runs with the owner's rights.
#[test]
fn rules_about_values_are_made_by_members_of_the_tables_owner() {
    let mut pair = with_alice();
    pair.source.exec(
        "CREATE TABLE public.others (id int PRIMARY KEY, v text);
         CREATE ROLE owner_of_others;
         ALTER TABLE public.others OWNER TO owner_of_others;
         GRANT SELECT ON public.others TO alice",
    );
    let mut alice = alice(&pair);
    create_task(&mut alice, "public.others", "{}");
    alice.exec("CREATE DOMAIN app.d AS text CHECK (app.spy(VALUE))");
    for rule in [
        "change_type('t', 'public.others', 'v', 'app.d')",
        "set_value('t', 'public.others', 'v', 'upper(v)')",
        "set_filter('t', 'public.others', 'id > 1')",
        "add_column('t', 'public.others', 'more', 'text', 'upper(v)')",
    ] {
        let failure = alice.failure(&format!("SELECT trem.{rule}"));
        assert_eq!(failure.sqlstate, "42501", "{rule}: {failure}");
        failure.assert_says(&["public.others", "owner_of_others", "GRANT"]);
    }
    // What brings no code along is hers to say; to publish is not.
    alice.exec("SELECT trem.exclude_column('t', 'public.others', 'v')");
    let failure = alice.failure("SELECT trem.start_task('t')");
    failure.assert_says(&["owner_of_others"]);
    pair.source.exec("GRANT owner_of_others TO alice");
    alice.exec("SELECT trem.start_task('t')");
}

/// `applier_rows` opened the table by its name as the extension's owner: a view in its place, with
/// a function in it, made its owner a superuser at the next load.
#[test]
fn a_view_that_takes_the_tables_place_is_not_read() {
    let mut pair = with_alice();
    let mut alice = alice(&pair);
    alice.exec(
        "CREATE TABLE app.doc (id int PRIMARY KEY, v text);
         INSERT INTO app.doc VALUES (1, '1'), (2, 'two'), (3, '3')",
    );
    create_task(&mut alice, "app.doc", r#"{"on_error": "skip_row"}"#);
    alice.exec("SELECT trem.change_type('t', 'app.doc', 'v', 'int')");
    alice.exec("SELECT trem.start_task('t')");
    alice.exec(
        "ALTER TABLE app.doc RENAME TO doc_2;
         CREATE VIEW app.doc AS SELECT id, v FROM app.doc_2 WHERE app.spy(v)",
    );
    pair.expect_log("row");
    pair.run_until_caught_up("t").assert_code(0);
    // What was published is the table, whatever it is called; and the view said nothing.
    pair.assert_same("SELECT id, v::int FROM app.doc_2 WHERE id <> 2", "SELECT * FROM app.doc");
    nobody_was_spied_on(&mut pair);
}

/// The same without malice: the new table is empty, and nothing was loaded without a word.
#[test]
fn a_table_that_takes_the_tables_place_is_not_loaded_for_it() {
    let mut pair = with_alice();
    let mut alice = alice(&pair);
    alice.exec(
        "CREATE TABLE app.doc (id int PRIMARY KEY, v text);
         INSERT INTO app.doc VALUES (1, '1'), (2, 'two'), (3, '3')",
    );
    create_task(&mut alice, "app.doc", r#"{"on_error": "skip_row"}"#);
    alice.exec("SELECT trem.change_type('t', 'app.doc', 'v', 'int')");
    alice.exec("SELECT trem.start_task('t')");
    alice.exec("ALTER TABLE app.doc RENAME TO doc_old; CREATE TABLE app.doc (LIKE app.doc_old)");
    pair.expect_log("row");
    pair.run_until_caught_up("t").assert_code(0);
    pair.assert_same("SELECT id, v::int FROM app.doc_old WHERE id <> 2", "SELECT * FROM app.doc");
}

/// Before PostgreSQL 16 a rule makes a view of an empty table, which keeps its OID: the task's view
/// then read that view, with the applier's rights, in loads and validations.
#[test]
fn a_table_that_became_a_view_stops_the_load() {
    let mut pair = with_alice();
    if pair.source.holds("SELECT current_setting('server_version_num')::int >= 160000") {
        return;
    }
    for options in ["{}", r#"{"on_error": "skip_row"}"#] {
        let mut alice = alice(&pair);
        alice.exec("CREATE TABLE app.doc (id int, v text)");
        create_task(&mut alice, "app.doc", options);
        alice.exec("SELECT trem.set_value('t', 'app.doc', 'v', 'upper(v)')");
        alice.exec("SELECT trem.start_task('t')");
        alice.exec(
            "CREATE RULE \"_RETURN\" AS ON SELECT TO app.doc DO INSTEAD
                 SELECT 1 AS id, 'x'::text AS v WHERE app.spy('x')",
        );
        let oid = pair.source.number("SELECT 'app.doc'::regclass::oid::bigint");
        // Also whoever calls the function by hand, and a superuser who looks.
        for call in [
            format!("SELECT trem.applier_rows('t', 1, {oid})"),
            "SELECT trem.preview('t', 'app.doc')".to_owned(),
            "SELECT trem.start_task('t')".to_owned(),
        ] {
            let failure = pair.source.failure(&call);
            assert!(!failure.everything().contains(SPIED), "{call}: {failure}");
        }
        pair.refuse("t", &["app.doc"]);
        nobody_was_spied_on(&mut pair);
        pair.source.exec("SELECT trem.stop_task('t')");
        pair.source.exec("SELECT trem.drop_task('t')");
        pair.source.exec("DROP VIEW app.doc");
    }
}

/// A load asks the view, and so does `validate`: the swap may come between.
#[test]
fn a_table_that_became_a_view_is_not_validated() {
    let mut pair = with_alice();
    if pair.source.holds("SELECT current_setting('server_version_num')::int >= 160000") {
        return;
    }
    let mut alice = alice(&pair);
    alice.exec("CREATE TABLE app.doc (id int, v text)");
    create_task(&mut alice, "app.doc", "{}");
    alice.exec("SELECT trem.start_task('t')");
    pair.replicate("t");
    alice.exec(
        "CREATE RULE \"_RETURN\" AS ON SELECT TO app.doc DO INSTEAD
             SELECT 1 AS id, 'x'::text AS v WHERE app.spy('x')",
    );
    pair.expect_log("");
    let outcome = pair.applier_with(&["validate", "--task", "t"], &[]).wait();
    outcome.assert_says(&["app.doc", "no table any more"]);
    nobody_was_spied_on(&mut pair);
}

/// A row that is read again is found by its key: as a parameter the key went through the input
/// function of its type, and an implicit cast of alice's found the operator by which to compare it.
#[test]
fn a_row_is_read_again_without_code_of_its_keys_types() {
    for key in ["app.mood", "app.d"] {
        let mut pair = with_alice();
        let mut alice = alice(&pair);
        alice.exec(&format!(
            "CREATE DOMAIN app.d AS text;
             CREATE TYPE app.mood AS ENUM ('(a)', '(b)');
             CREATE TABLE app.doc (k {key} PRIMARY KEY, big text, n int);
             ALTER TABLE app.doc ALTER big SET STORAGE EXTERNAL;
             INSERT INTO app.doc
             VALUES ('(a)', repeat('x', 9000), 1), ('(b)', repeat('y', 9000), 2)"
        ));
        create_task(&mut alice, "app.doc", "{}");
        alice.exec("SELECT trem.set_filter('t', 'app.doc', 'length(big) > 10')");
        alice.exec("SELECT trem.start_task('t')");
        pair.replicate("t");
        alice.exec(
            "ALTER DOMAIN app.d ADD CHECK (app.spy(VALUE)) NOT VALID;
             CREATE FUNCTION app.mood_text(app.mood) RETURNS text LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM app.spy('x'); RETURN 'x'; END $$;
             CREATE CAST (app.mood AS text) WITH FUNCTION app.mood_text(app.mood) AS IMPLICIT",
        );
        pair.follow("t", |source| source.exec("UPDATE app.doc SET n = n + 1"));
        pair.assert_same("SELECT big, n FROM app.doc", "SELECT big, n FROM app.doc");
        nobody_was_spied_on(&mut pair);
    }
}

/// When a plan is made, what is constant in the predicate of an index is computed, by whoever
/// plans: a superuser who counted or looked at rows ran the owner's function.
#[test]
fn what_a_plan_computes_of_a_tables_indexes_runs_as_its_owner() {
    let mut pair = with_alice();
    let mut alice = alice(&pair);
    alice.exec(
        "CREATE TABLE app.doc (id int PRIMARY KEY, v text);
         INSERT INTO app.doc VALUES (1, 'one');
         CREATE INDEX ON app.doc (v) WHERE app.constant_spy(1)",
    );
    create_task(&mut alice, "app.doc", "{}");
    superuser_looks_at_everything(&mut pair, "app.doc");
    assert_eq!(pair.source.number("SELECT row_count FROM trem.table_counts('app', true)"), 1);
    nobody_was_spied_on(&mut pair);
}

/// Who may not read a table does not see it through TREM, which reads as its owner.
#[test]
fn preview_and_counts_are_for_those_who_may_read_the_table() {
    let mut pair = with_alice();
    pair.source.exec(
        "CREATE TABLE public.others (id int PRIMARY KEY, v text);
         INSERT INTO public.others VALUES (1, 'one'), (2, 'two')",
    );
    let mut alice = alice(&pair);
    create_task(&mut alice, "public.others", "{}");
    let looks = [
        "SELECT trem.preview('t', 'public.others')",
        "SELECT trem.table_counts('public', exact => true)",
    ];
    let refused = |alice: &mut Database| {
        for look in looks {
            let failure = alice.failure(look);
            assert_eq!(failure.sqlstate, "42501", "{look}: {failure}");
            failure.assert_says(&["public.others", "GRANT SELECT"]);
        }
    };
    refused(&mut alice);
    pair.source.exec("GRANT SELECT ON public.others TO alice");
    for look in looks {
        alice.exec(look);
    }
    assert_eq!(alice.rows("SELECT trem.preview('t', 'public.others')").len(), 2);
    // Nor more of it than she may read.
    pair.source.exec(
        "ALTER TABLE public.others ENABLE ROW LEVEL SECURITY;
         CREATE POLICY one ON public.others USING (id = 1)",
    );
    refused(&mut alice);
    pair.source.exec("ALTER ROLE alice BYPASSRLS");
    alice.exec(looks[0]);
}

/// The frames of `applier_rows` were gathered on the source first, as the function stood in FROM: a
/// temporary file as large as the table.
#[test]
fn a_load_row_by_row_writes_no_temporary_file_on_the_source() {
    let settings = [("log_temp_files", "0"), ("work_mem", "'1MB'")];
    let mut pair = Pair::with_settings(&settings, &[]);
    pair.source.exec(
        "CREATE TABLE big (id int PRIMARY KEY, v text, filler text);
         INSERT INTO big SELECT n, CASE n WHEN 1 THEN 'one' ELSE n::text END,
             repeat(md5(n::text), 20) FROM generate_series(1, 20000) n",
    );
    pair.create_task_with("t", &["public.big"], "full_load", r#"{"on_error": "skip_row"}"#);
    pair.call(&["change_type('t', 'public.big', 'v', 'int')"]);
    pair.start_task("t");
    let before = pair.source_cluster.log().len();
    pair.expect_log("row");
    pair.run_until_caught_up("t").assert_code(0);
    assert_eq!(pair.target.number("SELECT count(*) FROM big"), 19_999);
    let log = pair.source_cluster.log();
    assert!(!log[before..].contains("temporary file"), "{}", &log[before..]);
}
