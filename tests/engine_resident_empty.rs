//! Resident memory. A test has a file of its own, since what another one gave back would hide what it takes.
#![cfg(all(target_os = "linux", not(corecache_malloc)))]

use corecache::engine::{Builder, Cache};

const MIB: usize = 1 << 20;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What a cache takes before anything is in it counts nowhere; it must be small.
#[test]
fn an_empty_cache_of_large_keys_is_small() {
    let before = resident_bytes();
    let cache = Cache::<[u8; 4096], u64>::from_builder(&Builder::new(MIB).shards(8)).unwrap();
    let took = resident_bytes().saturating_sub(before);
    assert_eq!(cache.shards(), 8);
    assert!(took < 4 * MIB, "{} KiB, budget 1 MiB", took >> 10);
}
