//! What can be wrong with a stream, each with its SQLSTATE, detail and hint, and the one place
//! where such an error becomes PostgreSQL's. Texts never hold a value of a row.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::spi::quote_literal;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::options;
use crate::wal_message::Change;

/// An error that ends the stream. `table` is `schema.table`, quoted where SQL needs it.
#[derive(Debug)]
pub(crate) enum StreamError {
    /// An option that the plugin does not know.
    OptionUnknown {
        name: String,
    },
    OptionMissing {
        name: &'static str,
    },
    OptionInvalid {
        name: &'static str,
        value: String,
        expected: String,
    },
    /// The database's text is not UTF-8.
    Encoding {
        name: String,
    },
    /// The extension's schema objects are not in this database.
    ExtensionMissing,
    DefinitionUnreadable {
        task: String,
        reason: String,
    },
    DefinitionNotCurrent {
        task: String,
        asked: i64,
        current: i64,
    },
    TableChanged {
        task: String,
        table: String,
        change: String,
        /// The change is from before the definition was published.
        older: bool,
    },
    /// A rule's expression does not compile any more.
    RuleBroken {
        task: String,
        table: String,
        rule_id: i64,
        reason: String,
    },
    /// A partition came after the publish.
    PartitionAdded {
        task: String,
        table: String,
        leaf: String,
    },
    PartitionDetached {
        task: String,
        table: String,
        leaf: String,
    },
    /// A command changed the table in a way that no row in the WAL shows.
    ChangedUnseen {
        task: String,
        table: String,
        /// The partition that it is about; one that came has no name here.
        leaf: Option<String>,
        change: Change,
    },
    KeyNotInWal {
        task: String,
        table: String,
        reason: &'static str,
        /// As for [`StreamError::TableChanged`].
        older: bool,
    },
    /// A leaf of a partitioned table was truncated alone.
    LeafTruncated {
        task: String,
        table: String,
        leaf: String,
    },
    /// A value that must be in the WAL is not: never seen, and never guessed.
    ValueNotInWal {
        task: String,
        table: String,
        column: String,
    },
    Internal {
        what: &'static str,
        reason: String,
    },
}

impl StreamError {
    /// Ends the callback with a PostgreSQL error.
    pub(crate) fn raise(self) -> ! {
        ErrorReport::from(self).report(PgLogLevel::ERROR);
        unreachable!("an error report does not return")
    }

    fn code(&self) -> PgSqlErrorCode {
        match self {
            StreamError::OptionUnknown { .. }
            | StreamError::OptionMissing { .. }
            | StreamError::OptionInvalid { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            StreamError::ExtensionMissing => PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
            StreamError::Encoding { .. } => PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            // sqlstate::DEFINITION_NOT_CURRENT
            StreamError::DefinitionNotCurrent { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_OBJECT_DEFINITION
            }
            // sqlstate::TABLE_CHANGED
            StreamError::TableChanged { .. }
            | StreamError::RuleBroken { .. }
            | StreamError::PartitionAdded { .. }
            | StreamError::PartitionDetached { .. }
            | StreamError::ChangedUnseen { .. }
            | StreamError::LeafTruncated { .. } => PgSqlErrorCode::ERRCODE_INVALID_TABLE_DEFINITION,
            // sqlstate::KEY_NOT_IN_WAL
            StreamError::KeyNotInWal { .. } => PgSqlErrorCode::ERRCODE_INVALID_COLUMN_REFERENCE,
            StreamError::DefinitionUnreadable { .. }
            | StreamError::ValueNotInWal { .. }
            | StreamError::Internal { .. } => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        }
    }

    fn message(&self) -> String {
        match self {
            StreamError::OptionUnknown { name } => {
                format!("unknown option \"{name}\" of output plugin \"trem\"")
            }
            StreamError::OptionMissing { name } => {
                format!("output plugin \"trem\" needs the option \"{name}\"")
            }
            StreamError::OptionInvalid { name, value, .. } => {
                format!("invalid value \"{value}\" for option \"{name}\" of output plugin \"trem\"")
            }
            StreamError::Encoding { name } => {
                format!("the database is encoded in {name}, and TREM reads UTF8 only")
            }
            StreamError::ExtensionMissing => {
                "extension \"trem\" is not installed in this database".to_owned()
            }
            StreamError::DefinitionUnreadable { task, .. } => {
                format!("the published definition of task \"{task}\" cannot be read")
            }
            StreamError::DefinitionNotCurrent { task, asked, .. } => {
                format!("version {asked} of task \"{task}\" is not its current definition")
            }
            StreamError::TableChanged { task, table, .. }
            | StreamError::PartitionAdded { task, table, .. }
            | StreamError::PartitionDetached { task, table, .. } => {
                format!("table {table} differs from the published definition of task \"{task}\"")
            }
            StreamError::ChangedUnseen { task, table, .. } => {
                format!("table {table} of task \"{task}\" changed in a way that no row shows")
            }
            StreamError::RuleBroken { task, table, rule_id, .. } => {
                format!("rule {rule_id} of task \"{task}\" does not fit table {table} any more")
            }
            StreamError::KeyNotInWal { task, table, .. } => {
                format!("a change of table {table} of task \"{task}\" carries no key")
            }
            StreamError::LeafTruncated { task, table, leaf } => {
                format!("partition {leaf} of table {table} of task \"{task}\" was truncated alone")
            }
            StreamError::ValueNotInWal { task, table, column } => {
                format!("column \"{column}\" of table {table} of task \"{task}\" is not in the WAL")
            }
            StreamError::Internal { what, .. } => (*what).to_owned(),
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            StreamError::OptionInvalid { expected, .. } => Some(format!("Expected {expected}.")),
            StreamError::DefinitionUnreadable { reason, .. }
            | StreamError::RuleBroken { reason, .. }
            | StreamError::Internal { reason, .. } => Some(reason.clone()),
            StreamError::DefinitionNotCurrent { current, .. } => {
                Some(format!("The current version is {current}."))
            }
            StreamError::TableChanged { change, .. } => Some(change.clone()),
            StreamError::PartitionAdded { leaf, .. } => {
                Some(format!("Its partition {leaf} came after the publish."))
            }
            StreamError::PartitionDetached { leaf, .. } => {
                Some(format!("Its partition {leaf} was detached."))
            }
            StreamError::ChangedUnseen { leaf, change, .. } => {
                Some(unseen_detail(*change, leaf.as_deref()))
            }
            StreamError::KeyNotInWal { reason, .. } => Some((*reason).to_owned()),
            StreamError::LeafTruncated { .. } => Some(
                "The stream describes the whole table, of which these rows are one part."
                    .to_owned(),
            ),
            StreamError::OptionUnknown { .. }
            | StreamError::OptionMissing { .. }
            | StreamError::ExtensionMissing
            | StreamError::Encoding { .. }
            | StreamError::ValueNotInWal { .. } => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            StreamError::OptionUnknown { .. } | StreamError::OptionMissing { .. } => {
                Some(format!("The options are {}.", options::NAMES.join(", ")))
            }
            StreamError::ExtensionMissing => Some("Run CREATE EXTENSION trem.".to_owned()),
            StreamError::Encoding { .. } => Some(
                "Move the data into a database in UTF8: CREATE DATABASE <name> ENCODING 'UTF8' \
                 TEMPLATE template0; then pg_dump and restore, which convert it."
                    .to_owned(),
            ),
            StreamError::DefinitionNotCurrent { .. } => Some(
                "Read the definition again and restart the stream with its version.".to_owned(),
            ),
            StreamError::TableChanged { older: true, task, table, .. }
            | StreamError::KeyNotInWal { older: true, task, table, .. } => {
                let (reload, start) = (reload_table(task, table), start_task(task));
                Some(format!("Only a new copy of the table helps: {reload} and {start}."))
            }
            StreamError::TableChanged { task, table, .. } => Some(format!(
                "Make the same change to the target's table, then publish again with {}; or copy \
                 the table again with {} and {}.",
                start_task_keep(task),
                reload_table(task, table),
                start_task(task)
            )),
            StreamError::RuleBroken { task, table, .. } => Some(format!(
                "Give the task rules that fit, see trem.transformation, and the target's table the \
                 same columns; then copy the table again with {} and {}.",
                reload_table(task, table),
                start_task(task)
            )),
            StreamError::KeyNotInWal { task, table, .. } => Some(format!(
                "Give the table a primary key or set ALTER TABLE {table} REPLICA IDENTITY FULL, \
                 then copy it again with {} and {}.",
                reload_table(task, table),
                start_task(task)
            )),
            StreamError::PartitionAdded { task, table, .. } => Some(format!(
                "Publish again with {}; if the partition had rows when it was attached, copy the \
                 table again with {}.",
                start_task(task),
                reload_table(task, table)
            )),
            StreamError::ChangedUnseen { task, table, leaf, change } => {
                Some(unseen_hint(*change, task, table, leaf.as_deref()))
            }
            StreamError::PartitionDetached { task, table, .. } => Some(format!(
                "Copy the table again with {} and {}.",
                reload_table(task, table),
                start_task(task)
            )),
            StreamError::LeafTruncated { task, table, .. }
            | StreamError::ValueNotInWal { task, table, .. } => {
                let (reload, start) = (reload_table(task, table), start_task(task));
                Some(format!("Copy the table again with {reload} and {start}."))
            }
            StreamError::OptionInvalid { .. }
            | StreamError::DefinitionUnreadable { .. }
            | StreamError::Internal { .. } => None,
        }
    }
}

impl From<StreamError> for ErrorReport {
    fn from(error: StreamError) -> Self {
        let mut report = ErrorReport::new(error.code(), error.message(), "trem output plugin");
        if let Some(detail) = error.detail() {
            report = report.set_detail(detail);
        }
        if let Some(hint) = error.hint() {
            report = report.set_hint(hint);
        }
        report
    }
}

fn unseen_detail(change: Change, leaf: Option<&str>) -> String {
    let it = leaf.map_or_else(|| "It".to_owned(), |leaf| format!("Its partition {leaf}"));
    match change {
        Change::Attached => match leaf {
            Some(_) => format!("{it} was attached again: what it was given meanwhile is missing."),
            None => "A partition with rows was attached: they are not in the stream.".to_owned(),
        },
        Change::Detached => format!("{it} was detached: its rows are still on the target."),
        Change::Dropped => format!("{it} was dropped: its rows are still on the target."),
        Change::Rewritten => format!("{it} was rewritten: its rows may have other values."),
        Change::Unlogged => {
            format!("{it} was set unlogged or logged: what is unlogged is not in the stream.")
        }
        Change::TypeAltered => {
            format!(
                "A type of {}columns was altered.",
                if leaf.is_some() { "a partition's " } else { "its " }
            )
        }
        Change::Renamed => format!("{it} has another name."),
        Change::Moved => format!("{it} is in another schema, or its schema has another name."),
    }
}

fn unseen_hint(change: Change, task: &str, table: &str, leaf: Option<&str>) -> String {
    let keep = format!("SELECT trem.start_task({}, keep => true)", quote_literal(task));
    let (reload, start) = (reload_table(task, table), start_task(task));
    match change {
        Change::Dropped if leaf.is_none() => format!("To leave its rows there, go on with {keep}."),
        Change::Renamed | Change::Moved => format!(
            "Rename the target's table as well and go on with {keep}; or publish with {start}, \
             which names the tables to copy again."
        ),
        Change::Unlogged => format!(
            "Have it logged with ALTER TABLE {} SET LOGGED; then copy the table again with \
             {reload} and {start}; or, when the target's rows were adapted by hand, go on with \
             {keep}.",
            leaf.unwrap_or(table)
        ),
        _ => format!(
            "Copy the table again with {reload} and {start}; or, when the target's rows were \
             adapted by hand, go on with {keep}."
        ),
    }
}

fn start_task(task: &str) -> String {
    format!("SELECT trem.start_task({})", quote_literal(task))
}

fn start_task_keep(task: &str) -> String {
    format!("SELECT trem.start_task({}, keep => true)", quote_literal(task))
}

fn reload_table(task: &str, table: &str) -> String {
    format!("SELECT trem.reload_table({}, {})", quote_literal(task), quote_literal(table))
}
