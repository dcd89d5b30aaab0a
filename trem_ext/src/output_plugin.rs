//! The logical decoding output plugin: the callbacks that the server calls, and nothing else.
//!
//! # How a change becomes bytes
//! `session` holds the stream; `cache` finds the relation's `relation::Mapping`; `tuple` deforms
//! the row and encodes it, column by column, into the `frame`; the frame goes out when it is full
//! and at commit. The published `definition` is read once, when the stream starts, and pinned for
//! its life.
//!
//! # Rules that every callback keeps
//! - It runs in [`run`], which makes an error of memory that ran out.
//! - It is `#[pg_guard]`ed: a panic becomes a PostgreSQL error and never crosses C frames.
//! - It allocates in a memory context of our own. The server's current one lives as long as the
//!   transaction that is being replayed, which may have a hundred million rows.
//! - State hangs on the decoding context and is dropped with it. The shutdown callback does not run
//!   after an error, so nothing relies on it but giving a caller's settings back, which an abort
//!   does too.
//! - Reading the catalog is for the set-up of a relation; a row costs one call into the server.
//! - TOAST on disk is never followed: the chunks may be gone, or belong to someone else.
//!
//! Streaming of transactions in progress and two-phase commit are not offered: the server then
//! spools large transactions and delivers them whole, in commit order.

mod cache;
mod definition;
mod emit;
mod encode;
mod error;
mod form;
mod frame;
mod identity;
mod inputs;
mod invalidation;
mod keyed_rows;
mod leaf;
mod leaf_rows;
mod options;
mod relation;
mod rules;
mod session;
mod tuple;
mod turn;
mod unseen;

use std::ffi::{c_char, c_int, CStr};

use pgrx::{pg_guard, pg_sys, PgMemoryContexts};

pub(crate) use definition::published_again as published_definition;
use error::StreamError;
pub(crate) use keyed_rows::KeyedRows;
pub(crate) use leaf::lock as lock_leaf;
pub(crate) use leaf_rows::LeafRows;
use session::Session;

use crate::pg;

/// Called by the server when it loads the library as an output plugin. There is no filter by
/// origin: what a source applies from elsewhere is its data too.
///
/// # Safety
/// `callbacks` points to the server's table of callbacks.
#[pg_guard]
#[no_mangle]
pub unsafe extern "C-unwind" fn _PG_output_plugin_init(
    callbacks: *mut pg_sys::OutputPluginCallbacks,
) {
    // SAFETY: the server passes its table, zeroed, to be filled in.
    let callbacks = unsafe { &mut *callbacks };
    callbacks.startup_cb = Some(startup);
    callbacks.begin_cb = Some(begin);
    callbacks.change_cb = Some(change);
    callbacks.truncate_cb = Some(truncate);
    callbacks.commit_cb = Some(commit);
    callbacks.message_cb = Some(message);
    callbacks.shutdown_cb = Some(shutdown);
}

/// The session of a stream, once it was started.
///
/// # Safety
/// `context` is the context of a callback. Callbacks are not reentered, so there is one reference.
unsafe fn session<'a>(context: *mut pg_sys::LogicalDecodingContext) -> Option<&'a mut Session> {
    // SAFETY: the pointer is null, or was set by `startup` to a session that lives in the context.
    unsafe { (*context).output_plugin_private.cast::<Session>().as_mut() }
}

/// Runs a callback. Memory that ran out is an error, whether it was while the callback ran or
/// between callbacks.
fn run(work: impl FnOnce() -> Result<(), StreamError>) {
    pg::with_parachute(|| {
        pg::check_memory();
        if let Err(error) = work() {
            error.raise();
        }
        pg::check_memory();
    });
}

/// Values are sent as they are stored, and the stream's text is UTF-8.
fn encoding() -> Result<(), StreamError> {
    match pg::other_encoding() {
        None => Ok(()),
        Some(name) => Err(StreamError::Encoding { name }),
    }
}

/// While a slot is created there are no options, and a table must not be read: a snapshot would
/// break the creation. So nothing is set up then.
#[pg_guard]
unsafe extern "C-unwind" fn startup(
    context: *mut pg_sys::LogicalDecodingContext,
    options: *mut pg_sys::OutputPluginOptions,
    is_init: bool,
) {
    // SAFETY: the server passes both; the session is dropped with the context's memory.
    unsafe {
        (*options).output_type = pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_BINARY_OUTPUT;
        (*options).receive_rewrites = false;
        pg::forget_shortage();
        run(|| {
            encoding()?;
            if !is_init {
                let session = Session::open(context)?;
                let mut memory = PgMemoryContexts::For((*context).context);
                (*context).output_plugin_private = memory.leak_and_drop_on_delete(session).cast();
            }
            Ok(())
        });
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn shutdown(context: *mut pg_sys::LogicalDecodingContext) {
    // SAFETY: in a callback.
    if let Some(session) = unsafe { session(context) } {
        session.close();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn begin(
    context: *mut pg_sys::LogicalDecodingContext,
    _transaction: *mut pg_sys::ReorderBufferTXN,
) {
    run(|| {
        // SAFETY: in a callback.
        if let Some(session) = unsafe { session(context) } {
            session.begin();
        }
        Ok(())
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn change(
    context: *mut pg_sys::LogicalDecodingContext,
    transaction: *mut pg_sys::ReorderBufferTXN,
    relation: pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: in a change callback, with its arguments.
    run(|| match unsafe { session(context) } {
        // SAFETY: as above.
        Some(session) => unsafe { session.change(context, transaction, relation, change) },
        None => Ok(()),
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn truncate(
    context: *mut pg_sys::LogicalDecodingContext,
    transaction: *mut pg_sys::ReorderBufferTXN,
    relation_count: c_int,
    relations: *mut pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: in a truncate callback, with its arguments: an array and its length.
    run(|| unsafe {
        let count = usize::try_from(relation_count).unwrap_or(0);
        let relations = std::slice::from_raw_parts(relations, count);
        match session(context) {
            Some(session) => session.truncate(context, transaction, relations, change),
            None => Ok(()),
        }
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn commit(
    context: *mut pg_sys::LogicalDecodingContext,
    transaction: *mut pg_sys::ReorderBufferTXN,
    _commit_lsn: pg_sys::XLogRecPtr,
) {
    // SAFETY: in a commit callback, with its arguments.
    run(|| match unsafe { session(context) } {
        // SAFETY: as above.
        Some(session) => unsafe { session.commit(context, transaction) },
        None => Ok(()),
    });
}

/// The signature is the server's.
#[allow(clippy::too_many_arguments)]
#[pg_guard]
unsafe extern "C-unwind" fn message(
    context: *mut pg_sys::LogicalDecodingContext,
    transaction: *mut pg_sys::ReorderBufferTXN,
    message_lsn: pg_sys::XLogRecPtr,
    transactional: bool,
    prefix: *const c_char,
    content_length: pg_sys::Size,
    content: *const c_char,
) {
    if !transactional {
        return;
    }
    // SAFETY: in a message callback; the prefix ends with a zero byte, the content has its length.
    run(|| unsafe {
        let Some(session) = session(context) else { return Ok(()) };
        let content = std::slice::from_raw_parts(content.cast::<u8>(), content_length);
        let prefix = CStr::from_ptr(prefix).to_bytes();
        session.message(transaction, trem_wire::Lsn(message_lsn), prefix, content)
    });
}
