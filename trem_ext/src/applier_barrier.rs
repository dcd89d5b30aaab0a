//! `trem.applier_barrier`: writes a transaction's mark into the WAL, which comes down the task's
//! stream after everything that was committed before.
//!
//! In Rust, because what it writes is signed with a secret that nobody may read.

// pgrx raises its own report, which is large, from an `Err`: one per statement.
#![allow(clippy::result_large_err)]

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::applier::served;
use crate::error::{given, Error};
use crate::pg::PgLsn;
use crate::wal_message;

const TOKEN_BYTES_MAX: usize = 64;

#[pg_extern(volatile)]
#[search_path(pg_catalog, trem, pg_temp)]
fn applier_barrier(task: Option<&str>, token: Option<&str>) -> Result<PgLsn, ErrorReport> {
    Ok(barrier(given("task", task)?, given("token", token)?)?)
}

fn barrier(task: &str, token: &str) -> Result<PgLsn, Error> {
    let task = served(task)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !(1..=TOKEN_BYTES_MAX).contains(&token.len()) || !token.bytes().all(plain) {
        return Err(Error::invalid(
            "the token of a barrier is not valid",
            "Tokens have 1 to 64 letters, digits and hyphens.",
        ));
    }
    let lsn = wal_message::write(&wal_message::barrier(&task.name, token));
    lsn.map(|lsn| PgLsn(lsn.0 as i64)).ok_or_else(wal_message::no_key)
}
