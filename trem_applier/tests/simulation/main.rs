//! `apply` against a model, by seeds: random transactions over several kinds of tables become a
//! stream, `apply` turns the stream into actions, and a model of the target carries them out,
//! strictly: an insert must find no row, an update and a delete must find one.
//!
//! # One run
//! [`source`] makes a history: inserts, updates, key updates and swaps, deletes and truncates over
//! a plain table, one with a second unique column, one without a key and one that is truncated
//! together with the first; large values that an update leaves alone are not in the stream. Some
//! tables are loaded late, under a snapshot in the middle of the history that does not see all that
//! is committed before it. [`target`] applies. At random moments both are thrown away and the
//! stream starts again at a position that had become durable, not always the last.
//!
//! # What must hold
//! At every commit each table whose window is closed is what it was on the source at that commit.
//! At the end every table is.

mod source;
mod target;

use std::collections::HashMap;

use source::History;
use target::Target;
use trem_applier::apply::{Apply, Event, Limits};
use trem_tests::Random;
use trem_wire::Lsn;

const SEEDS: u64 = 1_000;

#[test]
fn whatever_happens_the_target_becomes_the_source() {
    if let Ok(seed) = std::env::var("TREM_SEED") {
        return run(seed.parse().expect("TREM_SEED is a number"));
    }
    for seed in 0..SEEDS {
        run(seed);
    }
}

/// The output of a failed test ends with the seed that failed.
fn run(seed: u64) {
    println!("seed {seed}: run again with TREM_SEED={seed}");
    let mut random = Random::from_seed(seed);
    let history = History::random(&mut random);
    let windows = history.windows();
    let mut target = Target::new(history.loaded(), history.start(), random.below(2) == 0);
    while !follow(&mut random, &history, &windows, &mut target) {
        target.crash(&mut random);
    }
    target.assert_is(&history, &HashMap::new());
}

/// Follows the stream from where the target is. Whether the end was reached.
fn follow(
    random: &mut Random,
    history: &History,
    windows: &HashMap<u32, trem_applier::apply::Window>,
    target: &mut Target,
) -> bool {
    let limits =
        Limits { group_bytes: 1 << (6 + random.below(8)), group_transactions: 1 + random.below(6) };
    let mut apply = Apply::new(target.applied_lsn(), windows.clone(), limits);
    let mut stream = history.stream(target.applied_lsn(), random).into_iter();
    loop {
        if random.below(60) == 0 {
            return false;
        }
        let mut actions = Vec::new();
        let message = stream.next();
        let at_end = message.is_none();
        let events = message.map(Event::Received).into_iter();
        let idle = (at_end || random.below(8) == 0).then_some(Event::Idle);
        let passed =
            at_end.then(|| Event::Passed { position: Lsn(history.end().0 + 1), record: true });
        for event in events.chain(idle).chain(passed) {
            apply.handle(event, &mut actions).expect("a well-formed stream");
        }
        for action in actions {
            if target.carry_out(action) {
                target.assert_is(history, windows);
            }
        }
        if at_end {
            return true;
        }
    }
}
