//! The compare-and-set that moves a task's progress, as a statement that is sent ahead.

use std::sync::Arc;

use tokio_postgres::types::{PgLsn, Type};
use tokio_postgres::Statement;
use trem_wire::Lsn;
use uuid::Uuid;

use super::pipeline::{Expect, Pipeline};
use crate::error::Result;

/// Divides by zero when the row is not ours at that position: the transaction is aborted, and
/// whatever was sent after it cannot be committed.
const MOVE: &str = "WITH moved AS (
        UPDATE trem_target.progress SET applied_lsn = $4, updated_at = now()
        WHERE task_id = $1::text::uuid AND applied_lsn = $2 AND owner = $3::text::uuid
        RETURNING 1)
    SELECT 1 / count(*) FROM moved";

/// A task's progress, and by which token it is ours.
#[derive(Clone)]
pub(super) struct Place {
    task_id: String,
    owner: Uuid,
    statement: Option<Statement>,
}

impl Place {
    pub(super) fn new(task_id: &str, owner: Uuid) -> Self {
        Place { task_id: task_id.to_owned(), owner, statement: None }
    }

    /// Moves it from one position to another, which may be the same: then it is proven and locked.
    pub(super) async fn send_move(
        &mut self,
        pipeline: &mut Pipeline,
        old: Lsn,
        new: Lsn,
    ) -> Result<()> {
        let statement = match &self.statement {
            Some(statement) => statement.clone(),
            None => {
                let types = [Type::TEXT, Type::PG_LSN, Type::TEXT, Type::PG_LSN];
                let statement = pipeline.client().prepare_typed(MOVE, &types).await?;
                self.statement.insert(statement).clone()
            }
        };
        let client = Arc::clone(pipeline.client());
        let (task_id, owner) = (self.task_id.clone(), self.owner.to_string());
        let (old, new) = (PgLsn::from(old.0), PgLsn::from(new.0));
        let sent = async move { client.execute(&statement, &[&task_id, &old, &owner, &new]).await };
        pipeline.send(Box::pin(sent), Expect::Progress).await;
        Ok(())
    }
}
