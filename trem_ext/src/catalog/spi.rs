//! Statements from Rust: every row arrives as JSON and becomes a struct, every value is bound.
//!
//! They run as the owner of the extension, whoever calls: nobody else has rights on TREM's tables.
//! So their texts are TREM's own, nothing of a user's may run in one, and who may have it run is
//! asked before ([`super::access`]).
//!
//! Errors of PostgreSQL leave as they are, by its own error path; what comes back as [`Error`] is a
//! statement of ours that does not fit its struct.

use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiTupleTable;
use pgrx::Spi;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::pg::{self, as_extension_owner};

/// The rows of a SELECT.
///
/// It takes no transaction id, so that a standby can answer. In a transaction that wrote before it
/// sees all that was written and committed until now; else what the caller's statement sees.
pub(crate) fn rows<T: DeserializeOwned>(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Vec<T>, Error> {
    as_extension_owner(|| {
        Spi::connect(|client| read(client.select(as_json(sql).as_str(), None, arguments)?))
    })
}

/// The row of an INSERT, UPDATE or DELETE with RETURNING, if it touched one.
pub(crate) fn returned<T: DeserializeOwned>(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Option<T>, Error> {
    refuse_standby()?;
    let rows: Vec<T> = as_extension_owner(|| {
        Spi::connect_mut(|client| read(client.update(as_json(sql).as_str(), None, arguments)?))
    })?;
    Ok(rows.into_iter().next())
}

/// As bytes: names of a database in another encoding are no Rust strings.
fn as_json(sql: &str) -> String {
    format!("WITH found AS ({sql}) SELECT convert_to(to_jsonb(found)::text, 'UTF8') FROM found")
}

fn read<T: DeserializeOwned>(rows: SpiTupleTable<'_>) -> Result<Vec<T>, Error> {
    let mut found = Vec::new();
    for row in rows {
        let json = row.get::<&[u8]>(1)?.expect("a row is never null as a whole");
        let row = serde_json::from_slice(json);
        found.push(row.map_err(|error| Error::Catalog(error.to_string()))?);
    }
    Ok(found)
}

/// The first row, if there is one.
pub(crate) fn row<T: DeserializeOwned>(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Option<T>, Error> {
    Ok(rows(sql, arguments)?.into_iter().next())
}

/// A statement without a result; gives the number of rows it touched.
pub(crate) fn run(sql: &str, arguments: &[DatumWithOid<'_>]) -> Result<usize, Error> {
    refuse_standby()?;
    as_extension_owner(|| Spi::connect_mut(|client| Ok(client.update(sql, None, arguments)?.len())))
}

/// PostgreSQL's own words would be about transaction ids.
fn refuse_standby() -> Result<(), Error> {
    if !pg::is_standby() {
        return Ok(());
    }
    Err(Error::State {
        message: "this server is a standby: nothing of a task can be changed here".to_owned(),
        hint: "Connect to the primary, and run it there.".to_owned(),
    })
}

/// OIDs as an argument: cast it with `::oid[]` in the statement.
pub(crate) fn oids(of: impl IntoIterator<Item = u32>) -> Vec<i64> {
    of.into_iter().map(i64::from).collect()
}
