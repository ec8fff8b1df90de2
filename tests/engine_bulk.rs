//! Many keys at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;

use corecache::engine::{BlobCache, Cache, Failure};

fn cache() -> Cache<u64, u64> {
    Cache::new(4 << 20).unwrap()
}

#[test]
fn many_keys_come_back_in_their_order() {
    let cache = cache();
    for key in (0..1000).step_by(2) {
        cache.insert(key, key * 10).unwrap();
    }
    let keys: Vec<u64> = (0..1000).rev().collect();
    let values = cache.get_many(&keys);
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value, (key % 2 == 0).then_some(key * 10));
    }
    assert_eq!((cache.stats().hits, cache.stats().misses), (500, 500));
    assert!(cache.get_many::<u64>(&[]).is_empty());
}

#[test]
fn what_is_missing_is_loaded_in_one_call_and_stored() {
    let cache = cache();
    cache.insert(2, 20).unwrap();
    let calls = AtomicUsize::new(0);
    let ask = || {
        cache
            .get_many_or_load(&[3, 2, 1, 3], |keys| {
                calls.fetch_add(1, Ordering::SeqCst);
                assert_eq!(
                    keys,
                    [&3, &1],
                    "a key that is asked for twice is loaded once"
                );
                Ok(keys.iter().map(|key| **key * 10).collect())
            })
            .unwrap()
    };
    assert_eq!(ask(), [30, 20, 10, 30]);
    assert_eq!(ask(), [30, 20, 10, 30]);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(cache.stats().flights, 0);
}

#[test]
fn an_error_reaches_all_who_wait_and_nothing_is_stored() {
    let cache = cache();
    let failure = cache.get_many_or_load(&[1, 2], |_| Err("no origin".into()));
    assert_eq!(failure.unwrap_err().to_string(), "no origin");
    for (brought, said) in [(1, "1 value"), (3, "3 values")] {
        let failure = cache.get_many_or_load(&[1, 2], |_| Ok(vec![7; brought]));
        let text = failure.unwrap_err().to_string();
        let expected = format!("{said} for 2 keys");
        assert!(text.contains(&expected), "{text}");
    }
    assert_eq!(cache.get_many(&[1, 2]), [None, None]);
    assert_eq!(cache.stats().flights, 0);
}

#[test]
fn a_loader_that_panics_leaves_the_keys_to_others() {
    let cache = cache();
    let panicked = thread::scope(|scope| {
        let ask = || cache.get_many_or_load(&[1, 2], |_| panic!("on purpose"));
        scope.spawn(ask).join()
    });
    assert!(panicked.is_err());
    let values = cache.get_many_or_load(&[2, 1], |keys| Ok(vec![9; keys.len()]));
    assert_eq!(values.unwrap(), [9, 9]);
}

#[test]
fn a_key_that_the_loader_loads_itself_is_an_error() {
    let cache = cache();
    let outcome = cache.get_many_or_load(&[1, 2], |keys| {
        let inner = cache.get_or_load(&2, |_| Ok(1));
        assert!(matches!(inner, Err(Failure::Reentrant)));
        let other = cache.get_or_load(&3, |_| Ok(33))?;
        Ok(vec![other; keys.len()])
    });
    assert_eq!(outcome.unwrap(), [33, 33]);
}

#[test]
fn overlapping_bulks_load_each_key_once_and_do_not_wait_for_each_other_in_a_circle() {
    const THREADS: usize = 4;
    const KEYS: u64 = 64;
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        for round in 0..50 {
            let cache = cache();
            let loads: Vec<_> = (0..KEYS).map(|_| AtomicUsize::new(0)).collect();
            let start = Barrier::new(THREADS);
            thread::scope(|scope| {
                for thread in 0..THREADS as u64 {
                    let (cache, loads, start) = (&cache, &loads, &start);
                    scope.spawn(move || {
                        let rotated = (0..KEYS).map(|key| (key + thread * 17 + round) % KEYS);
                        let mut keys: Vec<_> = rotated.collect();
                        if thread % 2 == 0 {
                            keys.reverse();
                        }
                        start.wait();
                        let values = cache.get_many_or_load(&keys, |asked| {
                            for key in asked {
                                loads[**key as usize].fetch_add(1, Ordering::SeqCst);
                            }
                            Ok(asked.iter().map(|key| **key + 1).collect())
                        });
                        let wanted: Vec<_> = keys.iter().map(|key| key + 1).collect();
                        assert_eq!(values.unwrap(), wanted);
                    });
                }
            });
            for load in &loads {
                assert_eq!(load.load(Ordering::SeqCst), 1);
            }
        }
        done.send(()).unwrap();
    });
    let end = is_done.recv_timeout(std::time::Duration::from_secs(60));
    end.expect("no thread waits for ever, and none panics");
}

#[test]
fn blobs_are_written_in_bulk() {
    let cache = BlobCache::new(4 << 20).unwrap();
    cache.insert(b"b", b"held").unwrap();
    let keys: [&[u8]; 3] = [b"a", b"b", b"c"];
    let found = cache
        .get_many_or_load(keys, |keys, values| {
            assert_eq!(keys, [b"a", b"c"]);
            for (key, value) in keys.iter().zip(values) {
                value.extend_from_slice(key);
                value.extend_from_slice(b" loaded");
            }
            Ok(())
        })
        .unwrap();
    let found: Vec<&[u8]> = found.iter().map(|blob| &**blob).collect();
    assert_eq!(found, [&b"a loaded"[..], b"held", b"c loaded"]);
    let held = cache.get_many(keys).into_iter().flatten().count();
    assert_eq!(held, 3);
    let failure = cache.get_many_or_load([&b"x"[..]], |_, _| Err("gone".into()));
    assert_eq!(failure.unwrap_err().to_string(), "gone");
}
