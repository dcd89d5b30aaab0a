//! The built-in functions that are not immutable and admitted all the same, and why.
//!
//! Most depend on nothing but settings that TREM pins wherever it evaluates an expression
//! (`TimeZone`, `DateStyle`, `IntervalStyle`, `extra_float_digits`, `bytea_output`,
//! `lc_monetary`), so that the copy and the stream get the same. Some are declared stable because
//! they call the output function of whatever type they are given; `admit` sees to the types.
//!
//! Not here, and never: what depends on the time, the session, the user or the content of tables
//! (`now`, `current_setting`, `pg_typeof`, casts to `regclass`, `to_tsvector` of one argument).

use std::collections::HashSet;
use std::sync::OnceLock;

use pgrx::{direct_function_call, pg_sys, IntoDatum};

/// Reason, then functions as `regprocedure` reads them.
const ADMITTED: &[(&str, &[&str])] = &[
    (
        "input and output of dates and times: TimeZone, DateStyle and IntervalStyle are pinned",
        &[
            "date_in(cstring)",
            "date_out(date)",
            "time_in(cstring,oid,integer)",
            "timetz_in(cstring,oid,integer)",
            "timestamp_in(cstring,oid,integer)",
            "timestamp_out(timestamp)",
            "timestamptz_in(cstring,oid,integer)",
            "timestamptz_out(timestamptz)",
            "interval_in(cstring,oid,integer)",
            "interval_out(interval)",
        ],
    ),
    (
        "input and output of other types: their settings are pinned, or they look up the type only",
        &[
            "cash_in(cstring)",
            "cash_out(money)",
            "enum_in(cstring,oid)",
            "enum_out(anyenum)",
            "array_in(cstring,oid,integer)",
            "array_out(anyarray)",
            "record_in(cstring,oid,integer)",
            "record_out(record)",
            "range_in(cstring,oid,integer)",
            "range_out(anyrange)",
            "multirange_in(cstring,oid,integer)",
            "multirange_out(anymultirange)",
            "domain_in(cstring,oid,integer)",
        ],
    ),
    (
        "casts and arithmetic of times with a zone: TimeZone is pinned",
        &[
            "timestamptz(date)",
            "timestamptz(timestamp)",
            "\"timestamp\"(timestamptz)",
            "date(timestamptz)",
            "\"time\"(timestamptz)",
            "timetz(timestamptz)",
            "timetz(time)",
            "timestamptz(date,time)",
            "timestamptz_pl_interval(timestamptz,interval)",
            "timestamptz_mi_interval(timestamptz,interval)",
            "interval_pl_timestamptz(interval,timestamptz)",
            "make_timestamptz(integer,integer,integer,integer,integer,double precision)",
            "make_timestamptz(integer,integer,integer,integer,integer,double precision,text)",
            "date_trunc(text,timestamptz)",
            "date_trunc(text,timestamptz,text)",
            "date_part(text,timestamptz)",
            "extract(text,timestamptz)",
            "timezone(text,timetz)",
        ],
    ),
    (
        "comparisons of times with and without a zone: TimeZone is pinned",
        &[
            "date_lt_timestamptz(date,timestamptz)",
            "date_le_timestamptz(date,timestamptz)",
            "date_eq_timestamptz(date,timestamptz)",
            "date_ne_timestamptz(date,timestamptz)",
            "date_ge_timestamptz(date,timestamptz)",
            "date_gt_timestamptz(date,timestamptz)",
            "timestamptz_lt_date(timestamptz,date)",
            "timestamptz_le_date(timestamptz,date)",
            "timestamptz_eq_date(timestamptz,date)",
            "timestamptz_ne_date(timestamptz,date)",
            "timestamptz_ge_date(timestamptz,date)",
            "timestamptz_gt_date(timestamptz,date)",
            "timestamp_lt_timestamptz(timestamp,timestamptz)",
            "timestamp_le_timestamptz(timestamp,timestamptz)",
            "timestamp_eq_timestamptz(timestamp,timestamptz)",
            "timestamp_ne_timestamptz(timestamp,timestamptz)",
            "timestamp_ge_timestamptz(timestamp,timestamptz)",
            "timestamp_gt_timestamptz(timestamp,timestamptz)",
            "timestamptz_lt_timestamp(timestamptz,timestamp)",
            "timestamptz_le_timestamp(timestamptz,timestamp)",
            "timestamptz_eq_timestamp(timestamptz,timestamp)",
            "timestamptz_ne_timestamp(timestamptz,timestamp)",
            "timestamptz_ge_timestamp(timestamptz,timestamp)",
            "timestamptz_gt_timestamp(timestamptz,timestamp)",
        ],
    ),
    (
        "formatting: TimeZone and lc_monetary are pinned, the other locales are the database's",
        &[
            "to_char(timestamptz,text)",
            "to_char(timestamp,text)",
            "to_char(interval,text)",
            "to_char(numeric,text)",
            "to_char(integer,text)",
            "to_char(bigint,text)",
            "to_char(real,text)",
            "to_char(double precision,text)",
            "to_date(text,text)",
            "to_timestamp(text,text)",
            "to_number(text,text)",
            "money(numeric)",
            "money(integer)",
            "money(bigint)",
            "\"numeric\"(money)",
        ],
    ),
    (
        "encodings: they look up a conversion, and conversions are in C",
        &["convert_from(bytea,name)", "convert_to(text,name)"],
    ),
    (
        "text of any value: stable because they call the type's output function",
        &[
            "concat(\"any\")",
            "concat_ws(text,\"any\")",
            "format(text)",
            "format(text,\"any\")",
            "textanycat(text,anynonarray)",
            "anytextcat(anynonarray,text)",
            "quote_literal(anyelement)",
            "quote_nullable(anyelement)",
            "array_to_string(anyarray,text)",
            "array_to_string(anyarray,text,text)",
        ],
    ),
    (
        "JSON of any value: stable because they call the type's output function, or its cast to \
         json; `admit` sees to that",
        JSON_MAKERS,
    ),
];

const JSON_MAKERS: &[&str] = &[
    "to_json(anyelement)",
    "to_jsonb(anyelement)",
    "row_to_json(record)",
    "row_to_json(record,boolean)",
    "array_to_json(anyarray)",
    "array_to_json(anyarray,boolean)",
    "json_build_object()",
    "json_build_object(\"any\")",
    "json_build_array()",
    "json_build_array(\"any\")",
    "jsonb_build_object()",
    "jsonb_build_object(\"any\")",
    "jsonb_build_array()",
    "jsonb_build_array(\"any\")",
];

/// Whether a function that is not immutable is admitted.
pub(super) fn is_admitted(function: pg_sys::Oid) -> bool {
    static OIDS: OnceLock<HashSet<u32>> = OnceLock::new();
    let all = || ADMITTED.iter().flat_map(|(_reason, signatures)| signatures.iter());
    OIDS.get_or_init(|| resolve(all())).contains(&function.to_u32())
}

/// Whether it makes JSON of whatever it is given.
pub(super) fn makes_json(function: pg_sys::Oid) -> bool {
    static OIDS: OnceLock<HashSet<u32>> = OnceLock::new();
    OIDS.get_or_init(|| resolve(JSON_MAKERS.iter())).contains(&function.to_u32())
}

/// The OIDs; a version of the server that lacks one of the functions does without.
fn resolve<'a>(signatures: impl Iterator<Item = &'a &'a str>) -> HashSet<u32> {
    signatures
        .filter_map(|signature| {
            let argument = format!("pg_catalog.{signature}").into_datum();
            // SAFETY: the function takes one text and gives an OID or NULL.
            unsafe { direct_function_call::<pg_sys::Oid>(pg_sys::to_regprocedure, &[argument]) }
        })
        .map(pg_sys::Oid::to_u32)
        .collect()
}
