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

/// What `cargo pgrx test` asks for: how to start its server.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        let mut options = vec!["wal_level = logical"];
        // An older minor release has no such setting, and would not start with it.
        let minors = [140_024, 150_019, 160_015, 170_011, 180_006];
        let version = pgrx::pg_sys::PG_VERSION_NUM;
        if minors.iter().any(|minor| version / 10_000 == minor / 10_000 && version >= *minor) {
            options.push("output_plugin_libraries = 'pgoutput, test_decoding, trem'");
        }
        options
    }
}
