//! Everything wrong on the source side of a task, found at once.

use std::collections::HashSet;

use serde::Deserialize;

use super::draft::{Draft, Task};
use super::name;
use super::plan::Plan;
use super::problem::Problem;
use super::publish;
use super::shape::Shape;
use super::table::{Column, Leaf};
use super::unseen::{self, Reason};
use super::{access, endpoint, environment, spi};
use crate::error::Error;

/// What concerns only who publishes the task.
pub(crate) const PUBLISHER: &str = "publisher_rights";

/// The problems of the server, of the draft and of its tables, the worst first.
pub(crate) fn all(draft: &Draft, plan: &mut Plan) -> Result<Vec<Problem>, Error> {
    let mut problems = Vec::new();
    environment::check(&draft.task, &mut problems)?;
    check_owners(&draft.task, &mut problems)?;
    problems.append(&mut plan.problems);
    for shape in &plan.shapes {
        check_key(shape, &mut problems);
        check_rows(shape, &mut problems);
        for leaf in &shape.table.leaves {
            check_leaf(shape, leaf, &mut problems);
        }
    }
    check_published(draft, plan, &mut problems)?;
    check_unseen(draft, plan, &mut problems)?;
    problems.sort_by_key(|problem| problem.severity);
    Ok(problems)
}

fn check_owners(task: &Task, problems: &mut Vec<Problem>) -> Result<(), Error> {
    if access::is_dropped(task.owner) {
        let hint = format!("A superuser takes it over: {}", task.owned().take_over_statement());
        problems.push(Problem::warning("owner", "the role that owned the task was dropped", hint));
    }
    for name in [&task.source, &task.target] {
        problems.extend(endpoint::problems(name)?);
    }
    Ok(())
}

fn check_key(shape: &Shape, problems: &mut Vec<Problem>) {
    let table = &shape.table;
    let quoted = name::qualified(&table.schema, &table.name);
    let deferrable = table.indexes.iter().any(|index| index.primary && !index.immediate);
    if table.key_attnums.is_some() {
        return;
    }
    let problem = if table.replica_identity == "nothing" {
        Problem::warning(
            "replica_identity",
            "its replica identity is NOTHING: inserts are followed, an update or delete stops \
             the task",
            format!("ALTER TABLE {quoted} REPLICA IDENTITY DEFAULT; (or FULL, without a key)"),
        )
    } else if table.logs_old_rows() {
        Problem::info(
            "no_key",
            "without a key, rows are found by all their columns: slow on a large table",
            format!("ALTER TABLE {quoted} ADD PRIMARY KEY (...);"),
        )
    } else if deferrable {
        Problem::warning(
            "deferrable_key",
            "its primary key is deferrable, which logs no key: inserts are followed, an update \
             or delete stops the task",
            format!("ALTER TABLE {quoted} REPLICA IDENTITY FULL; or make the key immediate."),
        )
    } else {
        Problem::warning(
            "no_key",
            "it has no key: inserts are followed, an update or delete stops the task",
            format!(
                "ALTER TABLE {quoted} ADD PRIMARY KEY (...); or ALTER TABLE {quoted} REPLICA \
                 IDENTITY FULL;"
            ),
        )
    };
    problems.push(problem.of(table.display()));
}

fn check_rows(shape: &Shape, problems: &mut Vec<Problem>) {
    let table = &shape.table;
    if table.row_security && !table.leaves.iter().any(|leaf| leaf.row_security_hides) {
        problems.push(
            Problem::info(
                "row_security",
                "row security does not hold for what is replicated: every row is sent",
                "",
            )
            .of(table.display()),
        );
    }
    for column in shape.columns.iter().filter(|column| column.output.collation_is_users) {
        let collation = column.output.collation.as_deref().unwrap_or_default();
        problems.push(
            Problem::warning(
                "collation",
                format!("column \"{}\" has the collation {collation}", column.display()),
                "Create it on the target first (CREATE COLLATION).",
            )
            .of(table.display()),
        );
    }
}

fn check_leaf(shape: &Shape, leaf: &Leaf, problems: &mut Vec<Problem>) {
    let quoted = name::qualified(&leaf.schema, &leaf.name);
    let mut report = |check, message: String, hint: String| {
        problems
            .push(Problem::error(check, message, hint).of(name::display(&leaf.schema, &leaf.name)));
    };
    if leaf.row_security_hides {
        report(
            "row_security",
            format!("row security is forced upon its owner \"{}\" and would hide rows", leaf.owner),
            format!("ALTER TABLE {quoted} NO FORCE ROW LEVEL SECURITY;"),
        );
    }
    if !leaf.owner_can_read {
        report(
            "owner_rights",
            format!("its owner \"{}\", by whose rights it is read, may not read it", leaf.owner),
            format!(
                "GRANT USAGE ON SCHEMA {} TO {owner}; GRANT SELECT ON {quoted} TO {owner};",
                name::quoted(&leaf.schema),
                owner = name::quoted(&leaf.owner)
            ),
        );
    }
    if !leaf.caller_can_publish {
        report(
            PUBLISHER,
            format!("you may not make views for its owner \"{}\"", leaf.owner),
            "Be a member of that role, or let one who is start the task.".to_owned(),
        );
    }
    if leaf.replica_identity != shape.table.replica_identity {
        report(
            "replica_identity",
            format!(
                "its replica identity differs from that of {}: {} there, {} here",
                shape.table.display(),
                shape.table.replica_identity,
                leaf.replica_identity
            ),
            format!(
                "ALTER TABLE {quoted} REPLICA IDENTITY {};",
                match shape.table.replica_identity.as_str() {
                    "index" => "USING INDEX <its index>".to_owned(),
                    other => other.to_uppercase(),
                }
            ),
        );
    }
}

#[derive(Deserialize)]
struct Published {
    oid: u32,
    schema: String,
    name: String,
    exists: bool,
    views_missing: bool,
    attnums: Vec<i16>,
}

const PUBLISHED: &str = "
    SELECT (defined->>'oid')::bigint AS oid, defined->>'source_schema' AS schema,
           defined->>'source_name' AS name,
           EXISTS (SELECT FROM pg_class WHERE oid = (defined->>'oid')::oid) AS exists,
           (SELECT jsonb_agg(c->'attnum') FROM jsonb_array_elements(defined->'columns') AS c)
               AS attnums,
           EXISTS (SELECT FROM jsonb_array_elements(defined->'leaves') AS leaf
                   WHERE to_regclass(format('trem_read.%I', leaf->>'view')) IS NULL)
               AS views_missing
    FROM trem.definition AS d
    JOIN trem.task AS t USING (task_id, definition_version)
    CROSS JOIN jsonb_array_elements(d.content->'tables') AS defined
    WHERE t.name = $1 AND d.database_identity = trem.database_identity()";

/// Where the published definition, the draft and the catalog have come apart. None of it is an
/// error here: publishing mends it.
fn check_published(draft: &Draft, plan: &Plan, problems: &mut Vec<Problem>) -> Result<(), Error> {
    if draft.task.definition_version.is_none() {
        return Ok(());
    }
    let hint = format!("SELECT trem.start_task('{}'); publishes it.", draft.task.name);
    check_identity(draft, problems)?;
    let published: Vec<Published> = spi::rows(PUBLISHED, &[draft.task.name.as_str().into()])?;
    for table in &published {
        let message = match table {
            Published { exists: true, views_missing: true, .. } => {
                "the view through which it is read is gone"
            }
            _ => continue,
        };
        let hint = format!("SELECT trem.start_task('{}'); publishes anew.", draft.task.name);
        problems.push(
            Problem::warning("published", message, hint)
                .of(name::display(&table.schema, &table.name)),
        );
    }
    check_new_columns(draft, plan, &published, problems);
    let oids: HashSet<u32> = published.iter().map(|published| published.oid).collect();
    let mut tables_added = false;
    for shape in plan.shapes.iter().filter(|shape| !oids.contains(&shape.table.oid)) {
        tables_added = true;
        let message = "it is not in the published definition";
        problems
            .push(Problem::info("not_published", message, hint.as_str()).of(shape.table.display()));
    }
    if !tables_added && publish::changes_anything(draft, plan)? {
        let message = "the draft, or a table, changed since the definition was published";
        problems.push(Problem::info("not_published", message, hint));
    }
    Ok(())
}

/// A definition that came with a dump.
fn check_identity(draft: &Draft, problems: &mut Vec<Problem>) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Foreign {}
    let foreign: Option<Foreign> = spi::row(
        "SELECT t.name
         FROM trem.definition AS d
         JOIN trem.task AS t USING (task_id, definition_version)
         WHERE t.name = $1 AND d.database_identity <> trem.database_identity()",
        &[draft.task.name.as_str().into()],
    )?;
    if foreign.is_some() {
        let message = "it was published in another database: this one was restored from a dump, \
                       or upgraded";
        let hint = format!(
            "SELECT trem.start_task('{0}'); publishes it here, and its tables are loaded again. \
             Or, if the task is to stay where it was: SELECT trem.drop_task('{0}');",
            draft.task.name
        );
        problems.push(Problem::warning("restored", message, hint));
    }
    Ok(())
}

/// The name of the check that a publish asks about, unless it is told to keep what there is.
pub(crate) const CHANGED: &str = "changed";

/// What no stream brings of published tables.
fn check_unseen(draft: &Draft, plan: &Plan, problems: &mut Vec<Problem>) -> Result<(), Error> {
    let task = &draft.task.name;
    for found in unseen::find(draft, plan)? {
        let Some(message) = found.message() else { continue };
        let keep = format!("SELECT trem.start_task('{task}', keep => true);");
        let hint = match found.reason {
            Reason::Gone(_) => format!("To leave it at that: {keep}"),
            _ => format!(
                "SELECT trem.reload_table('{task}', {}); SELECT trem.start_task('{task}'); or, \
                 when the target was adapted by hand: {keep}",
                name::literal(&found.table)
            ),
        };
        problems.push(Problem::error(CHANGED, message, hint).of(found.table.as_str()));
    }
    Ok(())
}

/// Columns that publishing would add. A task that hides some must not be given a new one unseen.
fn check_new_columns(
    draft: &Draft,
    plan: &Plan,
    published: &[Published],
    problems: &mut Vec<Problem>,
) {
    for shape in &plan.shapes {
        let Some(before) = published.iter().find(|table| table.oid == shape.table.oid) else {
            continue;
        };
        let table = shape.table.display();
        let is_new = |column: &&Column| !before.attnums.contains(&column.attnum);
        let columns = shape.columns.iter().filter(|column| column.computed.is_none());
        for column in columns.filter_map(|column| column.source.as_ref()).filter(is_new) {
            let name = &column.name;
            problems.push(
                Problem::warning(
                    "new_column",
                    format!("column \"{name}\" is not published yet; starting the task sends it"),
                    format!(
                        "To keep it here: SELECT trem.exclude_column('{}', {}, {});",
                        draft.task.name,
                        name::literal(&table),
                        name::literal(name)
                    ),
                )
                .of(table.as_str()),
            );
        }
    }
}
