//! How the plugin gets the published definition: through `trem.applier_definition`, which checks
//! the session user's right to the task, so that nobody can stream a task that is not theirs. Its
//! expressions are compiled on that occasion, under the same catalog.

use std::sync::{Arc, Mutex, PoisonError};

use pgrx::datum::DatumWithOid;
use pgrx::{pg_sys, spi, Spi};
use trem_wire::definition::Definition;

use super::error::StreamError;
use super::options::Options;
use super::rules::Rules;
use crate::pg::PinnedSettings;
use crate::wal_message::Key;

/// What a stream is pinned to for its life.
pub(crate) struct Pinned {
    pub(crate) definition: Definition,
    pub(crate) rules: Rules,
    pub(crate) settings: PinnedSettings,
    /// Opens TREM's own messages in the WAL; without it there is none.
    pub(crate) message_key: Option<Key>,
}

/// Reads the definition, pins the settings and compiles the rules. In a walsender there is no
/// transaction yet, so this runs in one of its own; through the SQL interface it runs in the
/// caller's. The rules live in `memory`; `scratch` is the memory of single rows.
pub(crate) fn read(
    options: &Options,
    memory: pg_sys::MemoryContext,
    scratch: pg_sys::MemoryContext,
) -> Result<Pinned, StreamError> {
    // SAFETY: reads the backend's transaction state.
    if unsafe { pg_sys::IsTransactionState() } {
        let definition = current(options)?;
        let settings = PinnedSettings::for_call();
        let rules = Rules::compile(&definition, memory, scratch)?;
        return Ok(Pinned { definition, rules, settings, message_key: Key::load() });
    }
    // SAFETY: outside a transaction one may be started; memory context and resource owner are put
    // back as they were. An error in between aborts it with the walsender's command.
    unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let settings = PinnedSettings::for_session();
        let definition = current(options)?;
        let rules = Rules::compile(&definition, memory, scratch)?;
        let message_key = Key::load();
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner) = before;
        // What was cached here, or by statements of this session before, is the catalog of today,
        // and decoding would take it for that of the first change: rows of history read as what
        // they are not crash the server. The SQL interface does the same for itself.
        pg_sys::InvalidateSystemCaches();
        Ok(Pinned { definition, rules, settings, message_key })
    }
}

/// The definition, if it is the one that the stream was asked for.
fn current(options: &Options) -> Result<Definition, StreamError> {
    let definition = published(&options.task)?;
    if definition.definition_version != options.definition_version {
        return Err(StreamError::DefinitionNotCurrent {
            task: options.task.clone(),
            asked: options.definition_version,
            current: definition.definition_version,
        });
    }
    Ok(definition)
}

/// The current definition of a task, if the session's user may serve it.
pub(crate) fn published(task: &str) -> Result<Definition, StreamError> {
    let json = query(task)?;
    serde_json::from_slice(&json).map_err(|error| unreadable(task, error.to_string()))
}

/// The same for a session that reads one table after the other, and was told of this version. It
/// asks each time, and by what is current now, whatever its snapshot shows: rows must not be read
/// by rules that were replaced. The document, which may be large, is read again when it changed.
pub(crate) fn published_again(task: &str, wanted: i64) -> Result<Arc<Definition>, StreamError> {
    type Known = (String, Arc<Definition>);
    static LAST: Mutex<Option<Known>> = Mutex::new(None);
    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
    with_latest_snapshot(|| {
        let version = version(task)?;
        let known = last().clone().filter(|(of, _)| *of == version);
        let definition = match known {
            Some((_, definition)) => definition,
            None => Arc::new(published(task)?),
        };
        *last() = Some((version, Arc::clone(&definition)));
        if definition.definition_version != wanted {
            return Err(StreamError::DefinitionNotCurrent {
                task: task.to_owned(),
                asked: wanted,
                current: definition.definition_version,
            });
        }
        Ok(definition)
    })
}

/// Which definition of which task is current.
fn version(task: &str) -> Result<String, StreamError> {
    const VERSION: &str = "SELECT trem.applier_version($1)";
    let found = Spi::connect(|client| {
        let arguments = [DatumWithOid::from(task)];
        client.select(VERSION, Some(1), &arguments)?.first().get_one::<String>()
    });
    let found = found.map_err(|error: spi::Error| unreadable(task, error.to_string()))?;
    found.ok_or_else(|| unreadable(task, "It has no version.".to_owned()))
}

/// Runs statements by the catalog and tables as they are now.
fn with_latest_snapshot<T>(
    work: impl FnOnce() -> Result<T, StreamError>,
) -> Result<T, StreamError> {
    // SAFETY: in a transaction. An error in between is cleaned up by its abort.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}

fn query(task: &str) -> Result<Vec<u8>, StreamError> {
    const FUNCTION: &str =
        "SELECT pg_catalog.to_regprocedure('trem.applier_definition(pg_catalog.text)') IS NOT NULL";
    const DEFINITION: &str =
        "SELECT pg_catalog.convert_to(trem.applier_definition($1)::pg_catalog.text, 'UTF8')";
    let found = Spi::connect(|client| {
        if client.select(FUNCTION, Some(1), &[])?.first().get_one::<bool>()? != Some(true) {
            return Ok(None);
        }
        let arguments = [DatumWithOid::from(task)];
        client.select(DEFINITION, Some(1), &arguments)?.first().get_one::<Vec<u8>>().map(Some)
    });
    match found {
        Ok(None) => Err(StreamError::ExtensionMissing),
        Ok(Some(Some(json))) => Ok(json),
        Ok(Some(None)) => Err(unreadable(task, "It has no published definition.".to_owned())),
        Err(error) => Err(unreadable(task, error.to_string())),
    }
}

fn unreadable(task: &str, reason: String) -> StreamError {
    StreamError::DefinitionUnreadable { task: task.to_owned(), reason }
}
