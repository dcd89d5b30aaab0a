//! The full load: rows of each table from the source into the target, several tables at a time.
//!
//! # Protocol, for one table
//! ```text
//! target  BEGIN
//! source    are its parts, in the snapshot, those that were published?
//! source    BEGIN; SET TRANSACTION SNAPSHOT; lock it; is the file the snapshot's?    (per leaf)
//!           frames of rows  ──►  COPY table FROM STDIN
//! target  key and indexes
//! source  wait until its WAL is flushed past the snapshot's position
//! target  table_state: live, overlap_end, snapshot;  COMMIT;  ANALYZE
//! ```
//! # States
//! `loading` (durable, made with the table), `live` (durable, with all its rows). There is nothing
//! between them: a table's rows, key and state are one target transaction.
//!
//! # Rows that cannot be computed
//! The source says so of each of them, as in the stream. A task that skips such rows keeps a record
//! of it with the copy ([`leaf`]); any other stops.
//!
//! # Crash argument
//! A crash anywhere before COMMIT leaves the table `loading` and empty. It is then loaded again,
//! alone, under a new snapshot; its `overlap_end` and snapshot are stored with it and tell
//! [`apply`](crate::apply) what of the stream it already holds. Tables that are live stay.
//!
//! # Snapshots
//! The first load uses the slot's own snapshot: nothing overlaps. Every later one is taken after
//! those who write to its tables have ended (see [`snapshot`]). When a table was rewritten after
//! its snapshot was taken, the snapshot shows it empty: that table is put back and loaded under a
//! new one.

mod leaf;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;
use trem_wire::definition::{DefinedTable, Definition};
use trem_wire::sqlstate::is_of_the_session;
use trem_wire::Lsn;

use crate::connect::{connect, Client};
use crate::conninfo::ConnInfo;
use crate::error::{Error, Kind, Result};
use crate::report::{Reporter, TablePhase};
use crate::source::copy::{self, Heap};
use crate::source::snapshot::{self, Holder};
use crate::target::{progress, quote_table, schema};
use crate::telemetry::Bars;

/// Progress is reported after this many bytes of a table.
const REPORT_EVERY_BYTES: u64 = 1 << 20;

/// How often a table may be rewritten under the load before it is given up.
const REWRITES_MAX: usize = 20;

/// What the jobs of one load share.
#[derive(Clone)]
pub struct Load {
    pub source: ConnInfo,
    pub target: ConnInfo,
    pub definition: Arc<Definition>,
    pub reporter: Reporter,
    pub bars: Bars,
}

/// The snapshot of one round.
struct Round {
    exported: String,
    lsn: Lsn,
    overlap_end: Lsn,
    /// Stored with the table when the stream overlaps its copy.
    visible: Option<String>,
}

impl Load {
    /// Loads tables, each whole. `first`: the slot's own snapshot with the slot's first position,
    /// when the slot was just created.
    pub async fn run(&self, tables: Vec<DefinedTable>, first: Option<(Holder, Lsn)>) -> Result<()> {
        let mut queue = self.by_size(tables).await?;
        let mut first = first;
        for _ in 0..REWRITES_MAX {
            if queue.is_empty() {
                return Ok(());
            }
            let (holder, round) = match first.take() {
                Some((holder, lsn)) => {
                    let exported = holder.exported.clone();
                    (holder, Round { exported, lsn, overlap_end: lsn, visible: None })
                }
                None => self.later_snapshot(&queue).await?,
            };
            queue = self.round(queue, Arc::new(round)).await?;
            if !holder.is_open() && !queue.is_empty() {
                tracing::debug!("the snapshot's session ended; the rest takes another");
            }
        }
        let names: Vec<_> = queue.iter().map(|t| t.source_name.as_str()).collect();
        let message = format!("rewritten again and again during the load: {}", names.join(", "));
        Err(Error::new(Kind::Conflict, message))
    }

    async fn later_snapshot(&self, tables: &VecDeque<DefinedTable>) -> Result<(Holder, Round)> {
        let oids: Vec<u32> = tables
            .iter()
            .flat_map(|t| std::iter::once(t.oid).chain(t.leaves.iter().map(|leaf| leaf.oid)))
            .collect();
        let client = connect(&self.source.with_application_name("trem:load")).await?;
        snapshot::wait_for_writers(&client, &self.definition.task, &oids).await?;
        let holder = Holder::take(&self.source).await?;
        let round = Round {
            exported: holder.exported.clone(),
            lsn: holder.lsn,
            overlap_end: holder.lsn,
            visible: Some(holder.visible.clone()),
        };
        Ok((holder, round))
    }

    /// The largest first, so that none of them is alone at the end.
    async fn by_size(&self, tables: Vec<DefinedTable>) -> Result<VecDeque<DefinedTable>> {
        let client = connect(&self.source.with_application_name("trem:load")).await?;
        let mut sized = Vec::with_capacity(tables.len());
        for table in tables {
            let leaves: Vec<u32> = table.leaves.iter().map(|leaf| leaf.oid).collect();
            let sql = "SELECT coalesce(sum(pg_relation_size(oid)), 0)::bigint
                       FROM pg_class WHERE oid = ANY ($1)";
            let bytes: i64 = client.query_one(sql, &[&leaves]).await?.get(0);
            self.bars.add(&table, u64::try_from(bytes).unwrap_or(0));
            sized.push((bytes, table));
        }
        sized.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        Ok(sized.into_iter().map(|(_, table)| table).collect())
    }

    /// Loads what the queue holds, under one snapshot. Returns the tables that were rewritten
    /// since.
    async fn round(
        &self,
        queue: VecDeque<DefinedTable>,
        round: Arc<Round>,
    ) -> Result<VecDeque<DefinedTable>> {
        let jobs = usize::from(self.definition.options.full_load_jobs.max(1)).min(queue.len());
        let queue = Arc::new(Mutex::new(queue));
        let rewritten = Arc::new(Mutex::new(VecDeque::new()));
        let mut running = JoinSet::new();
        for _ in 0..jobs {
            let (load, round) = (self.clone(), Arc::clone(&round));
            let (queue, rewritten) = (Arc::clone(&queue), Arc::clone(&rewritten));
            running.spawn(async move { load.job(&round, &queue, &rewritten).await });
        }
        while let Some(result) = running.join_next().await {
            result.map_err(|_| Error::new(Kind::Internal, "a load job died"))??;
        }
        let rewritten = std::mem::take(&mut *lock(&rewritten));
        Ok(rewritten)
    }

    async fn job(
        &self,
        round: &Round,
        queue: &Mutex<VecDeque<DefinedTable>>,
        rewritten: &Mutex<VecDeque<DefinedTable>>,
    ) -> Result<()> {
        let task = &self.definition.task;
        let application_name = format!("trem:{task}:load");
        let source = connect(&self.source.with_application_name(&application_name)).await?;
        let target = connect(&self.target.with_application_name(&application_name)).await?;
        // Triggers of the target's own are not for rows that the source has already judged.
        let _ = target.batch_execute("SET session_replication_role = replica").await;
        loop {
            let Some(table) = lock(queue).pop_front() else { return Ok(()) };
            let name = quote_table(&table.source_schema, &table.source_name);
            let loaded = self.table(&source, &target, round, &table).await;
            match loaded.map_err(|error| error.context(format!("loading table {name}")))? {
                Heap::AsInSnapshot => {}
                Heap::Rewritten => {
                    tracing::info!(task = %task, table = %name, "rewritten meanwhile: loaded anew");
                    lock(rewritten).push_back(table);
                }
            }
        }
    }

    async fn table(
        &self,
        source: &Client,
        target: &Client,
        round: &Round,
        table: &DefinedTable,
    ) -> Result<Heap> {
        let mut meter = Meter { load: self, oid: table.oid, rows: 0, bytes: 0, reported: 0 };
        meter.report(TablePhase::Loading);
        copy::check_parts(source, &round.exported, table).await?;
        target.batch_execute("BEGIN").await?;
        let mut rows_loaded = 0;
        for leaf in &table.leaves {
            let heap = copy::lock(source, &round.exported, &self.definition, leaf).await?;
            if heap == Heap::Rewritten {
                source.batch_execute("ROLLBACK").await?;
                target.batch_execute("ROLLBACK").await?;
                return Ok(heap);
            }
            let pair = (source, target);
            rows_loaded += leaf::copy_leaf(pair, &self.definition, table, leaf, &mut meter).await?;
            source.batch_execute("COMMIT").await?;
        }
        schema::create_indexes(target, table).await?;
        snapshot::wait_for_flush(source, round.lsn).await?;
        let record = progress::TableRecord {
            source_oid: table.oid,
            target_schema: table.target_schema.clone(),
            target_name: table.target_name.clone(),
            state: progress::TableState::Live,
            load_generation: table.load_generation,
            overlap_end: round.overlap_end,
            snapshot: round.visible.clone(),
            rows_loaded: i64::try_from(rows_loaded).unwrap_or(i64::MAX),
            reread_end: Lsn::INVALID,
        };
        progress::write_table(target, &self.definition.task_id, &record).await?;
        target.batch_execute("COMMIT").await?;
        let name = quote_table(&table.target_schema, &table.target_name);
        analyze(target, &self.definition.task, &name).await?;
        meter.rows = rows_loaded;
        meter.report(TablePhase::Live);
        self.bars.finish(table.oid);
        tracing::info!(task = %self.definition.task, table = %name, rows = rows_loaded, "loaded");
        Ok(Heap::AsInSnapshot)
    }
}

/// Statistics for a table that was just loaded. There are values of which the server cannot make
/// any (a range of numbers that no float can hold); it has the table all the same.
async fn analyze(target: &Client, task: &str, name: &str) -> Result<()> {
    match target.batch_execute(&format!("ANALYZE {name}")).await.map_err(Error::from) {
        Err(error) if error.sqlstate_code().is_some_and(|of| !is_of_the_session(of.as_bytes())) => {
            tracing::info!(task = %task, table = %name, %error, "cannot be analyzed");
            Ok(())
        }
        analyzed => analyzed,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no job panics while it holds the queue")
}

/// Counts what one table has brought so far.
struct Meter<'a> {
    load: &'a Load,
    oid: u32,
    rows: u64,
    bytes: u64,
    reported: u64,
}

impl Meter<'_> {
    fn add(&mut self, rows: u64, bytes: usize) {
        self.rows += rows;
        self.bytes += bytes as u64;
        if self.bytes - self.reported >= REPORT_EVERY_BYTES {
            self.load.bars.advance(self.oid, self.bytes - self.reported);
            self.reported = self.bytes;
            self.report(TablePhase::Loading);
        }
    }

    fn report(&self, state: TablePhase) {
        self.load.reporter.update(|report| {
            if let Some(table) = report.tables.get_mut(&self.oid) {
                table.state = state;
                table.rows_loaded = self.rows;
                table.bytes_loaded = self.bytes;
            }
        });
    }
}
