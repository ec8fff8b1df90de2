//! A budget that is changed while the cache is in use, and a listener that is told of what leaves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use corecache::engine::{BuildError, Builder, Cache, Cause};

const MIB: usize = 1 << 20;

fn fill(cache: &Cache<u32, [u8; 1000]>, keys: std::ops::Range<u32>) {
    for key in keys {
        cache.insert_soon(key, [key as u8; 1000]).unwrap();
    }
    cache.flush();
}

#[test]
fn a_smaller_budget_is_soon_kept_and_a_larger_one_is_used() {
    let builder = Builder::new(16 * MIB).shards(4);
    let cache = Cache::<u32, [u8; 1000]>::from_builder(&builder).unwrap();
    fill(&cache, 0..30_000);
    let before = cache.stats();
    assert!(before.used_bytes > 12 * MIB as u64, "{before:?}");

    cache.resize(4 * MIB).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while cache.stats().used_bytes > 4 * MIB as u64 {
        assert!(Instant::now() < deadline, "{:?}", cache.stats());
        thread::yield_now();
    }
    assert_eq!(cache.stats().budget_bytes, 4 * MIB as u64);
    let kept = (0..30_000).filter(|key| cache.get(key).is_some()).count();
    assert!(kept > 1000, "{kept} entries were kept");
    fill(&cache, 30_000..40_000);
    let stats = cache.stats();
    assert!(stats.used_bytes <= (4 * MIB + MIB / 4) as u64, "{stats:?}");

    cache.resize(32 * MIB).unwrap();
    fill(&cache, 40_000..60_000);
    let stats = cache.stats();
    assert!(stats.entries > before.entries, "{stats:?}");
}

#[test]
fn a_budget_that_can_not_be_is_refused_and_changes_nothing() {
    let cache = Cache::<u32, u32>::from_builder(&Builder::new(MIB).shards(4)).unwrap();
    cache.insert(1, 10).unwrap();
    assert!(matches!(
        cache.resize(0),
        Err(BuildError::BudgetTooSmall { .. })
    ));
    assert!(matches!(
        cache.resize(usize::MAX),
        Err(BuildError::BudgetTooLarge(_))
    ));
    assert_eq!(cache.stats().budget_bytes, MIB as u64);
    assert_eq!(cache.get(&1), Some(10));
}

/// What many entries took of the table comes back when they have left, so a cut to a hundredth leaves a cache.
#[test]
fn a_cache_lives_on_after_its_budget_was_cut_to_a_hundredth() {
    let builder = Builder::new(32 * MIB).shards(2);
    let cache = Cache::<u64, u64>::from_builder(&builder).unwrap();
    let fill = || (0..550_000).for_each(|key| cache.insert(key, key).unwrap());
    fill();
    assert!(cache.len() > 400_000, "{cache:?}");
    let cut_bytes = 32 * MIB / 100;
    cache.resize(cut_bytes).unwrap();
    // By itself as well, but this waits for it.
    cache.flush();
    fill();
    let stats = cache.stats();
    assert!(stats.entries > 1_000, "{stats:?}");
    assert!(stats.used_bytes <= cut_bytes as u64, "{stats:?}");
    cache.resize(32 * MIB).unwrap();
    fill();
    assert!(cache.len() > 400_000, "{cache:?}");
}

/// A table that has been large keeps some memory, which must not be all that a small budget has.
#[test]
fn a_cache_lives_on_after_its_budget_was_cut_to_the_least() {
    const LEAST_BYTES: usize = 16 << 10;
    for (shards, entries) in [(1, 12_000), (1, 180_000), (3, 12_000)] {
        let budget_bytes = 85 * entries as usize;
        let builder = Builder::new(budget_bytes).shards(shards);
        let cache = Cache::<u64, u64>::from_builder(&builder).unwrap();
        let fill = || (0..entries).for_each(|key| cache.insert(key, key).unwrap());
        fill();
        assert!(cache.len() > 9 * entries as usize / 10, "{cache:?}");
        cache.resize(shards * LEAST_BYTES).unwrap();
        cache.flush();
        fill();
        cache.flush();
        let stats = cache.stats();
        assert!(stats.entries > 50 * shards as u64, "{stats:?}");
        assert!(stats.used_bytes <= stats.budget_bytes, "{stats:?}");
        assert_eq!(stats.overshoot_bytes, 0);
    }
}

/// What lies outside of a shard's range of addresses is listed; that list must not outlive it.
#[test]
fn a_cache_that_was_much_larger_for_a_while_lives_on() {
    let builder = Builder::new(MIB).shards(1);
    let cache = Cache::<u64, u64>::from_builder(&builder).unwrap();
    let fill = || (0..1_800_000).for_each(|key| cache.insert(key, key).unwrap());
    cache.resize(128 * MIB).unwrap();
    fill();
    assert!(cache.len() > 1_700_000, "{cache:?}");
    cache.resize(MIB).unwrap();
    cache.flush();
    fill();
    cache.flush();
    let stats = cache.stats();
    assert!(stats.entries > 10_000, "{stats:?}");
    assert!(stats.used_bytes <= stats.budget_bytes, "{stats:?}");
}

#[test]
fn a_listener_is_told_once_of_each_entry_that_leaves_and_why() {
    let told = Arc::new(Mutex::new(HashMap::<u32, Vec<Cause>>::new()));
    let log = told.clone();
    let cache = Cache::<u32, [u8; 1000]>::from_builder(&Builder::new(MIB).shards(2))
        .unwrap()
        .eviction_listener(move |key, value, cause| {
            assert_eq!(value[999], *key as u8);
            log.lock().unwrap().entry(*key).or_default().push(cause);
        });
    fill(&cache, 0..5_000);
    let evicted = cache.stats().evicted;
    cache.insert(5_000, [136; 1000]).unwrap();
    cache.insert(5_000, [136; 1000]).unwrap();
    assert!(cache.remove(&5_000));
    cache.clear();
    cache.flush();

    let told = told.lock().unwrap();
    assert_eq!(told[&5_000], [Cause::Replaced, Cause::Removed]);
    let all: Vec<Cause> = (0..5_000).flat_map(|key| told[&key].clone()).collect();
    assert_eq!(all.len(), 5_000);
    let by_eviction = all.iter().filter(|cause| **cause == Cause::Evicted).count();
    assert!(
        evicted > 0 && by_eviction as u64 >= evicted,
        "{by_eviction} of {evicted}"
    );
}

#[test]
fn a_listener_that_panics_costs_nothing_but_its_own_call() {
    let (told, telling) = mpsc::channel();
    let cache = Cache::<u32, u32>::new(MIB)
        .unwrap()
        .eviction_listener(move |key, _, _| {
            told.send(*key).unwrap();
            panic!("a listener that fails");
        });
    for key in 0..10 {
        cache.insert(key, key).unwrap();
        assert!(cache.remove(&key));
        assert_eq!(telling.recv().unwrap(), key);
    }
    cache.insert(11, 11).unwrap();
    assert_eq!(cache.get(&11), Some(11));
}
