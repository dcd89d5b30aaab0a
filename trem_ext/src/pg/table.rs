//! A user's table, opened by OID and locked: what it is then, it stays until the lock is given up.
//!
//! A name that was looked up before may stand for something else by now, and an OID for something
//! of another kind: before 16 a rule makes a view of an empty table. So whoever is about to read a
//! table asks here, and believes no earlier answer.

use pgrx::{pg_sys, PgList};

use super::utf8;

const TABLE: u8 = b'r';
const PARTITIONED: u8 = b'p';

pub(crate) struct Locked {
    pub(crate) oid: pg_sys::Oid,
    pub(crate) owner: pg_sys::Oid,
    pub(crate) schema: String,
    pub(crate) name: String,
    kind: u8,
    forces_row_security: bool,
}

/// Locks a relation as a reader does, until the (sub)transaction ends; `None` if there is none.
pub(crate) fn lock(oid: u32) -> Option<Locked> {
    // SAFETY: the relation is open while its row of pg_class is read. The lock stays.
    unsafe {
        let oid = pg_sys::Oid::from(oid);
        let relation = pg_sys::try_relation_open(oid, pg_sys::AccessShareLock as i32);
        if relation.is_null() {
            return None;
        }
        let row = &*(*relation).rd_rel;
        let schema = pg_sys::get_namespace_name(row.relnamespace);
        let locked = Locked {
            oid,
            owner: row.relowner,
            schema: if schema.is_null() { String::new() } else { utf8(schema) },
            name: utf8(row.relname.data.as_ptr()),
            kind: row.relkind as u8,
            forces_row_security: row.relrowsecurity && row.relforcerowsecurity,
        };
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
        Some(locked)
    }
}

impl Locked {
    /// It has rows itself: an ordinary table, or a partition.
    pub(crate) fn has_rows(&self) -> bool {
        self.kind == TABLE
    }

    pub(crate) fn is_table(&self) -> bool {
        [TABLE, PARTITIONED].contains(&self.kind)
    }

    /// The role may read all its rows by right of its own.
    pub(crate) fn shows_all_to(&self, role: pg_sys::Oid) -> bool {
        // SAFETY: lookups in the catalog, of a relation that is locked.
        unsafe {
            let right = pg_sys::ACL_SELECT as pg_sys::AclMode;
            let may_select =
                pg_sys::pg_class_aclcheck(self.oid, role, right) == pg_sys::AclResult::ACLCHECK_OK;
            let hides = pg_sys::check_enable_rls(self.oid, role, true)
                == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32;
            may_select && !hides
        }
    }

    /// Row security holds for its owner as well.
    pub(crate) fn hides_rows_from_owner(&self) -> bool {
        // SAFETY: a lookup in the catalog.
        self.forces_row_security && !unsafe { pg_sys::has_bypassrls_privilege(self.owner) }
    }
}

/// A relation's kind and owner, of one that is open.
///
/// # Safety
/// `relation` is open.
pub(super) unsafe fn of_open(relation: pg_sys::Relation) -> (bool, pg_sys::Oid) {
    // SAFETY: an open relation has its row of pg_class.
    let row = unsafe { &*(*relation).rd_rel };
    ([TABLE, PARTITIONED].contains(&(row.relkind as u8)), row.relowner)
}

/// A statement that was prepared reads this table and nothing else, whatever its name stood for.
///
/// # Safety
/// `plan` is a prepared statement of SPI's.
pub(crate) unsafe fn reads_only(plan: pg_sys::SPIPlanPtr, table: pg_sys::Oid) -> bool {
    // SAFETY: a plan has its sources, a source its analysed statements, and each of those a list of
    // what it reads.
    unsafe {
        let sources = pg_sys::SPI_plan_get_plan_sources(plan);
        let sources = PgList::<pg_sys::CachedPlanSource>::from_pg(sources);
        let queries = sources.iter_ptr().flat_map(|source| {
            PgList::<pg_sys::Query>::from_pg((*source).query_list).iter_ptr().collect::<Vec<_>>()
        });
        let read: Vec<pg_sys::Oid> = queries
            .flat_map(|query| {
                let entries = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable);
                entries.iter_ptr().map(|entry| (*entry).relid).collect::<Vec<_>>()
            })
            .collect();
        read == [table]
    }
}
