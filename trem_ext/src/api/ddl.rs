//! What the extension does when somebody changes a table: the event trigger's function. It looks
//! names up as its caller does and runs no statement, so it pins no `search_path`.

use pgrx::prelude::*;

use crate::catalog::ddl;
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
