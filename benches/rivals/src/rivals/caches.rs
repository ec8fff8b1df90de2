//! The other caches.

use std::hash::BuildHasher;
use std::hint::black_box;

use foyer_memory::S3FifoConfig;
use mini_moka::sync::ConcurrentCacheExt;
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter};

use super::{Hasher, Rival};
use crate::keys::{Key, Value};

/// More shards than a cache makes of itself where there are few cores: readers meet less often.
const SHARDS: usize = 64;

type Quick<K, V, S> = quick_cache::sync::Cache<K, V, UnitWeighter, S>;
type Moka<K, V> = moka::sync::Cache<K, V, Hasher>;
type MiniMoka<K, V> = mini_moka::sync::Cache<K, V, Hasher>;
type Foyer<K, V> = foyer_memory::Cache<K, V, Hasher>;

/// A capacity that is split over shards, with room for the shards that get more than their part.
fn uneven(entries: usize) -> usize {
    entries + entries / 32
}

/// As it comes.
pub fn quick<K: Key, V: Value>(entries: usize) -> Quick<K, V, DefaultHashBuilder> {
    quick_cache::sync::Cache::new(uneven(entries))
}

pub fn quick_tuned<K: Key, V: Value>(entries: usize) -> Quick<K, V, Hasher> {
    let options = OptionsBuilder::new()
        .shards(SHARDS)
        .estimated_items_capacity(uneven(entries))
        .weight_capacity(uneven(entries) as u64)
        .build()
        .unwrap();
    Quick::with_options(options, UnitWeighter, Hasher::default(), Default::default())
}

impl<K: Key, V: Value, S> Rival for Quick<K, V, S>
where
    S: BuildHasher + Clone + Send + Sync + 'static,
{
    fn get(&self, rank: u64) -> bool {
        black_box(Quick::get(self, &K::of(rank))).is_some()
    }

    fn insert(&self, rank: u64) {
        Quick::insert(self, K::of(rank), V::of(rank));
    }

    fn get_or_load(&self, rank: u64) -> bool {
        let mut hit = true;
        let load = || {
            hit = false;
            Ok::<_, ()>(V::of(rank))
        };
        let _ = black_box(self.get_or_insert_with(&K::of(rank), load));
        hit
    }
}

pub fn moka<K: Key, V: Value>(entries: usize) -> Moka<K, V> {
    sized_moka(entries, entries)
}

pub fn growing_moka<K: Key, V: Value>(entries: usize) -> Moka<K, V> {
    sized_moka(entries, 0)
}

/// In one segment: more of them gain a seventh with two readers of a large set, and lose as much on a small one.
fn sized_moka<K: Key, V: Value>(entries: usize, reserved: usize) -> Moka<K, V> {
    moka::sync::Cache::builder()
        .max_capacity(entries as u64)
        .initial_capacity(reserved)
        .build_with_hasher(Hasher::default())
}

impl<K: Key, V: Value> Rival for Moka<K, V> {
    fn get(&self, rank: u64) -> bool {
        black_box(Moka::get(self, &K::of(rank))).is_some()
    }

    fn insert(&self, rank: u64) {
        Moka::insert(self, K::of(rank), V::of(rank));
    }

    fn get_or_load(&self, rank: u64) -> bool {
        let mut hit = true;
        let load = || {
            hit = false;
            V::of(rank)
        };
        black_box(self.get_with_by_ref(&K::of(rank), load));
        hit
    }

    fn tidy(&self) {
        self.run_pending_tasks();
    }
}

pub fn mini_moka<K: Key, V: Value>(entries: usize) -> MiniMoka<K, V> {
    sized_mini_moka(entries, entries)
}

pub fn growing_mini_moka<K: Key, V: Value>(entries: usize) -> MiniMoka<K, V> {
    sized_mini_moka(entries, 0)
}

fn sized_mini_moka<K: Key, V: Value>(entries: usize, reserved: usize) -> MiniMoka<K, V> {
    mini_moka::sync::Cache::builder()
        .max_capacity(entries as u64)
        .initial_capacity(reserved)
        .build_with_hasher(Hasher::default())
}

impl<K: Key, V: Value> Rival for MiniMoka<K, V> {
    fn get(&self, rank: u64) -> bool {
        black_box(MiniMoka::get(self, &K::of(rank))).is_some()
    }

    fn insert(&self, rank: u64) {
        MiniMoka::insert(self, K::of(rank), V::of(rank));
    }

    /// It has no call that does both.
    fn get_or_load(&self, rank: u64) -> bool {
        let hit = Rival::get(self, rank);
        if !hit {
            Rival::insert(self, rank);
        }
        hit
    }

    fn tidy(&self) {
        self.sync();
    }
}

/// With the policy that is the fastest of those that look at hits: its readers share their locks.
pub fn foyer<K: Key, V: Value>(entries: usize) -> Foyer<K, V> {
    foyer_memory::CacheBuilder::new(uneven(entries))
        .with_eviction_config(S3FifoConfig::default())
        .with_hash_builder(Hasher::default())
        .build()
}

impl<K: Key, V: Value> Rival for Foyer<K, V> {
    fn get(&self, rank: u64) -> bool {
        black_box(Foyer::get(self, &K::of(rank))).is_some()
    }

    fn insert(&self, rank: u64) {
        Foyer::insert(self, K::of(rank), V::of(rank));
    }

    /// The call that does both starts a task of an async runtime for each miss, and takes two to four times as long.
    fn get_or_load(&self, rank: u64) -> bool {
        let hit = Rival::get(self, rank);
        if !hit {
            Rival::insert(self, rank);
        }
        hit
    }
}
