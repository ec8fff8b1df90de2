//! What listeners, drops, smaller budgets and its own end do to a cache.

mod engine_support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use corecache::engine::{Builder, Cache};
use engine_support::Census;

const MIB: usize = 1 << 20;

/// What a listener is to be told of can not be freed yet; an eviction must not go on until nothing is left.
#[test]
fn a_listener_does_not_cost_a_cache_what_it_holds() {
    let least = |has_listener: bool| {
        let builder = Builder::new(4 * MIB).shards(1);
        let cache = Cache::<u64, [u8; 100]>::from_builder(&builder).unwrap();
        let cache = if has_listener {
            cache.eviction_listener(|_, _, _| ())
        } else {
            cache
        };
        let mut least = u64::MAX;
        for key in 0..200_000_u64 {
            cache.insert(key, [1; 100]).unwrap();
            if key > 50_000 {
                least = least.min(cache.stats().entries);
            }
        }
        (least, cache.stats())
    };
    let (without, _) = least(false);
    let (with, stats) = least(true);
    assert!(
        with > without * 9 / 10,
        "{with} entries at the least with a listener, {without} without: {stats:?}"
    );
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
fn what_was_cleared_from_within_a_drop_does_not_come_back() {
    let builder = Builder::new(4 * MIB).shards(1);
    let cache = Arc::new(Cache::<u64, OnDrop>::from_builder(&builder).unwrap());
    cache.insert(1, OnDrop(None)).unwrap();
    for round in 1..=300 {
        let weak = Arc::downgrade(&cache);
        let clears = move || {
            let cache: Option<Arc<Cache<u64, OnDrop>>> = weak.upgrade();
            cache.inspect(|cache| cache.clear());
        };
        cache.insert(2, OnDrop(Some(Box::new(clears)))).unwrap();
        cache.remove(&2);
        cache.flush();
        assert!(
            cache.get_with(&1, |_| ()).is_none(),
            "back after {round} clears"
        );
    }
}

#[test]
fn a_cache_that_goes_with_a_panic_drops_its_values() {
    let census = Census::default();
    let panics = || {
        let cache = Cache::<u64, _>::from_builder(&Builder::new(MIB).shards(1)).unwrap();
        for key in 0..100 {
            cache.insert(key, census.value(key)).unwrap();
        }
        panic!("on purpose");
    };
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    assert_eq!(census.alive(), 0);
}

#[test]
fn a_cache_that_was_made_smaller_still_holds_something() {
    let cache = Cache::<u64, u64>::from_builder(&Builder::new(64 * MIB).shards(2)).unwrap();
    for key in 0..2_000_000 {
        cache.insert(key, key).unwrap();
    }
    let before = cache.stats();
    cache.resize(4 * MIB).unwrap();
    for key in 0..100_000 {
        cache.insert(key, key).unwrap();
    }
    let stats = cache.stats();
    assert!(stats.entries > 1000, "before {before:?}, after {stats:?}");
}

#[test]
fn what_left_before_the_end_is_told() {
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let cache = Cache::<u64, u64>::from_builder(&Builder::new(MIB).shards(1))
        .unwrap()
        .eviction_listener(move |_, _, _| {
            count.fetch_add(1, Ordering::SeqCst);
        });
    for key in 0..1000 {
        cache.insert(key, key).unwrap();
    }
    for key in 0..1000 {
        cache.remove(&key);
    }
    drop(cache);
    assert_eq!(told.load(Ordering::SeqCst), 1000);
}
