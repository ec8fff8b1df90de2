//! Code of keys and values runs on owners: it may panic, and it may use the cache, without taking a shard down.

mod engine_support;

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Weak};
use std::thread;

use corecache::engine::{Builder, Cache};
use engine_support::{Census, without_deadlock};

const MIB: usize = 1 << 20;

/// A key whose hash is that of all others, so that each is compared with each.
#[derive(Clone)]
struct Odd {
    number: u64,
    fails: Arc<AtomicBool>,
}

impl PartialEq for Odd {
    fn eq(&self, other: &Self) -> bool {
        assert!(!self.fails.load(Ordering::SeqCst), "on purpose");
        self.number == other.number
    }
}

impl Eq for Odd {}

impl Hash for Odd {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(0);
    }
}

#[test]
fn a_comparison_that_panics_costs_its_own_call() {
    without_deadlock(|| {
        let census = Census::default();
        let cache = Cache::<Odd, _>::from_builder(&Builder::new(MIB).shards(1)).unwrap();
        let fails = Arc::new(AtomicBool::new(false));
        let key = |number| Odd {
            number,
            fails: fails.clone(),
        };
        cache.insert(key(1), census.value(1)).unwrap();
        let held = |number| cache.get_with(&key(number), |value| value.number());
        fails.store(true, Ordering::SeqCst);
        cache.insert(key(2), census.value(2)).unwrap();
        assert!(!cache.remove(&key(1)));
        assert!(catch_unwind(AssertUnwindSafe(|| held(1))).is_err());
        let load = || cache.get_or_load(&key(3), |_| Ok(census.value(3)));
        assert!(catch_unwind(AssertUnwindSafe(load)).is_err());
        fails.store(false, Ordering::SeqCst);
        assert_eq!((held(1), held(2), held(3)), (Some(1), None, None));
        cache.insert(key(2), census.value(22)).unwrap();
        assert_eq!((held(1), held(2)), (Some(1), Some(22)));
        assert!(cache.remove(&key(1)));
        assert_eq!(cache.stats().flights, 0);
        drop(cache);
        assert_eq!(census.alive(), 0);
    });
}

#[test]
fn keys_of_one_hash_are_told_apart() {
    without_deadlock(|| {
        let cache = Cache::<Odd, u64>::from_builder(&Builder::new(MIB).shards(2)).unwrap();
        let fails = Arc::new(AtomicBool::new(false));
        thread::scope(|scope| {
            for thread in 0..4 {
                let (cache, fails) = (&cache, &fails);
                scope.spawn(move || {
                    for number in 0..100 {
                        let key = Odd {
                            number: (number + thread * 25) % 100,
                            fails: fails.clone(),
                        };
                        let value = cache.get_or_load(&key, |key| Ok(key.number * 10));
                        assert_eq!(value.unwrap(), key.number * 10);
                    }
                });
            }
        });
        cache.flush();
        assert_eq!(cache.stats().flights, 0);
    });
}

/// A value whose drop panics. Its clones are harmless: only what a cache drops goes off.
struct Bomb(bool);

impl Clone for Bomb {
    fn clone(&self) -> Self {
        Self(false)
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.0, "on purpose");
    }
}

#[test]
fn a_drop_that_panics_takes_no_shard_down() {
    without_deadlock(|| {
        let builder = Builder::new(32 << 10).shards(1);
        let cache = Cache::<u64, Bomb>::from_builder(&builder).unwrap();
        for number in 0..1000 {
            cache.insert(number, Bomb(true)).unwrap();
            cache.insert(number, Bomb(true)).unwrap();
            if number % 3 == 0 {
                cache.remove(&number);
            }
            let value = cache.get_or_load(&number, |_| Ok(Bomb(true)));
            assert!(!value.unwrap().0);
        }
        assert!(cache.stats().evicted > 0);
        cache.clear();
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.entry_bytes, stats.flights), (0, 0, 0));
        cache.insert(1, Bomb(true)).unwrap();
        assert!(cache.get(&1).is_some());
    });
}

/// A value that does something when it is dropped.
struct OnDrop(Option<Box<dyn FnOnce() + Send + Sync>>);

impl OnDrop {
    fn new(then: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(then)))
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.take().expect("dropped once")();
    }
}

type Busy = Cache<u64, OnDrop>;

/// A value that changes its cache when it is dropped, each in its way.
fn busy(cache: &Weak<Busy>, key: u64, dropped: &Arc<AtomicUsize>) -> OnDrop {
    let (cache, dropped) = (cache.clone(), dropped.clone());
    OnDrop::new(move || {
        dropped.fetch_add(1, Ordering::SeqCst);
        let Some(cache) = cache.upgrade() else {
            return;
        };
        match key % 6 {
            0 => drop(cache.remove(&(key + 1))),
            1 => cache.flush(),
            2 if key < 1 << 32 => {
                let key = key + (6 << 32);
                let value = busy(&Arc::downgrade(&cache), key, &dropped);
                drop(cache.insert(key, value));
            }
            3 if key.is_multiple_of(601) => cache.clear(),
            4 => drop(cache.get_with(&(key + 1), |_| ())),
            _ => {}
        }
    })
}

#[test]
fn a_value_may_use_its_cache_when_it_is_dropped() {
    without_deadlock(|| {
        let cache = Busy::from_builder(&Builder::new(MIB / 4).shards(2)).unwrap();
        let cache = Arc::new(cache);
        let dropped = Arc::new(AtomicUsize::new(0));
        thread::scope(|scope| {
            for thread in 0..3 {
                let (cache, dropped) = (&cache, &dropped);
                scope.spawn(move || {
                    for number in 0..10_000 {
                        let key = number * 3 + thread;
                        let value = busy(&Arc::downgrade(cache), key, dropped);
                        cache.insert_soon(key, value).unwrap();
                    }
                });
            }
        });
        cache.clear();
        assert!(dropped.load(Ordering::SeqCst) >= 20_000);
    });
}

#[test]
fn a_cache_may_be_dropped_by_its_own_owner() {
    without_deadlock(|| {
        for shards in [1, 3] {
            let (tell, told) = channel();
            let cache = Arc::new(Busy::from_builder(&Builder::new(MIB).shards(shards)).unwrap());
            for key in 1..100 {
                let tell = tell.clone();
                let value = OnDrop::new(move || tell.send(thread::current().id()).unwrap());
                cache.insert(key, value).unwrap();
            }
            let (weak, last) = (Arc::downgrade(&cache), cache.clone());
            let gone = Arc::new(Barrier::new(2));
            let is_gone = gone.clone();
            let value = OnDrop::new(move || {
                // The other reference goes first.
                is_gone.wait();
                tell.send(thread::current().id()).unwrap();
                drop(last);
            });
            cache.insert_soon(0, value).unwrap();
            cache.flush();
            cache.insert_soon(0, OnDrop::new(|| ())).unwrap();
            drop(cache);
            gone.wait();
            assert_eq!(told.iter().count(), 100);
            assert!(weak.upgrade().is_none());
        }
    });
}
