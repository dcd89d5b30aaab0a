//! Waiting for a state, with a deadline.

use std::time::{Duration, Instant};

/// How long a test waits for something that must happen. Generous: a slow machine is no failure.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Looks again this soon where PostgreSQL has no notification to wait for.
const POLL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; fails the test, naming `what`, at the deadline.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for_value(what, || condition().then_some(()));
}

/// Waits until `condition` gives a value; fails the test, naming `what`, at the deadline.
pub fn wait_for_value<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    look_until(DEADLINE, POLL, condition)
        .unwrap_or_else(|| panic!("waited {DEADLINE:?} in vain for {what}"))
}

/// Looks every `poll` until there is a value; `None` at the deadline.
pub fn look_until<T>(
    deadline: Duration,
    poll: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = look() {
            return Some(value);
        }
        if started.elapsed() >= deadline {
            return None;
        }
        std::thread::sleep(poll);
    }
}
