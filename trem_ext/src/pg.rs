//! What of PostgreSQL differs between its major versions, and the few unsafe reads that more than
//! one module needs, each behind a small function with one meaning.
//!
//! Never keeps state and never raises errors of its own, but for `computed` and `logical_only`,
//! which the server calls, and `owner`, which says whose rights hold.

mod allocate;
mod change_at_hand;
mod computed;
pub(crate) mod dependency;
mod drop_command;
mod evaluate;
pub(crate) mod event_trigger;
pub(crate) mod expression;
mod logical_only;
mod owner;
mod settings;
mod sql_type;
pub(crate) mod table;
pub(crate) mod table_scan;
mod type_name;
mod type_shape;
pub(crate) mod view_token;
mod wal;

use std::ffi::{c_char, CStr};

use pgrx::{pg_sys, PgList};
use trem_wire::message::RowFormat;

pub(crate) use allocate::{check_memory, forget_shortage, out_of_memory, with_parachute};
pub(crate) use change_at_hand::{change_at_hand, ChangeAtHand, CommitAtHand};
pub(crate) use dependency::{lock_against_ddl, sees_one_moment};
pub(crate) use evaluate::{handle_division, over_row, Evaluator, Failed};
pub(crate) use owner::{
    as_extension_owner, as_role, caller, is_member, is_superuser, pin_for_reading, role_name,
    role_of_name, transaction_stamp, Evaluation,
};
pub(crate) use settings::{PinnedSettings, READ_AHEAD};
pub(crate) use sql_type::{JsonText, PgLsn, TextBytes, Xid8};
pub(crate) use type_name::{
    base_type, has_default_operator_class, lacks_collation, parse_type, type_name,
    type_name_with_modifier,
};
pub(crate) use type_shape::{remember_order, type_shapes};
pub(crate) use wal::{add_table_change, insert_lsn, log_message, message_key, top_full_xid};

extern "C-unwind" {
    /// catalog/partition.h, which pgrx does not bind; the same from 15 to 18.
    fn get_partition_ancestors(relation: pg_sys::Oid) -> *mut pg_sys::List;
}

/// The tables of which a relation is a partition, the nearest first; none if it is no partition.
///
/// # Safety
/// `relation` is open, in a transaction or a callback that decodes a change.
pub(crate) unsafe fn partition_ancestors(relation: pg_sys::Relation) -> Vec<u32> {
    // SAFETY: an open relation has its pg_class row; the function returns a list of OIDs, and the
    // guard around it holds nothing that must be dropped.
    let ancestors = unsafe {
        if !(*(*relation).rd_rel).relispartition {
            return Vec::new();
        }
        let oid = (*relation).rd_id;
        let list = pg_sys::ffi::pg_guard_ffi_boundary(|| get_partition_ancestors(oid));
        PgList::<pg_sys::Oid>::from_pg(list)
    };
    ancestors.iter_oid().map(pg_sys::Oid::to_u32).collect()
}

/// The row before a change, if the WAL has (part of) one.
///
/// # Safety
/// `change` is an insert, update or delete that the server handed to a change callback.
pub(crate) unsafe fn old_tuple(change: *mut pg_sys::ReorderBufferChange) -> pg_sys::HeapTuple {
    // SAFETY: for these actions `tp` is the union's live arm.
    tuple_of(unsafe { (*change).data.tp.oldtuple })
}

/// The row after a change; null for a delete.
///
/// # Safety
/// As for [`old_tuple`].
pub(crate) unsafe fn new_tuple(change: *mut pg_sys::ReorderBufferChange) -> pg_sys::HeapTuple {
    // SAFETY: for these actions `tp` is the union's live arm.
    tuple_of(unsafe { (*change).data.tp.newtuple })
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
fn tuple_of(buffer: *mut pg_sys::ReorderBufferTupleBuf) -> pg_sys::HeapTuple {
    if buffer.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: a buffer that is not null holds a tuple; only its address is taken.
    unsafe { &raw mut (*buffer).tuple }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn tuple_of(tuple: pg_sys::HeapTuple) -> pg_sys::HeapTuple {
    tuple
}

/// An attribute of a row descriptor, counted from 0.
///
/// # Safety
/// `descriptor` is valid for `'a` and has more than `index` attributes.
#[cfg(not(feature = "pg18"))]
pub(crate) unsafe fn attribute<'a>(
    descriptor: pg_sys::TupleDesc,
    index: usize,
) -> &'a pg_sys::FormData_pg_attribute {
    // SAFETY: the attributes follow the descriptor's header in memory, `natts` of them.
    unsafe { &*(*descriptor).attrs.as_ptr().add(index) }
}

/// An attribute of a row descriptor, counted from 0.
///
/// # Safety
/// `descriptor` is valid for `'a` and has more than `index` attributes.
#[cfg(feature = "pg18")]
pub(crate) unsafe fn attribute<'a>(
    descriptor: pg_sys::TupleDesc,
    index: usize,
) -> &'a pg_sys::FormData_pg_attribute {
    // SAFETY: the caller vouches for both arguments.
    unsafe { &*pg_sys::TupleDescAttr(descriptor, index as i32) }
}

/// The primary key's index, or InvalidOid. A deferrable one does not count: it is no identity.
///
/// # Safety
/// `relation` is open.
pub(crate) unsafe fn primary_key_index(relation: pg_sys::Relation) -> pg_sys::Oid {
    #[cfg(feature = "pg18")]
    // SAFETY: the relation is open.
    return unsafe { pg_sys::RelationGetPrimaryKeyIndex(relation, false) };
    #[cfg(not(feature = "pg18"))]
    // SAFETY: the relation is open.
    return unsafe { pg_sys::RelationGetPrimaryKeyIndex(relation) };
}

/// True where the server itself keeps the connection alive while a plugin skips changes (from 16).
pub(crate) const SERVER_REPORTS_PROGRESS: bool = !cfg!(feature = "pg15");

/// A 64-bit transaction id from a 32-bit one that belongs to the past.
pub(crate) fn full_xid(xid: pg_sys::TransactionId) -> u64 {
    // SAFETY: reads a shared counter under its lock.
    let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
    widen_xid(xid.into_inner(), next)
}

/// `next` is above `xid` by less than 2^32: of the candidates the largest one below it is right.
fn widen_xid(xid: u32, next: u64) -> u64 {
    let candidate = (next & !0xFFFF_FFFF) | u64::from(xid);
    if candidate < next {
        candidate
    } else {
        candidate.wrapping_sub(1 << 32)
    }
}

/// A memory context below `parent`; it goes when the parent does.
///
/// # Safety
/// `parent` is a live context, `name` lives as long as the program.
pub(crate) unsafe fn child_context(
    parent: pg_sys::MemoryContext,
    name: &'static CStr,
) -> pg_sys::MemoryContext {
    // SAFETY: both arguments are valid; the sizes are PostgreSQL's defaults.
    unsafe {
        pg_sys::AllocSetContextCreateInternal(
            parent,
            name.as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        )
    }
}

/// Whether the server follows another one, and so cannot write.
pub(crate) fn is_standby() -> bool {
    // SAFETY: reads the server's state.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// The encoding of the database's text if it is not UTF-8. There nothing is streamed.
pub(crate) fn other_encoding() -> Option<String> {
    // SAFETY: reads a global that is set once per backend; the name is a string of the server's
    // own.
    unsafe {
        let is_utf8 = pg_sys::GetDatabaseEncoding() as u32 == pg_sys::pg_enc::PG_UTF8;
        let name = || CStr::from_ptr(pg_sys::GetDatabaseEncodingName()).to_string_lossy();
        (!is_utf8).then(|| name().into_owned())
    }
}

/// A string of the server as UTF-8.
///
/// # Safety
/// `text` ends with a zero byte and is valid for the call.
pub(crate) unsafe fn utf8(text: *const c_char) -> String {
    // SAFETY: the caller vouches for `text`; the conversion returns a string of the same kind, its
    // argument when there is nothing to convert.
    let converted = unsafe {
        let length = CStr::from_ptr(text).count_bytes() as i32;
        CStr::from_ptr(pg_sys::pg_server_to_any(text, length, pg_sys::pg_enc::PG_UTF8 as i32))
    };
    converted.to_string_lossy().into_owned()
}

/// From the server's strong source; `None` if it fails.
pub(crate) fn random_bytes<const COUNT: usize>() -> Option<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    // SAFETY: the array has room for as many bytes.
    unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), COUNT) }.then_some(bytes)
}

/// A value as text, from its binary form: through the type's receive and output functions. Bytes
/// that are no value of the type are an error.
pub(crate) fn text_of_binary(type_oid: u32, bytes: &[u8]) -> String {
    let type_oid = pg_sys::Oid::from(type_oid);
    // SAFETY: lookups whose results go into variables of ours; the buffer is a copy of the bytes,
    // and what the functions return lives in the current memory context.
    unsafe {
        let (mut receive, mut output) = (pg_sys::Oid::INVALID, pg_sys::Oid::INVALID);
        let (mut parameter, mut varlena) = (pg_sys::Oid::INVALID, false);
        pg_sys::getTypeBinaryInputInfo(type_oid, &mut receive, &mut parameter);
        pg_sys::getTypeOutputInfo(type_oid, &mut output, &mut varlena);
        let buffer = pg_sys::makeStringInfo();
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        pg_sys::appendBinaryStringInfo(buffer, bytes.as_ptr().cast(), length);
        let value = pg_sys::OidReceiveFunctionCall(receive, buffer, parameter, -1);
        utf8(pg_sys::OidOutputFunctionCall(output, value))
    }
}

/// A value of a type from its binary form, or from its text; in the current memory context. Bytes
/// that are no value of the type are an error.
pub(crate) fn read_value(
    type_oid: pg_sys::Oid,
    type_modifier: i32,
    format: RowFormat,
    bytes: &[u8],
) -> pg_sys::Datum {
    let (mut function, mut parameter) = (pg_sys::Oid::INVALID, pg_sys::Oid::INVALID);
    // SAFETY: lookups whose results go into variables of ours; the buffer is a copy of the bytes,
    // which ends with a zero byte.
    unsafe {
        let buffer = pg_sys::makeStringInfo();
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        pg_sys::appendBinaryStringInfo(buffer, bytes.as_ptr().cast(), length);
        match format {
            RowFormat::Binary => {
                pg_sys::getTypeBinaryInputInfo(type_oid, &mut function, &mut parameter);
                pg_sys::OidReceiveFunctionCall(function, buffer, parameter, type_modifier)
            }
            RowFormat::Text => {
                pg_sys::getTypeInputInfo(type_oid, &mut function, &mut parameter);
                pg_sys::OidInputFunctionCall(function, (*buffer).data, parameter, type_modifier)
            }
        }
    }
}

/// The operator by which an index of the type finds equal values, as SQL names it. `None` as well
/// if that name does not lead to it: a cast that somebody made for the type may be in the way.
pub(crate) fn equality(type_oid: pg_sys::Oid) -> Option<String> {
    let flags = pg_sys::TYPECACHE_EQ_OPR as i32;
    // SAFETY: lookups in the catalog; the entry of a type is never null, and what an operator that
    // exists is named neither. The parser takes a list of the two names.
    unsafe {
        let operator = (*pg_sys::lookup_type_cache(type_oid, flags)).eq_opr;
        if operator == pg_sys::Oid::INVALID {
            return None;
        }
        let cache = pg_sys::SysCacheIdentifier::OPEROID as i32;
        let row = pg_sys::SearchSysCache1(cache, operator.into());
        let schema = (*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_operator>()).oprnamespace;
        let name =
            (*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_operator>()).oprname.data.as_ptr();
        let names = [pg_sys::get_namespace_name(schema), pg_sys::pstrdup(name)];
        pg_sys::ReleaseSysCache(row);
        let list = names.iter().fold(std::ptr::null_mut(), |list, name| {
            pg_sys::lappend(list, pg_sys::makeString(*name).cast())
        });
        let meant = pg_sys::oper(std::ptr::null_mut(), list, type_oid, type_oid, true, -1);
        if meant.is_null() {
            return None;
        }
        let found = pg_sys::oprid(meant);
        pg_sys::ReleaseSysCache(meant);
        let [schema, name] = names.map(|name| utf8(name));
        let sql = format!("OPERATOR({}.{name})", pgrx::spi::quote_identifier(schema));
        (found == operator).then_some(sql)
    }
}

/// The name of a column; `None`: there is no such column (any more).
pub(crate) fn column_name(relation: pg_sys::Oid, attnum: i16) -> Option<String> {
    // SAFETY: a lookup that gives a string, or null.
    unsafe {
        let name = pg_sys::get_attname(relation, attnum, true);
        (!name.is_null()).then(|| utf8(name))
    }
}

#[cfg(test)]
mod tests {
    use super::widen_xid;

    #[test]
    fn an_xid_of_the_past_gets_the_right_epoch() {
        assert_eq!(widen_xid(700, 701), 700);
        assert_eq!(widen_xid(700, (3 << 32) | 701), (3 << 32) | 700);
        assert_eq!(widen_xid(0xFFFF_FFFF, (3 << 32) | 5), (2 << 32) | 0xFFFF_FFFF);
        assert_eq!(widen_xid(700, (3 << 32) | 700), (2 << 32) | 700);
    }
}
