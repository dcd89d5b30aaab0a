//! The slots of tasks, for whoever is about to take the extension away. A slot that nobody knows
//! any more holds back WAL until the disk is full.

use serde::Deserialize;
use trem_wire::PLUGIN;

use super::{name, spi};
use crate::error::Error;

#[derive(Deserialize)]
struct Slot {
    name: String,
    /// `None`: the task of that name is gone.
    task: Option<String>,
}

/// An error if there are slots of TREM in this database.
pub(crate) fn refuse_while_there_are() -> Result<(), Error> {
    let slots: Vec<Slot> = spi::rows(
        "SELECT s.slot_name AS name, t.name AS task
         FROM pg_replication_slots AS s
         LEFT JOIN trem.task AS t ON s.slot_name = 'trem_' || t.name
         WHERE s.plugin = $1 AND s.database = current_database()
         ORDER BY s.slot_name",
        &[PLUGIN.into()],
    )?;
    if slots.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = slots.iter().map(|slot| format!("\"{}\"", slot.name)).collect();
    let remedies = slots.iter().map(|slot| match &slot.task {
        Some(task) => format!("SELECT trem.stop_task('{task}'); SELECT trem.drop_task('{task}');"),
        None => format!("SELECT pg_drop_replication_slot({});", name::literal(&slot.name)),
    });
    Err(Error::State {
        message: format!("replication slots of trem are still there: {}", names.join(", ")),
        hint: remedies.collect::<Vec<_>>().join(" "),
    })
}
