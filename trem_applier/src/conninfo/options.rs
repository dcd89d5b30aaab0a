//! Names and values become a [`ConnInfo`]: which options there are, what stands in for an absent
//! one, and which values are allowed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::text::Pairs;
use super::{ConnInfo, Host, Keepalive, TlsOptions};
use crate::error::{Error, Kind, Result};

/// What we understand, and the environment variable that stands in for it.
const KNOWN: &[(&str, Option<&str>)] = &[
    ("host", Some("PGHOST")),
    ("hostaddr", Some("PGHOSTADDR")),
    ("port", Some("PGPORT")),
    ("dbname", Some("PGDATABASE")),
    ("user", Some("PGUSER")),
    ("password", Some("PGPASSWORD")),
    ("passfile", Some("PGPASSFILE")),
    ("application_name", None),
    ("options", Some("PGOPTIONS")),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    ("keepalives", None),
    ("keepalives_idle", None),
    ("keepalives_interval", None),
    ("keepalives_count", None),
    ("tcp_user_timeout", None),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("sslmode", Some("PGSSLMODE")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslkey", Some("PGSSLKEY")),
    ("sslsni", Some("PGSSLSNI")),
    ("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
];

/// Taken and ignored: they change nothing about what we do or how safe it is.
const WITHOUT_EFFECT: &[&str] = &[
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "load_balance_hosts",
    "sslcompression",
];

/// Ten seconds reach any server that is there; a name with several addresses takes longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A peer that vanished is noticed within two minutes, where the kernel takes two hours.
const KEEPALIVE: Keepalive =
    Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum RootCert {
    File(PathBuf),
    /// What the operating system trusts.
    System,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TlsVersion {
    V12,
    V13,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SessionAttrs {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// The options as given, each name known.
pub(super) struct Options<'a> {
    pairs: Pairs,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Options<'a> {
    pub(super) fn new(pairs: Pairs, env: &'a dyn Fn(&str) -> Option<String>) -> Result<Self> {
        for (name, _) in &pairs {
            let known = KNOWN.iter().any(|(known, _)| known == name);
            if !known && !WITHOUT_EFFECT.contains(&name.as_str()) {
                let names: Vec<_> = KNOWN.iter().map(|(name, _)| *name).collect();
                return Err(Error::new(
                    Kind::Argument,
                    format!("connection option \"{name}\" is not supported"),
                )
                .hint(format!("The options are {}.", names.join(", "))));
            }
        }
        Ok(Options { pairs, env })
    }

    pub(super) fn build(self) -> Result<ConnInfo> {
        let user = match self.get("user") {
            Some(user) => user,
            None => whoami::username().map_err(|error| {
                Error::new(Kind::Argument, format!("cannot tell the user's name: {error}"))
                    .hint("Give the option user.")
            })?,
        };
        Ok(ConnInfo {
            hosts: self.hosts()?,
            dbname: self.get("dbname").unwrap_or_else(|| user.clone()),
            user,
            password: self.get("password"),
            passfile: self.path("passfile").or_else(|| in_home(".pgpass")),
            application_name: self.get("application_name").unwrap_or_else(|| "trem".to_owned()),
            options: self.get("options"),
            connect_timeout: self.seconds("connect_timeout", Some(CONNECT_TIMEOUT))?,
            keepalive: self.keepalive()?,
            tcp_user_timeout: match self.number("tcp_user_timeout")? {
                Some(millis) => Some(Duration::from_millis(millis)).filter(|t| !t.is_zero()),
                None => Some(TCP_USER_TIMEOUT),
            },
            session_attrs: self.session_attrs()?,
            channel_binding: self.channel_binding()?,
            tls: self.tls()?,
        })
    }

    /// As in libpq, an empty value counts as absent.
    fn get(&self, name: &str) -> Option<String> {
        let given = self.pairs.iter().rev().find(|(given, _)| given == name);
        let variable = KNOWN.iter().find(|(known, _)| *known == name).and_then(|(_, env)| *env);
        given
            .map(|(_, value)| value.clone())
            .filter(|value| !value.is_empty())
            .or_else(|| variable.and_then(self.env).filter(|value| !value.is_empty()))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.trim().parse::<i64>() {
            // libpq takes a negative number as none.
            Ok(number) => Ok(Some(u64::try_from(number).unwrap_or(0))),
            Err(_) => Err(refused_value(name, &value, "a whole number")),
        }
    }

    /// Zero means without limit.
    fn seconds(&self, name: &str, default: Option<Duration>) -> Result<Option<Duration>> {
        Ok(match self.number(name)? {
            None => default,
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds)),
        })
    }

    fn hosts(&self) -> Result<Vec<Host>> {
        let list = |name| self.get(name).unwrap_or_default();
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let names: Vec<_> = names.split(',').map(str::trim).collect();
        let addresses: Vec<_> = addresses.split(',').map(str::trim).collect();
        let ports: Vec<_> = ports.split(',').map(str::trim).collect();
        let count = names.len().max(addresses.len());
        let mismatch = |list: &[&str]| list.len() > 1 && list.len() != count;
        if mismatch(&names) || mismatch(&addresses) || mismatch(&ports) {
            return Err(Error::new(Kind::Argument, "host, hostaddr and port differ in number")
                .hint("Give as many ports as hosts, or one port for all."));
        }
        let at = |list: &[&'_ str], i: usize, all: bool| match list.len() {
            1 if all || i == 0 => list[0].to_owned(),
            1 => String::new(),
            _ => list[i].to_owned(),
        };
        (0..count)
            .map(|i| {
                let port = Some(at(&ports, i, true)).filter(|port| !port.is_empty());
                let port = port.unwrap_or_else(|| "5432".to_owned());
                Host::parse(&at(&names, i, false), &at(&addresses, i, false), &port)
            })
            .collect()
    }

    fn keepalive(&self) -> Result<Option<Keepalive>> {
        if self.number("keepalives")? == Some(0) {
            return Ok(None);
        }
        let count = self.number("keepalives_count")?.filter(|count| *count > 0);
        let seconds =
            |name, default| self.seconds(name, Some(default)).map(|given| given.unwrap_or(default));
        Ok(Some(Keepalive {
            idle: seconds("keepalives_idle", KEEPALIVE.idle)?,
            interval: seconds("keepalives_interval", KEEPALIVE.interval)?,
            count: count.and_then(|n| u32::try_from(n).ok()).unwrap_or(KEEPALIVE.count),
        }))
    }

    fn session_attrs(&self) -> Result<SessionAttrs> {
        self.one_of(
            "target_session_attrs",
            SessionAttrs::Any,
            &[
                ("any", SessionAttrs::Any),
                ("read-write", SessionAttrs::ReadWrite),
                ("read-only", SessionAttrs::ReadOnly),
                ("primary", SessionAttrs::Primary),
                ("standby", SessionAttrs::Standby),
                ("prefer-standby", SessionAttrs::PreferStandby),
            ],
        )
    }

    fn channel_binding(&self) -> Result<ChannelBinding> {
        self.one_of(
            "channel_binding",
            ChannelBinding::Prefer,
            &[
                ("disable", ChannelBinding::Disable),
                ("prefer", ChannelBinding::Prefer),
                ("require", ChannelBinding::Require),
            ],
        )
    }

    fn tls(&self) -> Result<TlsOptions> {
        let root_cert = match self.get("sslrootcert").as_deref() {
            Some("system") => Some(RootCert::System),
            Some(file) => Some(RootCert::File(file.into())),
            None => in_home(".postgresql/root.crt").filter(|f| f.exists()).map(RootCert::File),
        };
        let system = root_cert == Some(RootCert::System);
        let default = if system { SslMode::VerifyFull } else { SslMode::Prefer };
        let modes = [
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ];
        let mode = self.one_of("sslmode", default, &modes)?;
        if system && mode != SslMode::VerifyFull {
            return Err(Error::new(
                Kind::Argument,
                "sslrootcert=system needs sslmode=verify-full: anyone can get a certificate that \
                 the system trusts, for another name",
            ));
        }
        Ok(TlsOptions {
            mode,
            root_cert,
            cert: self.client_cert()?,
            sni: self.number("sslsni")? != Some(0),
            version_min: self.one_of(
                "ssl_min_protocol_version",
                TlsVersion::V12,
                &[
                    ("TLSv1", TlsVersion::V12),
                    ("TLSv1.1", TlsVersion::V12),
                    ("TLSv1.2", TlsVersion::V12),
                    ("TLSv1.3", TlsVersion::V13),
                ],
            )?,
        })
    }

    /// A certificate that is named must be there; the default one is used if it is.
    fn client_cert(&self) -> Result<Option<(PathBuf, PathBuf)>> {
        let default_cert = in_home(".postgresql/postgresql.crt").filter(|file| file.exists());
        let Some(cert) = self.path("sslcert").or(default_cert) else { return Ok(None) };
        let key = self.path("sslkey").or_else(|| in_home(".postgresql/postgresql.key"));
        let key = key.ok_or_else(|| {
            Error::new(Kind::Argument, "sslcert is given without sslkey")
                .hint("Give the file of the certificate's private key in sslkey.")
        })?;
        Ok(Some((cert, key)))
    }

    fn one_of<T: Copy>(&self, name: &str, default: T, values: &[(&str, T)]) -> Result<T> {
        let Some(given) = self.get(name) else { return Ok(default) };
        let found = values.iter().find(|(value, _)| *value == given);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let all: Vec<_> = values.iter().map(|(value, _)| *value).collect();
            refused_value(name, &given, &format!("one of {}", all.join(", ")))
        })
    }
}

fn refused_value(name: &str, value: &str, expected: &str) -> Error {
    Error::new(Kind::Argument, format!("invalid value \"{value}\" for {name}"))
        .hint(format!("It must be {expected}."))
}

fn in_home(file: &str) -> Option<PathBuf> {
    Some(std::env::home_dir()?.join(Path::new(file)))
}
