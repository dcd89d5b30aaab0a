//! Prepared statements of one session, by table and shape. A statement is made when it is first
//! wanted; when a table is described anew, its statements are forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use tokio_postgres::Statement;
use trem_wire::message::Relation;

use super::changes::named;
use crate::connect::Client;
use crate::error::Result;

/// `S`: what a statement does with a table.
pub(super) struct Prepared<S> {
    tables: HashMap<u32, Table<S>>,
}

struct Table<S> {
    relation: Arc<Relation>,
    statements: HashMap<S, Statement>,
}

impl<S: Eq + Hash> Prepared<S> {
    pub(super) fn new() -> Self {
        Prepared { tables: HashMap::new() }
    }

    /// The statement, made from `sql` if it is new.
    pub(super) async fn get(
        &mut self,
        client: &Client,
        relation: &Arc<Relation>,
        shape: S,
        sql: impl FnOnce(&S) -> String,
    ) -> Result<Statement> {
        let fresh = || Table { relation: Arc::clone(relation), statements: HashMap::new() };
        let table = self.tables.entry(relation.oid).or_insert_with(fresh);
        if table.relation != *relation {
            *table = fresh();
        }
        if let Some(statement) = table.statements.get(&shape) {
            return Ok(statement.clone());
        }
        let statement = client.prepare(&sql(&shape)).await;
        let statement = statement.map_err(|error| named(error.into(), relation))?;
        table.statements.insert(shape, statement.clone());
        Ok(statement)
    }
}
