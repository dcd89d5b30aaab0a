//! Arguments and results of SQL functions for which pgrx has no type of its own.

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::{pg_sys, varlena, FromDatum, IntoDatum};

/// A WAL position as SQL's `pg_lsn`: the same 64 bits, which pgrx passes as a signed number.
pub(crate) struct PgLsn(pub(crate) i64);

/// A 64-bit transaction id as SQL's `xid8`.
pub(crate) struct Xid8(pub(crate) i64);

/// JSON text as SQL's `json`, which keeps the order in which it was written.
pub(crate) struct JsonText(pub(crate) String);

/// A text as it is stored. In damaged data, or in a database of another encoding, it is no string,
/// and Rust must not take it for one.
#[derive(Clone, Copy)]
pub(crate) struct TextBytes<'a>(&'a [u8]);

impl<'a> TextBytes<'a> {
    /// `None` where it is not valid UTF-8.
    pub(crate) fn utf8(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
}

impl FromDatum for TextBytes<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: a datum of type text, as the caller promises, which lives as long as the call.
        (!is_null).then(|| unsafe {
            let text = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
            TextBytes(varlena::varlena_to_byte_slice(text))
        })
    }
}

// SAFETY: an argument is taken for what SQL declares it to be, a text.
unsafe impl<'fcx> ArgAbi<'fcx> for TextBytes<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above; an argument that may be null is asked for as an option.
        unsafe { arg.unbox_arg_using_from_datum() }.expect("an argument that is not null")
    }
}

pgrx::impl_sql_translatable!(TextBytes<'_>, "text");

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
