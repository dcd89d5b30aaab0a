//! What the extension does when somebody changes a table: the functions of its event triggers. They
//! look names up as their caller does and run no statement of anybody's, so they pin no
//! `search_path`. They need no right of the caller, and say nothing to them: they changed their own
//! table.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::{ddl, note, slots};
use crate::pg::event_trigger::{EventTrigger, Handled};

#[pg_extern]
fn give_way(event: EventTrigger) -> Handled {
    let Some(command) = event.command() else { return Handled };
    for dropped in ddl::give_way(&command) {
        log!(
            "trem dropped view trem_read.\"{}\", which was in the way of this command; SELECT \
             trem.start_task('{}') makes the task's views again",
            dropped.view,
            dropped.task
        );
    }
    Handled
}

/// Whoever takes the extension away would leave the slots of its tasks behind.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn keep_slots(event: EventTrigger) -> Result<Handled, ErrorReport> {
    if event.drops_extension() {
        slots::refuse_while_there_are()?;
    }
    Ok(Handled)
}

#[pg_extern]
fn note_change(event: EventTrigger) -> Handled {
    event.done().into_iter().for_each(note::note);
    Handled
}
