//! What the metadata functions of expressions (`trem.commit_lsn()` and its sisters) answer: the
//! change that is being decoded. Outside of decoding there is none, and they say `load` and NULL.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicU8, Ordering};

use trem_wire::message::Operation;

static OPERATION: AtomicU8 = AtomicU8::new(0);
static COMMIT_LSN: AtomicU64 = AtomicU64::new(0);
static COMMIT_TIMESTAMP: AtomicI64 = AtomicI64::new(0);

/// The commit of the transaction that is being decoded.
#[derive(Clone, Copy)]
pub(crate) struct CommitAtHand {
    pub(crate) lsn: u64,
    /// Microseconds since 2000-01-01 00:00:00 UTC.
    pub(crate) timestamp: i64,
}

/// While this lives the change is at hand.
pub(crate) struct ChangeAtHand(());

impl ChangeAtHand {
    #[must_use]
    pub(crate) fn new(commit: CommitAtHand, operation: Operation) -> ChangeAtHand {
        COMMIT_LSN.store(commit.lsn, Ordering::Relaxed);
        COMMIT_TIMESTAMP.store(commit.timestamp, Ordering::Relaxed);
        let number = match operation {
            Operation::Insert => 1,
            Operation::Update => 2,
            Operation::Delete => 3,
        };
        OPERATION.store(number, Ordering::Relaxed);
        ChangeAtHand(())
    }
}

impl Drop for ChangeAtHand {
    fn drop(&mut self) {
        OPERATION.store(0, Ordering::Relaxed);
    }
}

/// The operation and the commit of the change at hand; `None` outside of decoding.
pub(crate) fn change_at_hand() -> Option<(Operation, CommitAtHand)> {
    let operation = match OPERATION.load(Ordering::Relaxed) {
        1 => Operation::Insert,
        2 => Operation::Update,
        3 => Operation::Delete,
        _ => return None,
    };
    let commit = CommitAtHand {
        lsn: COMMIT_LSN.load(Ordering::Relaxed),
        timestamp: COMMIT_TIMESTAMP.load(Ordering::Relaxed),
    };
    Some((operation, commit))
}
