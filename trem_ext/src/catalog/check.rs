//! Everything wrong on the source side of a task, found at once.

use serde::Deserialize;

use super::draft::Draft;
use super::name;
use super::plan::Plan;
use super::problem::Problem;
use super::shape::Shape;
use super::table::Leaf;
use super::{environment, spi};
use crate::error::Error;

/// The problems of the server, of the draft and of its tables, the worst first.
pub(crate) fn all(draft: &Draft, plan: &mut Plan) -> Result<Vec<Problem>, Error> {
    let mut problems = Vec::new();
    environment::check(&draft.task, &mut problems)?;
    problems.append(&mut plan.problems);
    for shape in &plan.shapes {
        check_key(shape, &mut problems);
        check_rows(shape, &mut problems);
        for leaf in &shape.table.leaves {
            check_leaf(shape, leaf, &mut problems);
        }
    }
    check_published(draft, plan, &mut problems)?;
    problems.sort_by_key(|problem| problem.severity);
    Ok(problems)
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
    for column in shape.columns.iter().filter(|column| column.source.collation_is_users) {
        let collation = column.source.collation.as_deref().unwrap_or_default();
        problems.push(
            Problem::warning(
                "collation",
                format!("column \"{}\" has the collation {collation}", column.source.name),
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
            "owner_rights",
            format!("you may not make views for its owner \"{}\"", leaf.owner),
            "Be a member of that role, which needs CREATE on schema trem_read \
             (trem.grant_operator), or let a superuser start the task."
                .to_owned(),
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

/// Tables that the draft has and the published definition has not.
fn check_published(draft: &Draft, plan: &Plan, problems: &mut Vec<Problem>) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Published {
        oid: u32,
    }
    let published: Vec<Published> = spi::rows(
        "SELECT (defined->>'oid')::bigint AS oid
         FROM trem.definition AS d
         JOIN trem.task AS t USING (task_id, definition_version)
         CROSS JOIN jsonb_array_elements(d.content->'tables') AS defined
         WHERE t.name = $1",
        &[draft.task.name.as_str().into()],
    )?;
    if draft.task.definition_version.is_none() {
        return Ok(());
    }
    for shape in &plan.shapes {
        if !published.iter().any(|published| published.oid == shape.table.oid) {
            problems.push(
                Problem::info(
                    "not_published",
                    "it is not in the published definition",
                    format!("SELECT trem.start_task('{}'); publishes it.", draft.task.name),
                )
                .of(shape.table.display()),
            );
        }
    }
    Ok(())
}
