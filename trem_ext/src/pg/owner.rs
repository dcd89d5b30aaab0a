//! Doing one thing with the rights of the extension's owner, as a SECURITY DEFINER function does.

use pgrx::pg_sys;

/// Puts the user back, also when a panic unwinds.
struct Caller {
    user: pg_sys::Oid,
    context: i32,
}

impl Drop for Caller {
    fn drop(&mut self) {
        // SAFETY: these were in force when the switch was made.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
    }
}

/// Runs `work` as `owner`. The caller gives no text to it that is executed.
pub(crate) fn as_owner<T>(owner: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let mut caller = Caller { user: pg_sys::Oid::INVALID, context: 0 };
    // SAFETY: reads and sets the current user; `caller` puts it back.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut caller.user, &mut caller.context);
        let context = caller.context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
        pg_sys::SetUserIdAndSecContext(owner, context);
    }
    let _caller = caller;
    work()
}

/// Differs from transaction to transaction.
pub(crate) fn transaction_stamp() -> i64 {
    // SAFETY: reads the backend's transaction state.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}
