//! How long a group of transactions may grow before it is applied.
//!
//! Large groups cost the target less for each transaction, and make a transaction wait. So a group
//! waits for more as long as that adds little to what the stream is late anyway: an eighth of it,
//! and never longer than [`WAIT_MAX`]. A stream that keeps up is hardly late, and its groups do not
//! wait at all. When the source says that there is nothing more, the group ends at once, too; and a
//! target with nothing to do is not kept waiting when the group has [enough](ENOUGH) for it.

use std::time::{Duration, Instant};

/// A stream that is less late keeps up.
const LATE_MIN: Duration = Duration::from_millis(40);

const WAIT_MAX: Duration = Duration::from_millis(100);

/// Bytes of rows whose work is far more than what their commit costs.
const ENOUGH: usize = 512 * 1024;

/// Enough for a target that has nothing else to do.
pub(super) fn is_enough(bytes: usize) -> bool {
    bytes >= ENOUGH
}

#[derive(Default)]
pub(super) struct Pace {
    /// How long after its commit the last transaction was sent.
    late: Duration,
    /// When the first whole transaction of the open group was there.
    opened: Option<Instant>,
}

impl Pace {
    pub(super) fn note(&mut self, late: Duration) {
        self.late = late;
    }

    /// Whether a group is open now.
    pub(super) fn look(&mut self, is_open: bool) {
        match is_open {
            true => self.opened = self.opened.or_else(|| Some(Instant::now())),
            false => self.opened = None,
        }
    }

    fn wait(&self) -> Duration {
        match self.late < LATE_MIN {
            true => Duration::ZERO,
            false => (self.late / 8).min(WAIT_MAX),
        }
    }

    /// The open group, if there is one, need not wait.
    pub(super) fn is_due(&self) -> bool {
        self.opened.is_none_or(|opened| opened.elapsed() >= self.wait())
    }

    /// When the open group need not wait any more; never, if none is open.
    pub(super) async fn due(&self) {
        match self.opened {
            Some(opened) => tokio::time::sleep_until((opened + self.wait()).into()).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_keeps_up_waits_for_nothing() {
        let mut pace = Pace::default();
        pace.note(Duration::from_millis(5));
        pace.look(true);
        assert!(pace.is_due());
    }

    #[test]
    fn a_stream_that_is_late_lets_a_group_grow_for_a_while() {
        let mut pace = Pace::default();
        assert!(pace.is_due(), "no group is open");
        pace.note(Duration::from_secs(3600));
        pace.look(true);
        assert!(!pace.is_due());
        assert_eq!(pace.wait(), WAIT_MAX);
        pace.note(Duration::from_millis(80));
        assert_eq!(pace.wait(), Duration::from_millis(10));
        pace.note(Duration::ZERO);
        assert!(pace.is_due(), "the source has nothing more");
    }
}
