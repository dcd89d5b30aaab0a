//! Evaluating an expression for one row, where a failure must not end the stream, nor say a word
//! about the row.
//!
//! # Why not a subtransaction, nor pgrx's guard
//! Both are right and slow: a subtransaction costs every row, the guard turns an error into a Rust
//! panic, which costs twenty times what catching it here does. What a subtransaction would clean up
//! is instead cleaned up by hand ([`Before::recover`]): memory, because the caller evaluates in a
//! context that it resets for every row; references to caches and the like, because they are taken
//! under a resource owner of our own; and what a backend holds without an owner. A function in C
//! may read the catalog (a label of an enum, the fields of a row), and whatever goes wrong there
//! leaves light-weight locks, a wait for a buffer, a lock or a condition. None of these are held
//! where an expression begins, so all that are found afterwards are the expression's. Functions in
//! C open no cursors, files, portals or SPI sessions, and no others are admitted.
//!
//! A division that the processor refuses (the smallest integer by -1, where nobody looked) comes as
//! a signal. Every backend makes an error of it but the walsender, which it would end, and all
//! others with it: so a stream has it handled as backends do ([`handle_division`]). The handler
//! leaves by the error, with its signal blocked, which the next one would not survive: it is let in
//! again.
//!
//! # What is caught
//! Everything but errors that are about the session
//! ([`is_of_the_session`](trem_wire::sqlstate::is_of_the_session)): a cancelled query, no memory, a
//! lost file. Those go on, for a server that could not be stopped any more, or that takes its own
//! breakdown for bad data, would be worse than a stream that ends. Everything else is the failure
//! of the row, even what looks like a bug of the server: the same row would end the stream for
//! ever.
//!
//! # What it says
//! Nothing of its own words: those quote values (`invalid input syntax for type integer: "..."`,
//! `word is too long: ...`, a piece of a document). Of an error the SQLSTATE is taken and no more;
//! one that goes on is raised anew, with a text that is chosen by its code. What is said without
//! failing (WARNING, NOTICE, LOG, DEBUG) is not said at all: the server decides by two variables
//! whether anybody listens ([`Quiet`]). Only INFO would pass, which VACUUM and its like use.

use std::ffi::{c_int, CStr};
use std::mem::MaybeUninit;

use cee_scape::{call_with_sigsetjmp, SigJmpBufFields};
use pgrx::pg_sys::{self, panic::ErrorReport, Datum, ResourceReleasePhase};
use pgrx::{PgLogLevel, PgSqlErrorCode};
use trem_wire::sqlstate::{is_of_the_session, RULE_FAILED_CONSTRAINT, RULE_FAILED_SCHEMA};

/// A row's values made an expression fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Failed {
    pub(crate) sqlstate: [u8; 5],
}

/// Evaluates expressions of one transaction after the other.
pub(crate) struct Evaluator(());

/// Holds what expressions of the transaction at hand refer to. Null until the first one; goes with
/// the owner that was current then. One for the backend, which decodes one change at a time.
static mut OWNER: pg_sys::ResourceOwner = std::ptr::null_mut();

/// What is put back after an evaluation or after an error in it, as PG_TRY and the main loop of a
/// backend do.
struct Before {
    memory: pg_sys::MemoryContext,
    owner: pg_sys::ResourceOwner,
    exceptions: *mut pg_sys::sigjmp_buf,
    contexts: *mut pg_sys::ErrorContextCallback,
    interrupt_holdoff: u32,
    cancel_holdoff: u32,
    loud: Quiet,
}

/// From when on a report below ERROR has a listener: what `errstart` (elog.c) compares its level
/// with, before it does anything else. Plain variables, because a setting costs more than a row.
#[derive(Clone, Copy)]
pub(super) struct Quiet {
    client: c_int,
    log: c_int,
}

impl Quiet {
    /// Nobody listens until [`Quiet::end`] of what comes back. Errors that end the session are
    /// still said, and others are for whoever catches them.
    #[inline]
    pub(super) fn begin() -> Quiet {
        // SAFETY: variables of this backend, which reads its settings between statements only.
        unsafe {
            let before =
                Quiet { client: pg_sys::client_min_messages, log: pg_sys::log_min_messages };
            pg_sys::client_min_messages = pg_sys::PGERROR as c_int;
            pg_sys::log_min_messages = pg_sys::FATAL as c_int;
            before
        }
    }

    #[inline]
    pub(super) fn end(self) {
        // SAFETY: as above; the values were there when it began.
        unsafe {
            pg_sys::client_min_messages = self.client;
            pg_sys::log_min_messages = self.log;
        }
    }
}

impl Evaluator {
    pub(crate) const fn new() -> Evaluator {
        Evaluator(())
    }

    /// A new transaction: the owner of the last one went with it.
    pub(crate) fn begin(&mut self) {
        // SAFETY: a variable of the backend, which has one thread.
        unsafe { OWNER = std::ptr::null_mut() };
    }

    /// Gives back what was held for this transaction before it ends.
    pub(crate) fn end(&mut self) {
        // SAFETY: the owner is ours, and nothing is evaluated any more.
        unsafe {
            if !OWNER.is_null() {
                release(true);
            }
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
        // SAFETY: as promised by the caller.
        unsafe {
            let Some(function) = (*state).evalfunc else { return Ok(None) };
            over_row(|| value(function, state, context))
        }
    }
}

/// Runs functions in C of the server over values of a row, as an expression does.
///
/// # Safety
/// `run` holds nothing that must be dropped: an error jumps out of it. It calls what could be
/// called in an expression, without a guard around it. Between [`Evaluator::begin`] and the end of
/// its transaction.
#[inline]
pub(crate) unsafe fn over_row<R: Copy>(run: impl FnOnce() -> R) -> Result<R, Failed> {
    // SAFETY: reads and sets the backend's state; single-threaded.
    unsafe {
        if OWNER.is_null() {
            let parent = pg_sys::CurrentResourceOwner;
            OWNER = pg_sys::ResourceOwnerCreate(parent, c"trem expression".as_ptr());
        }
        // From here on errors are caught, which end the quiet.
        let before = Before::now();
        pg_sys::CurrentResourceOwner = OWNER;
        let result = attempt(&before, run);
        pg_sys::CurrentResourceOwner = before.owner;
        result.map_err(|code| {
            let sqlstate = letters(code);
            if is_of_the_session(&sqlstate) {
                // Not through the server, which would copy it, perhaps without memory.
                let message = CStr::from_ptr(session_error(code).message).to_string_lossy();
                let code = PgSqlErrorCode::from(code);
                ErrorReport::new(code, message, "trem expression").report(PgLogLevel::ERROR);
            }
            release(false);
            Failed { sqlstate }
        })
    }
}

/// Releases what the owner holds, and the owner: from 17 on it could not be used again.
unsafe fn release(is_commit: bool) {
    use ResourceReleasePhase::{
        RESOURCE_RELEASE_AFTER_LOCKS, RESOURCE_RELEASE_BEFORE_LOCKS, RESOURCE_RELEASE_LOCKS,
    };
    // SAFETY: the owner is ours and has no children that anybody else uses.
    unsafe {
        let owner = OWNER;
        OWNER = std::ptr::null_mut();
        for phase in
            [RESOURCE_RELEASE_BEFORE_LOCKS, RESOURCE_RELEASE_LOCKS, RESOURCE_RELEASE_AFTER_LOCKS]
        {
            pg_sys::ResourceOwnerRelease(owner, phase, is_commit, false);
        }
        pg_sys::ResourceOwnerDelete(owner);
    }
}

/// The function that evaluates an expression; without a guard around it.
type EvaluatingFunction = unsafe extern "C-unwind" fn(
    *mut pg_sys::ExprState,
    *mut pg_sys::ExprContext,
    *mut bool,
) -> Datum;

#[inline]
unsafe fn value(
    function: EvaluatingFunction,
    state: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
) -> Option<Datum> {
    let mut is_null = false;
    // SAFETY: the function is that of the state; the last argument is ours.
    let value = unsafe { function(state, context, &mut is_null) };
    (!is_null).then_some(value)
}

/// Runs it, quietly. An error comes back as its code, with everything as it was before except for
/// what the current owner holds.
///
/// # Safety
/// As for [`over_row`].
#[inline]
unsafe fn attempt<R: Copy>(before: &Before, run: impl FnOnce() -> R) -> Result<R, c_int> {
    let mut result = MaybeUninit::<R>::uninit();
    let result_at = result.as_mut_ptr();
    // SAFETY: reads and sets the backend's state; single-threaded. The closure holds nothing that
    // must be dropped, so an error may jump out of it. The result was written unless it did.
    unsafe {
        let jumped = call_with_sigsetjmp(false, |buffer| {
            pg_sys::PG_exception_stack =
                std::ptr::from_ref::<SigJmpBufFields>(buffer).cast_mut().cast();
            result_at.write(run());
            0
        });
        before.loud.end();
        if jumped == 0 {
            pg_sys::PG_exception_stack = before.exceptions;
            return Ok(result.assume_init());
        }
        Err(before.recover())
    }
}

/// Evaluates an expression in a statement of the server, which cleans up after an error. The error
/// goes on without anything that could hold a value: with its SQLSTATE and `message`, or a text of
/// ours if it is about the session.
///
/// # Safety
/// As for [`Evaluator::evaluate`]. The error leaves by the server's `longjmp`, so that the fields
/// by which the applier knows it stay: no caller up to the server holds anything that must be
/// dropped.
#[inline]
pub(super) unsafe fn evaluate_hiding(
    state: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
    message: &CStr,
) -> Option<Datum> {
    // SAFETY: as promised by the caller.
    unsafe {
        let function = (*state).evalfunc?;
        let before = Before::now();
        match attempt(&before, || value(function, state, context)) {
            Ok(value) => value,
            Err(code) => raise_hiding(code, message),
        }
    }
}

/// # Safety
/// As for [`evaluate_hiding`].
#[cold]
unsafe fn raise_hiding(code: c_int, message: &CStr) -> Option<Datum> {
    let mut error = session_error(code);
    let (schema, constraint);
    if !is_of_the_session(&letters(code)) {
        (schema, constraint) = (zero_ended(RULE_FAILED_SCHEMA), zero_ended(RULE_FAILED_CONSTRAINT));
        error.message = message.as_ptr().cast_mut();
        error.schema_name = schema.as_ptr().cast_mut().cast();
        error.constraint_name = constraint.as_ptr().cast_mut().cast();
    }
    // SAFETY: the server copies the texts before it jumps; nothing here must be dropped.
    unsafe { unguarded::ThrowErrorData(&raw mut error) };
    // Not reached.
    None
}

/// A short text with a zero byte behind it.
fn zero_ended(text: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

/// Declared here to be called without a guard.
mod unguarded {
    extern "C-unwind" {
        pub(super) fn ThrowErrorData(error: *mut pgrx::pg_sys::ErrorData);
        pub(super) fn FloatExceptionHandler(signal: std::ffi::c_int);
    }
}

/// An error about the session, in our words, which are chosen by its code.
#[cold]
fn session_error(code: c_int) -> pg_sys::ErrorData {
    let message = match &letters(code) {
        b"57014" => c"canceling statement while an expression is evaluated",
        b"53200" => c"out of memory while an expression is evaluated",
        b"53100" => c"no space left on device while an expression is evaluated",
        b"55P03" => c"a lock is not available while an expression is evaluated",
        [b'4', b'0', ..] => c"canceling statement while an expression is evaluated: a conflict",
        [b'5', b'3', ..] => c"a resource of the server is used up by an expression",
        [b'5', b'7', ..] => c"the session ends while an expression is evaluated",
        [b'5', b'8', ..] => c"the server's storage fails while an expression is evaluated",
        _ => c"the session fails while an expression is evaluated",
    };
    pg_sys::ErrorData {
        elevel: pg_sys::PGERROR as c_int,
        sqlerrcode: code,
        message: message.as_ptr().cast_mut(),
        ..Default::default()
    }
}

/// Has a walsender make an error of a division that the processor refuses.
pub(crate) fn handle_division() {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a walsender has set nothing for this signal (`WalSndSignals` in walsender.c). The
    // handler is the one that backends have, and leaves what it interrupts by the error alone.
    unsafe {
        let action = action.assume_init_mut();
        let handler: unsafe extern "C-unwind" fn(c_int) = unguarded::FloatExceptionHandler;
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigemptyset(&raw mut action.sa_mask);
        action.sa_flags = libc::SA_RESTART | libc::SA_NODEFER;
        libc::sigaction(libc::SIGFPE, action, std::ptr::null_mut());
    }
}

/// Lets the signal of a refused division in again, after its handler has left by an error.
#[cold]
fn unblock_division() {
    let mut signals = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is filled before it is read.
    unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGFPE);
        libc::sigprocmask(libc::SIG_UNBLOCK, signals.as_ptr(), std::ptr::null_mut());
    }
}

impl Before {
    /// What is there now; nobody listens from here on.
    #[inline]
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
                loud: Quiet::begin(),
            }
        }
    }

    /// Puts everything back after an error jumped out, and gives its code. The order is that of
    /// PG_CATCH and of `AbortTransaction` (xact.c): first the stacks, then what nobody owns, then
    /// the error is forgotten. Its text is never looked at.
    #[cold]
    unsafe fn recover(&self) -> c_int {
        // SAFETY: the values were current when the evaluation began, in a frame that still is. The
        // functions release what this backend holds, which was nothing then.
        unsafe {
            pg_sys::PG_exception_stack = self.exceptions;
            pg_sys::error_context_stack = self.contexts;
            pg_sys::CurrentMemoryContext = self.memory;
            pg_sys::LWLockReleaseAll();
            *pg_sys::my_wait_event_info = 0;
            #[cfg(feature = "pg15")]
            pg_sys::AbortBufferIO();
            pg_sys::UnlockBuffers();
            pg_sys::ConditionVariableCancelSleep();
            pg_sys::LockErrorCleanup();
            pg_sys::InterruptHoldoffCount = self.interrupt_holdoff;
            pg_sys::QueryCancelHoldoffCount = self.cancel_holdoff;
            let code = pg_sys::geterrcode();
            pg_sys::FlushErrorState();
            if letters(code) == FLOATING_POINT_EXCEPTION {
                unblock_division();
            }
            code
        }
    }
}

/// What the handler of a refused division raises.
const FLOATING_POINT_EXCEPTION: [u8; 5] = *b"22P01";

/// As `unpack_sql_state` does: six bits a character (utils/elog.h).
fn letters(code: c_int) -> [u8; 5] {
    std::array::from_fn(|at| ((code >> (6 * at)) as u8 & 0x3F) + b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(sqlstate: &[u8; 5]) -> c_int {
        let letters = sqlstate.iter().enumerate();
        letters.fold(0, |code, (at, letter)| code | c_int::from((letter - b'0') & 0x3F) << (6 * at))
    }

    #[test]
    fn a_code_becomes_its_letters() {
        for sqlstate in [b"2200M", b"57014", b"XX000"] {
            assert_eq!(letters(packed(sqlstate)), *sqlstate);
        }
    }

    #[test]
    fn an_error_that_goes_on_keeps_its_code_and_has_words_of_ours() {
        let error = session_error(packed(b"57014"));
        assert_eq!(letters(error.sqlerrcode), *b"57014");
        // SAFETY: a literal.
        let message = unsafe { CStr::from_ptr(error.message) };
        assert_eq!(message, c"canceling statement while an expression is evaluated");
        assert!(error.detail.is_null() && error.hint.is_null() && error.context.is_null());
    }

    #[test]
    fn the_names_by_which_a_failed_rule_is_known_fit() {
        for name in [RULE_FAILED_SCHEMA, RULE_FAILED_CONSTRAINT] {
            assert!(name.len() < zero_ended("").len());
        }
    }
}
