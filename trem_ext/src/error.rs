//! Every error that the SQL functions raise, with its SQLSTATE, detail and hint, and the one place
//! where an error becomes a report to the client. Errors of PostgreSQL itself (SPI) pass through.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::PgSqlErrorCode;

use crate::catalog::name;
use crate::catalog::problem::Problem;
use crate::catalog::unseen::{Reason, Unseen};
use crate::pg::expression::Fault;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{what} {name} does not exist")]
    /// The name as the message shows it, quoted.
    Missing { what: &'static str, name: String, hint: String },
    #[error("{what} \"{name}\" already exists")]
    Exists { what: &'static str, name: String },
    /// The caller is not the one who may.
    #[error("{message}")]
    Forbidden { message: String, hint: String },
    #[error("{message}")]
    Invalid { message: String, hint: String },
    /// Everything wrong with one rule.
    #[error("{what} is refused: {}", reasons(faults))]
    Faulty { what: String, faults: Vec<Fault> },
    #[error("table {table} {reason}")]
    NotReplicable { table: String, reason: String, hint: String },
    #[error("{message}")]
    State { message: String, hint: String },
    #[error("task \"{task}\" cannot be started: {} found", count(problems.len()))]
    Refused { task: String, problems: Vec<Problem> },
    #[error("{} of task \"{task}\" changed", what_changed(tables))]
    Unseen { task: String, tables: Vec<Unseen> },
    #[error("access to the catalog failed: {0}")]
    Catalog(String),
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Invalid { message: message.into(), hint: hint.into() }
    }

    fn code(&self) -> PgSqlErrorCode {
        match self {
            Error::Missing { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            Error::Forbidden { .. } => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Error::Exists { .. } => PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            Error::Invalid { .. } | Error::Faulty { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Error::NotReplicable { .. } => PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            Error::State { .. } | Error::Refused { .. } | Error::Unseen { .. } => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Error::Catalog(_) => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::Refused { problems, .. } => {
                Some(problems.iter().map(Problem::line_with_remedy).collect::<Vec<_>>().join("\n"))
            }
            Error::Unseen { tables, .. } => Some(unseen_lines(tables).join("\n")),
            Error::Faulty { faults, .. } if faults.len() > 1 => {
                let lines = faults.iter().map(|fault| match &fault.hint {
                    Some(hint) => format!("{}\n    {hint}", fault.message),
                    None => fault.message.clone(),
                });
                Some(lines.collect::<Vec<_>>().join("\n"))
            }
            _ => None,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Missing { hint, .. }
            | Error::Forbidden { hint, .. }
            | Error::Invalid { hint, .. }
            | Error::NotReplicable { hint, .. }
            | Error::State { hint, .. } => hint.clone(),
            Error::Refused { task, .. } => {
                format!("SELECT * FROM trem.check_task('{task}'); shows all that was found.")
            }
            Error::Unseen { task, tables } => unseen_hint(task, tables),
            Error::Faulty { faults, .. } => match faults.as_slice() {
                [fault] => fault.hint.clone().unwrap_or_default(),
                _ => String::new(),
            },
            Error::Exists { .. } | Error::Catalog(_) => String::new(),
        };
        (!hint.is_empty()).then_some(hint)
    }
}

/// The value of an argument, for which null would mean nothing. A function that did nothing at a
/// null would leave a column bare whose mask somebody believes to have set.
pub(crate) fn given<T>(argument: &str, value: Option<T>) -> Result<T, Error> {
    value.ok_or_else(|| Error::invalid(format!("{argument} is null"), ""))
}

fn of_rules(tables: &[Unseen]) -> Vec<&str> {
    let of_rules = tables.iter().filter(|table| table.reason == Reason::Rules);
    of_rules.map(|table| table.table.as_str()).collect()
}

fn what_changed(tables: &[Unseen]) -> &'static str {
    match of_rules(tables).len() == tables.len() {
        true => "rules of loaded tables",
        false => "loaded tables",
    }
}

fn unseen_lines(tables: &[Unseen]) -> Vec<String> {
    let of_rules = of_rules(tables);
    let mut lines = Vec::new();
    if !of_rules.is_empty() {
        lines.push(format!(
            "The target holds rows of {} as the published rules made them.",
            of_rules.join(", ")
        ));
    }
    lines.extend(
        tables.iter().filter_map(|table| Some(format!("{}: {}.", table.table, table.message()?))),
    );
    lines
}

fn unseen_hint(task: &str, tables: &[Unseen]) -> String {
    let keep = format!("SELECT trem.start_task('{task}', keep => true);");
    let there = tables.iter().filter(|table| !matches!(table.reason, Reason::Gone(_)));
    let reloads: Vec<String> = there
        .map(|table| {
            format!("SELECT trem.reload_table('{task}', {});", name::literal(&table.table))
        })
        .collect();
    if reloads.is_empty() {
        return format!("To leave those rows where they are: {keep}");
    }
    if reloads.len() == tables.len() {
        return format!(
            "Have them loaded again: {} SELECT trem.start_task('{task}'); Or, when the target was \
             adapted by hand: {keep}",
            reloads.join(" ")
        );
    }
    format!(
        "Have those loaded again that are there: {} Then, or when the target was adapted by hand: \
         {keep}",
        reloads.join(" ")
    )
}

/// One reason stands in the message; more are in the detail.
fn reasons(faults: &[Fault]) -> String {
    match faults {
        [fault] => fault.message.clone(),
        more => format!("{} faults", more.len()),
    }
}

fn count(problems: usize) -> String {
    match problems {
        1 => "1 problem".to_owned(),
        more => format!("{more} problems"),
    }
}

impl From<Error> for ErrorReport {
    #[track_caller]
    fn from(error: Error) -> Self {
        let mut report = ErrorReport::new(error.code(), error.to_string(), "trem");
        if let Some(detail) = error.detail() {
            report = report.set_detail(detail);
        }
        if let Some(hint) = error.hint() {
            report = report.set_hint(hint);
        }
        report
    }
}

impl From<pgrx::spi::Error> for Error {
    fn from(error: pgrx::spi::Error) -> Self {
        Error::Catalog(error.to_string())
    }
}
