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
//! ```text
//! session:  | sort 1 | gather 2 ..    | sort 2 | gather 3 ..
//! job 1:             | send .. COMMIT | results |
//! job 2:                                       | send ..
//! ```
//! [`Setwise`] is what it takes to send: it is either with the session, or with the one job that is
//! sending. A job that has sent everything gives it back, and then reads its last results while the
//! next job sends, so the target need not wait for us between two groups. While there is a job
//! nobody else uses the connection: every other statement waits for its end first. So there is one
//! order of statements, and the next group's compare-and-set expects what the last one wrote.
//!
//! # Crash argument
//! A statement that fails aborts its transaction on the server, and its COMMIT is a rollback; the
//! next job's compare-and-set then fails, too. What is wrong without an error is an update that
//! found fewer rows than were netted: so a job that has updates reads their results before it sends
//! COMMIT, or lets the next job send it. Too few is [`Kind::RowMissing`]: nothing is committed, the
//! session is thrown away, and the stream starts again at the durable `applied_lsn`, in source
//! order. A job that is dropped half way has sent no COMMIT or its transaction was whole.
//!
//! [`Kind::RowMissing`]: crate::error::Kind::RowMissing

use std::collections::HashMap;
use std::future::{ready, Future};
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::future::poll_immediate;
use futures_util::SinkExt;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::task::JoinHandle;
use tokio_postgres::{CopyInSink, SimpleQueryMessage, Statement};
use trem_wire::message::{Relation, RowFormat, Run};
use trem_wire::row::Row;
use trem_wire::Lsn;

use super::changes::{named, progress_moved, row_missing, COPY_HEAD, COPY_TAIL};
use super::gather::Gathered;
use super::layout::{Layout, RowArray};
use super::pipeline::{Expect, Pipeline};
use super::place::Place;
use super::prepared::Prepared;
use super::statement;
use super::thread::Thread;
use crate::connect::Client;
use crate::error::{Error, Kind, Result};
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

/// Outside of it the session may write nothing, see [`session`](super::session).
pub(super) const BEGIN: &str = "BEGIN READ WRITE";

/// What a job does before and after the changes.
pub(super) struct Frame {
    /// Opens the transaction, and moves progress from the first position to the second.
    pub(super) begin: Option<(Lsn, Lsn)>,
    pub(super) commit: Option<Commit>,
}

pub(super) struct Commit {
    /// Progress is still to be moved, from the first position to the second.
    pub(super) moves: Option<(Lsn, Lsn)>,
    pub(super) applied_lsn: Lsn,
}

/// The changes of one table, in the order in which they are carried out.
pub(super) struct Work {
    relation: Arc<Relation>,
    layout: Arc<Layout>,
    copied: Vec<Run>,
    netted: Sorted,
}

impl Work {
    pub(super) fn new(table: Gathered) -> Self {
        let Gathered { relation, layout, copied, net, .. } = table;
        let mut netted = Sorted::new(net.into_rows());
        netted.by_key();
        Work { relation, layout, copied, netted }
    }
}

/// What came of a job.
pub(super) struct Done {
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
pub(super) struct Running {
    /// `None` once it was asked for the last time.
    sent: Option<oneshot::Receiver<Setwise>>,
    done: JoinHandle<Result<Done>>,
}

impl Running {
    /// What is needed for the next job, if this one has sent everything.
    pub(super) fn try_sent(&mut self) -> Option<Setwise> {
        let sent = self.sent.as_mut()?.try_recv();
        if !matches!(sent, Err(TryRecvError::Empty)) {
            self.sent = None;
        }
        sent.ok()
    }

    /// The same, when it has; `None`: it failed. Cancel safe.
    pub(super) async fn sent(&mut self) -> Option<Setwise> {
        let sent = self.sent.as_mut()?.await;
        self.sent = None;
        sent.ok()
    }

    /// Cancel safe: the job goes on.
    pub(super) async fn done(&mut self) -> Result<Done> {
        (&mut self.done)
            .await
            .unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the task that applies died")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.done.abort();
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

    pub(super) fn start(self, thread: &Thread, frame: Frame, tables: Vec<Work>) -> Running {
        let (sent, is_sent) = oneshot::channel();
        Running { sent: Some(is_sent), done: thread.spawn(self.run(frame, tables, sent)) }
    }

    async fn run(
        mut self,
        frame: Frame,
        tables: Vec<Work>,
        sent: oneshot::Sender<Setwise>,
    ) -> Result<Done> {
        let mut job = Job {
            pipeline: Pipeline::new(Arc::clone(&self.client)),
            positions: None,
            conflicts: HashMap::new(),
        };
        let applied_lsn = frame.commit.as_ref().map(|commit| commit.applied_lsn);
        if let Err(error) = self.send(&mut job, frame, tables).await {
            return Err(job.root_cause(error).await);
        }
        // A session that is gone starts no other job.
        let _ = sent.send(self);
        job.settle(0).await?;
        let committed = match (applied_lsn, job.positions) {
            (Some(applied_lsn), Some(positions)) => {
                let (inserted, flushed) = positions.await?;
                Some(Committed { applied_lsn, inserted, flushed })
            }
            _ => None,
        };
        Ok(Done { committed, conflicts: job.conflicts })
    }

    async fn send(&mut self, job: &mut Job, frame: Frame, tables: Vec<Work>) -> Result<()> {
        if let Some((old, new)) = frame.begin {
            job.pipeline.send_simple(BEGIN.to_owned()).await;
            self.place.send_move(&mut job.pipeline, old, new).await?;
        }
        for table in tables {
            self.send_table(job, table).await?;
        }
        if let Some((old, new)) = frame.commit.as_ref().and_then(|commit| commit.moves) {
            self.place.send_move(&mut job.pipeline, old, new).await?;
        }
        // An update that finds no row is no error of the server: it would commit what is missing.
        if job.pipeline.must_be_read() {
            job.settle(0).await?;
        }
        if frame.commit.is_none() {
            return Ok(());
        }
        job.pipeline.send_simple("COMMIT".to_owned()).await;
        let client = Arc::clone(&self.client);
        let mut positions: Positions = Box::pin(async move { wal_positions(&client).await });
        // It is sent when it is first asked for.
        let positions = match poll_immediate(&mut positions).await {
            Some(positions) => Box::pin(ready(positions)),
            None => positions,
        };
        job.positions = Some(positions);
        Ok(())
    }

    async fn send_table(&mut self, job: &mut Job, table: Work) -> Result<()> {
        let Work { relation, layout, copied, netted } = table;
        if !copied.is_empty() {
            self.copy(job, &relation, copied.into_iter().map(|run| run.rows)).await?;
        }
        let key_row = |array: &mut RowArray<'_>, key: &Bytes| array.push_key(row(key));
        let whole_row = |array: &mut RowArray<'_>, (_, row_): &(Bytes, Bytes)| {
            array.push_row(row(row_));
        };
        let statement = Shape::Delete;
        self.send_rows(job, &relation, &layout, statement, netted.deletes, key_row).await?;
        for (present, rows) in netted.updates {
            let is_present = |at: usize| present.as_ref().is_none_or(|present| present[at]);
            let assigned: Vec<_> =
                statement::assigned_columns(&relation, false, is_present).collect();
            if !assigned.is_empty() {
                let shape = Shape::Update(assigned);
                self.send_rows(job, &relation, &layout, shape, rows, whole_row).await?;
            }
        }
        self.send_rows(job, &relation, &layout, Shape::Put, netted.puts, whole_row).await?;
        if !netted.inserts.is_empty() {
            self.copy(job, &relation, netted.inserts.into_iter().map(|(_, row)| row)).await?;
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
        job: &mut Job,
        relation: &Arc<Relation>,
        rows: impl Iterator<Item = Bytes>,
    ) -> Result<()> {
        let statement = self.statement(relation, Shape::Copy).await?;
        let failed = |error: tokio_postgres::Error| named(error.into(), relation);
        let sink: CopyInSink<Bytes> = self.client.copy_in(&statement).await.map_err(failed)?;
        let mut sink = Box::pin(sink);
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
        // Then the end can be sent at once, and its result be read later.
        sink.flush().await.map_err(failed)?;
        let end = async move { sink.as_mut().finish().await };
        job.pipeline.send(Box::pin(end), Expect::Inserted(Arc::clone(relation))).await;
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

/// The target's WAL positions, asked for and not there yet.
type Positions = Pin<Box<dyn Future<Output = Result<(Lsn, Lsn)>> + Send>>;

/// Results that a job still waits for, and what it has counted.
struct Job {
    pipeline: Pipeline,
    /// After COMMIT.
    positions: Option<Positions>,
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
    let answer = client.simple_query(sql).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let position = |at| row?.get(at)?.parse().ok();
    let none = || Error::new(Kind::Protocol, "the target does not say where its WAL ends");
    Ok((position(0).ok_or_else(none)?, position(1).ok_or_else(none)?))
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
