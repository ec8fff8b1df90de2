//! A process that forks with a cache in its hands: the child has no owners, and goes on without.
#![cfg(unix)]

use std::time::Duration;

use corecache::engine::{Builder, Cache};

/// What the child does: whether all went well.
fn use_and_drop(cache: Cache<u64, u64>) -> bool {
    let held = (0..100).all(|key| cache.get(&key) == Some(key));
    for key in 0..100_000 {
        cache
            .insert_for(key, key, Duration::from_millis(1))
            .unwrap();
    }
    let loaded = cache.get_or_load(&u64::MAX, |_| Ok(7));
    cache.flush();
    let is_bounded = cache.stats().used_bytes < 2 << 20;
    drop(cache);
    held && is_bounded && loaded.is_ok_and(|value| value == 7)
}

#[test]
fn a_forked_child_may_use_and_drop_a_cache() {
    let cache = Cache::from_builder(&Builder::new(1 << 20).shards(2)).unwrap();
    for key in 0..100 {
        cache.insert(key, key).unwrap();
    }
    cache.flush();
    // SAFETY: the child uses the cache, which nobody changes now, and the allocator, which the C library looks after.
    match unsafe { libc::fork() } {
        0 => {
            let worked = std::panic::catch_unwind(|| use_and_drop(cache)).unwrap_or(false);
            // SAFETY: ends the child without the harness's own end.
            unsafe { libc::_exit(i32::from(!worked)) }
        }
        child => {
            let mut status = -1;
            // SAFETY: waits for the child that was made above.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "the child did not end well");
            assert_eq!(cache.get(&1), Some(1));
        }
    }
}
