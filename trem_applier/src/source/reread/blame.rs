//! Which rule cannot compute a row: an error of a view does not say. So the view is asked for no
//! column, then for each computed column alone; what is not asked for is not evaluated.

use bytes::Bytes;
use tokio_postgres::types::ToSql;
use trem_wire::definition::DefinedTable;
use trem_wire::message::Relation;

use super::{is_of_a_row, select, values, Reader};
use crate::connect::Client;
use crate::error::{Error, Result};

/// A rule that may fail, and the column that it computes; none: the filter, or the key.
pub(super) struct Suspect {
    rule_id: i64,
    column: Option<String>,
}

/// The rules of a table in the order in which the source evaluates them.
pub(super) fn suspects(table: &DefinedTable) -> Vec<Suspect> {
    let filter = table.filter.iter().map(|rule| Suspect { rule_id: rule.rule_id, column: None });
    let computed = |key: bool| {
        table.columns.iter().filter(move |column| column.key == key).filter_map(move |column| {
            let rule_id = column.expression.as_ref()?.rule_id;
            Some(Suspect { rule_id, column: (!key).then(|| column.name.clone()) })
        })
    };
    filter.chain(computed(true)).chain(computed(false)).collect()
}

impl Reader {
    /// The rule that fails on the row of a key; 0 if none does alone.
    pub(super) async fn find_rule(
        &self,
        client: &Client,
        relation: &Relation,
        key: &Bytes,
    ) -> Result<i64> {
        for suspect in self.rules.get(&relation.oid).map_or(&[][..], Vec::as_slice) {
            let position = |name: &String| relation.columns.iter().position(|c| c.name == *name);
            let column = suspect.column.as_ref().and_then(position);
            let prepared = self.prepared.get(&relation.oid);
            for through in prepared.map_or(&[][..], |(_, prepared)| prepared.as_slice()) {
                client.batch_execute("SAVEPOINT rule").await?;
                let values = values(relation, key)?;
                let values: Vec<_> = values.iter().map(|v| v as &(dyn ToSql + Sync)).collect();
                let (view, condition) = (&through.view, through.condition.as_str());
                let sql = select(relation, view, condition, column.into_iter());
                let read = client.query(&sql, &values).await.map_err(Error::from);
                match read {
                    Err(error) if is_of_a_row(&error) => {
                        client.batch_execute("ROLLBACK TO rule").await?;
                        return Ok(suspect.rule_id);
                    }
                    read => drop(read?),
                }
                client.batch_execute("RELEASE rule").await?;
            }
        }
        Ok(0)
    }
}
