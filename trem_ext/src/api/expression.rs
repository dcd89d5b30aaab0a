//! The functions that expressions of rules may call besides the built-in ones. They pin no
//! settings: they depend on none, and a setting would cost as much as the rest of a row.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use trem_wire::message::Operation;

use crate::mask;
use crate::pg::{self, PgLsn};

#[pg_extern(immutable, parallel_safe, strict)]
fn pseudonym(value: &str, key_name: &str) -> Result<String, ErrorReport> {
    Ok(mask::pseudonym(value, key_name)?)
}

#[pg_extern(immutable, parallel_safe, strict)]
fn mask_partial(value: &str, keep_start: i32, keep_end: i32) -> Result<String, ErrorReport> {
    Ok(mask::partial(value, keep_start, keep_end)?)
}

#[pg_extern(immutable, parallel_safe, strict)]
fn mask_email(value: &str) -> String {
    mask::email(value)
}

#[pg_extern(immutable, parallel_safe, strict)]
fn mask_number(value: &str) -> String {
    mask::number(value)
}

#[pg_extern(stable, parallel_safe)]
fn commit_lsn() -> Option<PgLsn> {
    pg::change_at_hand().map(|(_, commit)| PgLsn(commit.lsn as i64))
}

#[pg_extern(stable, parallel_safe)]
fn commit_timestamp() -> Option<TimestampWithTimeZone> {
    let (_, commit) = pg::change_at_hand()?;
    TimestampWithTimeZone::try_from(commit.timestamp).ok()
}

#[pg_extern(stable, parallel_safe)]
fn operation() -> &'static str {
    match pg::change_at_hand() {
        None => "load",
        Some((Operation::Insert, _)) => "insert",
        Some((Operation::Update, _)) => "update",
        Some((Operation::Delete, _)) => "delete",
    }
}
