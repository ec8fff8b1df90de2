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
    "replies of {on_their_way_bytes} bytes have not been read by their callers yet, {limit_bytes} bytes are the most; \
     read them first, or ask for fewer keys at a time"
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

    /// Counts a reply until it is dropped.
    pub fn count(self: &Arc<Self>, reply: Vec<u8>) -> Result<Encoded, Full> {
        let len = reply.capacity();
        let before = self.bytes.fetch_add(len, Ordering::Relaxed);
        let counted = Encoded {
            reply,
            outgoing: self.clone(),
        };
        if before + len > self.limit_bytes {
            return Err(Full {
                on_their_way_bytes: before,
                limit_bytes: self.limit_bytes,
            });
        }
        Ok(counted)
    }
}

/// An encoded reply that is counted.
pub(super) struct Encoded {
    reply: Vec<u8>,
    outgoing: Arc<Outgoing>,
}

impl Deref for Encoded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.reply
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        let len = self.reply.capacity();
        self.outgoing.bytes.fetch_sub(len, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_count_until_they_are_dropped() {
        let outgoing = Outgoing::new(0);
        let half = vec![0; LIMIT_MIN_BYTES / 2];
        let first = outgoing.count(half.clone()).unwrap();
        let second = outgoing.count(half.clone()).unwrap();
        let refusal = outgoing.count(vec![0; 1]).err().unwrap();
        assert!(
            refusal.to_string().contains("16777216 bytes are the most"),
            "{refusal}"
        );
        drop(first);
        let third = outgoing.count(half).unwrap();
        drop((second, third));
        assert_eq!(outgoing.bytes.load(Ordering::Relaxed), 0);
    }
}
