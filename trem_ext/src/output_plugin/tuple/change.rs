//! One change, whatever it is; and what is sent in its place when a value cannot be: an error row
//! that no rule is to blame for, as of a row that cannot be computed.

use bytes::Bytes;
use pgrx::pg_sys;
use trem_wire::codec::Operation;
use trem_wire::message::ErrorRow;

use super::super::encode::take_failure;
use super::{append, encode_address, Deformed, Emitter, Rows, StreamError, Target};
use crate::pg::Failed;

/// Stands for a rule where none failed.
pub(super) const NO_RULE: i64 = 0;

impl Rows {
    /// # Safety
    /// As for [`Rows::insert`]; a tuple that the operation does not have is null.
    #[inline]
    pub(crate) unsafe fn change(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        operation: Operation,
        (new, old): (pg_sys::HeapTuple, pg_sys::HeapTuple),
    ) -> Result<(), StreamError> {
        take_failure();
        let before = out.progress(target.mapping);
        // SAFETY: as promised by the caller.
        unsafe {
            match operation {
                Operation::Insert => self.insert(out, target, new)?,
                Operation::Update => self.update(out, target, new, old)?,
                Operation::Delete => self.delete(out, target, old)?,
            }
            if let Some(failed) = take_failure() {
                out.undo(target.mapping, &before);
                self.give_up(out, target, operation, !old.is_null(), failed)?;
            }
        }
        Ok(())
    }

    /// The rows of the change were taken apart.
    #[cold]
    unsafe fn give_up(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        operation: Operation,
        has_old: bool,
        failed: Failed,
    ) -> Result<(), StreamError> {
        if let Some(rules) = target.rules {
            // SAFETY: as promised by the caller.
            return unsafe { self.give_up_ruled(out, target, rules, operation, has_old, failed) };
        }
        let has_key = target.mapping.key_count > 0;
        // SAFETY: as above; what is on disk was replaced or set to NULL.
        unsafe {
            if operation == Operation::Update && has_old {
                let moved = self.old_is_needed(target)?;
                if take_failure().is_none() && moved {
                    append(out.row(Operation::Delete, target.mapping), &self.old_key);
                }
            }
            let row = if operation == Operation::Delete { &self.old } else { &self.new };
            let key = if has_key { key_of(target, row) } else { None };
            let error = ErrorRow {
                relation: target.mapping.oid,
                operation,
                rule_id: NO_RULE,
                sqlstate: String::from_utf8_lossy(&failed.sqlstate).into_owned(),
                key: key.unwrap_or_else(|| Bytes::from_static(&[0, 0])),
            };
            out.error(target.mapping, &error);
        }
        Ok(())
    }
}

/// The encoded key of a row, if it can be.
unsafe fn key_of(target: &mut Target<'_>, row: &Deformed) -> Option<Bytes> {
    let mut key = Vec::new();
    // SAFETY: the row was taken apart; what is on disk was replaced or set to NULL.
    unsafe { encode_address(target.mapping, row, &mut key) };
    take_failure().is_none().then(|| Bytes::from(key))
}
