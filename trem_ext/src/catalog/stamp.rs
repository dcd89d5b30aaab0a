//! The WAL positions in a published definition. They tell the output plugin which transactions came
//! before it was published; they are no difference between one publish and the next.

use serde::Deserialize;
use serde_json::Value;
use trem_wire::definition::{DefinedTable, Definition};
use trem_wire::Lsn;

/// Stamps a definition that is about to be published with the position that was read before the
/// catalog. A table that was published before, and is not to be loaded again, keeps its position:
/// its changes are wanted from there on.
pub(crate) fn put(definition: &mut Definition, now: Lsn, before: Option<Value>) {
    let before = before.unwrap_or_default();
    definition.published_lsn = now;
    for table in &mut definition.tables {
        table.changes_from = kept(&before, table).unwrap_or(now);
    }
}

/// The position of a table that goes on. One that cannot be read leaves nothing out, because a
/// change that is seen twice does no harm and one that is lost does.
fn kept(before: &Value, table: &DefinedTable) -> Option<Lsn> {
    let same = before["tables"].as_array()?.iter().find(|same| {
        same["oid"].as_u64() == Some(u64::from(table.oid))
            && same["load_generation"].as_i64() == Some(table.load_generation)
    })?;
    Some(Lsn::deserialize(&same["changes_from"]).unwrap_or(Lsn::INVALID))
}

/// The document without its positions, to compare it with another.
pub(crate) fn without(mut document: Value) -> Value {
    document["published_lsn"] = Value::Null;
    for table in document["tables"].as_array_mut().into_iter().flatten() {
        table["changes_from"] = Value::Null;
    }
    document
}
