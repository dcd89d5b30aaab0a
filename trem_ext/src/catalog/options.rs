//! The options of a task: a closed set, checked one by one so that the message names the culprit.

use serde_json::{Map, Value};
use trem_wire::definition::{Ddl, TaskOptions};

use crate::error::Error;

const JOBS_MAX: u16 = 64;

/// Adds `given` to `options`; a null takes an option back to its default.
pub(crate) fn merge(options: &Value, given: &Value) -> Result<Value, Error> {
    let Value::Object(given) = given else {
        return Err(Error::invalid("task options are not a JSON object", hint()));
    };
    let mut merged = options.as_object().cloned().unwrap_or_default();
    for (key, value) in given {
        if !TaskOptions::KEYS.contains(&key.as_str()) {
            return Err(Error::invalid(format!("unknown task option \"{key}\""), hint()));
        }
        if value.is_null() {
            merged.remove(key);
        } else {
            check_value(key, value)?;
            merged.insert(key.clone(), value.clone());
        }
    }
    Ok(Value::Object(merged))
}

fn check_value(key: &str, value: &Value) -> Result<(), Error> {
    let alone = Value::Object(Map::from_iter([(key.to_owned(), value.clone())]));
    let invalid = |why: String| {
        Error::invalid(format!("invalid value {value} for task option \"{key}\": {why}"), hint())
    };
    let options: TaskOptions =
        serde_json::from_value(alone).map_err(|error| invalid(error.to_string()))?;
    if !(1..=JOBS_MAX).contains(&options.full_load_jobs) {
        return Err(invalid(format!("it must be between 1 and {JOBS_MAX}")));
    }
    if options.wal_keep_bytes == Some(0) {
        return Err(invalid("it must be positive".to_owned()));
    }
    Ok(())
}

fn hint() -> String {
    "The options are target_tables (create, truncate, keep), on_error (stop, skip_row), ddl \
     (apply, ignore, stop), full_load_jobs, indexes (all, key), wal_keep_bytes and compression \
     (zstd, none)."
        .to_owned()
}

/// The options as published. A task that leaves columns out or masks values ignores new columns,
/// unless told otherwise: a new sensitive column must never flow by itself.
pub(crate) fn effective(stored: &Value, hides_values: bool) -> Result<TaskOptions, Error> {
    let mut options: TaskOptions = serde_json::from_value(stored.clone())
        .map_err(|error| Error::Catalog(format!("stored task options: {error}")))?;
    if hides_values && stored.get("ddl").is_none() {
        options.ddl = Ddl::Ignore;
    }
    Ok(options)
}
