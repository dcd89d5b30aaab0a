//! The memory of Rust, where a small allocation that fails is an error, not the end.
//!
//! Rust ends the process when memory cannot be had, and when a process of the server ends like
//! that, the server ends all others. A large buffer can be asked for with care (`try_reserve`, see
//! the plugin's `encode`); a name, a list or a growing table cannot, in any code that is not
//! written for it. So what is small comes from a reserve when there is nothing else, and that is
//! noted. Whoever is called by the server asks before and after its work ([`check_memory`]): then
//! it is the server's own error for it, which ends the stream or the statement and gives its memory
//! back.
//!
//! The reserve is a part of the library's zeroed data: it takes no memory until it is used.
//!
//! # The server's own memory
//! That it runs out is an error already, which is copied wherever it is caught. If there is no
//! memory for the copy, the copy fails in turn, and so on until the server gives up (a PANIC, which
//! ends all its processes). So while we run, some memory is kept that is let go the moment the
//! server says that it has none: it lets those who add their context to an error have a look at it
//! ([`with_parachute`]).
//!
//! # How it is given out
//! From front to back, and never again until all of it was given back; the end and the number of
//! pieces are one number, which is compared and swapped. That is enough, because nothing goes on
//! for long once it was touched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use pgrx::{pg_sys, PgSqlErrorCode};

/// More than one callback needs: a frame, the description of a task, texts of an error.
const RESERVE_BYTES: usize = 4 * 1024 * 1024;

/// What is larger is asked for with care by those who need it.
const SMALL_BYTES: usize = 1024 * 1024;

#[global_allocator]
static MEMORY: WithReserve<System, RESERVE_BYTES> = WithReserve::new(System);

/// Raises the server's error if memory ran out since the last call.
#[inline]
pub(crate) fn check_memory() {
    if MEMORY.is_used.load(Ordering::Relaxed) {
        raise();
    }
}

#[cold]
fn raise() {
    forget_shortage();
    out_of_memory("out of memory: what was left is the reserve of the library trem".to_owned());
}

/// Raises the server's error. Unit tests are linked without a server.
#[cold]
pub(crate) fn out_of_memory(message: String) {
    #[cfg(not(test))]
    pgrx::ereport!(ERROR, PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, message);
    #[cfg(test)]
    {
        drop(message);
        std::process::abort();
    }
}

/// Something new begins, which is not to blame for what was.
pub(crate) fn forget_shortage() {
    MEMORY.is_used.store(false, Ordering::Relaxed);
}

/// What is let go. The server asks for a megabyte at a time, and nobody touches this before.
const PARACHUTE_BYTES: usize = 4 * 1024 * 1024;

static PARACHUTE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Runs a callback of the server, for which memory is kept that is let go by an error which says
/// that none is left.
#[inline]
pub(crate) fn with_parachute<T>(work: impl FnOnce() -> T) -> T {
    if PARACHUTE.load(Ordering::Relaxed).is_null() {
        // SAFETY: null if there is none, which changes nothing.
        PARACHUTE.store(unsafe { libc::malloc(PARACHUTE_BYTES) }, Ordering::Relaxed);
    }
    // SAFETY: a variable of the backend. The entry is taken out before it goes, also by a panic.
    unsafe {
        let mut entry = pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some(let_go),
            arg: ptr::null_mut(),
        };
        let _taken_out = TakenOut(entry.previous);
        pg_sys::error_context_stack = &raw mut entry;
        work()
    }
}

struct TakenOut(*mut pg_sys::ErrorContextCallback);

impl Drop for TakenOut {
    fn drop(&mut self) {
        // SAFETY: as above; what came after the entry is gone.
        unsafe { pg_sys::error_context_stack = self.0 };
    }
}

/// Called by the server with every error, before it leaves.
unsafe extern "C-unwind" fn let_go(_: *mut c_void) {
    // SAFETY: in the server's report of an error. Freed once: the pointer is taken.
    unsafe {
        if pg_sys::geterrcode() == PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as i32 {
            libc::free(PARACHUTE.swap(ptr::null_mut(), Ordering::Relaxed));
        }
    }
}

/// An allocator, and what stands in for it.
struct WithReserve<A, const BYTES: usize> {
    inner: A,
    reserve: UnsafeCell<Block<BYTES>>,
    /// The number of pieces that are out, in the upper half; where the next one begins.
    given: AtomicU64,
    is_used: AtomicBool,
}

#[repr(align(64))]
struct Block<const BYTES: usize>([u8; BYTES]);

// SAFETY: no two pieces of the reserve overlap, see `take`.
unsafe impl<A: Sync, const BYTES: usize> Sync for WithReserve<A, BYTES> {}

impl<A, const BYTES: usize> WithReserve<A, BYTES> {
    const fn new(inner: A) -> Self {
        WithReserve {
            inner,
            reserve: UnsafeCell::new(Block([0; BYTES])),
            given: AtomicU64::new(0),
            is_used: AtomicBool::new(false),
        }
    }

    fn start(&self) -> *mut u8 {
        self.reserve.get().cast()
    }

    fn holds(&self, piece: *mut u8) -> bool {
        (self.start() as usize..self.start() as usize + BYTES).contains(&(piece as usize))
    }

    /// A piece of the reserve, or null: it is too large, or nothing is left.
    #[cold]
    fn take(&self, layout: Layout) -> *mut u8 {
        if layout.size() > SMALL_BYTES {
            return ptr::null_mut();
        }
        self.is_used.store(true, Ordering::Relaxed);
        let mut given = self.given.load(Ordering::Acquire);
        loop {
            let (pieces, next) = (given >> 32, (given as u32) as usize);
            let at = (self.start() as usize + next).next_multiple_of(layout.align());
            let offset = at - self.start() as usize;
            let end = offset + layout.size();
            if end > BYTES {
                return ptr::null_mut();
            }
            let after = (pieces + 1) << 32 | end as u64;
            match self.swap(given, after) {
                // SAFETY: below the end of the reserve.
                Ok(()) => return unsafe { self.start().add(offset) },
                Err(now) => given = now,
            }
        }
    }

    /// A piece comes back. With the last one all of it is free.
    #[cold]
    fn give_back(&self) {
        let mut given = self.given.load(Ordering::Acquire);
        loop {
            let (pieces, next) = (given >> 32, given & 0xFFFF_FFFF);
            let after = if pieces <= 1 { 0 } else { (pieces - 1) << 32 | next };
            match self.swap(given, after) {
                Ok(()) => return,
                Err(now) => given = now,
            }
        }
    }

    fn swap(&self, from: u64, to: u64) -> Result<(), u64> {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.given.compare_exchange_weak(from, to, success, failure).map(drop)
    }
}

// SAFETY: a piece is the inner allocator's or the reserve's, told apart by its address, and stays
// where it is until it is given back to the one it came from.
unsafe impl<A: GlobalAlloc, const BYTES: usize> GlobalAlloc for WithReserve<A, BYTES> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised by the caller; so in the functions below.
        let piece = unsafe { self.inner.alloc(layout) };
        if piece.is_null() {
            return self.take(layout);
        }
        piece
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above; a piece of the reserve was perhaps used before.
        unsafe {
            let piece = self.inner.alloc_zeroed(layout);
            if !piece.is_null() {
                return piece;
            }
            let piece = self.take(layout);
            if !piece.is_null() {
                piece.write_bytes(0, layout.size());
            }
            piece
        }
    }

    #[inline]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        if self.holds(piece) {
            return self.give_back();
        }
        // SAFETY: as above; it is the inner allocator's.
        unsafe { self.inner.dealloc(piece, layout) };
    }

    #[inline]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above. Both pieces have room for the smaller size.
        unsafe {
            if !self.holds(piece) {
                let larger = self.inner.realloc(piece, layout, size);
                if !larger.is_null() {
                    return larger;
                }
            }
            let larger = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !larger.is_null() {
                ptr::copy_nonoverlapping(piece, larger, layout.size().min(size));
                self.dealloc(piece, layout);
            }
            larger
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has memory while it is told so.
    struct Some(AtomicBool);

    // SAFETY: the system's, or nothing.
    unsafe impl GlobalAlloc for Some {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            match self.0.load(Ordering::Relaxed) {
                // SAFETY: as promised by the caller.
                true => unsafe { System.alloc(layout) },
                false => ptr::null_mut(),
            }
        }

        unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
            // SAFETY: as promised by the caller.
            unsafe { System.dealloc(piece, layout) };
        }
    }

    type Tested = WithReserve<Some, 4096>;

    fn tested(has_memory: bool) -> Box<Tested> {
        Box::new(WithReserve::new(Some(AtomicBool::new(has_memory))))
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("a layout")
    }

    #[test]
    fn what_fails_comes_from_the_reserve_and_is_noted() {
        let memory = tested(true);
        // SAFETY: pieces are used within their layouts and given back once.
        unsafe {
            let first = memory.alloc(layout(10, 1));
            assert!(!memory.holds(first) && !memory.is_used.load(Ordering::Relaxed));
            memory.inner.0.store(false, Ordering::Relaxed);
            first.write_bytes(7, 10);
            let grown = memory.realloc(first, layout(10, 1), 100);
            assert!(memory.holds(grown) && memory.is_used.load(Ordering::Relaxed));
            assert_eq!(std::slice::from_raw_parts(grown, 10), [7; 10]);
            let more = memory.alloc_zeroed(layout(64, 64));
            assert!(memory.holds(more) && (more as usize).is_multiple_of(64));
            assert!(more as usize >= grown as usize + 100);
            assert_eq!(std::slice::from_raw_parts(more, 64), [0; 64]);
            memory.inner.0.store(true, Ordering::Relaxed);
            let back = memory.realloc(grown, layout(100, 1), 200);
            assert!(!memory.holds(back));
            assert_eq!(std::slice::from_raw_parts(back, 10), [7; 10]);
            memory.dealloc(back, layout(200, 1));
            memory.dealloc(more, layout(64, 64));
        }
    }

    #[test]
    fn the_reserve_ends_and_is_whole_again_when_all_came_back() {
        let memory = tested(false);
        // SAFETY: as above.
        unsafe {
            assert!(memory.alloc(layout(4097, 1)).is_null());
            let pieces: Vec<_> = (0..4).map(|_| memory.alloc(layout(1024, 1))).collect();
            assert!(pieces.iter().all(|&piece| memory.holds(piece)));
            assert!(memory.alloc(layout(1, 1)).is_null());
            pieces.iter().for_each(|&piece| memory.dealloc(piece, layout(1024, 1)));
            let whole = memory.alloc(layout(4096, 1));
            assert_eq!(whole, memory.start());
            memory.dealloc(whole, layout(4096, 1));
        }
    }

    /// Takes a piece, if there is one, writes all of it and looks at it.
    fn use_one(memory: &Tested, mark: u8) {
        // SAFETY: as above.
        unsafe {
            let piece = memory.alloc(layout(500, 4));
            if !piece.is_null() {
                piece.write_bytes(mark, 500);
                assert_eq!(std::slice::from_raw_parts(piece, 500), [mark; 500]);
                memory.dealloc(piece, layout(500, 4));
            }
        }
    }

    #[test]
    fn pieces_that_threads_take_do_not_overlap() {
        let memory = tested(false);
        std::thread::scope(|scope| {
            for mark in 0..4 {
                let memory = &memory;
                scope.spawn(move || (0..1000).for_each(|_| use_one(memory, mark)));
            }
        });
        assert_eq!(memory.given.load(Ordering::Relaxed), 0);
    }
}
