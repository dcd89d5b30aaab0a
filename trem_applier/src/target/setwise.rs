//! Carries netted changes out, many rows with one statement, beside whoever gathers the next ones.
//!
//! # One job
//! ```text
//! [BEGIN; compare-and-set]
//! for each table:  COPY of rows that need no netting
//!                  DELETE .. USING rows;  UPDATE .. FROM rows, per set of columns;
//!                  INSERT .. ON CONFLICT (a table with a filter);  COPY of new rows
//! [compare-and-set;]  all results;  [COMMIT; the target's WAL positions]
//! ```
//! Between the rows of these tables no order is needed (see [`net`](crate::net)); a row that is
//! copied without netting comes before everything that is netted of its table. A job opens the
//! target transaction, or goes on in one; it commits it, or leaves it open for more.
//!
//! # States
//! [`Setwise`] is what a job needs: it is either with the session, or with the job that runs in the
//! background, and comes back with its [`Done`]. While a job runs nobody else uses the connection:
//! every other statement waits for the job first. So there is one order of statements, and the next
//! group's compare-and-set expects what the last one wrote.
//!
//! # Crash argument
//! COMMIT is sent when every result of the transaction was read and is as expected. An update that
//! found fewer rows than were netted is [`Kind::RowMissing`]: nothing is committed, the session is
//! thrown away, and the stream starts again at the durable `applied_lsn`, in source order. A job
//! that is dropped half way has sent no COMMIT or its transaction was whole.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::SinkExt;
use tokio::task::JoinHandle;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{CopyInSink, Statement};
use trem_wire::message::{Relation, RowFormat};
use trem_wire::row::Row;
use trem_wire::Lsn;

use super::changes::{named, progress_moved, row_missing, COPY_HEAD, COPY_TAIL};
use super::gather::Gathered;
use super::layout::{Layout, RowArray};
use super::pipeline::{Expect, Pipeline};
use super::place::Place;
use super::prepared::Prepared;
use super::statement;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::net::{Net, Present};
use crate::value::Value;

/// Rows of one statement, in bytes: enough for its cost to vanish, little enough to be copied a few
/// times on its way.
const STATEMENT_BYTES: usize = 512 * 1024;

/// Statements sent ahead of their results.
const IN_FLIGHT_MAX: usize = 2;

/// Rows of a COPY are sent in pieces of about this size.
const PIECE_BYTES: usize = 64 * 1024;

/// Fewer bytes are sent together with others.
const PIECE_BYTES_MIN: usize = 8 * 1024;

/// What the session must be set to: the target's planner knows nothing about the rows of a
/// parameter, and is to look them up in the key's index whatever it thinks. JIT would be switched
/// on by what is forbidden.
pub(super) const SETTINGS: &str = "
    SELECT pg_catalog.set_config(s.name, v.value, false)
    FROM pg_catalog.pg_settings s, (VALUES ('plan_cache_mode', 'force_generic_plan'),
        ('enable_seqscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'),
        ('enable_memoize', 'off'), ('jit', 'off'), ('work_mem', '64MB')) v (name, value)
    WHERE s.name = v.name";

/// What a job does before and after the changes.
pub(super) struct Frame {
    /// Opens the transaction, and moves progress from the first position to the second.
    pub(super) begin: Option<(Lsn, Lsn)>,
    pub(super) commit: Option<Commit>,
}

pub(super) struct Commit {
    /// Progress is still to be moved, from here.
    pub(super) moves_from: Option<Lsn>,
    pub(super) applied_lsn: Lsn,
}

/// What came of a job.
pub(super) struct Done {
    pub(super) setwise: Setwise,
    pub(super) committed: Option<Committed>,
    /// By table OID: rows that were to be deleted and were not there.
    pub(super) conflicts: HashMap<u32, u64>,
}

/// A commit, and the target's WAL positions right after it.
pub(super) struct Committed {
    pub(super) applied_lsn: Lsn,
    pub(super) inserted: Lsn,
    pub(super) flushed: Lsn,
}

/// A job in the background; dropped, it is given up.
pub(super) struct Running(JoinHandle<Result<Done>>);

impl Running {
    pub(super) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Cancel safe: the job goes on.
    pub(super) async fn done(&mut self) -> Result<Done> {
        (&mut self.0).await.unwrap_or_else(|_| {
            Err(Error::new(crate::error::Kind::Internal, "the task that applies died"))
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) struct Setwise {
    client: Arc<Client>,
    place: Place,
    statements: Prepared<Shape>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Shape {
    Copy,
    Delete,
    Put,
    /// The columns that it assigns.
    Update(Vec<usize>),
}

impl Setwise {
    pub(super) fn new(client: Arc<Client>, place: Place) -> Self {
        Setwise { client, place, statements: Prepared::new() }
    }

    pub(super) fn start(self, frame: Frame, tables: Vec<Gathered>) -> Running {
        Running(tokio::spawn(self.run(frame, tables)))
    }

    pub(super) async fn run(mut self, frame: Frame, tables: Vec<Gathered>) -> Result<Done> {
        let mut job =
            Job { pipeline: Pipeline::new(Arc::clone(&self.client)), conflicts: HashMap::new() };
        let committed = match self.carry_out(&mut job, frame, tables).await {
            Ok(committed) => committed,
            Err(error) => return Err(job.root_cause(error).await),
        };
        Ok(Done { setwise: self, committed, conflicts: job.conflicts })
    }

    async fn carry_out(
        &mut self,
        job: &mut Job,
        frame: Frame,
        tables: Vec<Gathered>,
    ) -> Result<Option<Committed>> {
        if let Some((old, new)) = frame.begin {
            job.pipeline.send_simple("BEGIN".to_owned()).await;
            self.place.send_move(&mut job.pipeline, old, new).await?;
        }
        for table in tables {
            self.apply_table(job, table).await?;
        }
        let Some(commit) = frame.commit else {
            job.settle(0).await?;
            return Ok(None);
        };
        if let Some(old) = commit.moves_from {
            self.place.send_move(&mut job.pipeline, old, commit.applied_lsn).await?;
        }
        // An update that finds no row is no error of the server: it would commit what is missing.
        job.settle(0).await?;
        job.pipeline.send_simple("COMMIT".to_owned()).await;
        let (inserted, flushed) = wal_positions(&self.client).await?;
        job.settle(0).await?;
        Ok(Some(Committed { applied_lsn: commit.applied_lsn, inserted, flushed }))
    }

    async fn apply_table(&mut self, job: &mut Job, table: Gathered) -> Result<()> {
        let Gathered { relation, layout, copied, net, .. } = table;
        if !copied.is_empty() {
            self.copy(&relation, copied.into_iter().map(|run| run.rows)).await?;
        }
        let mut sorted = Sorted::new(net.into_rows());
        sorted.by_key();
        let key_row = |array: &mut RowArray<'_>, key: &Bytes| array.push_key(row(key));
        let whole_row = |array: &mut RowArray<'_>, (_, row_): &(Bytes, Bytes)| {
            array.push_row(row(row_));
        };
        let statement = Shape::Delete;
        self.send_rows(job, &relation, &layout, statement, sorted.deletes, key_row).await?;
        for (present, rows) in sorted.updates {
            let is_present = |at: usize| present.as_ref().is_none_or(|present| present[at]);
            let assigned: Vec<_> =
                statement::assigned_columns(&relation, false, is_present).collect();
            if !assigned.is_empty() {
                let shape = Shape::Update(assigned);
                self.send_rows(job, &relation, &layout, shape, rows, whole_row).await?;
            }
        }
        self.send_rows(job, &relation, &layout, Shape::Put, sorted.puts, whole_row).await?;
        if !sorted.inserts.is_empty() {
            self.copy(&relation, sorted.inserts.into_iter().map(|(_, row)| row)).await?;
        }
        Ok(())
    }

    async fn send_rows<T>(
        &mut self,
        job: &mut Job,
        relation: &Arc<Relation>,
        layout: &Layout,
        shape: Shape,
        rows: Vec<T>,
        push: impl Fn(&mut RowArray<'_>, &T),
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let statement = self.statement(relation, shape.clone()).await?;
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let mut array = RowArray::new(layout);
            while array.byte_count() < STATEMENT_BYTES {
                let Some(row) = rows.next() else { break };
                push(&mut array, &row);
            }
            let count = array.len() as u64;
            let expect = match shape {
                Shape::Update(_) => Expect::UpdatedAll(Arc::clone(relation), count),
                Shape::Delete if relation.filtered => Expect::Anything,
                Shape::Delete => Expect::DeletedAll(Arc::clone(relation), count),
                Shape::Put | Shape::Copy => Expect::Inserted(Arc::clone(relation)),
            };
            let array = Value::whole(RowFormat::Binary, array.finish().into());
            job.pipeline.send_row(&statement, vec![array], expect).await;
            job.settle(IN_FLIGHT_MAX - 1).await?;
        }
        Ok(())
    }

    /// Binary rows straight into the table, in pieces of a good size.
    async fn copy(
        &mut self,
        relation: &Arc<Relation>,
        rows: impl Iterator<Item = Bytes>,
    ) -> Result<()> {
        let statement = self.statement(relation, Shape::Copy).await?;
        let failed = |error: tokio_postgres::Error| named(error.into(), relation);
        let sink: CopyInSink<Bytes> = self.client.copy_in(&statement).await.map_err(failed)?;
        let mut sink = std::pin::pin!(sink);
        let mut piece = COPY_HEAD.to_vec();
        for mut rows in rows {
            if rows.len() < PIECE_BYTES_MIN && piece.len() < PIECE_BYTES {
                piece.extend_from_slice(&rows);
                continue;
            }
            let full = std::mem::take(&mut piece);
            sink.feed(full.into()).await.map_err(failed)?;
            while rows.len() > PIECE_BYTES {
                sink.feed(rows.copy_to_bytes(PIECE_BYTES)).await.map_err(failed)?;
            }
            sink.feed(rows).await.map_err(failed)?;
        }
        piece.extend_from_slice(COPY_TAIL);
        sink.feed(piece.into()).await.map_err(failed)?;
        sink.finish().await.map_err(failed)?;
        Ok(())
    }

    async fn statement(&mut self, relation: &Arc<Relation>, shape: Shape) -> Result<Statement> {
        let sql = |shape: &Shape| match shape {
            Shape::Copy => statement::copy(relation),
            Shape::Delete => statement::delete_rows(relation),
            Shape::Put => statement::upsert_rows(relation),
            Shape::Update(assigned) => statement::update_rows(relation, assigned),
        };
        self.statements.get(&self.client, relation, shape, sql).await
    }
}

/// Results that a job still waits for, and what it has counted.
struct Job {
    pipeline: Pipeline,
    conflicts: HashMap<u32, u64>,
}

impl Job {
    async fn settle(&mut self, keep: usize) -> Result<()> {
        while self.pipeline.len() > keep {
            let Some((result, expect)) = self.pipeline.next().await else { break };
            self.judge(result, expect)?;
        }
        Ok(())
    }

    fn judge(&mut self, result: Result<u64>, expect: Expect) -> Result<()> {
        match expect {
            Expect::Progress => result.map(drop).map_err(progress_moved),
            Expect::UpdatedAll(relation, count) => {
                match result.map_err(|error| named(error, &relation))? == count {
                    true => Ok(()),
                    false => Err(row_missing(&relation)),
                }
            }
            Expect::DeletedAll(relation, count) => {
                let deleted = result.map_err(|error| named(error, &relation))?;
                *self.conflicts.entry(relation.oid).or_default() += count.saturating_sub(deleted);
                Ok(())
            }
            Expect::Inserted(relation) => result.map(drop).map_err(|error| named(error, &relation)),
            Expect::Anything
            | Expect::Updated(_)
            | Expect::Deleted(_)
            | Expect::UpdatedOrWanted(..) => result.map(drop),
        }
    }

    /// The first error of those in flight: what came after a failed statement fails because of it.
    async fn root_cause(&mut self, error: Error) -> Error {
        match self.settle(0).await {
            Err(first) if error.sqlstate_code() == Some("25P02") => first,
            _ => error,
        }
    }
}

/// Where the target's own WAL ends, and up to where it is flushed.
pub(super) async fn wal_positions(client: &Client) -> Result<(Lsn, Lsn)> {
    let sql = "SELECT pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()";
    let row = client.query_one(sql, &[]).await?;
    let [inserted, flushed] = [0, 1].map(|at| Lsn(row.get::<_, PgLsn>(at).into()));
    Ok((inserted, flushed))
}

/// Netted rows by what is to be done with them, in the order of their keys: rows that are near each
/// other in the table are then looked up one after the other.
#[derive(Default)]
struct Sorted {
    deletes: Vec<Bytes>,
    updates: HashMap<Present, Vec<(Bytes, Bytes)>>,
    puts: Vec<(Bytes, Bytes)>,
    inserts: Vec<(Bytes, Bytes)>,
}

impl Sorted {
    fn new(rows: impl Iterator<Item = (Bytes, Net)>) -> Self {
        let mut sorted = Sorted::default();
        for (key, net) in rows {
            match net {
                Net::Delete => sorted.deletes.push(key),
                Net::Update(row, present) => {
                    sorted.updates.entry(present).or_default().push((key, row));
                }
                Net::Put(row) => sorted.puts.push((key, row)),
                Net::Insert(row) => sorted.inserts.push((key, row)),
            }
        }
        sorted
    }

    fn by_key(&mut self) {
        self.deletes.sort_unstable();
        let lists = self.updates.values_mut().chain([&mut self.puts, &mut self.inserts]);
        for list in lists {
            list.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        }
    }
}

fn row(bytes: &Bytes) -> Row<'_> {
    Row::decode(bytes).expect("rows were checked when they were decoded")
}
