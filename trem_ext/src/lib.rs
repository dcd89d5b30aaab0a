//! The extension `trem`: discovery, endpoints, tasks and their rules as SQL functions, and the
//! logical decoding output plugin `trem` that applies a published definition inside the source.
//!
//! This file only joins the modules. `api` holds the SQL functions, `catalog` what they read and
//! write, `output_plugin` the decoding half, which never reaches `api`; all unsafe code is in `pg`
//! and `output_plugin`.

mod api;
mod applier_barrier;
mod applier_rows;
mod applier_summary;
mod catalog;
mod error;
mod mask;
mod output_plugin;
mod peek;
mod pg;
mod wal_message;

pgrx::pg_module_magic!();

pgrx::extension_sql_file!("../../sql/bootstrap.sql", name = "bootstrap", bootstrap);
pgrx::extension_sql_file!(
    "../../sql/discovery.sql",
    name = "discovery",
    requires = ["bootstrap", api::discovery::exact_count]
);
pgrx::extension_sql_file!("../../sql/views.sql", name = "views", requires = ["bootstrap"]);
pgrx::extension_sql_file!(
    "../../sql/mask.sql",
    name = "mask",
    requires = ["bootstrap", api::rule::make_mask_key]
);
pgrx::extension_sql_file!(
    "../../sql/endpoint.sql",
    name = "endpoint",
    requires = [api::endpoint::endpoint_create, api::endpoint::endpoint_alter]
);
pgrx::extension_sql_file!(
    "../../sql/expression.sql",
    name = "expression",
    requires = [
        api::expression::pseudonym,
        api::expression::mask_partial,
        api::expression::mask_email,
        api::expression::mask_number,
        api::expression::commit_lsn,
        api::expression::commit_timestamp,
        api::expression::operation,
        api::expression::pinned_settings
    ]
);
pgrx::extension_sql_file!(
    "../../sql/applier.sql",
    name = "applier",
    requires = [
        "bootstrap",
        "views",
        api::applier::applier_tasks,
        api::applier::applier_version,
        api::applier::applier_endpoint,
        api::applier::applier_definition,
        api::applier::applier_report,
        api::applier::applier_exception,
        api::applier::applier_check,
        api::applier::applier_status_rows,
        applier_rows::applier_rows,
        applier_summary::applier_summary,
        applier_rows::applier_lock,
        applier_rows::applier_reread,
        applier_barrier::applier_barrier
    ]
);
pgrx::extension_sql_file!(
    "../../sql/preview.sql",
    name = "preview",
    requires = [api::report::preview_rows]
);
pgrx::extension_sql_file!(
    "../../sql/ddl.sql",
    name = "ddl",
    requires = ["bootstrap", api::ddl::give_way, api::ddl::keep_slots, api::ddl::note_change]
);
pgrx::extension_sql_file!("../../sql/grants.sql", name = "grants", finalize);

/// What `cargo pgrx test` asks for before it starts its server.
#[cfg(test)]
pub mod pg_test {
    use pgrx::pg_sys::PG_VERSION_NUM;

    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        let mut settings = vec!["wal_level = logical", "max_replication_slots = 20", "fsync = off"];
        if has_output_plugin_libraries() {
            settings.push("output_plugin_libraries = 'pgoutput, test_decoding, trem'");
        }
        settings
    }

    /// The minors of August 2026 refuse a plugin that is not listed; to earlier ones the setting
    /// is unknown, and they do not start with it.
    fn has_output_plugin_libraries() -> bool {
        match PG_VERSION_NUM / 10_000 {
            15 => PG_VERSION_NUM >= 150_019,
            16 => PG_VERSION_NUM >= 160_015,
            17 => PG_VERSION_NUM >= 170_011,
            18 => PG_VERSION_NUM >= 180_006,
            major => major > 18,
        }
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn the_extension_is_installed_in_its_own_schema() {
        let schema = Spi::get_one::<String>(
            "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'trem'",
        );
        assert_eq!(schema, Ok(Some("trem".to_owned())));
    }
}
