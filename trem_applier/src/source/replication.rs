//! The replication connection: slots, and the stream of a slot.
//!
//! tokio-postgres has no copy-both, so this is a small client of our own: commands first
//! ([`ReplicationConnection`]), then nothing but the stream ([`ReplicationStream`]).
//!
//! **Why a stream is closed and never resynchronised.** Dropping it closes the socket; the server
//! keeps the slot at the last confirmed position and sends everything after it again. A half read
//! transaction therefore costs time, never data. [`ReplicationStream::finish`] is for a clean stop
//! only: the slot is free when it returns, instead of when the server notices the closed socket.
//!
//! **What the server needs from us.** A status at least every `wal_sender_timeout`, also while the
//! target is slow, and an answer to a keepalive that requests one. A server that shuts down waits
//! until everything it sent is confirmed as flushed: whoever never confirms idle positions keeps it
//! from stopping.

mod login;
mod wire;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, Bytes};
use postgres_protocol::message::frontend;
use trem_wire::Lsn;

use crate::connect::{attrs_answer, attrs_question, settings, version_number};
use crate::conninfo::{ConnInfo, Host, SessionAttrs};
use crate::dial::{dial, Login};
use crate::error::{Error, Kind, Result};
use crate::transport::Transport;
use wire::{invalid, server_error, Message, Wire};

/// 2000-01-01 in Unix time, where PostgreSQL's timestamps begin.
const EPOCH: Duration = Duration::from_secs(946_684_800);
/// Status messages that a server did not take for hours; later ones say the same and more.
const UNSENT_MAX: usize = 64 * 1024;

const STATUS_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// A row of text values.
pub type Row = Vec<Option<String>>;

/// A connection that takes replication commands and SQL.
pub struct ReplicationConnection {
    wire: Wire,
    parameters: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SystemIdentity {
    pub system_identifier: String,
    pub timeline: u32,
    /// The end of the WAL flushed on the source.
    pub flushed: Lsn,
    pub database: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreatedSlot {
    /// Transactions that commit after it are in the slot, all others in the snapshot.
    pub consistent_point: Lsn,
    /// Usable with SET TRANSACTION SNAPSHOT until this connection runs its next command or ends.
    pub snapshot: String,
}

impl ReplicationConnection {
    pub async fn connect(info: &ConnInfo) -> Result<Self> {
        dial(info, &ReplicationLogin).await
    }

    /// As server_version_num has it: 150020.
    pub fn server_version(&self) -> u32 {
        version_number(self.parameter("server_version").unwrap_or_default())
    }

    /// A parameter that the server reported at login, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let row = self.one_row("IDENTIFY_SYSTEM").await?;
        Ok(SystemIdentity {
            system_identifier: column(&row, 0)?.to_owned(),
            timeline: column(&row, 1)?.parse().map_err(|_| invalid("timeline"))?,
            flushed: lsn(column(&row, 2)?)?,
            database: column(&row, 3)?.to_owned(),
        })
    }

    /// The timelines before this one, each with the position at which it was left.
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<Vec<(u32, Lsn)>> {
        // The first timeline has no history file.
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let row = self.one_row(&format!("TIMELINE_HISTORY {timeline}")).await?;
        parse_history(column(&row, 1)?)
    }

    /// How often the server wants a status: well within its wal_sender_timeout.
    pub async fn status_interval(&mut self) -> Result<Duration> {
        let sql = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
        let row = self.one_row(sql).await?;
        let millis = column(&row, 0)?.parse().map_err(|_| invalid("wal_sender_timeout"))?;
        // Zero switches the timeout off.
        Ok(match Duration::from_millis(millis) / 3 {
            Duration::ZERO => STATUS_INTERVAL_MAX,
            third => third.min(STATUS_INTERVAL_MAX),
        })
    }

    /// Creates the slot and exports the snapshot that belongs to it.
    pub async fn create_slot(&mut self, name: &str) -> Result<CreatedSlot> {
        let export = match self.server_version() {
            150_000.. => "(SNAPSHOT 'export')",
            _ => "EXPORT_SNAPSHOT",
        };
        let plugin = trem_wire::PLUGIN;
        let name = identifier(name);
        let sql = format!("CREATE_REPLICATION_SLOT {name} LOGICAL \"{plugin}\" {export}");
        let row = self.one_row(&sql).await.map_err(advise_slot)?;
        Ok(CreatedSlot {
            consistent_point: lsn(column(&row, 1)?)?,
            snapshot: column(&row, 2)?.to_owned(),
        })
    }

    /// Drops the slot; one that is in use is an error.
    pub async fn drop_slot(&mut self, name: &str) -> Result<()> {
        let sql = format!("DROP_REPLICATION_SLOT {}", identifier(name));
        self.execute(&sql).await.map(drop)
    }

    /// Runs a command or SQL text and returns the rows. After an error of the server the connection
    /// stays usable; a cancelled call makes it useless.
    pub async fn execute(&mut self, sql: &str) -> Result<Vec<Row>> {
        frontend::query(sql, self.wire.output())?;
        self.wire.flush().await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let message = match self.wire.read().await {
                Ok(message) => message,
                // After a fatal error the server hangs up: the error is the news.
                Err(lost) => return Err(failure.unwrap_or(lost)),
            };
            match message.tag {
                b'D' => rows.push(parse_row(message.body)?),
                b'E' => failure = Some(server_error(message.body)?),
                b'T' | b'C' | b'I' | b'S' => {}
                b'Z' => return failure.map_or(Ok(rows), Err),
                _ => return Err(invalid("tag in the answer to a command")),
            }
        }
    }

    /// Says goodbye, so that the server does not log a lost client.
    pub async fn close(mut self) -> Result<()> {
        frontend::terminate(self.wire.output());
        self.wire.flush().await
    }

    async fn one_row(&mut self, sql: &str) -> Result<Row> {
        let rows = self.execute(sql).await?;
        rows.into_iter().next().ok_or_else(|| invalid("answer: no row"))
    }

    /// Starts the stream of a slot at the given position, or where the slot was confirmed if that
    /// is later. The options go to the output plugin.
    pub async fn start(
        mut self,
        slot: &str,
        from: Lsn,
        options: &[(&str, &str)],
    ) -> Result<ReplicationStream> {
        let mut sql = format!("START_REPLICATION SLOT {} LOGICAL {from}", identifier(slot));
        let options: Vec<_> = options
            .iter()
            .map(|(name, value)| format!("{} {}", identifier(name), literal(value)))
            .collect();
        // The grammar has no empty list.
        if !options.is_empty() {
            sql.push_str(&format!(" ({})", options.join(", ")));
        }
        frontend::query(&sql, self.wire.output())?;
        self.wire.flush().await?;
        loop {
            match self.wire.read_ok().await?.tag {
                b'W' => return Ok(ReplicationStream { wire: self.wire }),
                b'S' => {}
                _ => return Err(invalid("tag in the answer to START_REPLICATION")),
            }
        }
    }
}

/// What to do when a slot cannot be created, statement included.
fn advise_slot(error: Error) -> Error {
    let text = error.to_string();
    let plugin = trem_wire::PLUGIN;
    let advice = match error.sqlstate_code() {
        Some("55000") if text.contains("wal_level") => {
            "On the source run `ALTER SYSTEM SET wal_level = logical`, then restart it.".to_owned()
        }
        Some("42501") if text.contains("output plugin") => format!(
            "On the source run `ALTER SYSTEM SET output_plugin_libraries = pgoutput, \
             test_decoding, {plugin}` (no quotes around the list), then `SELECT pg_reload_conf()`."
        ),
        Some("42501") => {
            "Give the source's user the right: `ALTER ROLE ... REPLICATION`.".to_owned()
        }
        Some("53400") => "Drop a replication slot that nobody uses, or raise \
             max_replication_slots on the source and restart it."
            .to_owned(),
        // The library is not there, or has no entry point.
        Some("58P01" | "42883") => {
            format!("Install the extension {plugin} on the source's machine.")
        }
        _ => return error,
    };
    error.hint(advice)
}

struct ReplicationLogin;

impl Login for ReplicationLogin {
    type Session = ReplicationConnection;

    async fn login(
        &self,
        transport: Transport,
        info: &ConnInfo,
        host: &Host,
        attrs: SessionAttrs,
    ) -> Result<ReplicationConnection> {
        let mut wire = Wire::new(transport);
        let parameters = login::login(&mut wire, info, host).await?;
        let mut connection = ReplicationConnection { wire, parameters };
        connection.execute(&settings()).await?;
        if let Some(question) = attrs_question(attrs) {
            let row = connection.one_row(question).await?;
            attrs_answer(attrs, column(&row, 0)? == "t")?;
        }
        Ok(connection)
    }
}

/// The stream of a slot.
pub struct ReplicationStream {
    wire: Wire,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// One frame of the output plugin; sent so many microseconds after 2000-01-01 00:00:00 UTC.
    Frame { wal_start: Lsn, wal_end: Lsn, sent_at: i64, payload: Bytes },
    /// Everything up to `wal_end` was sent; the server may want a status.
    Keepalive { wal_end: Lsn, reply_requested: bool },
    /// The server ended the stream in good order.
    Ended,
}

/// Positions up to which everything was received, made durable and applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StandbyStatus {
    pub written: Lsn,
    /// The server forgets everything before it.
    pub flushed: Lsn,
    pub applied: Lsn,
    /// Asks the server for a keepalive.
    pub reply_requested: bool,
}

impl ReplicationStream {
    /// The next event. Cancel safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            let message = self.wire.read_ok().await?;
            if let Some(event) = stream_event(message)? {
                return Ok(event);
            }
        }
    }

    /// An event that was received already.
    pub fn next_received(&mut self) -> Result<Option<Event>> {
        while let Some(message) = self.wire.read_received()? {
            if let Some(event) = stream_event(message.ok()?)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Tells the server how far we are, without waiting for a server that does not read. Cancel
    /// safe. What could not be sent yet goes out with the next call or the next event, which also
    /// tells of a lost connection.
    pub async fn send_status(&mut self, status: StandbyStatus) {
        if self.wire.output().len() < UNSENT_MAX {
            encode_status(status, self.wire.output());
        }
        self.wire.send_some().await;
    }

    /// Ends the stream and waits until the server has let go of the slot. It may be deep in a large
    /// transaction: the caller sets the limit.
    pub async fn finish(mut self) -> Result<()> {
        frontend::copy_done(self.wire.output());
        // The server tells of an error before it lets go of the slot.
        let mut failure = None;
        loop {
            match self.wire.read().await {
                Ok(Message { tag: b'Z', .. }) => break,
                Ok(Message { tag: b'E', body }) => failure = Some(server_error(body)?),
                Ok(_) => {}
                Err(error) if error.kind() == Kind::ConnectionLost => {
                    return failure.map_or(Ok(()), Err);
                }
                Err(error) => return Err(failure.unwrap_or(error)),
            }
        }
        frontend::terminate(self.wire.output());
        // The slot is free, whether or not the server still hears this.
        let _ = self.wire.flush().await;
        failure.map_or(Ok(()), Err)
    }
}

fn stream_event(message: Message) -> Result<Option<Event>> {
    match message.tag {
        b'd' => parse_event(message.body).map(Some),
        b'c' => Ok(Some(Event::Ended)),
        // Sent without CopyDone by a server that shuts down.
        b'C' => Err(Error::new(Kind::ConnectionLost, "the server is shutting down")),
        b'S' => Ok(None),
        _ => Err(invalid("tag in the stream")),
    }
}

fn parse_event(mut body: Bytes) -> Result<Event> {
    let short = |_| invalid("length in the stream");
    match body.try_get_u8().map_err(short)? {
        b'w' => {
            let wal_start = Lsn(body.try_get_u64().map_err(short)?);
            let wal_end = Lsn(body.try_get_u64().map_err(short)?);
            let sent_at = body.try_get_i64().map_err(short)?;
            Ok(Event::Frame { wal_start, wal_end, sent_at, payload: body })
        }
        b'k' => {
            let wal_end = Lsn(body.try_get_u64().map_err(short)?);
            let _sent_at = body.try_get_i64().map_err(short)?;
            let reply_requested = body.try_get_u8().map_err(short)? != 0;
            Ok(Event::Keepalive { wal_end, reply_requested })
        }
        _ => Err(invalid("type in the stream")),
    }
}

/// CopyData with a standby status update.
fn encode_status(status: StandbyStatus, out: &mut impl BufMut) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(EPOCH);
    let micros = now.saturating_sub(EPOCH).as_micros();
    out.put_u8(b'd');
    out.put_u32(4 + 1 + 8 * 4 + 1);
    out.put_u8(b'r');
    out.put_u64(status.written.0);
    out.put_u64(status.flushed.0);
    out.put_u64(status.applied.0);
    out.put_i64(i64::try_from(micros).unwrap_or(i64::MAX));
    out.put_u8(u8::from(status.reply_requested));
}

fn parse_row(mut body: Bytes) -> Result<Row> {
    let short = |_| invalid("row");
    let count = body.try_get_u16().map_err(short)?;
    (0..count)
        .map(|_| match usize::try_from(body.try_get_i32().map_err(short)?) {
            // Minus one stands for NULL.
            Err(_) => Ok(None),
            Ok(length) if length <= body.len() => {
                Ok(Some(String::from_utf8_lossy(&body.split_to(length)).into_owned()))
            }
            Ok(_) => Err(invalid("row")),
        })
        .collect()
}

/// Lines of `timeline`, `switch point`, `reason`; see the server's timeline.c, readTimeLineHistory.
fn parse_history(text: &str) -> Result<Vec<(u32, Lsn)>> {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let timeline = words.next().and_then(|word| word.parse().ok());
            let switch = words.next().and_then(|word| word.parse().ok());
            timeline.zip(switch).ok_or_else(|| invalid("timeline history"))
        })
        .collect()
}

fn column(row: &Row, index: usize) -> Result<&str> {
    row.get(index).and_then(Option::as_deref).ok_or_else(|| invalid("answer: a value is missing"))
}

fn lsn(text: &str) -> Result<Lsn> {
    text.parse().map_err(|_| invalid("LSN"))
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

#[cfg(test)]
mod tests;
