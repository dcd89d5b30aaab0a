//! The settings under which rules are read and values become text: one list for the plugin, the
//! SQL functions and every session of the applier. Whatever a session, role or database says
//! otherwise, copy and stream give the same.
//!
//! Not here: `search_path`, which is empty where values flow and names the catalog first where
//! expressions are read, and `client_encoding`, which a function cannot set.

/// Names in lower case, and values.
pub const PINNED: [(&str, &str); 12] = [
    ("datestyle", "ISO, MDY"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    // `to_char` writes these.
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("lc_time", "C"),
    // How expressions are read.
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("array_nulls", "on"),
    ("xmloption", "content"),
];
