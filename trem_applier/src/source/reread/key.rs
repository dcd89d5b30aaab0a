//! How a row of a view is found by its key, without a word of the users'.
//!
//! A value that becomes a parameter goes through the input function of its type, which checks the
//! domains inside; and where no operator is made for a type, an implicit cast that its owner made
//! may find another one. Both would run with our rights. So keys of such types are compared as
//! texts, which the types' own output functions give.

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::types::{Kind, Type};
use trem_wire::message::{Relation, RowFormat};

use crate::connect::Client;
use crate::error::Result;
use crate::source::view::View;

/// Below are the server's own types.
const FIRST_USER_OID: u32 = 16_384;

/// The condition that finds the row; its parameters are the key's values.
pub(super) async fn condition(client: &Client, relation: &Relation, view: &View) -> Result<String> {
    let columns: Vec<_> = relation
        .key()
        .map(|at| format!("v.{}", escape_identifier(&relation.columns[at].name)))
        .collect();
    let sql = format!("SELECT {} FROM {} AS v", columns.join(", "), view.name);
    let described = client.prepare(&sql).await?;
    let types = described.columns().iter().map(tokio_postgres::Column::type_);
    let conditions: Vec<_> = columns
        .iter()
        .zip(types)
        .enumerate()
        .map(|(n, (column, of_column))| match is_compared_as_text(relation.format, of_column) {
            true => format!("{} = ${}", text(column), n + 1),
            false => format!("{column} = ${}", n + 1),
        })
        .collect();
    Ok(conditions.join(" AND "))
}

/// Types that any user can make. Of those only a label has the same bytes in both formats.
fn is_compared_as_text(format: RowFormat, of_column: &Type) -> bool {
    match of_column.kind() {
        Kind::Domain(base) => is_compared_as_text(format, base),
        Kind::Enum(_) => true,
        Kind::Array(_) | Kind::Composite(_) | Kind::Range(_) | Kind::Multirange(_) => {
            of_column.oid() >= FIRST_USER_OID && format == RowFormat::Text
        }
        _ => false,
    }
}

/// `format` writes a value as its type does; a cast to text may not.
pub(super) fn text(column: &str) -> String {
    format!("CASE num_nulls({column}) WHEN 0 THEN format('%s', {column}) END")
}
