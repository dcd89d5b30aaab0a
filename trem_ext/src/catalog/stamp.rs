//! The WAL positions in a published definition. They tell the output plugin which transactions came
//! before it was published; they are no difference between one publish and the next.

use serde::Deserialize;
use serde_json::Value;
use trem_wire::definition::Definition;
use trem_wire::Lsn;

use super::spi;
use crate::error::Error;

/// Stamps a definition that is about to be published. A table that was published before, and is not
/// to be loaded again, keeps its position: its changes are wanted from there on.
pub(crate) fn put(definition: &mut Definition, before: Option<Value>) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Now {
        lsn: Lsn,
    }
    let now = spi::row::<Now>("SELECT pg_current_wal_insert_lsn() AS lsn", &[])?
        .ok_or_else(|| Error::Catalog("there is no WAL position".to_owned()))?
        .lsn;
    let before = before.and_then(|content| serde_json::from_value::<Definition>(content).ok());
    let tables = before.map_or_else(Vec::new, |before| before.tables);
    definition.published_lsn = now;
    for table in &mut definition.tables {
        let same = tables
            .iter()
            .find(|same| same.oid == table.oid && same.load_generation == table.load_generation);
        table.changes_from = same.map_or(now, |same| same.changes_from);
    }
    Ok(())
}

/// The document without its positions, to compare it with another.
pub(crate) fn without(mut document: Value) -> Value {
    document["published_lsn"] = Value::Null;
    for table in document["tables"].as_array_mut().into_iter().flatten() {
        table["changes_from"] = Value::Null;
    }
    document
}
