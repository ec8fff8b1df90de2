//! How many loads may begin in a second: a token bucket.

use std::time::{Duration, Instant};

/// What has not been used is kept for so long: a node that was idle may begin so much at once.
const BURST: f64 = 0.1;

/// Lets so many begin in a second, one at least at a time.
#[derive(Debug)]
pub(super) struct Pace {
    tokens: f64,
    at: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self {
            tokens: 1.0,
            at: now,
        }
    }

    /// Takes one of `rate` in a second; if there is none, tells when there is.
    pub fn take(&mut self, rate: f64, now: Instant) -> Result<(), Instant> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * rate).min((rate * BURST).max(1.0));
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let missing = ((1.0 - self.tokens) / rate).min(3600.0);
        // A little later, so that it is a whole one then.
        Err(now + Duration::from_secs_f64(missing) + Duration::from_micros(1))
    }

    /// Gives one back that was not used.
    pub fn give_back(&mut self) {
        self.tokens += 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pace: &mut Pace, rate: f64, from: Instant, time: Duration) -> usize {
        let (mut now, mut taken) = (from, 0);
        while now < from + time {
            match pace.take(rate, now) {
                Ok(()) => taken += 1,
                Err(then) => {
                    assert!(then > now);
                    now = then;
                }
            }
        }
        taken
    }

    #[test]
    fn in_a_second_there_are_as_many_as_there_may_be() {
        let now = Instant::now();
        for rate in [0.5, 1.0, 7.0, 1000.0] {
            let taken = taken(&mut Pace::new(now), rate, now, Duration::from_secs(10));
            let most = 10.0 * rate + 1.0;
            assert!(
                (most - 1.5..=most).contains(&(taken as f64)),
                "{taken} at {rate}"
            );
        }
    }

    #[test]
    fn what_was_not_used_is_kept_for_a_tenth_of_a_second() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let later = now + Duration::from_secs(3600);
        let at_once = (0..1000).take_while(|_| pace.take(100.0, later).is_ok());
        assert_eq!(at_once.count(), 10);
    }
}
