//! One error for the whole applier: what happened (kind), said in one line, with what to do.
//!
//! Errors gain context on their way up ([`Error::context`]) and are logged once, where they are
//! consumed. No error holds a row's values: of a database error only its SQLSTATE, message, hint
//! and constraint are kept, and the message only where PostgreSQL puts no data into it.

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What happened. What is done about it is decided in one place, [`Error::policy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The command line, a connection string or an endpoint's options.
    Argument,
    /// A server that cannot be reached, or that is starting up or shutting down.
    Unreachable,
    /// A connection that was open and is no more.
    ConnectionLost,
    /// Login refused: password, pg_hba.conf, missing role or database.
    Authentication,
    /// A right that a role lacks.
    Privilege,
    /// Another applier serves the task.
    Taken,
    /// The published definition is newer than the one in use: start over with it.
    DefinitionNotCurrent,
    /// Something the check found: nothing was written.
    Check,
    /// A table's shape changed on the source in a way that the definition does not follow.
    TableChanged,
    /// Source and target do not belong together: slot, progress, system or timeline differ.
    Mismatch,
    /// The slot holds back more WAL than the task may.
    WalKept,
    /// The target refuses a row: constraint, type, trigger.
    Refused,
    /// A change finds no row on the target.
    RowMissing,
    /// A conflict with other sessions that passes: deadlock, serialization, lock timeout.
    Conflict,
    /// A server out of disk, memory or connections.
    Resources,
    /// Bytes that are not this protocol.
    Protocol,
    /// Any other error of a server.
    Server,
    /// A bug of this program.
    Internal,
}

/// What is done about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// The same again after a pause, for as long as it takes.
    Retry,
    /// The same again a few times, then stop: nothing says that it passes.
    RetryFewTimes,
    /// At once, with what is published now.
    Restart,
    /// Only a person can mend it.
    Stop,
}

#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    sqlstate: Option<String>,
    context: Vec<String>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        Error(Box::new(Inner { kind, message, hint: None, sqlstate: None, context: Vec::new() }))
    }

    /// What to do, as a sentence.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn sqlstate(mut self, sqlstate: impl Into<String>) -> Self {
        self.0.sqlstate = Some(sqlstate.into());
        self
    }

    /// Says where it happened; the outermost is printed first.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.0.context.push(context.into());
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    pub fn sqlstate_code(&self) -> Option<&str> {
        self.0.sqlstate.as_deref()
    }

    pub fn policy(&self) -> Policy {
        match self.0.kind {
            Kind::Unreachable
            | Kind::ConnectionLost
            | Kind::Taken
            | Kind::Conflict
            | Kind::Resources => Policy::Retry,
            Kind::Server => Policy::RetryFewTimes,
            Kind::DefinitionNotCurrent => Policy::Restart,
            Kind::Argument
            | Kind::Authentication
            | Kind::Privilege
            | Kind::Check
            | Kind::TableChanged
            | Kind::Mismatch
            | Kind::WalKept
            | Kind::Refused
            | Kind::RowMissing
            | Kind::Protocol
            | Kind::Internal => Policy::Stop,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in self.0.context.iter().rev() {
            write!(f, "{context}: ")?;
        }
        f.write_str(&self.0.message)?;
        match &self.0.sqlstate {
            Some(sqlstate) => write!(f, " (SQLSTATE {sqlstate})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            let fields = ServerError {
                sqlstate: db.code().code(),
                message: db.message(),
                hint: db.hint(),
                constraint: db.constraint(),
            };
            return fields.into();
        }
        let kind = if error.is_closed() { Kind::ConnectionLost } else { io_kind(&error) };
        Error::new(kind, chain(&error))
    }
}

fn io_kind(error: &tokio_postgres::Error) -> Kind {
    let io = std::error::Error::source(error).and_then(|s| s.downcast_ref::<std::io::Error>());
    let text = error.to_string();
    match io {
        Some(_) if text.starts_with("error connecting") => Kind::Unreachable,
        Some(_) => Kind::ConnectionLost,
        None if text.contains("timed out") || text.starts_with("error connecting") => {
            Kind::Unreachable
        }
        None if text.contains("password") || text.contains("authentication") => {
            Kind::Authentication
        }
        None => Kind::Internal,
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::new(Kind::ConnectionLost, chain(&error))
    }
}

impl From<trem_wire::codec::DecodeError> for Error {
    fn from(error: trem_wire::codec::DecodeError) -> Self {
        Error::new(Kind::Protocol, error.to_string())
            .hint("Install the extension and the applier from one release.")
    }
}

/// The fields of a server's ErrorResponse that may be shown.
pub(crate) struct ServerError<'a> {
    pub(crate) sqlstate: &'a str,
    pub(crate) message: &'a str,
    pub(crate) hint: Option<&'a str>,
    pub(crate) constraint: Option<&'a str>,
}

impl From<ServerError<'_>> for Error {
    fn from(fields: ServerError<'_>) -> Self {
        let kind = kind_of_sqlstate(fields.sqlstate);
        // Class 22 messages quote the value that they refuse.
        let message = match (&fields.sqlstate[..2.min(fields.sqlstate.len())], fields.constraint) {
            ("22", _) => "a value does not fit the type of its column".to_owned(),
            ("23", Some(constraint)) => {
                format!("a row violates the constraint \"{constraint}\"")
            }
            _ => fields.message.to_owned(),
        };
        let mut error = Error::new(kind, message).sqlstate(fields.sqlstate);
        if let Some(hint) = fields.hint {
            error = error.hint(hint);
        }
        error
    }
}

fn kind_of_sqlstate(sqlstate: &str) -> Kind {
    match sqlstate {
        trem_wire::sqlstate::DEFINITION_NOT_CURRENT => Kind::DefinitionNotCurrent,
        trem_wire::sqlstate::TABLE_CHANGED | trem_wire::sqlstate::KEY_NOT_IN_WAL => {
            Kind::TableChanged
        }
        "57P01" | "57P02" | "57P05" => Kind::ConnectionLost,
        "57P03" => Kind::Unreachable,
        "3D000" => Kind::Authentication,
        "42501" => Kind::Privilege,
        "55006" | "55P03" => Kind::Conflict,
        "55000" => Kind::Mismatch,
        _ => match &sqlstate[..2.min(sqlstate.len())] {
            "08" => Kind::ConnectionLost,
            "28" => Kind::Authentication,
            "40" => Kind::Conflict,
            "53" => Kind::Resources,
            "22" | "23" => Kind::Refused,
            _ => Kind::Server,
        },
    }
}
