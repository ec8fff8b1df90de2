//! Replies that were put together for one call, and are on their way: bounded in bytes over all connections, so that
//! callers who ask and do not read cost a bounded amount of memory. (A value that is sent as it is stored counts
//! against the cache's budget instead.)

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Less than this is no bound to work with: four full replies.
const LIMIT_MIN_BYTES: usize = 16 << 20;
/// The part of the cache's budget that replies may take beside it: one in ...
const BUDGET_PART: usize = 8;
/// Of four parts, those that streams may take: what they hold is not theirs to keep from calls that end with one reply.
const STREAM_QUARTERS: usize = 3;
/// Where room is short, so long a reply may be left untaken.
const STALL_LEAST: Duration = Duration::from_secs(5);

pub(super) struct Outgoing {
    limit_bytes: usize,
    bytes: AtomicUsize,
    stalled: AtomicU64,
}

/// There are too many replies on their way.
#[derive(Debug, thiserror::Error)]
#[error(
    "replies of {on_their_way_bytes} bytes are being put together or have not been read by their callers yet, \
     {limit_bytes} bytes are the most; read them first, or ask for fewer keys at a time"
)]
pub(super) struct Full {
    on_their_way_bytes: usize,
    limit_bytes: usize,
}

impl Outgoing {
    pub fn new(budget_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes: (budget_bytes / BUDGET_PART).max(LIMIT_MIN_BYTES),
            bytes: AtomicUsize::new(0),
            stalled: AtomicU64::new(0),
        })
    }

    /// A reply to write into, which is counted until it is dropped.
    pub fn reply(self: &Arc<Self>) -> Encoded {
        self.within(self.limit_bytes)
    }

    /// A reply of a stream.
    pub fn stream_reply(self: &Arc<Self>) -> Encoded {
        self.within(self.limit_bytes / 4 * STREAM_QUARTERS)
    }

    fn within(self: &Arc<Self>, limit_bytes: usize) -> Encoded {
        Encoded {
            reply: Vec::new(),
            counted_bytes: 0,
            limit_bytes,
            outgoing: self.clone(),
        }
    }

    /// Bytes of replies that are on their way.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Calls that were ended because they had left a reply untaken for too long.
    pub fn stalled(&self) -> u64 {
        self.stalled.load(Ordering::Relaxed)
    }

    pub fn note_stalled(&self) {
        self.stalled.fetch_add(1, Ordering::Relaxed);
    }

    /// How long a call may leave a reply untaken, if that is `at_most` where there is room: the part of it that is free.
    pub fn stall_limit(&self, at_most: Duration) -> Duration {
        let free_bytes = self.limit_bytes.saturating_sub(self.bytes());
        let part = free_bytes as f64 / self.limit_bytes as f64;
        at_most.mul_f64(part).max(STALL_LEAST.min(at_most))
    }
}

/// An encoded reply that is counted.
pub(super) struct Encoded {
    reply: Vec<u8>,
    counted_bytes: usize,
    /// Of all that are on their way.
    limit_bytes: usize,
    outgoing: Arc<Outgoing>,
}

impl Encoded {
    /// Makes room for so many bytes more.
    pub fn reserve(&mut self, more_bytes: usize) -> Result<(), Full> {
        self.reserve_leaving(more_bytes, |_| 0)
    }

    /// As [`Encoded::reserve`], if as much as this reply has is left to others: for a reply that has to wait for another
    /// one.
    pub fn reserve_share(&mut self, more_bytes: usize) -> Result<(), Full> {
        self.reserve_leaving(more_bytes, |capacity| capacity)
    }

    fn reserve_leaving(
        &mut self,
        more_bytes: usize,
        left_bytes: impl FnOnce(usize) -> usize,
    ) -> Result<(), Full> {
        if self.reply.capacity() - self.reply.len() < more_bytes {
            let capacity = self.grown(more_bytes);
            self.count(capacity, left_bytes(capacity))?;
            self.reply.reserve_exact(capacity - self.reply.len());
        }
        Ok(())
    }

    /// As [`Encoded::reserve`], whatever is on its way: for what has to be said, and is short.
    pub fn reserve_anyway(&mut self, more_bytes: usize) {
        if self.reserve(more_bytes).is_err() {
            let capacity = self.grown(more_bytes);
            let more = capacity - self.counted_bytes;
            self.outgoing.bytes.fetch_add(more, Ordering::Relaxed);
            self.counted_bytes = capacity;
            self.reply.reserve_exact(capacity - self.reply.len());
        }
    }

    /// Where the reply is written, within what was reserved.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.reply
    }

    /// Gives back what was reserved and not used, if it is much.
    pub fn shrink(&mut self) {
        if self.reply.capacity() > 2 * self.reply.len() {
            self.reply.shrink_to_fit();
            let less = self.counted_bytes - self.reply.len();
            self.outgoing.bytes.fetch_sub(less, Ordering::Relaxed);
            self.counted_bytes -= less;
        }
    }

    fn grown(&self, more_bytes: usize) -> usize {
        let needed = self.reply.len() + more_bytes;
        needed.max(2 * self.reply.capacity())
    }

    /// Counts a capacity, if that is within the limit and leaves so much of it.
    fn count(&mut self, capacity: usize, left_bytes: usize) -> Result<(), Full> {
        let Self { limit_bytes, .. } = self;
        let bytes = &self.outgoing.bytes;
        let more = capacity - self.counted_bytes;
        let before = bytes.fetch_add(more, Ordering::Relaxed);
        if before + more + left_bytes > *limit_bytes {
            bytes.fetch_sub(more, Ordering::Relaxed);
            return Err(Full {
                on_their_way_bytes: before,
                limit_bytes: *limit_bytes,
            });
        }
        self.counted_bytes = capacity;
        Ok(())
    }
}

impl Deref for Encoded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.reply
    }
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.reply
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        let bytes = &self.outgoing.bytes;
        bytes.fetch_sub(self.counted_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(outgoing: &Arc<Outgoing>, bytes: usize) -> Result<Encoded, Full> {
        let mut reply = outgoing.reply();
        reply.reserve(bytes)?;
        reply.bytes().resize(bytes, 0);
        Ok(reply)
    }

    #[test]
    fn replies_count_until_they_are_dropped() {
        let outgoing = Outgoing::new(0);
        let first = reply(&outgoing, LIMIT_MIN_BYTES / 2).unwrap();
        let second = reply(&outgoing, LIMIT_MIN_BYTES / 2).unwrap();
        let refusal = reply(&outgoing, 1).err().unwrap();
        assert!(
            refusal.to_string().contains("16777216 bytes are the most"),
            "{refusal}"
        );
        drop(first);
        let third = reply(&outgoing, LIMIT_MIN_BYTES / 2).unwrap();
        drop((second, third));
        assert_eq!(outgoing.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn streams_leave_a_quarter_and_each_as_much_as_it_takes() {
        let outgoing = Outgoing::new(0);
        let mut held = outgoing.stream_reply();
        held.reserve_share(LIMIT_MIN_BYTES / 2).unwrap_err();
        held.reserve_share(LIMIT_MIN_BYTES / 4).unwrap();
        held.bytes().resize(LIMIT_MIN_BYTES / 4, 0);
        assert!(held.reserve_share(LIMIT_MIN_BYTES / 4).is_err());
        held.reserve(LIMIT_MIN_BYTES / 2).unwrap();
        assert!(outgoing.stream_reply().reserve(1).is_err());
        reply(&outgoing, LIMIT_MIN_BYTES / 4).unwrap();
    }

    #[test]
    fn what_is_left_untaken_is_cut_sooner_where_room_is_short() {
        let outgoing = Outgoing::new(0);
        let minute = Duration::from_secs(60);
        assert_eq!(outgoing.stall_limit(minute), minute);
        let half = reply(&outgoing, LIMIT_MIN_BYTES / 2).unwrap();
        assert_eq!(outgoing.stall_limit(minute), minute / 2);
        let _all = reply(&outgoing, LIMIT_MIN_BYTES / 2).unwrap();
        assert_eq!(outgoing.stall_limit(minute), STALL_LEAST);
        let second = Duration::from_secs(1);
        assert_eq!(outgoing.stall_limit(second), second);
        drop(half);
    }

    #[test]
    fn what_is_counted_is_what_is_held() {
        let outgoing = Outgoing::new(0);
        let counted = || outgoing.bytes.load(Ordering::Relaxed);
        let mut reply = outgoing.reply();
        for len in 1..10_000 {
            reply.reserve(1).unwrap();
            reply.bytes().push(0);
            assert!(counted() >= len && counted() == reply.reply.capacity());
        }
        reply.reserve(1 << 20).unwrap();
        assert!(counted() > 1 << 20);
        reply.shrink();
        assert_eq!(counted(), reply.len());
        assert!(reply.reserve(LIMIT_MIN_BYTES).is_err());
        assert_eq!(counted(), reply.len());
        reply.reserve_anyway(LIMIT_MIN_BYTES);
        assert!(counted() > LIMIT_MIN_BYTES);
        drop(reply);
        assert_eq!(counted(), 0);
    }
}
