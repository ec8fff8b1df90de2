//! What a reader sees of inserts, removals, clears and expiry.

mod engine_support;

use std::cell::RefCell;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use corecache::engine::{BlobCache, BlobSink, Builder, Cache};
use engine_support::{Census, without_deadlock};

const MIB: usize = 1 << 20;

fn typed(shards: usize) -> Cache<String, u64> {
    Cache::from_builder(&Builder::new(MIB).shards(shards)).unwrap()
}

#[test]
fn a_value_is_read_until_it_is_replaced_or_removed() {
    let cache = typed(3);
    assert_eq!(cache.get("one"), None);
    cache.insert("one".into(), 1).unwrap();
    assert_eq!(cache.get("one"), Some(1));
    cache.insert("one".into(), 11).unwrap();
    assert_eq!(cache.get_with("one", |one| one + 1), Some(12));
    assert!(cache.remove("one"));
    assert!(!cache.remove("one"));
    assert_eq!(cache.get("one"), None);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (2, 2));
    assert_eq!((stats.stored, stats.replaced, stats.removed), (2, 1, 1));
    assert_eq!((stats.entries, stats.entry_bytes), (0, 0));
}

#[test]
fn what_is_inserted_soon_is_there_after_a_flush() {
    let cache = typed(4);
    for number in 0..500 {
        cache.insert_soon(number.to_string(), number).unwrap();
    }
    cache.flush();
    let keys: Vec<String> = (0..501).map(|number| number.to_string()).collect();
    let values = cache.get_many(keys.iter().map(String::as_str));
    let expected: Vec<Option<u64>> = (0..500).map(Some).chain([None]).collect();
    assert_eq!(values, expected);
    assert_eq!(cache.stats().queued, 0);
}

#[test]
fn clear_removes_everything_and_gives_the_memory_back() {
    let cache = typed(4);
    let empty_bytes = {
        cache.insert("x".into(), 0).unwrap();
        cache.clear();
        cache.stats().used_bytes
    };
    for round in 0..3 {
        for number in 0..1000 {
            cache.insert(number.to_string(), round).unwrap();
        }
        cache.clear();
        let stats = cache.stats();
        assert_eq!(
            (stats.entries, stats.entry_bytes, stats.garbage_bytes),
            (0, 0, 0)
        );
        assert_eq!(cache.get("7"), None);
        let tables_bytes = stats.used_bytes - empty_bytes;
        assert!(
            tables_bytes < 1000 * 64,
            "the tables alone: {tables_bytes} bytes"
        );
    }
}

#[test]
fn an_empty_blob_and_an_empty_key_are_values_like_others() {
    let cache = BlobCache::new(MIB).unwrap();
    cache.insert(b"", b"of the empty key").unwrap();
    cache.insert(b"empty", b"").unwrap();
    assert_eq!(cache.get(b"").as_deref(), Some(&b"of the empty key"[..]));
    assert_eq!(cache.get(b"empty").as_deref(), Some(&b""[..]));
    assert!(cache.remove(b""));
    let many = cache.get_many([&b""[..], b"empty", b"none"]);
    assert_eq!(
        many.iter().map(Option::is_some).collect::<Vec<_>>(),
        [false, true, false]
    );
}

#[test]
fn a_time_to_live_of_zero_is_over_at_once() {
    let cache = typed(1);
    cache.insert_for("one".into(), 1, Duration::ZERO).unwrap();
    assert_eq!(cache.get("one"), None);
    assert!(!cache.remove("one"), "what has expired is not held");
    let stats = cache.stats();
    assert_eq!((stats.expired, stats.entries), (1, 0));
}

#[test]
fn expiry_is_exact() {
    let cache = typed(1);
    // A thread that does not run for so long reads nothing: then once more, with more time.
    let mut ttl = Duration::from_millis(20);
    let mut reads = 0;
    while reads == 0 {
        let before = Instant::now();
        cache.insert_for("one".into(), 1, ttl).unwrap();
        let after = Instant::now();
        loop {
            let asked = Instant::now();
            let value = cache.get("one");
            let answered = Instant::now();
            if value.is_some() {
                assert!(asked < after + ttl, "served after its time");
                reads += 1;
            } else {
                assert!(answered >= before + ttl, "gone before its time");
                break;
            }
        }
        assert!(ttl < Duration::from_secs(10), "it is never there");
        ttl *= 2;
    }
    cache.insert("one".into(), 2).unwrap();
    assert_eq!(cache.get("one"), Some(2));
}

#[test]
fn the_longest_time_to_live_does_not_overflow() {
    let cache = typed(1);
    cache.insert_for("one".into(), 1, Duration::MAX).unwrap();
    assert_eq!(cache.get("one"), Some(1));
}

#[test]
fn an_expired_value_is_loaded_anew() {
    let cache = typed(1);
    cache.insert_for("one".into(), 1, Duration::ZERO).unwrap();
    assert_eq!(cache.get_or_load("one", |_| Ok(2)).unwrap(), 2);
    cache.flush();
    assert_eq!(cache.get("one"), Some(2));
}

#[test]
fn every_way_in_asks_for_how_long_a_value_lives() {
    // A value says it itself; none is forever.
    let lifetime = |value: u64| (value < 100).then(|| Duration::from_secs(value));
    let cache = typed(1).expire_after(move |_, value| lifetime(*value));
    let pages = BlobCache::new(MIB).unwrap();
    let pages = pages.expire_after(move |_, value| lifetime(value.len() as u64));
    for value in [0, 50, 100] {
        let is_held = (value > 0).then_some(value);
        let (key, bytes) = (
            |way: &str| format!("{way} {value}"),
            vec![0; value as usize],
        );
        let [now, soon, load, many, long] = ["now", "soon", "load", "many", "long"].map(key);
        cache.insert(now.clone(), value).unwrap();
        cache.insert_soon(soon.clone(), value).unwrap();
        assert_eq!(cache.get_or_load(&load, |_| Ok(value)).unwrap(), value);
        let loaded = cache.get_many_or_load([&many], |_| Ok(vec![value]));
        assert_eq!(loaded.unwrap(), [value]);
        cache
            .insert_for(long.clone(), value, Duration::from_secs(60))
            .unwrap();
        pages.insert(now.as_bytes(), &bytes).unwrap();
        pages.insert_soon(soon.as_bytes(), &bytes).unwrap();
        let write = |_: &_, page: &mut BlobSink| {
            page.extend_from_slice(&bytes);
            Ok(())
        };
        assert_eq!(*pages.get_or_load(load.as_bytes(), write).unwrap(), *bytes);
        let loaded = pages.get_many_or_load([many.as_bytes()], |_, pages| {
            pages[0].extend_from_slice(&bytes);
            Ok(())
        });
        assert_eq!(*loaded.unwrap()[0], *bytes);
        pages
            .insert_for(long.as_bytes(), &bytes, Duration::from_secs(60))
            .unwrap();
        for key in [&now, &soon, &load, &many] {
            assert_eq!(cache.get(key), is_held, "{key}");
            let page = pages.get(key.as_bytes()).map(|page| page.len() as u64);
            assert_eq!(page, is_held, "{key}");
        }
        assert_eq!(cache.get(&long), Some(value));
        assert_eq!(pages.get(long.as_bytes()).as_deref(), Some(&*bytes));
    }
    let lives = |stats: corecache::engine::Stats| (stats.entries, stats.expired);
    let patience = Instant::now() + Duration::from_secs(60);
    while [lives(cache.stats()), lives(pages.stats())] != [(11, 4); 2] {
        assert!(Instant::now() < patience, "{:?}", cache.stats());
        thread::yield_now();
    }
}

#[test]
fn a_lifetime_begins_when_the_load_has_ended() {
    let ttl = Duration::from_millis(50);
    let cache = typed(1).expire_after(move |_, _| Some(ttl));
    let mut ended = None;
    let load = |_: &String| {
        thread::sleep(2 * ttl);
        ended = Some(Instant::now());
        Ok(1)
    };
    cache.get_or_load("one", load).unwrap();
    let held = cache.get("one");
    let over = ended.unwrap() + ttl;
    assert!(held == Some(1) || Instant::now() >= over, "gone too early");
    while cache.get("one").is_some() {
        thread::yield_now();
    }
    assert!(Instant::now() >= over);
}

#[test]
fn a_blob_outlives_removal_eviction_and_its_cache() {
    let cache = BlobCache::from_builder(&Builder::new(MIB).shards(2)).unwrap();
    let value = vec![7; 10_000];
    cache.insert(b"held", &value).unwrap();
    let held = cache.get(b"held").unwrap();
    assert!(cache.remove(b"held"));
    for number in 0..2000_u32 {
        cache.insert(&number.to_le_bytes(), &[1; 2000]).unwrap();
    }
    assert_eq!(*held, *value);
    assert!(
        cache.stats().garbage_bytes >= 10_000,
        "it counts as long as it is held"
    );
    drop(cache);
    assert_eq!(*held.clone(), *value);
}

#[test]
fn garbage_is_given_back_once_nobody_holds_it() {
    let cache = BlobCache::from_builder(&Builder::new(MIB).shards(1)).unwrap();
    cache.insert(b"held", &[7; 10_000]).unwrap();
    let held = cache.get(b"held").unwrap();
    cache.remove(b"held");
    cache.flush();
    assert!(cache.stats().garbage_bytes >= 10_000);
    drop(held);
    let bound = Instant::now() + Duration::from_secs(30);
    while cache.stats().garbage_bytes > 0 {
        assert!(Instant::now() < bound, "garbage is left");
        thread::yield_now();
    }
}

/// Replaced values are freed as they come, not only when the budget runs out.
#[test]
fn garbage_does_not_pile_up_while_changes_keep_coming() {
    let census = Census::default();
    let cache = Cache::<u64, _>::from_builder(&Builder::new(256 * MIB).shards(1)).unwrap();
    for number in 0..100_000 {
        cache
            .insert_soon(number % 10, census.value(number))
            .unwrap();
    }
    cache.flush();
    let alive = census.alive();
    assert!(alive < 30_000, "{alive} values are alive, 10 are held");
    drop(cache);
    assert_eq!(census.alive(), 0);
}

#[test]
fn a_borrow_lasts_while_all_else_is_evicted() {
    let census = Census::default();
    let cache = Cache::<u64, _>::from_builder(&Builder::new(MIB).shards(1)).unwrap();
    cache.insert(0, census.value(42)).unwrap();
    let number = cache.get_with(&0, |value| {
        for key in 1..20_000 {
            cache.insert(key, census.value(key)).unwrap();
        }
        cache.clear();
        assert_eq!(census.alive(), 1, "one is borrowed, the rest is gone");
        value.number()
    });
    assert_eq!(number, Some(42));
    drop(cache);
    assert_eq!(census.alive(), 0);
}

#[test]
fn borrows_nest() {
    let cache = typed(1);
    for number in 0..10 {
        cache.insert(number.to_string(), number).unwrap();
    }
    fn sum(cache: &Cache<String, u64>, from: u64) -> u64 {
        if from == 10 {
            cache.clear();
            return 0;
        }
        let key = from.to_string();
        cache
            .get_with(&key, |value| sum(cache, from + 1) + value)
            .unwrap()
    }
    assert_eq!(sum(&cache, 0), 45);
    assert_eq!(cache.stats().entries, 0);
}

#[test]
fn a_borrower_may_change_what_it_borrows() {
    without_deadlock(|| {
        let cache = typed(1);
        cache.insert("one".into(), 1).unwrap();
        let seen = cache.get_with("one", |one| {
            cache.insert("one".into(), 2).unwrap();
            let two = cache.get_or_load("two", |_| Ok(cache.get("one").unwrap()));
            cache.remove("one");
            (*one, two.unwrap(), cache.get("one"))
        });
        assert_eq!(seen, Some((1, 2, None)));
    });
}

#[test]
fn a_borrower_that_panics_lets_go() {
    let census = Census::default();
    let cache = Cache::<u64, _>::from_builder(&Builder::new(MIB).shards(1)).unwrap();
    cache.insert(1, census.value(1)).unwrap();
    for _ in 0..10 {
        let borrow = || cache.get_with(&1, |_| panic!("on purpose"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(borrow)).is_err());
    }
    cache.clear();
    assert_eq!(census.alive(), 0);
}

#[test]
fn a_thread_that_ends_can_still_read() {
    struct ReadsAtExit(RefCell<Option<Arc<Cache<String, u64>>>>);
    impl Drop for ReadsAtExit {
        fn drop(&mut self) {
            let cache = self.0.take().unwrap();
            let value = cache.get_with("one", |one| one + cache.get("one").unwrap());
            cache.insert("sum".into(), value.unwrap()).unwrap();
        }
    }
    thread_local!(static LAST: ReadsAtExit = const { ReadsAtExit(RefCell::new(None)) });
    let cache = Arc::new(typed(1));
    cache.insert("one".into(), 1).unwrap();
    for reads_before in [false, true] {
        let cache = cache.clone();
        let thread = thread::spawn(move || {
            LAST.with(|last| last.0.replace(Some(cache.clone())));
            reads_before.then(|| cache.get("one"));
        });
        thread.join().unwrap();
    }
    assert_eq!(cache.get("sum"), Some(2));
}
