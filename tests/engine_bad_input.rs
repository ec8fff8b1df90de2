//! What no one should do, and some will: the cache answers, and goes on.

mod engine_support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, SystemTime};

use corecache::engine::{Builder, Cache, Failure};
use corecache::group::{ErrorKind, Group, GroupConfig, Groups, LoadContext, Sink};
use engine_support::{Census, without_deadlock};

const MIB: usize = 1 << 20;

#[test]
fn a_weigher_that_says_nothing_is_no_way_round_the_budget() {
    let builder = Builder::new(MIB).shards(2);
    let cache = Cache::<u64, u64>::from_builder(&builder).unwrap();
    let cache = cache.weigh_with(|_, _| 0);
    for key in 0..100_000 {
        cache.insert(key, key).unwrap();
    }
    let stats = cache.stats();
    assert!(stats.used_bytes <= (MIB + MIB / 8) as u64, "{stats:?}");
    assert!(stats.evicted > 0 && stats.entries < 50_000, "{stats:?}");
}

#[test]
fn a_weigher_that_panics_costs_its_own_call() {
    let census = Census::default();
    let cache = Cache::<u64, _>::new(MIB).unwrap();
    let cache = cache.weigh_with(|key, _| {
        assert_ne!(*key, 1, "on purpose");
        0
    });
    let fails = |call: &dyn Fn()| catch_unwind(AssertUnwindSafe(call)).is_err();
    assert!(fails(&|| drop(cache.insert(1, census.value(1)))));
    assert!(fails(&|| drop(cache.insert_soon(1, census.value(1)))));
    assert!(fails(&|| drop(
        cache.get_or_load(&1, |_| Ok(census.value(1)))
    )));
    assert_eq!((census.alive(), cache.stats().flights), (0, 0));
    cache.insert(2, census.value(2)).unwrap();
    assert_eq!(cache.get_with(&2, |value| value.number()), Some(2));
}

/// What stands in the cache is left there by a value that could never fit, at the first shard and at the last.
#[test]
fn a_value_heavier_than_the_budget_evicts_nothing() {
    let cache = Cache::<u64, usize>::from_builder(&Builder::new(MIB).shards(4)).unwrap();
    let cache = cache.weigh_with(|_, heap_bytes| *heap_bytes);
    for key in 0..100 {
        cache.insert(key, 1000).unwrap();
    }
    for (refused, heap_bytes) in [MIB, MIB + 1, usize::MAX].into_iter().enumerate() {
        for key in 0..100 {
            let rejected = cache.insert(key, heap_bytes).unwrap_err();
            assert!(rejected.reason.entry_bytes >= heap_bytes);
            assert!(rejected.to_string().contains("bytes"));
        }
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.evicted), (100, 0));
        assert_eq!(stats.refused, 100 * (refused as u64 + 1));
    }
    assert!((0..100).all(|key| cache.get(&key) == Some(1000)));
}

fn group(expires_at: SystemTime) -> Group {
    let load = move |key: &[u8], _: &LoadContext<'_>, sink: &mut Sink| {
        sink.expires_at(expires_at);
        sink.append(key)
    };
    let groups = Groups::new(&Builder::new(MIB), [GroupConfig::new("pages", load)]).unwrap();
    groups.get("pages").unwrap().clone()
}

/// A clock that was wrong, here or at the origin: the value is served once, or until it is evicted.
#[test]
fn an_expiry_from_another_age_is_harmless() {
    let day = Duration::from_secs(24 * 3600);
    let now = SystemTime::now();
    let mut farthest = now;
    for shift in (0..63).rev() {
        let later = farthest.checked_add(Duration::from_secs(1 << shift));
        farthest = later.unwrap_or(farthest);
    }
    let cases = [
        (SystemTime::UNIX_EPOCH, false),
        (SystemTime::UNIX_EPOCH - 36_500 * day, false),
        (now, false),
        (now + day, true),
        (now + 365_000 * day, true),
        (farthest, true),
    ];
    for (expires_at, is_held) in cases {
        let group = group(expires_at);
        for _ in 0..3 {
            assert_eq!(group.get(b"key").unwrap().bytes(), b"key");
            group.flush();
            assert_eq!(group.held(b"key").is_some(), is_held, "{expires_at:?}");
        }
        let loads = if is_held { 1 } else { 3 };
        assert_eq!(group.stats().loads, loads, "{expires_at:?}");
    }
}

/// A load that nobody will run any more, of groups that nobody has any more.
#[test]
fn who_waits_in_a_cache_that_is_dropped_is_told() {
    let group = group(SystemTime::UNIX_EPOCH);
    let (answer, answers) = channel();
    let other = answer.clone();
    let pending = group.ask(b"key", move |value| answer.send(value).unwrap());
    let joined = group.ask(b"key", move |value| other.send(value).unwrap());
    assert!(pending.is_some() && joined.is_none());
    drop(group);
    assert!(answers.try_recv().is_err(), "the load may still be run");
    drop(pending);
    for _ in 0..2 {
        let error = answers.recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
    assert!(answers.recv().is_err(), "each is told once");
}

/// Whoever waits has the cache; all others drop it, and the leader fails. All are answered, and the cache ends.
#[test]
fn a_cache_that_only_its_waiters_have_ends_with_their_answer() {
    without_deadlock(|| {
        let census = Census::default();
        let cache = Arc::new(Cache::<u64, _>::new(MIB).unwrap());
        cache.insert(1, census.value(1)).unwrap();
        let weak = Arc::downgrade(&cache);
        let (go_on, may_go_on) = channel();
        let is_led = Arc::new(Barrier::new(2));
        let leader = thread::spawn({
            let (cache, is_led) = (cache.clone(), is_led.clone());
            move || {
                let outcome = cache.get_or_load(&7, |_| {
                    is_led.wait();
                    may_go_on.recv().unwrap();
                    Err("the origin is gone".into())
                });
                drop(cache);
                outcome.map(|value| value.number())
            }
        });
        is_led.wait();
        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let cache = cache.clone();
                thread::spawn(move || {
                    let outcome = cache.get_or_load(&7, |_| panic!("it is being loaded"));
                    drop(cache);
                    outcome.map(|value| value.number())
                })
            })
            .collect();
        while cache.stats().joined < 8 {
            thread::yield_now();
        }
        drop(cache);
        go_on.send(()).unwrap();
        for thread in waiters.into_iter().chain([leader]) {
            let outcome = thread.join().unwrap();
            assert!(matches!(outcome, Err(Failure::Failed(_))));
        }
        assert!(weak.upgrade().is_none());
        assert_eq!(census.alive(), 0);
    });
}

/// Each in its own way, and all at once: the cache is as good as new after it.
#[test]
fn callbacks_that_all_fail_leave_a_cache_that_works() {
    without_deadlock(|| {
        let fails = Arc::new(AtomicBool::new(true));
        let (listener_fails, weigher_fails) = (fails.clone(), fails.clone());
        let fail = |fails: &AtomicBool| assert!(!fails.load(Ordering::SeqCst), "on purpose");
        let cache = Cache::<u64, u64>::from_builder(&Builder::new(64 << 10).shards(1)).unwrap();
        let cache = cache
            .weigh_with(move |key, _| {
                key.is_multiple_of(3).then(|| fail(&weigher_fails));
                100
            })
            .eviction_listener(move |_, _, _| fail(&listener_fails));
        thread::scope(|scope| {
            for thread in 0..3 {
                let (cache, fails) = (&cache, &fails);
                scope.spawn(move || {
                    for number in 0..3000 {
                        let key = (number * 7 + thread) % 1000;
                        let call = || {
                            let load = |key: &u64| {
                                key.is_multiple_of(5).then(|| fail(fails));
                                Ok(*key)
                            };
                            drop(cache.get_or_load(&key, load));
                            drop(cache.insert(key, key));
                        };
                        drop(catch_unwind(AssertUnwindSafe(call)));
                    }
                });
            }
        });
        fails.store(false, Ordering::SeqCst);
        cache.flush();
        cache.flush();
        let stats = cache.stats();
        let gone = stats.evicted + stats.replaced + stats.removed + stats.expired;
        assert_eq!(stats.entries + gone, stats.stored, "{stats:?}");
        assert_eq!((stats.flights, stats.garbage_bytes), (0, 0), "{stats:?}");
        assert_eq!(cache.get_or_load(&15, |_| Ok(15)).unwrap(), 15);
    });
}
