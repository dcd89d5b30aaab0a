//! Decoding alone: a slot drained by pg_recvlogical into nothing, and the bytes of that on the
//! socket. Every plugin reads the same WAL from the same place, through a copy of one slot.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use trem_tests::look_until;

use crate::arena::{Arena, SOURCE_DB};
use crate::follower::DEADLINE;
use crate::process::{cpu_seconds, program};
use crate::proxy::Proxy;
use crate::report::{Comparison, Figures, Goal, Report};
use crate::{tables, Size};

/// Name, plugin, its options.
type Contender = (&'static str, &'static str, &'static [&'static str]);

const CONTENDERS: &[Contender] = &[
    (
        "trem zstd",
        "trem",
        &["task=decode", "definition_version=1", "proto_version=1", "compression=zstd"],
    ),
    ("pgoutput binary", "pgoutput", &["proto_version=1", "publication_names=bench", "binary=true"]),
    (
        "trem none",
        "trem",
        &["task=decode", "definition_version=1", "proto_version=1", "compression=none"],
    ),
    ("wal2json", "wal2json", &[]),
    ("test_decoding", "test_decoding", &[]),
];

/// The walsender's CPU time is gone when it ends.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// WAL to decode: from where slot `base` is, to `end`.
struct Backlog {
    name: &'static str,
    arena: Arena,
    end: String,
}

impl Backlog {
    fn new(name: &'static str, mut arena: Arena, change: impl FnOnce(&mut Arena)) -> Self {
        let tables = arena.tables_quoted();
        arena.source.exec(&format!(
            "SELECT trem.create_endpoint('nowhere', 'target', dbname => 'nowhere');
             SELECT trem.create_task('decode', 'src', 'nowhere', ARRAY[{tables}], mode => 'cdc')"
        ));
        arena.source.exec("SELECT trem.start_task('decode')");
        arena.source.exec("SELECT pg_create_logical_replication_slot('base', 'test_decoding')");
        change(&mut arena);
        arena.mark();
        let end = arena.source.text("SELECT pg_current_wal_insert_lsn()");
        // Something beyond the end, so that the walsender gets past it.
        arena.settle();
        Backlog { name, arena, end }
    }

    fn inserts(size: Size) -> Self {
        let rows = size.of(1_000_000, 10_000);
        Self::new("inserts", Arena::with_item(0), |arena| {
            arena.source.exec(&tables::insert_item(rows));
        })
    }

    fn tpcb(size: Size) -> Self {
        let transactions = (size.of(100_000, 1_000) / 4).to_string();
        Self::new("tpc-b", Arena::with_pgbench(10), |arena| {
            arena.pgbench(&["-c", "4", "-j", "2", "-t", &transactions, "--random-seed=1"]);
        })
    }

    /// Drains the backlog once, through the socket in `host`.
    fn drain(&mut self, (_, plugin, options): Contender, host: &Path) -> Figures {
        self.arena.source.exec(&format!(
            "SELECT pg_copy_logical_replication_slot('base', 'drained', false, '{plugin}')"
        ));
        let source = &mut self.arena.source;
        let slot = "FROM pg_replication_slots WHERE slot_name = 'drained'";
        let mut command = program("pg_recvlogical", &self.arena.source_cluster, SOURCE_DB);
        command.arg("-h").arg(host).args(["--slot=drained", "--start", "--no-loop", "-f"]);
        command.arg("/dev/null").arg(format!("--endpos={}", self.end));
        for option in options {
            command.args(["-o", option]);
        }
        let began = Instant::now();
        let mut child = command.stdout(Stdio::null()).spawn().expect("to start pg_recvlogical");
        // The walsender ends with its client: its CPU time is read as long as it is there.
        let (mut walsender, mut cpu) = (None, 0.0_f64);
        let status = look_until(DEADLINE, LOOK_EVERY, || {
            if walsender.is_none() {
                let pid = source.value(&format!("SELECT active_pid {slot}"));
                walsender = pid.and_then(|pid| pid.parse().ok());
            }
            cpu = walsender.map_or(0.0, cpu_seconds).max(cpu);
            child.try_wait().expect("the state of a child process")
        });
        let seconds = began.elapsed().as_secs_f64();
        let is_done = status.is_some_and(|status| status.success());
        assert!(is_done, "pg_recvlogical failed with plugin {plugin}");
        trem_tests::wait_for("the walsender to end", || {
            source.holds(&format!("SELECT NOT active {slot}"))
        });
        source.exec("SELECT pg_drop_replication_slot('drained')");
        Figures::from([("seconds", seconds), ("walsender_cpu_seconds", cpu)])
    }
}

/// Workload `decode`.
pub(crate) fn time(size: Size, report: &mut Report) {
    for mut backlog in [Backlog::inserts(size), Backlog::tpcb(size)] {
        let workload = format!("decode {}", backlog.name);
        let host = backlog.arena.source_cluster.folder().to_owned();
        // Once unmeasured, so that the WAL is in memory for all.
        backlog.drain(CONTENDERS[0], &host);
        for _ in 0..size.runs {
            for contender in CONTENDERS {
                let figures = backlog.drain(*contender, &host);
                report.record(&workload, contender.0, figures);
            }
        }
        let goal = match backlog.name {
            "inserts" => Goal::AtMost { must: 0.50, aim: 0.40 },
            _ => Goal::AtMost { must: 0.85, aim: 0.65 },
        };
        compare(report, &workload, "decode time", "seconds", goal);
        compare(report, &workload, "walsender CPU", "walsender_cpu_seconds", Goal::Told);
    }
}

/// Workload `wire`: once each, because bytes do not vary.
pub(crate) fn bytes(size: Size, report: &mut Report) {
    for mut backlog in [Backlog::inserts(size), Backlog::tpcb(size)] {
        let workload = format!("wire {}", backlog.name);
        let proxy = Proxy::start(backlog.arena.source_cluster.folder());
        for contender in CONTENDERS {
            backlog.drain(*contender, proxy.folder());
            let bytes = proxy.take_bytes() as f64;
            report.record(&workload, contender.0, Figures::from([("bytes", bytes)]));
        }
        let goal = match backlog.name {
            "inserts" => Goal::AtMost { must: 0.20, aim: 0.10 },
            _ => Goal::AtMost { must: 0.25, aim: 0.15 },
        };
        compare(report, &workload, "bytes on the socket", "bytes", goal);
    }
}

/// The first contender is judged against the second; everybody else is told.
fn compare(report: &mut Report, workload: &str, what: &str, figure: &'static str, goal: Goal) {
    let (ours, judge) = (CONTENDERS[0].0, CONTENDERS[1].0);
    let pair = |ours, peer| Comparison { workload, what, figure, ours, peer };
    report.compare(&pair(ours, judge), goal);
    report.compare(&pair("trem none", judge), Goal::Told);
    for (peer, ..) in &CONTENDERS[3..] {
        report.compare(&pair(ours, peer), Goal::Told);
    }
}
