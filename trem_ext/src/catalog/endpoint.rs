//! Endpoints: validated when they are made and when they are changed. A password is stored in a
//! table of its own, set here and read by [`super::applier`] alone.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::access::{self, Kind, Owned};
use super::problem::Problem;
use super::spi;
use crate::error::{self, Error};

/// What a person may say about an endpoint; absent or null: nothing said.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Endpoint {
    pub name: String,
    pub role: Option<String>,
    pub kind: Option<String>,
    pub dbname: Option<String>,
    pub host: Option<String>,
    pub port: Option<i32>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub options: Option<Value>,
    /// Of one that is stored.
    #[serde(skip_serializing)]
    pub owner: u32,
}

impl Endpoint {
    fn owned(&self) -> Owned<'_> {
        Owned { kind: Kind::Endpoint, name: &self.name, owner: self.owner }
    }
}

const OPTIONS: [&str; 8] = [
    "password_env",
    "password_file",
    "passfile",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "connect_timeout",
];

const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

pub(crate) fn create(mut given: Endpoint) -> Result<(), Error> {
    super::name::check_object("endpoint", &given.name)?;
    if exists(&given.name)? {
        return Err(Error::Exists { what: "endpoint", name: given.name });
    }
    let role = error::given("role", given.role.as_deref())?;
    if !["source", "target"].contains(&role) {
        let message = format!("\"{role}\" is no role of an endpoint");
        return Err(Error::invalid(message, "The roles are source and target."));
    }
    error::given("kind", given.kind.as_deref())?;
    if given.role.as_deref() == Some("source") && given.dbname.is_none() {
        given.dbname = Some(current_database()?);
    }
    given.options = Some(merge_options(&Value::Null, given.options.take())?);
    check(&given)?;
    spi::run(
        "INSERT INTO trem.endpoint
             (name, role, kind, dbname, host, port, username, options, owner)
         SELECT e.name, e.role, e.kind, e.dbname, e.host, e.port, e.username, e.options,
                $2::oid::regrole
         FROM jsonb_to_record($1) AS e (name text, role text, kind text, dbname text, host text,
                                        port int, username text, options jsonb)",
        &[document(&given), access::caller_oid().into()],
    )?;
    set_password(&given.name, given.password.as_deref())?;
    grant(&given)
}

/// What lets the endpoint's role see that there is nothing for it yet; publishing does it again,
/// for a role that is made later.
fn grant(endpoint: &Endpoint) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Found {}
    let (Some("source"), Some(username)) = (endpoint.role.as_deref(), &endpoint.username) else {
        return Ok(());
    };
    let sql = "SELECT rolname FROM pg_roles WHERE rolname = $1";
    match spi::row::<Found>(sql, &[username.as_str().into()])? {
        Some(Found {}) => super::publish::grant_applier(username),
        None => Ok(()),
    }
}

/// Stores a password, which nobody reads but the applier's role; an empty one takes it away.
fn set_password(endpoint: &str, password: Option<&str>) -> Result<(), Error> {
    let Some(password) = password else { return Ok(()) };
    spi::run("DELETE FROM trem.endpoint_password WHERE name = $1", &[endpoint.into()])?;
    if !password.is_empty() {
        spi::run(
            "INSERT INTO trem.endpoint_password (name, password) VALUES ($1, $2)",
            &[endpoint.into(), password.into()],
        )?;
    }
    spi::run(
        "UPDATE trem.endpoint SET password = $2 WHERE name = $1",
        &[endpoint.into(), (!password.is_empty()).into()],
    )?;
    Ok(())
}

/// Changes what is given and keeps the rest; an empty text takes a value away.
pub(crate) fn alter(given: Endpoint) -> Result<(), Error> {
    let name = given.name.clone();
    let name = name.as_str();
    let stored = find_for_change(name)?;
    let text = |given: Option<String>, stored: Option<String>| match given {
        Some(text) if text.is_empty() => None,
        Some(text) => Some(text),
        None => stored,
    };
    let changed = Endpoint {
        name: stored.name,
        role: stored.role,
        kind: text(given.kind, stored.kind),
        dbname: text(given.dbname, stored.dbname),
        host: text(given.host, stored.host),
        port: given.port.or(stored.port),
        username: text(given.username, stored.username),
        // Only to be checked; it is stored below.
        password: given.password.clone().filter(|password| !password.is_empty()),
        options: Some(merge_options(&stored.options.unwrap_or_default(), given.options)?),
        owner: stored.owner,
    };
    check(&changed)?;
    spi::run(
        "UPDATE trem.endpoint AS stored
         SET kind = e.kind, dbname = e.dbname, host = e.host, port = e.port,
             username = e.username, options = e.options
         FROM jsonb_to_record($1) AS e (name text, kind text, dbname text, host text, port int,
                                        username text, options jsonb)
         WHERE stored.name = e.name",
        &[document(&changed)],
    )?;
    set_password(name, given.password.as_deref())?;
    // Its tasks' appliers connect anew.
    spi::run(
        "SELECT pg_notify('trem', name) FROM trem.task WHERE $1 IN (source, target)",
        &[name.into()],
    )?;
    grant(&changed)
}

pub(crate) fn drop(name: &str) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Users {
        tasks: Option<String>,
    }
    find_for_change(name)?;
    let sql = "SELECT string_agg(name, ', ' ORDER BY name) AS tasks
               FROM trem.task WHERE $1 IN (source, target)";
    if let Some(Users { tasks: Some(tasks) }) = spi::row(sql, &[name.into()])? {
        return Err(Error::State {
            message: format!("endpoint \"{name}\" is used by: {tasks}"),
            hint: "Drop the tasks first: SELECT trem.drop_task('<task>');".to_owned(),
        });
    }
    spi::run("DELETE FROM trem.endpoint WHERE name = $1", &[name.into()])?;
    Ok(())
}

/// The endpoint, without its password.
pub(crate) fn find(name: &str) -> Result<Endpoint, Error> {
    let sql = "SELECT name, role, kind, dbname, host, port, username, options,
                      owner::oid::bigint
               FROM trem.endpoint WHERE name = $1";
    spi::row(sql, &[name.into()])?.ok_or_else(|| Error::Missing {
        what: "endpoint",
        name: format!("\"{name}\""),
        hint: "SELECT name, role FROM trem.endpoint; lists the endpoints.".to_owned(),
    })
}

/// An endpoint, for a member of its owner to use.
pub(crate) fn find_for_use(name: &str) -> Result<Endpoint, Error> {
    let endpoint = find(name)?;
    endpoint.owned().check()?;
    Ok(endpoint)
}

fn find_for_change(name: &str) -> Result<Endpoint, Error> {
    let endpoint = find_for_use(name)?;
    endpoint.owned().take_over()?;
    Ok(endpoint)
}

/// What `check_task` says about the endpoints of a task.
pub(crate) fn problems(name: &str) -> Result<Vec<Problem>, Error> {
    #[derive(Deserialize)]
    struct Lost {}
    let mut problems = Vec::new();
    let endpoint = find(name)?;
    if access::is_dropped(endpoint.owner) {
        let message = format!("the role that owned endpoint \"{name}\" was dropped");
        let hint =
            format!("A superuser takes it over: {}", { endpoint.owned().take_over_statement() });
        problems.push(Problem::warning("owner", message, hint));
    }
    let lost = "SELECT FROM trem.endpoint AS e WHERE e.name = $1 AND e.password
                AND NOT EXISTS (SELECT FROM trem.endpoint_password AS p WHERE p.name = e.name)";
    if let Some(Lost {}) = spi::row(lost, &[name.into()])? {
        let message = format!("the password of endpoint \"{name}\" is not in this database");
        let hint = format!(
            "A dump leaves passwords out. Set it again: SELECT trem.alter_endpoint('{name}', \
             password => '<password>');"
        );
        problems.push(Problem::error("password", message, hint));
    }
    Ok(problems)
}

/// The role that the applier connects as, if the endpoint names one.
pub(crate) fn username(name: &str) -> Result<Option<String>, Error> {
    Ok(find(name)?.username)
}

fn exists(name: &str) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Found {}
    let found: Option<Found> =
        spi::row("SELECT name FROM trem.endpoint WHERE name = $1", &[name.into()])?;
    Ok(found.is_some())
}

fn current_database() -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Current {
        dbname: String,
    }
    let current: Option<Current> = spi::row("SELECT current_database() AS dbname", &[])?;
    current
        .map(|current| current.dbname)
        .ok_or_else(|| Error::Catalog("no current database".to_owned()))
}

fn document(endpoint: &Endpoint) -> pgrx::datum::DatumWithOid<'static> {
    let document = serde_json::to_value(endpoint).expect("an endpoint is plain JSON");
    pgrx::JsonB(document).into()
}

fn check(endpoint: &Endpoint) -> Result<(), Error> {
    if endpoint.kind.as_deref() != Some("postgresql") {
        let kind = endpoint.kind.as_deref().unwrap_or_default();
        let message = format!("unknown kind of endpoint \"{kind}\"");
        return Err(Error::invalid(message, "The kinds are: postgresql."));
    }
    if endpoint.port.is_some_and(|port| !(1..=65_535).contains(&port)) {
        return Err(Error::invalid("the port is not between 1 and 65535", ""));
    }
    if endpoint.role.as_deref() == Some("source") {
        let current = current_database()?;
        if endpoint.dbname.as_ref() != Some(&current) {
            return Err(Error::invalid(
                format!("a source endpoint must name the database it is made in, \"{current}\""),
                "Create the extension and the endpoint in the database to be read.",
            ));
        }
    }
    let options = endpoint.options.as_ref().and_then(Value::as_object);
    let secrets = ["password_env", "password_file", "passfile"];
    let sources = secrets.iter().filter(|key| options.is_some_and(|o| o.contains_key(**key)));
    if sources.count() + usize::from(endpoint.password.is_some()) > 1 {
        return Err(Error::invalid(
            "the password has more than one source",
            "Give one of password, password_env, password_file and passfile.",
        ));
    }
    Ok(())
}

fn merge_options(stored: &Value, given: Option<Value>) -> Result<Value, Error> {
    let hint = || format!("The options are: {}.", OPTIONS.join(", "));
    let mut merged = stored.as_object().cloned().unwrap_or_default();
    let given = match given.unwrap_or_default() {
        Value::Null => Map::new(),
        Value::Object(given) => given,
        _ => return Err(Error::invalid("endpoint options are not a JSON object", hint())),
    };
    for (key, value) in given {
        if !OPTIONS.contains(&key.as_str()) {
            return Err(Error::invalid(format!("unknown endpoint option \"{key}\""), hint()));
        }
        if value.is_null() {
            merged.remove(&key);
            continue;
        }
        check_option(&key, &value)?;
        merged.insert(key, value);
    }
    Ok(Value::Object(merged))
}

fn check_option(key: &str, value: &Value) -> Result<(), Error> {
    let invalid = |hint: String| {
        // The value stays out of the message: it may be a secret in the wrong place.
        Err(Error::invalid(format!("invalid value for endpoint option \"{key}\""), hint))
    };
    match (key, value) {
        ("connect_timeout", Value::Number(seconds)) if seconds.as_u64().is_some() => Ok(()),
        ("connect_timeout", Value::String(text)) if text.parse::<u32>().is_ok() => Ok(()),
        ("connect_timeout", _) => invalid("It is a number of seconds.".to_owned()),
        ("sslmode", Value::String(mode)) if SSL_MODES.contains(&mode.as_str()) => Ok(()),
        ("sslmode", _) => invalid(format!("It is one of: {}.", SSL_MODES.join(", "))),
        (_, Value::String(text)) if !text.is_empty() => Ok(()),
        _ => invalid("It is a text.".to_owned()),
    }
}
