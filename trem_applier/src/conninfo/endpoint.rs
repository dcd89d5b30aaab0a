//! An endpoint of the source database, as JSON, becomes a [`ConnInfo`]. Its secrets are often only
//! references (a variable, a file), which are followed here, where the applier runs.

use std::path::Path;

use serde_json::Value;

use super::options::Options;
use super::text::Pairs;
use super::ConnInfo;
use crate::error::{Error, Kind, Result};

/// Fields of the endpoint and the connection options they are.
const FIELDS: &[(&str, &str)] =
    &[("host", "host"), ("port", "port"), ("dbname", "dbname"), ("username", "user")];

/// Endpoint options that are connection options under the same name.
const OPTIONS: &[&str] =
    &["passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout"];

pub(super) fn parse(json: &Value, env: &dyn Fn(&str) -> Option<String>) -> Result<ConnInfo> {
    let name = text(&json["name"]).unwrap_or_default();
    read(json, env).map_err(|error| error.context(format!("endpoint \"{name}\"")))
}

fn read(json: &Value, env: &dyn Fn(&str) -> Option<String>) -> Result<ConnInfo> {
    if let Some(kind) = text(&json["kind"]).filter(|kind| kind != "postgresql") {
        return Err(Error::new(Kind::Argument, format!("kind \"{kind}\" is not supported"))
            .hint("The kind is postgresql."));
    }
    let options = &json["options"];
    let mut pairs = Pairs::new();
    let mut add = |name: &str, value: Option<String>| {
        pairs.extend(value.map(|value| (name.to_owned(), value)));
    };
    for (field, option) in FIELDS {
        add(option, text(&json[field]));
    }
    for option in OPTIONS {
        add(option, text(&options[option]));
    }
    add("password", password(json, env)?);
    let passfile_only = |name: &str| env(name).filter(|_| name == "PGPASSFILE");
    Options::new(pairs, &passfile_only)?.build()
}

fn password(json: &Value, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>> {
    let options = &json["options"];
    if let Some(password) = text(&json["password"]) {
        return Ok(Some(password));
    }
    if let Some(variable) = text(&options["password_env"]) {
        return env(&variable).map(Some).ok_or_else(|| {
            Error::new(Kind::Argument, format!("environment variable \"{variable}\" is not set"))
                .hint("The endpoint's option password_env names it; set it for the applier.")
        });
    }
    let Some(file) = text(&options["password_file"]) else { return Ok(None) };
    let content = std::fs::read_to_string(Path::new(&file)).map_err(|error| {
        Error::new(Kind::Argument, format!("cannot read password file \"{file}\": {error}")).hint(
            "The endpoint's option password_file names it; the applier must be able to read it.",
        )
    })?;
    Ok(Some(content.lines().next().unwrap_or_default().to_owned()))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}
