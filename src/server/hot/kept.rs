//! The part of the budget that values of other nodes may take.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Values that are counted at the most.
const VALUES_MAX: usize = 1 << 16;

/// Counts what is kept for a time, up to so many bytes. A value that has to go before its time is counted until then: so it
/// is never more than that.
pub(in super::super) struct Kept {
    most_bytes: usize,
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    bytes: usize,
    /// All are kept for as long, so that they end in their order.
    values: VecDeque<(Instant, usize)>,
}

impl Kept {
    pub fn new(most_bytes: usize) -> Self {
        Self {
            most_bytes,
            counted: Mutex::default(),
        }
    }

    /// Takes room for a value until `keep` is over; false if there is not so much.
    pub fn take_room(&self, bytes: usize, keep: Duration, now: Instant) -> bool {
        let mut counted = self.counted.lock();
        counted.let_go(now);
        let fits = counted.bytes + bytes <= self.most_bytes && counted.values.len() < VALUES_MAX;
        if fits {
            counted.bytes += bytes;
            counted.values.push_back((now + keep, bytes));
        }
        fits
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        let mut counted = self.counted.lock();
        counted.let_go(Instant::now());
        counted.bytes
    }
}

impl Counted {
    fn let_go(&mut self, now: Instant) {
        while let Some((until, bytes)) = self.values.front()
            && *until <= now
        {
            self.bytes -= bytes;
            self.values.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_bytes_at_a_time() {
        let (kept, keep, now) = (Kept::new(1000), Duration::from_secs(10), Instant::now());
        assert!(kept.take_room(600, keep, now));
        assert!(!kept.take_room(401, keep, now));
        assert!(kept.take_room(400, keep, now + keep / 2));
        assert!(!kept.take_room(1, keep, now + keep / 2));
        assert!(kept.take_room(600, keep, now + keep), "the first has ended");
        assert!(!kept.take_room(1, keep, now + keep));
        assert_eq!(kept.bytes(), 1000);
        assert!(!Kept::new(0).take_room(1, keep, now));
    }

    #[test]
    fn there_is_room_for_so_many_values() {
        let (kept, keep, now) = (
            Kept::new(usize::MAX),
            Duration::from_secs(10),
            Instant::now(),
        );
        let taken = (0..=VALUES_MAX)
            .filter(|_| kept.take_room(0, keep, now))
            .count();
        assert_eq!(taken, VALUES_MAX);
    }
}
