//! Endpoints. The functions that people call have nine arguments by name; they are written in SQL
//! (sql/endpoint.sql) and hand one document to these.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::JsonB;

use crate::catalog::endpoint::{self, Endpoint};
use crate::catalog::publish;
use crate::error::{given, Error};

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn endpoint_create(settings: Option<JsonB>) -> Result<(), ErrorReport> {
    Ok(endpoint::create(read(settings)?)?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn endpoint_alter(settings: Option<JsonB>) -> Result<(), ErrorReport> {
    let settings = read(settings)?;
    let reader_changed = settings.username.is_some();
    endpoint::alter(settings)?;
    if reader_changed {
        notice!("start the endpoint's tasks again: that gives the role its rights");
    }
    Ok(())
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_endpoint(name: Option<&str>) -> Result<(), ErrorReport> {
    Ok(endpoint::drop(given("name", name)?)?)
}

fn read(settings: Option<JsonB>) -> Result<Endpoint, Error> {
    let settings = given("settings", settings)?.0;
    given("name", settings["name"].as_str())?;
    serde_json::from_value(settings)
        .map_err(|error| Error::invalid(format!("settings are no endpoint: {error}"), ""))
}

/// What a source endpoint does for its role, once more. For upgrades, which make the functions
/// anew; nobody else may call it.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn grant_applier(reader: Option<&str>) -> Result<(), ErrorReport> {
    Ok(publish::grant_applier(given("reader", reader)?)?)
}
