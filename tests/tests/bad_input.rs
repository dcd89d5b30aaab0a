//! What a person may get wrong in SQL and on the command line: each mistake is refused with a
//! message that names the culprit and the remedy, and nothing is half done.

use trem_tests::Pair;

/// Two tables in a schema, and a draft task `t` of the first.
fn drafted() -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(
        "CREATE SCHEMA app;
         CREATE TABLE app.person (id int PRIMARY KEY, name text, secret text);
         CREATE TABLE app.animal (id int PRIMARY KEY, name text);
         CREATE VIEW app.names AS SELECT name FROM app.person;
         CREATE UNLOGGED TABLE app.quick (id int PRIMARY KEY)",
    );
    pair.create_task("t", &["app.person"]);
    pair
}

/// A statement that must fail and say `parts`, leaving the draft as it was.
#[track_caller]
fn check(statement: &str, parts: &[&str]) {
    let mut pair = drafted();
    let draft = "SELECT jsonb_build_array(
        (SELECT jsonb_agg(t) FROM trem.task t), (SELECT jsonb_agg(t) FROM trem.task_table t),
        (SELECT jsonb_agg(t) FROM trem.transformation t),
        (SELECT jsonb_agg(t) FROM trem.endpoint t))";
    let before = pair.source.text(draft);
    pair.source.failure(statement).assert_says(parts);
    assert_eq!(pair.source.text(draft), before, "nothing is half done");
}

/// One test for each mistake.
macro_rules! mistakes {
    ($($name:ident: $statement:expr, $parts:expr;)*) => {
        $(#[test] fn $name() { check($statement, &$parts); })*
    };
}

mistakes! {
    an_unknown_task_is_named: "SELECT trem.start_task('nope')", ["\"nope\"", "trem.task"];
    an_unknown_table_is_named: "SELECT trem.add_table('t', 'app.nope')", ["app.nope"];
    a_table_of_no_schema_is_refused: "SELECT trem.add_table('t', 'nope.person')", ["nope"];
    a_name_that_is_no_identifier_is_refused:
        "SELECT trem.add_table('t', 'app.per son')", ["per son"];
    a_table_that_is_not_in_the_task_is_refused:
        "SELECT trem.rename_table('t', 'app.animal', 'x')", ["app.animal", "trem.add_table"];
    an_unknown_column_is_named:
        "SELECT trem.rename_column('t', 'app.person', 'nope', 'x')", ["nope", "app.person"];
    an_unknown_task_option_lists_the_known_ones:
        "SELECT trem.alter_task('t', '{\"jobs\": 2}')",
        ["\"jobs\"", "full_load_jobs", "compression"];
    an_invalid_value_of_an_option_is_refused:
        "SELECT trem.alter_task('t', '{\"target_tables\": \"drop\"}')",
        ["target_tables", "truncate"];
    no_jobs_at_all_are_refused:
        "SELECT trem.alter_task('t', '{\"full_load_jobs\": 0}')",
        ["full_load_jobs", "between 1 and"];
    an_unknown_mode_lists_the_known_ones:
        "SELECT trem.create_task('u', 'src', 'dst', '{app.animal}', mode => 'all')",
        ["\"all\"", "full_load_and_cdc"];
    a_task_name_that_cannot_name_a_slot_is_refused:
        "SELECT trem.create_task('My Task', 'src', 'dst', '{app.animal}')", ["My Task"];
    a_task_that_exists_is_not_made_again:
        "SELECT trem.create_task('t', 'src', 'dst', '{app.animal}')", ["\"t\"", "exists"];
    an_unknown_endpoint_is_named:
        "SELECT trem.create_task('u', 'nope', 'dst', '{app.animal}')",
        ["\"nope\"", "trem.endpoint"];
    a_target_is_no_source:
        "SELECT trem.create_task('u', 'dst', 'src', '{app.animal}')", ["\"dst\"", "source"];
    a_view_is_not_replicated: "SELECT trem.add_table('t', 'app.names')", ["app.names", "view"];
    an_unlogged_table_is_not_replicated:
        "SELECT trem.add_table('t', 'app.quick')", ["app.quick", "SET LOGGED"];
    a_key_column_cannot_be_excluded:
        "SELECT trem.exclude_column('t', 'app.person', 'id')", ["\"id\"", "key"];
    an_empty_new_name_is_refused:
        "SELECT trem.rename_table('t', 'app.person', '')", ["name"];
    a_new_name_of_more_than_63_bytes_is_refused:
        "SELECT trem.rename_table('t', 'app.person', repeat('é', 32))", ["63"];
    an_unknown_transformation_is_named:
        "SELECT trem.drop_transformation(4711)", ["4711", "trem.transformation"];
    an_unknown_kind_of_endpoint_lists_the_known_ones:
        "SELECT trem.create_endpoint('e', 'target', kind => 'oracle')",
        ["\"oracle\"", "postgresql"];
    an_unknown_role_of_an_endpoint_lists_the_known_ones:
        "SELECT trem.create_endpoint('e', 'sink')", ["\"sink\"", "source", "target"];
    an_unknown_endpoint_option_lists_the_known_ones:
        "SELECT trem.create_endpoint('e', 'target', options => '{\"pw\": 1}')",
        ["\"pw\"", "password_env"];
    a_source_in_another_database_is_refused:
        "SELECT trem.create_endpoint('e', 'source', dbname => 'postgres')", ["\"shop\""];
    two_sources_of_a_password_are_refused:
        "SELECT trem.create_endpoint('e', 'target', password => 'x',
         options => '{\"passfile\": \"/x\"}')", ["password"];
    an_endpoint_in_use_is_not_dropped: "SELECT trem.drop_endpoint('dst')", ["\"dst\"", "t"];
}

#[test]
fn two_tables_of_one_name_on_the_target_are_refused() {
    let mut pair = drafted();
    pair.source.exec("SELECT trem.add_table('t', 'app.animal')");
    let rename = "SELECT trem.rename_table('t', 'app.animal', 'person')";
    // The clash is seen at once or when the task starts, which needs the whole draft.
    let failure = pair.source.try_exec(rename).err();
    let failure = failure.unwrap_or_else(|| pair.source.failure("SELECT trem.start_task('t')"));
    failure.assert_says(&["app.person", "app.animal"]);
    assert_eq!(pair.source.number("SELECT count(*) FROM trem.definition"), 0);
}

#[test]
fn two_columns_of_one_name_on_the_target_are_refused() {
    let mut pair = drafted();
    let rename = "SELECT trem.rename_column('t', 'app.person', 'name', 'secret')";
    let failure = pair.source.try_exec(rename).err();
    let failure = failure.unwrap_or_else(|| pair.source.failure("SELECT trem.start_task('t')"));
    failure.assert_says(&["\"secret\"", "app.person"]);
}

#[test]
fn a_started_task_is_not_dropped() {
    let mut pair = drafted();
    pair.start_task("t");
    let failure = pair.source.failure("SELECT trem.drop_task('t')");
    failure.assert_says(&["\"t\"", "trem.stop_task('t')"]);
}

#[test]
fn a_changed_rule_of_a_published_table_asks_for_a_reload_or_to_keep() {
    let mut pair = drafted();
    pair.start_task("t");
    pair.source.exec("SELECT trem.exclude_column('t', 'app.person', 'secret')");
    let failure = pair.source.failure("SELECT trem.start_task('t')");
    failure.assert_says(&["app.person", "trem.reload_table", "keep"]);
    pair.source.exec("SELECT trem.reload_table('t', 'app.person')");
    pair.source.exec("SELECT trem.start_task('t')");
}

#[test]
fn a_pattern_that_matches_nothing_is_refused_at_start() {
    let mut pair = drafted();
    pair.source.exec("CREATE SCHEMA empty");
    let added = pair.source.try_exec("SELECT trem.add_table('t', 'empty.*')").err();
    let failure = added.unwrap_or_else(|| pair.source.failure("SELECT trem.start_task('t')"));
    failure.assert_says(&["empty"]);
}

#[test]
fn a_table_that_was_dropped_is_named_with_every_other_problem() {
    let mut pair = drafted();
    pair.source.exec("DROP TABLE app.person CASCADE; ALTER ROLE trem_applier NOREPLICATION");
    let failure = pair.source.failure("SELECT trem.start_task('t')");
    failure.assert_says(&["app.person", "REPLICATION"]);
    let found =
        pair.source.number("SELECT count(*) FROM trem.check_task('t') WHERE severity = 'error'");
    assert!(found >= 2, "check_task lists all of it at once");
}

/// Arguments of the program, its exit code, what it says.
#[track_caller]
fn check_arguments(arguments: &[&str], code: i32, parts: &[&str]) {
    let mut pair = drafted();
    pair.expect_log("");
    pair.applier_with(arguments, &[]).wait().assert_code(code).assert_says(parts);
}

#[test]
fn a_task_that_is_unknown_to_the_program_is_named() {
    check_arguments(&["run", "--task", "nope", "--until-caught-up"], 2, &["nope"]);
}

#[test]
fn a_program_with_nothing_to_serve_says_so() {
    check_arguments(&["run", "--until-caught-up"], 2, &["trem.start_task"]);
}

#[test]
fn a_task_that_is_not_started_is_not_run() {
    let arguments = ["run", "--task", "t", "--until-caught-up"];
    check_arguments(&arguments, 2, &["trem.start_task('t')"]);
}

#[test]
fn a_role_without_any_right_is_told_where_rights_come_from() {
    let mut pair = drafted();
    pair.source.exec("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA trem FROM trem_applier");
    pair.expect_log("");
    let outcome = pair.run_until_caught_up("t");
    assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
    outcome.assert_says(&["function applier_tasks", "source endpoint"]);
}

#[test]
fn an_unknown_flag_is_refused() {
    check_arguments(&["run", "--faster"], 2, &["--faster"]);
}

#[test]
fn a_check_of_an_unknown_task_fails() {
    check_arguments(&["check", "--task", "nope"], 1, &["nope"]);
}

#[test]
fn an_inspection_of_an_unknown_endpoint_fails() {
    check_arguments(&["inspect", "--endpoint", "nope"], 1, &["nope"]);
}

/// The program with a source of its own.
#[track_caller]
fn check_source(source: &str, code: i32, parts: &[&str]) {
    let pair = drafted();
    let log = pair.source_cluster.folder().join("program.log");
    let arguments = ["run", "--until-caught-up", "--source", source];
    let mut applier = trem_tests::Applier::start(&arguments, &[], log);
    applier.wait().assert_code(code).assert_says(parts);
}

#[test]
fn a_connection_string_that_cannot_be_read_is_refused() {
    check_source("host=/tmp port=many", 2, &["port"]);
}

#[test]
fn an_unknown_word_in_a_connection_string_is_named() {
    check_source("host=/tmp hots=x", 2, &["hots"]);
}

#[test]
fn a_missing_source_is_refused() {
    let pair = drafted();
    let log = pair.source_cluster.folder().join("program.log");
    let mut applier = trem_tests::Applier::start(&["run"], &[], log);
    applier.wait().assert_code(2).assert_says(&["--source"]);
}

#[test]
fn a_password_is_never_printed() {
    let mut pair = drafted();
    pair.source
        .exec("SELECT trem.alter_endpoint('dst', password => 'hunter2', username => 'nobody')");
    pair.start_task("t");
    pair.expect_log("");
    let outcome = pair.run_until_caught_up("t");
    assert!(!outcome.log.contains("hunter2"), "{}", outcome.log);
    for view in ["task_status", "transformation", "endpoint", "task"] {
        let shown = format!("SELECT coalesce(jsonb_agg(t), '[]') FROM trem.{view} t");
        if view != "endpoint" {
            assert!(!pair.source.text(&shown).contains("hunter2"), "{view}");
        }
    }
}
