//! `trem-applier inspect`: what tables an endpoint has.

use serde_json::Value;

use super::table;
use crate::connect::connect;
use crate::conninfo::ConnInfo;
use crate::error::Result;

const TABLES: &str = "
SELECT n.nspname, c.relname,
       CASE c.relkind WHEN 'p' THEN 'partitioned' WHEN 'v' THEN 'view'
            WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign'
            ELSE CASE WHEN c.relispartition THEN 'partition' ELSE 'table' END END,
       CASE WHEN c.reltuples < 0 THEN '?' ELSE c.reltuples::bigint::text END,
       pg_size_pretty(pg_total_relation_size(c.oid)),
       coalesce((SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.at)
                 FROM pg_index i
                 CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1])
                     WITH ORDINALITY k(attnum, at)
                 JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                 WHERE i.indrelid = c.oid AND i.indisprimary), '-')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_'
  AND n.nspname NOT IN ('information_schema', 'trem', 'trem_read', 'trem_target')
ORDER BY 1, 2";

/// Prints the tables of the endpoint. A source endpoint is the database of `source` itself.
pub(super) async fn inspect(source: &ConnInfo, endpoint: &Value) -> Result<()> {
    let info = match endpoint["role"].as_str() {
        Some("source") => source.clone(),
        _ => ConnInfo::from_target(endpoint)?,
    };
    let client = connect(&info).await?;
    let rows = client.query(TABLES, &[]).await?;
    let lines: Vec<Vec<String>> =
        rows.iter().map(|row| (0..6).map(|at| row.get(at)).collect()).collect();
    println!("{}: {} tables and views", info.display(), lines.len());
    table::print(&["schema", "name", "kind", "rows (estimate)", "size", "primary key"], &lines);
    Ok(())
}
