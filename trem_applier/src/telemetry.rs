//! What a person sees while the program runs: log lines on standard error, as text or JSON, and on
//! a terminal one progress bar for each table of a load.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::EnvFilter;
use trem_wire::definition::DefinedTable;

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Starts logging. `RUST_LOG` filters as usual; without it, `info`.
pub fn start(format: LogFormat, bars: &Bars) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(bars.clone())
        .with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// The progress bars of all loads. Hidden when standard error is not a terminal.
#[derive(Clone)]
pub struct Bars {
    multi: MultiProgress,
    tables: Arc<Mutex<HashMap<u32, ProgressBar>>>,
}

impl Bars {
    pub fn new(log_format: LogFormat) -> Self {
        let target = match log_format {
            LogFormat::Text if io::stderr().is_terminal() => ProgressDrawTarget::stderr(),
            LogFormat::Text | LogFormat::Json => ProgressDrawTarget::hidden(),
        };
        let tables = Arc::new(Mutex::new(HashMap::new()));
        Bars { multi: MultiProgress::with_draw_target(target), tables }
    }

    /// `bytes`: the table's size on the source; what is sent differs a little.
    pub fn add(&self, table: &DefinedTable, bytes: u64) {
        let style = ProgressStyle::with_template(
            "{prefix:30!} {bar:30} {bytes:>10} of ~{total_bytes:10} {bytes_per_sec}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.multi.add(ProgressBar::new(bytes).with_style(style));
        bar.set_prefix(table.source_name.clone());
        self.lock().insert(table.oid, bar);
    }

    pub fn advance(&self, oid: u32, bytes: u64) {
        if let Some(bar) = self.lock().get(&oid) {
            bar.inc(bytes);
        }
    }

    pub fn finish(&self, oid: u32) {
        if let Some(bar) = self.lock().remove(&oid) {
            bar.finish_and_clear();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, ProgressBar>> {
        self.tables.lock().expect("no holder of the bars panics")
    }
}

/// Writes log lines between the bars.
pub struct BetweenBars(MultiProgress);

impl Write for BetweenBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Bars {
    type Writer = BetweenBars;

    fn make_writer(&'a self) -> Self::Writer {
        BetweenBars(self.multi.clone())
    }
}
