//! What crosses between the extension and the applier, and nothing else: positions, messages, their
//! codec, small form and compression, the published definition, the settings that both pin, the
//! SQLSTATEs with a meaning of their own.
//!
//! Never does I/O, never reads a clock, knows neither pgrx nor tokio. Both halves are built from
//! this one crate, so a change of the protocol cannot be made on one side alone.
#![forbid(unsafe_code)]

pub mod codec;
pub mod compress;
pub mod definition;
mod lsn;
pub mod message;
mod primitive;
pub mod row;
pub mod settings;
pub mod shrink;
pub mod sqlstate;

pub use lsn::{Lsn, ParseLsnError};

/// The version of the stream that this crate reads and writes. The plugin refuses any other.
pub const PROTO_VERSION: u32 = 1;

/// The name of the output plugin, of the schema of its functions and of its message prefix.
pub const PLUGIN: &str = "trem";

/// The prefix of the logical decoding messages that belong to TREM (barriers, later DDL).
pub const MESSAGE_PREFIX: &str = "trem";

/// The NOTIFY channel on the source; the payload is the name of the task that changed.
pub const NOTIFY_CHANNEL: &str = "trem";

/// The name of a task's replication slot.
#[must_use]
pub fn slot_name(task: &str) -> String {
    format!("trem_{task}")
}
