//! The views of `trem_read`, through which appliers read: one per table of a task, and per leaf of
//! a partitioned one, owned like the table and readable by the role that the source endpoint names.

use std::collections::BTreeMap;

use serde::Deserialize;
use trem_wire::definition::DefinedExpression;

use super::draft::Draft;
use super::plan::Plan;
use super::shape::{Computed, Filter, Guard, Shape};
use super::table::Leaf;
use super::{definition, endpoint, name, spi};
use crate::error::Error;

#[derive(Deserialize)]
struct View {
    name: String,
    owner: String,
    /// The text of which it was made.
    comment: Option<String>,
    readers: Vec<String>,
}

/// The task's views as they are now. No other task's view ends like this after this prefix.
const VIEWS: &str = "
    SELECT c.relname AS name, pg_get_userbyid(c.relowner) AS owner,
           obj_description(c.oid, 'pg_class') AS comment,
           coalesce((SELECT jsonb_agg(pg_get_userbyid(acl.grantee) ORDER BY acl.grantee)
                     FROM aclexplode(c.relacl) AS acl
                     WHERE acl.grantee <> c.relowner), '[]') AS readers
    FROM pg_class AS c
    WHERE c.relnamespace = 'trem_read'::regnamespace AND c.relkind = 'v'
      AND c.relname ~ ('^' || $1 || '_[0-9]+$')";

/// Brings the task's views to the plan. A view that is right is left alone: replacing it would wait
/// for a load that reads it.
pub(crate) fn make_all(draft: &Draft, plan: &Plan) -> Result<(), Error> {
    let reader = endpoint::username(&draft.task.source)?;
    let existing: Vec<View> = spi::rows(VIEWS, &[draft.task.name.as_str().into()])?;
    let mut existing: BTreeMap<String, View> =
        existing.into_iter().map(|view| (view.name.clone(), view)).collect();
    for shape in &plan.shapes {
        for leaf in &shape.table.leaves {
            let view = definition::view_name(&draft.task.name, leaf);
            let body = body(shape, leaf);
            let right = existing.remove(&view).map(|found| {
                let readers: Vec<&str> = found.readers.iter().map(String::as_str).collect();
                let wanted: Vec<&str> =
                    reader.as_deref().filter(|reader| *reader != leaf.owner).into_iter().collect();
                found.comment.as_deref() == Some(&body)
                    && found.owner == leaf.owner
                    && readers == wanted
            });
            if right == Some(false) {
                drop(&view)?;
            }
            if right != Some(true) {
                make(&view, &body, leaf, reader.as_deref())?;
            }
        }
    }
    for stale in existing.keys() {
        drop(stale)?;
    }
    Ok(())
}

/// What follows the view's name: a leaf's rows as the target gets them, and `ctid` to read a part
/// of them. A table with inheritance children is read without them.
///
/// # What a reader cannot do
/// With a filter the view is a security barrier: a condition of the reader's own, however cheap, is
/// tried on no row that the filter holds back. And an expression whose errors could tell of values
/// is evaluated by `trem.computed`, which says nothing but the SQLSTATE.
fn body(shape: &Shape, leaf: &Leaf) -> String {
    let mut columns: Vec<String> = shape
        .columns
        .iter()
        .map(|column| {
            let value = match &column.computed {
                Some(Computed { expression, guard, .. }) => {
                    value(shape, expression, guard.as_ref(), &column.output.type_name)
                }
                None => name::quoted(column.source_name()),
            };
            format!("{value} AS {}", name::quoted(&column.name))
        })
        .collect();
    columns.push("ctid AS trem_ctid".to_owned());
    let relation = name::qualified(&leaf.schema, &leaf.name);
    let mut body = format!("AS SELECT {} FROM ONLY {relation}", columns.join(", "));
    // An expression may name a column with its table: that is the root, also in a partition.
    if shape.is_computed() && leaf.name != shape.table.name {
        body.push_str(&format!(" AS {}", name::quoted(&shape.table.name)));
    }
    match &shape.filter {
        None => body,
        Some(Filter { expression, guard, .. }) => {
            let holds = value(shape, expression, guard.as_ref(), "boolean");
            format!("WITH (security_barrier) {body} WHERE {holds}")
        }
    }
}

fn value(
    shape: &Shape,
    expression: &DefinedExpression,
    guard: Option<&Guard>,
    type_name: &str,
) -> String {
    let Some(guard) = guard else { return expression.sql.clone() };
    let table = &shape.table;
    let inputs = guard.attnums.iter().filter_map(|attnum| table.column(*attnum));
    let inputs: Vec<&str> = inputs.map(|column| column.name.as_str()).collect();
    let names: Vec<String> =
        [table.name.as_str()].iter().chain(&inputs).map(|name| name::literal(name)).collect();
    let attnums: Vec<String> = guard.attnums.iter().map(i16::to_string).collect();
    let columns: Vec<String> = inputs.iter().map(|name| name::quoted(name)).collect();
    let computed = format!(
        "trem.computed(CAST(NULL AS {type_name}), {}, {}::regclass, '{{{}}}', ARRAY[{}], {}, {})",
        expression.rule_id,
        name::literal(&name::qualified(&table.schema, &table.name)),
        attnums.join(","),
        names.join(", "),
        name::literal(&expression.sql),
        columns.join(", "),
    );
    match &guard.collation {
        Some(collation) => format!("({computed} COLLATE {collation})"),
        None => computed,
    }
}

fn make(view: &str, body: &str, leaf: &Leaf, reader: Option<&str>) -> Result<(), Error> {
    let quoted = name::qualified("trem_read", view);
    spi::run(&format!("CREATE VIEW {quoted} {body}"), &[])?;
    // The text is kept to see at the next publish whether the view is still right.
    spi::run(&format!("COMMENT ON VIEW {quoted} IS {}", name::literal(body)), &[])?;
    if let Some(reader) = reader {
        spi::run(&format!("GRANT SELECT ON {quoted} TO {}", name::quoted(reader)), &[])?;
    }
    spi::run(&format!("ALTER VIEW {quoted} OWNER TO {}", name::quoted(&leaf.owner)), &[])?;
    Ok(())
}

fn drop(view: &str) -> Result<(), Error> {
    spi::run(&format!("DROP VIEW {}", name::qualified("trem_read", view)), &[])?;
    Ok(())
}

/// Drops every view of a task.
pub(crate) fn drop_all(task: &str) -> Result<(), Error> {
    let existing: Vec<View> = spi::rows(VIEWS, &[task.into()])?;
    existing.iter().try_for_each(|view| drop(&view.name))
}
