//! Owners sleep while nothing changes. Alone in its process, since it looks at all threads of it.
#![cfg(target_os = "linux")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use corecache::engine::{BlobCache, Builder, Cache};

/// The clock ticks that each owner has run for, and how often it went to sleep.
fn owners() -> Vec<(u64, u64)> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let folders = tasks.map(|task| task.unwrap().path());
    let is_owner = |name: &str| name.starts_with("shard-");
    folders
        .filter(|task| is_owner(&fs::read_to_string(task.join("comm")).unwrap()))
        .map(|task| {
            let stat = fs::read_to_string(task.join("stat")).unwrap();
            let after_name = stat.rsplit(')').next().unwrap();
            let fields: Vec<&str> = after_name.split_whitespace().collect();
            let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
            let status = fs::read_to_string(task.join("status")).unwrap();
            let switches = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .expect("the kernel counts context switches");
            (ticks, switches.trim().parse().unwrap())
        })
        .collect()
}

/// So many sizes that few slots keep many spans, which no gathering can help.
fn cache_of_many_sizes() -> BlobCache {
    let blobs = BlobCache::from_builder(&Builder::new(2 << 20).shards(1)).unwrap();
    for size in 0..56_usize {
        let len = 20 + size * 8 + size.saturating_sub(28) * 112;
        blobs.insert(&size.to_le_bytes(), &vec![1; len]).unwrap();
    }
    blobs.flush();
    blobs
}

fn addresses(blobs: &BlobCache) -> Vec<Option<usize>> {
    let address = |size: usize| blobs.get_with(&size.to_le_bytes(), |blob| blob.as_ptr().addr());
    (0..56).map(address).collect()
}

#[test]
fn an_idle_cache_costs_no_cpu() {
    let blobs = cache_of_many_sizes();
    let before = addresses(&blobs);
    for _ in 0..5 {
        blobs.flush();
        assert_eq!(addresses(&blobs), before, "what can not be helped is moved");
        assert_eq!(blobs.stats().garbage_bytes, 0);
    }
    let cache = Cache::<u64, u64>::from_builder(&Builder::new(8 << 20).shards(8)).unwrap();
    for key in 0..10_000 {
        cache.insert_soon(key, key).unwrap();
    }
    cache.clear();
    for key in 0..1000 {
        cache.insert(key, key).unwrap();
    }
    cache.flush();
    // A thread has its name when it has begun; and then it goes to sleep.
    let begun = Instant::now();
    let asleep = || {
        owners()
            .iter()
            .filter(|(_, switches)| *switches > 0)
            .count()
    };
    while asleep() < 8 + blobs.shards() && begun.elapsed() < Duration::from_secs(60) {
        thread::yield_now();
    }
    // Who has just answered may still be on the way to its sleep: that counts as once. And it comes by once more, since
    // something has left lately.
    let before = owners();
    assert_eq!(before.len(), 8 + blobs.shards());
    thread::sleep(Duration::from_millis(500));
    for (before, after) in before.into_iter().zip(owners()) {
        assert!(
            after.0 <= before.0 + 1,
            "an owner ran: {before:?}, then {after:?}"
        );
        assert!(
            after.1 <= before.1 + 2,
            "an owner woke: {before:?}, then {after:?}"
        );
    }
    assert_eq!(cache.get(&1), Some(1));
}
