//! The SQL functions of schema `trem`. They read their arguments, call `catalog` and hand back its
//! answer or its error; what the words mean is decided there.
//!
//! Every function pins `search_path`, so that names in statements and in what PostgreSQL prints
//! (types, defaults) do not depend on the session; all but [`ddl`], whose names are the caller's.

// pgrx wants a result row spelled out in the signature, and raises its own report, which is large,
// from an `Err`: one per statement, so its size does not matter.
#![allow(clippy::result_large_err, clippy::type_complexity)]

mod applier;
mod ddl;
mod discovery;
mod endpoint;
mod expression;
mod protocol;
mod report;
mod rule;
mod task;
