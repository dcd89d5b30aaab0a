//! Endpoints. The functions that people call have nine arguments by name; they are written in SQL
//! (sql/endpoint.sql) and hand one document to these.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::JsonB;

use crate::catalog::endpoint::{self, Endpoint};
use crate::error::Error;

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn endpoint_create(settings: JsonB) -> Result<(), ErrorReport> {
    Ok(endpoint::create(read(settings)?)?)
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn endpoint_alter(name: &str, settings: JsonB) -> Result<(), ErrorReport> {
    let settings = read(settings)?;
    let reader_changed = settings.username.is_some();
    endpoint::alter(name, settings)?;
    if reader_changed {
        notice!("start the endpoint's tasks again: that gives the role its rights");
    }
    Ok(())
}

#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_endpoint(name: &str) -> Result<(), ErrorReport> {
    Ok(endpoint::drop(name)?)
}

fn read(settings: JsonB) -> Result<Endpoint, Error> {
    serde_json::from_value(settings.0)
        .map_err(|_| Error::invalid("the name of the endpoint is missing", ""))
}
