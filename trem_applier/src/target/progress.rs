//! What the applier keeps on the target, in schema `trem_target`: one row of progress per task and
//! one row of state per table. Everything needed to resume is here and in the source.
//!
//! # Who may move progress
//! `progress.owner` is a token that an applier draws when it takes the task. The first statement of
//! each target transaction is a compare-and-set on task, `applied_lsn` and owner: an applier that
//! lost its place (a zombie after a partition, a restored database) fails there, before it has
//! written anything. The advisory lock only spares a second applier the trouble.

use tokio_postgres::types::PgLsn;
use trem_wire::definition::Definition;
use trem_wire::Lsn;
use uuid::Uuid;

use crate::connect::Client;
use crate::error::{Error, Kind, Result};

const BOOTSTRAP: &str = "
CREATE SCHEMA IF NOT EXISTS trem_target;
CREATE TABLE IF NOT EXISTS trem_target.progress (
    task_id uuid PRIMARY KEY,
    task text NOT NULL,
    applied_lsn pg_lsn NOT NULL,
    system_identifier text NOT NULL,
    timeline bigint NOT NULL,
    owner uuid NOT NULL,
    definition_version bigint NOT NULL,
    slot_created boolean NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS trem_target.table_state (
    task_id uuid NOT NULL REFERENCES trem_target.progress ON DELETE CASCADE,
    source_oid oid NOT NULL,
    target_schema text NOT NULL,
    target_name text NOT NULL,
    state text NOT NULL CHECK (state IN ('loading', 'live')),
    load_generation bigint NOT NULL,
    overlap_end pg_lsn,
    snapshot text,
    rows_loaded bigint,
    reread_end pg_lsn,
    PRIMARY KEY (task_id, source_oid),
    UNIQUE (target_schema, target_name)
);
CREATE TABLE IF NOT EXISTS trem_target.exception (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id uuid NOT NULL REFERENCES trem_target.progress ON DELETE CASCADE,
    source_oid oid NOT NULL,
    source_table text NOT NULL,
    target_table text NOT NULL,
    operation text NOT NULL,
    rule_id bigint NOT NULL,
    sqlstate text NOT NULL,
    commit_lsn pg_lsn,
    key text,
    skipped_at timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz
);
CREATE INDEX IF NOT EXISTS exception_open ON trem_target.exception
    (task_id, source_oid, hashtextextended(key, 0)) WHERE settled_at IS NULL;
COMMENT ON SCHEMA trem_target IS 'TREM: how far each task has been applied to this database';
";

/// The durable position of a task and what it belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    pub applied_lsn: Lsn,
    pub system_identifier: String,
    pub timeline: u32,
    pub definition_version: i64,
    /// False once a task of mode full_load is finished and its slot dropped.
    pub slot_created: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableState {
    /// Not loaded, or not to the end.
    Loading,
    Live,
}

/// What the target knows of one table of the task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableRecord {
    pub source_oid: u32,
    pub target_schema: String,
    pub target_name: String,
    pub state: TableState,
    pub load_generation: i64,
    pub overlap_end: Lsn,
    /// The copy's snapshot, as `pg_snapshot` text, when it is later than the slot's first.
    pub snapshot: Option<String>,
    pub rows_loaded: i64,
    /// Some rows are ahead of the stream up to here, because they were read again; 0/0: none.
    pub reread_end: Lsn,
}

/// The key of the session advisory lock that keeps a second applier out.
pub fn lock_key(task_id: &str) -> i64 {
    let digits: String = task_id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0) as i64
}

/// Creates schema `trem_target` if it is not there. Concurrent tasks may do so at the same time.
pub async fn bootstrap(client: &Client) -> Result<()> {
    let exists = "SELECT to_regclass('trem_target.table_state') IS NOT NULL";
    if client.query_one(exists, &[]).await?.get(0) {
        return Ok(());
    }
    // Any number will do, as long as every applier takes the same.
    let script = format!("BEGIN; SELECT pg_advisory_xact_lock(844173201); {BOOTSTRAP} COMMIT;");
    let Err(error) = client.batch_execute(&script).await else { return Ok(()) };
    let error = Error::from(error).context("creating schema trem_target on the target");
    client.batch_execute("ROLLBACK").await?;
    let sql =
        "SELECT format('GRANT CREATE ON DATABASE %I TO %I;', current_database(), current_user)";
    let grant: String = client.query_one(sql, &[]).await?.get(0);
    Err(error.hint(format!(
        "{grant} Or create the schema trem_target, owned by the role of the target endpoint."
    )))
}

pub async fn read(client: &Client, task_id: &str) -> Result<Option<Progress>> {
    let sql = "SELECT applied_lsn, system_identifier, timeline, definition_version, slot_created
               FROM trem_target.progress WHERE task_id = $1::text::uuid";
    let row = client.query_opt(sql, &[&task_id]).await?;
    Ok(row.map(|row| Progress {
        applied_lsn: Lsn(row.get::<_, PgLsn>(0).into()),
        system_identifier: row.get(1),
        timeline: row.get::<_, i64>(2) as u32,
        definition_version: row.get(3),
        slot_created: row.get(4),
    }))
}

/// The first record of a task. Its tables' records are made in the same transaction.
pub async fn create(
    client: &Client,
    definition: &Definition,
    progress: &Progress,
    owner: Uuid,
) -> Result<()> {
    let sql = "INSERT INTO trem_target.progress (task_id, task, applied_lsn, system_identifier,
                   timeline, owner, definition_version, slot_created)
               VALUES ($1::text::uuid, $2, $3, $4, $5, $6::text::uuid, $7, true)";
    client
        .execute(
            sql,
            &[
                &definition.task_id,
                &definition.task,
                &PgLsn::from(progress.applied_lsn.0),
                &progress.system_identifier,
                &i64::from(progress.timeline),
                &owner.to_string(),
                &definition.definition_version,
            ],
        )
        .await?;
    Ok(())
}

/// Takes the task over: from here on only transactions with this token pass.
pub async fn claim(client: &Client, task_id: &str, owner: Uuid, timeline: u32) -> Result<()> {
    let sql = "UPDATE trem_target.progress SET owner = $2::text::uuid, timeline = $3
               WHERE task_id = $1::text::uuid";
    client.execute(sql, &[&task_id, &owner.to_string(), &i64::from(timeline)]).await?;
    Ok(())
}

/// A task of mode full_load is done: there is no slot any more.
pub async fn finish(client: &Client, task_id: &str) -> Result<()> {
    let sql = "UPDATE trem_target.progress SET slot_created = false
               WHERE task_id = $1::text::uuid";
    client.execute(sql, &[&task_id]).await?;
    Ok(())
}

pub async fn read_tables(client: &Client, task_id: &str) -> Result<Vec<TableRecord>> {
    let sql = "SELECT source_oid, target_schema, target_name, state, load_generation,
                      coalesce(overlap_end, '0/0'), snapshot, coalesce(rows_loaded, 0),
                      coalesce(reread_end, '0/0')
               FROM trem_target.table_state WHERE task_id = $1::text::uuid ORDER BY source_oid";
    let rows = client.query(sql, &[&task_id]).await?;
    let record = |row: &tokio_postgres::Row| TableRecord {
        source_oid: row.get(0),
        target_schema: row.get(1),
        target_name: row.get(2),
        state: match row.get::<_, &str>(3) {
            "live" => TableState::Live,
            _ => TableState::Loading,
        },
        load_generation: row.get(4),
        overlap_end: Lsn(row.get::<_, PgLsn>(5).into()),
        snapshot: row.get(6),
        rows_loaded: row.get(7),
        reread_end: Lsn(row.get::<_, PgLsn>(8).into()),
    };
    Ok(rows.iter().map(record).collect())
}

/// Some rows of the table are ahead of the stream, up to `position`.
pub async fn write_reread_end(
    client: &Client,
    task_id: &str,
    source_oid: u32,
    position: Lsn,
) -> Result<()> {
    let sql = "UPDATE trem_target.table_state SET reread_end = $3
               WHERE task_id = $1::text::uuid AND source_oid = $2";
    client.execute(sql, &[&task_id, &source_oid, &PgLsn::from(position.0)]).await?;
    Ok(())
}

/// Writes a table's record, anew: `reread_end` is not taken over. A target table that belongs to
/// another task is refused.
pub async fn write_table(client: &Client, task_id: &str, record: &TableRecord) -> Result<()> {
    let sql = "INSERT INTO trem_target.table_state (task_id, source_oid, target_schema,
                   target_name, state, load_generation, overlap_end, snapshot, rows_loaded)
               VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7, $8, $9)
               ON CONFLICT (task_id, source_oid) DO UPDATE SET
                   target_schema = EXCLUDED.target_schema, target_name = EXCLUDED.target_name,
                   state = EXCLUDED.state, load_generation = EXCLUDED.load_generation,
                   overlap_end = EXCLUDED.overlap_end, snapshot = EXCLUDED.snapshot,
                   rows_loaded = EXCLUDED.rows_loaded, reread_end = NULL";
    let state = match record.state {
        TableState::Loading => "loading",
        TableState::Live => "live",
    };
    client
        .execute(
            sql,
            &[
                &task_id,
                &record.source_oid,
                &record.target_schema,
                &record.target_name,
                &state,
                &record.load_generation,
                &PgLsn::from(record.overlap_end.0),
                &record.snapshot,
                &record.rows_loaded,
            ],
        )
        .await
        .map_err(|error| taken(error.into(), record))?;
    Ok(())
}

fn taken(error: Error, record: &TableRecord) -> Error {
    if error.sqlstate_code() != Some("23505") {
        return error;
    }
    let table = super::quote_table(&record.target_schema, &record.target_name);
    Error::new(Kind::Check, format!("the target table {table} belongs to another task"))
        .hint("Rename the table in one of the two tasks with trem.rename_table.")
}

/// A table is known by another name on the target from now on; its old record is forgotten already.
pub async fn rename_table(
    client: &Client,
    task_id: &str,
    old: &TableRecord,
    (target_schema, target_name): &(String, String),
) -> Result<()> {
    let (target_schema, target_name) = (target_schema.clone(), target_name.clone());
    let record = TableRecord { target_schema, target_name, ..old.clone() };
    write_table(client, task_id, &record).await?;
    write_reread_end(client, task_id, record.source_oid, record.reread_end).await
}

pub async fn forget_table(client: &Client, task_id: &str, source_oid: u32) -> Result<()> {
    let sql = "DELETE FROM trem_target.table_state
               WHERE task_id = $1::text::uuid AND source_oid = $2";
    client.execute(sql, &[&task_id, &source_oid]).await?;
    Ok(())
}
