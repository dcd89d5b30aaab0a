//! How many rows a table has, counted as its owner, for somebody who may read it.

use pgrx::Spi;

use super::{access, name, table};
use crate::error::Error;
use crate::pg;

pub(crate) fn rows(oid: u32) -> Result<i64, Error> {
    let locked = table::lock(oid, "")?;
    access::check_reader(&locked)?;
    let only = if locked.has_rows() { "ONLY " } else { "" };
    let quoted = name::qualified(&locked.schema, &locked.name);
    let statement = format!("SELECT count(*) FROM {only}{quoted}");
    pg::as_role(locked.owner, || {
        pg::pin_for_reading();
        Spi::connect(|client| {
            let counted = client.select(&statement, None, &[])?.first().get_one::<i64>()?;
            counted.ok_or_else(|| Error::Catalog("no count".to_owned()))
        })
    })
}
