//! The applier's role reads through the views of its tasks, and nothing else.

use trem_tests::Pair;

fn with_secret() -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(
        "CREATE TABLE person (id int PRIMARY KEY, name text, secret text);
         INSERT INTO person SELECT n, 'name', 'secret' FROM generate_series(1, 10) n;
         CREATE TABLE other (id int PRIMARY KEY)",
    );
    pair.create_task("t", &["public.person"]);
    pair.source.exec("SELECT trem.exclude_column('t', 'public.person', 'secret')");
    pair.start_task("t");
    pair
}

#[test]
fn the_appliers_role_cannot_read_the_tables() {
    let mut pair = with_secret();
    let mut applier = pair.as_applier();
    for table in ["person", "other"] {
        let failure = applier.failure(&format!("SELECT * FROM {table}"));
        assert_eq!(failure.sqlstate, "42501", "{failure}");
    }
    pair.replicate("t");
    pair.assert_same("SELECT id, name FROM person", "SELECT * FROM person");
    pair.follow("t", |source| source.exec("UPDATE person SET name = 'new', secret = 'x'"));
    pair.assert_same("SELECT id, name FROM person", "SELECT * FROM person");
}

#[test]
fn the_appliers_role_reads_the_views_of_its_task_alone() {
    let mut pair = with_secret();
    let views = pair
        .source
        .rows("SELECT quote_ident(viewname) FROM pg_views WHERE schemaname = 'trem_read'");
    assert_eq!(views.len(), 1);
    let view = views[0][0].clone().expect("a name");
    let mut applier = pair.as_applier();
    assert_eq!(applier.number(&format!("SELECT count(*) FROM trem_read.{view}")), 10);
    let failure = applier.failure(&format!("SELECT secret FROM trem_read.{view}"));
    assert_eq!(failure.sqlstate, "42703", "{failure}");
    pair.source.exec("CREATE ROLE stranger LOGIN");
    let mut stranger = pair.source_cluster.connect_as("shop", "stranger");
    let failure = stranger.failure(&format!("SELECT * FROM trem_read.{view}"));
    assert_eq!(failure.sqlstate, "42501", "{failure}");
}

#[test]
fn the_appliers_role_can_neither_read_nor_change_what_trem_keeps() {
    let mut pair = with_secret();
    let tables = pair.source.rows(
        "SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'trem'::regnamespace
         AND relkind = 'r'",
    );
    assert!(tables.len() >= 4, "{tables:?}");
    let mut applier = pair.as_applier();
    for table in tables {
        let table = table[0].clone().expect("a name");
        for statement in [format!("DELETE FROM {table}"), format!("TRUNCATE {table}")] {
            let failure = applier.failure(&statement);
            assert_eq!(failure.sqlstate, "42501", "{statement}: {failure}");
        }
    }
    let failure = applier.failure("SELECT password FROM trem.endpoint");
    assert_eq!(failure.sqlstate, "42501", "{failure}");
}

#[test]
fn nothing_is_open_to_everybody() {
    let mut pair = with_secret();
    pair.source.exec("CREATE ROLE stranger LOGIN");
    let mut stranger = pair.source_cluster.connect_as("shop", "stranger");
    for call in [
        "SELECT trem.list_schemas()",
        "SELECT trem.applier_tasks()",
        "SELECT trem.applier_definition('t')",
        "SELECT trem.start_task('t')",
        "SELECT * FROM trem.task_status",
    ] {
        let failure = stranger.failure(call);
        assert_eq!(failure.sqlstate, "42501", "{call}: {failure}");
    }
    assert!(stranger.try_exec("SELECT pg_create_logical_replication_slot('x', 'trem')").is_err());
}

#[test]
fn another_applier_role_may_not_serve_the_task() {
    let mut pair = with_secret();
    pair.source.exec("CREATE ROLE other_applier LOGIN REPLICATION");
    let source = pair.source_cluster.conninfo("shop", "other_applier");
    pair.expect_log("");
    let arguments = ["run", "--task", "t", "--until-caught-up", "--source", &source];
    let log = pair.source_cluster.folder().join("other.log");
    let mut applier = trem_tests::Applier::start(&arguments, &[], log);
    let outcome = applier.wait();
    assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
}

#[test]
fn a_dropped_task_leaves_nothing_behind() {
    let mut pair = with_secret();
    pair.replicate("t");
    pair.source.exec("SELECT trem.stop_task('t')");
    pair.source.exec("SELECT trem.drop_task('t')");
    assert_eq!(pair.source.number("SELECT count(*) FROM pg_replication_slots"), 0);
    let views = "SELECT count(*) FROM pg_views WHERE schemaname = 'trem_read'";
    assert_eq!(pair.source.number(views), 0);
    assert_eq!(pair.source.number("SELECT count(*) FROM trem.task"), 0);
}
