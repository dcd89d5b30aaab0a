//! What the target's rows do not show of a task's tables: other rules, partitions that came with
//! rows or went, rewrites, new names. Everything that came since the last publish is asked about,
//! because no stream brings it: the table is loaded again, or somebody says that the target was
//! adapted (`keep`).
//!
//! A partition that was made as one misses nothing: all of its rows are in the WAL.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::draft::{Draft, ItemKind};
use super::name;
use super::plan::Plan;
use super::shape::Shape;
use super::spi;
use crate::error::Error;
use crate::wal_message::Change;

/// One table, and why it is asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unseen {
    pub table: String,
    pub reason: Reason,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// The task's rules about it changed.
    Rules,
    /// The table changed: in words.
    Table(String),
    /// It is none of the task's any more, so it cannot be loaded again: in words.
    Gone(String),
}

impl Unseen {
    /// What `check_task` says of it; rules are the draft's own affair.
    pub(crate) fn message(&self) -> Option<&str> {
        match &self.reason {
            Reason::Rules => None,
            Reason::Table(words) | Reason::Gone(words) => Some(words),
        }
    }
}

/// What is published now.
#[derive(Deserialize)]
pub(crate) struct Published {
    pub content: Value,
    pub rules: Map<String, Value>,
}

/// Of the published document what is compared here.
#[derive(Deserialize)]
struct Before {
    oid: u32,
    source_schema: String,
    source_name: String,
    target_schema: String,
    target_name: String,
    load_generation: i64,
    leaves: Vec<BeforeLeaf>,
}

#[derive(Deserialize)]
struct BeforeLeaf {
    oid: u32,
    schema: String,
    name: String,
}

impl Published {
    pub(crate) fn find(draft: &Draft) -> Result<Option<Published>, Error> {
        spi::row(
            "SELECT d.content, d.rules
             FROM trem.definition AS d
             JOIN trem.task AS t USING (task_id, definition_version)
             WHERE t.name = $1 AND d.database_identity = trem.database_identity()",
            &[draft.task.name.as_str().into()],
        )
    }

    fn tables(&self) -> Result<Vec<Before>, Error> {
        let tables = self.content["tables"].as_array().into_iter().flatten();
        tables
            .map(|table| Before::deserialize(table).map_err(|e| Error::Catalog(e.to_string())))
            .collect()
    }
}

/// What the event triggers noted since the publish, by relation.
type Noted = BTreeMap<u32, BTreeSet<&'static str>>;

fn noted(published: &Published) -> Result<Noted, Error> {
    #[derive(Deserialize)]
    struct Row {
        relation: u32,
        change: String,
    }
    let since = published.content["published_lsn"].as_str().unwrap_or("0/0");
    let rows: Vec<Row> = spi::rows(
        "SELECT relation::bigint, change FROM trem.table_change WHERE lsn > $1::text::pg_lsn",
        &[since.into()],
    )?;
    let mut noted = Noted::new();
    for row in rows {
        if let Some(change) = Change::parse(&row.change) {
            noted.entry(row.relation).or_default().insert(change.as_str());
        }
    }
    Ok(noted)
}

/// Whether a stream may stop at something although there is nothing to ask about (a table was
/// renamed and renamed back): only a later version goes by it.
pub(crate) fn is_passed_by(draft: &Draft) -> Result<bool, Error> {
    let Some(published) = Published::find(draft)? else { return Ok(false) };
    #[derive(Deserialize)]
    struct Found {}
    let leaves = |table: &Before| table.leaves.iter().map(|leaf| leaf.oid).collect::<Vec<_>>();
    // 0: the tables of a schema.
    let mut oids = vec![0];
    for table in &published.tables()? {
        oids.push(table.oid);
        oids.extend(leaves(table));
    }
    let since = published.content["published_lsn"].as_str().unwrap_or("0/0");
    let found: Option<Found> = spi::row(
        "SELECT change FROM trem.table_change
         WHERE lsn > $1::text::pg_lsn AND (relation = ANY ($2::oid[]) OR root = ANY ($2::oid[]))
         LIMIT 1",
        &[since.into(), spi::oids(oids).into()],
    )?;
    Ok(found.is_some())
}

/// Everything that a publish has to ask about. A table that is to be loaded again is no question.
pub(crate) fn find(draft: &Draft, plan: &Plan) -> Result<Vec<Unseen>, Error> {
    let Some(published) = Published::find(draft)? else { return Ok(Vec::new()) };
    let (noted, before) = (noted(&published)?, published.tables()?);
    let mut found = Vec::new();
    for table in &before {
        let Some(shape) = plan.shapes.iter().find(|shape| shape.table.oid == table.oid) else {
            found.extend(gone(draft, table)?);
            continue;
        };
        if table.load_generation < shape.load_generation {
            continue;
        }
        let rules = published.rules.get(&table.oid.to_string());
        let reason = if rules.is_some_and(|rules| *rules != shape.rules) {
            Some(Reason::Rules)
        } else {
            renamed(table, shape).or_else(|| changed(table, shape, &noted)).map(Reason::Table)
        };
        found.extend(reason.map(|reason| Unseen { table: shape.table.display(), reason }));
    }
    Ok(found)
}

/// A name on the source counts where the target's name follows it.
fn renamed(before: &Before, shape: &Shape) -> Option<String> {
    let same =
        before.target_schema == shape.target_schema && before.target_name == shape.target_name;
    (!same).then(|| {
        format!(
            "it was renamed: its rows on the target are in {}, and belong into {}",
            name::display(&before.target_schema, &before.target_name),
            shape.target_display()
        )
    })
}

fn changed(before: &Before, shape: &Shape, noted: &Noted) -> Option<String> {
    let partitioned = shape.table.is_partitioned();
    let has = |oid: u32, change: Change| {
        noted.get(&oid).is_some_and(|changes| changes.contains(change.as_str()))
    };
    for leaf in &before.leaves {
        let still = shape.table.leaves.iter().any(|now| now.oid == leaf.oid);
        if !still {
            let what = if has(leaf.oid, Change::Dropped) { "dropped" } else { "detached" };
            return Some(format!(
                "its partition {} was {what}: its rows are still on the target, where they stay \
                 with keep",
                name::display(&leaf.schema, &leaf.name)
            ));
        }
    }
    let leaves = shape.table.leaves.iter().map(|leaf| (leaf.oid, &leaf.schema, &leaf.name));
    let root = (shape.table.oid, &shape.table.schema, &shape.table.name);
    for (oid, schema, leaf) in leaves.chain([root]) {
        let it = match partitioned && oid != shape.table.oid {
            true => format!("its partition {}", name::display(schema, leaf)),
            false => "it".to_owned(),
        };
        if has(oid, Change::Attached) {
            return Some(format!("{it} was attached: the stream does not have the rows it had"));
        }
        if has(oid, Change::Detached) {
            return Some(format!(
                "{it} was detached and attached again: the target has its rows of before"
            ));
        }
        if has(oid, Change::Unlogged) {
            return Some(format!(
                "{it} was unlogged for a time: the stream does not have what was written then"
            ));
        }
        if has(oid, Change::Rewritten) {
            return Some(format!("{it} was rewritten: its rows may have other values"));
        }
        if has(oid, Change::TypeAltered) {
            return Some(format!(
                "a type of the columns of {} was altered",
                name::display(schema, leaf)
            ));
        }
    }
    None
}

/// A table that a pattern brought into the task and that is not there any more. One that was named
/// is a problem of the draft, or was taken out by somebody.
fn gone(draft: &Draft, before: &Before) -> Result<Option<Unseen>, Error> {
    #[derive(Deserialize)]
    struct Now {
        schema: String,
        name: String,
    }
    let by_pattern = |schema: &str| {
        draft.items.iter().any(|item| {
            item.kind == ItemKind::Pattern && item.schema_name.as_deref() == Some(schema)
        })
    };
    let by_name = draft
        .items
        .iter()
        .any(|item| item.kind == ItemKind::Table && item.table_oid == Some(before.oid));
    if by_name || !by_pattern(&before.source_schema) {
        return Ok(None);
    }
    let now: Option<Now> = spi::row(
        "SELECT n.nspname AS schema, c.relname AS name
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.oid = $1::oid",
        &[i64::from(before.oid).into()],
    )?;
    let target = name::display(&before.target_schema, &before.target_name);
    let words = match now {
        None => format!("it was dropped: its rows stay in {target} on the target"),
        Some(now) if by_pattern(&now.schema) => return Ok(None),
        Some(now) => format!(
            "it is {} now, which is not in the task: its rows stay in {target} on the target as \
             they are",
            name::display(&now.schema, &now.name)
        ),
    };
    let table = name::display(&before.source_schema, &before.source_name);
    Ok(Some(Unseen { table, reason: Reason::Gone(words) }))
}
