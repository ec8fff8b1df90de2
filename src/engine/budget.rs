//! One budget in bytes for the whole cache: a pool from which the shards lease.
//!
//! A shard takes from the pool in quanta and evicts its own entries when the pool is empty. An entry that is larger
//! than what its shard could ever free is admitted on credit, if it fits the cache at all: the pool goes below zero,
//! and the other shards are asked to give back, each in proportion to what it has. The credit has a cap, a sixteenth
//! of the budget or one entry, so what may overshoot has one. A shard that finds itself with much more than it uses
//! gives it back unasked.

use std::sync::Arc;

use super::entry::{generation_of, hot_word};
use super::sync::{AtomicBool, AtomicIsize, AtomicU32, AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;
use parking_lot::Mutex;

/// What a partition is promised, and what it may take at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Bytes that other partitions can not take from it.
    pub guaranteed_bytes: usize,
    /// Bytes that it can not grow over.
    pub largest_bytes: usize,
}

/// What may be queued at the most: one part in this many of the budget.
const QUEUED_PART: usize = 64;

impl Share {
    /// Of all there is.
    pub(crate) const WHOLE: Self = Self {
        guaranteed_bytes: 0,
        largest_bytes: usize::MAX,
    };
}

pub(crate) struct PartitionAccount {
    pub share: Share,
    /// The word of an entry for which a hit has nothing more to do. Entries of another generation than the one in it are
    /// dead; see `Core::clear`.
    hot: AtomicU32,
    /// Somebody who could not wait wants it cleared.
    wants_clear: AtomicBool,
    /// On a line of its own: each turn writes to it, and each read looks at what is beside it.
    used_bytes: CachePadded<AtomicUsize>,
}

impl PartitionAccount {
    fn new(share: Share, partition: u16) -> Self {
        Self {
            share,
            hot: AtomicU32::new(hot_word(partition, 0)),
            wants_clear: AtomicBool::new(false),
            used_bytes: CachePadded::default(),
        }
    }

    /// Whether it matters what the partition uses.
    #[inline]
    fn is_bounded(&self) -> bool {
        self.share != Share::WHOLE
    }

    #[inline]
    pub fn generation(&self) -> u8 {
        generation_of(self.hot())
    }

    #[inline]
    pub fn hot(&self) -> u32 {
        self.hot.load(Ordering::Relaxed)
    }

    pub fn start_generation(&self) {
        // One at a time, by `Pool::clearing`.
        let hot = self.hot();
        let next = hot_word(hot as u16, generation_of(hot).wrapping_add(1));
        self.hot.store(next, Ordering::SeqCst);
    }

    /// Leaves a clear to the next owner that wakes.
    pub fn want_clear(&self) {
        self.wants_clear.store(true, Ordering::SeqCst);
    }

    /// Whether there is a clear to be done; the caller does it.
    pub fn take_clear(&self) -> bool {
        self.wants_clear.load(Ordering::Relaxed) && self.wants_clear.swap(false, Ordering::SeqCst)
    }

    #[inline]
    pub fn add(&self, bytes: usize) {
        if self.is_bounded() {
            self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    #[inline]
    pub fn subtract(&self, bytes: usize) {
        if self.is_bounded() {
            self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// By how much the partition would be over its largest share with `more` bytes.
    #[inline]
    pub fn excess_with(&self, more: usize) -> usize {
        let used_bytes = self.used_bytes.load(Ordering::Relaxed);
        (used_bytes + more).saturating_sub(self.share.largest_bytes)
    }

    #[inline]
    pub fn is_over_guarantee(&self) -> bool {
        !self.is_bounded() || self.used_bytes.load(Ordering::Relaxed) > self.share.guaranteed_bytes
    }
}

pub(crate) struct Pool {
    budget_bytes: AtomicUsize,
    /// What shards lease at once; see [`quantum_of`].
    quantum_bytes: AtomicUsize,
    /// Below zero: the shards have taken more than there is, on credit.
    available_bytes: CachePadded<AtomicIsize>,
    /// What each shard is asked to give back of others' credit.
    owed_bytes: Box<[AtomicUsize]>,
    closed: AtomicBool,
    /// Entries that wait for their shard's turn.
    queued_bytes: CachePadded<AtomicUsize>,
    pub partitions: Arc<[PartitionAccount]>,
    /// One at a time, so that generations can not come round.
    pub clearing: Mutex<()>,
}

impl Pool {
    pub fn new(budget_bytes: usize, shards: usize, shares: &[Share]) -> Self {
        Self {
            budget_bytes: AtomicUsize::new(budget_bytes),
            quantum_bytes: AtomicUsize::new(quantum_of(budget_bytes, shards)),
            available_bytes: CachePadded::new(AtomicIsize::new(budget_bytes as isize)),
            owed_bytes: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            closed: AtomicBool::new(false),
            queued_bytes: CachePadded::default(),
            clearing: Mutex::new(()),
            partitions: shares
                .iter()
                .zip(0..)
                .map(|(share, partition)| PartitionAccount::new(*share, partition))
                .collect(),
        }
    }

    /// What shards lease at once.
    #[inline]
    pub fn quantum_bytes(&self) -> usize {
        self.quantum_bytes.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn budget_bytes(&self) -> usize {
        self.budget_bytes.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn credit_cap_bytes(&self) -> usize {
        self.budget_bytes() / 16
    }

    /// Sets another budget. What the shards have taken over it becomes debt.
    pub fn resize(&self, budget_bytes: usize) {
        let before = self.budget_bytes.swap(budget_bytes, Ordering::Relaxed);
        let quantum_bytes = quantum_of(budget_bytes, self.owed_bytes.len());
        self.quantum_bytes.store(quantum_bytes, Ordering::Relaxed);
        let change = budget_bytes as isize - before as isize;
        // Acquire: as in `borrow`.
        self.available_bytes.fetch_add(change, Ordering::Acquire);
    }

    /// Takes `need` bytes, and up to a quantum where the pool has it; 0 if it does not have `need`.
    pub fn lease(&self, need: usize) -> usize {
        let mut available = self.available_bytes.load(Ordering::Relaxed);
        loop {
            let taken = need
                .max(self.quantum_bytes())
                .min(available.max(0) as usize);
            if taken < need {
                return 0;
            }
            let left = available - taken as isize;
            match self.available_bytes.compare_exchange_weak(
                available,
                left,
                // Release: what the shard has said to take is seen by who finds the pool empty.
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return taken,
                Err(now) => available = now,
            }
        }
    }

    /// Takes `need` bytes that the pool does not have. Credit is given up to the cap, or to one who finds none taken.
    pub fn borrow(&self, need: usize) -> bool {
        let mut available = self.available_bytes.load(Ordering::Relaxed);
        loop {
            let debt = (-available).max(0) as usize;
            if debt > 0 && debt + need > self.credit_cap_bytes() {
                return false;
            }
            let left = available - need as isize;
            match self.available_bytes.compare_exchange_weak(
                available,
                left,
                // Acquire: the shards that have taken it are known.
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => available = now,
            }
        }
    }

    pub fn give_back(&self, bytes: usize) {
        self.available_bytes
            .fetch_add(bytes as isize, Ordering::Relaxed);
    }

    /// The cache has been dropped; its owners end when they wake.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Asks a shard to give back `bytes`; its owner is to be woken.
    pub fn ask_back(&self, shard: usize, bytes: usize) {
        // Release: the debt is seen by who sees what is asked for.
        self.owed_bytes[shard].fetch_add(bytes, Ordering::Release);
    }

    /// What the shard was asked for since it last looked, as far as it is still wanted.
    #[inline]
    pub fn take_owed(&self, shard: usize) -> usize {
        let owed = &self.owed_bytes[shard];
        if owed.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        owed.swap(0, Ordering::Acquire).min(self.debt_bytes())
    }

    /// Counts an entry that is queued. False: there is much under way, who wants to queue more should wait.
    #[inline]
    pub fn enqueue(&self, bytes: usize) -> bool {
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        queued + bytes <= self.budget_bytes() / QUEUED_PART
    }

    #[inline]
    pub fn dequeue(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What has been taken on credit and not yet been given back.
    #[inline]
    pub fn debt_bytes(&self) -> usize {
        (-self.available_bytes.load(Ordering::Relaxed)).max(0) as usize
    }
}

fn quantum_of(budget_bytes: usize, shards: usize) -> usize {
    (budget_bytes / shards / 64).clamp(1 << 10, 1 << 20)
}

#[cfg(test)]
mod tests;
