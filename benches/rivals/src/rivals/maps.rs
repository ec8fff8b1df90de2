//! Concurrent maps: what a cache costs over them.

use std::hint::black_box;

use super::{Hasher, Rival};
use crate::keys::{Key, Value};

type Papaya<K, V> = papaya::HashMap<K, V, Hasher>;
type DashMap<K, V> = dashmap::DashMap<K, V, Hasher>;

pub fn papaya<K: Key, V: Value>(entries: usize) -> Papaya<K, V> {
    Papaya::with_capacity_and_hasher(entries, Hasher::default())
}

pub fn growing_papaya<K: Key, V: Value>(_: usize) -> Papaya<K, V> {
    Papaya::with_hasher(Hasher::default())
}

/// Each operation pins for itself, as the request of a server would.
impl<K: Key, V: Value> Rival for Papaya<K, V> {
    fn get(&self, rank: u64) -> bool {
        black_box(self.pin().get(&K::of(rank)).cloned()).is_some()
    }

    fn insert(&self, rank: u64) {
        self.pin().insert(K::of(rank), V::of(rank));
    }

    fn get_or_load(&self, rank: u64) -> bool {
        let mut hit = true;
        let load = || {
            hit = false;
            V::of(rank)
        };
        black_box(self.pin().get_or_insert_with(K::of(rank), load).clone());
        hit
    }
}

pub fn dashmap<K: Key, V: Value>(entries: usize) -> DashMap<K, V> {
    DashMap::with_capacity_and_hasher(entries, Hasher::default())
}

pub fn growing_dashmap<K: Key, V: Value>(_: usize) -> DashMap<K, V> {
    DashMap::with_hasher(Hasher::default())
}

impl<K: Key, V: Value> Rival for DashMap<K, V> {
    fn get(&self, rank: u64) -> bool {
        black_box(DashMap::get(self, &K::of(rank)).map(|value| value.clone())).is_some()
    }

    fn insert(&self, rank: u64) {
        DashMap::insert(self, K::of(rank), V::of(rank));
    }

    fn get_or_load(&self, rank: u64) -> bool {
        let mut hit = true;
        let load = || {
            hit = false;
            V::of(rank)
        };
        black_box(self.entry(K::of(rank)).or_insert_with(load).clone());
        hit
    }
}
