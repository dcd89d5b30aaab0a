//! A source and a target cluster for one workload, with the settings of a server at work.
//!
//! All that follow one workload start alike: the target's databases are copies of one, `model`.

use trem_tests::{knows_output_plugin_libraries, Cluster, Database};

use crate::{process, tables};

pub(crate) const SOURCE_DB: &str = "shop";
const APPLIER_ROLE: &str = "trem_applier";
pub(crate) const TARGET_ROLE: &str = "loader";

/// Of both clusters. Checkpoints and vacuum happen when the bench says so, not in the midst.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "1GB"),
    ("fsync", "off"),
    ("min_wal_size", "4GB"),
    ("max_wal_size", "32GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    ("maintenance_work_mem", "256MB"),
    ("max_worker_processes", "20"),
    ("max_logical_replication_workers", "8"),
    ("max_sync_workers_per_subscription", "4"),
    ("wal_sender_timeout", "60s"),
    ("log_min_messages", "warning"),
];

/// A page of shared memory costs more when it is touched for the first time, and so does a WAL
/// segment that is made and not used again. A server at work has paid for both: so many rows, one
/// for each page.
const WARM_PAGES: u32 = 1024 * 1024 / 8;

/// What whoever reads the figures must know.
pub(crate) fn describe() -> String {
    let settings: Vec<_> = SETTINGS.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!(
        "both clusters, for TREM and peers alike: {}; the rest as PostgreSQL has it. Unix sockets, \
         one machine. Native subscriptions with binary=true, streaming off; TREM with its default \
         options.",
        settings.join(" ")
    )
}

pub(crate) struct Arena {
    // Sessions before clusters: fields are dropped in order.
    pub(crate) source: Database,
    pub(crate) target: Database,
    pub(crate) source_cluster: Cluster,
    pub(crate) target_cluster: Cluster,
    /// Those that take part, the mark's among them.
    tables: Vec<String>,
    marks: u64,
}

impl Arena {
    pub(crate) fn new() -> Self {
        let source_cluster = Cluster::alone(SETTINGS);
        let target_cluster = Cluster::alone(SETTINGS);
        if knows_output_plugin_libraries() {
            let listed = "'pgoutput, test_decoding, trem, wal2json'";
            source_cluster.configure(&[("output_plugin_libraries", listed)]);
            source_cluster.reload();
        }
        let mut on_source = source_cluster.connect("postgres");
        on_source.exec(&format!("CREATE DATABASE {SOURCE_DB}"));
        let mut target = target_cluster.connect("postgres");
        for session in [&mut on_source, &mut target] {
            warm_up(session);
        }
        target.exec(&format!("CREATE ROLE {TARGET_ROLE} LOGIN"));
        let quiet = "GRANT SET ON PARAMETER session_replication_role TO";
        target.exec(&format!("{quiet} {TARGET_ROLE}"));
        target.exec(&format!("CREATE DATABASE model OWNER {TARGET_ROLE}"));
        let mut source = source_cluster.connect(SOURCE_DB);
        source.exec("CREATE EXTENSION trem");
        source.exec(&format!("CREATE ROLE {APPLIER_ROLE} LOGIN REPLICATION"));
        source.exec(&format!(
            "SELECT trem.create_endpoint('src', 'source', dbname => '{SOURCE_DB}', \
             username => '{APPLIER_ROLE}')"
        ));
        Arena { source, target, source_cluster, target_cluster, tables: Vec::new(), marks: 0 }
    }

    /// Both sides with the same tables and rows: `item` with `rows` rows, and the mark.
    pub(crate) fn with_item(rows: u64) -> Self {
        let mut arena = Self::new();
        let mut model = arena.target_cluster.connect_as("model", "postgres");
        for database in [&mut arena.source, &mut model] {
            database.exec(tables::ITEM);
            database.exec(tables::MARK);
            if rows > 0 {
                database.exec(&tables::fill_item(rows));
            }
        }
        arena.tables = vec!["item".to_owned(), "mark".to_owned()];
        arena.finish_model(model);
        arena
    }

    /// Both sides with pgbench's tables and the mark.
    pub(crate) fn with_pgbench(scale: u64) -> Self {
        let mut arena = Self::new();
        let mut model = arena.target_cluster.connect_as("model", "postgres");
        process::fill_pgbench(&arena.source_cluster, SOURCE_DB, scale);
        process::fill_pgbench(&arena.target_cluster, "model", scale);
        for database in [&mut arena.source, &mut model] {
            database.exec(tables::HISTORY_KEY);
            database.exec(tables::MARK);
        }
        arena.tables = tables::PGBENCH.iter().map(|&name| name.to_owned()).collect();
        arena.tables.push("mark".to_owned());
        arena.finish_model(model);
        arena
    }

    /// Statistics settled, tables handed to the role that TREM uses, publication made.
    fn finish_model(&mut self, mut model: Database) {
        for table in self.tables.clone() {
            model.exec(&format!("ALTER TABLE {table} OWNER TO {TARGET_ROLE}"));
        }
        model.exec("VACUUM (FREEZE, ANALYZE)");
        self.source.exec("VACUUM (FREEZE, ANALYZE)");
        self.source.exec(&format!("CREATE PUBLICATION bench FOR TABLE {}", self.tables.join(", ")));
    }

    pub(crate) fn tables(&self) -> &[String] {
        &self.tables
    }

    /// The tables as the elements of an SQL array.
    pub(crate) fn tables_quoted(&self) -> String {
        let quoted: Vec<_> = self.tables.iter().map(|table| format!("'public.{table}'")).collect();
        quoted.join(", ")
    }

    /// Writes a row that is awaited after everything that was committed before, and gives its id.
    pub(crate) fn mark(&mut self) -> u64 {
        self.marks += 1;
        self.source.exec(&format!("INSERT INTO mark VALUES ({})", self.marks));
        self.marks
    }

    /// Both clusters as quiet as they get, the source without dead rows.
    pub(crate) fn settle(&mut self) {
        self.source.exec("VACUUM");
        self.source.exec("CHECKPOINT");
        self.target.exec("CHECKPOINT");
    }

    /// Where the applier finds the source.
    pub(crate) fn applier_conninfo(&self) -> String {
        self.source_cluster.conninfo(SOURCE_DB, APPLIER_ROLE)
    }

    /// Where a subscription finds it.
    pub(crate) fn superuser_conninfo(&self) -> String {
        self.source_cluster.conninfo(SOURCE_DB, "postgres")
    }

    /// Runs pgbench on the source and gives its rate.
    pub(crate) fn pgbench(&self, arguments: &[&str]) -> f64 {
        process::run_pgbench(&self.source_cluster, SOURCE_DB, arguments)
    }
}

fn warm_up(session: &mut Database) {
    session.exec(&format!(
        "CREATE TABLE warm_up (v text);
         ALTER TABLE warm_up ALTER v SET STORAGE PLAIN;
         INSERT INTO warm_up SELECT repeat('v', 8000) FROM generate_series(1, {WARM_PAGES});
         DROP TABLE warm_up"
    ));
    session.exec("CHECKPOINT");
}
