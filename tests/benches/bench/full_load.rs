//! The first copy of three tables with keys and indexes, about 650 MB, into an empty database.
//!
//! Each has four jobs. A native subscription copies into tables that are there, indexes included,
//! because that is how it works; TREM and pgcopydb make them.

use std::process::Command;
use std::time::Instant;

use trem_tests::{output, server_programs, Applier, Cluster, Database};

use crate::arena::{Arena, SOURCE_DB, TARGET_ROLE};
use crate::follower::wait;
use crate::process::peak_mib;
use crate::report::{Comparison, Figures, Goal, Report};
use crate::{tables, Size};

const WORKLOAD: &str = "full-load";
const TABLES: [&str; 3] = ["item", "event", "page"];

const INDEXES: &str = "CREATE INDEX ON item (customer); CREATE INDEX ON event (item);
    CREATE INDEX ON page (title)";

/// A database for pgcopydb alone: the extension is not to be copied.
const PLAIN_DB: &str = "plain";

type Loader = fn(&mut Arena, &str) -> Figures;

const LOADERS: &[(&str, Loader)] =
    &[("trem", trem), ("pgcopydb", pgcopydb), ("native sync", native)];

fn create_tables(database: &mut Database) {
    database.exec(tables::ITEM);
    database.exec(
        "CREATE TABLE event (id bigint PRIMARY KEY, item bigint NOT NULL, at timestamptz NOT NULL,
             payload jsonb);
         CREATE TABLE page (id int PRIMARY KEY, title text NOT NULL, body text)",
    );
}

fn fill(database: &mut Database, size: Size) {
    let rows = |full| size.of(full, 1_000);
    create_tables(database);
    database.exec(&tables::fill_item(rows(2_000_000)));
    database.exec(&format!(
        "INSERT INTO event SELECT i, i * 7 % 100000, timestamptz '2024-01-01 00:00+00'
             + i * interval '1 second', jsonb_build_object('kind', 'view', 'page', i % 1000,
                 'agent', substr(md5(i::text), 1, 12))
         FROM generate_series(1, {}::bigint) i",
        rows(1_500_000)
    ));
    database.exec(&format!(
        "INSERT INTO page SELECT i, 'page ' || i, repeat(md5(i::text) || ' lorem ipsum ', 9)
         FROM generate_series(1, {}) i",
        rows(500_000)
    ));
    database.exec(INDEXES);
    database.exec("VACUUM (FREEZE, ANALYZE)");
}

fn trem(arena: &mut Arena, name: &str) -> Figures {
    let host = arena.target_cluster.folder().display().to_string();
    arena.source.exec(&format!(
        "SELECT trem.create_endpoint('{name}', 'target', dbname => '{name}', host => '{host}', \
         port => 5432, username => '{TARGET_ROLE}');
         SELECT trem.create_task('{name}', 'src', '{name}', \
         ARRAY['public.item', 'public.event', 'public.page'], mode => 'full_load')"
    ));
    arena.source.exec(&format!("SELECT trem.start_task('{name}')"));
    let source = arena.applier_conninfo();
    let log = arena.target_cluster.folder().join(format!("{name}.log"));
    let began = Instant::now();
    let arguments = ["run", "--source", &source, "--task", name, "--until-caught-up"];
    let mut applier = Applier::start(&arguments, &[], log);
    let mut peak = 0.0_f64;
    let outcome = wait(arena, "TREM's load", || {
        peak = peak_mib(applier.pid()).max(peak);
        applier.ended()
    });
    let seconds = began.elapsed().as_secs_f64();
    outcome.assert_code(0);
    Figures::from([("seconds", seconds), ("applier_peak_mib", peak)])
}

fn uri(cluster: &Cluster, database: &str) -> String {
    let host = cluster.folder().display();
    format!("postgresql://postgres@/{database}?host={host}&port=5432")
}

fn pgcopydb(arena: &mut Arena, name: &str) -> Figures {
    let folder = arena.target_cluster.folder().join(format!("pgcopydb-{name}"));
    let mut command = Command::new("pgcopydb");
    command.arg("clone").arg("--dir").arg(folder);
    command.args(["--table-jobs", "4", "--index-jobs", "4", "--no-owner", "--no-acl"]);
    command.arg("--source").arg(uri(&arena.source_cluster, PLAIN_DB));
    command.arg("--target").arg(uri(&arena.target_cluster, name));
    // It calls pg_dump, and must find the one that fits the server.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", server_programs().display()));
    let began = Instant::now();
    output(&mut command);
    Figures::from([("seconds", began.elapsed().as_secs_f64())])
}

fn native(arena: &mut Arena, name: &str) -> Figures {
    let mut target = arena.target_cluster.connect(name);
    create_tables(&mut target);
    target.exec(INDEXES);
    let from = arena.superuser_conninfo();
    let began = Instant::now();
    target.exec(&format!(
        "CREATE SUBSCRIPTION {name} CONNECTION '{from}' PUBLICATION load WITH (binary)"
    ));
    wait(arena, "the native copy", || {
        let ready = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel";
        target.holds(ready).then_some(())
    });
    let figures = Figures::from([("seconds", began.elapsed().as_secs_f64())]);
    target.exec(&format!("DROP SUBSCRIPTION {name}"));
    figures
}

/// Rows and indexes are the source's.
fn compare(arena: &mut Arena, name: &str) {
    let mut target = arena.target_cluster.connect(name);
    for table in TABLES {
        let rows = tables::digest(&format!("SELECT * FROM {table}"));
        let indexes = format!("SELECT count(*) FROM pg_index WHERE indrelid = '{table}'::regclass");
        for query in [rows, indexes] {
            let (here, there) = (arena.source.text(&query), target.text(&query));
            assert!(here == there, "{name}, {table}\n  source: {here}\n  target: {there}");
        }
    }
}

pub(crate) fn run(size: Size, report: &mut Report) {
    let mut arena = Arena::new();
    fill(&mut arena.source, size);
    arena.source.exec(&format!("CREATE DATABASE {PLAIN_DB}"));
    fill(&mut arena.source_cluster.connect(PLAIN_DB), size);
    arena.source.exec("CREATE PUBLICATION load FOR TABLE item, event, page");
    let bytes = arena.source.number(&format!("SELECT pg_database_size('{SOURCE_DB}')"));
    println!("    the database has {} MB", bytes / 1_000_000);
    for run in 0..size.runs {
        for (number, (contender, load)) in LOADERS.iter().enumerate() {
            let name = format!("load{run}_{number}");
            arena.target.exec(&format!("CREATE DATABASE {name} OWNER {TARGET_ROLE}"));
            let grant = format!("GRANT ALL ON SCHEMA public TO {TARGET_ROLE}");
            arena.target_cluster.connect(&name).exec(&grant);
            arena.settle();
            let figures = load(&mut arena, &name);
            compare(&mut arena, &name);
            report.record(WORKLOAD, contender, figures);
            arena.target.exec(&format!("DROP DATABASE {name} WITH (FORCE)"));
        }
    }
    for peer in ["pgcopydb", "native sync"] {
        let (what, figure) = ("time", "seconds");
        let comparison = Comparison { workload: WORKLOAD, what, figure, ours: "trem", peer };
        report.compare(&comparison, Goal::Told);
    }
}
