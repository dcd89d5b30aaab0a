//! The snapshots that a copy reads under, and the waits that make them sound.
//!
//! The slot's own snapshot shows exactly the commits before the slot's first position. A later one
//! shows more, and its text says which transactions: the stream skips those (see
//! [`apply`](crate::apply)). Two waits keep that exact:
//!
//! - *Before a later snapshot*: [`wait_for_writers`]. A transaction may have committed before the
//!   position P from which the stream goes on and still be invisible (it waits for a synchronous
//!   standby, say). The stream does not bring it again, so the snapshot must show it. Such a
//!   transaction still holds its lock on the table; whoever held one after P was reached is waited
//!   for.
//! - *Before the copy is committed on the target*: [`wait_for_flush`]. An asynchronous commit is
//!   visible before it is durable; a crash of the source would take it back, and the target would
//!   keep it for ever.

use std::time::{Duration, Instant};

use tokio_postgres::types::PgLsn;
use trem_wire::Lsn;

use crate::connect::{connect, Client};
use crate::conninfo::ConnInfo;
use crate::error::{Error, Kind, Result};

/// How often a wait looks again: PostgreSQL has nothing to wait on for these.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A wait that lasts longer than this says what it waits for.
const SAY_AFTER: Duration = Duration::from_secs(10);

/// Holds a snapshot open and lets other sessions import it.
pub struct Holder {
    client: Client,
    /// For `SET TRANSACTION SNAPSHOT`.
    pub exported: String,
    /// `pg_snapshot` as text: which transactions it shows.
    pub visible: String,
    /// A position no commit that it shows is behind.
    pub lsn: Lsn,
}

impl Holder {
    /// Takes over a snapshot that another session exported.
    pub async fn import(info: &ConnInfo, exported: &str) -> Result<Self> {
        let client = connect(&info.with_application_name("trem:snapshot")).await?;
        begin(&client, exported).await?;
        Self::export(client).await
    }

    pub async fn take(info: &ConnInfo) -> Result<Self> {
        let client = connect(&info.with_application_name("trem:snapshot")).await?;
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Self::export(client).await
    }

    async fn export(client: Client) -> Result<Self> {
        // The position is read after the snapshot exists, and is the insert position: commits are
        // visible before they are written out.
        let sql = "SELECT pg_export_snapshot(), pg_current_snapshot()::text,
                          pg_current_wal_insert_lsn()";
        let row = client.query_one(sql, &[]).await?;
        let lsn = Lsn(row.get::<_, PgLsn>(2).into());
        Ok(Holder { exported: row.get(0), visible: row.get(1), lsn, client })
    }

    /// The session is still there; if not, the snapshot is gone.
    pub fn is_open(&self) -> bool {
        !self.client.is_closed()
    }
}

/// Opens a transaction that reads under an exported snapshot.
pub async fn begin(client: &Client, exported: &str) -> Result<()> {
    let exported = exported.replace('\'', "''");
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{exported}'"
    );
    Ok(client.batch_execute(&sql).await?)
}

/// Waits until every transaction that holds a writer's lock on one of the tables now is over.
/// Later ones do not matter. Names those it waits for when it takes long.
pub async fn wait_for_writers(client: &Client, task: &str, tables: &[u32]) -> Result<()> {
    let sql = "SELECT DISTINCT virtualtransaction, pid FROM pg_locks
               WHERE locktype = 'relation' AND granted AND relation = ANY ($1)
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                              'AccessExclusiveLock')
                 AND ($2::text[] IS NULL OR virtualtransaction = ANY ($2))";
    let start = Instant::now();
    let mut said = false;
    let mut waiting_for: Option<Vec<String>> = None;
    loop {
        let rows = client.query(sql, &[&tables, &waiting_for]).await?;
        if rows.is_empty() {
            return Ok(());
        }
        if start.elapsed() > SAY_AFTER && !said {
            said = true;
            let pids: Vec<_> = rows.iter().map(|row| row.get::<_, Option<i32>>(1)).collect();
            tracing::info!(task = %task, ?pids, "waiting for those who write to the tables");
        }
        waiting_for = Some(rows.iter().map(|row| row.get(0)).collect());
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until the source's WAL is durable up to `lsn`.
pub async fn wait_for_flush(client: &Client, lsn: Lsn) -> Result<()> {
    let start = Instant::now();
    loop {
        let row = client.query_one("SELECT pg_current_wal_flush_lsn()", &[]).await?;
        let flushed = Lsn(row.get::<_, PgLsn>(0).into());
        if flushed >= lsn {
            return Ok(());
        }
        if start.elapsed() > SAY_AFTER * 6 {
            let message =
                format!("the source does not flush its WAL to {lsn} (it is at {flushed})");
            return Err(Error::new(Kind::Resources, message));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
