//! The settings under which values become text: the same in the stream, the copy and on the target,
//! whatever the session, role or database says.
//!
//! A walsender is given them for good, because it serves this one stream. A session that calls the
//! SQL functions gets its own back: there they live in a nest level that the shutdown callback
//! closes, and the server closes on an error.

use std::ffi::CStr;

use pgrx::pg_sys;

const PINNED: [(&CStr, &CStr); 12] = [
    (c"client_encoding", c"UTF8"),
    (c"search_path", c""),
    (c"DateStyle", c"ISO, MDY"),
    (c"IntervalStyle", c"postgres"),
    (c"TimeZone", c"UTC"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"lc_monetary", c"C"),
    // How expressions are read.
    (c"standard_conforming_strings", c"on"),
    (c"transform_null_equals", c"off"),
    (c"array_nulls", c"on"),
    (c"xmloption", c"content"),
];

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

    pub(crate) fn restore(&mut self) {
        if let Some(level) = self.0.take() {
            // SAFETY: the level was opened by `for_call` and is the innermost one again.
            unsafe { pg_sys::AtEOXact_GUC(true, level) };
        }
    }
}

fn pin(action: pg_sys::GucAction::Type) {
    for (name, value) in PINNED {
        // SAFETY: both strings are static; a value that is refused raises an error.
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
}
