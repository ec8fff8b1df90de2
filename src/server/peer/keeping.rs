//! What is kept here of what came from other nodes.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::wire::Sent;
use super::{Forward, KEEP_ALONE, Peers};
use crate::group::relay::Keep;
use crate::group::{Group, PendingLoad, Value};

/// An entry beside its key and its value, more or less.
const ENTRY_BYTES: usize = 64;

impl Peers {
    pub fn take(&self, forward: Forward, sent: &Sent<'_>) {
        let is_hot = || self.is_hot(&forward.load, sent.rate);
        let keep = self.keep(&forward, sent.frame.len(), sent.lives, is_hot);
        if let Err(mut load) = forward.load.fulfil(sent.frame, keep) {
            // Loaded and kept here it is in the budget, and waits as others do.
            self.counts.roomless.fetch_add(1, Ordering::Relaxed);
            load.take_back(Some(KEEP_ALONE));
            self.load_here(load);
        }
    }

    /// Counts a value that has come, and says how long it is kept, if it has so long to live: not at all, unless it is hot
    /// and there is room for it.
    pub fn keep(
        &self,
        forward: &Forward,
        bytes: usize,
        lives: Option<Duration>,
        is_hot: impl FnOnce() -> bool,
    ) -> Keep {
        let load = &forward.load;
        let (count, keep) = match forward.is_peek() {
            true => (&self.counts.handed_over, Keep::Always),
            false => (&self.counts.values, self.keep_hot(load, bytes, is_hot)),
        };
        count.fetch_add(1, Ordering::Relaxed);
        match (keep, lives) {
            (Keep::Always, Some(lives)) => Keep::For(lives),
            (Keep::For(keep), Some(lives)) => Keep::For(keep.min(lives)),
            (keep, _) => keep,
        }
    }

    /// A value of this group was loaded for another node, which is about to read it in parts.
    pub fn keep_at_hand(&self, group: &Group, value: Value) {
        self.at_hand.put(group, value, Instant::now());
        // Whoever looks after the links lets go of it.
        let _look = self.look.lock();
        self.changed.notify_one();
    }

    /// Whether a key is hot here, or at the node that has said how often it is asked for it.
    fn is_hot(&self, load: &PendingLoad, rate_there: u64) -> bool {
        let hot_rate = self.hot.hot_rate();
        rate_there as f64 >= hot_rate || self.hot.top().rate(load.group(), load.key()) >= hot_rate
    }

    /// Whether a key has been asked for a moment ago. For large values: to pull one twice is enough.
    pub fn is_known(&self, load: &PendingLoad) -> bool {
        let hash = self.hasher.hash_one((load.group().name(), load.key()));
        self.recent.note(hash, self.config.keep, Instant::now())
    }

    fn keep_hot(
        &self,
        load: &PendingLoad,
        value_bytes: usize,
        is_hot: impl FnOnce() -> bool,
    ) -> Keep {
        let keep = self.config.keep;
        let least_bytes = ENTRY_BYTES + load.key().len() + value_bytes;
        // Memory is given in sizes that are a quarter apart at the most.
        let bytes = least_bytes + least_bytes / 4;
        match !keep.is_zero() && is_hot() && self.kept.take_room(bytes, keep, Instant::now()) {
            true => {
                self.counts.kept.fetch_add(1, Ordering::Relaxed);
                Keep::For(keep)
            }
            false => Keep::No,
        }
    }
}
