//! One budget in bytes for the whole cache: a pool from which the shards lease.
//!
//! A shard takes from the pool in quanta and evicts its own entries when the pool is empty. An entry that is larger
//! than what its shard could ever free is admitted on credit, if it fits the cache at all: the pool goes below zero,
//! and the other shards are asked to give back. The credit has a cap, so what may overshoot has one.

use std::sync::atomic::{AtomicIsize, AtomicU16, AtomicUsize, Ordering};

/// What a partition is promised, and what it may take at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Bytes that other partitions can not take from it.
    pub guaranteed_bytes: usize,
    /// Bytes that it can not grow over.
    pub largest_bytes: usize,
}

pub(crate) struct PartitionAccount {
    pub share: Share,
    used_bytes: AtomicUsize,
    /// Entries of another generation than this are dead; see `Core::clear`.
    generation: AtomicU16,
}

impl PartitionAccount {
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn generation(&self) -> u16 {
        self.generation.load(Ordering::Relaxed)
    }

    pub fn start_generation(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    pub fn add(&self, bytes: usize) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn subtract(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// By how much the partition would be over its largest share with `more` bytes.
    pub fn excess_with(&self, more: usize) -> usize {
        (self.used_bytes() + more).saturating_sub(self.share.largest_bytes)
    }

    pub fn is_over_guarantee(&self) -> bool {
        self.used_bytes() > self.share.guaranteed_bytes
    }
}

pub(crate) struct Pool {
    pub budget_bytes: usize,
    pub quantum_bytes: usize,
    /// Below zero: the shards have taken more than there is, on credit.
    available_bytes: AtomicIsize,
    credit_cap_bytes: usize,
    pub partitions: Box<[PartitionAccount]>,
}

impl Pool {
    pub fn new(budget_bytes: usize, shards: usize, shares: &[Share]) -> Self {
        Self {
            budget_bytes,
            quantum_bytes: (budget_bytes / shards / 64).clamp(1 << 10, 1 << 20),
            available_bytes: AtomicIsize::new(budget_bytes as isize),
            credit_cap_bytes: budget_bytes / 16,
            partitions: shares
                .iter()
                .map(|&share| PartitionAccount {
                    share,
                    used_bytes: AtomicUsize::new(0),
                    generation: AtomicU16::new(0),
                })
                .collect(),
        }
    }

    /// Takes `need` bytes, and up to a quantum where the pool has it; 0 if it does not have `need`.
    pub fn lease(&self, need: usize) -> usize {
        let mut available = self.available_bytes.load(Ordering::Relaxed);
        loop {
            let taken = need.max(self.quantum_bytes).min(available.max(0) as usize);
            if taken < need {
                return 0;
            }
            let left = available - taken as isize;
            match self.available_bytes.compare_exchange_weak(
                available,
                left,
                Ordering::Relaxed,
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
            if debt > 0 && debt + need > self.credit_cap_bytes {
                return false;
            }
            let left = available - need as isize;
            match self.available_bytes.compare_exchange_weak(
                available,
                left,
                Ordering::Relaxed,
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

    /// What has been taken on credit and not yet been given back.
    pub fn debt_bytes(&self) -> usize {
        (-self.available_bytes.load(Ordering::Relaxed)).max(0) as usize
    }
}

/// What an allocation of `bytes` takes in an allocator with four size classes a doubling (jemalloc's; others are near).
pub(crate) fn footprint_bytes(bytes: usize) -> usize {
    if bytes <= 128 {
        return bytes.next_multiple_of(16).max(16);
    }
    // Classes between two powers of two lie a quarter of the lower one apart.
    let class = 1usize << ((bytes - 1).ilog2() - 2);
    bytes.next_multiple_of(class)
}
