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
    /// The source could not compute a row: an expression failed.
    RowFailed,
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
            | Kind::RowFailed
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

/// What to do when no password is there for a server that asks for one.
pub(crate) const PASSWORD_HINT: &str =
    "Give a password: in the connection string, in PGPASSWORD or a password file (~/.pgpass); for \
     an endpoint, by its options password_env, password_file or passfile.";

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            if is_of_a_rule(db) {
                return row_failed(db.message(), db.code().code());
            }
            let fields = ServerError {
                sqlstate: db.code().code(),
                message: db.message(),
                detail: db.detail(),
                hint: db.hint(),
                table: db.table(),
                column: db.column(),
                constraint: db.constraint(),
            };
            let mut error = Error::from(fields);
            // That is for the plugin to say; in an ordinary session it is PostgreSQL's own.
            if error.kind() == Kind::DefinitionNotCurrent {
                error.0.kind = Kind::Server;
            }
            return error;
        }
        if error.is_closed() {
            return Error::new(Kind::ConnectionLost, "the server closed the connection");
        }
        let text = chain(&error);
        if text.contains("password missing") {
            let message = "the server asks for a password and none is given";
            return Error::new(Kind::Authentication, message).hint(PASSWORD_HINT);
        }
        Error::new(kind_of_client_error(&error), text)
    }
}

/// Whether a view of the source says that a rule cannot compute a row. It never says it of what is
/// about the session.
fn is_of_a_rule(db: &tokio_postgres::error::DbError) -> bool {
    use trem_wire::sqlstate::{RULE_FAILED_CONSTRAINT, RULE_FAILED_SCHEMA};
    db.schema() == Some(RULE_FAILED_SCHEMA) && db.constraint() == Some(RULE_FAILED_CONSTRAINT)
}

/// A row that the source cannot give: one row is at fault, not the task.
pub(crate) fn row_failed(message: &str, sqlstate: &str) -> Error {
    Error::new(Kind::RowFailed, message).sqlstate(sqlstate).hint(
        "trem.transformation lists the rules. Mend the rule or the row, then SELECT \
         trem.start_task(...); or set the task's option on_error to skip_row.",
    )
}

/// tokio-postgres tells the kinds of its errors apart by their first words only.
fn kind_of_client_error(error: &tokio_postgres::Error) -> Kind {
    let text = error.to_string();
    let io = std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>());
    if text.starts_with("error connecting") {
        Kind::Unreachable
    } else if text.starts_with("authentication error") {
        Kind::Authentication
    } else if text.starts_with("error parsing response") || text.starts_with("unexpected message") {
        Kind::Protocol
    } else if io {
        Kind::ConnectionLost
    } else {
        Kind::Internal
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
        // rustls says the same in many words and an address.
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return Error::new(Kind::ConnectionLost, "the server closed the connection");
        }
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
    /// Shown for the plugin's own errors only: elsewhere it holds keys and rows.
    pub(crate) detail: Option<&'a str>,
    pub(crate) hint: Option<&'a str>,
    pub(crate) table: Option<&'a str>,
    pub(crate) column: Option<&'a str>,
    pub(crate) constraint: Option<&'a str>,
}

impl From<ServerError<'_>> for Error {
    fn from(fields: ServerError<'_>) -> Self {
        let error = Error::new(kind_of_sqlstate(fields.sqlstate), shown_message(&fields));
        let error = error.sqlstate(fields.sqlstate);
        match fields.hint {
            _ if is_raised(fields.sqlstate) => error.hint(
                "Its text is in the server's log; it is not repeated here, because it may hold \
                 values of a row.",
            ),
            Some(hint) if error.kind() != Kind::Refused => error.hint(hint),
            _ => error,
        }
    }
}

/// Whether a function of somebody's raised it, with words of its own: RAISE in PL/pgSQL, or any
/// code that is in no class of PostgreSQL's (errcodes.txt).
fn is_raised(sqlstate: &str) -> bool {
    const CLASSES: &str =
        "00 01 02 03 08 09 0A 0B 0F 0L 0P 0Z 20 21 22 23 24 25 26 27 28 2B 2D 2F \
                           34 38 39 3B 3D 3F 40 42 44 53 54 55 57 58 72 F0 HV XX";
    let class = class(sqlstate);
    !class.is_empty() && CLASSES.split(' ').all(|known| known != class)
}

/// The server's message, or our own where PostgreSQL or a trigger quotes values in it.
fn shown_message(fields: &ServerError<'_>) -> String {
    let table = match fields.table {
        Some(table) => format!(" of table \"{table}\""),
        None => String::new(),
    };
    match (class(fields.sqlstate), fields.sqlstate) {
        // invalid_parameter_value: a setting or an option, not a row.
        (_, "22023") => fields.message.to_owned(),
        ("22", _) => format!("a value does not fit the type of its column{table}"),
        ("54", _) => format!("a value exceeds a limit of the server{table}"),
        (_, sqlstate) if is_raised(sqlstate) => {
            "a trigger or function raised an exception".to_owned()
        }
        ("23", _) => match (fields.constraint, fields.column) {
            (Some(constraint), _) => {
                format!("a row violates the constraint \"{constraint}\"{table}")
            }
            (None, Some(column)) => format!("a row has no value for column \"{column}\"{table}"),
            (None, None) => format!("a row violates a constraint{table}"),
        },
        (_, sqlstate) => match fields.detail {
            Some(detail) if is_ours(sqlstate) => format!("{}: {detail}", fields.message),
            _ => fields.message.to_owned(),
        },
    }
}

fn is_ours(sqlstate: &str) -> bool {
    use trem_wire::sqlstate::{DEFINITION_NOT_CURRENT, KEY_NOT_IN_WAL, TABLE_CHANGED};
    [DEFINITION_NOT_CURRENT, TABLE_CHANGED, KEY_NOT_IN_WAL].contains(&sqlstate)
}

/// The first two characters.
fn class(sqlstate: &str) -> &str {
    sqlstate.get(..2).unwrap_or_default()
}

fn kind_of_sqlstate(sqlstate: &str) -> Kind {
    match sqlstate {
        trem_wire::sqlstate::DEFINITION_NOT_CURRENT => Kind::DefinitionNotCurrent,
        trem_wire::sqlstate::TABLE_CHANGED | trem_wire::sqlstate::KEY_NOT_IN_WAL => {
            Kind::TableChanged
        }
        // Shut down, crashed, idle timeout, database dropped.
        "57P01" | "57P02" | "57P04" | "57P05" => Kind::ConnectionLost,
        "57P03" => Kind::Unreachable,
        "3D000" => Kind::Authentication,
        "42501" => Kind::Privilege,
        // Object in use, lock not available.
        "55006" | "55P03" => Kind::Conflict,
        "55000" => Kind::Mismatch,
        // Undefined object: nearly always the slot.
        "42704" => Kind::Mismatch,
        // A setting or an option that the server does not take.
        "22023" => Kind::Server,
        raised if is_raised(raised) => Kind::Refused,
        // Disk full is class 53; an I/O error of the server's storage is this.
        "58030" => Kind::Resources,
        "08P01" => Kind::Protocol,
        _ => match class(sqlstate) {
            "08" => Kind::ConnectionLost,
            "28" => Kind::Authentication,
            "40" => Kind::Conflict,
            "53" => Kind::Resources,
            "22" | "23" | "54" => Kind::Refused,
            _ => Kind::Server,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(sqlstate: &'static str, constraint: Option<&'static str>) -> Error {
        Error::from(ServerError {
            sqlstate,
            message: "message with value 42",
            detail: Some("Key (id)=(42) is there."),
            hint: None,
            table: Some("t"),
            column: None,
            constraint,
        })
    }

    #[test]
    fn no_value_of_a_row_is_shown() {
        for (sqlstate, constraint) in [
            ("22P02", None),
            ("23505", Some("t_pkey")),
            ("23514", None),
            ("P0001", None),
            ("45000", None),
            ("54000", None),
        ] {
            let error = server(sqlstate, constraint);
            assert_eq!(error.kind(), Kind::Refused);
            assert!(!error.to_string().contains("42)"), "{error}");
            assert!(!error.to_string().contains("value 42"), "{error}");
        }
        let error = server("23505", Some("t_pkey"));
        let expected = "a row violates the constraint \"t_pkey\" of table \"t\" (SQLSTATE 23505)";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn the_outermost_context_comes_first() {
        let error = Error::new(Kind::Server, "failed").context("table t").context("task a");
        assert_eq!(error.to_string(), "task a: table t: failed");
    }

    #[test]
    fn a_sqlstate_decides_what_is_done() {
        for (sqlstate, policy) in [
            ("57P01", Policy::Retry),
            ("40P01", Policy::Retry),
            ("53300", Policy::Retry),
            ("28P01", Policy::Stop),
            ("42P17", Policy::Restart),
            ("42P16", Policy::Stop),
            ("XX000", Policy::RetryFewTimes),
            ("", Policy::RetryFewTimes),
        ] {
            assert_eq!(server(sqlstate, None).policy(), policy, "{sqlstate}");
        }
    }
}
