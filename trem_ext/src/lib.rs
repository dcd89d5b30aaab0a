//! The extension `trem`: discovery, endpoints, tasks and their rules as SQL functions, and the
//! logical decoding output plugin `trem` that applies a published definition inside the source.
//!
//! This file only joins the modules. `api` holds the SQL functions, `catalog` what they read and
//! write, `output_plugin` the decoding half, which never reaches `api`; all unsafe code is in `pg`
//! and `output_plugin`.

mod output_plugin;
mod peek;
mod pg;

pgrx::pg_module_magic!();
