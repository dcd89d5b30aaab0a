//! The source database: the replication stream, the snapshots and rows of the copy, and the
//! extension's functions for the applier.
//!
//! Knows nothing of the target: what it reads goes out as values, bytes and messages.

pub mod control;
pub mod copy;
pub mod replication;
pub mod reread;
pub mod snapshot;
pub mod stream;
