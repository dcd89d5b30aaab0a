//! Before anything is copied or followed: check both sides, then bring what the target keeps about
//! the task in line with the definition.

use std::collections::BTreeMap;

use trem_wire::definition::{DefinedTable, Definition, TargetTables};
use trem_wire::{slot_name, Lsn};

use super::{Fresh, Run};
use crate::check::{refuse, Finding, Severity};
use crate::connect::Client;
use crate::error::{Error, Kind, Result};
use crate::report::{TablePhase, TableReport};
use crate::source::control::Slot;
use crate::source::replication::ReplicationConnection;
use crate::source::snapshot::Holder;
use crate::target::progress::{self, Progress, TableRecord, TableState};
use crate::target::{exception, quote_table, schema};

/// A table of the definition and what the target must do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Due {
    /// Not known on the target.
    Add,
    /// Loaded before, and asked to be loaded again.
    Reload,
    /// Its load did not come to an end.
    Resume,
    /// It has another name, and so has its table on the target: somebody renamed that by hand.
    Renamed,
    Nothing,
}

impl Run {
    /// Steps 3 to 5. `None`: the task is of mode full_load and done.
    pub(super) async fn prepare(
        &mut self,
        definition: &Definition,
    ) -> Result<(Option<Progress>, Fresh)> {
        let client = self.session.client();
        let (findings, replication) = tokio::join!(
            self.control.check(&definition.task),
            ReplicationConnection::connect(&self.worker.source)
        );
        let findings = findings?;
        self.warn(&findings);
        refuse(&findings)?;
        let replication = replication?;
        progress::bootstrap(client).await?;
        let stored = progress::read(client, &definition.task_id).await?;
        let records = progress::read_tables(client, &definition.task_id).await?;
        let due = all_due(client, definition, &records).await?;
        let own = own(definition, &due, &records);
        let findings = schema::check(client, definition, &to_load(&due), &own).await?;
        self.warn(&findings);
        refuse(&findings).map_err(|error| then_start(error, definition))?;

        let all_again = due.iter().all(|(_, due)| matches!(due, Due::Add | Due::Reload));
        let (progress, fresh) = match stored {
            Some(stored)
                if !stored.slot_created && due.iter().all(|(_, due)| *due == Due::Nothing) =>
            {
                self.report_tables(definition).await?;
                return Ok((None, None));
            }
            Some(stored) if stored.slot_created && !all_again => {
                (self.verify(definition, stored, replication).await?, None)
            }
            stored => {
                let again = stored.is_some();
                let (progress, holder) = self.create_slot(definition, replication).await?;
                let lsn = progress.applied_lsn;
                self.record(definition, &progress, (&due, &own), again).await?;
                self.report_tables(definition).await?;
                return Ok((Some(progress), Some((holder, lsn))));
            }
        };
        self.align(definition, &due, &records).await?;
        self.report_tables(definition).await?;
        Ok((Some(progress), fresh))
    }

    fn warn(&self, findings: &[Finding]) {
        for finding in findings.iter().filter(|finding| finding.severity == Severity::Warning) {
            tracing::info!(task = %self.name(), check = finding.check, "{}", finding.line());
        }
    }

    /// The progress stored on the target and the slot on the source must belong together.
    async fn verify(
        &self,
        definition: &Definition,
        stored: Progress,
        mut replication: ReplicationConnection,
    ) -> Result<Progress> {
        let system = replication.identify_system().await?;
        if system.system_identifier != stored.system_identifier {
            let message = format!(
                "the target follows the source with system identifier {}, and this one is {}",
                stored.system_identifier, system.system_identifier
            );
            return Err(Error::new(Kind::Mismatch, message).hint(start_over(definition)));
        }
        if system.timeline != stored.timeline {
            let history = replication.timeline_history(system.timeline).await?;
            let left = history.iter().find(|(timeline, _)| *timeline == stored.timeline);
            if left.is_none_or(|(_, switch)| *switch < stored.applied_lsn) {
                let message = format!(
                    "the source's timeline {} left timeline {} before {}, up to which the target \
                     has applied it",
                    system.timeline, stored.timeline, stored.applied_lsn
                );
                return Err(Error::new(Kind::Mismatch, message).hint(start_over(definition)));
            }
        }
        replication.close().await?;
        let slot = self.control.slot(&slot_name(&definition.task)).await?;
        verify_slot(definition, &stored, slot)?;
        Ok(Progress { timeline: system.timeline, ..stored })
    }

    /// Creates the task's slot; drops an orphan first: a slot that no progress belongs to.
    async fn create_slot(
        &self,
        definition: &Definition,
        mut replication: ReplicationConnection,
    ) -> Result<(Progress, Holder)> {
        let slot = slot_name(&definition.task);
        let system = replication.identify_system().await?;
        if let Some(orphan) = self.control.slot(&slot).await? {
            if let Some(pid) = orphan.active_pid {
                let message = format!("slot \"{slot}\" is in use by process {pid} on the source");
                return Err(Error::new(Kind::Taken, message).hint(
                    "Another applier with another target serves the task, or a connection that \
                     died is not noticed yet.",
                ));
            }
            tracing::info!(task = %self.name(), slot = %slot, "dropping an orphan slot");
            replication.drop_slot(&slot).await?;
        }
        tracing::info!(
            task = %self.name(),
            slot = %slot,
            "creating the slot (waits for transactions in progress)"
        );
        let created = replication.create_slot(&slot).await?;
        let holder = Holder::import(&self.worker.source, &created.snapshot).await?;
        replication.close().await?;
        let progress = Progress {
            applied_lsn: created.consistent_point,
            system_identifier: system.system_identifier,
            timeline: system.timeline,
            definition_version: definition.definition_version,
            slot_created: true,
        };
        Ok((progress, holder))
    }

    pub(super) async fn drop_slot(&self) -> Result<()> {
        let slot = slot_name(self.name());
        let mut replication = ReplicationConnection::connect(&self.worker.source).await?;
        if self.control.slot(&slot).await?.is_some() {
            replication.drop_slot(&slot).await?;
        }
        replication.close().await
    }

    /// The first record of the task and all of its tables, in one transaction. `again`: what was
    /// stored before is obsolete, and so are the rows.
    async fn record(
        &self,
        definition: &Definition,
        progress: &Progress,
        (due, own): (&[(&DefinedTable, Due)], &[schema::Name]),
        again: bool,
    ) -> Result<()> {
        let client = self.session.client();
        client.batch_execute("BEGIN; SET LOCAL synchronous_commit = on").await?;
        if again {
            let sql = "DELETE FROM trem_target.progress WHERE task_id = $1::text::uuid";
            client.execute(sql, &[&definition.task_id]).await?;
        }
        let tables: Vec<_> = due.iter().map(|(table, _)| *table).collect();
        progress::create(client, definition, progress, self.session.owner()).await?;
        schema::create(client, definition, &tables).await?;
        for (table, due) in due {
            let empty = definition.options.target_tables == TargetTables::Truncate
                || *due == Due::Reload
                || (again && (*due != Due::Add || own.contains(&schema::name_of(table))));
            self.write_pending(definition, table, progress.applied_lsn, empty).await?;
        }
        client.batch_execute("COMMIT").await?;
        Ok(())
    }

    /// Adds, empties and forgets tables as the definition now has them.
    async fn align(
        &self,
        definition: &Definition,
        due: &[(&DefinedTable, Due)],
        records: &[TableRecord],
    ) -> Result<()> {
        let stored = progress::read(self.session.client(), &definition.task_id).await?;
        let applied = stored.map_or(Lsn::INVALID, |stored| stored.applied_lsn);
        let client = self.session.client();
        client.batch_execute("BEGIN; SET LOCAL synchronous_commit = on").await?;
        let (task_id, own) = (&definition.task_id, own(definition, due, records));
        for record in records {
            let oid = record.source_oid;
            let mut tables = definition.tables.iter();
            match tables.find(|table| table.oid == oid) {
                // Two tables may have swapped their names: no name is in the way of another.
                Some(table) if is_at(record, table) => continue,
                Some(_) => {}
                None => exception::settle_table(client, task_id, oid).await?,
            }
            progress::forget_table(client, task_id, oid).await?;
        }
        schema::create(client, definition, &to_load(due)).await?;
        for (table, due) in due {
            let empty = match due {
                Due::Add => {
                    definition.options.target_tables == TargetTables::Truncate
                        || own.contains(&schema::name_of(table))
                }
                Due::Reload => true,
                Due::Renamed => {
                    let old = records.iter().find(|record| record.source_oid == table.oid);
                    let old = old.expect("a table that is known by another name");
                    progress::rename_table(client, task_id, old, &schema::name_of(table)).await?;
                    continue;
                }
                Due::Resume | Due::Nothing => continue,
            };
            self.write_pending(definition, table, applied, empty).await?;
        }
        client.batch_execute("COMMIT").await?;
        Ok(())
    }

    /// Records a table that is to be loaded; without a full load it is live at once.
    async fn write_pending(
        &self,
        definition: &Definition,
        table: &DefinedTable,
        applied: Lsn,
        empty: bool,
    ) -> Result<()> {
        let client = self.session.client();
        if empty && definition.mode.has_full_load() {
            let name = quote_table(&table.target_schema, &table.target_name);
            client.batch_execute(&format!("TRUNCATE {name}")).await?;
        }
        let state = match definition.mode.has_full_load() {
            true => TableState::Loading,
            false => TableState::Live,
        };
        let record = TableRecord {
            source_oid: table.oid,
            target_schema: table.target_schema.clone(),
            target_name: table.target_name.clone(),
            state,
            load_generation: table.load_generation,
            overlap_end: applied,
            snapshot: None,
            rows_loaded: 0,
            reread_end: Lsn::INVALID,
        };
        exception::settle_table(client, &definition.task_id, table.oid).await?;
        progress::write_table(client, &definition.task_id, &record).await
    }

    async fn report_tables(&self, definition: &Definition) -> Result<()> {
        let records = progress::read_tables(self.session.client(), &definition.task_id).await?;
        self.worker.reporter.update(|report| {
            let mut tables = BTreeMap::new();
            for record in &records {
                let state = match record.state {
                    TableState::Loading => TablePhase::Pending,
                    TableState::Live => TablePhase::Live,
                };
                let before = report.tables.remove(&record.source_oid);
                let name = format!("{}.{}", record.target_schema, record.target_name);
                let mut table =
                    before.unwrap_or_else(|| TableReport::new(record.source_oid, name, state));
                table.state = state;
                table.rows_loaded = u64::try_from(record.rows_loaded).unwrap_or(0);
                table.overlap_end = Some(record.overlap_end);
                tables.insert(record.source_oid, table);
            }
            report.tables = tables;
        });
        Ok(())
    }
}

async fn all_due<'a>(
    client: &Client,
    definition: &'a Definition,
    records: &[TableRecord],
) -> Result<Vec<(&'a DefinedTable, Due)>> {
    let mut all = Vec::with_capacity(definition.tables.len());
    for table in &definition.tables {
        let record = records.iter().find(|record| record.source_oid == table.oid);
        let renamed = match record {
            Some(record) if !is_at(record, table) => {
                is_renamed(client, definition, record, table).await?
            }
            _ => false,
        };
        all.push((table, if renamed { Due::Renamed } else { due(table, record) }));
    }
    Ok(all)
}

/// The task has the table under another name, and the target's was renamed by hand: it is there,
/// and none of the old name is, unless another table of the task belongs there now.
async fn is_renamed(
    client: &Client,
    definition: &Definition,
    record: &TableRecord,
    table: &DefinedTable,
) -> Result<bool> {
    if record.load_generation < table.load_generation || record.state != TableState::Live {
        return Ok(false);
    }
    let old = (record.target_schema.clone(), record.target_name.clone());
    let is_of_another = definition.tables.iter().any(|table| schema::name_of(table) == old);
    Ok(schema::exists(client, &schema::name_of(table)).await?
        && (is_of_another || !schema::exists(client, &old).await?))
}

/// The target table is the one that the definition means.
fn is_at(record: &TableRecord, table: &DefinedTable) -> bool {
    record.target_schema == table.target_schema && record.target_name == table.target_name
}

/// Target tables with rows of the task that will be others, or belong to no table of it any more.
fn own(
    definition: &Definition,
    due: &[(&DefinedTable, Due)],
    records: &[TableRecord],
) -> Vec<schema::Name> {
    let left = |record: &&TableRecord| {
        let mut tables = definition.tables.iter();
        !tables.any(|table| table.oid == record.source_oid && is_at(record, table))
    };
    let left = records.iter().filter(left);
    let left = left.map(|record| (record.target_schema.clone(), record.target_name.clone()));
    let again = due.iter().filter(|(_, due)| *due == Due::Reload);
    left.chain(again.map(|(table, _)| schema::name_of(table))).collect()
}

/// The tables that are loaded from the beginning.
fn to_load<'a>(due: &[(&'a DefinedTable, Due)]) -> Vec<&'a DefinedTable> {
    let loaded = due.iter().filter(|(_, due)| matches!(due, Due::Add | Due::Reload));
    loaded.map(|(table, _)| *table).collect()
}

fn due(table: &DefinedTable, record: Option<&TableRecord>) -> Due {
    let Some(record) = record else { return Due::Add };
    match record.state {
        _ if !is_at(record, table) => Due::Add,
        _ if record.load_generation < table.load_generation => Due::Reload,
        TableState::Loading => Due::Resume,
        TableState::Live => Due::Nothing,
    }
}

fn verify_slot(definition: &Definition, stored: &Progress, slot: Option<Slot>) -> Result<()> {
    let name = slot_name(&definition.task);
    let Some(slot) = slot else {
        let message = format!("the replication slot \"{name}\" is gone");
        return Err(Error::new(Kind::Mismatch, message).hint(start_over(definition)));
    };
    if slot.wal_status.as_deref() == Some("lost") {
        let message = format!("the source has removed WAL that slot \"{name}\" needs");
        return Err(Error::new(Kind::Mismatch, message).hint(start_over(definition)));
    }
    let confirmed = slot.confirmed_lsn.unwrap_or_default();
    if confirmed > stored.applied_lsn {
        let message = format!(
            "slot \"{name}\" is confirmed up to {confirmed}, and the target has applied only up \
             to {}: the changes between are lost to it",
            stored.applied_lsn
        );
        return Err(Error::new(Kind::Mismatch, message).hint(start_over(definition)));
    }
    Ok(())
}

/// Nobody here notices that the target was mended: whoever did it says so.
fn then_start(error: Error, definition: &Definition) -> Error {
    let hint = error.hint_text().unwrap_or_default();
    let hint = format!("{hint} Then SELECT trem.start_task('{}');", definition.task);
    error.hint(hint.trim_start())
}

/// The remedy when progress and slot do not belong together: every table anew.
pub(super) fn start_over(definition: &Definition) -> String {
    format!(
        "Load every table again: SELECT trem.reload_table('{0}', table_name) FROM \
         trem.table_status WHERE task = '{0}'; SELECT trem.start_task('{0}');",
        definition.task
    )
}
