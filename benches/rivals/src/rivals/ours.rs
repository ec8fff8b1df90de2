//! corecache: the typed cache, the same lending its values, and the blob cache.

use std::hint::black_box;

use corecache::engine::{BlobCache, BlobSink, Cache, Stats};

use super::Rival;
use crate::keys::{Key, Payload, Value, Words};

type Bytes = [u8; 16];

/// Enough entries for what a shard takes as a whole not to count, and so few that they do not show in the memory that is
/// measured.
const PROBED: u64 = 1 << 14;
const PROBE_BYTES: usize = 64 << 20;

pub fn typed<K: Key, V: Value>(entries: usize) -> Cache<K, V> {
    let probe = Cache::<K, V>::new(PROBE_BYTES).unwrap();
    let bytes = budget(&probe, entries, Cache::stats);
    Cache::new(bytes).unwrap()
}

pub fn blobs(entries: usize) -> BlobCache {
    let probe = BlobCache::new(PROBE_BYTES).unwrap();
    let bytes = budget(&probe, entries, BlobCache::stats);
    BlobCache::new(bytes).unwrap()
}

/// Budgets are in bytes, those of the rivals in entries. What an entry takes with its part of the table is found by
/// trying, so that all hold the same.
fn budget<R: Rival>(probe: &R, entries: usize, stats: impl Fn(&R) -> Stats) -> usize {
    (0..PROBED).for_each(|rank| probe.insert(rank));
    probe.flush();
    let stats = stats(probe);
    let bytes = stats.used_bytes as usize * entries / stats.entries as usize;
    bytes.max(1 << 20)
}

impl<K: Key, V: Value> Rival for Cache<K, V> {
    fn get(&self, rank: u64) -> bool {
        black_box(Cache::get(self, &K::of(rank))).is_some()
    }

    fn insert(&self, rank: u64) {
        let stored = self.insert_soon(K::of(rank), V::of(rank));
        assert!(stored.is_ok(), "an entry of some bytes was refused");
    }

    fn get_or_load(&self, rank: u64) -> bool {
        let mut hit = true;
        let value = Cache::get_or_load(self, &K::of(rank), |_| {
            hit = false;
            Ok(V::of(rank))
        });
        black_box(value.unwrap());
        hit
    }

    fn flush(&self) {
        Cache::flush(self);
    }
}

/// The typed cache, read by `get_with`.
pub struct Loan(Cache<Words, Payload>);

pub fn loan(entries: usize) -> Loan {
    Loan(typed(entries))
}

impl Rival for Loan {
    fn get(&self, rank: u64) -> bool {
        let look = |value: &Payload| black_box(value[50]);
        self.0.get_with(&Words::of(rank), look).is_some()
    }

    fn insert(&self, rank: u64) {
        Rival::insert(&self.0, rank);
    }

    fn get_or_load(&self, rank: u64) -> bool {
        Rival::get_or_load(&self.0, rank)
    }

    fn flush(&self) {
        self.0.flush();
    }
}

impl Rival for BlobCache {
    fn get(&self, rank: u64) -> bool {
        black_box(BlobCache::get(self, &Bytes::of(rank))).is_some()
    }

    fn insert(&self, rank: u64) {
        self.insert_soon(&Bytes::of(rank), &Payload::of(rank))
            .unwrap();
    }

    fn get_or_load(&self, rank: u64) -> bool {
        let mut hit = true;
        let load = |_: &[u8], sink: &mut BlobSink<'_>| {
            hit = false;
            sink.extend_from_slice(&Payload::of(rank));
            Ok(())
        };
        black_box(BlobCache::get_or_load(self, &Bytes::of(rank), load).unwrap());
        hit
    }

    fn flush(&self) {
        BlobCache::flush(self);
    }
}
