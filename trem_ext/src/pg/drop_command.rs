//! Whether a command takes the extension away: DROP EXTENSION, DROP SCHEMA of its schema, or DROP
//! OWNED BY its owner.

use std::ffi::{c_char, CStr};

use pgrx::pg_sys::{self, NodeTag, ObjectType};
use pgrx::PgList;

use super::event_trigger::EventTrigger;

const EXTENSION: &CStr = c"trem";

impl EventTrigger {
    pub(crate) fn drops_extension(&self) -> bool {
        let Some(data) = self.data() else { return false };
        let tree = data.parsetree;
        // SAFETY: the parse tree is a node, and each tag has its struct.
        unsafe {
            match (*tree).type_ {
                NodeTag::T_DropStmt => drops(&*tree.cast()),
                NodeTag::T_DropOwnedStmt => drops_owned(&*tree.cast()),
                _ => false,
            }
        }
    }
}

/// # Safety
/// `statement` is from the parser: for extensions and schemas the objects are strings.
unsafe fn drops(statement: &pg_sys::DropStmt) -> bool {
    let of_a_name = [ObjectType::OBJECT_EXTENSION, ObjectType::OBJECT_SCHEMA];
    if !of_a_name.contains(&statement.removeType) {
        return false;
    }
    // SAFETY: as promised by the caller.
    unsafe {
        PgList::<pg_sys::String>::from_pg(statement.objects)
            .iter_ptr()
            .any(|name| CStr::from_ptr((*name).sval.cast::<c_char>()) == EXTENSION)
    }
}

/// # Safety
/// `statement` is from the parser.
unsafe fn drops_owned(statement: &pg_sys::DropOwnedStmt) -> bool {
    // SAFETY: the roles are a list of RoleSpec; one that does not exist is left to the server.
    unsafe {
        let extension = pg_sys::get_extension_oid(EXTENSION.as_ptr(), true);
        let owner = owner_of(extension);
        PgList::<pg_sys::RoleSpec>::from_pg(statement.roles)
            .iter_ptr()
            .any(|role| pg_sys::get_rolespec_oid(role, true) == owner)
    }
}

/// # Safety
/// In a transaction.
unsafe fn owner_of(extension: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a lookup in the catalog by the index that is unique in it; the row's fixed part is a
    // FormData_pg_extension. The scan ends before its relation is closed.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(pg_sys::ExtensionRelationId, lock);
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            pg_sys::Anum_pg_extension_oid as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from_u32(pg_sys::F_OIDEQ),
            extension.into(),
        );
        let index = pg_sys::Oid::from_u32(pg_sys::ExtensionOidIndexId);
        let snapshot = std::ptr::null_mut();
        let scan = pg_sys::systable_beginscan(relation, index, true, snapshot, 1, &mut key);
        let row = pg_sys::systable_getnext(scan);
        let owner = match row.is_null() {
            true => pg_sys::Oid::INVALID,
            false => (*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_extension>()).extowner,
        };
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
        owner
    }
}
