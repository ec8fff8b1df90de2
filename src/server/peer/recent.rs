//! Which keys of other nodes were asked for a moment ago.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SLOTS: usize = 1 << 13;
const TIME_BITS: u32 = 24;

/// A bounded memory of keys by their hashes: a newer key takes the place of an older one.
pub(super) struct Recent {
    /// The upper bits of a hash, and when it was seen, in tenths of a second.
    slots: Box<[AtomicU64]>,
    start: Instant,
}

impl Recent {
    pub fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            start: Instant::now(),
        }
    }

    /// Notes a key, and says whether it was noted before, less than `within` ago.
    pub fn note(&self, hash: u64, within: Duration, now: Instant) -> bool {
        let tenths = |time: Duration| (time.as_millis() / 100) as u64;
        let time_mask = (1 << TIME_BITS) - 1;
        // 0 is no time: so an empty slot is none of a key.
        let now = (tenths(now.saturating_duration_since(self.start)) + 1) & time_mask;
        let slot = &self.slots[hash as usize % SLOTS];
        let before = slot.swap(hash & !time_mask | now, Ordering::Relaxed);
        let age = now.wrapping_sub(before & time_mask) & time_mask;
        before & time_mask != 0 && before & !time_mask == hash & !time_mask && age < tenths(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_a_moment_ago_is_known() {
        let (recent, within) = (Recent::new(), Duration::from_secs(10));
        let now = Instant::now();
        let hash = 0x1234_5678_9abc_def0;
        assert!(!recent.note(hash, within, now));
        assert!(recent.note(hash, within, now + within / 2));
        assert!(
            !recent.note(hash, within, now + within * 2),
            "that is long ago"
        );
        assert!(!recent.note(hash ^ 1 << 60, within, now + within * 2));
        assert!(
            !recent.note(hash, within, now + within * 2),
            "it has lost its place"
        );
        assert!(!recent.note(1, Duration::ZERO, now) && !recent.note(1, Duration::ZERO, now));
    }
}
