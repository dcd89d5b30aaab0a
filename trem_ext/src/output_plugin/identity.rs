//! The key of a table as history has it at the change being decoded, and what of the old row the
//! WAL holds because of it.
//!
//! | replica identity | key | in the WAL of UPDATE and DELETE |
//! |---|---|---|
//! | default, index | primary key; that index | the old key (of an update: if it changed) |
//! | full | primary key, if there is one | the whole old row |
//! | nothing, or no such index | primary key, to compare only | nothing |

use pgrx::{pg_sys, PgList};

use crate::pg;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OldRow {
    None,
    Key,
    Full,
}

pub(crate) struct Identity {
    pub(crate) old_row: OldRow,
    /// Attribute numbers in the table at hand, sorted.
    pub(crate) key: Vec<i16>,
}

/// What is wrong with old rows, if they cannot be used: the reason why a change carries no key.
pub(crate) const NO_IDENTITY: &str = "The table has no replica identity.";
const NO_IDENTITY_YET: &str = "The table had no replica identity then.";
const OTHER_IDENTITY: &str = "The table had another key then.";

impl Identity {
    /// # Safety
    /// `relation` is open, in a callback that decodes a change of it (so that the catalog is seen
    /// as it was then).
    pub(crate) unsafe fn of(relation: pg_sys::Relation) -> Identity {
        // SAFETY: an open relation has its pg_class row.
        let setting = unsafe { (*(*relation).rd_rel).relreplident } as u8;
        // SAFETY: the relation is open.
        let (index, logged) = unsafe {
            match setting {
                pg_sys::REPLICA_IDENTITY_FULL => (pg::primary_key_index(relation), OldRow::Full),
                pg_sys::REPLICA_IDENTITY_NOTHING => (pg::primary_key_index(relation), OldRow::None),
                _ => (pg_sys::RelationGetReplicaIndex(relation), OldRow::Key),
            }
        };
        if index == pg_sys::Oid::INVALID {
            let old_row = if logged == OldRow::Key { OldRow::None } else { logged };
            return Identity { old_row, key: Vec::new() };
        }
        // SAFETY: the index belongs to the relation at hand.
        Identity { old_row: logged, key: unsafe { key_of(index) } }
    }
}

/// What can be used of old rows from before the publish, where the key was another one than that of
/// the definition, `key`; or why nothing can.
///
/// The WAL must hold the key's old values, and no two rows may have had the same: they would be one
/// row on the target.
///
/// # Safety
/// As for [`Identity::of`], of which `identity` came.
pub(crate) unsafe fn usable(
    relation: pg_sys::Relation,
    identity: &Identity,
    key: &[i16],
) -> Result<OldRow, &'static str> {
    let holds_key = match identity.old_row {
        OldRow::None => return Err(NO_IDENTITY_YET),
        OldRow::Full => true,
        OldRow::Key => !key.is_empty() && is_within(key, &identity.key),
    };
    // SAFETY: as promised by the caller.
    let addresses = holds_key && (key.is_empty() || unsafe { is_unique(relation, key) });
    addresses.then_some(identity.old_row).ok_or(OTHER_IDENTITY)
}

fn is_within(some: &[i16], all: &[i16]) -> bool {
    some.iter().all(|attnum| all.contains(attnum))
}

/// No two rows of the relation have the same values in these columns: an index sees to it.
unsafe fn is_unique(relation: pg_sys::Relation, key: &[i16]) -> bool {
    // SAFETY: the relation is open; the list holds the OIDs of its indexes.
    let indexes = unsafe { PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(relation)) };
    let mut indexes = indexes.iter_oid();
    // SAFETY: the indexes belong to the relation at hand.
    indexes.any(|index| unsafe { unique_key_of(index) }.is_some_and(|of| is_within(&of, key)))
}

/// The key of an index that holds for all rows at any time.
unsafe fn unique_key_of(index: pg_sys::Oid) -> Option<Vec<i16>> {
    let predicate = pg_sys::Anum_pg_index_indpred as i32;
    // SAFETY: as for `key_of`; the row of pg_index is there as long as the index is held.
    let holds = unsafe {
        let relation = pg_sys::RelationIdGetRelation(index);
        if relation.is_null() {
            return None;
        }
        let form = &*(*relation).rd_index;
        let for_all =
            pg_sys::heap_attisnull((*relation).rd_indextuple, predicate, std::ptr::null_mut());
        let holds = form.indisunique && form.indimmediate && form.indisvalid && for_all;
        pg_sys::RelationClose(relation);
        holds
    };
    // SAFETY: as promised by the caller. A column that is computed has the number 0, and is of no
    // key.
    holds.then(|| unsafe { key_of(index) })
}

unsafe fn key_of(index: pg_sys::Oid) -> Vec<i16> {
    // SAFETY: the relation cache gives an index that is not null and has its pg_index row, whose
    // `indkey` has as many numbers as `indnkeyatts` says, or more.
    unsafe {
        let relation = pg_sys::RelationIdGetRelation(index);
        if relation.is_null() {
            return Vec::new();
        }
        let form = (*relation).rd_index;
        let count = (*form).indnkeyatts as usize;
        let mut key = (*form).indkey.values.as_slice(count).to_vec();
        pg_sys::RelationClose(relation);
        key.sort_unstable();
        key
    }
}
