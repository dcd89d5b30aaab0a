//! The views of `trem_read` give way to the DDL of a table's owner.
//!
//! PostgreSQL refuses to drop a table or a column, and to change a column's type, while a view
//! shows it. Nobody's migration may fail because a task is there, so the views that are in a
//! command's way are dropped right before it runs. They belong to the same transaction: if the
//! command fails or is rolled back, they are there again. `start_task` makes them again; until then
//! only a load would miss them. The stream does not use them, and stops by itself where the table
//! changes.
//!
//! Only commands whose caller owns the table get so far: a stranger's fails anyway, and should not
//! hold a lock on a view until then.

use std::collections::BTreeSet;

use crate::pg::dependency;
use crate::pg::event_trigger::{AlteredColumn, DdlCommand};

const VIEW: u8 = b'v';
const PARTITIONED_TABLE: u8 = b'p';

/// A view that was dropped.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Dropped {
    pub view: String,
    pub task: String,
}

/// Drops the views that are in the way of `command`.
pub(crate) fn give_way(command: &DdlCommand) -> Vec<Dropped> {
    let Some(schema) = dependency::schema(c"trem_read") else { return Vec::new() };
    let mut in_the_way = BTreeSet::new();
    match command {
        DdlCommand::AlterTable { table, with_children, columns } => {
            if dependency::is_owned(*table, false) {
                for column in columns {
                    add_column(*table, *with_children, column, &mut in_the_way);
                }
            }
        }
        DdlCommand::DropTables(tables) => {
            for table in tables.iter().filter(|table| dependency::is_owned(**table, true)) {
                add_table(*table, &mut in_the_way);
            }
        }
    }
    // In the order of their OIDs, so that two commands never wait for each other.
    in_the_way
        .into_iter()
        .filter_map(|oid| {
            let view = dependency::name_in_schema(oid, schema)?;
            let task = task_of_view(&view)?.to_owned();
            let is_view = dependency::relation_kind(oid) == Some(VIEW);
            (is_view && dependency::drop_view(oid)).then_some(Dropped { view, task })
        })
        .collect()
}

/// Everything that uses the column, here and in the tables that the command reaches below.
fn add_column(
    table: u32,
    with_children: bool,
    column: &AlteredColumn,
    in_the_way: &mut BTreeSet<u32>,
) {
    let mut seen = BTreeSet::from([table]);
    let mut open = vec![table];
    while let Some(reached) = open.pop() {
        let Some(origin) = dependency::column(reached, &column.name) else { continue };
        // A column that a child declares itself stays when its parent's is dropped.
        if reached != table && column.is_dropped && origin.is_local {
            continue;
        }
        let users = dependency::users_by_rule(reached);
        in_the_way.extend(
            users.iter().filter(|(_, number)| *number == origin.number).map(|(user, _)| *user),
        );
        if with_children {
            open.extend(dependency::children(reached).into_iter().filter(|oid| seen.insert(*oid)));
        }
    }
}

/// Everything that uses the table or its partitions. A plain table with children is not dropped
/// without CASCADE.
fn add_table(table: u32, in_the_way: &mut BTreeSet<u32>) {
    in_the_way.extend(dependency::users_by_rule(table).into_iter().map(|(user, _)| user));
    if dependency::relation_kind(table) == Some(PARTITIONED_TABLE) {
        for partition in dependency::children(table) {
            add_table(partition, in_the_way);
        }
    }
}

/// A view of a task is named `<task>_<oid>`.
fn task_of_view(view: &str) -> Option<&str> {
    let (task, oid) = view.rsplit_once('_')?;
    let is_oid = !oid.is_empty() && oid.bytes().all(|byte| byte.is_ascii_digit());
    (is_oid && !task.is_empty()).then_some(task)
}

#[cfg(test)]
mod tests {
    use super::task_of_view;

    #[test]
    fn a_view_is_of_a_task_by_its_name() {
        assert_eq!(task_of_view("to_reports_2_16400"), Some("to_reports_2"));
        assert_eq!(task_of_view("to_reports"), None);
        assert_eq!(task_of_view("t_"), None);
        assert_eq!(task_of_view("_16400"), None);
    }
}
