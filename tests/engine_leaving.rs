//! What leaves: the memory of what has expired comes back by itself, and the listener is told.

mod engine_support;

use std::sync::atomic::{AtomicIsize, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use corecache::engine::{BlobCache, Builder, Cache, Cause};
use engine_support::Census;

const PATIENCE: Duration = Duration::from_secs(20);

fn cache(shards: usize) -> (Cache<u64, String>, Receiver<(u64, Cause)>) {
    let (left, leaving) = channel();
    let cache = Cache::from_builder(&Builder::new(64 << 20).shards(shards)).unwrap();
    let cache = cache
        .weigh_with(|_, value: &String| value.capacity())
        .eviction_listener(move |key, _, cause| left.send((*key, cause)).unwrap());
    (cache, leaving)
}

#[test]
fn what_has_expired_leaves_by_itself_and_nothing_else_does() {
    let (cache, leaving) = cache(3);
    for key in 0..3000 {
        let value = "x".repeat(100);
        match key % 3 {
            0 => cache.insert(key, value).unwrap(),
            1 => cache
                .insert_for(key, value, Duration::from_millis(30))
                .unwrap(),
            _ => cache
                .insert_for(key, value, Duration::from_secs(3600))
                .unwrap(),
        }
    }
    let mut gone: Vec<_> = (0..1000)
        .map(|_| leaving.recv_timeout(PATIENCE).expect("it has expired"))
        .collect();
    gone.sort_unstable_by_key(|(key, _)| *key);
    for (index, (key, cause)) in gone.into_iter().enumerate() {
        assert_eq!((key, cause), (3 * index as u64 + 1, Cause::Expired));
    }
    cache.flush();
    let stats = cache.stats();
    assert_eq!((stats.expired, stats.entries), (1000, 2000));
    assert_eq!((stats.evicted, stats.removed), (0, 0));
    assert!(cache.get(&0).is_some() && cache.get(&2).is_some());
    assert!(leaving.try_recv().is_err());
}

#[test]
fn a_shorter_time_to_live_is_not_kept_waiting_by_a_longer_one() {
    let (cache, leaving) = cache(1);
    let value = || "x".to_owned();
    cache
        .insert_for(1, value(), Duration::from_secs(3600))
        .unwrap();
    // The owner sleeps for an hour by now, or is about to.
    cache.flush();
    let begun = Instant::now();
    cache
        .insert_for(2, value(), Duration::from_millis(20))
        .unwrap();
    assert_eq!(leaving.recv_timeout(PATIENCE), Ok((2, Cause::Expired)));
    assert!(begun.elapsed() >= Duration::from_millis(20));
    assert!(cache.get(&1).is_some());
}

#[test]
fn an_entry_that_was_replaced_expires_by_its_new_time() {
    let (cache, leaving) = cache(1);
    for ttl in [20, 3_600_000, 40] {
        let ttl = Duration::from_millis(ttl);
        cache.insert_for(7, format!("{ttl:?}"), ttl).unwrap();
    }
    let causes: Vec<_> = (0..3)
        .map(|_| leaving.recv_timeout(PATIENCE).unwrap().1)
        .collect();
    assert_eq!(causes.last(), Some(&Cause::Expired));
    assert_eq!(cache.stats().entries, 0);
}

#[test]
fn a_listener_of_a_blob_cache_hears_key_and_value() {
    let (left, leaving) = channel();
    let cache = BlobCache::new(1 << 20)
        .unwrap()
        .eviction_listener(move |key, value, cause| {
            drop(left.send((key.to_vec(), value.to_vec(), cause)));
        });
    cache.insert(b"key", b"one").unwrap();
    cache.insert(b"key", b"two").unwrap();
    cache.remove(b"key");
    for (value, cause) in [(b"one", Cause::Replaced), (b"two", Cause::Removed)] {
        let heard = leaving.recv_timeout(PATIENCE).unwrap();
        assert_eq!(heard, (b"key".to_vec(), value.to_vec(), cause));
    }
}

#[test]
fn a_listener_may_change_the_cache_and_a_slow_one_holds_up_no_hit() {
    let again: Arc<OnceLock<Arc<Cache<u64, u64>>>> = Arc::default();
    let (blocked, is_blocked) = channel();
    let (go_on, may_go_on) = channel();
    let may_go_on = Mutex::new(may_go_on);
    let from_within = again.clone();
    let cache = Cache::from_builder(&Builder::new(1 << 20).shards(1)).unwrap();
    let cache = Arc::new(cache.eviction_listener(move |key, value, _| {
        if *key == 1 {
            let cache = from_within.get().expect("it is set before anything leaves");
            cache.insert(1000 + *key, *value).unwrap();
            blocked.send(()).unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
        }
    }));
    again.set(cache.clone()).expect("once");
    cache.insert(1, 10).unwrap();
    cache.remove(&1);
    is_blocked
        .recv_timeout(PATIENCE)
        .expect("the listener is told");
    assert_eq!(cache.get(&1001), Some(10));
    cache.insert(2, 20).unwrap();
    assert_eq!(cache.get(&2), Some(20), "while the listener is busy");
    go_on.send(()).unwrap();
    cache.flush();
}

#[test]
fn a_listener_hears_of_the_entries_of_a_key_in_their_order() {
    let (left, leaving) = channel();
    let cache = Cache::<u8, u64>::from_builder(&Builder::new(1 << 20).shards(1))
        .unwrap()
        .eviction_listener(move |_, number, _| left.send(*number).unwrap());
    for number in 0..2000 {
        cache.insert(1, number).unwrap();
    }
    cache.flush();
    for expected in 0..1999 {
        assert_eq!(leaving.recv_timeout(PATIENCE), Ok(expected));
    }
}

#[test]
fn a_listener_may_clear_the_cache_whoever_tells_it() {
    let again: Arc<OnceLock<Arc<Cache<u64, u64>>>> = Arc::default();
    let (told, is_told) = channel();
    let from_within = again.clone();
    let cache = Cache::from_builder(&Builder::new(64 << 10).shards(1)).unwrap();
    let cache = Arc::new(cache.eviction_listener(move |key, _, _| {
        from_within.get().expect("it is set at once").clear();
        let _ = told.send(*key);
    }));
    again.set(cache.clone()).expect("once");
    let (done, is_done) = channel();
    std::thread::spawn(move || {
        for key in 0..5000 {
            cache.insert(key, key).unwrap();
            if key % 1000 == 999 {
                cache.clear();
            }
        }
        done.send(()).unwrap();
    });
    is_done
        .recv_timeout(PATIENCE)
        .expect("nobody waits for ever");
    is_told.recv_timeout(PATIENCE).expect("something has left");
}

#[test]
fn a_listener_that_stores_more_than_it_is_told_of_takes_no_more_memory() {
    const TOLD: u64 = 20_000;
    const BUDGET_BYTES: usize = 256 << 10;
    let census = Census::default();
    let (values, most) = (census.clone(), Arc::new(AtomicIsize::new(0)));
    let (done, is_done) = channel();
    let itself = Arc::new(OnceLock::<Weak<Cache<_, _>>>::new());
    let builder = Builder::new(BUDGET_BYTES).shards(2);
    let cache = Cache::from_builder(&builder).unwrap().eviction_listener({
        let (itself, most, told) = (itself.clone(), most.clone(), AtomicU64::new(0));
        move |_, _, _| {
            let told = told.fetch_add(1, Ordering::SeqCst);
            most.fetch_max(values.alive(), Ordering::SeqCst);
            if told >= TOLD {
                let _ = done.send(());
            } else if let Some(cache) = itself.get().and_then(Weak::upgrade) {
                for key in [2 * told, 2 * told + 1] {
                    cache.insert(key, (values.value(key), [0; 1000])).unwrap();
                }
            }
        }
    });
    let cache = Arc::new(cache);
    itself.set(Arc::downgrade(&cache)).unwrap();
    let mut key = u64::MAX;
    while is_done.try_recv().is_err() {
        key -= 1;
        cache.insert(key, (census.value(key), [0; 1000])).unwrap();
    }
    let most = most.load(Ordering::SeqCst);
    assert!(most < 2 * BUDGET_BYTES as isize / 1000, "{most} at once");
    assert!(cache.stats().refused > 0);
}
