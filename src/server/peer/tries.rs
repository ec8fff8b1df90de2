//! How often nodes that are gone are tried again: of very many, only some in a second.

use std::time::{Duration, Instant};

/// Tries in a second. Each takes about a quarter of a millisecond of a core.
const A_SECOND: f64 = 200.0;
/// Tries that can be saved up.
const MOST: f64 = 50.0;

pub(super) struct Tries {
    left: f64,
    at: Instant,
}

impl Tries {
    pub fn new(now: Instant) -> Self {
        Self {
            left: MOST,
            at: now,
        }
    }

    pub fn may(&mut self, now: Instant) -> bool {
        let passed: Duration = now.saturating_duration_since(self.at);
        self.left = (self.left + passed.as_secs_f64() * A_SECOND).min(MOST);
        self.at = now;
        self.left >= 1.0
    }

    /// For one that was made. A first one is made in any case.
    pub fn spend(&mut self) {
        self.left = (self.left - 1.0).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_in_a_second_and_no_more() {
        let begun = Instant::now();
        let mut tries = Tries::new(begun);
        let mut made = 0;
        for ms in 0..10_000 {
            while tries.may(begun + Duration::from_millis(ms)) {
                tries.spend();
                made += 1;
            }
        }
        let most = (A_SECOND * 10.0 + MOST) as u32;
        assert!((most - 2..=most).contains(&made), "{made} of {most}");
    }
}
