//! Statements from Rust: every row arrives as JSON and becomes a struct, every value is bound.
//!
//! Errors of PostgreSQL leave as they are, by its own error path; what comes back as [`Error`] is a
//! statement of ours that does not fit its struct.

use pgrx::datum::DatumWithOid;
use pgrx::Spi;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// The rows of a SELECT, or of an INSERT, UPDATE or DELETE with RETURNING.
///
/// Never in SPI's read-only mode: that would not see what the same function wrote before.
pub(crate) fn rows<T: DeserializeOwned>(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Vec<T>, Error> {
    // As bytes: names of a database in another encoding are no Rust strings.
    let sql = format!(
        "WITH found AS ({sql}) SELECT convert_to(to_jsonb(found)::text, 'UTF8') FROM found"
    );
    Spi::connect_mut(|client| {
        let mut found = Vec::new();
        for row in client.update(&sql, None, arguments)? {
            let json = row.get::<&[u8]>(1)?.expect("a row is never null as a whole");
            found.push(serde_json::from_slice(json).map_err(|e| Error::Catalog(e.to_string()))?);
        }
        Ok(found)
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
    Spi::connect_mut(|client| Ok(client.update(sql, None, arguments)?.len()))
}

/// OIDs as an argument: cast it with `::oid[]` in the statement.
pub(crate) fn oids(of: impl IntoIterator<Item = u32>) -> Vec<i64> {
    of.into_iter().map(i64::from).collect()
}
