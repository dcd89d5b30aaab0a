//! Where and as whom to connect: a connection string of the command line or an endpoint's JSON,
//! completed the way libpq completes it.
//!
//! The parser is our own because tokio-postgres' refuses what people write every day (sslmode
//! verify-full, sslrootcert, passfile). An option that would weaken the connection if it were
//! ignored (a revocation list, require_auth) is refused, never skipped.
//!
//! A command line takes libpq's environment variables; an endpoint does not, PGPASSFILE excepted:
//! its host is chosen in the source database, and must not be sent another server's PGPASSWORD.

mod endpoint;
mod options;
mod passfile;
mod text;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
pub(crate) use options::{ChannelBinding, RootCert, SessionAttrs, SslMode, TlsVersion};

/// Where Debian's packages put the server's socket.
const SOCKET_FOLDER: &str = "/var/run/postgresql";
/// Upstream's default for the same.
const SOCKET_FOLDER_UPSTREAM: &str = "/tmp";

#[derive(Clone)]
pub struct ConnInfo {
    /// Tried in this order.
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) dbname: String,
    password: Option<String>,
    passfile: Option<PathBuf>,
    pub(crate) application_name: String,
    /// Command-line options for the server, `-c name=value`.
    pub(crate) options: Option<String>,
    /// For one host, login included; None waits for ever.
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) keepalive: Option<Keepalive>,
    /// How long sent bytes may stay unacknowledged; None leaves it to the kernel.
    pub(crate) tcp_user_timeout: Option<Duration>,
    pub(crate) session_attrs: SessionAttrs,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) tls: TlsOptions,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Host {
    pub(crate) address: Address,
    pub(crate) port: u16,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    /// The folder of a Unix socket.
    Unix(PathBuf),
    /// The name or address the certificate must be for, and the address to dial if it is given.
    Tcp { name: String, dial: Option<IpAddr> },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Keepalive {
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) count: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TlsOptions {
    pub(crate) mode: SslMode,
    pub(crate) root_cert: Option<RootCert>,
    /// The client's certificate and key, both PEM.
    pub(crate) cert: Option<(PathBuf, PathBuf)>,
    /// Whether the host name is sent in the clear (SNI), for proxies.
    pub(crate) sni: bool,
    pub(crate) version_min: TlsVersion,
}

impl ConnInfo {
    /// A libpq connection string, completed from libpq's environment variables.
    pub fn parse(text: &str) -> Result<ConnInfo> {
        ConnInfo::parse_with(text, &|name| std::env::var(name).ok())
    }

    fn parse_with(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<ConnInfo> {
        options::Options::new(text::parse(text)?, env)?.build()
    }

    /// A target as the extension's `applier_tasks()` and `applier_endpoint()` describe it.
    pub fn from_target(target: &serde_json::Value) -> Result<ConnInfo> {
        endpoint::parse(target, &|name| std::env::var(name).ok())
    }

    #[must_use]
    pub fn with_application_name(&self, name: &str) -> ConnInfo {
        ConnInfo { application_name: name.to_owned(), ..self.clone() }
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// Database, host, port and user in words, for messages; no secrets.
    pub fn display(&self) -> String {
        let hosts: Vec<_> = self.hosts.iter().map(Host::to_string).collect();
        format!("database \"{}\" on {} as user \"{}\"", self.dbname, hosts.join(" or "), self.user)
    }

    /// The same for one of several hosts.
    pub(crate) fn display_at(&self, host: &Host) -> String {
        format!("database \"{}\" on {host} as user \"{}\"", self.dbname, self.user)
    }

    /// The given password, or what the password file holds for this host.
    pub(crate) fn password_for(&self, host: &Host) -> Option<String> {
        if self.password.is_some() {
            return self.password.clone();
        }
        let folder = Path::new(SOCKET_FOLDER);
        let name = match &host.address {
            Address::Unix(path) if path == folder => "localhost".to_owned(),
            Address::Unix(path) if path == Path::new(SOCKET_FOLDER_UPSTREAM) => "localhost".into(),
            Address::Unix(path) => path.to_string_lossy().into_owned(),
            Address::Tcp { name, .. } => name.clone(),
        };
        let wanted = passfile::Wanted {
            host: &name,
            port: host.port,
            dbname: &self.dbname,
            user: &self.user,
        };
        passfile::password(self.passfile.as_deref()?, &wanted)
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnInfo({}, sslmode {:?})", self.display(), self.tls.mode)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(folder) => {
                write!(f, "socket \"{}\"", self.socket_path(folder).display())
            }
            Address::Tcp { name, dial: Some(ip) } if *name != ip.to_string() => {
                write!(f, "host \"{name}\" ({ip}), port {}", self.port)
            }
            Address::Tcp { name, .. } => write!(f, "host \"{name}\", port {}", self.port),
        }
    }
}

impl Host {
    pub(crate) fn socket_path(&self, folder: &Path) -> PathBuf {
        folder.join(format!(".s.PGSQL.{}", self.port))
    }

    fn parse(name: &str, hostaddr: &str, port: &str) -> Result<Host> {
        let port = match port.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => return Err(Error::new(Kind::Argument, format!("invalid port \"{port}\""))),
        };
        let dial = match hostaddr {
            "" => None,
            ip => Some(ip.parse::<IpAddr>().map_err(|_| {
                Error::new(Kind::Argument, format!("invalid network address \"{ip}\" in hostaddr"))
            })?),
        };
        let address = match (name, dial) {
            ("", None) => Address::default_for(port),
            ("", Some(ip)) => Address::Tcp { name: ip.to_string(), dial },
            (folder, None) if folder.starts_with('/') => Address::Unix(folder.into()),
            (name, dial) => Address::Tcp { name: name.to_owned(), dial },
        };
        Ok(Host { address, port })
    }
}

impl Address {
    /// The local server: its socket where packages put it, else TCP.
    fn default_for(port: u16) -> Address {
        let socket = format!(".s.PGSQL.{port}");
        [SOCKET_FOLDER, SOCKET_FOLDER_UPSTREAM]
            .into_iter()
            .map(PathBuf::from)
            .find(|folder| folder.join(&socket).exists())
            .map_or_else(
                || Address::Tcp { name: "localhost".to_owned(), dial: None },
                Address::Unix,
            )
    }
}

#[cfg(test)]
mod tests;
