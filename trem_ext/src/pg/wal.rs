//! Logical decoding messages and what belongs to them, without SQL: an event trigger writes them in
//! the midst of anybody's command, whose rights, `search_path` and snapshot must not matter.

use std::ffi::{c_char, CStr, CString};

use pgrx::{pg_sys, FromDatum, IntoDatum};

extern "C-unwind" {
    /// replication/message.h, which pgrx does not bind.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    fn LogLogicalMessage(
        prefix: *const c_char,
        message: *const c_char,
        size: usize,
        transactional: bool,
    ) -> pg_sys::XLogRecPtr;
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    fn LogLogicalMessage(
        prefix: *const c_char,
        message: *const c_char,
        size: usize,
        transactional: bool,
        flush: bool,
    ) -> pg_sys::XLogRecPtr;
}

/// Writes a message of the current transaction; gives its position.
pub(crate) fn log_message(prefix: &str, content: &[u8]) -> u64 {
    let prefix = CString::new(prefix).expect("no zero byte in it");
    let (text, size) = (content.as_ptr().cast::<c_char>(), content.len());
    // SAFETY: both are live during the call; the guard around it holds nothing that must be
    // dropped.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            return LogLogicalMessage(prefix.as_ptr(), text, size, true);
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            return LogLogicalMessage(prefix.as_ptr(), text, size, true, false);
        })
    }
}

/// The id of the whole transaction; it is given one if it has none yet.
pub(crate) fn top_full_xid() -> u64 {
    // SAFETY: in a transaction.
    unsafe { pg_sys::GetTopFullTransactionId() }.value
}

/// Where the WAL ends.
pub(crate) fn insert_lsn() -> u64 {
    // SAFETY: reads shared state under its lock.
    unsafe { pg_sys::GetXLogInsertRecPtr() }
}

/// A table of the extension, open until the end of the transaction; none while it is being made.
unsafe fn open(name: &CStr, lock: u32) -> Option<pg_sys::Relation> {
    // SAFETY: lookups by name; what is found is opened under a lock.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"trem".as_ptr(), true);
        let oid = pg_sys::get_relname_relid(name.as_ptr(), schema);
        let extension = pg_sys::get_extension_oid(c"trem".as_ptr(), true);
        if oid == pg_sys::Oid::INVALID || extension == pg_sys::Oid::INVALID {
            return None;
        }
        // A schema of that name could hold anything.
        let owner = pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, oid);
        (owner == extension).then(|| pg_sys::table_open(oid, lock as pg_sys::LOCKMODE))
    }
}

/// The secret of this database, from `trem.message_key`.
pub(crate) fn message_key() -> Option<Vec<u8>> {
    // SAFETY: in a transaction; the one column is a bytea. After an error the abort of the
    // transaction ends the scan.
    unsafe {
        let table = open(c"message_key", pg_sys::AccessShareLock)?;
        let scan = pg_sys::systable_beginscan(
            table,
            pg_sys::Oid::INVALID,
            false,
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        let row = pg_sys::systable_getnext(scan);
        let key = (!row.is_null()).then(|| {
            let mut is_null = false;
            let value = pg_sys::heap_getattr(row, 1, (*table).rd_att, &mut is_null);
            Vec::<u8>::from_datum(value, is_null)
        });
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        key.flatten()
    }
}

/// Adds a row to `trem.table_change`: position, relation, root, what happened, when.
pub(crate) fn add_table_change(lsn: u64, relation: u32, root: u32, change: &str) {
    // SAFETY: in a transaction; the values are those of the table's columns, in order.
    unsafe {
        let Some(table) = open(c"table_change", pg_sys::RowExclusiveLock) else { return };
        let oid = |oid: u32| pg_sys::Datum::from(pg_sys::Oid::from_u32(oid));
        let at = pg_sys::GetCurrentTransactionStartTimestamp();
        let mut values = [
            pg_sys::Datum::from(lsn),
            oid(relation),
            oid(root),
            change.into_datum().expect("a text"),
            pg_sys::Datum::from(at),
        ];
        let mut is_null = [false; 5];
        if (*(*table).rd_att).natts as usize == values.len() {
            let row =
                pg_sys::heap_form_tuple((*table).rd_att, values.as_mut_ptr(), is_null.as_mut_ptr());
            pg_sys::CatalogTupleInsert(table, row);
        }
        pg_sys::table_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}
