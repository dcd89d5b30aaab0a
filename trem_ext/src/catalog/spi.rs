//! Statements from Rust: every row arrives as JSON and becomes a struct, every value is bound.
//!
//! They run as the owner of the extension, whoever calls: nobody else has rights on TREM's tables.
//! So their texts are TREM's own, nothing of a user's may run in one, and who may have it run is
//! asked before ([`super::access`]).
//!
//! Errors of PostgreSQL leave as they are, by its own error path; what comes back as [`Error`] is a
//! statement of ours that does not fit its struct.

use pgrx::datum::DatumWithOid;
use pgrx::{JsonB, Spi};
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::pg::as_extension_owner;

/// The rows of a SELECT, or of an INSERT, UPDATE or DELETE with RETURNING.
///
/// Never in SPI's read-only mode: that would not see what the same function wrote before.
pub(crate) fn rows<T: DeserializeOwned>(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Vec<T>, Error> {
    let sql = format!("WITH found AS ({sql}) SELECT to_jsonb(found) FROM found");
    as_extension_owner(|| {
        Spi::connect_mut(|client| {
            let mut found = Vec::new();
            for row in client.update(&sql, None, arguments)? {
                let JsonB(value) = row.get::<JsonB>(1)?.expect("a row is never null as a whole");
                let row = serde_json::from_value(value);
                found.push(row.map_err(|error| Error::Catalog(error.to_string()))?);
            }
            Ok(found)
        })
    })
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
    as_extension_owner(|| Spi::connect_mut(|client| Ok(client.update(sql, None, arguments)?.len())))
}

/// OIDs as an argument: cast it with `::oid[]` in the statement.
pub(crate) fn oids(of: impl IntoIterator<Item = u32>) -> Vec<i64> {
    of.into_iter().map(i64::from).collect()
}
