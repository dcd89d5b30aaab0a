//! Processes seen from outside: CPU time and memory from /proc, and PostgreSQL's own programs.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use trem_tests::{output, server_programs, Cluster};

/// CPU seconds, user and system, that a process has used; 0 when it is gone.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    // The second field is the program's name in parentheses, and may hold anything.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<_> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    // Fields 14 and 15 of proc(5); Linux counts them in hundredths of a second.
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

/// The most memory that a process ever had resident.
pub(crate) fn peak_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// A program of PostgreSQL that connects to the database of a cluster as the superuser.
pub(crate) fn program(name: &str, cluster: &Cluster, database: &str) -> Command {
    let mut command = Command::new(server_programs().join(name));
    command.arg("-h").arg(cluster.folder()).args(["-p", "5432", "-U", "postgres"]);
    match name {
        "pgbench" => command.arg(database),
        _ => command.args(["-d", database]),
    };
    command.stdin(Stdio::null());
    command
}

/// Fills the four tables of pgbench; the rows are the same every time.
pub(crate) fn fill_pgbench(cluster: &Cluster, database: &str, scale: u64) {
    let scale = scale.to_string();
    output(program("pgbench", cluster, database).args(["-i", "-q", "-s", &scale]));
}

/// Runs pgbench and gives its rate in transactions per second.
pub(crate) fn run_pgbench(cluster: &Cluster, database: &str, arguments: &[&str]) -> f64 {
    let told = output(program("pgbench", cluster, database).arg("-n").args(arguments));
    let rate = told.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = rate.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("pgbench tells no rate:\n{told}"))
}

/// pgbench in the background; killed when dropped.
pub(crate) struct Load(Child);

impl Load {
    pub(crate) fn start(cluster: &Cluster, database: &str, arguments: &[&str]) -> Self {
        let log = File::create(cluster.folder().join("pgbench.log")).expect("a log for pgbench");
        let mut command = program("pgbench", cluster, database);
        command.arg("-n").args(arguments).stdout(Stdio::null()).stderr(log);
        Load(command.spawn().expect("to start pgbench"))
    }

    /// Whether it still runs.
    pub(crate) fn is_on(&mut self) -> bool {
        self.0.try_wait().expect("the state of a child process").is_none()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
