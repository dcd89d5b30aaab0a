//! Changes of tables of which some rows were skipped: the target does not have them as the source
//! had them before the change.
//!
//! Which tables those are is known here; which rows, only `trem_target.exception` says (see
//! [`exception`](super::exception)): there may be very many.
//!
//! | change of a table with skipped rows | what is done |
//! |---|---|
//! | insert | as ever: the source has no row under this key, so none is open |
//! | update that brings the whole row | becomes an upsert and settles the row |
//! | update with unchanged columns | a row that is open is read again: what the target has is stale |
//! | delete | a row that is not there is no conflict; settles the row |
//! | truncate | settles the table |

use std::sync::Arc;

use bytes::Bytes;
use trem_wire::message::{Relation, UpdatedRow};

use super::changes::{key_of, values, Changes, Shape};
use super::exception::{self, Failed};
use super::pipeline::Expect;
use crate::error::Result;
use crate::value::Value;

impl Changes {
    /// Some rows of the table were skipped, and it has a key to find them by.
    pub(super) fn has_skipped(&self, relation: &Relation) -> bool {
        relation.has_key() && self.skipped.contains(&relation.oid)
    }

    /// Writes the records of skipped rows. Their tables were noted in `skipped` before.
    pub(super) async fn record(&mut self, rows: Vec<Failed>) -> Result<()> {
        self.close_copy().await?;
        for failed in rows {
            let keyed = exception::has_key(&failed.relation, &failed.row);
            let statement = self.statement(&failed.relation, Shape::Record(keyed)).await?;
            let (client, task_id) = (Arc::clone(self.pipeline.client()), self.task_id.clone());
            let sent = async move { exception::send(&client, &statement, &task_id, &failed).await };
            self.pipeline.send(Box::pin(sent), Expect::Anything).await;
            self.settle_some().await?;
        }
        Ok(())
    }

    /// The update leaves columns as they were, and the target does not have the row as it was.
    pub(super) async fn is_stale(
        &mut self,
        relation: &Arc<Relation>,
        rows: &Bytes,
        row: UpdatedRow<'_>,
    ) -> Result<bool> {
        if row.unchanged.is_empty() || !self.has_skipped(relation) {
            return Ok(false);
        }
        let find = self.statement(relation, Shape::FindSkipped).await?;
        let key = key_before(relation, rows, row);
        Ok(self.pipeline.client().execute_raw(&find, key).await? > 0)
    }

    /// The row that had this key is now as the source has it.
    pub(super) async fn settle_row(
        &mut self,
        relation: &Arc<Relation>,
        key: Vec<Value>,
    ) -> Result<()> {
        if !self.has_skipped(relation) {
            return Ok(());
        }
        let statement = self.statement(relation, Shape::Settle).await?;
        self.pipeline.send_row(&statement, key, Expect::Anything).await;
        self.settle_some().await
    }

    /// The tables are empty now.
    pub(super) async fn settle_tables(&mut self, relations: &[Arc<Relation>]) {
        let oids = relations.iter().map(|relation| relation.oid);
        let oids: Vec<_> = oids.filter(|oid| self.skipped.contains(oid)).collect();
        if !oids.is_empty() {
            self.pipeline.send_simple(exception::settle_tables(&self.task_id, &oids)).await;
        }
    }
}

/// The key that the row had before the update.
pub(super) fn key_before(relation: &Relation, rows: &Bytes, row: UpdatedRow<'_>) -> Vec<Value> {
    match row.old {
        Some(old) => values(relation, rows, old.fields()),
        None => key_of(relation, rows, row.new),
    }
}
