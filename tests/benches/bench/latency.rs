//! From commit on the source until visible on the target: of one row at a time, idle and under
//! 1,000 other transactions a second.
//!
//! The target is asked again and again without a pause, on a session of its own: the clock stops
//! within one round trip of the moment. What is left of a core does the replication, for both
//! alike.

use std::thread;
use std::time::{Duration, Instant};

use crate::arena::{Arena, SOURCE_DB};
use crate::follower::{Follower, Kind};
use crate::process::Load;
use crate::report::{Comparison, Figures, Goal, Report};
use crate::Size;

const SAMPLES: u64 = 1_000;
const ITEMS: u64 = 100_000;

/// Between samples, so that everything is at rest when the next one commits. No state to wait for:
/// asking for one would be work.
const PAUSE: Duration = Duration::from_millis(3);
const GIVE_UP: Duration = Duration::from_secs(60);

fn sample(arena: &mut Arena, follower: &mut Follower, samples: u64) -> Figures {
    let mut taken_ms: Vec<f64> = Vec::new();
    for _ in 0..samples {
        thread::sleep(PAUSE);
        let mark = arena.mark();
        let committed = Instant::now();
        let query = format!("SELECT EXISTS (SELECT FROM mark WHERE id = {mark})");
        while !follower.target.holds(&query) {
            assert!(committed.elapsed() < GIVE_UP, "a row was not visible after {GIVE_UP:?}");
        }
        taken_ms.push(committed.elapsed().as_secs_f64() * 1e3);
    }
    taken_ms.sort_by(f64::total_cmp);
    let percentile = |percent: usize| taken_ms[(taken_ms.len() - 1) * percent / 100];
    Figures::from([("p50_ms", percentile(50)), ("p99_ms", percentile(99))])
}

/// Updates of single rows, 1,000 a second.
fn load(arena: &Arena) -> Load {
    let script = arena.source_cluster.folder().join("load.sql");
    let statement = "UPDATE item SET amount = amount + 1 WHERE id = :id;";
    std::fs::write(&script, format!("\\set id random(1, {ITEMS})\n{statement}\n"))
        .expect("to write a script for pgbench");
    let script = script.display().to_string();
    let arguments = ["-M", "prepared", "-c", "4", "-R", "1000", "-T", "3600", "-f", &script];
    Load::start(&arena.source_cluster, SOURCE_DB, &arguments)
}

pub(crate) fn run(size: Size, report: &mut Report) {
    let mut arena = Arena::with_item(ITEMS);
    let samples = size.of(SAMPLES, 50);
    let mut followers = Kind::BOTH.map(|kind| Follower::prepare(&mut arena, kind, kind.name()));
    for _ in 0..size.runs {
        for (kind, follower) in Kind::BOTH.into_iter().zip(&mut followers) {
            arena.settle();
            // What was committed while the other one had its turn.
            let mark = arena.mark();
            follower.start(&arena);
            follower.wait_for_mark(&arena, mark);
            let figures = sample(&mut arena, follower, samples);
            report.record("latency idle", kind.name(), figures);

            let mut load = load(&arena);
            let mut figures = sample(&mut arena, follower, samples);
            assert!(load.is_on(), "pgbench ended: see pgbench.log");
            drop(load);
            let mark = arena.mark();
            follower.wait_for_mark(&arena, mark);
            figures.append(&mut follower.usage(&mut arena));
            report.record("latency loaded", kind.name(), figures);
            follower.compare_all(&mut arena);
            follower.stop(&mut arena);
        }
    }
    let (ours, peer) = ("trem", "native");
    for (workload, what, figure, goal) in [
        ("latency idle", "p50", "p50_ms", Goal::AtMost { must: 4.0, aim: 2.0 }),
        ("latency idle", "p99", "p99_ms", Goal::Told),
        ("latency loaded", "p50", "p50_ms", Goal::Told),
        ("latency loaded", "p99", "p99_ms", Goal::Told),
    ] {
        report.compare(&Comparison { workload, what, figure, ours, peer }, goal);
    }
}
