//! Publishing: the draft becomes the next version of the task's definition, with its views, in the
//! caller's transaction: an applier sees all of it or nothing.

use std::collections::{BTreeSet, HashSet};

use pgrx::JsonB;
use serde::Deserialize;
use serde_json::{Map, Value};
use trem_wire::definition::Definition;
use trem_wire::Lsn;

use super::draft::Draft;
use super::plan::Plan;
use super::unseen::{self, Published, Unseen};
use super::{definition, endpoint, lock, name, plan, spi, stamp, view};
use crate::error::Error;
use crate::{pg, wal_message};

/// A draft that is about to be published, read while nothing can change about its tables.
pub(crate) struct Fresh {
    pub plan: Plan,
    /// Where the WAL ended before the catalog was read.
    lsn: Lsn,
}

/// Locks the draft's tables, notes the position and only then reads the catalog: whatever the plan
/// does not show is behind the position.
pub(crate) fn freshen(draft: &Draft) -> Result<Fresh, Error> {
    lock::tables(draft)?;
    let lsn = Lsn(pg::insert_lsn());
    Ok(Fresh { plan: plan::build(draft)?, lsn })
}

/// Whether publishing would change anything.
pub(crate) fn changes_anything(draft: &Draft, plan: &Plan) -> Result<bool, Error> {
    differs(draft, plan, &HashSet::new())
}

/// Whether all that publishing would change are tables that are to be loaded again.
pub(crate) fn reloads_only(draft: &Draft, plan: &Plan) -> Result<bool, Error> {
    let Some(published) = Published::find(draft)? else { return Ok(false) };
    let tables = published.content["tables"].as_array().into_iter().flatten();
    let again: HashSet<u64> = tables
        .filter_map(|table| {
            let oid = table["oid"].as_u64()?;
            let shape = plan.shapes.iter().find(|shape| u64::from(shape.table.oid) == oid)?;
            let attnums: Vec<_> =
                table["columns"].as_array()?.iter().map(|column| &column["attnum"]).collect();
            let is_new = |attnum: i16| !attnums.iter().any(|of| of.as_i64() == Some(attnum.into()));
            // Where something is hidden, a new column needs somebody's word.
            let shows_more =
                shape.hides_values() && shape.columns.iter().any(|column| is_new(column.attnum()));
            let again = table["load_generation"].as_i64()? < shape.load_generation;
            (again && !shows_more).then_some(oid)
        })
        .collect();
    Ok(!differs(draft, plan, &again)? && unseen::find(draft, plan)?.is_empty())
}

/// Whether the draft differs from what is published, apart from some tables that both have.
fn differs(draft: &Draft, plan: &Plan, apart_from: &HashSet<u64>) -> Result<bool, Error> {
    let Some(published) = Published::find(draft)? else { return Ok(true) };
    if published.rules != rules(plan) {
        return Ok(true);
    }
    let version = draft.task.definition_version.unwrap_or_default();
    let after = to_value(&definition::build(draft, plan, version)?);
    let [before, after] = [published.content, after].map(|document| {
        let mut document = stamp::without(document);
        if !apart_from.is_empty() {
            // They may need other types on the target.
            document["types"] = Value::Null;
        }
        for table in document["tables"].as_array_mut().into_iter().flatten() {
            if let Some(oid) = table["oid"].as_u64().filter(|oid| apart_from.contains(oid)) {
                *table = Value::from(oid);
            }
        }
        document
    });
    Ok(before != after)
}

/// Publishes the draft; gives the version that is current afterwards.
pub(crate) fn publish(draft: &Draft, fresh: &Fresh, keep: bool) -> Result<i64, Error> {
    let plan = &fresh.plan;
    let unseen = unseen::find(draft, plan)?;
    if !keep && !unseen.is_empty() {
        return Err(refusal(draft, unseen));
    }
    make_mask_keys(&plan.mask_keys)?;
    view::make_all(draft, plan)?;
    if let Some(reader) = endpoint::username(&draft.task.source)? {
        grant_applier(&reader)?;
    }
    if let Some(version) = draft.task.definition_version {
        // What is kept is seen: no stream must stop at it any more.
        let seen = unseen.is_empty() && !unseen::is_passed_by(draft)?;
        if seen && !changes_anything(draft, plan)? {
            return Ok(version);
        }
    }
    count_left(draft, plan)?;
    let version = store(draft, fresh)?;
    let message = wal_message::published(&draft.task.task_id, version);
    wal_message::write(&message).ok_or_else(wal_message::no_key)?;
    spi::run("SELECT trem.forget_changes()", &[])?;
    Ok(version)
}

/// Rows that are already on the target were made by the rules, and from the table, of before: they
/// need another load, or somebody's word that the target was adapted.
fn refusal(draft: &Draft, unseen: Vec<Unseen>) -> Error {
    Error::Unseen { task: draft.task.name.clone(), tables: unseen }
}

/// Stores the next version and makes it the current one.
fn store(draft: &Draft, fresh: &Fresh) -> Result<i64, Error> {
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
    let mut definition = definition::build(draft, &fresh.plan, version)?;
    let before = Published::find(draft)?.map(|published| published.content);
    stamp::put(&mut definition, fresh.lsn, before);
    spi::run(
        "INSERT INTO trem.definition
             (task_id, definition_version, content, rules, database_identity)
         VALUES ($1::uuid, $2, $3, $4, trem.database_identity())",
        &[
            task_id.into(),
            version.into(),
            JsonB(to_value(&definition)).into(),
            JsonB(Value::Object(rules(&fresh.plan))).into(),
        ],
    )?;
    spi::run(
        "UPDATE trem.task SET definition_version = $2 WHERE task_id = $1::uuid",
        &[task_id.into(), version.into()],
    )?;
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
