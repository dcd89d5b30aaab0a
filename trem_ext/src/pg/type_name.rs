//! Types by the names that users write, and what TREM asks about a type.

use std::ffi::{CStr, CString};

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{pg_sys, PgTryBuilder};

use super::expression::Fault;

/// A type and its modifier (`numeric(10,2)`), read by PostgreSQL's own grammar for type names.
///
/// After a fault the transaction must be given up: PostgreSQL's error was caught on its way.
pub(crate) fn parse_type(text: &str) -> Result<(u32, i32), Fault> {
    let fault = |message: String, hint: &str| Fault { message, hint: Some(hint.to_owned()) };
    let Ok(name) = CString::new(text) else {
        return Err(fault("the type's name holds a zero byte".to_owned(), HINT));
    };
    if text.trim().is_empty() {
        return Err(fault("the type's name is empty".to_owned(), HINT));
    }
    let parsed = PgTryBuilder::new(|| Ok(parse(&name)))
        .catch_others(|error| match error {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                Err(fault(report.message().to_owned(), report.hint().unwrap_or(HINT)))
            }
            CaughtError::RustPanic { ereport, .. } => {
                Err(fault(ereport.message().to_owned(), HINT))
            }
        })
        .execute();
    let (oid, modifier) = parsed?;
    // SAFETY: the type was just found in the catalog.
    let kind = unsafe { pg_sys::get_typtype(oid) } as u8;
    if kind == b'p' {
        return Err(fault(format!("\"{text}\" is a pseudo-type: no column can have it"), HINT));
    }
    Ok((oid.to_u32(), modifier))
}

const HINT: &str = "Write it as in a column's definition: 'numeric(10,2)', 'text[]'; a type that \
                    is not built in is named with its schema.";

fn parse(name: &CStr) -> (pg_sys::Oid, i32) {
    let (mut oid, mut modifier) = (pg_sys::Oid::INVALID, -1);
    // SAFETY: the name ends with a zero byte; the results go into variables of ours. What is no
    // type is an error, not a result.
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::parseTypeString(name.as_ptr(), &raw mut oid, &raw mut modifier, false);
        #[cfg(not(feature = "pg15"))]
        pg_sys::parseTypeString(
            name.as_ptr(),
            &raw mut oid,
            &raw mut modifier,
            std::ptr::null_mut(),
        );
    }
    (oid, modifier)
}

/// A type as messages name it.
pub(crate) fn type_name(oid: u32) -> String {
    // SAFETY: a lookup; for an OID that is no type it says `???`.
    unsafe { super::utf8(pg_sys::format_type_be(pg_sys::Oid::from(oid))) }
}

/// A type and its modifier as statements name them.
pub(crate) fn type_name_with_modifier(oid: u32, modifier: i32) -> String {
    // SAFETY: as above.
    unsafe { super::utf8(pg_sys::format_type_with_typemod(pg_sys::Oid::from(oid), modifier)) }
}

/// What a domain is made of; any other type itself.
pub(crate) fn base_type(oid: u32) -> u32 {
    // SAFETY: a lookup in the catalog, of a type that exists.
    unsafe { pg_sys::getBaseType(pg_sys::Oid::from(oid)) }.to_u32()
}

/// Whether an index of this built-in access method can hold the type without being told how.
pub(crate) fn has_default_operator_class(type_oid: u32, method: &str) -> bool {
    let method = match method {
        "btree" => pg_sys::BTREE_AM_OID,
        "hash" => pg_sys::HASH_AM_OID,
        "gist" => pg_sys::GIST_AM_OID,
        "gin" => pg_sys::GIN_AM_OID,
        "brin" => pg_sys::BRIN_AM_OID,
        "spgist" => pg_sys::SPGIST_AM_OID,
        _ => return false,
    };
    // SAFETY: a lookup in the catalog.
    let found = unsafe { pg_sys::GetDefaultOpClass(pg_sys::Oid::from(type_oid), method) };
    found != pg_sys::Oid::INVALID
}

/// Whether a value needs a collation and its expression does not tell which. A view cannot have
/// such a column.
pub(crate) fn lacks_collation(expression: *mut pg_sys::Expr) -> bool {
    let node: *mut pg_sys::Node = expression.cast();
    // SAFETY: a compiled expression is a valid tree.
    unsafe {
        pg_sys::type_is_collatable(pg_sys::exprType(node))
            && pg_sys::exprCollation(node) == pg_sys::Oid::INVALID
    }
}
