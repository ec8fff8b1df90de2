//! How long to wait before the next try.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(3);

/// Waits that double, each with a random part, so that nodes that lost the same peer do not come back all at once.
pub(super) struct Backoff {
    failures: u32,
    random: u64,
}

impl Backoff {
    /// Backoffs of different seeds wait differently.
    pub fn new(seed: u64) -> Self {
        Self {
            failures: 0,
            // An xorshift of 0 stays there.
            random: seed | 1,
        }
    }

    /// The wait after one more failure: between half of the full one and all of it.
    pub fn next(&mut self) -> Duration {
        let full = (FIRST * (1 << self.failures.min(10))).min(LONGEST);
        self.failures += 1;
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        full.mul_f64(0.5 + part / 2.0)
    }

    /// All is well: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_again() {
        let mut backoff = Backoff::new(7);
        let mut full = FIRST;
        for _ in 0..20 {
            let wait = backoff.next();
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
            full = (full * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }

    #[test]
    fn two_nodes_do_not_come_back_together() {
        let [mut one, mut other] = [1, 2].map(Backoff::new);
        let differ = (0..10).filter(|_| one.next() != other.next()).count();
        assert!(differ >= 9, "{differ}");
    }
}
