//! Working as somebody else. TREM's own statements run as the owner of the extension; whatever
//! parses, plans or evaluates what a user wrote runs as the owner of the table it is about, in a
//! security-restricted operation: it can neither leave that role nor leave anything behind.
//!
//! Every switch is a guard that puts user and settings back when it is dropped, also while a panic
//! unwinds. (A subtransaction that is rolled back puts them back as well.)

use std::ffi::CString;
use std::sync::atomic::{AtomicU32, Ordering};

use pgrx::{ereport, pg_sys, PgSqlErrorCode};

use super::settings::set_for_now;
use super::utf8;

// miscadmin.h. Without pgrx's guard, which would cost more than they do: they raise no error.
extern "C-unwind" {
    fn GetUserIdAndSecContext(user: *mut pg_sys::Oid, context: *mut i32);
    fn SetUserIdAndSecContext(user: pg_sys::Oid, context: i32);
}

/// Whoever was in force before.
struct Before {
    user: pg_sys::Oid,
    context: i32,
}

impl Before {
    /// Makes `user` the current one, under the flags that are in force and `flags`.
    #[inline]
    fn switch(user: pg_sys::Oid, flags: u32) -> Before {
        let mut before = Before { user: pg_sys::Oid::INVALID, context: 0 };
        // SAFETY: reads and sets variables of the backend.
        unsafe {
            GetUserIdAndSecContext(&mut before.user, &mut before.context);
            SetUserIdAndSecContext(user, before.context | flags as i32);
        }
        before
    }
}

impl Drop for Before {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: these were in force when the switch was made.
        unsafe { SetUserIdAndSecContext(self.user, self.context) };
    }
}

/// A nest level of settings; all that is set meanwhile is taken back.
struct Settings(i32);

impl Settings {
    fn open() -> Settings {
        // SAFETY: opens a level, which the drop below closes.
        Settings(unsafe { pg_sys::NewGUCNestLevel() })
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        // SAFETY: the level was opened above; inner ones are closed with it.
        unsafe { pg_sys::AtEOXact_GUC(false, self.0) };
    }
}

const RESTRICTED: u32 =
    pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_LOCAL_USERID_CHANGE;

/// Runs `work`, which may reach code of a user, with the rights of `role` and no others.
pub(crate) fn as_role<T>(role: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    // Settings are dropped first, as the server does it.
    let _before = Before::switch(role, RESTRICTED);
    let _settings = Settings::open();
    work()
}

/// Runs a statement of TREM's own as the owner of the extension. Its text is fixed, its names are
/// looked up in the catalog's schema, and nothing of a user's runs in it.
pub(crate) fn as_extension_owner<T>(work: impl FnOnce() -> T) -> T {
    let _before = Before::switch(extension_owner(), pg_sys::SECURITY_LOCAL_USERID_CHANGE);
    let _settings = Settings::open();
    set_for_now("search_path", "pg_catalog, pg_temp");
    work()
}

/// Has what is read next in [`as_role`] be all rows or an error, and names be the catalog's.
pub(crate) fn pin_for_reading() {
    set_for_now("search_path", "pg_catalog, trem, pg_temp");
    set_for_now("row_security", "off");
}

/// How many evaluations are under way: never more than one, unless they nest.
static EVALUATIONS: AtomicU32 = AtomicU32::new(0);

/// While this lives, expressions of rules that were compiled are evaluated, as the owner of their
/// table. Only then are there pseudonyms.
pub(crate) struct Evaluation(#[expect(dead_code, reason = "it is dropped")] Before);

impl Evaluation {
    #[inline]
    pub(crate) fn begin(owner: pg_sys::Oid) -> Evaluation {
        EVALUATIONS.fetch_add(1, Ordering::Relaxed);
        Evaluation(Before::switch(owner, RESTRICTED))
    }

    pub(crate) fn is_under_way() -> bool {
        EVALUATIONS.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Evaluation {
    #[inline]
    fn drop(&mut self) {
        EVALUATIONS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// With whose rights the caller runs: not the session's user inside of a SECURITY DEFINER function.
pub(crate) fn caller() -> pg_sys::Oid {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::GetUserId() }
}

pub(crate) fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: a lookup in the catalog.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Superusers are members of every role, also of one that was dropped.
pub(crate) fn is_member(member: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: lookups in the catalog.
    unsafe { pg_sys::is_member_of_role(member, role) }
}

/// `None`: there is no such role (any more).
pub(crate) fn role_name(role: pg_sys::Oid) -> Option<String> {
    // SAFETY: a lookup that gives a string, or null.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| utf8(name))
    }
}

pub(crate) fn role_of_name(name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero byte; a missing role is zero.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (role != pg_sys::Oid::INVALID).then_some(role)
}

/// The owner of the extension. Its name says whose catalog this is: in a database without it there
/// is nothing to do.
fn extension_owner() -> pg_sys::Oid {
    const OID_COLUMN: pg_sys::AttrNumber = 1;
    // SAFETY: a scan of the catalog by the key of an index; a row is read before the scan ends.
    // After an error the abort of the transaction ends it.
    let owner = unsafe {
        let extension = pg_sys::get_extension_oid(c"trem".as_ptr(), true);
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let catalog = pg_sys::table_open(pg_sys::ExtensionRelationId, lock);
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            OID_COLUMN,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from_u32(pg_sys::F_OIDEQ),
            extension.into(),
        );
        let index = pg_sys::Oid::from_u32(pg_sys::ExtensionOidIndexId);
        let scan =
            pg_sys::systable_beginscan(catalog, index, true, std::ptr::null_mut(), 1, &mut key);
        let row = pg_sys::systable_getnext(scan);
        let owner = (!row.is_null())
            .then(|| (*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_extension>()).extowner);
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, lock);
        owner
    };
    owner.unwrap_or_else(|| {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "the extension trem is not in this database",
            "CREATE EXTENSION trem;"
        );
    })
}

/// Differs from transaction to transaction.
pub(crate) fn transaction_stamp() -> i64 {
    // SAFETY: reads the backend's transaction state.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}
