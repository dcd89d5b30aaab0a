//! The command line: what can be asked for, and how it is answered.
//!
//! Exit codes: 0 done; 1 a task failed (with `--until-caught-up`) or a check found errors; 2 bad
//! arguments or nothing to serve. The reason is printed once, with what to do.

mod inspect;
mod table;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::check::{Finding, Severity};
use crate::connect::connect;
use crate::conninfo::ConnInfo;
use crate::error::{Error, Kind, Result};
use crate::metrics;
use crate::source::control::{Control, Task};
use crate::stop::Stop;
use crate::supervisor::{self, End};
use crate::target::schema;
use crate::telemetry::{self, Bars, LogFormat};
use crate::validate::{self, Verdict};

const DONE: u8 = 0;
const FAILED: u8 = 1;
const BAD_ARGUMENTS: u8 = 2;

/// Copies and follows the tables of TREM's tasks.
#[derive(Parser, Debug)]
#[command(name = "trem-applier", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve tasks: full load, then follow.
    Run {
        #[command(flatten)]
        source: Source,
        /// A task to serve; may be given several times. Without it: every started task.
        #[arg(long = "task", value_name = "NAME")]
        tasks: Vec<String>,
        /// Apply everything that is committed now, then exit.
        #[arg(long)]
        until_caught_up: bool,
        /// Serve metrics for Prometheus at /metrics, and /health, on this address.
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Check both sides of a task. Changes nothing.
    Check {
        #[command(flatten)]
        source: Source,
        #[arg(long, value_name = "NAME")]
        task: String,
    },
    /// Show what every task is doing.
    Status {
        #[command(flatten)]
        source: Source,
    },
    /// Compare the target's tables with what the task's rules make of the source.
    Validate {
        #[command(flatten)]
        source: Source,
        #[arg(long, value_name = "NAME")]
        task: String,
    },
    /// List the tables of an endpoint.
    Inspect {
        #[command(flatten)]
        source: Source,
        #[arg(long, value_name = "NAME")]
        endpoint: String,
    },
}

#[derive(Args, Debug)]
struct Source {
    /// The source database, as a URI or key=value pairs.
    #[arg(long = "source", env = "TREM_SOURCE", value_name = "CONNINFO", hide_env_values = true)]
    conninfo: String,
}

impl Source {
    fn parse(&self) -> Result<ConnInfo> {
        ConnInfo::parse(&self.conninfo).map_err(|error| error.context("--source"))
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let bars = Bars::new(cli.log_format);
    telemetry::start(cli.log_format, &bars);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("threads cannot be started: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let result = runtime.block_on(execute(cli.command, bars));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            match error.hint_text() {
                Some(hint) => tracing::error!(hint = %hint, "{error}"),
                None => tracing::error!("{error}"),
            }
            ExitCode::from(match error.kind() {
                Kind::Argument => BAD_ARGUMENTS,
                _ => FAILED,
            })
        }
    }
}

async fn execute(command: Command, bars: Bars) -> Result<u8> {
    match command {
        Command::Run { source, tasks, until_caught_up, listen } => {
            if let Some(address) = listen {
                metrics::listen(address)?;
            }
            let options = supervisor::Options { source: source.parse()?, tasks, until_caught_up };
            match supervisor::run(options, bars, stop_signal()?).await? {
                End::Done => Ok(DONE),
                End::TaskFailed => Ok(FAILED),
            }
        }
        Command::Check { source, task } => check(&source.parse()?, &task).await,
        Command::Status { source } => status(&source.parse()?).await,
        Command::Validate { source, task } => validate(&source.parse()?, &task).await,
        Command::Inspect { source, endpoint } => {
            let source = source.parse()?;
            let control = Control::connect(&source, "inspect").await?;
            let endpoint = control.endpoint(&endpoint).await?;
            inspect::inspect(&source, &endpoint).await?;
            Ok(DONE)
        }
    }
}

/// True from the first SIGTERM or SIGINT on.
fn stop_signal() -> Result<Stop> {
    use tokio::signal::unix::{signal, SignalKind};
    let failed = |error: std::io::Error| {
        Error::new(Kind::Internal, format!("signals cannot be received: {error}"))
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let (stop, stopped) = Stop::new();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: the open group is finished first");
        stop.send_replace(true);
        // Keeps the sender, so that the receivers never see it closed.
        std::future::pending::<()>().await;
    });
    Ok(stopped)
}

async fn validate(source: &ConnInfo, name: &str) -> Result<u8> {
    let control = Control::connect(source, "validate").await?;
    let definition = control.definition(name).await?;
    let task = served_task(&control, name).await?;
    let target = connect(&ConnInfo::from_target(&task.target)?).await?;
    let compared = validate::compare(control.client(), &target, &definition).await?;
    let lines: Vec<_> = compared
        .iter()
        .map(|table| {
            let verdict = match table.verdict {
                Verdict::Same => "same",
                Verdict::Different => "different",
                Verdict::Changing => "changing",
            };
            let (source_rows, target_rows) = (table.source_rows, table.target_rows);
            vec![
                table.table.clone(),
                verdict.to_owned(),
                source_rows.to_string(),
                target_rows.to_string(),
            ]
        })
        .collect();
    table::print(&["target table", "verdict", "source rows", "target rows"], &lines);
    let same = compared.iter().all(|table| table.verdict == Verdict::Same);
    Ok(if same { DONE } else { FAILED })
}

async fn served_task(control: &Control, name: &str) -> Result<Task> {
    let tasks = control.tasks().await?;
    tasks.into_iter().find(|task| task.name == name).ok_or_else(|| {
        Error::new(Kind::Argument, format!("there is no task \"{name}\" that this role may serve"))
    })
}

async fn check(source: &ConnInfo, name: &str) -> Result<u8> {
    let control = Control::connect(source, "check").await?;
    let mut findings = control.check(name).await?;
    let task = served_task(&control, name).await?;
    match check_target(&control, &task).await {
        Ok(found) => findings.extend(found),
        Err(error) => {
            let finding = Finding::error("", "target", error.to_string());
            findings.push(match error.hint_text() {
                Some(hint) => finding.hint(hint),
                None => finding,
            });
        }
    }
    findings.sort_by_key(|finding| finding.severity);
    print_findings(&findings);
    let failed = findings.iter().any(|finding| finding.severity == Severity::Error);
    Ok(if failed { FAILED } else { DONE })
}

async fn check_target(control: &Control, task: &Task) -> Result<Vec<Finding>> {
    let target = ConnInfo::from_target(&task.target)?;
    let client = connect(&target).await?;
    if task.definition_version.is_none() {
        return Ok(Vec::new());
    }
    let definition = control.definition(&task.name).await?;
    let tables: Vec<_> = definition.tables.iter().collect();
    schema::check_new(&client, &definition, &tables).await
}

fn print_findings(findings: &[Finding]) {
    if findings.is_empty() {
        println!("nothing found: the task can run");
        return;
    }
    for finding in findings {
        println!("{}: {} [{}]", finding.severity.name(), finding.line(), finding.check);
        if let Some(hint) = &finding.hint {
            println!("    hint: {hint}");
        }
    }
}

async fn status(source: &ConnInfo) -> Result<u8> {
    let control = Control::connect(source, "status").await?;
    let sql = "SELECT task, mode, state, phase, definition_version::text, applied_lsn::text,
                      pg_size_pretty(lag_bytes), last_error, last_error_hint
               FROM trem.applier_status() ORDER BY task";
    let rows = control.client().query(sql, &[]).await?;
    let head = ["task", "mode", "state", "phase", "version", "applied_lsn", "lag"];
    let mut lines = Vec::new();
    for row in &rows {
        let cell = |at| row.get::<_, Option<String>>(at).unwrap_or_else(|| "-".to_owned());
        lines.push((0..head.len()).map(cell).collect::<Vec<_>>());
    }
    table::print(&head, &lines);
    for row in &rows {
        if let Some(error) = row.get::<_, Option<String>>(7) {
            println!("\n{}: {error}", row.get::<_, String>(0));
            if let Some(hint) = row.get::<_, Option<String>>(8) {
                println!("    hint: {hint}");
            }
        }
    }
    Ok(DONE)
}
