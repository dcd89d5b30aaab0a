//! Publishing: the draft becomes the next version of the task's definition, with its views, in the
//! caller's transaction: an applier sees all of it or nothing.

use std::collections::BTreeSet;

use pgrx::JsonB;
use serde::Deserialize;
use serde_json::{Map, Value};
use trem_wire::definition::Definition;

use super::draft::Draft;
use super::plan::Plan;
use super::shape::Shape;
use super::{definition, endpoint, name, spi, stamp, view};
use crate::error::Error;
use crate::published;

#[derive(Deserialize)]
struct Published {
    content: Value,
    rules: Map<String, Value>,
}

impl Published {
    fn find(draft: &Draft) -> Result<Option<Published>, Error> {
        spi::row(
            "SELECT d.content, d.rules
             FROM trem.definition AS d
             JOIN trem.task AS t USING (task_id, definition_version)
             WHERE t.name = $1 AND d.database_identity = trem.database_identity()",
            &[draft.task.name.as_str().into()],
        )
    }

    fn load_generation(&self, oid: u32) -> Option<i64> {
        let tables = self.content["tables"].as_array()?;
        let table = tables.iter().find(|table| table["oid"] == oid)?;
        table["load_generation"].as_i64()
    }
}

/// What publishing would change, beside which tables are to be loaded again.
#[derive(PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    LoadsOnly,
    More,
}

pub(crate) fn change(draft: &Draft, plan: &Plan) -> Result<Change, Error> {
    let Some(published) = Published::find(draft)? else { return Ok(Change::More) };
    let version = draft.task.definition_version.unwrap_or_default();
    let mut before = stamp::without(published.content.clone());
    let mut after = stamp::without(to_value(&definition::build(draft, plan, version)?));
    if published.rules != rules(plan) {
        return Ok(Change::More);
    }
    if before == after {
        return Ok(Change::Nothing);
    }
    for document in [&mut before, &mut after] {
        for table in document["tables"].as_array_mut().into_iter().flatten() {
            table["load_generation"] = Value::Null;
        }
    }
    Ok(if before == after { Change::LoadsOnly } else { Change::More })
}

/// Publishes the draft; gives the version that is current afterwards.
pub(crate) fn publish(draft: &Draft, plan: &Plan, keep: bool) -> Result<i64, Error> {
    if !keep {
        refuse_changed_rules(draft, plan)?;
    }
    make_mask_keys(&plan.mask_keys)?;
    view::make_all(draft, plan)?;
    if let Some(reader) = endpoint::username(&draft.task.source)? {
        grant_applier(&reader)?;
    }
    if let (Some(version), Change::Nothing) = (draft.task.definition_version, change(draft, plan)?)
    {
        return Ok(version);
    }
    count_left(draft, plan)?;
    #[derive(Deserialize)]
    struct Next {
        version: i64,
    }
    let task_id = draft.task.task_id.as_str();
    let next: Option<Next> = spi::row(
        "SELECT coalesce(max(definition_version), 0) + 1 AS version
         FROM trem.definition WHERE task_id = $1::uuid",
        &[task_id.into()],
    )?;
    let version = next.map_or(1, |next| next.version);
    let mut definition = definition::build(draft, plan, version)?;
    stamp::put(&mut definition, Published::find(draft)?.map(|published| published.content))?;
    let content = to_value(&definition);
    spi::run(
        "INSERT INTO trem.definition
             (task_id, definition_version, content, rules, database_identity)
         VALUES ($1::uuid, $2, $3, $4, trem.database_identity())",
        &[
            task_id.into(),
            version.into(),
            JsonB(content).into(),
            JsonB(Value::Object(rules(plan))).into(),
        ],
    )?;
    spi::run(
        "UPDATE trem.task SET definition_version = $2 WHERE task_id = $1::uuid",
        &[task_id.into(), version.into()],
    )?;
    published::emit(task_id, version)?;
    Ok(version)
}

/// A table that leaves the task misses changes from here on: should it come back, it is loaded
/// again.
fn count_left(draft: &Draft, plan: &Plan) -> Result<(), Error> {
    spi::run(
        "INSERT INTO trem.task_load AS l (task_id, table_oid, load_generation)
         SELECT d.task_id, c.oid::regclass, (defined->>'load_generation')::bigint + 1
         FROM trem.definition AS d
         JOIN trem.task AS t USING (task_id, definition_version)
         CROSS JOIN jsonb_array_elements(d.content->'tables') AS defined
         JOIN pg_class AS c ON c.oid = (defined->>'oid')::oid
         WHERE t.name = $1 AND c.oid <> ALL ($2::oid[])
           AND d.database_identity = trem.database_identity()
         ON CONFLICT (task_id, table_oid)
         DO UPDATE SET load_generation = greatest(l.load_generation, excluded.load_generation)",
        &[
            draft.task.name.as_str().into(),
            spi::oids(plan.shapes.iter().map(|shape| shape.table.oid)).into(),
        ],
    )?;
    Ok(())
}

fn to_value(definition: &Definition) -> Value {
    serde_json::to_value(definition).expect("a definition is plain JSON")
}

fn rules(plan: &Plan) -> Map<String, Value> {
    plan.shapes.iter().map(|shape| (shape.table.oid.to_string(), shape.rules.clone())).collect()
}

/// Rows that are already on the target were made by the rules of before: other rules need another
/// load, or somebody's word that the target was adapted.
fn refuse_changed_rules(draft: &Draft, plan: &Plan) -> Result<(), Error> {
    let Some(published) = Published::find(draft)? else { return Ok(()) };
    let changed = |shape: &&Shape| {
        let oid = shape.table.oid;
        let before = published.rules.get(&oid.to_string());
        before.is_some_and(|before| *before != shape.rules)
            && published.load_generation(oid) >= Some(shape.load_generation)
    };
    let tables: Vec<String> =
        plan.shapes.iter().filter(changed).map(|shape| shape.table.display()).collect();
    if tables.is_empty() {
        return Ok(());
    }
    Err(Error::RulesChanged { task: draft.task.name.clone(), tables })
}

/// Makes the keys that rules name and that are not there yet. They are never shown.
pub(crate) fn make_mask_keys(names: &BTreeSet<String>) -> Result<(), Error> {
    names.iter().try_for_each(|name| make_mask_key(name))
}

pub(crate) fn make_mask_key(name: &str) -> Result<(), Error> {
    // Each id has 122 bits from the server's strong random source.
    spi::run(
        "INSERT INTO trem.mask_key (name, key)
         SELECT $1, sha256(convert_to(string_agg(gen_random_uuid()::text, '-'), 'UTF8'))
         FROM generate_series(1, 3)
         ON CONFLICT (name) DO NOTHING",
        &[name.into()],
    )?;
    Ok(())
}

/// What every applier needs beside the views of its tasks. What it has already is not given again:
/// two who do that at a time would be in each other's way.
pub(crate) fn grant_applier(reader: &str) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Missing {
        what: String,
    }
    let missing: Vec<Missing> = spi::rows(
        "SELECT 'USAGE ON SCHEMA ' || nspname AS what FROM pg_namespace
         WHERE nspname IN ('trem', 'trem_read') AND NOT has_schema_privilege($1, oid, 'USAGE')
         UNION ALL
         SELECT 'EXECUTE ON FUNCTION ' || oid::regprocedure FROM pg_proc
         WHERE pronamespace = 'trem'::regnamespace
           AND (proname LIKE 'applier\\_%' OR proname = 'computed')
           AND NOT has_function_privilege($1, oid, 'EXECUTE')
         ORDER BY 1",
        &[reader.into()],
    )?;
    for Missing { what } in missing {
        spi::run(&format!("GRANT {what} TO {}", name::quoted(reader)), &[])?;
    }
    Ok(())
}
