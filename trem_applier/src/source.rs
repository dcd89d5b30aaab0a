//! The source database: its replication connection, and what is read from it by SQL.

pub mod replication;
