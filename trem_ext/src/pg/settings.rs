//! The settings under which values become text: the same in the stream, the copy and on the target,
//! whatever the session, role or database says.
//!
//! A walsender is given them for good, because it serves this one stream. A session that calls the
//! SQL functions gets its own back: there they live in a nest level that the shutdown callback
//! closes, and the server closes on an error.
//!
//! And the one setting of our own.

use std::ffi::CString;

use pgrx::{pg_sys, GucContext, GucFlags, GucRegistry, GucSetting};
use trem_wire::settings::PINNED;

use super::expression::SEARCH_PATH;
/// `trem.read_ahead`.
pub(crate) static READ_AHEAD: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Makes it known to the server that has loaded the library.
pub(super) fn define() {
    GucRegistry::define_bool_guc(
        c"trem.read_ahead",
        c"Decodes several records of the WAL in each turn of a walsender.",
        c"It makes a stream faster and nothing else. Looked at when a stream starts.",
        &READ_AHEAD,
        GucContext::Userset,
        GucFlags::default(),
    );
}

/// The nest level of settings to close at the end; nothing in a walsender.
pub(crate) struct PinnedSettings(Option<i32>);

impl PinnedSettings {
    /// Pins the settings for the rest of the session.
    ///
    /// Called inside a transaction, because a conversion of encodings is looked up.
    pub(crate) fn for_session() -> PinnedSettings {
        pin(pg_sys::GucAction::GUC_ACTION_SET);
        PinnedSettings(None)
    }

    /// Pins the settings until [`PinnedSettings::restore`] or the transaction's end.
    pub(crate) fn for_call() -> PinnedSettings {
        // SAFETY: opens a nest level; it is closed by `restore`, or by the abort of the
        // transaction around it.
        let level = unsafe { pg_sys::NewGUCNestLevel() };
        pin(pg_sys::GucAction::GUC_ACTION_SAVE);
        PinnedSettings(Some(level))
    }

    /// The same, for statements that hold expressions of rules.
    pub(crate) fn for_expressions() -> PinnedSettings {
        let settings = PinnedSettings::for_call();
        set_for_now("search_path", SEARCH_PATH);
        settings
    }

    pub(crate) fn restore(&mut self) {
        if let Some(level) = self.0.take() {
            // SAFETY: the level was opened by `for_call` and is the innermost one again.
            unsafe { pg_sys::AtEOXact_GUC(true, level) };
        }
    }
}

fn pin(action: pg_sys::GucAction::Type) {
    let ours = [("client_encoding", "UTF8"), ("search_path", "")];
    for (name, value) in ours.into_iter().chain(PINNED) {
        set(name, value, action);
    }
}

/// Until the transaction's or subtransaction's end, or that of the innermost nest level.
pub(super) fn set_for_now(name: &str, value: &str) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
}

fn set(name: &str, value: &str, action: pg_sys::GucAction::Type) {
    let [name, value] = [name, value].map(|text| CString::new(text).expect("no zero byte in it"));
    // SAFETY: both strings end with a zero byte; a value that is refused raises an error.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}
