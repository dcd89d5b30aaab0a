//! What was measured: printed as it comes, one table of ratios at the end, all of it as JSON.

use std::collections::BTreeMap;

use serde_json::{json, Value};

use crate::arena;
use crate::Size;

/// Figures of one run, by name. A name ends with its unit.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

struct Sample {
    workload: String,
    contender: String,
    figures: Figures,
}

/// What issue 4 asks of a ratio.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtMost {
        must: f64,
        aim: f64,
    },
    AtLeast {
        must: f64,
        aim: f64,
    },
    /// Told, not judged.
    Told,
}

struct Line {
    workload: String,
    what: String,
    ours: String,
    peer: String,
    value: f64,
    goal: Goal,
}

/// Two contenders and the figure in which they are compared.
pub(crate) struct Comparison<'a> {
    pub(crate) workload: &'a str,
    pub(crate) what: &'a str,
    pub(crate) figure: &'static str,
    pub(crate) ours: &'a str,
    pub(crate) peer: &'a str,
}

pub(crate) struct Report {
    size: Size,
    samples: Vec<Sample>,
    lines: Vec<Line>,
    left_out: Vec<String>,
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(size: Size) -> Self {
        println!("TREM bench: scale {}, {} run(s) of each", size.scale, size.runs);
        println!("{}", arena::describe());
        Report {
            size,
            samples: Vec::new(),
            lines: Vec::new(),
            left_out: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Keeps the figures of one run.
    pub(crate) fn record(&mut self, workload: &str, contender: &str, figures: Figures) {
        let told: Vec<_> = figures.iter().map(|(name, value)| tell(name, *value)).collect();
        println!("    {workload:<18} {contender:<18} {}", told.join("  "));
        self.samples.push(Sample {
            workload: workload.to_owned(),
            contender: contender.to_owned(),
            figures,
        });
    }

    pub(crate) fn leave_out(&mut self, what: &str) {
        println!("    left out: {what}");
        self.left_out.push(what.to_owned());
    }

    pub(crate) fn fail(&mut self, what: &str) {
        self.failures.push(what.to_owned());
    }

    pub(crate) fn failed(&self) -> bool {
        !self.failures.is_empty()
    }

    fn median(&self, workload: &str, contender: &str, figure: &str) -> Option<f64> {
        let of = |sample: &&Sample| sample.workload == workload && sample.contender == contender;
        let samples = self.samples.iter().filter(of);
        let mut values: Vec<_> = samples.filter_map(|s| s.figures.get(figure).copied()).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            n if n % 2 == 1 => Some(values[middle]),
            _ => Some(f64::midpoint(values[middle - 1], values[middle])),
        }
    }

    /// Compares medians: ours divided by the peer's.
    pub(crate) fn compare(&mut self, comparison: &Comparison<'_>, goal: Goal) {
        let Comparison { workload, what, figure, ours, peer } = *comparison;
        let of = |contender: &str| self.median(workload, contender, figure);
        let (Some(our_value), Some(peer_value)) = (of(ours), of(peer)) else { return };
        self.lines.push(Line {
            workload: workload.to_owned(),
            what: what.to_owned(),
            ours: format!("{ours} {}", tell_value(figure, our_value)),
            peer: format!("{peer} {}", tell_value(figure, peer_value)),
            value: our_value / peer_value,
            goal,
        });
    }

    /// The peak of the applier's memory over everything that ran.
    fn add_memory(&mut self) {
        let peaks = self.samples.iter().filter_map(|sample| {
            sample.figures.get("applier_peak_mib").map(|peak| (*peak, sample))
        });
        let Some((peak, sample)) = peaks.max_by(|a, b| a.0.total_cmp(&b.0)) else { return };
        self.lines.push(Line {
            workload: "all".to_owned(),
            what: "applier's peak memory, MiB".to_owned(),
            ours: format!("{} {}", sample.contender, sample.workload),
            peer: String::new(),
            value: peak,
            goal: Goal::AtMost { must: 128.0, aim: 64.0 },
        });
    }

    /// Prints the table and writes the JSON file.
    pub(crate) fn finish(&mut self) {
        self.add_memory();
        println!("\n==> ratios (medians; scale {}, {} run(s))\n", self.size.scale, self.size.runs);
        println!(
            "{:<17} {:<33} {:>8} {:>9} {:>8}  {:<12} {:<30} peer",
            "workload", "what", "value", "must", "aim", "", "trem"
        );
        for line in &self.lines {
            println!("{}", line.told());
        }
        self.tell_shares();
        for what in &self.left_out {
            println!("left out: {what}");
        }
        for what in &self.failures {
            println!("FAILED: {what}");
        }
        let path = trem_tests::root().join(".work/bench.json");
        let text = serde_json::to_string_pretty(&self.json()).expect("figures are numbers");
        std::fs::write(&path, text + "\n").expect("to write the figures");
        println!("\nall figures: {}", path.display());
    }

    /// Who was busy: CPU time of each process as a share of the run's time.
    fn tell_shares(&self) {
        let mut told = Vec::new();
        for Sample { workload, contender, .. } in &self.samples {
            let of = |figure: &str| self.median(workload, contender, figure);
            let (Some(seconds), Some(walsender)) = (of("seconds"), of("walsender_cpu_seconds"))
            else {
                continue;
            };
            let share = |cpu: Option<f64>| {
                cpu.map_or_else(String::new, |cpu| format!("{:.0} %", 100.0 * cpu / seconds))
            };
            let line = format!(
                "{workload:<17} {contender:<17} {seconds:>7.2} s {:>10} {:>8} {:>8}",
                share(Some(walsender)),
                share(of("applier_cpu_seconds")),
                share(of("target_cpu_seconds"))
            );
            if !told.contains(&line) {
                told.push(line);
            }
        }
        if told.is_empty() {
            return;
        }
        println!("\n==> who is busy: CPU time as a share of the run's (medians)\n");
        println!("{:<45}{:>10} {:>8} {:>8}", "", "walsender", "applier", "target");
        told.iter().for_each(|line| println!("{line}"));
    }

    fn json(&self) -> Value {
        let samples = self.samples.iter().map(|sample| {
            json!({
                "workload": sample.workload,
                "contender": sample.contender,
                "figures": sample.figures,
            })
        });
        json!({
            "scale": self.size.scale,
            "runs": self.size.runs,
            "settings": arena::describe(),
            "samples": samples.collect::<Vec<_>>(),
            "ratios": self.lines.iter().map(Line::json).collect::<Vec<_>>(),
            "left_out": self.left_out,
            "failures": self.failures,
        })
    }
}

impl Line {
    /// The sign, what must hold and the aim, if the line is judged.
    fn limits(&self) -> Option<(&'static str, f64, f64)> {
        match self.goal {
            Goal::AtMost { must, aim } => Some(("<=", must, aim)),
            Goal::AtLeast { must, aim } => Some((">=", must, aim)),
            Goal::Told => None,
        }
    }

    fn verdict(&self) -> &'static str {
        let reaches = |limit: f64| match self.goal {
            Goal::AtMost { .. } => self.value <= limit,
            _ => self.value >= limit,
        };
        match self.limits() {
            None => "",
            Some((_, _, aim)) if reaches(aim) => "aim reached",
            Some((_, must, _)) if reaches(must) => "met",
            Some(_) => "FALLS SHORT",
        }
    }

    fn told(&self) -> String {
        let (must, aim) = self.limits().map_or_else(Default::default, |(sign, must, aim)| {
            (format!("{sign} {must:.2}"), format!("{aim:.2}"))
        });
        format!(
            "{:<17} {:<33} {:>8.3} {must:>9} {aim:>8}  {:<12} {:<30} {}",
            self.workload,
            self.what,
            self.value,
            self.verdict(),
            self.ours,
            self.peer
        )
    }

    fn json(&self) -> Value {
        let (sign, must, aim) = self
            .limits()
            .map_or((None, None, None), |(sign, must, aim)| (Some(sign), Some(must), Some(aim)));
        json!({
            "workload": self.workload,
            "what": self.what,
            "value": self.value,
            "trem": self.ours,
            "peer": self.peer,
            "sign": sign,
            "must": must,
            "aim": aim,
            "verdict": self.verdict(),
        })
    }
}

fn tell(name: &str, value: f64) -> String {
    format!("{name} {}", tell_value(name, value))
}

/// As many digits as say something: the name's last word is the unit.
fn tell_value(name: &str, value: f64) -> String {
    match name.rsplit('_').next() {
        Some("bytes") => format!("{:.2} MB", value / 1e6),
        Some("seconds") => format!("{value:.2} s"),
        Some("mib") => format!("{value:.1} MiB"),
        Some("ms") => format!("{value:.3} ms"),
        _ => format!("{value:.0}"),
    }
}
