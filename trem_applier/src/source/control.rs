//! The extension's functions for the applier: tasks, definitions, checks, reports, barriers.

use serde_json::Value;
use tokio::sync::mpsc;
use tokio_postgres::types::PgLsn;
use tokio_postgres::Notification;
use trem_wire::definition::Definition;
use trem_wire::Lsn;

use crate::check::{Finding, Severity};
use crate::connect::{connect, connect_listen, Client};
use crate::conninfo::ConnInfo;
use crate::error::{Error, Kind, Result};

/// A task as the source lists it.
#[derive(Clone, Debug)]
pub struct Task {
    pub task_id: String,
    pub name: String,
    pub mode: String,
    pub started: bool,
    /// `None` until the first publish.
    pub definition_version: Option<i64>,
    /// The target endpoint, credentials included: never print it.
    pub target: Value,
}

/// A replication slot as `pg_replication_slots` has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    pub active_pid: Option<i32>,
    pub confirmed_lsn: Option<Lsn>,
    /// `lost`: the server has removed WAL that the slot needs.
    pub wal_status: Option<String>,
    pub plugin: String,
    pub held_bytes: u64,
}

pub struct Control {
    client: Client,
}

impl Control {
    pub async fn connect(info: &ConnInfo, role: &str) -> Result<Self> {
        let info = info.with_application_name(&format!("trem:{role}"));
        Self::over(connect(&info).await?, &info).await
    }

    /// A session that is also told of every published, started or stopped task, until the channel
    /// ends with the connection.
    pub async fn listen(
        info: &ConnInfo,
        role: &str,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Notification>)> {
        let info = info.with_application_name(&format!("trem:{role}"));
        let (client, notifications) = connect_listen(&info).await?;
        client.batch_execute(&format!("LISTEN {}", trem_wire::NOTIFY_CHANNEL)).await?;
        Ok((Self::over(client, &info).await?, notifications))
    }

    async fn over(client: Client, info: &ConnInfo) -> Result<Self> {
        let sql = "SELECT current_setting('server_version_num')::int,
                          to_regprocedure('trem.applier_tasks()') IS NOT NULL";
        let row = client.query_one(sql, &[]).await.map_err(|error| may_not_serve(error.into()))?;
        if !row.get::<_, bool>(1) {
            let message = format!("the extension trem is not in {}", info.display());
            return Err(Error::new(Kind::Argument, message)
                .hint("Run CREATE EXTENSION trem there, or connect to the database that has it."));
        }
        Ok(Control { client })
    }

    /// The newest version of the stream that the extension and we both speak.
    pub async fn proto_version(&self) -> Result<u32> {
        const ASKED: &str = "SELECT to_regprocedure('trem.applier_protocol()') IS NOT NULL";
        const ANSWERED: &str =
            "SELECT oldest, newest, extension_version FROM trem.applier_protocol()";
        // Version 0.1.0 of the extension has no such function, and speaks the first version.
        let (mut oldest, mut newest, mut version) = (1, 1, "0.1.0".to_owned());
        if self.client.query_one(ASKED, &[]).await?.get(0) {
            let row = self.client.query_one(ANSWERED, &[]).await?;
            (oldest, newest, version) = (row.get(0), row.get(1), row.get(2));
        }
        let number = |version: i32| u32::try_from(version).unwrap_or(0);
        trem_wire::shared_proto_version(number(oldest), number(newest)).ok_or_else(|| {
            let message = format!(
                "the extension (version {version}) speaks versions {oldest} to {newest} of the \
                 stream, and this applier (version {}) versions {} to {}",
                env!("CARGO_PKG_VERSION"),
                trem_wire::PROTO_VERSION_MIN,
                trem_wire::PROTO_VERSION,
            );
            Error::new(Kind::Argument, message).hint(
                "Install extension and applier of one release, or of neighbouring ones; ALTER \
                 EXTENSION trem UPDATE; brings the database to the extension that is installed.",
            )
        })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Every task that this role may serve, stopped ones included.
    pub async fn tasks(&self) -> Result<Vec<Task>> {
        let sql = "SELECT task_id, name, mode, state = 'started', definition_version, target
                   FROM trem.applier_tasks() ORDER BY name";
        let rows =
            self.client.query(sql, &[]).await.map_err(|error| may_not_serve(error.into()))?;
        let task = |row: &tokio_postgres::Row| Task {
            task_id: row.get(0),
            name: row.get(1),
            mode: row.get(2),
            started: row.get(3),
            definition_version: row.get(4),
            target: row.get(5),
        };
        Ok(rows.iter().map(task).collect())
    }

    pub async fn definition(&self, task: &str) -> Result<Definition> {
        let sql = "SELECT trem.applier_definition($1)::text";
        let row = self.client.query_one(sql, &[&task]).await?;
        let content: Option<&str> = row.get(0);
        let content = content.ok_or_else(|| {
            Error::new(Kind::Check, format!("task \"{task}\" has no published definition"))
                .hint(format!("Publish it with SELECT trem.start_task('{task}')."))
        })?;
        serde_json::from_str(content).map_err(|error| {
            Error::new(Kind::Protocol, format!("the definition cannot be read: {error}"))
                .hint("Install the extension and the applier from one release.")
        })
    }

    /// The source side's check of the task.
    pub async fn check(&self, task: &str) -> Result<Vec<Finding>> {
        let sql = "SELECT severity, table_name, check_name, message, hint
                   FROM trem.applier_check($1)";
        let rows = self.client.query(sql, &[&task]).await?;
        let finding = |row: &tokio_postgres::Row| Finding {
            severity: Severity::parse(row.get(0)),
            table: row.get(1),
            check: row.get(2),
            message: row.get(3),
            hint: row.get(4),
        };
        Ok(rows.iter().map(finding).collect())
    }

    pub async fn endpoint(&self, name: &str) -> Result<Value> {
        let sql = "SELECT trem.applier_endpoint($1)";
        Ok(self.client.query_one(sql, &[&name]).await?.get(0))
    }

    pub async fn report(&self, task: &str, report: &Value) -> Result<()> {
        self.client.execute("SELECT trem.applier_report($1, $2)", &[&task, report]).await?;
        Ok(())
    }

    /// Rows that were skipped, as `trem.exception` shows them. Telling the same again is harmless.
    pub async fn tell_exceptions(&self, task: &str, exceptions: &Value) -> Result<()> {
        let sql = "SELECT trem.applier_exception($1, $2)";
        self.client.execute(sql, &[&task, exceptions]).await?;
        Ok(())
    }

    pub async fn slot(&self, slot: &str) -> Result<Option<Slot>> {
        let sql = "SELECT active_pid, confirmed_flush_lsn, wal_status, plugin::text,
                          coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint
                   FROM pg_replication_slots WHERE slot_name = $1 AND slot_type = 'logical'";
        let row = self.client.query_opt(sql, &[&slot]).await?;
        Ok(row.map(|row| Slot {
            active_pid: row.get(0),
            confirmed_lsn: row.get::<_, Option<PgLsn>>(1).map(|lsn| Lsn(lsn.into())),
            wal_status: row.get(2),
            plugin: row.get(3),
            held_bytes: u64::try_from(row.get::<_, i64>(4)).unwrap_or(0),
        }))
    }

    /// The end of the source's WAL as it is written now: lag is counted from it.
    pub async fn written_lsn(&self) -> Result<Lsn> {
        let row = self.client.query_one("SELECT pg_current_wal_lsn()", &[]).await?;
        Ok(Lsn(row.get::<_, PgLsn>(0).into()))
    }

    /// Writes a transaction that comes down the task's stream as a barrier, after everything that
    /// was committed before.
    pub async fn emit_barrier(&self, task: &str, token: &str) -> Result<()> {
        self.client.batch_execute("BEGIN; SET LOCAL synchronous_commit = on").await?;
        self.client.execute("SELECT trem.applier_barrier($1, $2)", &[&task, &token]).await?;
        Ok(self.client.batch_execute("COMMIT").await?)
    }
}

fn may_not_serve(error: Error) -> Error {
    match error.kind() {
        Kind::Privilege => error.hint(
            "Connect as the role that the task's source endpoint names, or as a member of it.",
        ),
        _ => error,
    }
}
