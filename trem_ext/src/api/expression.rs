//! The functions that expressions of rules may call besides the built-in ones. They pin no
//! settings: they depend on none, and a setting would cost as much as the rest of a row.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use trem_wire::message::Operation;
use trem_wire::settings::PINNED;

use crate::mask;
use crate::pg::{self, PgLsn, TextBytes};

// Stable, because an immutable one is folded when a rule is read: of a constant, before the rule's
// key is made.
#[pg_extern(stable, parallel_safe, strict)]
fn pseudonym(value: TextBytes<'_>, key_name: TextBytes<'_>) -> Result<String, ErrorReport> {
    Ok(mask::pseudonym(mask::string(value)?, mask::string(key_name)?)?)
}

#[pg_extern(immutable, parallel_safe, strict)]
fn mask_partial(
    value: TextBytes<'_>,
    keep_start: i32,
    keep_end: i32,
) -> Result<String, ErrorReport> {
    Ok(mask::partial(mask::string(value)?, keep_start, keep_end)?)
}

#[pg_extern(immutable, parallel_safe, strict)]
fn mask_email(value: TextBytes<'_>) -> Result<String, ErrorReport> {
    Ok(mask::email(mask::string(value)?))
}

#[pg_extern(immutable, parallel_safe, strict)]
fn mask_number(value: TextBytes<'_>) -> Result<String, ErrorReport> {
    Ok(mask::number(mask::string(value)?))
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

/// What copy, stream and preview pin, for `sql/grants.sql` and for whoever compares.
#[pg_extern(immutable, parallel_safe)]
fn pinned_settings(
) -> TableIterator<'static, (name!(name, &'static str), name!(value, &'static str))> {
    TableIterator::new(PINNED)
}
