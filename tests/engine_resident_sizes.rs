//! Resident memory. A test has a file of its own, since what another one gave back would hide what it takes.
#![cfg(all(target_os = "linux", not(corecache_malloc)))]

use corecache::engine::{BlobCache, Builder};

const MIB: usize = 1 << 20;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Phases of other sizes; of each, one entry in a hundred stays, and the others go as if they had expired.
#[test]
fn a_cache_of_other_sizes_than_before_takes_no_more() {
    let budget_bytes = 64 * MIB;
    let before = resident_bytes();
    let cache = BlobCache::from_builder(&Builder::new(budget_bytes).shards(2)).unwrap();
    let (mut number, mut most) = (0_u64, 0);
    for len in [100, 300, 40] {
        let first = number;
        for _ in 0..budget_bytes * 9 / 10 / (len + 70) {
            number += 1;
            cache.insert(&number.to_le_bytes(), &vec![1; len]).unwrap();
        }
        most = most.max(resident_bytes().saturating_sub(before));
        for key in first + 1..=number {
            if !key.is_multiple_of(100) {
                cache.remove(&key.to_le_bytes());
            }
        }
        cache.flush();
    }
    let stats = cache.stats();
    assert!(stats.used_bytes < budget_bytes as u64 / 2, "{stats:?}");
    assert!(
        most <= budget_bytes * 3 / 2,
        "{} MiB, budget 64 MiB",
        most / MIB
    );
}
