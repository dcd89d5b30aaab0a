//! One throw-away PostgreSQL cluster.
//!
//! It is a copy of a template that initdb made once per checkout, so that it starts in a fraction
//! of a second. It listens on a Unix socket in its own folder, never on a port that others could
//! have.

use std::path::{Path, PathBuf};
use std::process::Command;

use postgres::Config;

use crate::places::{self, output};
use crate::Database;

/// Lines of postgresql.conf that differ from [`Cluster::new`]'s own; later ones win.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

pub struct Cluster {
    folder: PathBuf,
}

const BASE_SETTINGS: Settings<'_> = &[
    ("listen_addresses", "''"),
    ("wal_level", "logical"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("max_connections", "60"),
    ("shared_buffers", "64MB"),
    // A test that is about durability turns it on again.
    ("fsync", "off"),
    ("wal_sender_timeout", "10s"),
    ("log_min_messages", "info"),
    ("log_line_prefix", "'%m [%p] %a '"),
    ("timezone", "'UTC'"),
    ("log_timezone", "'UTC'"),
];

const HBA: &str = "\
# Everybody may, except the role whose tests are about passwords.
local all trem_password scram-sha-256
host all trem_password 127.0.0.1/32 scram-sha-256
local all all trust
host all all 127.0.0.1/32 trust
local replication all trust
";

impl Cluster {
    /// A cluster by itself, in a folder of its own.
    #[must_use]
    pub fn alone(settings: Settings<'_>) -> Self {
        Self::new(places::new_test_folder(), settings)
    }

    /// Makes and starts a cluster in `folder`, whose path must be short.
    #[must_use]
    pub fn new(folder: PathBuf, settings: Settings<'_>) -> Self {
        std::fs::create_dir_all(&folder).expect("a folder for the cluster");
        let cluster = Cluster { folder };
        output(Command::new("cp").arg("-a").arg(template()).arg(cluster.data()));
        cluster.configure(BASE_SETTINGS);
        cluster.configure(&[("unix_socket_directories", &format!("'{}'", cluster.path()))]);
        if knows_output_plugin_libraries() {
            let listed = ("output_plugin_libraries", "'pgoutput, test_decoding, trem'");
            cluster.configure(&[listed]);
        }
        cluster.configure(settings);
        places::give_to_server_user(&cluster.folder);
        cluster.start();
        cluster
    }

    /// A standby of this cluster in `folder`, once it follows. Stops and starts this one.
    #[must_use]
    pub fn standby(&self, folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).expect("a folder for the standby");
        let standby = Cluster { folder };
        self.stop();
        output(Command::new("cp").arg("-a").arg(self.data()).arg(standby.data()));
        self.start();
        standby.configure(&[
            ("unix_socket_directories", &format!("'{}'", standby.path())),
            ("primary_conninfo", &format!("'host={} port=5432 user=postgres'", self.path())),
        ]);
        std::fs::write(standby.data().join("standby.signal"), "").expect("to make it a standby");
        places::give_to_server_user(&standby.folder);
        standby.start();
        standby
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn path(&self) -> &str {
        self.folder.to_str().expect("the path is ASCII")
    }

    /// The folder of the cluster, and of its socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds lines to postgresql.conf; they count from the next start or reload.
    pub fn configure(&self, settings: Settings<'_>) {
        use std::io::Write;
        let path = self.data().join("postgresql.conf");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).expect("the settings");
        for (name, value) in settings {
            writeln!(file, "{name} = {value}").expect("to append a setting");
        }
    }

    /// Puts lines before all others of pg_hba.conf; they count from the next start or reload.
    pub fn authenticate(&self, lines: &str) {
        let path = self.data().join("pg_hba.conf");
        let others = std::fs::read_to_string(&path).expect("the access rules");
        std::fs::write(path, format!("{lines}\n{others}")).expect("to write pg_hba.conf");
    }

    fn pg_ctl(&self) -> Command {
        let mut command = Command::new(places::server_programs().join("pg_ctl"));
        command.arg("-D").arg(self.data());
        command
    }

    pub fn start(&self) {
        // Its output goes to the log: an inherited pipe would stay open as long as the server.
        let log = self.folder.join("log");
        let mut pg_ctl = self.pg_ctl();
        pg_ctl.args(["-w", "-s", "-t", "60", "-l"]).arg(&log).arg("start");
        let status = pg_ctl.status().expect("to run pg_ctl");
        assert!(status.success(), "the cluster does not start:\n{}", self.log());
    }

    pub fn stop(&self) {
        output(self.pg_ctl().args(["-w", "-s", "-m", "fast", "stop"]));
    }

    /// Stops as a power failure would: without a checkpoint.
    pub fn crash(&self) {
        output(self.pg_ctl().args(["-w", "-s", "-m", "immediate", "stop"]));
    }

    /// Whatever state it is in, it is down afterwards.
    pub(crate) fn shut_down(&self) {
        if self.is_running() {
            let stopped = self.pg_ctl().args(["-s", "-m", "immediate", "stop"]).output();
            stopped.expect("to run pg_ctl");
        }
    }

    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Keeps a copy of the whole cluster, for [`restore`](Self::restore). Stops and starts it.
    pub fn save(&self) {
        self.stop();
        output(Command::new("cp").arg("-a").arg(self.data()).arg(self.folder.join("saved")));
        self.start();
    }

    /// Brings the cluster back to where it was saved, as from a backup.
    pub fn restore(&self) {
        self.stop();
        std::fs::remove_dir_all(self.data()).expect("to remove the data folder");
        std::fs::rename(self.folder.join("saved"), self.data()).expect("a saved cluster");
        self.start();
    }

    pub fn reload(&self) {
        output(self.pg_ctl().args(["-s", "reload"]));
    }

    #[must_use]
    pub fn is_running(&self) -> bool {
        self.data().join("postmaster.pid").exists()
    }

    /// How the harness connects.
    #[must_use]
    pub fn config(&self, dbname: &str, user: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.folder).port(5432).dbname(dbname).user(user);
        config.application_name("trem_tests");
        config
    }

    /// How the applier connects: the same as a connection string.
    #[must_use]
    pub fn conninfo(&self, dbname: &str, user: &str) -> String {
        format!("host={} port=5432 dbname={dbname} user={user}", self.path())
    }

    /// A session of the superuser.
    #[must_use]
    pub fn connect(&self, dbname: &str) -> Database {
        self.connect_as(dbname, "postgres")
    }

    #[must_use]
    pub fn connect_as(&self, dbname: &str, user: &str) -> Database {
        Database::try_connect(&self.config(dbname, user))
            .unwrap_or_else(|failure| panic!("{failure}\nthe server's log:\n{}", self.log()))
    }

    /// Sends commands to a walsender, or statements to a backend, as psql does, in one session;
    /// gives all that it prints, and whether the last of them succeeded.
    pub fn psql(&self, conninfo: &str, commands: &[&str]) -> (bool, String) {
        let psql = places::server_programs().join("psql");
        let result = Command::new(psql)
            .args(["-X", "-A", "-t", "-d", conninfo])
            .args(commands.iter().flat_map(|command| ["-c", command]))
            .output()
            .expect("to run psql");
        let printed = [result.stdout, result.stderr].concat();
        (result.status.success(), String::from_utf8_lossy(&printed).into_owned())
    }

    /// The server's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.folder.join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let kept = std::env::var_os("TREM_KEEP").is_some() && std::thread::panicking();
        if !kept {
            self.shut_down();
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// The data folder that every cluster is a copy of.
fn template() -> PathBuf {
    static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = MAKING.lock();
    let template = places::server_root().join("template");
    if template.exists() {
        return template;
    }
    // Made beside and renamed, so that another test program never copies half of one.
    let made = places::server_root().join(format!("template-{}", std::process::id()));
    std::fs::create_dir(&made).expect("a folder for the template");
    places::give_to_server_user(&made);
    let initdb = places::server_programs().join("initdb");
    output(
        Command::new(initdb)
            .args(["-U", "postgres", "--locale=C.UTF-8", "-E", "UTF8", "-A", "trust", "-N", "-D"])
            .arg(&made),
    );
    std::fs::write(made.join("pg_hba.conf"), HBA).expect("to write pg_hba.conf");
    if std::fs::rename(&made, &template).is_err() {
        std::fs::remove_dir_all(&made).expect("to remove the second template");
    }
    template
}

/// The minors of August 2026 refuse a plugin that is not listed; earlier ones do not start with a
/// setting they do not know.
#[must_use]
pub fn knows_output_plugin_libraries() -> bool {
    let postgres = places::server_programs().join("postgres");
    output(Command::new(postgres).arg("--describe-config")).contains("output_plugin_libraries")
}
