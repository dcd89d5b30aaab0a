//! Tasks: made, filled with tables, started, stopped, dropped.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, Uuid};
use serde::Deserialize;
use trem_wire::slot_name;

use crate::catalog::draft::{self, Draft, Task};
use crate::catalog::name::{self, TableName};
use crate::catalog::problem::{Problem, Severity};
use crate::catalog::publish;
use crate::catalog::{access, check, endpoint, items, options, plan, spi, table, view};
use crate::error::{given, Error};

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn create_task(
    name: Option<&str>,
    source: Option<&str>,
    target: Option<&str>,
    tables: Option<Vec<Option<String>>>,
    mode: default!(Option<&str>, "'full_load_and_cdc'"),
    options: default!(Option<JsonB>, "'{}'"),
) -> Result<Uuid, ErrorReport> {
    let new = NewTask {
        name: given("name", name)?,
        source: given("source", source)?,
        target: given("target", target)?,
        mode: given("mode", mode)?,
    };
    let tables = given("tables", tables)?.into_iter();
    let tables: Option<Vec<String>> = tables.collect();
    let tables = given("an element of tables", tables)?;
    Ok(create(new, &tables, &given("options", options)?)?)
}

struct NewTask<'a> {
    name: &'a str,
    source: &'a str,
    target: &'a str,
    mode: &'a str,
}

fn create(new: NewTask<'_>, tables: &[String], options: &JsonB) -> Result<Uuid, Error> {
    name::check_object("task", new.name)?;
    if draft::exists(new.name)? {
        return Err(Error::Exists { what: "task", name: new.name.to_owned() });
    }
    for (endpoint, role) in [(new.source, "source"), (new.target, "target")] {
        if endpoint::find_for_use(endpoint)?.role.as_deref() != Some(role) {
            return Err(Error::invalid(
                format!("endpoint \"{endpoint}\" is not a {role}"),
                format!("SELECT name FROM trem.endpoint WHERE role = '{role}'; lists them."),
            ));
        }
    }
    if !["full_load", "cdc", "full_load_and_cdc"].contains(&new.mode) {
        return Err(Error::invalid(
            format!("unknown mode \"{}\"", new.mode),
            "The modes are full_load, cdc and full_load_and_cdc.",
        ));
    }
    let options = options::merge(&serde_json::Value::Null, &options.0)?;
    spi::run(
        "INSERT INTO trem.task (name, source, target, mode, options, owner)
         VALUES ($1, $2, $3, $4, $5, $6::oid::regrole)",
        &[
            new.name.into(),
            new.source.into(),
            new.target.into(),
            new.mode.into(),
            JsonB(options).into(),
            access::caller_oid().into(),
        ],
    )?;
    let task = draft::find(new.name)?;
    for table in tables {
        items::add(&task, table)?;
    }
    Uuid::from_slice(&uuid_bytes(&task.task_id)?).map_err(Error::Catalog)
}

fn uuid_bytes(text: &str) -> Result<Vec<u8>, Error> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    digits
        .chunks(2)
        .map(|pair| {
            std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
        })
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| Error::Catalog("the task's id is no uuid".to_owned()))
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn alter_task(name: Option<&str>, options: Option<JsonB>) -> Result<(), ErrorReport> {
    let name = given("name", name)?;
    let task = draft::find_for_change(name)?;
    let options = options::merge(&task.options, &given("options", options)?.0)?;
    spi::run(
        "UPDATE trem.task SET options = $2 WHERE name = $1",
        &[name.into(), JsonB(options).into()],
    )?;
    drafted(&task);
    Ok(())
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn add_table(task: Option<&str>, table_name: Option<&str>) -> Result<(), ErrorReport> {
    let task = draft::find_for_change(given("task", task)?)?;
    items::add(&task, given("table_name", table_name)?)?;
    drafted(&task);
    Ok(())
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn remove_table(task: Option<&str>, table_name: Option<&str>) -> Result<(), ErrorReport> {
    let task = draft::find_for_change(given("task", task)?)?;
    items::remove(&task, given("table_name", table_name)?)?;
    drafted(&task);
    Ok(())
}

/// Says that a started task does not have the change yet.
pub(super) fn drafted(task: &Task) {
    if task.is_started() {
        notice!(
            "drafted; SELECT trem.start_task('{}') publishes it to the running task",
            task.name
        );
    }
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn start_task(
    name: Option<&str>,
    keep: default!(Option<bool>, "false"),
) -> Result<i64, ErrorReport> {
    Ok(start(given("name", name)?, given("keep", keep)?)?)
}

fn start(name: &str, keep: bool) -> Result<i64, Error> {
    let task = draft::find_for_change(name)?;
    let draft = Draft::load(task)?;
    let mut fresh = publish::freshen(&draft)?;
    let problems = check::all(&draft, &mut fresh.plan)?;
    let warnings = problems.iter().filter(|problem| problem.severity == Severity::Warning);
    // What publishing mends needs no word here.
    for problem in warnings.filter(|problem| problem.check != "published") {
        warning!("{}", problem.line());
    }
    refuse(name, problems)?;
    let version = publish::publish(&draft, &fresh, keep)?;
    set_state(name, "started")?;
    Ok(version)
}

/// An error if there is any among the problems; what changed, publishing asks about.
fn refuse(task: &str, mut problems: Vec<Problem>) -> Result<(), Error> {
    problems.retain(|of| of.severity == Severity::Error && of.check != check::CHANGED);
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Refused { task: task.to_owned(), problems })
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn stop_task(name: Option<&str>) -> Result<(), ErrorReport> {
    let name = given("name", name)?;
    draft::find_for_change(name)?;
    Ok(set_state(name, "stopped")?)
}

fn set_state(task: &str, state: &str) -> Result<(), Error> {
    spi::run("UPDATE trem.task SET state = $2 WHERE name = $1", &[task.into(), state.into()])?;
    notify(task)
}

/// Wakes the applier when the transaction commits.
fn notify(task: &str) -> Result<(), Error> {
    spi::run("SELECT pg_notify($1, $2)", &[trem_wire::NOTIFY_CHANNEL.into(), task.into()])?;
    Ok(())
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_task(name: Option<&str>) -> Result<(), ErrorReport> {
    Ok(drop(given("name", name)?)?)
}

fn drop(name: &str) -> Result<(), Error> {
    let task = draft::find_for_change(name)?;
    if task.is_started() {
        return Err(Error::State {
            message: format!("task \"{name}\" is started"),
            hint: format!("Stop it first: SELECT trem.stop_task('{name}');"),
        });
    }
    drop_slot(name)?;
    view::drop_all(name)?;
    spi::run("DELETE FROM trem.task WHERE name = $1", &[name.into()])?;
    notify(name)
}

fn drop_slot(task: &str) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Slot {
        active_pid: Option<i32>,
    }
    let slot = slot_name(task);
    let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1
               AND database = current_database()";
    match spi::row::<Slot>(sql, &[slot.as_str().into()])? {
        None => Ok(()),
        Some(Slot { active_pid: Some(pid) }) => Err(Error::State {
            message: format!("slot \"{slot}\" of task \"{task}\" is in use by process {pid}"),
            hint: "Wait until its applier has let go, or stop that applier.".to_owned(),
        }),
        Some(Slot { active_pid: None }) => {
            spi::run("SELECT pg_drop_replication_slot($1)", &[slot.as_str().into()])?;
            Ok(())
        }
    }
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn reload_table(task: Option<&str>, table_name: Option<&str>) -> Result<(), ErrorReport> {
    Ok(reload(given("task", task)?, given("table_name", table_name)?)?)
}

fn reload(task: &str, table_name: &str) -> Result<(), Error> {
    let task = draft::find_for_change(task)?;
    let draft = Draft::load(task)?;
    let (started, name) = (draft.task.is_started(), draft.task.name.clone());
    let oids: Vec<u32> = match name::parse(table_name)? {
        TableName::Table { schema, name } => {
            vec![items::of_task(&draft, table::find(&schema, &name)?)?.oid]
        }
        TableName::Pattern { schema } => {
            let shapes = plan::build(&draft)?.shapes;
            let of_schema = shapes.iter().filter(|shape| shape.table.schema == schema);
            of_schema.map(|shape| shape.table.oid).collect()
        }
    };
    spi::run(
        "INSERT INTO trem.task_load AS l (task_id, table_oid, load_generation)
         SELECT $1::uuid, oid::regclass, 2 FROM unnest($2::oid[]) AS oid
         ON CONFLICT (task_id, table_oid) DO UPDATE SET load_generation = l.load_generation + 1",
        &[draft.task.task_id.as_str().into(), spi::oids(oids).into()],
    )?;
    if !started {
        return Ok(());
    }
    let draft = Draft::load(draft.task)?;
    let mut fresh = publish::freshen(&draft)?;
    if publish::reloads_only(&draft, &fresh.plan)? {
        refuse(&name, check::all(&draft, &mut fresh.plan)?)?;
        publish::publish(&draft, &fresh, false)?;
        notify(&name)
    } else {
        drafted(&draft.task);
        Ok(())
    }
}
