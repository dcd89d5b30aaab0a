//! What following costs the source: pgbench's rate on it while one follows, everything on one
//! machine.

use crate::arena::Arena;
use crate::follower::{Follower, Kind};
use crate::report::{Comparison, Figures, Goal, Report};
use crate::Size;

const WORKLOAD: &str = "source-overhead";
const SECONDS: u64 = 20;

pub(crate) fn run(size: Size, report: &mut Report) {
    let mut arena = Arena::with_pgbench(10);
    let seconds = size.of(SECONDS, 1).max(3).to_string();
    let arguments = ["-c", "4", "-j", "2", "-T", &seconds];
    let mut followers =
        Kind::BOTH.map(|kind| (kind, Follower::prepare(&mut arena, kind, kind.name())));
    for _ in 0..size.runs {
        // The tables grow from run to run: nobody is always first.
        followers.reverse();
        for (kind, follower) in &mut followers {
            follower.settle(&mut arena);
            // The other one's turn is caught up with before anything is measured.
            let mark = arena.mark();
            follower.start(&arena);
            follower.wait_for_mark(&arena, mark);
            let rate = arena.pgbench(&arguments);
            let behind = std::time::Instant::now();
            let mark = arena.mark();
            follower.wait_for_mark(&arena, mark);
            let behind_seconds = behind.elapsed().as_secs_f64();
            let mut figures = follower.usage(&mut arena);
            figures.append(&mut Figures::from([
                ("transactions_per_second", rate),
                ("behind_seconds", behind_seconds),
            ]));
            follower.compare_all(&mut arena);
            follower.stop(&mut arena);
            report.record(WORKLOAD, kind.name(), figures);
        }
        arena.settle();
        let rate = arena.pgbench(&arguments);
        report.record(WORKLOAD, "nobody", Figures::from([("transactions_per_second", rate)]));
    }
    for (peer, goal) in
        [("native", Goal::AtLeast { must: 0.95, aim: 1.05 }), ("nobody", Goal::Told)]
    {
        let (what, figure) = ("pgbench rate, following", "transactions_per_second");
        report.compare(&Comparison { workload: WORKLOAD, what, figure, ours: "trem", peer }, goal);
    }
}
