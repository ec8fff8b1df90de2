//! Replies that were put together for one call, and are on their way: bounded in bytes over all connections, so that
//! callers who ask and do not read cost a bounded amount of memory. (A value that is sent as it is stored counts
//! against the cache's budget instead.)

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Less than this is no bound to work with: four full replies.
const LIMIT_MIN_BYTES: usize = 16 << 20;
/// The part of the cache's budget that replies may take beside it: one in ...
const BUDGET_PART: usize = 8;

pub(super) struct Outgoing {
    limit_bytes: usize,
    bytes: AtomicUsize,
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
        })
    }

    /// A reply to write into, which is counted until it is dropped.
    pub fn reply(self: &Arc<Self>) -> Encoded {
        Encoded {
            reply: Vec::new(),
            counted_bytes: 0,
            outgoing: self.clone(),
        }
    }
}

/// An encoded reply that is counted.
pub(super) struct Encoded {
    reply: Vec<u8>,
    counted_bytes: usize,
    outgoing: Arc<Outgoing>,
}

impl Encoded {
    /// Makes room for so many bytes more.
    pub fn reserve(&mut self, more_bytes: usize) -> Result<(), Full> {
        if self.reply.capacity() - self.reply.len() < more_bytes {
            let capacity = self.grown(more_bytes);
            self.count(capacity)?;
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

    /// Counts a capacity, if that is within the limit.
    fn count(&mut self, capacity: usize) -> Result<(), Full> {
        let Outgoing { limit_bytes, bytes } = &*self.outgoing;
        let more = capacity - self.counted_bytes;
        let before = bytes.fetch_add(more, Ordering::Relaxed);
        if before + more > *limit_bytes {
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
