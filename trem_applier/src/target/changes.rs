//! Rows into tables: each change becomes the statement that makes it, in source order.
//!
//! Long runs of inserts go through COPY as they are; everything else through prepared statements,
//! pipelined. Where the target may not be what the source had before, [`careful`](super::careful)
//! takes over; rows that must be read again are collected here and read at the end of the group.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::{CopyInSink, Statement};
use trem_wire::message::{ErrorRow, Operation, Relation, RowFormat, Run, UpdatedRow};
use trem_wire::row::{ColumnSet, Row};
use trem_wire::Lsn;

use super::exception::Failed;
use super::gather::Gathered;
use super::pipeline::{Expect, Pipeline};
use super::prepared::Prepared;
use super::reread::{self, FoundRow, Reread};
use super::skipped::key_before;
use super::{exception, quote_table, statement};
use crate::error::{Error, Kind, Result};
use crate::net::{self, Net};
use crate::value::Value;

/// Runs of at least this many rows are worth a COPY of their own.
const COPY_ROWS_MIN: u32 = 8;

/// Statements in flight; the results of the older half are read when there are more.
const IN_FLIGHT_MAX: usize = 1_024;

/// The same in bytes.
const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;

/// The head of a binary COPY: signature, flags, no header extension.
pub const COPY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub const COPY_TAIL: &[u8] = &(-1_i16).to_be_bytes();

/// What was applied to one table.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    /// Rows that were not as the source had them. Zero when nothing is wrong.
    pub conflicts: u64,
}

pub(super) struct Changes {
    pub(super) pipeline: Pipeline,
    copy: Option<OpenCopy>,
    statements: Prepared<Shape>,
    pub(super) counts: HashMap<u32, Counts>,
    /// A group failed: everything is applied one by one.
    pub(super) careful: bool,
    /// Tables of which some rows are ahead of the stream, and up to where.
    pub(super) ahead: HashMap<u32, Lsn>,
    /// Target columns of the unique indexes beside the key.
    pub(super) unique_columns: HashMap<u32, Vec<Vec<String>>>,
    /// The source transaction that is being applied.
    commit_lsn: Lsn,
    /// All source transactions of the open group.
    group_xids: Vec<u64>,
    wanted: HashMap<u32, Wanted>,
    /// Statements in flight that may want rows to be read again.
    may_want: usize,
    /// Tables of which the open group has rows read again, or may have.
    unsettled: HashSet<u32>,
    pub(super) task_id: String,
    /// Tables of which some rows were skipped.
    pub(super) skipped: HashSet<u32>,
}

/// Keys of one table whose rows are to be read again.
struct Wanted {
    relation: Arc<Relation>,
    keys: Vec<Bytes>,
}

struct OpenCopy {
    relation: Arc<Relation>,
    sink: Pin<Box<CopyInSink<Bytes>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    Copy,
    Insert,
    Delete,
    Upsert,
    /// The columns that it assigns.
    Update(Vec<usize>),
    /// The columns of the unique index whose value is taken away.
    Evict(Vec<usize>),
    /// Keeps a skipped row, with its key or without.
    Record(bool),
    FindSkipped,
    Settle,
}

impl Changes {
    pub(super) fn new(pipeline: Pipeline, task_id: &str) -> Self {
        Changes {
            pipeline,
            copy: None,
            statements: Prepared::new(),
            counts: HashMap::new(),
            careful: false,
            ahead: HashMap::new(),
            unique_columns: HashMap::new(),
            commit_lsn: Lsn::INVALID,
            group_xids: Vec::new(),
            wanted: HashMap::new(),
            may_want: 0,
            unsettled: HashSet::new(),
            task_id: task_id.to_owned(),
            skipped: HashSet::new(),
        }
    }

    /// The changes that follow belong to this source transaction.
    pub(super) fn enter(&mut self, xid: u64, commit_lsn: Lsn) {
        self.group_xids.push(xid);
        self.commit_lsn = commit_lsn;
    }

    /// The group is over.
    pub(super) fn leave(&mut self) {
        self.group_xids.clear();
        self.unsettled.clear();
    }

    /// The table's changes are to be applied one after the other for now: its rows may not be what
    /// the source had, or some are about to be read again.
    pub(super) fn is_in_order(&self, relation: &Relation) -> bool {
        self.is_careful(relation)
            || self.unsettled.contains(&relation.oid)
            || self.has_skipped(relation)
    }

    /// Nothing is in flight and nothing is wanted.
    pub(super) fn is_quiet(&self) -> bool {
        self.copy.is_none() && self.pipeline.len() == 0 && self.wanted.is_empty()
    }

    pub(super) fn commit_lsn(&self) -> Lsn {
        self.commit_lsn
    }

    /// The table's rows may not be what the source had before this transaction.
    fn is_careful(&self, relation: &Relation) -> bool {
        self.careful || self.is_ahead(relation)
    }

    /// A row that the source changes may not be on the target (yet): it was filtered out, skipped,
    /// or will be read again.
    fn may_be_absent(&self, relation: &Relation) -> bool {
        relation.filtered
            || self.has_skipped(relation)
            || self.unsettled.contains(&relation.oid)
            || self.is_ahead(relation)
    }

    pub(super) async fn insert(&mut self, relation: &Arc<Relation>, run: &Run) -> Result<()> {
        self.counts(relation).inserts += u64::from(run.row_count);
        let careful = self.is_careful(relation);
        let continues = self.copy.as_ref().is_some_and(|copy| copy.relation == *relation);
        if !careful && (continues || run.row_count >= COPY_ROWS_MIN) {
            return self.copy_run(relation, run).await;
        }
        self.close_copy().await?;
        for row in run.rows() {
            match careful {
                true => self.put_row(relation, &run.rows, row).await?,
                false => self.insert_row(relation, &run.rows, row).await?,
            }
        }
        Ok(())
    }

    pub(super) async fn insert_row(
        &mut self,
        relation: &Arc<Relation>,
        rows: &Bytes,
        row: Row<'_>,
    ) -> Result<()> {
        let statement = self.statement(relation, Shape::Insert).await?;
        let values = values(relation, rows, row.fields());
        let expect = Expect::Inserted(Arc::clone(relation));
        self.pipeline.send_row(&statement, values, expect).await;
        self.settle_some().await
    }

    pub(super) async fn update(&mut self, relation: &Arc<Relation>, run: &Run) -> Result<()> {
        self.close_copy().await?;
        self.counts(relation).updates += u64::from(run.row_count);
        let (careful, skipped) = (self.is_careful(relation), self.has_skipped(relation));
        for row in run.updated_rows() {
            let may_be_new = relation.filtered || skipped || self.unsettled.contains(&relation.oid);
            if !row.unknown.is_empty()
                || self.takes_along_what_is_unsettled(relation, row)
                || self.is_stale(relation, &run.rows, row).await?
            {
                self.forget_and_want(relation, &run.rows, row).await?;
                continue;
            }
            let assigned: Vec<usize> =
                statement::assigned_columns(relation, row.old.is_some(), |at| {
                    !row.unchanged.contains(at)
                })
                .collect();
            if assigned.is_empty() {
                // Only the key is there, and it did not move; or nothing of the row is in the WAL.
                if may_be_new || careful {
                    self.want(relation, key_row(relation, row.new));
                }
            } else if careful {
                self.update_carefully(relation, &run.rows, row, assigned).await?;
            } else if may_be_new && relation.has_key() && row.unchanged.is_empty() {
                self.upsert_row(relation, &run.rows, row).await?;
            } else {
                let expect = self.expect_update(relation, row);
                self.update_row(relation, &run.rows, row, assigned, expect).await?;
            }
            if skipped && row.unchanged.is_empty() {
                self.settle_row(relation, key_before(relation, &run.rows, row)).await?;
            }
        }
        Ok(())
    }

    /// The row moves to another key, with columns that the target may not have as they are now: the
    /// old key is about to be read again, and nothing will be found there.
    fn takes_along_what_is_unsettled(&self, relation: &Relation, row: UpdatedRow<'_>) -> bool {
        let moves = row.old.is_some() && relation.has_key();
        moves && !row.unchanged.is_empty() && self.unsettled.contains(&relation.oid)
    }

    /// The row is to be read again. Where its key changed, nothing is left under the old one.
    async fn forget_and_want(
        &mut self,
        relation: &Arc<Relation>,
        rows: &Bytes,
        row: UpdatedRow<'_>,
    ) -> Result<()> {
        if let Some(old) = row.old {
            self.delete_now(relation, values(relation, rows, old.fields())).await?;
            self.settle_row(relation, values(relation, rows, old.fields())).await?;
        }
        self.want(relation, key_row(relation, row.new));
        Ok(())
    }

    /// An update with all columns at hand, of a row that may be new to the target.
    async fn upsert_row(
        &mut self,
        relation: &Arc<Relation>,
        rows: &Bytes,
        row: UpdatedRow<'_>,
    ) -> Result<()> {
        if let Some(old) = row.old {
            let delete = self.statement(relation, Shape::Delete).await?;
            let key = values(relation, rows, old.fields());
            self.pipeline.send_row(&delete, key, Expect::Anything).await;
        }
        let upsert = self.statement(relation, Shape::Upsert).await?;
        let values = values(relation, rows, row.new.fields());
        let expect = Expect::Inserted(Arc::clone(relation));
        self.pipeline.send_row(&upsert, values, expect).await;
        self.settle_some().await
    }

    /// Where nothing is amiss: the row is there, unless it has just entered the filter.
    fn expect_update(&self, relation: &Arc<Relation>, row: UpdatedRow<'_>) -> Expect {
        let may_be_absent = relation.filtered || self.unsettled.contains(&relation.oid);
        match may_be_absent && relation.has_key() {
            true => Expect::UpdatedOrWanted(Arc::clone(relation), key_row(relation, row.new)),
            false => Expect::Updated(Arc::clone(relation)),
        }
    }

    pub(super) async fn update_row(
        &mut self,
        relation: &Arc<Relation>,
        rows: &Bytes,
        row: UpdatedRow<'_>,
        assigned: Vec<usize>,
        expect: Expect,
    ) -> Result<()> {
        if matches!(expect, Expect::UpdatedOrWanted(..)) {
            self.may_want += 1;
            self.unsettled.insert(relation.oid);
        }
        let fields: Vec<_> = row.new.fields().collect();
        let mut parameters = values(relation, rows, assigned.iter().map(|&at| fields[at]));
        match row.old {
            Some(old) => parameters.extend(values(relation, rows, old.fields())),
            None => parameters.extend(key_of(relation, rows, row.new)),
        }
        let statement = self.statement(relation, Shape::Update(assigned)).await?;
        self.pipeline.send_row(&statement, parameters, expect).await;
        self.settle_some().await
    }

    pub(super) async fn delete(&mut self, relation: &Arc<Relation>, run: &Run) -> Result<()> {
        self.close_copy().await?;
        self.counts(relation).deletes += u64::from(run.row_count);
        for row in run.rows() {
            self.delete_row(relation, &run.rows, row).await?;
            self.settle_row(relation, values(relation, &run.rows, row.fields())).await?;
        }
        Ok(())
    }

    async fn delete_row(
        &mut self,
        relation: &Arc<Relation>,
        rows: &Bytes,
        key: Row<'_>,
    ) -> Result<()> {
        let statement = self.statement(relation, Shape::Delete).await?;
        let values = values(relation, rows, key.fields());
        let expect = match self.may_be_absent(relation) {
            true => Expect::Anything,
            false => Expect::Deleted(Arc::clone(relation)),
        };
        self.pipeline.send_row(&statement, values, expect).await;
        self.settle_some().await
    }

    /// Deletes at once and says how many rows there were.
    pub(super) async fn delete_now(
        &mut self,
        relation: &Arc<Relation>,
        key: Vec<Value>,
    ) -> Result<u64> {
        let statement = self.statement(relation, Shape::Delete).await?;
        self.settle(0).await?;
        Ok(self.pipeline.client().execute_raw(&statement, key).await?)
    }

    /// Netted changes, one statement each: for so few that more would not pay.
    pub(super) async fn apply_netted(&mut self, table: Gathered) -> Result<()> {
        let Gathered { relation, copied, net, .. } = table;
        for run in copied {
            for row in run.rows() {
                self.insert_row(&relation, &run.rows, row).await?;
            }
        }
        for (key, net) in net.in_order() {
            self.apply_net(&relation, &key, net).await?;
        }
        Ok(())
    }

    async fn apply_net(&mut self, relation: &Arc<Relation>, key: &Bytes, net: Net) -> Result<()> {
        match net {
            Net::Delete => self.delete_row(relation, key, Row::decode(key)?).await,
            Net::Insert(row) => self.insert_row(relation, &row, Row::decode(&row)?).await,
            Net::Put(row) => self.upsert_row(relation, &row, whole(Row::decode(&row)?)).await,
            Net::Update(row, present) => {
                let is_present = |at: usize| present.as_ref().is_none_or(|present| present[at]);
                let assigned: Vec<_> =
                    statement::assigned_columns(relation, false, is_present).collect();
                if assigned.is_empty() {
                    return Ok(());
                }
                let expect = Expect::Updated(Arc::clone(relation));
                self.update_row(relation, &row, whole(Row::decode(&row)?), assigned, expect).await
            }
        }
    }

    pub(super) async fn truncate(&mut self, relations: &[Arc<Relation>]) -> Result<()> {
        self.close_copy().await?;
        let sql = statement::truncate(relations.iter().map(AsRef::as_ref));
        self.pipeline.send_simple(sql).await;
        self.settle_tables(relations).await;
        self.settle_some().await
    }

    async fn copy_run(&mut self, relation: &Arc<Relation>, run: &Run) -> Result<()> {
        if self.copy.as_ref().is_none_or(|copy| copy.relation != *relation) {
            self.close_copy().await?;
            let statement = self.statement(relation, Shape::Copy).await?;
            let client = Arc::clone(self.pipeline.client());
            let mut sink = Box::pin(client.copy_in::<_, Bytes>(&statement).await?);
            if relation.format == RowFormat::Binary {
                sink.feed(Bytes::from_static(COPY_HEAD)).await?;
            }
            self.copy = Some(OpenCopy { relation: Arc::clone(relation), sink });
        }
        let rows = copy_bytes(relation.format, run);
        let copy = self.copy.as_mut().expect("opened above");
        copy.sink.feed(rows).await?;
        Ok(())
    }

    pub(super) async fn close_copy(&mut self) -> Result<()> {
        let Some(mut copy) = self.copy.take() else { return Ok(()) };
        let table = target_name(&copy.relation);
        let named =
            |error: tokio_postgres::Error| Error::from(error).context(format!("table {table}"));
        if copy.relation.format == RowFormat::Binary {
            copy.sink.feed(Bytes::from_static(COPY_TAIL)).await.map_err(named)?;
        }
        copy.sink.as_mut().finish().await.map_err(named)?;
        Ok(())
    }

    pub(super) async fn settle_some(&mut self) -> Result<()> {
        if self.careful {
            return self.settle(0).await;
        }
        let pipeline = &self.pipeline;
        if pipeline.len() <= IN_FLIGHT_MAX && pipeline.bytes() <= IN_FLIGHT_BYTES_MAX {
            return Ok(());
        }
        while self.pipeline.len() > IN_FLIGHT_MAX / 2
            || self.pipeline.bytes() > IN_FLIGHT_BYTES_MAX / 2
        {
            self.settle(self.pipeline.len() - 1).await?;
        }
        Ok(())
    }

    /// Reads results until no more than `keep` statements are in flight.
    pub(super) async fn settle(&mut self, keep: usize) -> Result<()> {
        while self.pipeline.len() > keep {
            let Some((result, expect)) = self.pipeline.next().await else { break };
            self.judge(result, expect)?;
        }
        Ok(())
    }

    fn judge(&mut self, result: Result<u64>, expect: Expect) -> Result<()> {
        match expect {
            Expect::Anything => result.map(drop),
            Expect::Progress => result.map(drop).map_err(progress_moved),
            Expect::Inserted(relation) => result.map(drop).map_err(|error| named(error, &relation)),
            Expect::Updated(relation) => match result.map_err(|error| named(error, &relation))? {
                0 => Err(row_missing(&relation)),
                _ => Ok(()),
            },
            Expect::UpdatedOrWanted(relation, key) => {
                self.may_want -= 1;
                if result.map_err(|error| named(error, &relation))? == 0 {
                    self.want(&relation, key);
                }
                Ok(())
            }
            Expect::UpdatedAll(..) | Expect::DeletedAll(..) => result.map(drop),
            Expect::Deleted(relation) => {
                if result.map_err(|error| named(error, &relation))? == 0 {
                    self.counts(&relation).conflicts += 1;
                }
                Ok(())
            }
        }
    }

    /// The first error of those in flight: what came after a failed statement fails because of it.
    pub(super) async fn root_cause(&mut self, error: Error) -> Error {
        match self.settle(0).await {
            Err(first) if error.sqlstate_code() == Some("25P02") => first,
            _ => error,
        }
    }

    pub(super) fn want(&mut self, relation: &Arc<Relation>, key: Bytes) {
        self.unsettled.insert(relation.oid);
        let fresh = || Wanted { relation: Arc::clone(relation), keys: Vec::new() };
        let wanted = self.wanted.entry(relation.oid).or_insert_with(fresh);
        wanted.relation = Arc::clone(relation);
        wanted.keys.push(key);
    }

    /// Reads again what is wanted, if the group ends or it is much. Says up to where tables are
    /// ahead then, and which rows could not be computed: those stay as they were.
    pub(super) async fn read_again(
        &mut self,
        reader: &mut impl Reread,
        group_ends: bool,
    ) -> Result<(Vec<(u32, Lsn)>, Vec<Failed>)> {
        if group_ends && self.may_want > 0 {
            self.settle(0).await?;
        }
        let (mut ahead, mut failed) = (Vec::new(), Vec::new());
        let due: Vec<u32> = self
            .wanted
            .iter()
            .filter(|(_, wanted)| group_ends || wanted.keys.len() >= reread::KEYS_MAX)
            .map(|(oid, _)| *oid)
            .collect();
        for oid in due {
            let Some(Wanted { relation, mut keys }) = self.wanted.remove(&oid) else { continue };
            keys.sort_unstable();
            keys.dedup();
            self.close_copy().await?;
            self.settle(0).await?;
            let found = reader.read(&relation, &keys, &self.group_xids).await?;
            for (key, row) in keys.iter().zip(&found.rows) {
                if let FoundRow::Failed { rule_id, sqlstate } = row {
                    failed.push(self.failed_row(&relation, key, *rule_id, sqlstate));
                    continue;
                }
                let address = Row::decode(key)?;
                self.delete_now(&relation, values(&relation, key, address.fields())).await?;
                if let FoundRow::Row(row) = row {
                    self.put_row(&relation, row, Row::decode(row)?).await?;
                }
                self.settle_row(&relation, values(&relation, key, address.fields())).await?;
            }
            let end = self.ahead.entry(oid).or_default();
            *end = found.position.max(*end);
            ahead.push((oid, *end));
        }
        Ok((ahead, failed))
    }

    fn failed_row(
        &self,
        relation: &Arc<Relation>,
        key: &Bytes,
        rule_id: i64,
        sqlstate: &str,
    ) -> Failed {
        let row = ErrorRow {
            relation: relation.oid,
            operation: Operation::Update,
            rule_id,
            sqlstate: sqlstate.to_owned(),
            key: key.clone(),
        };
        Failed { relation: Arc::clone(relation), row, commit_lsn: Some(self.commit_lsn) }
    }

    /// The unique indexes beside the key whose columns are all in the relation, by position.
    pub(super) fn unique_sets(&self, relation: &Relation) -> Vec<Vec<usize>> {
        let position = |name: &String| relation.columns.iter().position(|c| c.name == *name);
        let sets = self.unique_columns.get(&relation.oid).into_iter().flatten();
        sets.filter_map(|columns| columns.iter().map(position).collect()).collect()
    }

    pub(super) async fn evict_statement(
        &mut self,
        relation: &Arc<Relation>,
        columns: Vec<usize>,
    ) -> Result<Statement> {
        self.statement(relation, Shape::Evict(columns)).await
    }

    pub(super) fn count(&mut self, relation: &Relation, operation: Operation, rows: u32) {
        let counts = self.counts(relation);
        let count = match operation {
            Operation::Insert => &mut counts.inserts,
            Operation::Update => &mut counts.updates,
            Operation::Delete => &mut counts.deletes,
        };
        *count += u64::from(rows);
    }

    fn counts(&mut self, relation: &Relation) -> &mut Counts {
        self.counts.entry(relation.oid).or_default()
    }

    pub(super) async fn statement(
        &mut self,
        relation: &Arc<Relation>,
        shape: Shape,
    ) -> Result<Statement> {
        let task_id = &self.task_id;
        let sql = |shape: &Shape| match shape {
            Shape::Copy => statement::copy(relation),
            Shape::Insert => statement::insert(relation),
            Shape::Delete => statement::delete(relation),
            Shape::Upsert => statement::upsert(relation),
            Shape::Update(assigned) => statement::update(relation, assigned),
            Shape::Evict(columns) => statement::evict(relation, columns),
            Shape::Record(keyed) => exception::insert(relation, *keyed),
            Shape::FindSkipped => exception::find(relation, task_id),
            Shape::Settle => exception::settle(relation, task_id),
        };
        self.statements.get(self.pipeline.client(), relation, shape, sql).await
    }
}

pub(super) fn values<'a>(
    relation: &Relation,
    rows: &Bytes,
    fields: impl Iterator<Item = Option<&'a [u8]>>,
) -> Vec<Value> {
    fields.map(|field| Value::new(relation.format, rows, field)).collect()
}

/// The key of a whole row, as parameters.
pub(super) fn key_of(relation: &Relation, rows: &Bytes, row: Row<'_>) -> Vec<Value> {
    let key = relation.columns.iter().zip(row.fields()).filter(|(column, _)| column.key);
    values(relation, rows, key.map(|(_, field)| field))
}

/// An update that brings the whole row and leaves the key as it is.
fn whole(new: Row<'_>) -> UpdatedRow<'_> {
    UpdatedRow { old: None, new, unchanged: ColumnSet::default(), unknown: ColumnSet::default() }
}

/// The key of a whole row, as a row of its own.
pub(super) fn key_row(relation: &Relation, row: Row<'_>) -> Bytes {
    net::key_of(relation, row)
}

fn target_name(relation: &Relation) -> String {
    quote_table(&relation.target_schema, &relation.target_name)
}

pub(super) fn named(error: Error, relation: &Relation) -> Error {
    error.context(format!("table {}", target_name(relation)))
}

pub(super) fn row_missing(relation: &Relation) -> Error {
    Error::new(Kind::RowMissing, "an update finds no row on the target")
        .context(format!("table {}", target_name(relation)))
        .hint("Something else changed the target. Load the table again with trem.reload_table.")
}

pub(super) fn progress_moved(error: Error) -> Error {
    if error.sqlstate_code() != Some("22012") {
        return error;
    }
    Error::new(Kind::Taken, "the task's progress on the target is not where this applier left it")
        .hint("Another applier took the task over, or the target was restored.")
}

/// The rows of a run as COPY takes them; in binary without head and tail.
pub fn copy_bytes(format: RowFormat, run: &Run) -> Bytes {
    match format {
        RowFormat::Binary => run.rows.clone(),
        RowFormat::Text => text_rows(run),
    }
}

/// The rows of a text relation as COPY's text format has them.
fn text_rows(run: &Run) -> Bytes {
    let mut out = BytesMut::with_capacity(run.rows.len());
    for row in run.rows() {
        for (at, field) in row.fields().enumerate() {
            if at > 0 {
                out.put_u8(b'\t');
            }
            match field {
                None => out.extend_from_slice(b"\\N"),
                Some(field) => put_escaped(&mut out, field),
            }
        }
        out.put_u8(b'\n');
    }
    out.freeze()
}

fn put_escaped(out: &mut BytesMut, field: &[u8]) {
    for &byte in field {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => out.put_u8(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trem_wire::row::RowWriter;

    #[test]
    fn text_rows_are_escaped_as_copy_wants_them() {
        let mut rows = Vec::new();
        let mut writer = RowWriter::new(&mut rows, 3);
        writer.field(b"a\tb\\c\nd\r");
        writer.null();
        writer.field("ção".as_bytes());
        let run = Run { relation: 1, row_count: 1, rows: rows.into() };
        assert_eq!(text_rows(&run), Bytes::from("a\\tb\\\\c\\nd\\r\t\\N\tção\n"));
    }
}
