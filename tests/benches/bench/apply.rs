//! Applying: a backlog is made while nobody follows, then each follower in turn starts and is
//! timed until it has caught up.

use crate::arena::Arena;
use crate::follower::{Follower, Kind};
use crate::report::{Comparison, Figures, Goal, Report};
use crate::{tables, Size};

/// Who catches up, and what its target must hold then.
struct Runner {
    /// `None`: not counted. Whoever is first pays for memory that nobody touched before.
    contender: Option<&'static str>,
    follower: Follower,
    /// What of `item` is compared, if not whole tables: on the source, on the target.
    item: Option<(&'static str, &'static str)>,
}

/// Starts one after the other, and keeps what was measured.
fn race(report: &mut Report, workload: &str, arena: &mut Arena, runners: Vec<Runner>, work: u64) {
    let mark = arena.mark();
    for Runner { contender, mut follower, item } in runners {
        let mut figures: Figures = follower.catch_up(arena, mark);
        figures.insert("per_second", work as f64 / figures["seconds"]);
        match item {
            None => follower.compare_all(arena),
            Some((on_source, on_target)) => follower.compare(arena, on_source, on_target),
        }
        follower.remove(arena);
        if let Some(contender) = contender {
            report.record(workload, contender, figures);
        }
    }
}

fn trem_and_native(arena: &mut Arena, size: Size) -> Vec<Runner> {
    let mut runner = |kind, name: &str, contender| Runner {
        contender,
        follower: Follower::prepare(arena, kind, name),
        item: None,
    };
    // Whoever comes first finds files and memory that nobody has touched yet.
    let mut runners: Vec<_> =
        Kind::BOTH.map(|kind| runner(kind, &format!("{}_warm_up", kind.name()), None)).into();
    for run in 0..size.runs {
        for kind in Kind::BOTH {
            let name = format!("{}{run}", kind.name());
            runners.push(runner(kind, &name, Some(kind.name())));
        }
    }
    runners
}

/// One workload of TREM and a native subscription.
fn run(
    (workload, goal): (&str, Goal),
    mut arena: Arena,
    size: Size,
    report: &mut Report,
    change: impl FnOnce(&mut Arena) -> u64,
) {
    let runners = trem_and_native(&mut arena, size);
    let work = change(&mut arena);
    race(report, workload, &mut arena, runners, work);
    let figure = "per_second";
    let (ours, peer) = ("trem", "native");
    report.compare(&Comparison { workload, what: "apply rate", figure, ours, peer }, goal);
    for (what, figure) in
        [("walsender CPU", "walsender_cpu_seconds"), ("target's backend CPU", "target_cpu_seconds")]
    {
        report.compare(&Comparison { workload, what, figure, ours, peer }, Goal::Told);
    }
}

pub(crate) fn insert(size: Size, report: &mut Report) {
    let rows = size.of(1_000_000, 10_000);
    let judged = ("cdc-insert", Goal::AtLeast { must: 2.5, aim: 3.0 });
    run(judged, Arena::with_item(0), size, report, |arena| {
        arena.source.exec(&tables::insert_item(rows));
        rows
    });
}

pub(crate) fn mixed(size: Size, report: &mut Report) {
    let rows = size.of(1_000_000, 10_000);
    let judged = ("cdc-mixed", Goal::AtLeast { must: 2.0, aim: 3.0 });
    run(judged, Arena::with_item(rows), size, report, |arena| {
        arena.source.exec(&tables::change_item(rows));
        rows * 7 / 10
    });
}

pub(crate) fn oltp(size: Size, report: &mut Report) {
    let transactions = size.of(200_000, 1_000);
    let judged = ("cdc-oltp", Goal::AtLeast { must: 3.0, aim: 5.0 });
    run(judged, Arena::with_pgbench(10), size, report, |arena| {
        let each = (transactions / 4).to_string();
        arena.pgbench(&["-c", "4", "-j", "2", "-t", &each, "--random-seed=1"]);
        transactions
    });
}

pub(crate) fn big_transaction(size: Size, report: &mut Report) {
    let rows = size.of(5_000_000, 10_000);
    run(("big-transaction", Goal::Told), Arena::with_item(0), size, report, |arena| {
        arena.source.exec(&tables::fill_item(rows));
        rows
    });
}

const WHOLE: &str = "SELECT * FROM item";
const FILTERED: &str = "SELECT * FROM item WHERE customer % 10 = 0";
const COMPUTED: &str = "SELECT id, customer, round(amount * 1.19, 2), weight, placed, active, code,
    upper(note) || md5(code) FROM item";

const FILTER: &str = "SELECT trem.set_filter('{task}', 'public.item', 'customer % 10 = 0')";
const EXPRESSIONS: &str = "
    SELECT trem.set_value('{task}', 'public.item', 'amount', 'round(amount * 1.19, 2)');
    SELECT trem.set_value('{task}', 'public.item', 'note', 'upper(note) || md5(code)')";

/// Contender, who, publication, rules, the source's query.
const RULES: &[(&str, Kind, &str, &str, &str)] = &[
    ("trem", Kind::Trem, "bench", "", WHOLE),
    ("trem filter", Kind::Trem, "bench", FILTER, FILTERED),
    ("trem expressions", Kind::Trem, "bench", EXPRESSIONS, COMPUTED),
    ("native filter", Kind::Native, "filtered", "", FILTERED),
];

/// The rows of cdc-insert through rules: TREM against itself without, and against a native row
/// filter.
pub(crate) fn rules(size: Size, report: &mut Report) {
    let workload = "rules";
    let mut arena = Arena::with_item(0);
    let there = arena.source.number(
        "SELECT count(DISTINCT proname) FROM pg_proc
         WHERE pronamespace = 'trem'::regnamespace AND proname IN ('set_filter', 'set_value')",
    );
    if there < 2 {
        report.leave_out("rules: trem.set_filter and trem.set_value are not in this build");
        return;
    }
    arena.source.exec(
        "CREATE PUBLICATION filtered FOR TABLE item WHERE (customer % 10 = 0), mark
         WITH (publish = 'insert')",
    );
    let mut runners = Vec::new();
    for run in 0..size.runs {
        for (number, (contender, kind, publication, rules, on_source)) in RULES.iter().enumerate() {
            let name = format!("rules{run}_{number}");
            let follower = Follower::prepare_with(&mut arena, *kind, &name, publication, rules);
            let item = Some((*on_source, WHOLE));
            runners.push(Runner { contender: Some(*contender), follower, item });
        }
    }
    let rows = size.of(1_000_000, 10_000);
    arena.source.exec(&tables::insert_item(rows));
    race(report, workload, &mut arena, runners, rows);
    let mut compare = |what, ours, peer, goal| {
        report.compare(&Comparison { workload, what, figure: "per_second", ours, peer }, goal);
    };
    let goal = Goal::AtLeast { must: 1.0, aim: 1.5 };
    compare("source rows/s, filter / none", "trem filter", "trem", goal);
    compare("source rows/s, expressions / none", "trem expressions", "trem", Goal::Told);
    compare("source rows/s, filter", "trem filter", "native filter", Goal::Told);
}
