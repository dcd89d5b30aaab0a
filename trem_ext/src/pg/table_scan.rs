//! The rows of a table that is open, in their order on disk, from any place to any other: a scan by
//! the table's OID that plans nothing and runs nothing of anybody's.
//!
//! Between two calls nothing is held but the caller's lock: a scan is opened, read as far as it is
//! wanted, and closed again, and says where to go on. So whoever asks for rows piece by piece may
//! stop at any time.

use std::ptr;

use pgrx::{ereport, pg_sys, PgSqlErrorCode};

/// Where a scan goes on: the first place on disk that it has not looked at.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    block: u32,
    offset: u16,
}

impl Place {
    pub(crate) fn of_block(block: u32) -> Place {
        Place { block, offset: 1 }
    }

    /// The last place before a block; `None`: of all.
    fn last_before(end: Option<u32>) -> Place {
        let last_block = pg_sys::InvalidBlockNumber - 1;
        let block = end.map_or(last_block, |end| end.saturating_sub(1));
        Place { block, offset: u16::MAX }
    }

    pub(crate) fn of_tid(tid: pg_sys::ItemPointerData) -> Place {
        let (high, low) = (u32::from(tid.ip_blkid.bi_hi), u32::from(tid.ip_blkid.bi_lo));
        Place { block: high << 16 | low, offset: tid.ip_posid }
    }

    pub(crate) fn next_block(self) -> u32 {
        self.block + 1
    }

    fn behind(tid: pg_sys::ItemPointerData) -> Place {
        let at = Place::of_tid(tid);
        Place { offset: at.offset + 1, ..at }
    }

    fn tid(self) -> pg_sys::ItemPointerData {
        pg_sys::ItemPointerData {
            ip_blkid: pg_sys::BlockIdData {
                bi_hi: (self.block >> 16) as u16,
                bi_lo: self.block as u16,
            },
            ip_posid: self.offset,
        }
    }
}

/// Keeps a scan of a large table to a few of the server's buffers, so that it does not push out
/// what others use. Lives in the memory context that was current when it was made.
pub(crate) struct FewBuffers(pg_sys::BufferAccessStrategy);

impl FewBuffers {
    pub(crate) fn new() -> FewBuffers {
        let kind = pg_sys::BufferAccessStrategyType::BAS_BULKREAD;
        // SAFETY: allocates in the current memory context.
        FewBuffers(unsafe { pg_sys::GetAccessStrategy(kind) })
    }
}

/// Hands the visible rows from `from` to before block `end` to `each`, until it says that this is
/// enough. `None`: there are no more.
///
/// # Safety
/// The relation is open and locked, and has rows of its own; there is an active snapshot. What
/// `each` is given is valid during its call.
pub(crate) unsafe fn scan<E>(
    relation: pg_sys::Relation,
    buffers: &FewBuffers,
    (from, end): (Place, Option<u32>),
    mut each: impl FnMut(pg_sys::HeapTuple) -> Result<bool, E>,
) -> Result<Option<Place>, E> {
    // SAFETY: as promised by the caller; the functions are those of the table's access method. An
    // error in between is cleaned up by the abort of the transaction.
    unsafe {
        let open = Open::new(relation, buffers, from, end);
        let mut next = None;
        while let Some(slot) = open.next() {
            let mut is_copy = false;
            let row = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut is_copy);
            let enough = each(row);
            let behind = Place::behind((*slot).tts_tid);
            if is_copy {
                pg_sys::heap_freetuple(row);
            }
            if enough? {
                next = Some(behind);
                break;
            }
        }
        Ok(next)
    }
}

/// A scan while it is read.
struct Open {
    scan: pg_sys::TableScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    methods: *const pg_sys::TableAmRoutine,
    is_heap: bool,
}

impl Open {
    unsafe fn new(
        relation: pg_sys::Relation,
        buffers: &FewBuffers,
        from: Place,
        end: Option<u32>,
    ) -> Open {
        use pg_sys::ScanOptions::{SO_ALLOW_PAGEMODE, SO_TYPE_TIDRANGESCAN};
        let (mut first, mut last) = (from.tid(), Place::last_before(end).tid());
        // SAFETY: as for `scan`. The methods are called behind a guard that has nothing to drop.
        unsafe {
            let methods = (*relation).rd_tableam;
            let (Some(begin), Some(set_range)) =
                ((*methods).scan_begin, (*methods).scan_set_tidrange)
            else {
                unreadable()
            };
            let slot = pg_sys::table_slot_create(relation, ptr::null_mut());
            let snapshot = pg_sys::GetActiveSnapshot();
            let flags = SO_TYPE_TIDRANGESCAN | SO_ALLOW_PAGEMODE;
            let scan = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                let scan = begin(relation, snapshot, 0, ptr::null_mut(), ptr::null_mut(), flags);
                set_range(scan, &mut first, &mut last);
                scan
            });
            let is_heap = ptr::eq(methods, pg_sys::GetHeapamTableAmRoutine());
            if is_heap {
                (*scan.cast::<pg_sys::HeapScanDescData>()).rs_strategy = buffers.0;
            }
            Open { scan, slot, methods, is_heap }
        }
    }

    unsafe fn next(&self) -> Option<*mut pg_sys::TupleTableSlot> {
        // SAFETY: the scan is open.
        unsafe {
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            let Some(next) = (*self.methods).scan_getnextslot_tidrange else { unreadable() };
            let found = pg_sys::ffi::pg_guard_ffi_boundary(|| next(self.scan, forward, self.slot));
            found.then_some(self.slot)
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: the scan is open. The buffers are the caller's, and not to be freed with it.
        unsafe {
            if self.is_heap {
                (*self.scan.cast::<pg_sys::HeapScanDescData>()).rs_strategy = ptr::null_mut();
            }
            if let Some(end) = (*self.methods).scan_end {
                pg_sys::ffi::pg_guard_ffi_boundary(|| end(self.scan));
            }
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
        }
    }
}

fn unreadable() -> ! {
    ereport!(
        ERROR,
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "the table's access method cannot be read in parts"
    );
}
