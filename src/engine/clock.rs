//! The cache's clock: nanoseconds since the cache was made, never going back.

use std::time::{Duration, Instant, SystemTime};

/// The expiry of an entry that does not expire.
pub(crate) const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub fn now_ns(&self) -> u64 {
        as_ns(self.start.elapsed())
    }

    /// Whether an entry with this expiry may be served no more. The instant itself counts as expired. An entry
    /// that never expires does not even read the clock.
    #[inline]
    pub fn is_past(&self, expiry_ns: u64) -> bool {
        expiry_ns != NEVER && self.now_ns() >= expiry_ns
    }

    /// `after` from now.
    #[inline]
    pub fn expiry_after(&self, after: Duration) -> u64 {
        self.now_ns().saturating_add(as_ns(after)).min(NEVER - 1)
    }

    /// How long it is until then.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub fn until(&self, expiry_ns: u64) -> Duration {
        Duration::from_nanos(expiry_ns.saturating_sub(self.now_ns()))
    }

    /// A moment of the wall clock, as it stands now: if that clock is set later, this expiry does not move.
    pub fn expiry_at(&self, at: SystemTime) -> u64 {
        let left = at.duration_since(SystemTime::now()).unwrap_or_default();
        self.expiry_after(left)
    }
}

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
