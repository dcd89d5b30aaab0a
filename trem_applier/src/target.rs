//! The target database: what the applier keeps there, its tables, and the session that applies.
//!
//! Knows nothing of the source: positions, definitions and changes come in as values. Another kind
//! of target would stand beside this module behind the same face: `progress` (what is kept),
//! `schema` (tables: check, create, finish), `session` (carry out the actions of `apply`).

mod careful;
mod changes;
pub mod exception;
mod gather;
mod layout;
mod pipeline;
mod place;
mod prepared;
pub mod progress;
pub mod reread;
pub mod schema;
pub mod session;
mod setwise;
mod skipped;
mod statement;
mod thread;

pub use changes::{copy_bytes, Counts, COPY_HEAD, COPY_TAIL};
pub(crate) use statement::quote_table;
