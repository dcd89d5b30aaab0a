//! Evaluating an expression for one row, where a failure must not end the stream.
//!
//! # Why not a subtransaction, nor pgrx's guard
//! Both are right and slow: a subtransaction costs every row, the guard turns an error into a Rust
//! panic, which costs twenty times what catching it here does. What a subtransaction would clean up
//! is instead cleaned up by hand: memory, because the caller evaluates in a context that it resets
//! for every row; references to caches and the like, because they are taken under a resource owner
//! of our own. No other resources are held by functions in C, and no others are admitted.
//!
//! # What is caught
//! A closed list of errors that are about the values of the row. All others (a cancelled query, no
//! memory, a lost file) go on as they would have: a server that could not be stopped any more, or
//! that takes its own breakdown for bad data, would be worse than a stream that ends.

use std::ffi::CStr;

use cee_scape::{call_with_sigsetjmp, SigJmpBufFields};
use pgrx::pg_sys::{self, Datum, ResourceReleasePhase};

/// A row's values made an expression fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Failed {
    pub(crate) sqlstate: [u8; 5],
}

/// Evaluates expressions of one transaction after the other.
pub(crate) struct Evaluator {
    /// Null until the first evaluation of the transaction; goes with the owner that was current.
    owner: pg_sys::ResourceOwner,
}

/// What is put back after an error, as PG_TRY and the main loop of a backend do.
struct Before {
    memory: pg_sys::MemoryContext,
    owner: pg_sys::ResourceOwner,
    exceptions: *mut pg_sys::sigjmp_buf,
    contexts: *mut pg_sys::ErrorContextCallback,
    interrupt_holdoff: u32,
    cancel_holdoff: u32,
}

impl Evaluator {
    pub(crate) const fn new() -> Evaluator {
        Evaluator { owner: std::ptr::null_mut() }
    }

    /// A new transaction: the owner of the last one went with it.
    pub(crate) fn begin(&mut self) {
        self.owner = std::ptr::null_mut();
    }

    /// Gives back what was held for this transaction before it ends.
    pub(crate) fn end(&mut self) {
        if !self.owner.is_null() {
            // SAFETY: the owner is ours, and nothing is evaluated any more.
            unsafe { self.release(true) };
        }
    }

    /// The value of an expression, or `None` for NULL. It lies in the current memory context.
    ///
    /// # Safety
    /// `state` and `context` belong together and are ready, the row is in the context's slot, and
    /// the expression was admitted by [`compile`](super::expression::compile). The current memory
    /// context is reset by the caller from time to time.
    #[inline]
    pub(crate) unsafe fn evaluate(
        &mut self,
        state: *mut pg_sys::ExprState,
        context: *mut pg_sys::ExprContext,
    ) -> Result<Option<Datum>, Failed> {
        // SAFETY: reads and sets the backend's state; single-threaded.
        unsafe {
            let before = Before::now();
            if self.owner.is_null() {
                let name = c"trem expression".as_ptr();
                self.owner = pg_sys::ResourceOwnerCreate(before.owner, name);
            }
            pg_sys::CurrentResourceOwner = self.owner;
            let value = attempt(&before, state, context);
            pg_sys::CurrentResourceOwner = before.owner;
            value.map_err(|error| self.recover(error))
        }
    }

    /// Tells an error about the row from one that must go on, and gives back what was held.
    ///
    /// # Safety
    /// `error` was caught by [`attempt`].
    #[cold]
    unsafe fn recover(&mut self, error: *mut pg_sys::ErrorData) -> Failed {
        // SAFETY: the error is a copy of ours.
        unsafe {
            let sqlstate = letters((*error).sqlerrcode);
            if !is_about_values(sqlstate) {
                pg_sys::ReThrowError(error);
            }
            pg_sys::FreeErrorData(error);
            self.release(false);
            Failed { sqlstate }
        }
    }

    /// Releases what the owner holds, and the owner: from 17 on it could not be used again.
    unsafe fn release(&mut self, is_commit: bool) {
        use ResourceReleasePhase::{
            RESOURCE_RELEASE_AFTER_LOCKS, RESOURCE_RELEASE_BEFORE_LOCKS, RESOURCE_RELEASE_LOCKS,
        };
        // SAFETY: the owner is ours and has no children that anybody else uses.
        unsafe {
            let owner = std::mem::replace(&mut self.owner, std::ptr::null_mut());
            for phase in [
                RESOURCE_RELEASE_BEFORE_LOCKS,
                RESOURCE_RELEASE_LOCKS,
                RESOURCE_RELEASE_AFTER_LOCKS,
            ] {
                pg_sys::ResourceOwnerRelease(owner, phase, is_commit, false);
            }
            pg_sys::ResourceOwnerDelete(owner);
        }
    }
}

/// Evaluates an expression. An error comes back as a copy, with everything as it was before except
/// for what the expression still holds.
///
/// # Safety
/// As for [`Evaluator::evaluate`].
#[inline]
unsafe fn attempt(
    before: &Before,
    state: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
) -> Result<Option<Datum>, *mut pg_sys::ErrorData> {
    // SAFETY: reads and sets the backend's state; single-threaded. The closure holds nothing that
    // must be dropped, so an error may jump out of it. After a jump the order is that of PG_CATCH:
    // first the stacks, then the error is copied into a context that is not the one for errors,
    // then it is forgotten.
    unsafe {
        let Some(function) = (*state).evalfunc else { return Ok(None) };
        let (mut value, mut is_null) = (Datum::null(), false);
        let (value_at, is_null_at) = (&raw mut value, &raw mut is_null);
        let jumped = call_with_sigsetjmp(false, |buffer| {
            pg_sys::PG_exception_stack =
                std::ptr::from_ref::<SigJmpBufFields>(buffer).cast_mut().cast();
            value_at.write(function(state, context, is_null_at));
            0
        });
        if jumped == 0 {
            pg_sys::PG_exception_stack = before.exceptions;
            return Ok((!is_null).then_some(value));
        }
        before.restore();
        let error = pg_sys::CopyErrorData();
        pg_sys::FlushErrorState();
        Err(error)
    }
}

/// Evaluates an expression in a statement of the server, which cleans up after an error. The error
/// goes on without anything that could hold a value: with `message` and its SQLSTATE alone.
///
/// # Safety
/// As for [`Evaluator::evaluate`].
#[inline]
pub(super) unsafe fn evaluate_hiding(
    state: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
    message: &CStr,
) -> Option<Datum> {
    // SAFETY: as promised by the caller.
    unsafe {
        let before = Before::now();
        match attempt(&before, state, context) {
            Ok(value) => return value,
            Err(error) => hide_and_rethrow(error, message),
        }
        // Not reached, which not every version's binding knows.
        None
    }
}

/// # Safety
/// `error` was caught by [`attempt`].
#[cold]
unsafe fn hide_and_rethrow(error: *mut pg_sys::ErrorData, message: &CStr) {
    // SAFETY: the error is a copy of ours, all of whose texts may be null.
    unsafe {
        let hidden = &mut *error;
        if !is_of_the_server(&letters(hidden.sqlerrcode)) {
            hidden.message = pg_sys::pstrdup(message.as_ptr());
            let texts = [
                &mut hidden.detail,
                &mut hidden.detail_log,
                &mut hidden.hint,
                &mut hidden.context,
                &mut hidden.internalquery,
            ];
            texts.into_iter().for_each(|text| *text = std::ptr::null_mut());
        }
        pg_sys::ReThrowError(error);
    }
}

impl Before {
    unsafe fn now() -> Before {
        // SAFETY: reads the backend's own variables.
        unsafe {
            Before {
                memory: pg_sys::CurrentMemoryContext,
                owner: pg_sys::CurrentResourceOwner,
                exceptions: pg_sys::PG_exception_stack,
                contexts: pg_sys::error_context_stack,
                interrupt_holdoff: pg_sys::InterruptHoldoffCount,
                cancel_holdoff: pg_sys::QueryCancelHoldoffCount,
            }
        }
    }

    unsafe fn restore(&self) {
        // SAFETY: the values were current when the evaluation began, in a frame that still is.
        unsafe {
            pg_sys::PG_exception_stack = self.exceptions;
            pg_sys::error_context_stack = self.contexts;
            pg_sys::CurrentMemoryContext = self.memory;
            pg_sys::CurrentResourceOwner = self.owner;
            pg_sys::InterruptHoldoffCount = self.interrupt_holdoff;
            pg_sys::QueryCancelHoldoffCount = self.cancel_holdoff;
        }
    }
}

/// As `unpack_sql_state` does: six bits a character (utils/elog.h).
fn letters(code: i32) -> [u8; 5] {
    std::array::from_fn(|at| ((code >> (6 * at)) as u8 & 0x3F) + b'0')
}

/// Data exceptions, violated constraints of domains and keys, results that grow too large, and what
/// a function does not offer for the arguments it got (a unit of `date_trunc`).
fn is_about_values(sqlstate: [u8; 5]) -> bool {
    sqlstate.starts_with(b"22") || [*b"23502", *b"23514", *b"54000", *b"0A000"].contains(&sqlstate)
}

/// Errors of classes that are about the server or the session, never about values.
pub(super) fn is_of_the_server(sqlstate: &[u8]) -> bool {
    [b"08", b"25", b"40", b"53", b"57", b"58", b"F0", b"XX"]
        .iter()
        .any(|class| sqlstate.starts_with(*class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_about_values_are_caught() {
        assert!(is_about_values(*b"22012") && is_about_values(*b"23514"));
        assert!(!is_about_values(*b"57014") && !is_about_values(*b"XX000"));
    }

    #[test]
    fn a_code_becomes_its_letters() {
        let packed = b"2200M"
            .iter()
            .enumerate()
            .fold(0, |code, (at, letter)| code | i32::from((letter - b'0') & 0x3F) << (6 * at));
        assert_eq!(letters(packed), *b"2200M");
    }
}
