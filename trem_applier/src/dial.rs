//! Which hosts are tried, in which order, with or without TLS, and what a failure means to the
//! person who reads it. The login itself differs between our two clients ([`Login`]).

use std::future::Future;
use std::time::Duration;

use crate::conninfo::{Address, ConnInfo, Host, SessionAttrs, SslMode};
use crate::error::{Error, Kind, Result};
use crate::transport::{Encryption, OpenError, Transport};

/// Start-up, authentication and session settings over an open stream.
pub(crate) trait Login {
    type Session;

    /// The session must also be of the kind that `attrs` asks for.
    fn login(
        &self,
        transport: Transport,
        info: &ConnInfo,
        host: &Host,
        attrs: SessionAttrs,
    ) -> impl Future<Output = Result<Self::Session>> + Send;
}

pub(crate) async fn dial<L: Login>(info: &ConnInfo, login: &L) -> Result<L::Session> {
    let passes: &[SessionAttrs] = match info.session_attrs {
        SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
        _ => &[info.session_attrs],
    };
    let mut failure: Option<Error> = None;
    for attrs in passes {
        for host in &info.hosts {
            let attempt = dial_host(info, host, *attrs, login);
            let error = match within(info.connect_timeout, attempt).await {
                Ok(session) => return Ok(session),
                Err(error) => explain(error, info, host),
            };
            // A server that answered says more than one that did not.
            failure = match failure.take() {
                Some(first) if first.kind() != Kind::Unreachable => Some(first),
                _ => Some(error),
            };
        }
    }
    Err(failure.expect("there is at least one host"))
}

pub(crate) async fn within<T>(
    limit: Option<Duration>,
    attempt: impl Future<Output = Result<T>>,
) -> Result<T> {
    match limit {
        None => attempt.await,
        Some(limit) => tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
            let message = format!("no answer within {} seconds", limit.as_secs());
            Err(Error::new(Kind::Unreachable, message))
        }),
    }
}

/// The attempts that sslmode allows, as libpq makes them. A server without TLS on a Unix socket is
/// not asked for it.
fn encryptions(mode: SslMode, host: &Host) -> &'static [Encryption] {
    match (mode, &host.address) {
        (_, Address::Unix(_)) | (SslMode::Disable, _) => &[Encryption::Plain],
        (SslMode::Allow, _) => &[Encryption::Plain, Encryption::Tls],
        (SslMode::Prefer, _) => &[Encryption::TlsIfOffered, Encryption::Plain],
        (SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull, _) => &[Encryption::Tls],
    }
}

async fn dial_host<L: Login>(
    info: &ConnInfo,
    host: &Host,
    attrs: SessionAttrs,
    login: &L,
) -> Result<L::Session> {
    let mut refusal: Option<Error> = None;
    for encryption in encryptions(info.tls.mode, host) {
        let transport = match Transport::open(info, host, *encryption).await {
            Ok(transport) => transport,
            Err(OpenError::Tls(error)) => {
                refusal.get_or_insert(error);
                continue;
            }
            Err(OpenError::Other(error)) => return Err(refusal.unwrap_or(error)),
        };
        let final_answer = *encryption == Encryption::TlsIfOffered && !transport.is_encrypted();
        let error = match login.login(transport, info, host, attrs).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        // Only pg_hba.conf may give another answer to the same login with or without TLS.
        if error.sqlstate_code() != Some("28000") {
            return Err(error);
        }
        refusal.get_or_insert(error);
        if final_answer {
            break;
        }
    }
    Err(refusal.expect("at least one attempt was made"))
}

/// Says which server it was, and what to do.
fn explain(error: Error, info: &ConnInfo, host: &Host) -> Error {
    let error = match (error.hint_text(), advice(&error, info, host)) {
        (None, Some(advice)) => error.hint(advice),
        _ => error,
    };
    error.context(format!("cannot connect to {}", info.display_at(host)))
}

fn advice(error: &Error, info: &ConnInfo, host: &Host) -> Option<String> {
    let (user, dbname) = (quoted(&info.user), quoted(&info.dbname));
    let text = error.to_string();
    let advice = match error.sqlstate_code() {
        None => return advice_without_answer(error, host),
        Some("28P01") => format!(
            "Check the password of role {user}: it comes from the connection string or endpoint, \
             PGPASSWORD or a password file. `ALTER ROLE {user} PASSWORD '...'` sets a new one."
        ),
        Some("28000") if text.contains("pg_hba.conf") => format!(
            "Let the server's pg_hba.conf admit user {user} to database {dbname} from here, for \
             example with the line `host {dbname} {user} samenet scram-sha-256`, then run \
             `SELECT pg_reload_conf()`."
        ),
        Some("28000") if text.contains("does not exist") => {
            format!("Create the role: `CREATE ROLE {user} LOGIN PASSWORD '...'`, or name another.")
        }
        Some("28000") if text.contains("not permitted to log in") => {
            format!("Let the role log in: `ALTER ROLE {user} LOGIN`.")
        }
        Some("28000") if text.contains("certificate") => {
            "Give the client's certificate and key in sslcert and sslkey.".to_owned()
        }
        Some("28000") => "Check the server's pg_hba.conf and the name of the user.".to_owned(),
        Some("3D000") => {
            format!("Create the database: `CREATE DATABASE {dbname}`, or name another.")
        }
        Some("42501") if text.contains("database") => {
            format!("Grant the right: `GRANT CONNECT ON DATABASE {dbname} TO {user}`.")
        }
        Some("42501") => format!("Grant the right: `ALTER ROLE {user} REPLICATION`."),
        Some("53300") if text.contains("wal_senders") => {
            "Raise max_wal_senders on the server, or stop a replication client.".to_owned()
        }
        Some("53300") => "Raise max_connections on the server, or close sessions.".to_owned(),
        Some("57P03") => "The server is starting up or shutting down: wait.".to_owned(),
        Some(_) => return None,
    };
    Some(advice)
}

fn advice_without_answer(error: &Error, host: &Host) -> Option<String> {
    match (error.kind(), &host.address) {
        (Kind::Unreachable, Address::Unix(folder)) => Some(format!(
            "Check that the server runs and has its socket in the folder \"{}\" \
             (unix_socket_directories) with the port {}.",
            folder.display(),
            host.port
        )),
        (Kind::Unreachable, Address::Tcp { .. }) => Some(
            "Check host and port, that the server runs and listens there (listen_addresses), and \
             that no firewall is in between."
                .to_owned(),
        ),
        (Kind::ConnectionLost, _) => {
            Some("Check the server's log: it closed the connection during the login.".to_owned())
        }
        (Kind::Authentication, _) if error.to_string().contains("channel binding") => Some(
            "channel_binding=require needs TLS and scram-sha-256 in pg_hba.conf; where they are \
             absent use channel_binding=prefer."
                .to_owned(),
        ),
        (Kind::Authentication, _) => {
            Some("Let the server's pg_hba.conf use scram-sha-256 for this connection.".to_owned())
        }
        _ => None,
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sslmode_decides_what_is_tried_and_a_unix_socket_is_never_encrypted() {
        use Encryption::{Plain, Tls, TlsIfOffered};
        let tcp = Address::Tcp { name: "h".to_owned(), dial: None };
        let tcp = Host { address: tcp, port: 5432 };
        let unix = Host { address: Address::Unix("/tmp".into()), port: 5432 };
        for (mode, expected) in [
            (SslMode::Disable, &[Plain][..]),
            (SslMode::Allow, &[Plain, Tls]),
            (SslMode::Prefer, &[TlsIfOffered, Plain]),
            (SslMode::Require, &[Tls]),
            (SslMode::VerifyCa, &[Tls]),
            (SslMode::VerifyFull, &[Tls]),
        ] {
            assert_eq!(encryptions(mode, &tcp), expected);
            assert_eq!(encryptions(mode, &unix), [Plain]);
        }
    }
}
