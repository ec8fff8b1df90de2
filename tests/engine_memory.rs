//! Resident memory, as the kernel counts it. Alone in its process, and one test at a time.
#![cfg(all(target_os = "linux", not(corecache_malloc)))]

use std::sync::Mutex;

use corecache::engine::{Builder, Cache};

const MIB: usize = 1 << 20;
const INSERTS: u64 = if cfg!(debug_assertions) {
    500_000
} else {
    3_000_000
};

static TURN: Mutex<()> = Mutex::new(());

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// The most memory over that at the start while `flood` runs; it is called with a function to be called now and then.
fn most_bytes(flood: impl FnOnce(&mut dyn FnMut())) -> usize {
    let before = resident_bytes();
    let mut most = 0;
    flood(&mut || most = most.max(resident_bytes()));
    most.saturating_sub(before)
}

fn flood(cache: &Cache<u64, [u8; 100]>, watch: &mut dyn FnMut()) {
    for key in 0..INSERTS {
        cache.insert_soon(key, [key as u8; 100]).unwrap();
        if key.is_multiple_of(1000) {
            watch();
        }
    }
}

/// The budget, a huge page a shard at each of two ends, and what a process has else.
fn bound_bytes(budget_bytes: usize, shards: usize) -> usize {
    budget_bytes * 5 / 4 + shards * 4 * MIB + 2 * MIB
}

#[test]
fn a_flood_of_distinct_keys_leaves_memory_flat() {
    let _turn = TURN.lock();
    let builder = Builder::new(8 * MIB).shards(2);
    let most = most_bytes(|watch| {
        flood(&Cache::from_builder(&builder).unwrap(), watch);
    });
    assert!(most <= bound_bytes(8 * MIB, 2), "{} KiB", most >> 10);
}

#[test]
fn so_does_one_with_a_borrow_held_all_the_while() {
    let _turn = TURN.lock();
    let builder = Builder::new(8 * MIB).shards(2);
    let most = most_bytes(|watch| {
        let cache = Cache::from_builder(&builder).unwrap();
        cache.insert(u64::MAX, [7; 100]).unwrap();
        let is_whole = cache.get_with(&u64::MAX, |value| {
            flood(&cache, watch);
            value.iter().all(|&byte| byte == 7)
        });
        assert_eq!(is_whole, Some(true));
    });
    assert!(most <= bound_bytes(8 * MIB, 2), "{} KiB", most >> 10);
}

#[test]
fn a_cache_that_is_dropped_gives_its_memory_back() {
    let _turn = TURN.lock();
    let left = |_| {
        let cache = Cache::from_builder(&Builder::new(32 * MIB).shards(2)).unwrap();
        flood(&cache, &mut || ());
        assert!(cache.stats().used_bytes > 30 * MIB as u64);
        drop(cache);
        resident_bytes()
    };
    // The program's allocator keeps what the first ones needed: it is there for the later ones.
    let left: Vec<usize> = (0..5).map(left).collect();
    assert!(left[4] <= left[1] + 2 * MIB, "{left:?}");
}
