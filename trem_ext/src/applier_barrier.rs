//! `trem.applier_barrier`: writes a transaction's mark into the WAL, which comes down the task's
//! stream after everything that was committed before.
//!
//! In Rust, because what it writes is signed with a secret that nobody may read.

// pgrx raises its own report, which is large, from an `Err`: one per statement.
#![allow(clippy::result_large_err)]

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::Error;
use crate::pg::PgLsn;
use crate::wal_message;

const TOKEN_BYTES_MAX: usize = 64;

/// Runs with the rights of the extension's owner: `served_task` asks who calls.
#[pg_extern(volatile, strict, security_definer)]
#[search_path(pg_catalog, trem, pg_temp)]
fn applier_barrier(task: &str, token: &str) -> Result<PgLsn, ErrorReport> {
    Ok(barrier(task, token)?)
}

fn barrier(task: &str, token: &str) -> Result<PgLsn, Error> {
    const SERVED: &str = "SELECT (trem.served_task($1)).name";
    let name = Spi::get_one_with_args::<String>(SERVED, &[DatumWithOid::from(task)])?
        .ok_or_else(|| Error::Catalog("the task has no name".to_owned()))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !(1..=TOKEN_BYTES_MAX).contains(&token.len()) || !token.bytes().all(plain) {
        return Err(Error::invalid(
            "the token of a barrier is not valid",
            "Tokens have 1 to 64 letters, digits and hyphens.",
        ));
    }
    let lsn = wal_message::write(&wal_message::barrier(&name, token));
    lsn.map(|lsn| PgLsn(lsn.0 as i64)).ok_or_else(wal_message::no_key)
}
