//! Keeps roles that may decode with TREM alone from physical replication, where the library is in
//! `shared_preload_libraries`.
//!
//! # Why
//! PostgreSQL gives everything to a role with REPLICATION: on the connection that logical
//! replication needs (`replication=database`) it may also say BASE_BACKUP or START_REPLICATION
//! PHYSICAL, and gets every row as it is on disk. No privilege and no line of pg_hba.conf tells the
//! two apart. The applier needs logical replication only. Whoever sets `output_plugin_libraries` to
//! `trem` and nothing else for its role wants it to get what the rules let through, so that setting
//! is what is looked at: one of our own could be forgotten.
//!
//! # How
//! The server has no hook for replication commands, but it reports each of them, with the level
//! LOG if `log_replication_commands` is on, after it was parsed and before it is run
//! (`exec_replication_command` in walsender.c, 15 to 18), and a report passes `emit_log_hook`. So
//! that setting is turned on and `log_min_messages` kept at a level that lets LOG pass, both above
//! what roles, databases, files and connection options say. The hook lets through what is known to
//! be logical and ends the session at everything else, commands of later versions included.
//!
//! A walsender ignores `session_preload_libraries` (`InitPostgres` in postinit.c), which is why the
//! library has to be there when the server starts. The settings of a role are known at the end of
//! the transaction in which a session begins: from there on it is held.
//!
//! ```text
//! postmaster   _PG_init             registers on_transaction, which all processes inherit
//! walsender    InitPostgres         reads the role's settings, commits
//!                on_transaction     turns the reports on and installs on_report
//!              BASE_BACKUP          parsed, reported
//!                on_report          FATAL
//! ```
//!
//! The role cannot undo it: all these settings are a superuser's to set.
//!
//! # Why it cannot do harm
//! Other sessions are left as they are. Both callbacks are `#[pg_guard]`ed, so that no unwinding
//! meets C. The hook refuses with FATAL, not ERROR: it interrupts the report of another message,
//! and what that leaves in elog.c dies with the process. Its own refusal passes the hook again, and
//! is no report of a command. An error in `on_transaction` ends a session that has not begun.
//!
//! # What it does not do
//! A connection without a database (`replication=true`) has no settings of a role: pg_hba.conf can
//! refuse it, and has to. Standbys and backups connect like that, and are never touched. Not held
//! are superusers, and roles that were granted SET on one of the settings.

use std::ffi::CStr;
use std::sync::OnceLock;

use pgrx::pg_sys::{self, panic::ErrorReport};
use pgrx::{pg_guard, PgLogLevel, PgSqlErrorCode};

/// The report of a replication command, before it is translated.
const REPORT: &CStr = c"received replication command: %s";

/// The hook that was there before ours.
static PREVIOUS: OnceLock<pg_sys::emit_log_hook_type> = OnceLock::new();

/// Called by the server when it loads the library, in whatever kind of process.
///
/// # Safety
/// Called by the server.
#[pg_guard]
pub unsafe extern "C-unwind" fn _PG_init() {
    super::settings::define();
    // SAFETY: a global; the callback is a function that stays loaded.
    unsafe {
        if pg_sys::process_shared_preload_libraries_in_progress {
            pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut());
        }
    }
}

/// At the end of every transaction of every process.
#[pg_guard]
unsafe extern "C-unwind" fn on_transaction(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    // SAFETY: a global that is set when the process starts.
    let is_walsender = unsafe { pg_sys::am_db_walsender };
    if !is_walsender || event != pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT {
        return;
    }
    // SAFETY: in a transaction. The setting's value stays until it is set again.
    unsafe {
        let plugins = c"output_plugin_libraries".as_ptr();
        let plugins = bytes(pg_sys::GetConfigOption(plugins, true, false));
        if PREVIOUS.get().is_none() && plugins.is_some_and(names_trem_alone) && !pg_sys::superuser()
        {
            watch();
        }
    }
}

/// From here on the session is held.
///
/// # Safety
/// No replication command is being run.
unsafe fn watch() {
    // SAFETY: the names are of settings that exist, and their values are valid. The hook is a
    // global of this backend, and PREVIOUS is set before it can be called.
    unsafe {
        let level = pg_sys::GetConfigOption(c"log_min_messages".as_ptr(), false, false);
        // Set also when it is low enough, so that a reload does not raise it.
        let level = match pg_sys::log_min_messages > pg_sys::PGERROR as i32 {
            true => c"error".to_owned(),
            false => CStr::from_ptr(level).to_owned(),
        };
        force(c"log_min_messages", &level);
        force(c"log_replication_commands", c"on");
        PREVIOUS.get_or_init(|| pg_sys::emit_log_hook);
        pg_sys::emit_log_hook = Some(on_report);
    }
}

/// # Safety
/// The setting exists, and the value is one of its own.
unsafe fn force(setting: &CStr, value: &CStr) {
    // SAFETY: both strings end with a zero byte; the server copies them.
    unsafe {
        pg_sys::SetConfigOption(
            setting.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_report(report: *mut pg_sys::ErrorData) {
    // SAFETY: the server passes the report at hand, whose texts end with a zero byte or are null.
    // It keeps the command in `debug_query_string` from before the report until it has run.
    let refused = unsafe {
        bytes((*report).message_id) == Some(REPORT.to_bytes())
            && !bytes(pg_sys::debug_query_string).is_some_and(is_logical)
    };
    if refused {
        refuse();
    }
    if let Some(previous) = PREVIOUS.get().copied().flatten() {
        // SAFETY: a hook that was installed before, with its argument; nothing here is to be
        // dropped if it raises an error.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| previous(report)) };
    }
}

fn refuse() {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "this role may use logical replication only",
        "trem",
    )
    .set_detail("Its output_plugin_libraries names trem alone.")
    .set_hint("Take backups, and run standbys, with a role of their own.")
    .report(PgLogLevel::FATAL);
}

/// # Safety
/// `text` is null, or ends with a zero byte and stays as it is for `'a`.
unsafe fn bytes<'a>(text: *const std::ffi::c_char) -> Option<&'a [u8]> {
    // SAFETY: the caller vouches for `text`.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// Whether a list of libraries has ours and no other.
fn names_trem_alone(list: &[u8]) -> bool {
    list.split(|&byte| byte == b',').all(|entry| {
        let name = entry.trim_ascii();
        let unquoted = name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\""));
        unquoted.unwrap_or(name) == trem_wire::PLUGIN.as_bytes()
    })
}

/// Whether a replication command is known to be logical, or to give away nothing of a table.
///
/// The server has parsed it already (repl_gram.y): the words that tell are all that is read, and
/// they are keywords in upper case only, as the server's scanner has it. What is not understood is
/// not allowed.
fn is_logical(command: &[u8]) -> bool {
    let mut tokens = Tokens(command);
    match tokens.next() {
        Some(Token::Word(
            b"IDENTIFY_SYSTEM"
            | b"SHOW"
            | b"READ_REPLICATION_SLOT"
            | b"TIMELINE_HISTORY"
            | b"ALTER_REPLICATION_SLOT"
            | b"DROP_REPLICATION_SLOT",
        )) => true,
        Some(Token::Word(b"CREATE_REPLICATION_SLOT")) => {
            let named = tokens.next().is_some_and(|token| token.is_name());
            let kind = match tokens.next() {
                Some(Token::Word(b"TEMPORARY")) => tokens.next(),
                kind => kind,
            };
            named && kind == Some(Token::Word(b"LOGICAL"))
        }
        Some(Token::Word(b"START_REPLICATION")) => {
            tokens.next() == Some(Token::Word(b"SLOT"))
                && tokens.next().is_some_and(|token| token.is_name())
                && tokens.next() == Some(Token::Word(b"LOGICAL"))
        }
        _ => false,
    }
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    /// A keyword or a name without quotes.
    Word(&'a [u8]),
    /// A name in double quotes, without them.
    Quoted(&'a [u8]),
    Other,
}

impl Token<'_> {
    fn is_name(&self) -> bool {
        matches!(self, Token::Word(_) | Token::Quoted(_))
    }
}

/// What is left of a command, token by token, as repl_scanner.l divides it.
struct Tokens<'a>(&'a [u8]);

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C);
        let start = self.0.iter().position(|byte| !is_space(byte))?;
        let rest = &self.0[start..];
        let (token, length) = match rest[0] {
            b'"' => match rest[1..].iter().position(|&byte| byte == b'"') {
                Some(length) => (Token::Quoted(&rest[1..=length]), length + 2),
                None => (Token::Other, rest.len()),
            },
            first if continues_word(first) && !first.is_ascii_digit() && first != b'$' => {
                let end = rest.iter().position(|&byte| !continues_word(byte));
                let length = end.unwrap_or(rest.len());
                (Token::Word(&rest[..length]), length)
            }
            _ => (Token::Other, 1),
        };
        self.0 = &rest[length..];
        Some(token)
    }
}

fn continues_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::{is_logical, names_trem_alone};

    #[track_caller]
    fn check(expected: bool, commands: &[&str]) {
        for command in commands {
            assert_eq!(is_logical(command.as_bytes()), expected, "{command}");
        }
    }

    #[test]
    fn what_the_applier_says_is_allowed() {
        check(
            true,
            &[
                "IDENTIFY_SYSTEM",
                "IDENTIFY_SYSTEM;",
                "SHOW wal_segment_size",
                "CREATE_REPLICATION_SLOT \"trem_t\" LOGICAL \"trem\" EXPORT_SNAPSHOT",
                "CREATE_REPLICATION_SLOT x TEMPORARY LOGICAL trem",
                "\t CREATE_REPLICATION_SLOT\n\"x\"LOGICAL trem (SNAPSHOT 'nothing')",
                "START_REPLICATION SLOT \"trem_t\" LOGICAL 0/0 (task 't')",
                "START_REPLICATION SLOT\"PHYSICAL\"LOGICAL 0/0",
                "START_REPLICATION\x0CSLOT trem_t\r\nLOGICAL 0/0",
                "DROP_REPLICATION_SLOT x WAIT",
                "ALTER_REPLICATION_SLOT x (failover)",
                "READ_REPLICATION_SLOT x",
                "TIMELINE_HISTORY 2",
            ],
        );
    }

    #[test]
    fn what_is_physical_is_refused_however_it_is_written() {
        check(
            false,
            &[
                "BASE_BACKUP",
                " BASE_BACKUP",
                "BASE_BACKUP (LABEL 'START_REPLICATION SLOT x LOGICAL 0/0')",
                "START_REPLICATION 0/0",
                "START_REPLICATION PHYSICAL 0/0 TIMELINE 1",
                "START_REPLICATION SLOT x 0/0",
                "START_REPLICATION SLOT x PHYSICAL 0/0",
                "START_REPLICATION SLOT logical 0/0",
                "START_REPLICATION SLOT \"LOGICAL\" 0/0",
                "START_REPLICATION SLOT \"x LOGICAL 0/0\" PHYSICAL 0/0",
                "START_REPLICATION SLOT \"x\" \"LOGICAL\" 0/0",
                "START_REPLICATION\nSLOT\tx\rPHYSICAL\x0C0/0",
                "CREATE_REPLICATION_SLOT x PHYSICAL",
                "CREATE_REPLICATION_SLOT x TEMPORARY PHYSICAL RESERVE_WAL",
                "CREATE_REPLICATION_SLOT \"LOGICAL\" PHYSICAL",
                "UPLOAD_MANIFEST",
            ],
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        check(
            false,
            &[
                "",
                " ",
                ";",
                "SOMETHING_NEW",
                "identify_system",
                "start_replication slot x logical 0/0",
                "START_REPLICATION SLOT x logical 0/0",
                "START_REPLICATION SLOT x LOGICALLY 0/0",
                "START_REPLICATION SLOT x /* */ LOGICAL 0/0",
                "START_REPLICATION SLOT \"x LOGICAL 0/0",
                "START_REPLICATION SLOT \"x\"\"y\" LOGICAL 0/0",
                "START_REPLICATION SLOT 1/0 LOGICAL 0/0",
                "START_REPLICATION SLOT",
                "CREATE_REPLICATION_SLOT",
                "CREATE_REPLICATION_SLOT x TEMPORARY",
            ],
        );
    }

    #[test]
    fn a_list_of_plugins_is_held_if_it_is_trem_alone() {
        for list in ["trem", " trem ", "\"trem\"", "trem, \"trem\""] {
            assert!(names_trem_alone(list.as_bytes()), "{list}");
        }
        for list in ["", ",", "pgoutput", "pgoutput, trem", "trem,pgoutput", "tremor", "TREM"] {
            assert!(!names_trem_alone(list.as_bytes()), "{list}");
        }
    }
}
