//! What TREM writes into the WAL for its own streams, as logical decoding messages, and how a
//! stream knows that TREM wrote it.
//!
//! Anybody may write such a message, of any size, with our prefix. So each of ours begins with a
//! code: a keyed hash of its text and of the transaction's 64-bit id, under a secret of the
//! database that only the extension's owner can read (`trem.message_key`). A stream loads that key
//! when it starts and passes over everything else before it copies a byte of it. A message that
//! somebody saw is of no use in another transaction.
//!
//! # What they say
//! `published:<task id>:<version>`: a task was published. A stream is pinned to one definition, and
//! the applier hears of a newer one by NOTIFY: the next commit may be decoded sooner. What was
//! committed after the publish must not go by the old rules, a new mask's values least of all. So a
//! stream of an earlier version ends at the message.
//!
//! `changed:<what>:<relation>:<root>`: a command changed a table in a way that no row in the WAL
//! shows (see `catalog::ddl`). A stream whose definition has the table stops there.
//!
//! `schema_renamed:<old name>`: so did one that renamed a schema.
//!
//! `barrier:<task>:<token>`: the applier waits for this place in the stream.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use trem_wire::definition::Definition;
use trem_wire::{Lsn, MESSAGE_PREFIX};

use crate::error::Error;
use crate::pg;

const CODE_BYTES: usize = 32;

/// Long enough for two names; what is longer is none of ours.
const TEXT_BYTES_MAX: usize = 256;

/// The secret of the database, taken in.
pub(crate) struct Key(Hmac<Sha256>);

impl Key {
    /// `None`: the extension is being made, or somebody emptied its table.
    pub(crate) fn load() -> Option<Key> {
        let key = pg::message_key()?;
        Some(Key(Hmac::new_from_slice(&key).expect("a key may have any length")))
    }

    fn taken_in(&self, text: &[u8], xid: u64) -> Hmac<Sha256> {
        let mut code = self.0.clone();
        code.update(&xid.to_be_bytes());
        code.update(text);
        code
    }

    fn seal(&self, text: &str, xid: u64) -> Vec<u8> {
        let mut content = self.taken_in(text.as_bytes(), xid).finalize().into_bytes().to_vec();
        content.extend_from_slice(text.as_bytes());
        content
    }

    /// The text of a message that TREM wrote in this transaction; `None` for any other.
    pub(crate) fn open<'a>(&self, content: &'a [u8], xid: u64) -> Option<&'a str> {
        if content.len() > CODE_BYTES + TEXT_BYTES_MAX {
            return None;
        }
        let (code, text) = content.split_at_checked(CODE_BYTES)?;
        self.taken_in(text, xid).verify_slice(code).ok()?;
        std::str::from_utf8(text).ok()
    }
}

/// Writes a message in the current transaction and gives its position; `None` without a key.
pub(crate) fn write(text: &str) -> Option<Lsn> {
    debug_assert!(text.len() <= TEXT_BYTES_MAX, "a message that no stream would read");
    let content = Key::load()?.seal(text, pg::top_full_xid());
    Some(Lsn(pg::log_message(MESSAGE_PREFIX, &content)))
}

/// Why there is nothing to sign with.
pub(crate) fn no_key() -> Error {
    Error::State {
        message: "the table trem.message_key is empty".to_owned(),
        hint: "INSERT INTO trem.message_key VALUES (sha256(gen_random_uuid()::text::bytea)); then \
               restart the applier."
            .to_owned(),
    }
}

/// What a command did to a table that no row in the WAL shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// A partition with rows came.
    Attached,
    /// A partition went, and is a table of its own.
    Detached,
    /// The table or partition is gone.
    Dropped,
    /// Its rows got other values, all at once.
    Rewritten,
    /// It became unlogged, or logged again.
    Unlogged,
    /// A type that its columns have was altered.
    TypeAltered,
    Renamed,
    /// It went to another schema, or its schema has another name.
    Moved,
}

impl Change {
    const ALL: [Change; 8] = [
        Change::Attached,
        Change::Detached,
        Change::Dropped,
        Change::Rewritten,
        Change::Unlogged,
        Change::TypeAltered,
        Change::Renamed,
        Change::Moved,
    ];

    /// As messages and `trem.table_change` have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Change::Attached => "attached",
            Change::Detached => "detached",
            Change::Dropped => "dropped",
            Change::Rewritten => "rewritten",
            Change::Unlogged => "unlogged",
            Change::TypeAltered => "type_altered",
            Change::Renamed => "renamed",
            Change::Moved => "moved",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Change> {
        Change::ALL.into_iter().find(|change| change.as_str() == text)
    }
}

/// What a message says to the stream of a definition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Message<'a> {
    /// Its task was published again, with this version.
    Published(i64),
    Changed {
        change: Change,
        relation: u32,
        /// The partitioned table at the top, or the relation itself.
        root: u32,
    },
    /// A schema that had this name has another one.
    SchemaRenamed(&'a str),
    /// Something that its applier is waiting for: the token.
    Barrier(&'a str),
}

pub(crate) fn published(task_id: &str, version: i64) -> String {
    format!("published:{task_id}:{version}")
}

pub(crate) fn changed(change: Change, relation: u32, root: u32) -> String {
    format!("changed:{}:{relation}:{root}", change.as_str())
}

pub(crate) fn schema_renamed(old_name: &str) -> String {
    format!("schema_renamed:{old_name}")
}

pub(crate) fn barrier(task: &str, token: &str) -> String {
    format!("barrier:{task}:{token}")
}

/// Takes a text apart; `None` if it is nothing to this definition's stream.
pub(crate) fn read<'a>(text: &'a str, definition: &Definition) -> Option<Message<'a>> {
    let (head, rest) = text.split_once(':')?;
    match head {
        "published" => {
            let (task_id, version) = rest.split_once(':')?;
            let version = version.parse().ok()?;
            let newer = task_id == definition.task_id && version > definition.definition_version;
            newer.then_some(Message::Published(version))
        }
        "changed" => {
            let mut parts = rest.split(':');
            let change = Change::parse(parts.next()?)?;
            let relation = parts.next()?.parse().ok()?;
            Some(Message::Changed { change, relation, root: parts.next()?.parse().ok()? })
        }
        "schema_renamed" => Some(Message::SchemaRenamed(rest)),
        "barrier" => {
            let (task, token) = rest.split_once(':')?;
            (task == definition.task).then_some(Message::Barrier(token))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &[u8]) -> Key {
        Key(Hmac::new_from_slice(secret).expect("any length"))
    }

    #[test]
    fn only_what_was_sealed_in_this_transaction_opens() {
        let ours = key(b"secret");
        let sealed = ours.seal("barrier:t:1", 7);
        assert_eq!(ours.open(&sealed, 7), Some("barrier:t:1"));
        assert_eq!(ours.open(&sealed, 8), None, "another transaction");
        assert_eq!(key(b"another").open(&sealed, 7), None);
        assert_eq!(ours.open(b"barrier:t:1", 7), None);
        assert_eq!(ours.open(b"", 7), None);
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        assert_eq!(ours.open(&ours.seal(&long, 7), 7), None, "too long");
    }

    #[test]
    fn every_change_is_read_as_it_is_written() {
        for change in Change::ALL {
            assert_eq!(Change::parse(change.as_str()), Some(change));
        }
        assert_eq!(Change::parse("vacuumed"), None);
    }
}
