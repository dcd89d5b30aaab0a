//! Results of SQL functions for which pgrx has no type of its own.

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::{pg_sys, IntoDatum};

/// A WAL position as SQL's `pg_lsn`: the same 64 bits, which pgrx passes as a signed number.
pub(crate) struct PgLsn(pub(crate) i64);

/// A 64-bit transaction id as SQL's `xid8`.
pub(crate) struct Xid8(pub(crate) i64);

/// JSON text as SQL's `json`, which keeps the order in which it was written.
pub(crate) struct JsonText(pub(crate) String);

macro_rules! sql_type {
    ($rust:ty, $sql:literal, $oid:expr) => {
        impl IntoDatum for $rust {
            fn into_datum(self) -> Option<pg_sys::Datum> {
                self.0.into_datum()
            }

            fn type_oid() -> pg_sys::Oid {
                $oid
            }
        }

        // SAFETY: the datum is the one that SQL has for the type: eight bytes by value, or a
        // varlena that was allocated for it.
        unsafe impl BoxRet for $rust {
            unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
                match self.into_datum() {
                    None => fcinfo.return_null(),
                    // SAFETY: as above.
                    Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
                }
            }
        }

        pgrx::impl_sql_translatable!($rust, $sql);
    };
}

sql_type!(PgLsn, "pg_lsn", pg_sys::PG_LSNOID);
sql_type!(Xid8, "xid8", pg_sys::XID8OID);
sql_type!(JsonText, "json", pg_sys::JSONOID);
