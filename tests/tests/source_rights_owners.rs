//! Endpoints and tasks belong to roles: ada's are not for bob, who may define tasks as well; their
//! passwords are for the applier's role alone.

use std::process::Command;

use trem_tests::{output, server_programs, Database, Pair};

struct Operators {
    pair: Pair,
    ada: Database,
    bob: Database,
}

impl Operators {
    /// Ada has a task of her own table, started; bob has endpoints and nothing else.
    fn new() -> Self {
        let mut pair = Pair::new();
        pair.source.exec(
            "CREATE ROLE ada LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE stranger LOGIN;
             SELECT trem.grant_operator('ada'), trem.grant_operator('bob');
             CREATE SCHEMA app AUTHORIZATION ada; CREATE SCHEMA bobs AUTHORIZATION bob",
        );
        let mut ada = pair.source_cluster.connect_as("shop", "ada");
        let mut bob = pair.source_cluster.connect_as("shop", "bob");
        ada.exec(
            "CREATE TABLE app.doc (id int PRIMARY KEY, v text);
             CREATE TABLE app.more (id int PRIMARY KEY);
             INSERT INTO app.doc VALUES (1, 'one')",
        );
        ada.exec(
            "SELECT trem.create_endpoint('a_src', 'source', username => 'trem_applier');
             SELECT trem.create_endpoint('a_dst', 'target', dbname => 'warehouse',
                 host => '/nowhere', username => 'loader', password => 'ADASECRET')",
        );
        ada.exec("SELECT trem.create_task('a', 'a_src', 'a_dst', '{app.doc}')");
        ada.exec("SELECT trem.set_value('a', 'app.doc', 'v', 'upper(v)')");
        ada.exec("SELECT trem.start_task('a')");
        bob.exec(
            "SELECT trem.create_endpoint('b_src', 'source', username => 'bob');
             SELECT trem.create_endpoint('b_dst', 'target', dbname => 'x',
                 password => 'BOBSECRET')",
        );
        Operators { pair, ada, bob }
    }

    /// What a session that is not ada's must not do.
    fn others(&mut self) -> Vec<String> {
        let rule = self.pair.source.number("SELECT min(id) FROM trem.transformation");
        let oid = self.pair.source.number("SELECT 'app.doc'::regclass::oid::bigint");
        let mut calls: Vec<String> = [
            "create_task('mine', 'a_src', 'b_dst', '{bobs.t}')",
            "create_task('mine', 'b_src', 'a_dst', '{bobs.t}')",
            "alter_endpoint('a_dst', host => '/elsewhere')",
            "alter_endpoint('a_dst', password => '')",
            "alter_endpoint('a_src', username => 'bob')",
            "drop_endpoint('a_dst')",
            "alter_task('a', '{}')",
            "add_table('a', 'app.more')",
            "remove_table('a', 'app.doc')",
            "rename_schema('a', 'app.doc', 'x')",
            "rename_table('a', 'app.doc', 'x')",
            "rename_column('a', 'app.doc', 'v', 'x')",
            "exclude_column('a', 'app.doc', 'v')",
            "set_filter('a', 'app.doc', 'true')",
            "set_filter('a', 'app.doc', NULL)",
            "add_column('a', 'app.doc', 'x', 'text', 'v')",
            "change_type('a', 'app.doc', 'v', 'text')",
            "set_value('a', 'app.doc', 'v', 'v')",
            "start_task('a')",
            "start_task('a', keep => true)",
            "stop_task('a')",
            "drop_task('a')",
            "reload_table('a', 'app.doc')",
            "check_task('a')",
            "explain_task('a')",
            "preview('a', 'app.doc')",
            "peek_changes('a')",
            "applier_endpoint('a_dst')",
            "applier_endpoint('a_src')",
            "applier_definition('a')",
            "applier_check('a')",
            "applier_report('a', '{\"phase\": \"cdc\"}')",
            "applier_exception('a', '[]')",
        ]
        .iter()
        .map(|call| format!("SELECT trem.{call}"))
        .collect();
        calls.push(format!("SELECT trem.drop_transformation({rule})"));
        calls.push(format!("SELECT trem.applier_rows('a', 1, {oid})"));
        calls.extend(
            [
                "SELECT password FROM trem.endpoint_password",
                "SELECT password FROM trem.endpoint",
                "UPDATE trem.endpoint SET host = 'x'",
                "UPDATE trem.endpoint SET owner = current_user::regrole",
                "UPDATE trem.task SET state = 'stopped'",
                "UPDATE trem.definition SET content = '{}'",
                "UPDATE trem.rule SET arguments = '{}'",
                "DELETE FROM trem.task_table",
                "INSERT INTO trem.task_load SELECT task_id, 'app.doc', 9 FROM trem.task",
                "TRUNCATE trem.task CASCADE",
                "TABLE trem.definition",
                "TABLE trem.rule",
                "TABLE trem.mask_key",
                "TABLE trem.view_token",
                "SELECT trem.store_report(task_id, '{\"phase\": \"cdc\"}') FROM trem.task",
                "CREATE VIEW trem_read.mine AS SELECT 1",
            ]
            .map(str::to_owned),
        );
        calls
    }

    #[track_caller]
    fn are_refused(&mut self, calls: &[String]) {
        let all = "SELECT md5(string_agg(row, '' ORDER BY row)) FROM (
            SELECT t::text FROM trem.task t UNION ALL SELECT d::text FROM trem.definition d
            UNION ALL SELECT r::text FROM trem.rule r UNION ALL SELECT e::text FROM trem.endpoint e
            ) AS all_of_them (row)";
        let before = self.pair.source.text(all);
        for call in calls {
            let failure = self.bob.failure(call);
            assert_eq!(failure.sqlstate, "42501", "{call}: {failure}");
            assert!(!failure.everything().contains("ADASECRET"), "{call}: {failure}");
        }
        assert_eq!(self.pair.source.text(all), before);
    }
}

/// An operator used, read the password of, redirected, stopped and edited what was another's.
#[test]
fn what_is_anothers_is_closed_to_an_operator() {
    let mut operators = Operators::new();
    let calls = operators.others();
    operators.are_refused(&calls);
    // Nor does he see it.
    for view in ["transformation", "task_status", "table_status", "exception"] {
        assert_eq!(operators.bob.number(&format!("SELECT count(*) FROM trem.{view}")), 0, "{view}");
    }
    assert_eq!(operators.bob.number("SELECT count(*) FROM trem.applier_tasks()"), 0);
    // What he may do he cannot hand on: PostgreSQL warns, and does nothing.
    operators.bob.exec("GRANT EXECUTE ON FUNCTION trem.list_schemas TO stranger");
    let handed_on = "SELECT has_function_privilege('stranger', 'trem.list_schemas()', 'EXECUTE')";
    assert!(!operators.pair.source.holds(handed_on));
    let leak = "CREATE FUNCTION pg_temp.leak(text) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS $$
        BEGIN RAISE EXCEPTION 'leaked %', $1; END $$;
        SELECT count(*) FROM trem.transformation WHERE pg_temp.leak(table_name)";
    operators.bob.exec(leak);
}

/// Bob as a member of ada's role is as good as ada: except for the password, which she cannot read
/// either.
#[test]
fn a_member_of_the_owner_may_do_what_the_owner_may() {
    let mut operators = Operators::new();
    operators.pair.source.exec("GRANT ada TO bob");
    for call in [
        "SELECT trem.check_task('a')",
        "SELECT trem.preview('a', 'app.doc')",
        "SELECT trem.stop_task('a')",
        "SELECT trem.rename_table('a', 'app.doc', 'renamed')",
        "SELECT trem.start_task('a', keep => true)",
        "SELECT trem.create_task('mine', 'b_src', 'a_dst', '{app.more}')",
    ] {
        operators.bob.exec(call);
    }
    assert_eq!(operators.bob.number("SELECT count(*) FROM trem.task_status"), 2);
    for call in ["SELECT trem.applier_definition('a')", "SELECT trem.applier_endpoint('a_src')"] {
        for session in [&mut operators.ada, &mut operators.bob] {
            assert_eq!(session.failure(call).sqlstate, "42501");
        }
    }
}

#[test]
fn a_password_is_for_the_role_that_serves_the_task() {
    let mut operators = Operators::new();
    let read = "SELECT trem.applier_endpoint('a_dst')->>'password'";
    let listed = "SELECT target->>'password' FROM trem.applier_tasks() WHERE name = 'a'";
    for session in [&mut operators.ada, &mut operators.bob] {
        assert_eq!(session.failure(read).sqlstate, "42501");
        // Without a task to serve they may not even ask.
        assert_eq!(session.try_rows(listed).unwrap_or_default(), Vec::<Vec<Option<String>>>::new());
    }
    let mut applier = operators.pair.as_applier();
    assert_eq!(applier.text(read), "ADASECRET");
    assert_eq!(applier.text(listed), "ADASECRET");
    assert_eq!(applier.failure("SELECT trem.applier_endpoint('b_dst')").sqlstate, "42501");
    assert_eq!(operators.pair.source.text(read), "ADASECRET");
    operators.pair.source.exec("CREATE ROLE second_applier LOGIN IN ROLE trem_applier");
    let mut second = operators.pair.source_cluster.connect_as("shop", "second_applier");
    assert_eq!(second.text(read), "ADASECRET");
    operators.ada.exec("SELECT trem.alter_endpoint('a_dst', password => '')");
    assert_eq!(applier.value(read), None);
}

/// The functions for the applier trusted the session's user: a function of bob's that runs with his
/// rights, and that a superuser (or the applier) was talked into calling, read every password.
#[test]
fn a_function_with_its_authors_rights_gets_no_more_than_its_author() {
    let mut operators = Operators::new();
    operators.pair.source.exec("GRANT USAGE ON SCHEMA bobs TO trem_applier");
    for (name, body) in [
        ("endpoint", "SELECT trem.applier_endpoint('a_dst')::text"),
        ("tasks", "SELECT string_agg(target::text, '') FROM trem.applier_tasks()"),
        ("definition", "SELECT trem.applier_definition('a')::text"),
        ("start", "SELECT trem.start_task('a')::text"),
        ("preview", "SELECT string_agg(p::text, '') FROM trem.preview('a', 'app.doc') p"),
        ("status", "SELECT string_agg(s::text, '') FROM trem.applier_status() s"),
        ("pseudonym", "SELECT trem.pseudonym('guess', 'k')"),
    ] {
        operators.bob.exec(&format!(
            "CREATE FUNCTION bobs.{name}() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
             BEGIN RETURN ({body}); END $$"
        ));
        let mut applier = operators.pair.as_applier();
        for session in [&mut operators.pair.source, &mut applier] {
            match session.try_rows(&format!("SELECT bobs.{name}()")) {
                Ok(rows) => assert_eq!(rows, [[None]], "{name}"),
                Err(failure) => assert_eq!(failure.sqlstate, "42501", "{name}: {failure}"),
            }
        }
    }
}

#[test]
fn what_belonged_to_a_dropped_role_is_taken_over_by_a_superuser() {
    let mut operators = Operators::new();
    operators.ada.exec("SELECT trem.stop_task('a')");
    let drop = "REASSIGN OWNED BY ada TO postgres; DROP OWNED BY ada; DROP ROLE ada";
    operators.pair.source.exec(drop);
    let failure = operators.bob.failure("SELECT trem.start_task('a')");
    assert_eq!(failure.sqlstate, "42501");
    failure.assert_says(&["dropped", "superuser"]);
    let owners = "SELECT message FROM trem.check_task('a') WHERE check_name = 'owner'";
    let source = &mut operators.pair.source;
    assert_eq!(source.rows(owners).len(), 3, "task and both endpoints");
    // Each of them says what to do.
    let hints = source.rows(
        "SELECT substring(hint, 'SELECT.*') FROM trem.check_task('a')
        WHERE check_name = 'owner'",
    );
    for hint in hints {
        source.exec(hint[0].as_deref().expect("a statement"));
    }
    assert_eq!(source.rows(owners).len(), 0);
    source.exec("SELECT trem.start_task('a')");
    let mine = "SELECT bool_and(owner = 'postgres'::regrole) FROM (SELECT owner FROM trem.task
        UNION ALL SELECT owner FROM trem.endpoint WHERE name ~ '^a_') o";
    assert!(source.holds(mine));
}

/// A dump is a file that others read. What is lost with it `check_task` says.
#[test]
fn a_dump_has_no_password_and_a_restored_task_asks_for_it() {
    let mut operators = Operators::new();
    let mut dump = Command::new(server_programs().join("pg_dump"));
    dump.arg("-d").arg(operators.pair.source_cluster.conninfo("shop", "postgres"));
    let dumped = output(&mut dump);
    assert!(dumped.contains("a_dst") && !dumped.contains("SECRET"), "{dumped}");
    let source = &mut operators.pair.source;
    let problem = "SELECT severity FROM trem.check_task('a') WHERE check_name = 'password'";
    assert_eq!(source.value(problem), None);
    // As a restored dump has it.
    source.exec("DELETE FROM trem.endpoint_password; DELETE FROM trem.view_token");
    assert_eq!(source.text(problem), "error");
    source.failure("SELECT trem.start_task('a')").assert_says(&["a_dst", "password"]);
    operators.ada.exec("SELECT trem.alter_endpoint('a_dst', password => 'again')");
    operators.ada.exec("SELECT trem.start_task('a')");
    // The views find their tokens again.
    let view = operators.pair.source.text(
        "SELECT format('trem_read.%I', viewname) FROM pg_views WHERE schemaname = 'trem_read'",
    );
    assert_eq!(operators.pair.as_applier().text(&format!("SELECT v FROM {view}")), "ONE");
}

/// What strangers may call tells them nothing.
#[test]
fn a_stranger_gets_nothing() {
    let operators = Operators::new();
    let mut stranger = operators.pair.source_cluster.connect_as("shop", "stranger");
    let calls = stranger.rows(
        "SELECT p.proname, format('SELECT trem.%I(%s)', p.proname, (
             SELECT string_agg('NULL::' || CASE type WHEN 'anyelement'::regtype THEN 'text'
                 WHEN '\"any\"'::regtype THEN 'text' ELSE format_type(type, NULL) END, ', ')
             FROM unnest(p.proargtypes::oid[]) AS type))
         FROM pg_proc p WHERE pronamespace = 'trem'::regnamespace",
    );
    assert!(calls.len() > 40, "{}", calls.len());
    let harmless = [
        "mask_email",
        "mask_number",
        "mask_partial",
        "pseudonym",
        "commit_lsn",
        "commit_timestamp",
        "operation",
    ];
    for call in calls {
        let (name, call) = (call[0].clone().expect("a name"), call[1].clone().expect("a call"));
        match stranger.try_rows(&call) {
            Ok(_) => assert!(harmless.contains(&name.as_str()), "{call}"),
            Err(failure) if name == "previewed" => assert_eq!(failure.sqlstate, "55000", "{call}"),
            Err(failure) => assert_eq!(failure.sqlstate, "42501", "{call}: {failure}"),
        }
    }
    assert_eq!(stranger.failure("SELECT trem.pseudonym('guess', 'k')").sqlstate, "42501");
    assert_eq!(stranger.failure("TABLE trem.task").sqlstate, "42501");
}
