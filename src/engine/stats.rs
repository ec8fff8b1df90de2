//! Counters. What a hit counts is striped by reader, so that it costs a plain add on a line of its own; what happens
//! on the way of a miss is counted in shared atomics.

use std::fmt;
use std::time::Duration;

use crossbeam::utils::CachePadded;

use super::pages::{AllZeroes, Zeroed};
use super::reclaim;
use super::sync::{AtomicU64, Ordering};

/// Readers with a stripe of their own, at the most and, with very many partitions, at the least; those beyond share one.
const STRIPES: usize = if cfg!(all(test, corecache_model)) {
    4
} else {
    1024
};
const STRIPES_MIN: usize = 16;
/// Counters of all stripes, as far as there are more than the fewest stripes.
const COUNTERS_MAX: usize = 1 << 20;

/// Hits and misses of one partition.
#[derive(Default)]
struct Reads {
    hits: AtomicU64,
    misses: AtomicU64,
}

pub(crate) struct ReadCounters {
    partitions: usize,
    /// By reader, then by partition. What is never counted is no memory.
    own: Zeroed<CachePadded<Reads>>,
    shared: Zeroed<CachePadded<Reads>>,
}

// SAFETY: two atomics, and what pads them.
unsafe impl AllZeroes for CachePadded<Reads> {}

impl ReadCounters {
    pub fn new(partitions: usize) -> Self {
        let stripes = (COUNTERS_MAX / partitions.max(1)).clamp(STRIPES_MIN.min(STRIPES), STRIPES);
        Self {
            partitions,
            own: Zeroed::new(stripes * partitions),
            shared: Zeroed::new(partitions),
        }
    }

    /// Counts a hit in `partition` by the reader of that number.
    #[inline(always)]
    pub fn count_hit(&self, reader: usize, partition: u16) {
        self.count(reader, partition, |reads| &reads.hits);
    }

    /// Counts a miss.
    #[inline(always)]
    pub fn count_miss(&self, reader: usize, partition: u16) {
        self.count(reader, partition, |reads| &reads.misses);
    }

    #[inline(always)]
    fn count(&self, reader: usize, partition: u16, counter: impl Fn(&Reads) -> &AtomicU64) {
        let partition = usize::from(partition);
        match self.own.get(reader * self.partitions + partition) {
            // A load and a store: nobody else has this reader's number now.
            Some(reads) => {
                let counter = counter(reads);
                counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            None => self.count_shared(partition, counter),
        }
    }

    #[cold]
    fn count_shared(&self, partition: usize, counter: impl Fn(&Reads) -> &AtomicU64) {
        bump(counter(&self.shared[partition]));
    }

    /// Hits and misses of a partition.
    pub fn sum(&self, partition: u16) -> (u64, u64) {
        let stripes = self.own.chunks(self.partitions).take(reclaim::readers());
        stripes
            .map(|stripe| &stripe[usize::from(partition)])
            .chain(self.shared.get(usize::from(partition)))
            .fold((0, 0), |(hits, misses), reads| {
                (
                    hits + reads.hits.load(Ordering::Relaxed),
                    misses + reads.misses.load(Ordering::Relaxed),
                )
            })
    }
}

/// The counters of one partition that any thread may count up.
#[derive(Default)]
pub(crate) struct LoadCounters {
    pub joined: AtomicU64,
    pub loads: AtomicU64,
    pub load_failures: AtomicU64,
    pub load_ns: AtomicU64,
    pub refused: AtomicU64,
}

/// The counters of one partition in one shard, written by whoever has the shard's turn.
#[derive(Default)]
pub(crate) struct PartitionCounters {
    pub entries: AtomicU64,
    pub entry_bytes: AtomicU64,
    pub stored: AtomicU64,
    pub evicted: AtomicU64,
    pub expired: AtomicU64,
    pub removed: AtomicU64,
    pub replaced: AtomicU64,
    pub refused: AtomicU64,
}

/// Why an entry left the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Room was needed.
    Evicted,
    /// It had expired.
    Expired,
    /// A call removed it, or cleared the cache.
    Removed,
    /// A newer value of its key took its place.
    Replaced,
}

impl PartitionCounters {
    pub fn left_by(&self, cause: Cause) -> &AtomicU64 {
        match cause {
            Cause::Evicted => &self.evicted,
            Cause::Expired => &self.expired,
            Cause::Removed => &self.removed,
            Cause::Replaced => &self.replaced,
        }
    }
}

pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Figures of one shard, written by whoever has its turn.
#[derive(Default)]
pub(crate) struct ShardGauges {
    pub leased_bytes: AtomicU64,
    pub used_bytes: AtomicU64,
    pub garbage_bytes: AtomicU64,
}

/// What a cache (or one partition of it) has done and holds.
///
/// Counters are read one after the other while the cache goes on: sums may be off by what happened meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Reads that found an entry.
    pub hits: u64,
    /// Reads that found none, or one that has expired.
    pub misses: u64,
    /// Misses that joined a load which was under way.
    pub joined: u64,
    /// Loads that have ended, however they did.
    pub loads: u64,
    /// Loads among them that brought an error or panicked.
    pub load_failures: u64,
    /// The time that loads took, added up.
    pub load_time: Duration,
    /// Entries that are held now.
    pub entries: u64,
    /// Entries that were stored, by loads and by inserts.
    pub stored: u64,
    /// Entries that left because room was needed.
    pub evicted: u64,
    /// Entries that left because they had expired.
    pub expired: u64,
    /// Entries that were removed by a call.
    pub removed: u64,
    /// Entries that made room for a newer value of their key.
    pub replaced: u64,
    /// Entries that were not stored because they could not fit.
    pub refused: u64,
    /// Bytes of the entries that are held now, overhead included.
    pub entry_bytes: u64,
    /// Bytes taken from the budget: entries, tables, and garbage.
    pub used_bytes: u64,
    /// Bytes among them of entries that left, but that readers still hold.
    pub garbage_bytes: u64,
    /// The budget.
    pub budget_bytes: u64,
    /// Bytes over the budget that are being given back; see the budget's rules.
    pub overshoot_bytes: u64,
    /// Changes that wait for their shard's turn.
    pub queued: u64,
    /// Keys that are being loaded.
    pub flights: u64,
}

impl Stats {
    /// How full a cache is, as its own text.
    pub(crate) fn fmt_as(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("entries", &self.entries)
            .field("used_bytes", &self.used_bytes)
            .field("budget_bytes", &self.budget_bytes)
            .finish_non_exhaustive()
    }
}
