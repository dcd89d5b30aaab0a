//! The key of a table as history has it at the change being decoded, and what of the old row the
//! WAL holds because of it.
//!
//! | replica identity | key | in the WAL of UPDATE and DELETE |
//! |---|---|---|
//! | default, index | primary key; that index | the old key (of an update: if it changed) |
//! | full | primary key, if there is one | the whole old row |
//! | nothing, or no such index | primary key, to compare only | nothing |

use pgrx::pg_sys;

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
