//! The message that a publish leaves in the WAL.
//!
//! A stream is pinned to one definition, and the applier hears of a newer one by NOTIFY: the next
//! commit may be decoded sooner. What was committed after the publish must not go by the old rules,
//! a new mask's values least of all. So the publish writes a logical decoding message in its own
//! transaction. Whoever decodes it under an earlier version ends the stream there, before
//! everything that was committed later, and the applier comes back with the new version.

use trem_wire::definition::Definition;
use trem_wire::MESSAGE_PREFIX;

use crate::catalog::spi;
use crate::error::Error;

const HEAD: &str = "published:";

/// Writes the message, in the transaction that publishes.
pub(crate) fn emit(task_id: &str, version: i64) -> Result<(), Error> {
    let content = content(task_id, version);
    spi::run(
        "SELECT pg_logical_emit_message(true, $1, $2)",
        &[MESSAGE_PREFIX.into(), content.into()],
    )
    .map(|_| ())
}

fn content(task_id: &str, version: i64) -> String {
    format!("{HEAD}{task_id}:{version}")
}

/// What a message with our prefix says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    /// The task of this definition was published again, with this version.
    Newer(i64),
    /// Of a publish that is not newer, or of another task.
    Other,
    /// Something that the applier is waiting for.
    Passed,
}

pub(crate) fn read(message: &[u8], definition: &Definition) -> Message {
    let text = std::str::from_utf8(message).unwrap_or_default();
    let Some((task_id, version)) = text.strip_prefix(HEAD).and_then(|rest| rest.split_once(':'))
    else {
        return Message::Passed;
    };
    match version.parse() {
        Ok(version) if task_id == definition.task_id && version > definition.definition_version => {
            Message::Newer(version)
        }
        _ => Message::Other,
    }
}
