//! One load for a key, however many ask; errors, panics, deadlines, writes meanwhile, and loads within loads.

mod engine_support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use corecache::engine::{BlobCache, Builder, Cache, Failure};
use engine_support::without_deadlock;

type Numbers = Cache<u64, u64>;

fn cache() -> Arc<Numbers> {
    Arc::new(Cache::from_builder(&Builder::new(1 << 20).shards(2)).unwrap())
}

/// Returns when so many callers have joined a load.
fn await_joined(cache: &Numbers, joined: u64) {
    while cache.stats().joined < joined {
        thread::yield_now();
    }
}

#[test]
fn many_threads_on_one_cold_key_make_one_load() {
    without_deadlock(|| {
        for _ in 0..10 {
            let cache = cache();
            let (loads, start) = (AtomicUsize::new(0), Barrier::new(200));
            thread::scope(|scope| {
                for _ in 0..200 {
                    scope.spawn(|| {
                        start.wait();
                        let value = cache.get_or_load(&7, |key| {
                            loads.fetch_add(1, Ordering::Relaxed);
                            thread::yield_now();
                            Ok(key * 10)
                        });
                        assert_eq!(value.unwrap(), 70);
                    });
                }
            });
            assert_eq!(loads.into_inner(), 1);
            assert_eq!(cache.stats().loads, 1);
            cache.flush();
            assert_eq!((cache.stats().flights, cache.get(&7)), (0, Some(70)));
        }
    });
}

#[test]
fn an_error_reaches_all_who_wait_and_is_not_kept() {
    without_deadlock(|| {
        let cache = cache();
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for _ in 0..64 {
                threads.push(scope.spawn(|| {
                    cache.get_or_load(&7, |_| {
                        await_joined(&cache, 63);
                        Err("the origin is down".into())
                    })
                }));
            }
            for thread in threads {
                let failure = thread.join().unwrap().unwrap_err();
                assert!(matches!(failure, Failure::Failed(_)));
                assert_eq!(failure.to_string(), "the origin is down");
            }
        });
        let stats = cache.stats();
        assert_eq!((stats.loads, stats.load_failures, stats.flights), (1, 1, 0));
        assert_eq!(cache.get_or_load(&7, |_| Ok(1)).unwrap(), 1);
    });
}

#[test]
fn a_leader_that_panics_passes_the_lead_on() {
    without_deadlock(|| {
        let cache = cache();
        let loads = AtomicUsize::new(0);
        let panics = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    let load = || {
                        cache.get_or_load(&7, |_| {
                            let load = loads.fetch_add(1, Ordering::SeqCst);
                            if load == 0 {
                                await_joined(&cache, 63);
                            }
                            assert!(load == 3, "on purpose");
                            Ok(70)
                        })
                    };
                    match catch_unwind(AssertUnwindSafe(load)) {
                        Ok(value) => assert_eq!(value.unwrap(), 70),
                        Err(_) => drop(panics.fetch_add(1, Ordering::SeqCst)),
                    }
                });
            }
        });
        assert_eq!((loads.into_inner(), panics.into_inner()), (4, 3));
        cache.flush();
        let stats = cache.stats();
        assert_eq!((stats.loads, stats.load_failures, stats.flights), (4, 3, 0));
        assert_eq!(cache.get(&7), Some(70));
    });
}

/// Whoever comes while a leader is on its way out leads next, and is told of no load but its own.
#[test]
fn a_follower_of_a_panic_gets_a_value() {
    without_deadlock(|| {
        let cache = cache();
        let start = Barrier::new(4);
        thread::scope(|scope| {
            for thread in 0..4 {
                let (cache, start) = (&cache, &start);
                scope.spawn(move || {
                    for key in 0..3000 {
                        start.wait();
                        let load = || {
                            cache.get_or_load(&key, |_| {
                                assert!(thread > 0, "on purpose");
                                Ok(key)
                            })
                        };
                        match catch_unwind(AssertUnwindSafe(load)) {
                            Ok(value) => assert_eq!(value.unwrap(), key),
                            Err(_) => assert_eq!(thread, 0),
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn a_key_stays_usable_after_its_loader_panicked_alone() {
    let cache = cache();
    let load = || cache.get_or_load(&7, |_| panic!("on purpose"));
    assert!(catch_unwind(AssertUnwindSafe(load)).is_err());
    assert_eq!(cache.stats().flights, 0);
    assert_eq!(cache.get_or_load(&7, |_| Ok(1)).unwrap(), 1);
}

#[test]
fn a_waiter_leaves_at_its_deadline_and_the_load_goes_on() {
    without_deadlock(|| {
        let cache = cache();
        thread::scope(|scope| {
            let (go_on, may_go_on) = channel();
            let (begun, has_begun) = channel();
            let (leader_cache, leader_begun) = (cache.clone(), begun);
            let leader = scope.spawn(move || {
                leader_cache.get_or_load(&7, |_| {
                    leader_begun.send(()).unwrap();
                    may_go_on.recv().unwrap();
                    Ok(70)
                })
            });
            has_begun.recv().unwrap();
            for wait in [Duration::ZERO, Duration::from_millis(5)] {
                let deadline = Instant::now() + wait;
                let outcome = cache.get_or_load_by(&7, deadline, |_| panic!("not the leader"));
                assert!(matches!(outcome, Err(Failure::TimedOut)));
                assert!(Instant::now() >= deadline);
            }
            let far = Instant::now() + Duration::from_secs(3600);
            let patient = scope.spawn({
                let cache = cache.clone();
                move || cache.get_or_load_by(&7, far, |_| panic!("not the leader"))
            });
            await_joined(&cache, 3);
            go_on.send(()).unwrap();
            assert_eq!(patient.join().unwrap().unwrap(), 70);
            assert_eq!(leader.join().unwrap().unwrap(), 70);
        });
        assert_eq!(
            cache
                .get_or_load_by(&8, Instant::now(), |_| Ok(80))
                .unwrap(),
            80
        );
    });
}

/// Runs `write` while key 7 is being loaded with the value 1; returns what the leader got.
fn write_during_load(cache: &Arc<Numbers>, write: impl FnOnce(&Numbers)) -> u64 {
    let (go_on, may_go_on) = channel();
    let (begun, has_begun) = channel();
    let leader = {
        let cache = cache.clone();
        thread::spawn(move || {
            cache.get_or_load(&7, |_| {
                begun.send(()).unwrap();
                may_go_on.recv().unwrap();
                Ok(1)
            })
        })
    };
    has_begun.recv().unwrap();
    write(cache);
    go_on.send(()).unwrap();
    let value = leader.join().unwrap().unwrap();
    cache.flush();
    value
}

#[test]
fn what_was_loaded_before_a_write_is_not_stored_after_it() {
    without_deadlock(|| {
        let cache = cache();
        assert_eq!(
            write_during_load(&cache, |cache| assert!(!cache.remove(&7))),
            1
        );
        assert_eq!(cache.get(&7), None);
        assert_eq!(write_during_load(&cache, |cache| cache.clear()), 1);
        assert_eq!(cache.get(&7), None);
        assert_eq!(
            write_during_load(&cache, |cache| cache.insert_soon(7, 2).unwrap()),
            1
        );
        assert_eq!(cache.get(&7), Some(2));
        cache.remove(&7);
        assert_eq!(
            write_during_load(&cache, |cache| cache.insert(7, 3).unwrap()),
            1
        );
        assert_eq!(cache.get(&7), Some(3));
        cache.remove(&7);
        assert_eq!(write_during_load(&cache, |_| ()), 1);
        assert_eq!(cache.get(&7), Some(1));
    });
}

#[test]
fn who_asks_after_a_removal_does_not_join_the_load_before_it() {
    without_deadlock(|| {
        let cache = cache();
        write_during_load(&cache, |cache| {
            cache.remove(&7);
            assert_eq!(cache.get_or_load(&7, |_| Ok(2)).unwrap(), 2);
        });
        assert_eq!(cache.get(&7), Some(2));
    });
}

#[test]
fn a_loader_may_write_its_own_key() {
    without_deadlock(|| {
        let cache = cache();
        let value = cache.get_or_load(&7, |_| {
            cache.insert(7, 2).unwrap();
            cache.remove(&8);
            cache.clear();
            cache.flush();
            cache.insert(7, 3).unwrap();
            Ok(1)
        });
        cache.flush();
        assert_eq!((value.unwrap(), cache.get(&7)), (1, Some(3)));
    });
}

#[test]
fn loads_nest() {
    without_deadlock(|| {
        fn sum(cache: &Numbers, upto: u64) -> Result<u64, Failure> {
            cache.get_or_load(&upto, |_| match upto {
                0 => Ok(0),
                _ => Ok(sum(cache, upto - 1)? + upto),
            })
        }
        let cache = cache();
        assert_eq!(sum(&cache, 40).unwrap(), 820);
        assert_eq!(cache.stats().loads, 41);
    });
}

#[test]
fn a_loader_that_comes_back_to_its_key_gets_an_error() {
    without_deadlock(|| {
        let cache = cache();
        let outcome = cache.get_or_load(&1, |_| {
            Ok(cache.get_or_load(&2, |_| {
                let inner = cache.get_or_load(&1, |_| panic!("it is being loaded"));
                assert!(matches!(inner, Err(Failure::Reentrant)));
                Ok(inner.unwrap_or(20))
            })? + 1)
        });
        assert_eq!(outcome.unwrap(), 21);
        let outcome = cache.get_or_load(&3, |_| Ok(cache.get_or_load(&3, |_| Ok(1))?));
        let Err(Failure::Failed(cause)) = outcome else {
            panic!("the loader failed with the error of its inner call");
        };
        assert_eq!(cause.to_string(), Failure::Reentrant.to_string());
    });
}

/// Thread i loads key i and asks for key i + 1, round a circle: one of them gets an error, all come back.
fn circle(cache: &Arc<Numbers>, len: u64, deadline: Option<Instant>) -> usize {
    let all_lead = Barrier::new(len as usize);
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..len {
            let (all_lead, refused) = (&all_lead, &refused);
            scope.spawn(move || {
                let outcome = cache.get_or_load(&thread, |_| {
                    all_lead.wait();
                    let next = (thread + 1) % len;
                    let inner = match deadline {
                        None => cache.get_or_load(&next, |_| Ok(1000)),
                        Some(at) => cache.get_or_load_by(&next, at, |_| Ok(1000)),
                    };
                    match inner {
                        Ok(value) => Ok(value + 1),
                        Err(Failure::Reentrant) => {
                            refused.fetch_add(1, Ordering::SeqCst);
                            Ok(0)
                        }
                        Err(failure) => Err(failure.into()),
                    }
                });
                assert!(outcome.unwrap() < len);
            });
        }
    });
    refused.into_inner()
}

#[test]
fn threads_that_wait_for_each_other_in_a_circle_get_an_error() {
    without_deadlock(|| {
        for round in 0..60 {
            let cache = cache();
            let far = Instant::now() + Duration::from_secs(3600);
            assert_eq!(
                circle(&cache, 2 + round % 4, (round % 3 == 0).then_some(far)),
                1
            );
        }
    });
}

#[test]
fn a_circle_over_two_caches_gets_an_error() {
    without_deadlock(|| {
        let (left, right) = (cache(), cache());
        let outcome = left.get_or_load(&1, |_| {
            Ok(right.get_or_load(&1, |_| Ok(left.get_or_load(&1, |_| Ok(1))?))?)
        });
        assert!(
            outcome
                .unwrap_err()
                .to_string()
                .contains("is loading itself")
        );
    });
}

/// Loads over a graph without circles, by many threads, never meet an error.
#[test]
fn loads_that_lean_on_each_other_do_not_take_each_other_for_circles() {
    without_deadlock(|| {
        fn load(cache: &Numbers, key: u64) -> Result<u64, Failure> {
            cache.get_or_load(&key, |_| match key {
                0 | 1 => Ok(1),
                _ => Ok(load(cache, key - 1)?.wrapping_add(load(cache, key / 2)?)),
            })
        }
        for _ in 0..20 {
            let cache = cache();
            let start = Barrier::new(8);
            thread::scope(|scope| {
                for thread in 0..8 {
                    let (cache, start) = (&cache, &start);
                    scope.spawn(move || {
                        start.wait();
                        for step in 0..30 {
                            load(cache, (step * 7 + thread) % 60).unwrap();
                        }
                    });
                }
            });
            assert!(cache.stats().loads <= 60);
        }
    });
}

#[test]
fn a_load_within_a_borrow_works() {
    without_deadlock(|| {
        let cache = cache();
        cache.insert(1, 10).unwrap();
        let sum = cache.get_with(&1, |one| one + cache.get_or_load(&2, |_| Ok(20)).unwrap());
        assert_eq!(sum, Some(30));
    });
}

#[test]
fn a_loader_may_hold_the_last_reference_to_its_cache() {
    without_deadlock(|| {
        let cache = cache();
        let (inner, outer) = (cache.clone(), cache);
        let value = outer.get_or_load(&1, move |_| {
            let value = inner.get_or_load(&2, |_| Ok(2))?;
            drop(inner);
            Ok(value)
        });
        assert_eq!(value.unwrap(), 2);
    });
}

#[test]
fn blobs_are_loaded_once_too() {
    without_deadlock(|| {
        let cache = BlobCache::new(1 << 20).unwrap();
        let loads = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    let blob = cache.get_or_load(b"key", |key, sink| {
                        loads.fetch_add(1, Ordering::Relaxed);
                        while cache.stats().joined < 63 {
                            thread::yield_now();
                        }
                        sink.extend_from_slice(key);
                        sink.extend_from_slice(b" loaded");
                        Ok(())
                    });
                    assert_eq!(&*blob.unwrap(), b"key loaded");
                });
            }
        });
        assert_eq!(loads.into_inner(), 1);
    });
}
