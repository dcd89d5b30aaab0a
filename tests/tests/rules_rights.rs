//! With the applier's credentials, and `output_plugin_libraries = 'trem'` for its role, a person
//! gets no more than the applier: not by SQL, not by the replication protocol's logical commands.

use trem_tests::Pair;

/// Words of values that are masked, left out, or in rows that the filter keeps.
const RAW: [&str; 3] = ["RAWMAIL", "RAWSECRET", "OUTOFSCOPE"];

struct Thief {
    pair: Pair,
    view: String,
}

impl Thief {
    fn new() -> Self {
        let mut pair = Pair::new();
        // Many equal values, so that statistics hold them.
        pair.source.exec(
            "CREATE TABLE person (id int PRIMARY KEY, scope bool, name text, mail text,
             secret text);
             INSERT INTO person SELECT n, n % 2 = 0,
             CASE n % 2 WHEN 0 THEN '7' ELSE 'OUTOFSCOPE' END,
                 'RAWMAIL', 'RAWSECRET' FROM generate_series(1, 100) n; ANALYZE person",
        );
        pair.create_task("t", &["public.person"]);
        pair.call(&[
            // Dear, so that a reader's own condition would be tried first.
            "set_filter('t', 'public.person', 'scope::int + length(upper(lower(name))) = 2')",
            "set_value('t', 'public.person', 'mail', 'md5(mail)')",
            "exclude_column('t', 'public.person', 'secret')",
        ]);
        pair.start_task("t");
        pair.replicate("t");
        let setting = "SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'";
        if pair.source.number(setting) == 1 {
            pair.source.exec("ALTER ROLE trem_applier SET output_plugin_libraries = 'trem'");
        }
        let view = pair.source.text(
            "SELECT format('trem_read.%I', viewname) FROM pg_views WHERE schemaname = 'trem_read'",
        );
        Thief { pair, view }
    }

    /// Tries a statement, or a replication command, with the applier's credentials; nothing raw may
    /// come of it, be it as a row or in a message.
    #[track_caller]
    fn tries(&self, replication: bool, command: &str) -> (bool, String) {
        let mut conninfo = self.pair.source_conninfo();
        if replication {
            conninfo.push_str(" replication=database");
        }
        let (succeeded, printed) = self.pair.source_cluster.psql(&conninfo, command);
        for word in RAW {
            assert!(!printed.contains(word), "{command}\nshows {word}:\n{printed}");
        }
        (succeeded, printed)
    }

    #[track_caller]
    fn is_refused(&self, replication: bool, commands: &[&str]) {
        for command in commands {
            let command = command.replace("VIEW", &self.view);
            let (succeeded, printed) = self.tries(replication, &command);
            assert!(!succeeded, "this should have been refused: {command}\n{printed}");
        }
    }

    #[track_caller]
    fn shows_nothing_raw(&self, commands: &[&str]) {
        for command in commands {
            self.tries(false, &command.replace("VIEW", &self.view));
        }
    }
}

#[test]
fn the_tables_themselves_are_closed() {
    Thief::new().is_refused(
        false,
        &[
            "TABLE person",
            "SELECT count(*) FROM person WHERE mail = 'RAWMAIL'",
            "SELECT mail FROM person LIMIT 1",
            "COPY person TO STDOUT",
            "COPY (SELECT secret FROM person) TO STDOUT",
            "SELECT secret FROM VIEW",
            "SELECT scope, person.* FROM VIEW, person",
            "SELECT lo_import('/etc/passwd')",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "SELECT pg_read_binary_file(pg_relation_filepath('person'))",
            "SELECT pg_ls_waldir()",
            "SELECT pg_stat_file('PG_VERSION')",
            "CREATE EXTENSION pageinspect",
            "CREATE EXTENSION pg_walinspect",
            "CREATE EXTENSION dblink",
            "SET ROLE postgres",
            "SET SESSION AUTHORIZATION postgres",
            "SET row_security = off; TABLE person",
            "CREATE TABLE trem_read.copy AS TABLE VIEW",
            "CREATE OR REPLACE VIEW VIEW AS TABLE person",
            "ALTER VIEW VIEW RESET (security_barrier)",
            "ALTER TABLE person REPLICA IDENTITY FULL",
            "LOCK TABLE person IN ACCESS EXCLUSIVE MODE",
        ],
    );
}

#[test]
fn trems_own_functions_and_tables_give_nothing_away() {
    Thief::new().is_refused(
        false,
        &[
            "SELECT trem.preview('t', 'public.person')",
            "SELECT trem.create_task('mine', 'src', 'dst', '{public.person}')",
            "SELECT trem.add_table('t', 'public.person')",
            "SELECT trem.drop_transformation(1)",
            "SELECT trem.set_filter('t', 'public.person', 'true')",
            "SELECT trem.start_task('t', keep => true)",
            "SELECT trem.grant_operator('trem_applier')",
            "INSERT INTO trem.definition SELECT * FROM trem.definition",
            "UPDATE trem.definition SET content = '{}'",
            "SELECT trem.explain_task('t')",
            "SELECT trem.table_counts('public', exact => true)",
            "SELECT trem.peek_changes('t')",
            "SELECT trem.alter_endpoint('src', username => 'trem_applier')",
            "TABLE trem.endpoint",
            "TABLE trem.transformation",
            "TABLE trem.mask_key",
            "SELECT trem.make_mask_key('x')",
        ],
    );
}

#[test]
fn other_plugins_are_refused_to_the_role() {
    let mut thief = Thief::new();
    let setting = "SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'";
    if thief.pair.source.number(setting) == 0 {
        // A server without the setting cannot keep other plugins from a role: README says so.
        return;
    }
    thief.pair.source.exec("CREATE PUBLICATION everything FOR ALL TABLES");
    thief.is_refused(
        false,
        &[
            "SELECT pg_create_logical_replication_slot('x', 'test_decoding')",
            "SELECT pg_create_logical_replication_slot('x', 'pgoutput')",
            "SET output_plugin_libraries = 'test_decoding';
             SELECT pg_create_logical_replication_slot('x', 'test_decoding')",
            "ALTER ROLE trem_applier RESET output_plugin_libraries",
            "ALTER ROLE trem_applier SET output_plugin_libraries = 'test_decoding'",
            "CREATE SUBSCRIPTION s CONNECTION 'dbname=shop' PUBLICATION everything",
        ],
    );
    thief.is_refused(
        true,
        &[
            "CREATE_REPLICATION_SLOT x LOGICAL test_decoding",
            "CREATE_REPLICATION_SLOT x TEMPORARY LOGICAL pgoutput",
            "SET output_plugin_libraries = 'test_decoding'",
        ],
    );
}

/// A slot that somebody else made for another plugin is no way around.
#[test]
fn a_slot_of_another_plugin_is_refused_to_the_role() {
    let mut thief = Thief::new();
    let setting = "SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'";
    if thief.pair.source.number(setting) == 0 {
        return;
    }
    thief.pair.source.exec("SELECT pg_create_logical_replication_slot('other', 'test_decoding')");
    thief.pair.source.exec("UPDATE person SET mail = 'RAWMAIL 2', name = 'OUTOFSCOPE 2'");
    thief.is_refused(
        false,
        &[
            "SELECT * FROM pg_logical_slot_peek_changes('other', NULL, NULL)",
            "SELECT * FROM pg_logical_slot_get_binary_changes('other', NULL, NULL)",
            "SELECT pg_copy_logical_replication_slot('trem_t', 'mine', false, 'test_decoding')",
        ],
    );
    thief.is_refused(true, &["START_REPLICATION SLOT other LOGICAL 0/0"]);
}

/// The task's own slot, read by hand, says what it says to the applier.
#[test]
fn the_stream_by_hand_is_the_stream_of_the_applier() {
    let mut thief = Thief::new();
    thief
        .pair
        .source
        .exec("UPDATE person SET mail = 'RAWMAIL 2', name = 'OUTOFSCOPE' WHERE NOT scope");
    thief.pair.source.exec("UPDATE person SET mail = 'RAWMAIL 3' WHERE scope");
    let peek = "SELECT encode(data, 'escape') FROM pg_logical_slot_peek_binary_changes('trem_t',
        NULL, NULL, 'task', 't', 'definition_version', '1')";
    let (succeeded, printed) = thief.tries(false, peek);
    assert!(succeeded && printed.len() > 1000, "{printed}");
    thief.is_refused(
        false,
        &[
            "SELECT pg_logical_slot_peek_binary_changes('trem_t', NULL, NULL)",
            "SELECT pg_logical_slot_peek_binary_changes('trem_t', NULL, NULL, 'task', 't',
                 'definition_version', '2')",
            "SELECT pg_logical_slot_peek_binary_changes('trem_t', NULL, NULL, 'task', 'u',
                 'definition_version', '1')",
        ],
    );
}

/// Whoever reads a view may have functions of his own judge its rows: the filter comes first.
#[test]
fn a_readers_own_conditions_never_see_rows_out_of_scope() {
    Thief::new().shows_nothing_raw(&[
        "CREATE FUNCTION pg_temp.leak(text) RETURNS bool LANGUAGE plpgsql COST 0.0001
             AS $$ BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END $$;
         SELECT count(*) FROM VIEW WHERE pg_temp.leak(name)",
        "SELECT count(*) FROM VIEW WHERE name::int > 0",
        "SELECT count(*) FROM VIEW WHERE id % 2 = 1 AND name::int > 0",
        "EXPLAIN (VERBOSE) SELECT * FROM VIEW",
    ]);
}

#[test]
fn statistics_show_nothing() {
    Thief::new().shows_nothing_raw(&[
        "SELECT * FROM pg_stats WHERE tablename = 'person'",
        "SELECT * FROM pg_stats_ext",
        "SELECT query FROM pg_stat_activity",
    ]);
    Thief::new().is_refused(false, &["SELECT * FROM pg_statistic"]);
}

/// A value that a rule cannot compute is quoted by the server's own words, wherever they go.
#[test]
fn errors_of_expressions_show_nothing() {
    let mut thief = Thief::new();
    thief.pair.source.exec(
        "CREATE TABLE broken (id int PRIMARY KEY, v text, secret text);
         INSERT INTO broken VALUES (1, 'RAWMAIL', '17'), (2, '12', 'RAWSECRET')",
    );
    thief.pair.create_task("u", &["public.broken"]);
    thief.pair.call(&[
        "change_type('u', 'public.broken', 'v', 'int')",
        "set_filter('u', 'public.broken', 'secret::int > 0')",
        "exclude_column('u', 'public.broken', 'secret')",
    ]);
    thief.pair.start_task("u");
    let broken = "SELECT format('trem_read.%I', leaf->>'view') FROM trem.definition,
        jsonb_path_query(content, '$.tables[*].leaves[*]') leaf WHERE leaf->>'name' = 'broken'";
    thief.view = thief.pair.source.text(broken);
    let oid = thief.pair.source.number("SELECT 'broken'::regclass::oid::bigint");
    thief.is_refused(
        false,
        &[
            "TABLE VIEW",
            "COPY (SELECT * FROM VIEW) TO STDOUT",
            "SELECT v FROM VIEW WHERE id = 1",
            "SELECT id FROM VIEW WHERE id = 2",
            "EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM VIEW",
            "CREATE TEMPORARY TABLE mine AS TABLE VIEW",
            "SET log_min_messages = debug5",
        ],
    );
    thief.shows_nothing_raw(&[
        "DO $$
         DECLARE message text; detail text; hint text; context text;
         BEGIN
             PERFORM * FROM VIEW;
         EXCEPTION WHEN OTHERS THEN
             GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
                 hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
             RAISE NOTICE '% % % %', message, detail, hint, context;
         END $$",
        "SET client_min_messages = debug5; TABLE VIEW",
        &format!("SELECT encode(frame, 'escape') FROM trem.applier_rows('u', {oid}) AS frame"),
    ]);
}

/// The role of one task is a stranger to another one.
#[test]
fn a_task_that_the_role_does_not_serve_is_closed() {
    let mut thief = Thief::new();
    for sql in [
        "CREATE ROLE other_applier LOGIN REPLICATION",
        "SELECT trem.create_endpoint('other', 'source', username => 'other_applier')",
        "SELECT trem.create_task('other', 'other', 'dst', '{public.person}')",
        "SELECT trem.start_task('other')",
        "SELECT pg_create_logical_replication_slot('trem_other', 'trem')",
        "UPDATE person SET mail = 'RAWMAIL 2', name = 'OUTOFSCOPE' WHERE NOT scope",
    ] {
        thief.pair.source.exec(sql);
    }
    let oid = thief.pair.source.number("SELECT 'person'::regclass::oid::bigint");
    let number = format!("TABLE trem_read.other_{oid}");
    let rows = format!("SELECT trem.applier_rows('other', {oid})");
    let of_other = "NULL, NULL, 'task', 'other', 'definition_version', '1')";
    let own_slot = format!("SELECT pg_logical_slot_peek_binary_changes('trem_t', {of_other}");
    let its_slot = format!("SELECT pg_logical_slot_peek_binary_changes('trem_other', {of_other}");
    thief.is_refused(
        false,
        &[
            &number,
            &rows,
            &own_slot,
            &its_slot,
            "SELECT trem.applier_definition('other')",
            "SELECT trem.applier_endpoint('other')",
        ],
    );
    for slot in ["trem_t", "trem_other"] {
        let start = format!(
            "START_REPLICATION SLOT {slot} LOGICAL 0/0 (task 'other', definition_version '1',
             proto_version '1', compression 'none')"
        );
        thief.is_refused(true, &[&start]);
    }
    let own_task = "SELECT encode(data, 'escape') FROM pg_logical_slot_peek_binary_changes(
        'trem_other', NULL, NULL, 'task', 't', 'definition_version', '1')";
    let (succeeded, printed) = thief.tries(false, own_task);
    assert!(succeeded, "{printed}");
}
