//! Which relations may look different from now on. The server calls back whenever something that it
//! knows about a relation may be stale, also in the middle of other work; so it is only noted here.
//! Casts and the labels of enums belong to no relation. Casts decide what an expression may be
//! given, labels what a value means: after a change of one everything is looked at again.
//!
//! A callback can be registered but never taken back, so there is one per backend, with or without
//! a stream. What it notes is bounded: beyond a few hundred relations it is "all of them".

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use pgrx::{pg_guard, pg_sys};

const NOTED_MAX: usize = 256;

static ANY: AtomicBool = AtomicBool::new(false);
static NOTED: Mutex<Noted> = Mutex::new(Noted { all: false, oids: Vec::new() });

struct Noted {
    all: bool,
    oids: Vec<u32>,
}

/// What became stale since it was last asked.
pub(crate) enum Stale {
    All,
    Some(Vec<u32>),
}

/// Starts noting, once per backend.
pub(crate) fn register() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        let casts = pg_sys::SysCacheIdentifier::CASTSOURCETARGET as i32;
        let labels = pg_sys::SysCacheIdentifier::ENUMTYPOIDNAME as i32;
        let nothing = pg_sys::Datum::null();
        // SAFETY: the callbacks live as long as the library, which is never unloaded.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(note), nothing);
            pg_sys::CacheRegisterSyscacheCallback(casts, Some(note_all), nothing);
            pg_sys::CacheRegisterSyscacheCallback(labels, Some(note_all), nothing);
        }
    }
}

/// What became stale since the last call; `None`, and cheap, when nothing did.
#[inline]
pub(crate) fn take() -> Option<Stale> {
    if !ANY.load(Ordering::Relaxed) {
        return None;
    }
    ANY.store(false, Ordering::Relaxed);
    let mut noted = lock();
    let oids = std::mem::take(&mut noted.oids);
    Some(if std::mem::take(&mut noted.all) { Stale::All } else { Stale::Some(oids) })
}

#[pg_guard]
unsafe extern "C-unwind" fn note(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let mut noted = lock();
    if relation == pg_sys::Oid::INVALID || noted.oids.len() >= NOTED_MAX {
        noted.all = true;
        noted.oids.clear();
    } else if !noted.all {
        noted.oids.push(relation.to_u32());
    }
    ANY.store(true, Ordering::Relaxed);
}

#[pg_guard]
unsafe extern "C-unwind" fn note_all(argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    // SAFETY: it only notes.
    unsafe { note(argument, pg_sys::Oid::INVALID) };
}

fn lock() -> std::sync::MutexGuard<'static, Noted> {
    NOTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
