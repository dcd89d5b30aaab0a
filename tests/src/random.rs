//! Random choices that can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64. Prints its seed, which the test's output shows when it fails; `TREM_SEED` sets it.
pub struct Random {
    state: u64,
}

impl Random {
    #[must_use]
    pub fn new() -> Self {
        let given = std::env::var("TREM_SEED").ok();
        let seed = given.map_or_else(
            || {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                now.expect("the clock is past 1970").as_nanos() as u64
            },
            |seed| seed.parse().expect("TREM_SEED is a number"),
        );
        println!("random seed {seed}: run again with TREM_SEED={seed}");
        Random { state: seed }
    }

    /// For tests that go through many seeds and tell themselves which one failed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Random { state: seed }
    }

    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `end`, without `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}
