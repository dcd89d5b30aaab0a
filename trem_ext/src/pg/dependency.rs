//! What hangs on what, read from the catalog as DDL reads it: with the newest snapshot whatever the
//! transaction's isolation, through indexes, and without SQL, which would be subject to the
//! caller's rights and `search_path` and would show in what extensions log of the caller.

use std::ffi::CStr;

use pgrx::{pg_sys, PgList};

extern "C-unwind" {
    /// catalog/pg_inherits.h, which pgrx does not bind; the same from 15 to 18.
    fn find_inheritance_children(
        parent: pg_sys::Oid,
        lock_mode: pg_sys::LOCKMODE,
    ) -> *mut pg_sys::List;
    /// catalog/partition.h, likewise.
    fn get_partition_ancestors(relation: pg_sys::Oid) -> *mut pg_sys::List;
}

// catalog/pg_depend.h and pg_rewrite.h, which pgrx does not bind; the same from 15 to 18.
const DEPEND: pg_sys::Oid = pg_sys::Oid::from_u32(2608);
const DEPEND_BY_DEPENDER: pg_sys::Oid = pg_sys::Oid::from_u32(2673);
const DEPEND_BY_REFERENCE: pg_sys::Oid = pg_sys::Oid::from_u32(2674);
const REWRITE: pg_sys::Oid = pg_sys::Oid::from_u32(2618);
const INTERNAL: u8 = b'i';

/// A row of pg_depend (FormData_pg_depend).
#[repr(C)]
#[derive(Clone, Copy)]
struct Dependency {
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    column: i32,
    referenced_class: pg_sys::Oid,
    referenced_object: pg_sys::Oid,
    referenced_column: i32,
    kind: u8,
}

/// Rows of pg_depend, by the two columns with which an index begins.
fn dependencies(
    index: pg_sys::Oid,
    first_column: pg_sys::AttrNumber,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
) -> Vec<Dependency> {
    let mut found = Vec::new();
    // SAFETY: the columns are of type oid and first in the index. A row is copied before the scan
    // moves on. After an error the abort of the transaction ends the scan.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let depend = pg_sys::table_open(DEPEND, lock);
        let mut keys = [pg_sys::ScanKeyData::default(); 2];
        for (place, value) in [class, object].into_iter().enumerate() {
            pg_sys::ScanKeyInit(
                &mut keys[place],
                first_column + place as pg_sys::AttrNumber,
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::Oid::from_u32(pg_sys::F_OIDEQ),
                value.into(),
            );
        }
        let scan = pg_sys::systable_beginscan(
            depend,
            index,
            true,
            std::ptr::null_mut(),
            2,
            keys.as_mut_ptr(),
        );
        loop {
            let row = pg_sys::systable_getnext(scan);
            if row.is_null() {
                break;
            }
            found.push(*pg_sys::GETSTRUCT(row).cast::<Dependency>());
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(depend, lock);
    }
    found
}

/// The relations with a rule (a view has one) that uses a relation, with the column's number, once
/// per column.
pub(crate) fn users_by_rule(relation: u32) -> Vec<(u32, i32)> {
    let relation = pg_sys::Oid::from_u32(relation);
    dependencies(DEPEND_BY_REFERENCE, 4, pg_sys::RelationRelationId, relation)
        .into_iter()
        .filter(|use_| use_.class == REWRITE && use_.kind != INTERNAL)
        .flat_map(|use_| {
            // A rule belongs to the relation on which it depends internally.
            dependencies(DEPEND_BY_DEPENDER, 1, REWRITE, use_.object)
                .into_iter()
                .filter(|of| of.kind == INTERNAL)
                .filter(|of| of.referenced_class == pg_sys::RelationRelationId)
                .map(move |of| (of.referenced_object.to_u32(), use_.referenced_column))
        })
        .collect()
}

/// Partitions, or tables that inherit, one level down.
pub(crate) fn children(table: u32) -> Vec<u32> {
    let table = pg_sys::Oid::from_u32(table);
    // SAFETY: the function returns a list of OIDs, and the guard around it holds nothing that must
    // be dropped.
    let list = unsafe {
        let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
        PgList::<pg_sys::Oid>::from_pg(pg_sys::ffi::pg_guard_ffi_boundary(|| {
            find_inheritance_children(table, no_lock)
        }))
    };
    list.iter_oid().map(pg_sys::Oid::to_u32).collect()
}

/// The partitioned table at the top, or the table itself.
pub(crate) fn partition_root(table: u32) -> u32 {
    let table = pg_sys::Oid::from_u32(table);
    // SAFETY: the look-up gives false for what is not there; the function returns a list of OIDs,
    // the nearest first, and the guard around it holds nothing that must be dropped.
    let ancestors = unsafe {
        if !pg_sys::get_rel_relispartition(table) {
            return table.to_u32();
        }
        PgList::<pg_sys::Oid>::from_pg(pg_sys::ffi::pg_guard_ffi_boundary(|| {
            get_partition_ancestors(table)
        }))
    };
    ancestors.iter_oid().last().unwrap_or(table).to_u32()
}

/// The tables that hold the rows of a table: itself, or the partitions at the bottom.
pub(crate) fn leaves(table: u32) -> Vec<u32> {
    if relation_kind(table) != Some(pg_sys::RELKIND_PARTITIONED_TABLE) {
        return vec![table];
    }
    children(table).into_iter().flat_map(leaves).collect()
}

/// Whether there may be rows: a table that never had any, or was truncated, has no block.
pub(crate) fn has_blocks(table: u32) -> bool {
    if relation_kind(table) != Some(pg_sys::RELKIND_RELATION) {
        return true;
    }
    // SAFETY: the table exists, and the command that asks holds a lock on it.
    unsafe {
        let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
        let relation = pg_sys::relation_open(pg_sys::Oid::from_u32(table), no_lock);
        let blocks =
            pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::relation_close(relation, no_lock);
        blocks > 0
    }
}

/// `p` permanent, `u` unlogged, `t` temporary; none if there is no such relation.
pub(crate) fn persistence(relation: u32) -> Option<u8> {
    relation_kind(relation)?;
    // SAFETY: a look-up of a relation that is there.
    Some(unsafe { pg_sys::get_rel_persistence(pg_sys::Oid::from_u32(relation)) } as u8)
}

/// The tables with a column of the type, or of one that is made of it.
pub(crate) fn tables_with_type(type_oid: u32) -> Vec<u32> {
    const TABLES: [u8; 2] = [pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE];
    let mut tables = Vec::new();
    let (mut open, mut seen) = (vec![type_oid], vec![type_oid]);
    while let Some(of) = open.pop() {
        let oid = pg_sys::Oid::from_u32(of);
        for user in dependencies(DEPEND_BY_REFERENCE, 4, pg_sys::TypeRelationId, oid) {
            let object = user.object.to_u32();
            let mut of_type = None;
            if user.class == pg_sys::TypeRelationId {
                of_type = Some(object);
            } else if user.class == pg_sys::RelationRelationId {
                match relation_kind(object) {
                    Some(kind) if TABLES.contains(&kind) => tables.push(object),
                    Some(pg_sys::RELKIND_COMPOSITE_TYPE) => {
                        // SAFETY: a look-up of a relation that is there.
                        of_type = Some(unsafe { pg_sys::get_rel_type_id(user.object) }.to_u32());
                    }
                    _ => {}
                }
            }
            if let Some(found) = of_type.filter(|found| !seen.contains(found)) {
                seen.push(found);
                open.push(found);
            }
        }
    }
    tables.sort_unstable();
    tables.dedup();
    tables
}

pub(crate) struct ColumnOrigin {
    pub number: i32,
    /// The table declares the column itself, beside inheriting it.
    pub is_local: bool,
}

/// A live column.
pub(crate) fn column(table: u32, name: &CStr) -> Option<ColumnOrigin> {
    // SAFETY: a tuple of this cache is a row of pg_attribute, pinned until it is released.
    unsafe {
        let tuple = pg_sys::SearchSysCacheAttName(pg_sys::Oid::from_u32(table), name.as_ptr());
        if tuple.is_null() {
            return None;
        }
        let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_attribute>();
        let origin = ColumnOrigin { number: row.attnum.into(), is_local: row.attislocal };
        pg_sys::ReleaseSysCache(tuple);
        Some(origin)
    }
}

/// A relation's kind as pg_class has it; none if there is no such relation (any more).
pub(crate) fn relation_kind(relation: u32) -> Option<u8> {
    // SAFETY: a lookup that returns zero for what is not there.
    let kind = unsafe { pg_sys::get_rel_relkind(pg_sys::Oid::from_u32(relation)) } as u8;
    (kind != 0).then_some(kind)
}

/// The name of a relation that is in this schema.
pub(crate) fn name_in_schema(relation: u32, schema: u32) -> Option<String> {
    let relation = pg_sys::Oid::from_u32(relation);
    // SAFETY: lookups that return zero or null for what is not there; a name is a valid string.
    unsafe {
        if pg_sys::get_rel_namespace(relation).to_u32() != schema {
            return None;
        }
        let name = pg_sys::get_rel_name(relation);
        (!name.is_null()).then(|| super::utf8(name))
    }
}

pub(crate) fn schema(name: &CStr) -> Option<u32> {
    // SAFETY: a lookup; a missing schema is zero.
    let oid = unsafe { pg_sys::get_namespace_oid(name.as_ptr(), true) };
    (oid != pg_sys::Oid::INVALID).then(|| oid.to_u32())
}

/// The current user owns the table, or its schema where `or_schema`.
pub(crate) fn is_owned(table: u32, or_schema: bool) -> bool {
    let table = pg_sys::Oid::from_u32(table);
    // SAFETY: lookups in the catalog; the table was found in this command.
    unsafe {
        owns(pg_sys::RelationRelationId, table)
            || or_schema && owns(pg_sys::NamespaceRelationId, pg_sys::get_rel_namespace(table))
    }
}

/// # Safety
/// In a transaction.
unsafe fn owns(class: pg_sys::Oid, object: pg_sys::Oid) -> bool {
    // SAFETY: the caller vouches for the transaction.
    unsafe {
        let user = pg_sys::GetUserId();
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(class, object, user);
        #[cfg(feature = "pg15")]
        if class == pg_sys::RelationRelationId {
            pg_sys::pg_class_ownercheck(object, user)
        } else {
            pg_sys::pg_namespace_ownercheck(object, user)
        }
    }
}

/// Drops a view, whoever owns it, as a part of the command that runs: no right is asked for and no
/// event trigger hears of it. False if somebody else dropped it meanwhile.
pub(crate) fn drop_view(view: u32) -> bool {
    let object = pg_sys::ObjectAddress {
        classId: pg_sys::RelationRelationId,
        objectId: pg_sys::Oid::from_u32(view),
        objectSubId: 0,
    };
    // SAFETY: the lock keeps the view from going away between the look and the deletion.
    unsafe {
        pg_sys::LockRelationOid(object.objectId, pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE);
        if relation_kind(view).is_none() {
            return false;
        }
        pg_sys::performDeletion(
            &object,
            pg_sys::DropBehavior::DROP_RESTRICT,
            pg_sys::PERFORM_DELETION_INTERNAL as i32,
        );
    }
    true
}

/// Until the end of the transaction no command changes the table, and of a partitioned one no
/// partition comes or goes. Its rows are read and written meanwhile.
pub(crate) fn lock_against_ddl(table: u32, is_partitioned: bool) {
    let lock = match is_partitioned {
        true => pg_sys::ShareUpdateExclusiveLock,
        false => pg_sys::AccessShareLock,
    };
    // SAFETY: any OID may be locked; an error or the end of the transaction gives it back.
    unsafe { pg_sys::LockRelationOid(pg_sys::Oid::from_u32(table), lock as pg_sys::LOCKMODE) };
}

/// Every statement of the transaction sees what the first one saw (REPEATABLE READ and up).
pub(crate) fn sees_one_moment() -> bool {
    // SAFETY: reads a global of this backend.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}
