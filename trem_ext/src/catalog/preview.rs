//! Rows as the target would get them, from live data and the draft's rules.
//!
//! Read as the table's owner, whoever asks: whether they may see the table is asked before.

use pgrx::Spi;

use super::draft::Draft;
use super::{access, expression, items, name, shape, table, view};
use crate::error::Error;
use crate::pg;
use crate::pg::view_token::OneTime;

/// Some rows of a table of the task, as JSON.
pub(crate) fn rows(draft: &Draft, table_name: &str, count: i64) -> Result<Vec<String>, Error> {
    let (schema, table) = name::parse_table(table_name)?;
    let table = items::of_task(draft, table::find(&schema, &table)?)?;
    let what = format!("a rule of {}", table.display());
    let locked = table::lock(table.oid, &table.display())?;
    access::check_reader(&locked)?;
    let mut shape = shape::apply(table, &draft.rules, 1)?;
    expression::check(&mut shape).refuse(what)?;
    // Names as they are under the lock.
    (shape.table.schema, shape.table.name) = (locked.schema, locked.name);
    let token = OneTime::new().ok_or_else(|| Error::Catalog("no randomness".to_owned()))?;
    let rows = view::rows(&shape, &token);
    let statement = format!("SELECT to_jsonb(shown)::text FROM ({rows} LIMIT {count}) AS shown");
    pg::as_role(locked.owner, || {
        pg::pin_for_reading();
        Spi::connect(|client| {
            let found = client.select(&statement, None, &[])?;
            let rows = found.map(|row| row.get::<String>(1));
            Ok(rows.filter_map(Result::transpose).collect::<Result<_, _>>()?)
        })
    })
}
