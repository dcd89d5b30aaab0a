//! Changes one by one, for when the target may not be what the source had before them: after a
//! group failed, and for a table that is ahead in some rows (see [`reread`](super::reread)).
//!
//! Every change then leads to its row as it should be, whatever was there: a row that is there
//! already makes room, a row that is missing is inserted, a row of which a part is missing is read
//! again. A row that holds a unique value which now belongs to another gives it up by going: its
//! own change follows. What was not as expected is counted, but for rows that are ahead.

use std::sync::Arc;

use bytes::Bytes;
use trem_wire::message::{Relation, UpdatedRow};
use trem_wire::row::Row;

use super::changes::{key_of, key_row, values, Changes};
use super::pipeline::Expect;
use crate::error::{Kind, Result};

impl Changes {
    /// Some of the table's rows are later than this transaction.
    pub(super) fn is_ahead(&self, relation: &Relation) -> bool {
        self.ahead.get(&relation.oid).is_some_and(|end| self.commit_lsn() < *end)
    }

    /// Where rows are ahead, they are not expected to be as the source had them.
    pub(super) fn count_conflicts(&mut self, relation: &Relation, count: u64) {
        if !self.is_ahead(relation) {
            self.counts.entry(relation.oid).or_default().conflicts += count;
        }
    }

    /// The row, whatever was there under its key.
    pub(super) async fn put_row(
        &mut self,
        relation: &Arc<Relation>,
        rows: &Bytes,
        row: Row<'_>,
    ) -> Result<()> {
        if relation.has_key() {
            let key = key_of(relation, rows, row);
            let gone = self.delete_now(relation, key).await?;
            self.count_conflicts(relation, gone);
            if gone > 0 {
                self.settle_row(relation, key_of(relation, rows, row)).await?;
            }
            self.evict(relation, rows, row).await?;
        }
        self.insert_row(relation, rows, row).await?;
        self.settle(0).await
    }

    pub(super) async fn update_carefully(
        &mut self,
        relation: &Arc<Relation>,
        rows: &Bytes,
        row: UpdatedRow<'_>,
        assigned: Vec<usize>,
    ) -> Result<()> {
        let whole = row.unchanged.is_empty();
        if let (Some(old), true) = (row.old, relation.has_key()) {
            // Whatever is under the new key came from the row that moved, or from a later state.
            let gone = self.delete_now(relation, values(relation, rows, old.fields())).await?;
            if gone == 0 && !relation.filtered {
                self.count_conflicts(relation, 1);
            }
            if whole {
                return self.put_row(relation, rows, row.new).await;
            }
            self.want(relation, key_row(relation, row.new));
            return Ok(());
        }
        if whole {
            self.evict(relation, rows, row.new).await?;
        }
        let expect = Expect::Updated(Arc::clone(relation));
        let updated = self.update_row(relation, rows, row, assigned, expect).await;
        match updated.and(self.settle(0).await) {
            Err(error) if error.kind() == Kind::RowMissing && whole => {
                self.count_conflicts(relation, 1);
                self.insert_row(relation, rows, row.new).await?;
                self.settle(0).await
            }
            Err(error) if error.kind() == Kind::RowMissing && relation.has_key() => {
                self.want(relation, key_row(relation, row.new));
                Ok(())
            }
            result => result,
        }
    }

    /// Takes unique values of the row away from the rows that hold them now.
    async fn evict(&mut self, relation: &Arc<Relation>, rows: &Bytes, row: Row<'_>) -> Result<()> {
        for columns in self.unique_sets(relation) {
            let fields: Vec<_> = row.fields().collect();
            if columns.iter().any(|&at| fields[at].is_none()) {
                continue;
            }
            let held = columns.iter().map(|&at| fields[at]);
            let mut parameters = values(relation, rows, held);
            parameters.extend(key_of(relation, rows, row));
            let statement = self.evict_statement(relation, columns).await?;
            self.settle(0).await?;
            let gone = self.pipeline.client().execute_raw(&statement, parameters).await?;
            self.count_conflicts(relation, gone);
        }
        Ok(())
    }
}
