//! Ordinary SQL sessions, to source and target alike, every one with the same settings.
//!
//! The settings are part of correctness: with another TimeZone or DateStyle the copy and the stream
//! would give different values, with another search_path a name could mean another table. They
//! override what ALTER ROLE, ALTER DATABASE and PGOPTIONS say. `synchronous_commit` is left alone.

use std::future::{poll_fn, Future};
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_postgres::config::{self, SslMode, SslNegotiation};
use tokio_postgres::{AsyncMessage, Connection, Notification, SimpleQueryMessage};
use trem_wire::settings::PINNED;

use crate::conninfo::{ChannelBinding, ConnInfo, Host, SessionAttrs};
use crate::dial::{dial, within, Login};
use crate::error::{Error, Kind, Result};
use crate::transport::{Encryption, OpenError, PassThrough, Transport};

/// Settings of every session, the replication connection included.
pub(crate) fn settings() -> String {
    const OURS: &str = "SET search_path = ''; SET client_encoding = 'UTF8'; \
         SET statement_timeout = 0; SET lock_timeout = 0; \
         SET idle_in_transaction_session_timeout = 0; SET row_security = off; \
         SET default_transaction_isolation = 'read committed'; \
         SET default_transaction_deferrable = off; SET client_min_messages = 'warning'";
    let pinned = PINNED.iter().map(|(name, value)| format!("SET {name} = '{value}'; "));
    pinned.chain([OURS.to_owned()]).collect()
}

/// Settings that not every supported release has. With the check interval a server notices within
/// seconds that we died during a long statement, and gives up our locks.
const SETTINGS_IF_KNOWN: &str = "SELECT pg_catalog.set_config(s.name, v.value, false) \
     FROM pg_catalog.pg_settings s, (VALUES ('idle_session_timeout', '0'), \
     ('transaction_timeout', '0'), ('client_connection_check_interval', '5s')) v (name, value) \
     WHERE s.name = v.name";

/// How long a dropped session may take to say goodbye before its socket is closed.
const GOODBYE: Duration = Duration::from_secs(2);

/// A session and the task that drives its connection; the task ends soon after the drop.
pub struct Client {
    // Dropped first: the driver then sends what is queued and Terminate.
    inner: tokio_postgres::Client,
    _open: oneshot::Sender<()>,
    driver: Option<JoinHandle<()>>,
    failure: Arc<Mutex<Option<Error>>>,
    version: u32,
    info: ConnInfo,
    host: Host,
    encrypted: bool,
}

/// Opens a session.
pub async fn connect(info: &ConnInfo) -> Result<Client> {
    dial(info, &SqlLogin { notifications: None }).await
}

/// Opens a session whose notifications arrive in the channel, which ends with the connection. The
/// caller still has to `LISTEN`.
pub async fn connect_listen(
    info: &ConnInfo,
) -> Result<(Client, mpsc::UnboundedReceiver<Notification>)> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let client = dial(info, &SqlLogin { notifications: Some(sender) }).await?;
    Ok((client, receiver))
}

impl Client {
    /// The server's version as server_version_num has it: 150020.
    pub fn server_version(&self) -> u32 {
        self.version
    }

    /// The task that drives the connection, for whoever wants to see its end. A second call returns
    /// nothing.
    pub fn take_driver(&mut self) -> Option<JoinHandle<()>> {
        self.driver.take()
    }

    /// Why the connection ended, if it did and the server or the network gave a reason. A second
    /// call returns nothing.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Asks the server to cancel what this session is running. It does so soon, or not at all.
    pub async fn cancel(&self) -> Result<()> {
        let encryption = if self.encrypted { Encryption::Tls } else { Encryption::Plain };
        let request = async {
            let transport = Transport::open(&self.info, &self.host, encryption)
                .await
                .map_err(OpenError::into_error)?;
            let token = self.inner.cancel_token();
            Ok(token.cancel_query_raw(transport, PassThrough).await?)
        };
        within(self.info.connect_timeout, request)
            .await
            .map_err(|error: Error| error.context("cannot cancel the statement"))
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

struct SqlLogin {
    notifications: Option<mpsc::UnboundedSender<Notification>>,
}

impl Login for SqlLogin {
    type Session = Client;

    async fn login(
        &self,
        transport: Transport,
        info: &ConnInfo,
        host: &Host,
        attrs: SessionAttrs,
    ) -> Result<Client> {
        let encrypted = transport.is_encrypted();
        let config = config(info, host);
        let (inner, connection) = config.connect_raw(transport, PassThrough).await?;
        let version = version_number(connection.parameter("server_version").unwrap_or_default());
        let failure = Arc::new(Mutex::new(None));
        let (open, dropped) = oneshot::channel();
        let driver = Driver {
            connection,
            notifications: self.notifications.clone(),
            failure: failure.clone(),
        };
        let driver = Some(tokio::spawn(driver.run(dropped)));
        inner.batch_execute(&format!("{}; {SETTINGS_IF_KNOWN}", settings())).await?;
        if let Some(question) = attrs_question(attrs) {
            let answer = inner.simple_query(question).await?;
            let yes = answer.iter().any(|message| {
                matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))
            });
            attrs_answer(attrs, yes)?;
        }
        let (info, host) = (info.clone(), host.clone());
        Ok(Client { inner, _open: open, driver, failure, version, info, host, encrypted })
    }
}

fn config(info: &ConnInfo, host: &Host) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .user(&info.user)
        .dbname(&info.dbname)
        .application_name(&info.application_name)
        .channel_binding(match info.channel_binding {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        })
        // Both together: take the stream from `PassThrough`, ask the server nothing.
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    if let Some(password) = info.password_for(host) {
        config.password(password);
    }
    if let Some(options) = &info.options {
        config.options(options);
    }
    config
}

/// The query that decides whether a server is the one target_session_attrs asks for.
pub(crate) fn attrs_question(attrs: SessionAttrs) -> Option<&'static str> {
    match attrs {
        SessionAttrs::Any | SessionAttrs::PreferStandby => None,
        SessionAttrs::ReadWrite => {
            Some("SELECT pg_catalog.current_setting('transaction_read_only') = 'off'")
        }
        SessionAttrs::ReadOnly => {
            Some("SELECT pg_catalog.current_setting('transaction_read_only') = 'on'")
        }
        SessionAttrs::Primary => Some("SELECT NOT pg_catalog.pg_is_in_recovery()"),
        SessionAttrs::Standby => Some("SELECT pg_catalog.pg_is_in_recovery()"),
    }
}

pub(crate) fn attrs_answer(attrs: SessionAttrs, yes: bool) -> Result<()> {
    let message = match attrs {
        _ if yes => return Ok(()),
        SessionAttrs::Any | SessionAttrs::PreferStandby => return Ok(()),
        SessionAttrs::ReadWrite => "the session is read-only",
        SessionAttrs::ReadOnly => "the session is not read-only",
        SessionAttrs::Primary => "the server is a standby",
        SessionAttrs::Standby => "the server is not a standby",
    };
    Err(Error::new(Kind::Unreachable, message)
        .hint("The option target_session_attrs asks for another server."))
}

/// "15.20 (Debian 15.20-1)" is 150020, "18beta1" is 180000.
pub(crate) fn version_number(text: &str) -> u32 {
    let mut numbers =
        text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let major = numbers.next().unwrap_or(0);
    let is_release = text.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('.');
    major * 10_000 + numbers.next().filter(|_| is_release).unwrap_or(0)
}

/// Moves bytes between the session and its socket until one of them ends.
struct Driver {
    connection: Connection<Transport, Transport>,
    notifications: Option<mpsc::UnboundedSender<Notification>>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Driver {
    async fn run(mut self, dropped: oneshot::Receiver<()>) {
        let mut dropped = pin!(dropped);
        let ended = poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => dropped.as_mut().poll(cx).map(|_| false),
        })
        .await;
        if !ended {
            let goodbye = poll_fn(|cx| self.poll(cx));
            // A statement still running keeps the session from ending; then the socket closes.
            let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.connection.poll_message(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some(Ok(AsyncMessage::Notification(notification)))) => {
                    if let Some(sender) = &self.notifications {
                        // The receiver is gone: nobody wants to know.
                        let _ = sender.send(notification);
                    }
                }
                // A notice's text may hold a row's values.
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => {
                    let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                    *failure = Some(error.into());
                    return Poll::Ready(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_the_server_reports() {
        for (text, number) in [
            ("15.20", 150_020),
            ("15.20 (Debian 15.20-1.pgdg120+1)", 150_020),
            ("18beta1", 180_000),
            ("17devel", 170_000),
            ("", 0),
        ] {
            assert_eq!(version_number(text), number, "{text}");
        }
    }
}
