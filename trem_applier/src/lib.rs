//! The applier: takes a task's first copy, then consumes its slot and loads the target.
//!
//! It keeps no state of its own: everything needed to resume is in the target and the source.

pub mod connect;
pub mod conninfo;
mod dial;
pub mod error;
pub mod source;
mod tls;
mod transport;
