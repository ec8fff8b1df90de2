//! Iteration over a cache that others read and change meanwhile.

mod engine_support;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use corecache::engine::{BlobCache, Builder, Cache};
use engine_support::{Census, Numbers, SetAtEnd, without_deadlock};

const MIB: usize = 1 << 20;

#[test]
fn all_that_is_held_is_shown_once_with_its_value() {
    for shards in [1, 4] {
        let builder = Builder::new(64 * MIB).shards(shards);
        let cache = Cache::<u64, u64>::from_builder(&builder).unwrap();
        assert!(cache.is_empty() && cache.iter().next().is_none());
        for key in 0..50_000 {
            cache.insert(key, key * 3).unwrap();
        }
        (0..1000).for_each(|key| assert!(cache.remove(&key)));
        assert_eq!(cache.len(), 49_000);
        let shown: Vec<(u64, u64)> = cache
            .iter()
            .map(|entry| (*entry.key(), *entry.value()))
            .collect();
        assert_eq!(shown.len(), 49_000);
        let shown: HashMap<u64, u64> = shown.into_iter().collect();
        assert!((1000..50_000).all(|key| shown[&key] == key * 3));
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses), (0, 0));
    }
}

#[test]
fn blobs_are_shown_with_their_keys() {
    let cache = BlobCache::new(4 * MIB).unwrap();
    for number in 0..1000u32 {
        let key = number.to_le_bytes();
        cache
            .insert(&key, &key.repeat(number as usize % 9))
            .unwrap();
    }
    cache
        .get_or_load(b"loaded", |key, value| {
            value.extend_from_slice(key);
            Ok(())
        })
        .unwrap();
    let shown: HashMap<Vec<u8>, Vec<u8>> = cache
        .iter()
        .map(|blob| (blob.key().to_vec(), blob.to_vec()))
        .collect();
    assert_eq!((shown.len(), cache.len()), (1001, 1001));
    assert_eq!(shown[&b"loaded"[..]], b"loaded");
    for number in 0..1000u32 {
        let key = number.to_le_bytes();
        assert_eq!(shown[&key[..]], key.repeat(number as usize % 9));
    }
}

#[test]
fn what_has_expired_or_was_cleared_is_not_shown() {
    let cache = Cache::<u32, u32>::new(MIB).unwrap();
    for key in 0..100 {
        cache.insert(key, key).unwrap();
        cache.insert_for(1000 + key, key, Duration::ZERO).unwrap();
        cache
            .insert_for(2000 + key, key, Duration::from_secs(3600))
            .unwrap();
    }
    let shown: HashSet<u32> = cache.iter().map(|entry| *entry.key()).collect();
    let expected: HashSet<u32> = (0..100).chain(2000..2100).collect();
    assert_eq!(shown, expected);

    // Also what the walk has at hand already.
    let mut walk = cache.iter();
    assert!(walk.next().is_some());
    cache.clear();
    assert!(walk.next().is_none());
    assert!(walk.next().is_none());
    assert!(cache.is_empty());
}

#[test]
fn a_loop_may_change_what_it_walks() {
    without_deadlock(|| {
        let cache = Cache::<u64, u64>::from_builder(&Builder::new(16 * MIB).shards(2)).unwrap();
        for key in 0..10_000 {
            cache.insert(key, key).unwrap();
        }
        let mut shown = HashSet::new();
        for entry in &cache {
            let key = *entry.key();
            assert!(shown.insert(key), "{key} was shown twice");
            match key {
                0..10_000 if key % 2 == 0 => assert!(cache.remove(&key)),
                0..10_000 => cache.insert(key + 10_000, key).unwrap(),
                _ => {}
            }
        }
        assert!((0..10_000).all(|key| shown.contains(&key)));
        assert_eq!(cache.len(), 10_000);
    });
}

#[test]
fn what_stays_is_shown_once_while_the_table_grows_and_others_write() {
    without_deadlock(|| {
        const STAYS: u64 = 500;
        for round in 0..3 {
            let builder = Builder::new(64 * MIB).shards(2);
            let cache = Cache::<u64, u64>::from_builder(&builder).unwrap();
            (0..STAYS).for_each(|key| cache.insert(key, key).unwrap());
            let (is_over, next) = (AtomicBool::new(false), AtomicU64::new(STAYS));
            thread::scope(|scope| {
                scope.spawn(|| {
                    let _end = SetAtEnd(&is_over);
                    let mut numbers = Numbers(round);
                    for key in STAYS..30_000 {
                        next.store(key, Ordering::Relaxed);
                        cache.insert(key, key).unwrap();
                        // In place of themselves, and out and in again.
                        let stays = numbers.below(STAYS);
                        cache.insert(stays, stays).unwrap();
                        let comes_and_goes = STAYS + numbers.below(key - STAYS + 1);
                        cache.remove(&comes_and_goes);
                        cache.insert(comes_and_goes, comes_and_goes).unwrap();
                    }
                });
                while !is_over.load(Ordering::Relaxed) {
                    let mut shown = HashSet::new();
                    for entry in &cache {
                        assert_eq!(entry.key(), entry.value());
                        assert!(shown.insert(*entry.key()), "{:?} was shown twice", entry);
                    }
                    let missed = (0..STAYS).find(|key| !shown.contains(key));
                    assert_eq!(missed, None);
                    let last = next.load(Ordering::Relaxed);
                    assert!(shown.iter().all(|key| *key <= last));
                }
            });
        }
    });
}

#[test]
fn a_walk_that_stops_in_the_middle_holds_few_entries_and_blocks_nobody() {
    without_deadlock(|| {
        let census = Census::default();
        let builder = Builder::new(2 * MIB).shards(1);
        let cache = Cache::<u64, _>::from_builder(&builder)
            .unwrap()
            .weigh_with(|_, _| 200);
        for key in 0..20_000 {
            cache.insert(key, census.value(key)).unwrap();
        }
        let mut walk = cache.iter();
        let held = walk.next().unwrap();
        let first = *held.key();
        assert_eq!(held.value().number(), first);
        for key in 20_000..60_000 {
            cache.insert(key, census.value(key)).unwrap();
        }
        cache.clear();
        cache.flush();
        // The one that was taken, and what was at hand with it.
        assert!(
            census.alive() >= 1 && census.alive() <= 50,
            "{}",
            census.alive()
        );
        assert_eq!(held.value().number(), first);
        assert!(walk.next().is_none());
        drop((walk, held));
        cache.flush();
        assert_eq!(census.alive(), 0);
    });
}

#[test]
fn an_entry_outlives_its_cache() {
    let census = Census::default();
    let cache = Cache::<u64, _>::new(MIB).unwrap();
    cache.insert(1, census.value(10)).unwrap();
    let entry = cache.iter().next().unwrap();
    drop(cache);
    let clone = entry.clone();
    drop(entry);
    assert_eq!((*clone.key(), clone.value().number()), (1, 10));
    drop(clone);
    assert_eq!(census.alive(), 0);
}

/// A value that does something when it is dropped.
struct OnDrop(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then();
        }
    }
}

#[test]
fn a_value_may_walk_its_cache_when_it_is_dropped() {
    without_deadlock(|| {
        let builder = Builder::new(MIB).shards(1);
        let cache = Arc::new(Cache::<u64, OnDrop>::from_builder(&builder).unwrap());
        (1..100).for_each(|key| cache.insert(key, OnDrop(None)).unwrap());
        let (walked, walks) = mpsc::channel();
        for _ in 0..100 {
            let (weak, walked) = (Arc::downgrade(&cache), walked.clone());
            let walk = move || {
                let cache = weak
                    .upgrade()
                    .expect("it is dropped while its cache is there");
                walked.send(cache.iter().count()).unwrap();
            };
            cache.insert(0, OnDrop(Some(Box::new(walk)))).unwrap();
        }
        cache.remove(&0);
        for _ in 0..100 {
            let count = walks.recv().unwrap();
            assert!((99..=100).contains(&count), "{count}");
        }
    });
}
