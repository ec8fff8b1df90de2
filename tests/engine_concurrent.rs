//! Many threads at once: values are whole and of their keys, and each is dropped once, when nobody has it any more.

mod engine_support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use corecache::engine::{Blob, BlobCache, Builder, Cache};
use engine_support::{Census, Numbers, SetAtEnd, without_deadlock};

const MIB: usize = 1 << 20;

/// Key in the upper half, a version in the lower.
fn number(key: u64, version: u64) -> u64 {
    key << 32 | version & 0xffff_ffff
}

#[test]
fn readers_and_writers_share_a_cache_that_evicts_all_the_time() {
    without_deadlock(|| {
        let census = Census::default();
        let cache = Cache::<u64, _>::from_builder(&Builder::new(MIB / 16).shards(2)).unwrap();
        let writers_left = AtomicU64::new(2);
        thread::scope(|scope| {
            for writer in 0..2 {
                let (cache, census, writers_left) = (&cache, &census, &writers_left);
                scope.spawn(move || {
                    let mut numbers = Numbers(writer);
                    for version in 0..5000 {
                        let key = numbers.below(4000);
                        let value = census.value(number(key, version));
                        match numbers.below(100) {
                            0..94 => cache.insert_soon(key, value).unwrap(),
                            94..97 => cache.insert(key, value).unwrap(),
                            97..99 => drop(cache.remove(&key)),
                            _ if version % 7 == 0 => cache.clear(),
                            _ => cache.flush(),
                        }
                    }
                    writers_left.fetch_sub(1, Ordering::Relaxed);
                });
            }
            for reader in 0..4 {
                let (cache, census, writers_left) = (&cache, &census, &writers_left);
                scope.spawn(move || {
                    let mut numbers = Numbers(100 + reader);
                    while writers_left.load(Ordering::Relaxed) > 0 {
                        let key = numbers.below(4000);
                        let found = match numbers.below(3) {
                            0 => cache.get(&key).map(|value| value.number()),
                            1 => cache.get_with(&key, |value| {
                                let before = value.number();
                                let _other = cache.get(&numbers.below(4000));
                                assert_eq!(value.number(), before);
                                before
                            }),
                            _ => {
                                let load = |key: &u64| Ok(census.value(number(*key, 0)));
                                Some(cache.get_or_load(&key, load).unwrap().number())
                            }
                        };
                        assert!(found.is_none_or(|number| number >> 32 == key));
                    }
                });
            }
        });
        let stats = cache.stats();
        assert!(stats.evicted > 0 && stats.replaced > 0, "{stats:?}");
        cache.clear();
        assert_eq!(census.alive(), 0);
        let stats = cache.stats();
        let gone = stats.evicted + stats.replaced + stats.removed + stats.expired;
        assert_eq!((stats.entries, stats.stored), (0, gone));
        drop(cache);
        assert_eq!(census.alive(), 0);
    });
}

fn blob(key: u64) -> Vec<u8> {
    key.to_le_bytes().repeat(1 + (key % 97) as usize)
}

fn check(key: u64, bytes: &[u8]) {
    assert_eq!(bytes.len(), 8 + 8 * (key % 97) as usize);
    assert!(bytes.chunks(8).all(|part| part == key.to_le_bytes()));
}

#[test]
fn blobs_stay_whole_while_they_are_held_or_borrowed() {
    without_deadlock(|| {
        let cache = BlobCache::from_builder(&Builder::new(MIB / 2).shards(3)).unwrap();
        thread::scope(|scope| {
            for thread in 0..6 {
                let cache = &cache;
                scope.spawn(move || {
                    let mut numbers = Numbers(thread);
                    let mut held: Vec<(u64, Blob)> = Vec::new();
                    for _ in 0..8000 {
                        let key = numbers.below(5000);
                        let name = key.to_le_bytes();
                        match numbers.below(4) {
                            0 => cache.insert_soon(&name, &blob(key)).unwrap(),
                            1 => drop(cache.get_with(&name, |bytes| {
                                check(key, bytes);
                                cache.insert_soon(&name, &blob(key)).unwrap();
                                check(key, bytes);
                            })),
                            2 => {
                                let loaded = cache.get_or_load(&name, |_, sink| {
                                    sink.extend_from_slice(&blob(key));
                                    Ok(())
                                });
                                held.push((key, loaded.unwrap()));
                            }
                            _ => drop(cache.get(&name).map(|blob| held.push((key, blob)))),
                        }
                        if held.len() > 50 {
                            let at = numbers.below(50) as usize;
                            let (key, blob) = held.swap_remove(at);
                            check(key, &blob);
                        }
                    }
                    held.iter().for_each(|(key, blob)| check(*key, blob));
                });
            }
        });
        cache.clear();
        let stats = cache.stats();
        assert_eq!(
            (stats.entries, stats.entry_bytes, stats.garbage_bytes),
            (0, 0, 0)
        );
    });
}

/// One key, always there, replaced without end: no reader misses it or sees it go backwards.
#[test]
fn a_key_that_is_replaced_is_never_missed() {
    let cache = Cache::<u64, u64>::from_builder(&Builder::new(MIB).shards(1)).unwrap();
    cache.insert(1, 0).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let value = cache.get(&1).expect("the key is always there");
                    assert!(value >= last);
                    last = value;
                }
            });
        }
        let _at_end = SetAtEnd(&is_over);
        for version in 1..50_000 {
            cache.insert_soon(1, version).unwrap();
        }
        cache.flush();
    });
    assert_eq!(cache.get(&1), Some(49_999));
}

/// Whoever returns from a write sees it, also while others load the same key.
#[test]
fn a_write_that_has_returned_is_not_undone_by_a_load_that_was_under_way() {
    let cache = Cache::<u64, u64>::from_builder(&Builder::new(MIB).shards(1)).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = cache.get_or_load(&1, |_| {
                        thread::yield_now();
                        Ok(0)
                    });
                }
            });
        }
        let _at_end = SetAtEnd(&is_over);
        for version in 1..500 {
            cache.remove(&1);
            cache.insert(1, version).unwrap();
            for _ in 0..3 {
                assert_eq!(cache.get(&1), Some(version));
                thread::yield_now();
            }
        }
    });
}
