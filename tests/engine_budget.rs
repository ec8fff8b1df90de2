//! The budget: what is held stays within it, what can never fit is refused, and what is freed comes back.

mod engine_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use corecache::engine::{Blob, BlobCache, Builder, Cache};
use engine_support::{Numbers, SetAtEnd, without_deadlock};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Nearly 8 MiB: an allocator has no class between 7 and 8.
const LARGE: usize = 7 * MIB - KIB;

/// Credit (a sixteenth) and the tables' last lines, which are charged once they are there.
fn bound_bytes(budget_bytes: usize) -> usize {
    budget_bytes + budget_bytes / 16 + 64 * KIB
}

fn load(cache: &BlobCache, key: u64, len: usize) {
    let loaded = cache.get_or_load(&key.to_le_bytes(), |_, sink| {
        sink.extend_from_slice(&vec![key as u8; len]);
        Ok(())
    });
    assert_eq!(loaded.unwrap().len(), len);
}

#[test]
fn four_times_the_budget_in_mixed_sizes_stays_within_it() {
    for shards in [1, 4, 16] {
        let budget_bytes = 16 * MIB;
        let cache = BlobCache::from_builder(&Builder::new(budget_bytes).shards(shards)).unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let used = cache.stats().used_bytes as usize;
                    assert!(
                        used <= bound_bytes(budget_bytes),
                        "{shards} shards: {used} bytes"
                    );
                }
            });
            let loaders: Vec<_> = (0..2)
                .map(|thread| {
                    let cache = &cache;
                    scope.spawn(move || {
                        let mut numbers = Numbers(thread);
                        let mut loaded_bytes = 0;
                        while loaded_bytes < 2 * budget_bytes {
                            let len = [KIB, 100 * KIB][numbers.below(2) as usize];
                            load(cache, numbers.next(), len);
                            loaded_bytes += len;
                        }
                    })
                })
                .collect();
            let _at_end = SetAtEnd(&is_over);
            for loader in loaders {
                loader.join().unwrap();
            }
        });
        cache.flush();
        let stats = cache.stats();
        let used = stats.used_bytes as usize;
        assert!(
            used > budget_bytes * 3 / 4,
            "{shards} shards use {used} bytes only"
        );
        assert_eq!(stats.refused, 0);
        cache.clear();
        let stats = cache.stats();
        assert_eq!(
            (
                stats.entry_bytes,
                stats.garbage_bytes,
                stats.overshoot_bytes
            ),
            (0, 0, 0)
        );
        assert!(
            stats.used_bytes < 2 * MIB as u64,
            "the tables take {} bytes",
            stats.used_bytes
        );
    }
}

/// Bytes on the heap that are counted while they live.
struct Weighed {
    bytes: usize,
    alive: Arc<AtomicUsize>,
}

impl Drop for Weighed {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// What waits for its turn counts as well: a flood of inserts does not outrun the evictions.
#[test]
fn a_flood_of_inserts_stays_within_reach_of_the_budget() {
    let budget_bytes = 64 * MIB;
    let alive = Arc::new(AtomicUsize::new(0));
    let most = AtomicUsize::new(0);
    let cache = Cache::<u64, Weighed>::from_builder(&Builder::new(budget_bytes).shards(2))
        .unwrap()
        .weigh_with(|_, value| value.bytes);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (cache, alive, most) = (&cache, &alive, &most);
            scope.spawn(move || {
                for number in 0..5000 {
                    let bytes = 100 * KIB;
                    let now = alive.fetch_add(bytes, Ordering::SeqCst) + bytes;
                    most.fetch_max(now, Ordering::SeqCst);
                    let alive = alive.clone();
                    cache
                        .insert_soon(thread << 32 | number, Weighed { bytes, alive })
                        .unwrap();
                }
            });
        }
    });
    let most = most.into_inner();
    assert!(
        most <= budget_bytes * 5 / 4,
        "{} MiB were alive",
        most / MIB
    );
    drop(cache);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn an_entry_nearly_as_large_as_the_budget_is_admitted() {
    without_deadlock(|| {
        for shards in [1, 2, 8] {
            let cache = BlobCache::from_builder(&Builder::new(8 * MIB).shards(shards)).unwrap();
            for key in 0..8000_u32 {
                cache.insert(&key.to_le_bytes(), &[1; KIB]).unwrap();
            }
            for round in 0..4_u8 {
                cache.insert(&[round], &vec![round; LARGE]).unwrap();
                cache.flush();
                cache.flush();
                let len = cache.get_with(&[round], <[u8]>::len);
                assert_eq!(len, Some(LARGE), "{shards} shards, round {round}");
                let stats = cache.stats();
                assert!(
                    stats.used_bytes as usize <= bound_bytes(8 * MIB),
                    "{stats:?}"
                );
            }
            assert_eq!(cache.stats().refused, 0);
        }
    });
}

#[test]
fn shards_share_again_after_one_large_entry_has_left() {
    let cache = BlobCache::from_builder(&Builder::new(8 * MIB).shards(4)).unwrap();
    cache.insert(b"large", &vec![1; LARGE]).unwrap();
    cache.remove(b"large");
    for key in 0..6000_u32 {
        cache.insert(&key.to_le_bytes(), &[1; KIB]).unwrap();
    }
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.evicted), (6000, 0));
}

#[test]
fn the_same_after_it_was_evicted() {
    let cache = BlobCache::from_builder(&Builder::new(8 * MIB).shards(4)).unwrap();
    cache.insert(b"large", &vec![1; LARGE]).unwrap();
    for key in 0..20_000_u32 {
        cache.insert(&key.to_le_bytes(), &[1; KIB]).unwrap();
    }
    let stats = cache.stats();
    assert!(cache.get(b"large").is_none());
    assert!(
        stats.entries > 5500,
        "{} entries of 1 KiB in 8 MiB",
        stats.entries
    );
}

#[test]
fn an_entry_that_can_never_fit_is_refused_with_the_numbers() {
    let cache = Cache::<u64, Vec<u8>>::from_builder(&Builder::new(MIB).shards(2))
        .unwrap()
        .weigh_with(|_, value| value.capacity());
    for key in 0..1000 {
        cache.insert(key, vec![1; 100]).unwrap();
    }
    let before = cache.stats();
    let rejected = cache.insert(7, vec![2; 2 * MIB]).unwrap_err();
    assert_eq!((rejected.key, rejected.value.len()), (7, 2 * MIB));
    assert!(rejected.reason.entry_bytes >= 2 * MIB);
    assert!(rejected.reason.largest_bytes < MIB);
    let text = rejected.to_string();
    assert!(
        text.contains(&rejected.reason.entry_bytes.to_string()),
        "{text}"
    );
    assert!(
        text.contains(&rejected.reason.largest_bytes.to_string()),
        "{text}"
    );
    let after = cache.stats();
    assert_eq!((after.evicted, after.entries), (0, before.entries));
    assert_eq!(after.refused, 1);
    assert_eq!(cache.get(&7), Some(vec![1; 100]), "what the key held stays");
}

#[test]
fn a_load_that_can_never_fit_reaches_its_caller() {
    let blobs = BlobCache::from_builder(&Builder::new(MIB).shards(2)).unwrap();
    blobs.insert(b"small", b"stays").unwrap();
    let load = || {
        let loaded = blobs.get_or_load(b"large", |_, sink| {
            sink.extend_from_slice(&vec![1; 2 * MIB]);
            Ok(())
        });
        loaded.unwrap().len()
    };
    assert_eq!((load(), load()), (2 * MIB, 2 * MIB));
    let stats = blobs.stats();
    assert_eq!(
        (stats.loads, stats.refused, stats.evicted, stats.flights),
        (2, 2, 0, 0)
    );
    assert!(blobs.insert(b"large", &vec![1; 2 * MIB]).is_err());
    assert_eq!(blobs.get(b"small").as_deref(), Some(&b"stays"[..]));
}

/// A weight that a header can not hold is refused by loads as by inserts.
#[test]
fn a_weigher_may_say_anything() {
    let cache = Cache::<u64, usize>::from_builder(&Builder::new(64 << 30).shards(1))
        .unwrap()
        .weigh_with(|_, value| *value);
    for weight in [usize::MAX, 60 << 30, u32::MAX as usize] {
        assert!(cache.insert(1, weight).is_err());
        assert_eq!(cache.get_or_load(&1, |_| Ok(weight)).unwrap(), weight);
        assert_eq!(cache.stats().entries, 0);
    }
    cache.insert(1, 3 << 30).unwrap();
    assert_eq!(cache.get(&1), Some(3 << 30));
}

/// Blobs that are held for ever shrink the cache, no more.
#[test]
fn held_garbage_leaves_the_rest_of_the_budget_in_use() {
    let budget_bytes = 4 * MIB;
    let cache = BlobCache::from_builder(&Builder::new(budget_bytes).shards(2)).unwrap();
    let mut held: Vec<Blob> = Vec::new();
    for key in 0..2000_u32 {
        cache.insert(&key.to_le_bytes(), &[1; KIB]).unwrap();
        held.push(cache.get(&key.to_le_bytes()).unwrap());
        cache.remove(&key.to_le_bytes());
    }
    for key in 2000..12_000_u32 {
        cache.insert(&key.to_le_bytes(), &[1; KIB]).unwrap();
        let used = cache.stats().used_bytes as usize;
        assert!(used <= bound_bytes(budget_bytes), "{used} bytes");
    }
    let stats = cache.stats();
    assert!(
        stats.garbage_bytes as usize > 2000 * KIB * 9 / 10,
        "{stats:?}"
    );
    assert!(stats.entries > 1000, "{stats:?}");
    drop(held);
    cache.clear();
    assert_eq!(cache.stats().garbage_bytes, 0);
}

/// With all of it held, inserts are refused, and nothing else goes wrong.
#[test]
fn garbage_over_the_whole_budget_refuses_and_recovers() {
    without_deadlock(|| {
        let budget_bytes = MIB;
        let cache = BlobCache::from_builder(&Builder::new(budget_bytes).shards(2)).unwrap();
        let mut held = Vec::new();
        for key in 0..4000_u32 {
            cache.insert(&key.to_le_bytes(), &[1; KIB]).unwrap();
            held.extend(cache.get(&key.to_le_bytes()));
        }
        let stats = cache.stats();
        assert!(stats.refused > 0, "{stats:?}");
        assert!(
            stats.used_bytes as usize <= bound_bytes(budget_bytes),
            "{stats:?}"
        );
        drop(held);
        cache.clear();
        for key in 0..600_u32 {
            cache.insert(&key.to_le_bytes(), &[1; KIB]).unwrap();
        }
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.overshoot_bytes), (600, 0));
    });
}
