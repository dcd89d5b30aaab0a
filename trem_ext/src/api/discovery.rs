//! The columns of one table, and how many rows it has. The other functions that look around are
//! plain SQL (sql/discovery.sql).

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde::Deserialize;

use crate::catalog::{count, name, spi, table};
use crate::error::given;

#[derive(Deserialize)]
struct Described {
    column_name: String,
    data_type: String,
    not_null: bool,
    key: bool,
    identity: Option<String>,
    generated: Option<String>,
    default_value: Option<String>,
}

const SQL: &str = "
    SELECT a.attname AS column_name, format_type(a.atttypid, a.atttypmod) AS data_type,
           a.attnotnull AS not_null,
           coalesce(a.attnum = ANY (s.key_attnums), false) AS key,
           CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END AS identity,
           CASE a.attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' END AS generated,
           pg_get_expr(d.adbin, d.adrelid) AS default_value
    FROM trem.source_table AS s
    JOIN pg_attribute AS a ON a.attrelid = s.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE s.oid = $1::oid
    ORDER BY a.attnum";

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn table_schema(
    table_name: Option<&str>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(column_name, String),
            name!(data_type, String),
            name!(not_null, bool),
            name!(key, bool),
            name!(identity, Option<String>),
            name!(generated, Option<String>),
            name!(default_value, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let (schema, name) = name::parse_table(given("table_name", table_name)?)?;
    let oid = table::find(&schema, &name)?;
    let columns: Vec<Described> = spi::rows(SQL, &[i64::from(oid).into()])?;
    Ok(TableIterator::new(columns.into_iter().map(|c| {
        (c.column_name, c.data_type, c.not_null, c.key, c.identity, c.generated, c.default_value)
    })))
}

/// For `trem.table_counts`: null unless the count is to be exact. The parent of an inheritance tree
/// counts its own rows, as it is replicated.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
fn exact_count(
    table_oid: Option<pg_sys::Oid>,
    exact: Option<bool>,
) -> Result<Option<i64>, ErrorReport> {
    let table = given("table_oid", table_oid)?;
    let counted = given("exact", exact)?.then(|| count::rows(table.to_u32()));
    Ok(counted.transpose()?)
}
