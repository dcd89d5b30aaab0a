//! `make bench`: TREM beside what people use today, measured in one run.
//!
//! Every workload runs for TREM and for its peers in turn, in throw-away clusters with the same
//! settings, from the same start; the median of the runs counts. After each run the whole contents
//! of source and target are compared: a run that differs fails the bench. Figures never do: the
//! table at the end says which goal is met, and `.work/bench.json` keeps everything raw.
//!
//! `--only NAME[,NAME]` runs some workloads, `--scale 0.1` makes all of them smaller, `--runs N`
//! repeats them more or less often. `tools/bench.sh` builds and installs what is needed first.
//!
//! | module | what |
//! |---|---|
//! | [`arena`] | the two clusters and their settings |
//! | [`follower`] | who follows the source: TREM, or a native subscription |
//! | [`process`], [`proxy`] | CPU time, memory and bytes, counted from outside |
//! | [`tables`] | the rows of the workloads |
//! | [`decode`], [`apply`], [`latency`], [`overhead`], [`full_load`] | the workloads |
//! | [`report`] | medians, ratios, goals |

mod apply;
mod arena;
mod decode;
mod follower;
mod full_load;
mod latency;
mod overhead;
mod process;
mod proxy;
mod report;
mod tables;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;

use report::Report;

/// How much of the full amount of work, and how often.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) scale: f64,
    pub(crate) runs: usize,
}

impl Size {
    /// `full` at this scale, a multiple of `step`.
    pub(crate) fn of(self, full: u64, step: u64) -> u64 {
        let scaled = (full as f64 * self.scale) as u64 / step * step;
        scaled.max(step)
    }
}

type Workload = fn(Size, &mut Report);

const WORKLOADS: &[(&str, Workload)] = &[
    ("decode", decode::time),
    ("wire", decode::bytes),
    ("cdc-insert", apply::insert),
    ("cdc-mixed", apply::mixed),
    ("cdc-oltp", apply::oltp),
    ("big-transaction", apply::big_transaction),
    ("rules", apply::rules),
    ("latency", latency::run),
    ("source-overhead", overhead::run),
    ("full-load", full_load::run),
];

struct Arguments {
    size: Size,
    only: Vec<String>,
}

fn arguments() -> Result<Arguments, String> {
    let (mut scale, mut runs, mut only) = (1.0, None, Vec::new());
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        // Cargo tells every bench that it is one.
        if name == "--bench" {
            continue;
        }
        let value = given.next().ok_or(format!("{name} needs a value"))?;
        let number = |_| format!("{name} {value}: not a number");
        match name.as_str() {
            "--scale" => {
                scale = value
                    .parse()
                    .map_err(|e: std::num::ParseFloatError| format!("--scale {value}: {e}"))?
            }
            "--runs" => runs = Some(value.parse().map_err(|e: std::num::ParseIntError| number(e))?),
            "--only" => only.extend(value.split(',').map(str::to_owned)),
            _ => return Err(format!("unknown argument {name}: --only, --scale or --runs")),
        }
    }
    let names: Vec<_> = WORKLOADS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(format!("there is no workload {unknown}; there are {}", names.join(", ")));
    }
    let runs = runs.unwrap_or(if scale < 1.0 { 1 } else { 5 });
    Ok(Arguments { size: Size { scale, runs }, only })
}

fn main() -> ExitCode {
    let Arguments { size, only } = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let mut report = Report::new(size);
    for (name, workload) in WORKLOADS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        println!("\n==> {name}");
        // One that fails does not keep the others from running; its message is printed already.
        if catch_unwind(AssertUnwindSafe(|| workload(size, &mut report))).is_err() {
            report.fail(name);
        }
    }
    report.finish();
    if report.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
