//! Metrics for Prometheus, served with `--listen`: what the reports say, as numbers.
//!
//! Without `--listen` nobody records them and they cost nothing.

use std::net::SocketAddr;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::error::{Error, Kind, Result};
use crate::report::{Phase, Report};

/// Serves `/metrics` and `/health` from now on. To be called inside the runtime, once.
pub fn listen(address: SocketAddr) -> Result<()> {
    let failed = |error| {
        let message = format!("--listen {address}: {error}");
        Error::new(Kind::Argument, message).hint("Give an address and port that are free.")
    };
    PrometheusBuilder::new().with_http_listener(address).install().map_err(failed)?;
    describe_gauge!("trem_task_phase", "1 for the phase that the task is in, 0 for the others");
    describe_gauge!("trem_applied_lsn", "Source position up to which the target is applied");
    describe_gauge!("trem_confirmed_lsn", "Source position up to which the slot is confirmed");
    describe_counter!("trem_rows_loaded_total", "Rows that the full load wrote");
    describe_counter!("trem_bytes_loaded_total", "Bytes of rows that the full load wrote");
    describe_counter!("trem_changes_total", "Changes applied from the stream, by operation");
    describe_counter!("trem_conflicts_total", "Rows that were not as the source had them");
    Ok(())
}

/// Takes over what the task's newest report says.
pub fn publish(task: &str, report: &Report) {
    let task = || task.to_owned();
    for phase in Phase::ALL {
        let is_in = f64::from(u8::from(report.phase == phase));
        gauge!("trem_task_phase", "task" => task(), "phase" => phase.name()).set(is_in);
    }
    let positions =
        [("trem_applied_lsn", report.applied_lsn), ("trem_confirmed_lsn", report.confirmed_lsn)];
    for (name, position) in positions {
        if let Some(position) = position {
            // Exact up to 8 PiB of WAL.
            gauge!(name, "task" => task()).set(position.0 as f64);
        }
    }
    for table in report.tables.values() {
        let table_name = || table.target_table.clone();
        let set = |name: &'static str, value: u64| {
            counter!(name, "task" => task(), "table" => table_name()).absolute(value);
        };
        set("trem_rows_loaded_total", table.rows_loaded);
        set("trem_bytes_loaded_total", table.bytes_loaded);
        set("trem_conflicts_total", table.conflicts);
        let operations =
            [("insert", table.inserts), ("update", table.updates), ("delete", table.deletes)];
        for (operation, rows) in operations {
            let name = "trem_changes_total";
            let labels =
                [("task", task()), ("table", table_name()), ("operation", operation.to_owned())];
            counter!(name, &labels).absolute(rows);
        }
    }
}
