//! `trem-applier validate`: do the target's tables hold what the task's rules make of the source?
//!
//! Each table is reduced on both sides to its number of rows and a sum of hashes over whole rows,
//! independent of their order; only these cross the wire. While the task follows, the two sides are
//! read at slightly different positions; a table that differs is therefore looked at again once the
//! target has applied what the source had at the first look, a few times. What still differs then
//! either is different or changes faster than it can be compared, and the result says which.

use std::time::{Duration, Instant};

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::types::{PgLsn, ToSql};
use trem_wire::definition::{DefinedTable, Definition};
use trem_wire::Lsn;

use crate::connect::Client;
use crate::error::Result;
use crate::target::{progress, quote_table};

const LOOKS: usize = 5;

/// How long a look waits for the target to reach the source's position.
const WAIT_MAX: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Summary {
    rows: i64,
    hash: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Same,
    Different,
    /// One side changed between the looks.
    Changing,
}

#[derive(Clone, Debug)]
pub struct Compared {
    pub table: String,
    pub verdict: Verdict,
    pub source_rows: i64,
    pub target_rows: i64,
}

/// Compares every table of the definition.
pub async fn compare(
    source: &Client,
    target: &Client,
    definition: &Definition,
) -> Result<Vec<Compared>> {
    let mut compared = Vec::with_capacity(definition.tables.len());
    for table in &definition.tables {
        compared.push(compare_table(source, target, definition, table).await?);
    }
    Ok(compared)
}

async fn compare_table(
    source: &Client,
    target: &Client,
    definition: &Definition,
    table: &DefinedTable,
) -> Result<Compared> {
    let columns: Vec<_> = table.columns.iter().map(|c| escape_identifier(&c.name)).collect();
    let columns = columns.join(", ");
    let name = quote_table(&table.target_schema, &table.target_name);
    let written = summary_of(&columns, &format!("SELECT {columns} FROM {name}"));
    let mut before: Option<(Summary, Summary)> = None;
    let mut verdict = Verdict::Different;
    for _ in 0..LOOKS {
        let here = of_source(source, definition, table).await?;
        wait_for(source, target, &definition.task_id).await?;
        let there = summary(target, &written).await?;
        let steady = before.as_ref().is_none_or(|(h, t)| *h == here && *t == there);
        let same = here == there;
        verdict = match (same, steady) {
            (true, _) => Verdict::Same,
            (false, true) => Verdict::Different,
            (false, false) => Verdict::Changing,
        };
        before = Some((here, there));
        if same {
            break;
        }
    }
    let (source_rows, target_rows) = before.map_or((0, 0), |(here, there)| (here.rows, there.rows));
    Ok(Compared { table: name, verdict, source_rows, target_rows })
}

fn summary_of(columns: &str, rows: &str) -> String {
    format!(
        "SELECT count(*), coalesce(sum(hashtextextended(ROW({columns})::text, 0)::numeric), 0)::text
         FROM ({rows}) AS r"
    )
}

async fn summary(client: &Client, sql: &str) -> Result<Summary> {
    let row = client.query_one(sql, &[]).await?;
    Ok(Summary { rows: row.get(0), hash: row.get(1) })
}

async fn of_source(
    client: &Client,
    definition: &Definition,
    table: &DefinedTable,
) -> Result<Summary> {
    let sql = "SELECT coalesce(sum(row_count), 0)::bigint, coalesce(sum(hash), 0)::text
               FROM trem.applier_summary($1, $2, $3)";
    let parameters: [&(dyn ToSql + Sync); 3] =
        [&definition.task, &definition.definition_version, &table.oid];
    let row = client.query_one(sql, &parameters).await?;
    Ok(Summary { rows: row.get(0), hash: row.get(1) })
}

/// Until the target has applied what the source has now. A task that is not served never gets
/// there: then what is on the target is compared.
async fn wait_for(source: &Client, target: &Client, task_id: &str) -> Result<()> {
    let row = source.query_one("SELECT pg_current_wal_insert_lsn()", &[]).await?;
    let position = Lsn(row.get::<_, PgLsn>(0).into());
    let start = Instant::now();
    let mut last = None;
    let mut moved = start;
    loop {
        let applied = progress::read(target, task_id).await?.map(|progress| progress.applied_lsn);
        if applied >= Some(position) {
            return Ok(());
        }
        if applied != last {
            (last, moved) = (applied, Instant::now());
        }
        // An idle source's position is recorded only now and then.
        if moved.elapsed() > Duration::from_secs(1) || start.elapsed() > WAIT_MAX {
            return Ok(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
