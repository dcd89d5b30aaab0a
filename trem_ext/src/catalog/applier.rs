//! What an applier may have: its tasks, their definitions, where their endpoints are and how to log
//! in there. Only the role that a task's source endpoint names, its members and superusers: to own
//! a task or an endpoint is no right to read its password.

use std::collections::HashSet;

use pgrx::JsonB;
use serde::Deserialize;
use serde_json::Value;
use trem_wire::definition::Definition;

use super::draft::{self, Draft, Task};
use super::problem::Problem;
use super::{access, check, endpoint, name, plan, spi};
use crate::error::Error;
use crate::pg;

/// The endpoint `e` as a document, with its password.
const ENDPOINT: &str = "
    SELECT jsonb_build_object(
        'name', e.name, 'role', e.role, 'kind', e.kind, 'dbname', e.dbname, 'host', e.host,
        'port', e.port, 'username', e.username, 'options', e.options,
        'password', (SELECT p.password FROM trem.endpoint_password AS p WHERE p.name = e.name))";

/// The caller may serve tasks whose source endpoint names this role.
fn may_serve(reader: Option<&str>) -> bool {
    let caller = pg::caller();
    pg::is_superuser(caller)
        || reader.and_then(pg::role_of_name).is_some_and(|reader| pg::is_member(caller, reader))
}

/// A task, for who may serve it.
pub(crate) fn served(task: &str) -> Result<Task, Error> {
    let task = draft::find_any(task)?;
    if may_serve(endpoint::username(&task.source)?.as_deref()) {
        return Ok(task);
    }
    let caller = access::caller_name();
    Err(Error::Forbidden {
        message: format!("role \"{caller}\" may not serve task \"{}\"", task.name),
        hint: format!(
            "Name it in the source endpoint: SELECT trem.alter_endpoint('{}', username => {}), \
             then start the task again.",
            task.source,
            name::literal(&caller)
        ),
    })
}

#[derive(Deserialize)]
pub(crate) struct Listed {
    pub task_id: String,
    pub name: String,
    pub mode: String,
    pub state: String,
    pub definition_version: Option<i64>,
    pub options: Value,
    pub target: Value,
    reader: Option<String>,
}

/// Every task that the caller may serve.
pub(crate) fn tasks() -> Result<Vec<Listed>, Error> {
    let sql = format!(
        "SELECT t.task_id::text, t.name, t.mode, t.state, t.definition_version, t.options,
                s.username AS reader,
                ({ENDPOINT} - 'role' FROM trem.endpoint AS e WHERE e.name = t.target) AS target
         FROM trem.task AS t JOIN trem.endpoint AS s ON s.name = t.source
         ORDER BY t.name"
    );
    let mut listed: Vec<Listed> = spi::rows(&sql, &[])?;
    listed.retain(|task| may_serve(task.reader.as_deref()));
    Ok(listed)
}

/// How to connect to an endpoint of a task that the caller may serve.
pub(crate) fn endpoint_of_task(name: &str) -> Result<Value, Error> {
    #[derive(Deserialize)]
    struct Reader {
        username: Option<String>,
    }
    #[derive(Deserialize)]
    struct Found {
        endpoint: Value,
    }
    endpoint::find(name)?;
    let readers: Vec<Reader> = spi::rows(
        "SELECT s.username FROM trem.task AS t JOIN trem.endpoint AS s ON s.name = t.source
         WHERE $1 IN (t.source, t.target)",
        &[name.into()],
    )?;
    let serves = readers.iter().any(|reader| may_serve(reader.username.as_deref()));
    if !serves && !may_serve(None) {
        return Err(Error::Forbidden {
            message: format!("role \"{}\" may not use endpoint \"{name}\"", access::caller_name()),
            hint: "It belongs to no task that this role may serve.".to_owned(),
        });
    }
    let sql = format!("SELECT ({ENDPOINT}) AS endpoint FROM trem.endpoint AS e WHERE e.name = $1");
    let found: Option<Found> = spi::row(&sql, &[name.into()])?;
    found.map(|found| found.endpoint).ok_or_else(|| Error::Catalog("it was dropped".to_owned()))
}

/// The current published definition of a task.
pub(crate) fn definition(task: &Task) -> Result<Value, Error> {
    #[derive(Deserialize)]
    struct Found {
        content: Value,
        is_here: bool,
    }
    let found: Option<Found> = spi::row(
        "SELECT d.content, d.database_identity = trem.database_identity() AS is_here
         FROM trem.definition AS d
         WHERE d.task_id = $1::uuid AND d.definition_version = $2",
        &[task.task_id.as_str().into(), task.definition_version.into()],
    )?;
    let name = &task.name;
    match found {
        None => Err(Error::State {
            message: format!("task \"{name}\" is not published"),
            hint: format!("SELECT trem.start_task('{name}');"),
        }),
        // The OIDs of another database mean other tables here, or none.
        Some(Found { is_here: false, .. }) => Err(Error::State {
            message: format!(
                "task \"{name}\" was published in another database: this one was restored from a \
                 dump, or upgraded"
            ),
            hint: format!(
                "SELECT trem.start_task('{name}'); publishes it here. Or, if the task is to stay \
                 where it was: SELECT trem.stop_task('{name}');"
            ),
        }),
        Some(Found { content, .. }) => Ok(content),
    }
}

/// Stores what the views of the status show.
pub(crate) fn report(task: &Task, report: JsonB) -> Result<(), Error> {
    let sql = "SELECT trem.store_report($1::uuid, $2)";
    spi::run(sql, &[task.task_id.as_str().into(), report.into()]).map(|_| ())
}

/// Stores what the view `trem.exception` shows.
pub(crate) fn exceptions(task: &Task, exceptions: JsonB) -> Result<(), Error> {
    let sql = "SELECT trem.store_exceptions($1::uuid, $2)";
    spi::run(sql, &[task.task_id.as_str().into(), exceptions.into()]).map(|_| ())
}

/// Rows of `trem.task_status`, of the tasks that the caller may serve.
pub(crate) fn status() -> Result<Vec<Value>, Error> {
    #[derive(Deserialize)]
    struct Status {
        status: Value,
        reader: Option<String>,
    }
    let rows: Vec<Status> = spi::rows(
        "SELECT to_jsonb(s) AS status, e.username AS reader
         FROM trem.task_status_of_all AS s JOIN trem.endpoint AS e ON e.name = s.source
         ORDER BY s.task",
        &[],
    )?;
    let served = rows.into_iter().filter(|row| may_serve(row.reader.as_deref()));
    Ok(served.map(|row| row.status).collect())
}

/// What `check_task` says, without what concerns only the draft or who publishes it: that may be
/// wrong without harm to what runs.
pub(crate) fn problems(task: Task) -> Result<Vec<Problem>, Error> {
    let published = match task.definition_version {
        Some(_) => Some(definition(&task)?),
        None => None,
    };
    let draft = Draft::load(task)?;
    let mut plan = plan::build(&draft)?;
    let mut problems = check::all(&draft, &mut plan)?;
    problems.retain(|problem| problem.check != check::PUBLISHER);
    let Some(published) = published else { return Ok(problems) };
    let published: Definition = serde_json::from_value(published)
        .map_err(|error| Error::Catalog(format!("published definition: {error}")))?;
    let oids: HashSet<u32> = published.tables.iter().map(|table| table.oid).collect();
    // By the names that messages use: those of now, and those of a table that is gone.
    let mut names: HashSet<String> = published
        .tables
        .iter()
        .map(|table| name::display(&table.source_schema, &table.source_name))
        .collect();
    for shape in plan.shapes.iter().filter(|shape| oids.contains(&shape.table.oid)) {
        names.insert(shape.table.display());
        let leaves = shape.table.leaves.iter();
        names.extend(leaves.map(|leaf| name::display(&leaf.schema, &leaf.name)));
    }
    problems.retain(|problem| match &problem.table {
        None => problem.check != "tables",
        // What changed unseen, the stream meets in its place, and stops there.
        Some(table) => {
            let of_draft = ["rule", "name_clash", check::CHANGED].contains(&problem.check);
            names.contains(table) && !of_draft
        }
    });
    Ok(problems)
}
