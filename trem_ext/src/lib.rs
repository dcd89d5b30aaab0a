//! The extension `trem`: discovery, endpoints, tasks and their rules as SQL functions, and the
//! logical decoding output plugin `trem` that applies a published definition inside the source.
//!
//! This file only joins the modules. `api` holds the SQL functions, `catalog` what they read and
//! write, `output_plugin` the decoding half, which never reaches `api`; all unsafe code is in `pg`
//! and `output_plugin`.

mod api;
mod catalog;
mod error;

pgrx::pg_module_magic!();

pgrx::extension_sql_file!("../../sql/bootstrap.sql", name = "bootstrap", bootstrap);
pgrx::extension_sql_file!("../../sql/discovery.sql", name = "discovery", requires = ["bootstrap"]);
pgrx::extension_sql_file!("../../sql/views.sql", name = "views", requires = ["bootstrap"]);
pgrx::extension_sql_file!(
    "../../sql/endpoint.sql",
    name = "endpoint",
    requires = [api::endpoint::endpoint_create, api::endpoint::endpoint_alter]
);
pgrx::extension_sql_file!(
    "../../sql/applier.sql",
    name = "applier",
    requires = ["bootstrap", api::report::check_task]
);
pgrx::extension_sql_file!(
    "../../sql/preview.sql",
    name = "preview",
    requires = [api::report::preview_statement]
);
pgrx::extension_sql_file!("../../sql/grants.sql", name = "grants", finalize);
