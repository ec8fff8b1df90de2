//! What is done without being asked for: the shard's own thread comes by, frees, gives back, and sleeps again.

use std::time::Duration;

use super::super::clock::NEVER;
use super::super::entry::Body;
use super::Owner;
use super::gather::OWNER_BUCKETS;
use super::room::OWNER_YIELD_BYTES;

/// Buckets that are merged in one turn, where the table has become too large.
const MERGES_A_TURN: usize = 4096;

impl<B: Body> Owner<B> {
    /// What the shard's own thread does when it comes by.
    pub fn look_after(&mut self) {
        self.wakes_ns = 0;
        self.sweeps_soon = true;
        if !self.has_retired {
            // Nothing has left for a while, so that nothing may come for a while.
            self.arena.put_away();
        }
        self.tidy();
        if !self.is_broken {
            self.patrol();
        }
    }

    /// Frees what can be freed, and gives back what is wanted elsewhere, as much as suits one turn; whether there is more.
    pub fn tidy(&mut self) -> bool {
        if self.is_broken {
            return false;
        }
        self.sweep();
        self.writer.shrink(MERGES_A_TURN);
        self.yield_owed(OWNER_YIELD_BYTES);
        self.gather(OWNER_BUCKETS);
        self.has_chores()
    }

    /// So many turns of [`Owner::tidy`] do all that there is to do now, with room to spare: each step of them walks over a
    /// part of the buckets, or evicts a part of what is owed.
    pub fn tidy_turns_max(&self) -> usize {
        /// The rest of a walk over the table that is under way, one that finds more than was known, and a spare one.
        const WALKS: usize = 3;
        // And a turn before a walk, in which something may still be dropped.
        let walk = self.writer.buckets() / OWNER_BUCKETS + 2;
        let merges = self.writer.buckets() / MERGES_A_TURN + 1;
        let yields = self.used_bytes / OWNER_YIELD_BYTES + 1;
        WALKS * walk + merges + yields
    }

    pub fn has_chores(&self) -> bool {
        #[cfg(test)]
        if self.never_tidy {
            return true;
        }
        self.owes_bytes > self.unused() || self.writer.is_loose() || self.is_sparse()
    }

    /// Whether the shard's own thread would sleep for too long.
    pub(super) fn is_overdue(&self) -> bool {
        if self.is_broken {
            // There is nothing that it could do.
            return false;
        }
        let leaves_garbage = !self.retired.is_empty() && !self.sweeps_soon;
        let has_news = self.listening.waiting > 0 || !self.listening.untold.is_empty();
        let has_chores = self.wakes_ns > 0 && self.has_chores();
        leaves_garbage || has_news || has_chores || self.patrol.due_ns() < self.wakes_ns
    }

    /// For how long the shard's own thread may sleep; without an end if there is none.
    pub fn go_to_sleep(&mut self) -> Option<Duration> {
        if self.is_broken {
            self.wakes_ns = NEVER;
            return None;
        }
        let now_ns = self.clock.now_ns();
        self.wakes_ns = self.patrol.due_ns();
        if self.has_chores() {
            self.wakes_ns = 0;
        }
        // Where garbage comes all the time it is not called for each time. Who was called before the time was up has seen
        // too little to tell that none comes.
        let is_time = now_ns >= self.rest_ends_ns;
        self.sweeps_soon =
            !is_time || std::mem::take(&mut self.has_retired) || !self.retired.is_empty();
        let rest_ends_ns = now_ns + self.rests_ns;
        self.rest_ends_ns = if is_time {
            rest_ends_ns
        } else {
            self.rest_ends_ns.min(rest_ends_ns)
        };
        if self.sweeps_soon {
            self.wakes_ns = self.wakes_ns.min(self.rest_ends_ns);
        }
        let sleeps_ns = self.wakes_ns.saturating_sub(now_ns);
        (self.wakes_ns != NEVER).then(|| Duration::from_nanos(sleeps_ns))
    }
}
