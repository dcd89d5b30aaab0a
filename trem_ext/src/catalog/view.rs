//! The views of `trem_read`, through which appliers read: one per table of a task, and per leaf of
//! a partitioned one, owned like the table and readable by the role that the source endpoint names.
//!
//! They are made by the owner of the extension, for somebody who is a member of the leaf's owner.
//! What stands in a view is read with the rights of who makes it and run with those of its reader:
//! so nothing of a user's does. Expressions over built-in types alone may, all others are given to
//! `trem.computed` as texts.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use trem_wire::definition::DefinedExpression;

use super::draft::Draft;
use super::plan::Plan;
use super::shape::{Computed, Filter, Guard, Shape};
use super::table::Leaf;
use super::{access, definition, endpoint, name, spi, table};
use crate::error::Error;
use crate::pg::view_token::{Call, OneTime};

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
    make_tokens(draft, plan)?;
    let leaves = plan.shapes.iter().flat_map(|shape| &shape.table.leaves);
    for owner in leaves.map(|leaf| leaf.owner.as_str()).collect::<BTreeSet<_>>() {
        show_tokens_to(owner)?;
    }
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
    forget_owners()
}

/// Sees that the tokens with which these views call `trem.computed` are there, and no others.
fn make_tokens(draft: &Draft, plan: &Plan) -> Result<(), Error> {
    let calls = plan.shapes.iter().flat_map(|shape| {
        let filter = shape.filter.iter().map(|f| (&f.expression, f.guard.as_ref()));
        let columns = shape.columns.iter().filter_map(|column| column.computed.as_ref());
        let columns = columns.map(|c| (&c.expression, c.guard.as_ref()));
        filter.chain(columns).filter_map(|(expression, guard)| {
            Some(Guarded::new(shape, expression, guard?).call().id())
        })
    });
    let ids: Vec<String> = calls.collect();
    let task_id = || draft.task.task_id.as_str().into();
    spi::run(
        "DELETE FROM trem.view_token WHERE task_id = $1::uuid AND id <> ALL ($2::text[])",
        &[task_id(), ids.clone().into()],
    )?;
    spi::run(
        "INSERT INTO trem.view_token (id, task_id)
         SELECT DISTINCT id, $1::uuid FROM unnest($2::text[]) AS id
         ON CONFLICT DO NOTHING",
        &[task_id(), ids.into()],
    )?;
    Ok(())
}

/// A view reads its tokens with the rights of its owner.
fn show_tokens_to(owner: &str) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Shown {
        shown: bool,
    }
    let sql = "SELECT has_table_privilege($1, 'trem.view_token', 'SELECT') AS shown";
    match spi::row(sql, &[owner.into()])? {
        Some(Shown { shown: true }) => Ok(()),
        _ => {
            let owner = name::quoted(owner);
            spi::run(&format!("GRANT SELECT ON trem.view_token TO {owner}"), &[]).map(|_| ())
        }
    }
}

/// Owners of which there is no view any more need no tokens.
fn forget_owners() -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Owner {
        name: String,
    }
    let owners: Vec<Owner> = spi::rows(
        "SELECT r.rolname AS name
         FROM pg_class AS c CROSS JOIN aclexplode(c.relacl) AS acl
         JOIN pg_roles AS r ON r.oid = acl.grantee
         WHERE c.oid = 'trem.view_token'::regclass AND acl.grantee <> c.relowner
           AND NOT EXISTS (SELECT FROM pg_class AS v
                           WHERE v.relnamespace = 'trem_read'::regnamespace
                             AND v.relowner = r.oid)",
        &[],
    )?;
    for Owner { name } in owners {
        spi::run(&format!("REVOKE ALL ON trem.view_token FROM {}", name::quoted(&name)), &[])?;
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
    let relation = format!("ONLY {}", name::qualified(&leaf.schema, &leaf.name));
    // An expression may name a column with its table: that is the root, also in a partition.
    let alias = (shape.is_computed() && leaf.name != shape.table.name)
        .then(|| format!(" AS {}", name::quoted(&shape.table.name)));
    let from = format!("{relation}{}", alias.unwrap_or_default());
    let begin = |call: &Call<'_>| {
        let id = name::literal(&call.id());
        format!("trem.computed((SELECT token FROM trem.view_token WHERE id = {id})")
    };
    let barrier = if shape.filter.is_some() { "WITH (security_barrier) " } else { "" };
    format!("{barrier}AS {}", select(shape, Some("ctid AS trem_ctid"), &from, &begin))
}

/// The statement that reads a table's rows, all partitions', as the target gets them, once: while
/// this token holds.
pub(super) fn rows(shape: &Shape, token: &OneTime) -> String {
    let only = if shape.table.is_partitioned() { "" } else { "ONLY " };
    let from = format!("{only}{}", name::qualified(&shape.table.schema, &shape.table.name));
    select(shape, None, &from, &|_| format!("trem.previewed({}", token.sql()))
}

/// How a call begins: with the function's name and the token.
type Begin<'a> = &'a dyn Fn(&Call<'_>) -> String;

fn select(shape: &Shape, more: Option<&str>, from: &str, begin: Begin<'_>) -> String {
    let columns = shape.columns.iter().map(|column| {
        let value = match &column.computed {
            Some(Computed { expression, guard, .. }) => {
                value(shape, expression, guard.as_ref(), begin)
            }
            None => name::quoted(column.source_name()),
        };
        format!("{value} AS {}", name::quoted(&column.name))
    });
    let columns: Vec<String> = columns.chain(more.map(str::to_owned)).collect();
    let select = format!("SELECT {} FROM {from}", columns.join(", "));
    match &shape.filter {
        None => select,
        Some(Filter { expression, guard, .. }) => {
            format!("{select} WHERE {}", value(shape, expression, guard.as_ref(), begin))
        }
    }
}

fn value(
    shape: &Shape,
    expression: &DefinedExpression,
    guard: Option<&Guard>,
    begin: Begin<'_>,
) -> String {
    match guard {
        None => expression.sql.clone(),
        Some(guard) => Guarded::new(shape, expression, guard).sql(begin),
    }
}

/// An expression that `trem.computed` evaluates.
struct Guarded<'a> {
    shape: &'a Shape,
    expression: &'a DefinedExpression,
    guard: &'a Guard,
    /// Of the table, and of the columns that it reads.
    names: Vec<&'a str>,
}

impl<'a> Guarded<'a> {
    fn new(shape: &'a Shape, expression: &'a DefinedExpression, guard: &'a Guard) -> Self {
        let table = &shape.table;
        let inputs = guard.attnums.iter().filter_map(|attnum| table.column(*attnum));
        let names = inputs.map(|column| column.name.as_str());
        let names = [table.name.as_str()].into_iter().chain(names).collect();
        Guarded { shape, expression, guard, names }
    }

    fn call(&self) -> Call<'_> {
        Call {
            rule_id: self.expression.rule_id,
            relation: self.shape.table.oid,
            output: self.guard.output,
            attnums: &self.guard.attnums,
            names: &self.names,
            expression: &self.expression.sql,
        }
    }

    fn sql(&self, begin: Begin<'_>) -> String {
        let (table, guard) = (&self.shape.table, self.guard);
        let names: Vec<String> = self.names.iter().map(|name| name::literal(name)).collect();
        let attnums: Vec<String> = guard.attnums.iter().map(i16::to_string).collect();
        let mut columns: Vec<String> =
            self.names.iter().skip(1).map(|name| name::quoted(name)).collect();
        if columns.is_empty() {
            // SQL wants one.
            columns.push("NULL::boolean".to_owned());
        }
        // The example is of a domain's base: of the domain itself it would be checked.
        let computed = format!(
            "{}, CAST(NULL AS {}), {}, {}::regclass, {}::regtype, '{{{}}}', \
             ARRAY[{}], {}, {})",
            begin(&self.call()),
            guard.base_type_name,
            self.expression.rule_id,
            name::literal(&name::qualified(&table.schema, &table.name)),
            name::literal(&guard.output_name),
            attnums.join(","),
            names.join(", "),
            name::literal(&self.expression.sql),
            columns.join(", "),
        );
        match &guard.collation {
            Some(collation) => format!("({computed} COLLATE {collation})"),
            None => computed,
        }
    }
}

fn make(view: &str, body: &str, leaf: &Leaf, reader: Option<&str>) -> Result<(), Error> {
    let quoted = name::qualified("trem_read", view);
    // What the name stands for must be what was planned, and a table.
    let locked = table::lock(leaf.oid, &name::display(&leaf.schema, &leaf.name))?;
    let owner = locked.owner.to_u32();
    let is_as_planned = (&locked.schema, &locked.name) == (&leaf.schema, &leaf.name);
    if !locked.has_rows() || !is_as_planned || !access::is_member(owner) {
        return Err(Error::State {
            message: format!("table {} changed meanwhile", name::display(&leaf.schema, &leaf.name)),
            hint: "Start the task again.".to_owned(),
        });
    }
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
    existing.iter().try_for_each(|view| drop(&view.name))?;
    forget_owners()
}
