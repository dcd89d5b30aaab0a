//! Several WAL records for each turn of the walsender.
//!
//! After every WAL record the walsender looks for a reply of the client, which is a `recv` that
//! finds nothing: a third of its time. The server has no setting for it. But it asks in each turn
//! whether output is pending, through a table of functions that a library may replace; and there
//! we decode the records that are at hand, as the server itself is about to do.
//!
//! # One turn
//! ```text
//! server:  replies?  pending? --.                 read and decode a record   flush   pending? ..
//! here:                         `-> records, until something is sent, or RECORDS_MAX
//! ```
//! A record is decoded here only if the one behind it is there as a whole: we read ahead, and never
//! wait for WAL. The last one at hand is always the server's, because only then does it note how
//! far it has sent. Otherwise it would tell less than is true for as long as nothing else happens;
//! a commit that waits for this stream would wait as long, and a server that shuts down for ever,
//! for the client to confirm exactly what it noted.
//!
//! # When nothing is decoded here
//! - When the setting `trem.read_ahead` is off.
//! - When the server's functions are not where they are expected ([`is_as_expected`]): another
//!   library has replaced some, or this is a server whose table is another one.
//! - While the server holds the slot back until others have its WAL (from 17 on, a failover slot
//!   and `synchronized_standby_slots`): it waits for them where it reads, which we do in its place.
//! - While a record is being read or decoded: the server asks whether output is pending there too.
//!   A reader has no record while it reads one. While the server decodes one, it asks only where
//!   output is written or progress is told, which are functions of the decoding context: `inside`
//!   is set in both.
//! - After the end of the stream was sent to the client: nothing may follow it.
//! - Through the SQL interface, and on a standby, where other WAL is at hand than what is flushed.
//!
//! # Errors
//! They leave through these functions by the server's `longjmp`, so nothing in them may have a
//! destructor. The stream ends then, and its memory goes, and with it [`Turn`], which puts back
//! what was replaced. Until then nobody asks.

use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use pgrx::pg_sys::{self, panic::ErrorReport};
use pgrx::{PgLogLevel, PgSqlErrorCode};

use crate::pg;

/// Records of one turn: then replies are looked for, even if nothing was sent.
const RECORDS_MAX: u32 = 256;

/// `CopyDone` of the protocol.
const COPY_DONE: c_char = b'c' as c_char;

/// libpq/libpq.h, which pgrx does not bind; the same from 15 to 18.
#[repr(C)]
#[derive(Clone, Copy)]
struct CommMethods {
    comm_reset: unsafe extern "C-unwind" fn(),
    flush: unsafe extern "C-unwind" fn() -> c_int,
    flush_if_writable: unsafe extern "C-unwind" fn() -> c_int,
    is_send_pending: unsafe extern "C-unwind" fn() -> bool,
    putmessage: unsafe extern "C-unwind" fn(c_char, *const c_char, usize) -> c_int,
    putmessage_noblock: unsafe extern "C-unwind" fn(c_char, *const c_char, usize),
}

/// Declared here to be called without a guard, or because pgrx does not bind them.
mod server {
    use super::*;

    extern "C-unwind" {
        #[link_name = "PqCommMethods"]
        pub(super) static mut COMM_METHODS: *const CommMethods;
        pub(super) fn XLogReadAhead(
            reader: *mut pg_sys::XLogReaderState,
            nonblocking: bool,
        ) -> *mut pg_sys::DecodedXLogRecord;
        pub(super) fn XLogReadRecord(
            reader: *mut pg_sys::XLogReaderState,
            error: *mut *mut c_char,
        ) -> *mut pg_sys::XLogRecord;
        pub(super) fn LogicalDecodingProcessRecord(
            context: *mut pg_sys::LogicalDecodingContext,
            reader: *mut pg_sys::XLogReaderState,
        );
    }
}

/// The stream of this walsender. It has one at a time, and one thread.
static mut STREAM: Option<Stream> = None;

#[derive(Clone, Copy)]
struct Stream {
    context: *mut pg_sys::LogicalDecodingContext,
    theirs: *const CommMethods,
    ours: CommMethods,
    write: pg_sys::LogicalOutputPluginWriterWrite,
    update_progress: pg_sys::LogicalOutputPluginWriterUpdateProgress,
    page_read: pg_sys::XLogPageReadCB,
    /// A record is being decoded.
    inside: bool,
    /// Something was sent in this turn.
    sent: bool,
    /// The client was told that nothing follows.
    ended: bool,
    /// WAL was flushed at least up to here.
    flushed: pg_sys::XLogRecPtr,
}

/// Puts back, when it is dropped, what was replaced.
pub(crate) struct Turn(());

impl Turn {
    /// # Safety
    /// `context` is the decoding context of a startup callback; the result is dropped with it.
    pub(crate) unsafe fn take_over(context: *mut pg_sys::LogicalDecodingContext) -> Option<Turn> {
        // SAFETY: globals of the backend, which has one thread; the context is live, and the
        // server's table of functions always.
        unsafe {
            let stream = &raw mut STREAM;
            if !pg_sys::am_walsender || pg_sys::RecoveryInProgress() || (*stream).is_some() {
                return None;
            }
            if !pg::READ_AHEAD.get() {
                tell(
                    PgLogLevel::DEBUG1,
                    "trem reads no records of the WAL ahead: trem.read_ahead is off",
                );
                return None;
            }
            let theirs = server::COMM_METHODS;
            let page_reader = (*(*context).reader).routine.page_read;
            if !is_as_expected(theirs, page_reader) {
                let message = "trem reads no records of the WAL ahead: the server's functions are \
                               not where they are expected";
                tell(PgLogLevel::LOG, message);
                return None;
            }
            let ours = CommMethods { is_send_pending, putmessage_noblock, ..*theirs };
            *stream = Some(Stream {
                context,
                theirs,
                ours,
                write: (*context).write,
                update_progress: (*context).update_progress,
                page_read: page_reader,
                inside: false,
                sent: false,
                ended: false,
                flushed: 0,
            });
            (*context).write = Some(write);
            (*context).update_progress = Some(update_progress);
            (*(*context).reader).routine.page_read = Some(page_read);
            if let Some(stream) = &*stream {
                server::COMM_METHODS = &raw const stream.ours;
            }
            tell(PgLogLevel::DEBUG1, "trem reads records of the WAL ahead");
            Some(Turn(()))
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // SAFETY: as above. The context is about to go, so its functions stay as they are.
        unsafe {
            if let Some(stream) = STREAM {
                server::COMM_METHODS = stream.theirs;
            }
            STREAM = None;
        }
    }
}

fn tell(level: PgLogLevel, message: &'static str) {
    let code = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
    ErrorReport::new(code, message, "trem output plugin").report(level);
}

/// Whether the table is one of six functions of the server itself, and so is the page reader.
unsafe fn is_as_expected(methods: *const CommMethods, page_read: pg_sys::XLogPageReadCB) -> bool {
    // SAFETY: the server's table has six entries at least, from 15 to 18; what they are is only
    // looked at.
    unsafe {
        let entries = std::slice::from_raw_parts(methods.cast::<*const c_void>(), 6);
        let server = object_of(server::XLogReadRecord as *const c_void);
        let page_read = page_read.map_or(ptr::null(), |function| function as *const c_void);
        let is_of_server = |&entry: &*const c_void| object_of(entry) == server;
        let are_distinct =
            entries.iter().enumerate().all(|(at, entry)| !entries[..at].contains(entry));
        !server.is_null()
            && object_of(methods.cast()) == server
            && entries.iter().chain([&page_read]).all(is_of_server)
            && are_distinct
    }
}

/// Where the program or library begins that an address is in; null: in none.
unsafe fn object_of(address: *const c_void) -> *const c_void {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: looks an address up, whatever it is; the record is ours.
    unsafe {
        match libc::dladdr(address, found.as_mut_ptr()) {
            0 => ptr::null(),
            _ => found.assume_init().dli_fbase,
        }
    }
}

/// Whether the server waits for others to have the WAL before it reads it for this slot.
#[cfg(any(feature = "pg17", feature = "pg18"))]
unsafe fn is_held_back() -> bool {
    // SAFETY: globals of the backend, which holds the slot; the setting is a string, or null.
    unsafe {
        let slots = pg_sys::synchronized_standby_slots;
        (*pg_sys::MyReplicationSlot).data.failover && !slots.is_null() && *slots != 0
    }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
unsafe fn is_held_back() -> bool {
    false
}

/// The stream, in a function that was installed for it.
unsafe fn stream<'a>() -> &'a mut Stream {
    let current = &raw mut STREAM;
    // SAFETY: one thread; the reference is not kept while a function runs that may call another.
    match unsafe { (*current).as_mut() } {
        Some(stream) => stream,
        None => unreachable!("the functions are installed while there is a stream"),
    }
}

/// Runs what reads or decodes a record, or is called while one is decoded.
unsafe fn inside(run: impl FnOnce()) {
    // SAFETY: there is a stream.
    unsafe {
        let was_inside = std::mem::replace(&mut stream().inside, true);
        run();
        stream().inside = was_inside;
    }
}

unsafe extern "C-unwind" fn is_send_pending() -> bool {
    // SAFETY: the server calls it, between records or inside of one; the reader is then as told.
    unsafe {
        let theirs = (*stream().theirs).is_send_pending;
        let context = stream().context;
        let reader = (*context).reader;
        if theirs() || stream().inside || stream().ended || (*reader).record.is_null() {
            return theirs();
        }
        if is_held_back() {
            return theirs();
        }
        stream().sent = false;
        for _ in 0..RECORDS_MAX {
            let is_decoded = is_followed(reader) && decode_one(context, reader);
            if !is_decoded || stream().sent || stream().ended {
                break;
            }
        }
        theirs()
    }
}

/// Whether there is a next record, with another one behind it. They wait in the reader's queue.
unsafe fn is_followed(reader: *mut pg_sys::XLogReaderState) -> bool {
    // SAFETY: no record is being read or decoded, and the reader has a current one.
    unsafe {
        let next = following(reader, (*reader).record);
        !next.is_null() && !following(reader, next).is_null()
    }
}

/// The record behind this one, or null if it is not there yet as a whole.
unsafe fn following(
    reader: *mut pg_sys::XLogReaderState,
    record: *mut pg_sys::DecodedXLogRecord,
) -> *mut pg_sys::DecodedXLogRecord {
    // SAFETY: as above; the record is in the reader's queue.
    unsafe {
        let mut next = (*record).next;
        if next.is_null() && is_flushed((*record).next_lsn) {
            inside(|| next = server::XLogReadAhead(reader, true));
        }
        next
    }
}

/// The server's own way to read a page waits until so much WAL is flushed.
unsafe extern "C-unwind" fn page_read(
    reader: *mut pg_sys::XLogReaderState,
    page: pg_sys::XLogRecPtr,
    wanted: c_int,
    record: pg_sys::XLogRecPtr,
    buffer: *mut c_char,
) -> c_int {
    // SAFETY: called by the server, with arguments for its own function. A length is not negative.
    unsafe {
        let last = page + (wanted as u64).saturating_sub(1);
        if (*reader).nonblocking && !is_flushed(last) {
            return pg_sys::XLogPageReadResult::XLREAD_WOULDBLOCK;
        }
        match stream().page_read {
            Some(page_read) => page_read(reader, page, wanted, record, buffer),
            None => pg_sys::XLogPageReadResult::XLREAD_FAIL,
        }
    }
}

/// Whether WAL is flushed beyond this position.
unsafe fn is_flushed(position: pg_sys::XLogRecPtr) -> bool {
    // SAFETY: not on a standby.
    unsafe {
        if stream().flushed <= position {
            stream().flushed = pg_sys::GetFlushRecPtr(ptr::null_mut());
        }
        position < stream().flushed
    }
}

/// What the server does with a record. False when none can be read: the server tries it again, and
/// says why in its own words.
unsafe fn decode_one(
    context: *mut pg_sys::LogicalDecodingContext,
    reader: *mut pg_sys::XLogReaderState,
) -> bool {
    // SAFETY: reader and context belong together, and no record is being read or decoded.
    unsafe {
        let mut error = ptr::null_mut();
        let mut is_read = false;
        inside(|| {
            is_read = !server::XLogReadRecord(reader, &mut error).is_null();
            if is_read {
                server::LogicalDecodingProcessRecord(context, reader);
            }
        });
        is_read
    }
}

unsafe extern "C-unwind" fn putmessage_noblock(kind: c_char, text: *const c_char, length: usize) {
    // SAFETY: called by the server, with arguments for its own function.
    unsafe {
        stream().ended |= kind == COPY_DONE;
        ((*stream().theirs).putmessage_noblock)(kind, text, length);
    }
}

unsafe extern "C-unwind" fn write(
    context: *mut pg_sys::LogicalDecodingContext,
    position: pg_sys::XLogRecPtr,
    xid: pg_sys::TransactionId,
    last: bool,
) {
    // SAFETY: called by the server, with arguments for its own function.
    unsafe {
        stream().sent = true;
        if let Some(write) = stream().write {
            inside(|| write(context, position, xid, last));
        }
    }
}

unsafe extern "C-unwind" fn update_progress(
    context: *mut pg_sys::LogicalDecodingContext,
    position: pg_sys::XLogRecPtr,
    xid: pg_sys::TransactionId,
    skipped: bool,
) {
    // SAFETY: called by the server, with arguments for its own function.
    unsafe {
        // A whole transaction may have gone by: time to look for replies.
        stream().sent |= skipped;
        if let Some(update_progress) = stream().update_progress {
            inside(|| update_progress(context, position, xid, skipped));
        }
    }
}
