//! With the applier's credentials a person gets no more than the applier: not by SQL, not by the
//! replication protocol, provided that its role is set up as README.md says under "Roles".

use trem_tests::{knows_output_plugin_libraries, wait_for, Pair, Settings};

/// How README.md keeps the applier's role to logical replication.
const PRELOADED: Settings<'_> = &[("shared_preload_libraries", "'trem'")];
const ONLY_PLUGIN: &str = "ALTER ROLE trem_applier SET output_plugin_libraries = 'trem'";
const AUTHENTICATION: &str = "local replication trem_applier reject
host replication trem_applier all reject";

/// What is said to somebody who tries physical replication.
const LOGICAL_ONLY: &str = "this role may use logical replication only";

const BACKUP: &str = "BASE_BACKUP (CHECKPOINT 'fast', WAIT false)";

/// Words of values that are masked, left out, or in rows that the filter keeps.
const RAW: [&str; 3] = ["RAWMAIL", "RAWSECRET", "OUTOFSCOPE"];

struct Thief {
    pair: Pair,
    view: String,
}

impl Thief {
    fn new() -> Self {
        let mut pair = Pair::with_settings(PRELOADED, &[]);
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
        if knows_output_plugin_libraries() {
            pair.source.exec(ONLY_PLUGIN);
        }
        pair.source_cluster.authenticate(AUTHENTICATION);
        pair.source_cluster.reload();
        pair.replicate("t");
        let view = pair.source.text(
            "SELECT format('trem_read.%I', viewname) FROM pg_views WHERE schemaname = 'trem_read'",
        );
        Thief { pair, view }
    }

    /// Tries a statement, or a replication command, with the applier's credentials; nothing raw may
    /// come of it, be it as a row or in a message.
    #[track_caller]
    fn tries(&self, replication: bool, command: &str) -> (bool, String) {
        let more = if replication { "replication=database" } else { "" };
        self.tries_in_one_session(more, &[command])
    }

    #[track_caller]
    fn tries_in_one_session(&self, more_conninfo: &str, commands: &[&str]) -> (bool, String) {
        let conninfo = format!("{} {more_conninfo}", self.pair.source_conninfo());
        let (succeeded, printed) = self.pair.source_cluster.psql(&conninfo, commands);
        for word in RAW {
            assert!(!printed.contains(word), "{commands:?}\nshows {word}:\n{}", head(&printed));
        }
        (succeeded, printed)
    }

    /// Tries physical replication on a connection that may do logical replication, after other
    /// commands.
    #[track_caller]
    fn is_kept_to_logical(&self, commands: &[&str]) {
        let (succeeded, printed) = self.tries_in_one_session("replication=database", commands);
        let refused = !succeeded && printed.contains(LOGICAL_ONLY);
        assert!(refused, "{commands:?}\n{}", head(&printed));
    }

    /// A backup with the credentials of somebody else, who gets what there is.
    fn backup_as(&self, role: &str, replication: &str) -> String {
        let source = self.pair.source_cluster.conninfo("shop", role);
        let conninfo = format!("{source} replication={replication}");
        self.pair.source_cluster.psql(&conninfo, &[BACKUP]).1
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

/// The beginning of what may be a whole backup.
fn head(printed: &str) -> String {
    printed.chars().take(2000).collect()
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
            "SELECT pg_read_file('postgresql.conf')",
            "SELECT pg_ls_dir('.')",
            "SELECT pg_backup_start('mine')",
            "LOAD 'pgoutput'",
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
    // A server without the setting cannot keep a role to one plugin: README says so.
    if !knows_output_plugin_libraries() {
        return;
    }
    let mut thief = Thief::new();
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
    if !knows_output_plugin_libraries() {
        return;
    }
    let mut thief = Thief::new();
    thief.pair.source.exec("SELECT pg_create_logical_replication_slot('other', 'test_decoding')");
    thief.pair.source.exec("UPDATE person SET mail = 'RAWMAIL 2', name = 'OUTOFSCOPE 2'");
    thief.is_refused(
        false,
        &[
            "SELECT * FROM pg_logical_slot_peek_changes('other', NULL, NULL)",
            "SELECT * FROM pg_logical_slot_get_changes('other', NULL, NULL)",
            "SELECT * FROM pg_logical_slot_get_binary_changes('other', NULL, NULL)",
            "SELECT pg_copy_logical_replication_slot('trem_t', 'mine', false, 'test_decoding')",
        ],
    );
    thief.is_refused(true, &["START_REPLICATION SLOT other LOGICAL 0/0"]);
}

/// All that the applier does, it does with its role set up like this.
#[test]
fn the_task_is_served_by_a_role_that_is_kept_to_logical_replication() {
    let mut thief = Thief::new();
    let on_source = "SELECT id, scope, name, md5(mail) FROM person WHERE scope AND name = '7'";
    thief.pair.assert_same(on_source, "SELECT * FROM person");
    thief.pair.follow("t", |source| {
        source.exec("UPDATE person SET mail = 'RAWMAIL 2' WHERE id % 3 = 0");
        source.exec("UPDATE person SET scope = NOT scope, name = '7' WHERE id % 5 = 0");
        source.exec("DELETE FROM person WHERE id % 7 = 0");
    });
    thief.pair.assert_same(on_source, "SELECT * FROM person");
    thief.pair.call(&["reload_table('t', 'public.person')"]);
    thief.pair.replicate("t");
    thief.pair.assert_same(on_source, "SELECT * FROM person");
}

/// REPLICATION alone lets a role have the whole cluster, files and WAL.
#[test]
fn physical_replication_is_refused_to_the_role() {
    if !knows_output_plugin_libraries() {
        return;
    }
    let mut thief = Thief::new();
    thief.pair.source.exec(
        "CREATE ROLE careless LOGIN REPLICATION;
         SELECT pg_create_physical_replication_slot('physical')",
    );
    for word in RAW {
        assert!(thief.backup_as("careless", "database").contains(word), "what there is to steal");
    }
    for command in [
        BACKUP,
        "BASE_BACKUP",
        "\t BASE_BACKUP(LABEL 'START_REPLICATION SLOT trem_t LOGICAL 0/0');",
        "START_REPLICATION 0/1000000",
        "START_REPLICATION PHYSICAL 0/1000000 TIMELINE 1",
        "START_REPLICATION SLOT physical 0/1000000",
        "START_REPLICATION SLOT \"physical\" PHYSICAL 0/1000000;",
        "\n\x0CSTART_REPLICATION\tSLOT\r\nphysical\nPHYSICAL\t0/1000000",
        "START_REPLICATION SLOT logical 0/1000000",
        "START_REPLICATION SLOT \"x LOGICAL 0/0\" PHYSICAL 0/1000000",
        "CREATE_REPLICATION_SLOT mine PHYSICAL RESERVE_WAL",
        "CREATE_REPLICATION_SLOT \"LOGICAL\" TEMPORARY PHYSICAL",
    ] {
        thief.is_kept_to_logical(&[command]);
    }
    // To the server these are no replication commands, and no SQL.
    thief.is_refused(true, &["base_backup", "start_replication physical 0/1000000", "UPLOAD"]);
    // Without a database the role's settings are not read: pg_hba.conf has to refuse it.
    for replication in ["true", "on", "yes", "1"] {
        let more = format!("replication={replication}");
        wait_for("pg_hba.conf to be read", || {
            let (succeeded, printed) = thief.tries_in_one_session(&more, &["IDENTIFY_SYSTEM"]);
            !succeeded && printed.contains("pg_hba.conf rejects replication connection")
        });
        assert!(!thief.tries_in_one_session(&more, &[BACKUP]).0);
    }
    assert!(thief.tries(true, "IDENTIFY_SYSTEM").0, "logical replication is left to it");
    let after = thief.tries_in_one_session("replication=database", &[BACKUP, "IDENTIFY_SYSTEM"]);
    assert!(!after.0, "a session that tried does not go on: {}", after.1);
}

#[test]
fn the_role_cannot_free_itself_for_physical_replication() {
    if !knows_output_plugin_libraries() {
        return;
    }
    let mut thief = Thief::new();
    for setting in [
        "output_plugin_libraries=pgoutput",
        "log_replication_commands=off",
        "log_min_messages=panic",
        "shared_preload_libraries=",
    ] {
        let more = format!("replication=database options='-c {setting}'");
        let (succeeded, printed) = thief.tries_in_one_session(&more, &[BACKUP]);
        let refused = !succeeded && printed.contains(" parameter ");
        assert!(refused, "{setting}\n{}", head(&printed));
    }
    let attempts = [
        "SET log_replication_commands = off",
        "SET log_min_messages = panic",
        "RESET log_replication_commands",
        "RESET output_plugin_libraries",
        "ALTER SYSTEM SET output_plugin_libraries = pgoutput",
        "ALTER SYSTEM SET shared_preload_libraries = ''",
        "ALTER DATABASE shop SET output_plugin_libraries = pgoutput",
        "ALTER ROLE trem_applier RESET output_plugin_libraries",
        "ALTER ROLE trem_applier SET output_plugin_libraries = pgoutput",
        "ALTER ROLE trem_applier IN DATABASE shop SET output_plugin_libraries = pgoutput",
        "ALTER ROLE trem_applier SET log_replication_commands = off",
        "ALTER ROLE trem_applier SET log_min_messages = panic",
        "SELECT set_config('log_replication_commands', 'off', false)",
        "CREATE ROLE free LOGIN REPLICATION",
        "LOAD 'trem'",
        "LOAD '$libdir/plugins/trem'",
    ];
    thief.is_refused(true, &attempts);
    thief.is_refused(false, &attempts);
    // These succeed and change nothing of it; client_min_messages has no say either.
    let harmless = [
        "ALTER ROLE trem_applier RESET ALL",
        "ALTER ROLE trem_applier IN DATABASE shop RESET ALL",
        "ALTER ROLE trem_applier SET local_preload_libraries = ''",
        "RESET ALL",
        "DISCARD ALL",
        "SET client_min_messages = error",
        "SET lc_messages = 'C'",
    ];
    for command in harmless {
        thief.tries(false, command);
        thief.is_kept_to_logical(&[command, BACKUP]);
    }
    let all: Vec<&str> = attempts.into_iter().chain(harmless).chain([BACKUP]).collect();
    thief.is_kept_to_logical(&all);
    let kept = "SELECT count(*) FROM pg_db_role_setting, unnest(setconfig) AS setting
        WHERE setrole = 'trem_applier'::regrole AND setting = 'output_plugin_libraries=trem'";
    assert_eq!(thief.pair.source.number(kept), 1);
}

/// The refusal hangs on a line of the server's log, which settings could suppress.
#[test]
fn a_server_that_logs_little_refuses_physical_replication_as_well() {
    if !knows_output_plugin_libraries() {
        return;
    }
    let mut thief = Thief::new();
    for level in ["fatal", "panic", "log", "debug5"] {
        thief.pair.source.exec(&format!("ALTER ROLE trem_applier SET log_min_messages = {level}"));
        thief.is_kept_to_logical(&[BACKUP]);
        thief.is_kept_to_logical(&["START_REPLICATION PHYSICAL 0/1000000"]);
    }
    thief.pair.source.exec("ALTER ROLE trem_applier SET log_replication_commands = off");
    thief.is_kept_to_logical(&[BACKUP]);
}

/// Standbys and backups connect without a database, and go on even where everybody may decode with
/// TREM alone.
#[test]
fn physical_replication_of_others_is_left_alone() {
    if !knows_output_plugin_libraries() {
        return;
    }
    let mut thief = Thief::new();
    thief.pair.source.exec("CREATE ROLE standby LOGIN REPLICATION");
    thief.pair.source.exec("ALTER SYSTEM SET output_plugin_libraries = trem");
    thief.pair.source_cluster.reload();
    wait_for("the setting to be read", || {
        let mut session = thief.pair.source_cluster.connect("shop");
        session.text("SHOW output_plugin_libraries") == "trem"
    });
    assert!(thief.backup_as("standby", "true").contains(RAW[0]));
    assert!(thief.backup_as("standby", "database").contains(LOGICAL_ONLY));
    assert!(thief.backup_as("postgres", "database").contains(RAW[0]), "a superuser is not held");
}

/// A role may connect to databases that have nothing of TREM.
#[test]
fn the_role_is_kept_to_logical_replication_in_every_database() {
    if !knows_output_plugin_libraries() {
        return;
    }
    let mut thief = Thief::new();
    thief.pair.source.exec("CREATE DATABASE elsewhere");
    for database in ["elsewhere", "postgres"] {
        let more = format!("dbname={database}");
        let (succeeded, printed) = thief.tries_in_one_session(&more, &["SELECT 6 * 7"]);
        assert!(succeeded && printed.trim() == "42", "{printed}");
        let more = format!("dbname={database} replication=database");
        let (succeeded, printed) = thief.tries_in_one_session(&more, &["IDENTIFY_SYSTEM", BACKUP]);
        assert!(!succeeded && printed.contains(LOGICAL_ONLY), "{printed}");
    }
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
