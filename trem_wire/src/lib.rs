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

/// The newest version of the stream that this crate reads and writes.
pub const PROTO_VERSION: u32 = 1;

/// The oldest one: extension and applier of neighbouring releases speak the newest that both know.
pub const PROTO_VERSION_MIN: u32 = 1;

/// The version that we and the other side speak, which knows these; `None`: there is none.
#[must_use]
pub fn shared_proto_version(oldest: u32, newest: u32) -> Option<u32> {
    let common = PROTO_VERSION.min(newest);
    (common >= PROTO_VERSION_MIN.max(oldest)).then_some(common)
}

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

#[cfg(test)]
mod tests {
    use super::{shared_proto_version, PROTO_VERSION, PROTO_VERSION_MIN};

    #[test]
    fn neighbours_speak_the_newest_version_that_both_know() {
        assert_eq!(shared_proto_version(PROTO_VERSION_MIN, PROTO_VERSION), Some(PROTO_VERSION));
        assert_eq!(shared_proto_version(PROTO_VERSION, PROTO_VERSION + 1), Some(PROTO_VERSION));
        assert_eq!(shared_proto_version(PROTO_VERSION + 1, PROTO_VERSION + 2), None);
        assert_eq!(shared_proto_version(0, PROTO_VERSION_MIN - 1), None);
    }
}
