//! What the extension does when somebody changes a table: the event trigger's function. It looks
//! names up as its caller does and runs no statement, so it pins no `search_path`.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::{ddl, slots};
use crate::pg::event_trigger::{EventTrigger, Handled};

/// Needs no right of the caller, and says nothing to them: they changed their own table.
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
#[pg_extern(security_definer)]
#[search_path(pg_catalog, pg_temp)]
fn keep_slots(event: EventTrigger) -> Result<Handled, ErrorReport> {
    if event.drops_extension() {
        slots::refuse_while_there_are()?;
    }
    Ok(Handled)
}
