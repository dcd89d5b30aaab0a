//! How the plugin gets the published definition: through `trem.applier_definition`, which checks
//! the session user's right to the task, so that nobody can stream a task that is not theirs. Its
//! expressions are compiled on that occasion, under the same catalog.

use pgrx::datum::DatumWithOid;
use pgrx::{pg_sys, Spi};
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
