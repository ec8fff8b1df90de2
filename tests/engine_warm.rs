//! A cache that is saved to a file and restored from it.

mod engine_support;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};

use corecache::engine::{BlobCache, Builder, Cache, RestoreError};
use engine_support::{Numbers, SetAtEnd, without_deadlock};
use tempfile::TempDir;

const MIB: usize = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);
const HEAD_BYTES: usize = 24;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pages.warm");
    (folder, path)
}

fn names(folder: &TempDir) -> Vec<String> {
    let files = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn new_cache() -> BlobCache {
    BlobCache::from_builder(&Builder::new(4 * MIB).shards(2)).unwrap()
}

fn value_of(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(1 + number as usize % 40)
}

fn fill(cache: &BlobCache, numbers: std::ops::Range<u64>) {
    for number in numbers {
        cache
            .insert(&number.to_le_bytes(), &value_of(number))
            .unwrap();
    }
}

fn held(cache: &BlobCache) -> HashSet<u64> {
    let numbers = cache.iter().map(|blob| {
        let number = u64::from_le_bytes(blob.key().try_into().unwrap());
        assert_eq!(*blob, *value_of(number));
        number
    });
    numbers.collect()
}

#[test]
fn what_was_saved_is_restored() {
    let (folder, path) = folder();
    let cache = new_cache();
    fill(&cache, 0..5000);
    let saved = cache.save(&path).unwrap();
    assert_eq!((saved.entries, saved.skipped), (5000, 0));
    assert_eq!(saved.bytes, fs::metadata(&path).unwrap().len());
    assert_eq!(names(&folder), ["pages.warm"]);

    for shards in [1, 3] {
        let restarted = BlobCache::from_builder(&Builder::new(8 * MIB).shards(shards)).unwrap();
        let restored = restarted.restore(&path).unwrap();
        assert_eq!((restored.entries, restored.skipped()), (5000, 0));
        assert_eq!(held(&restarted), (0..5000).collect());
        assert_eq!(restarted.get(&7u64.to_le_bytes()).unwrap(), value_of(7)[..]);
    }

    // The next save takes the former file's place.
    cache.clear();
    fill(&cache, 7..9);
    cache.save(&path).unwrap();
    let restarted = new_cache();
    assert_eq!(restarted.restore(&path).unwrap().entries, 2);
    assert_eq!(names(&folder), ["pages.warm"]);
}

#[test]
fn an_empty_cache_and_odd_entries_are_saved_too() {
    let (_folder, path) = folder();
    let cache = new_cache();
    assert_eq!(cache.save(&path).unwrap().entries, 0);
    assert_eq!(new_cache().restore(&path).unwrap().entries, 0);
    let entries = [(vec![], vec![]), (vec![1], vec![]), (vec![], vec![2; 1])];
    for (key, value) in &entries[1..] {
        cache.insert(key, value).unwrap();
    }
    cache.insert(&[3; 70_000], &vec![4; MIB / 2]).unwrap();
    assert_eq!(cache.save(&path).unwrap().entries, 3);
    let restarted = new_cache();
    assert_eq!(restarted.restore(&path).unwrap().entries, 3);
    assert_eq!(&*restarted.get(&[1]).unwrap(), b"");
    assert_eq!(&*restarted.get(&[]).unwrap(), b"\x02");
    assert_eq!(restarted.get(&[3; 70_000]).unwrap(), vec![4; MIB / 2][..]);
}

#[test]
fn typed_entries_are_encoded_and_decoded() {
    let (_folder, path) = folder();
    let cache = Cache::<u64, String>::new(4 * MIB).unwrap();
    for key in 0..1000 {
        cache.insert(key, format!("number {key}")).unwrap();
    }
    let saved = cache
        .save_with(&path, |key, value| {
            let is_wanted = key % 10 != 0;
            is_wanted.then(|| (key.to_le_bytes(), value.clone()))
        })
        .unwrap();
    assert_eq!((saved.entries, saved.skipped), (900, 100));

    let restarted = Cache::<u64, String>::new(4 * MIB).unwrap();
    let restored = restarted
        .restore_with(&path, |key, value| {
            let key = u64::from_le_bytes(key.try_into().ok()?);
            let value = String::from_utf8(value.to_vec()).ok()?;
            (key % 10 != 1).then_some((key, value))
        })
        .unwrap();
    assert_eq!((restored.entries, restored.undecoded), (800, 100));
    for key in 0..1000 {
        let expected = (key % 10 > 1).then(|| format!("number {key}"));
        assert_eq!(restarted.get(&key), expected);
    }
}

/// Shifts the moment of saving, and makes the head's checksum right again.
fn set_saved_at(path: &Path, saved_at: SystemTime) {
    let mut file = fs::read(path).unwrap();
    let since_1970 = saved_at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    file[12..20].copy_from_slice(&(since_1970.as_nanos() as u64).to_le_bytes());
    let crc = crc32fast::hash(&file[..20]).to_le_bytes();
    file[20..24].copy_from_slice(&crc);
    // The end's checksum covers the head's: of all checksums before, in their order.
    let (mut crcs, mut at) = (crc32fast::Hasher::new(), HEAD_BYTES);
    crcs.update(&crc);
    while file[at + 8..at + 12] != [0xff; 4] {
        crcs.update(&file[at + 12..at + 16]);
        let payload = u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        at += 16 + payload as usize;
    }
    file[at + 24..at + 28].copy_from_slice(&crcs.finalize().to_le_bytes());
    let end = [&file[at..at + 12], &file[at + 16..at + 28]].concat();
    file[at + 12..at + 16].copy_from_slice(&crc32fast::hash(&end).to_le_bytes());
    fs::write(path, file).unwrap();
}

#[test]
fn time_goes_on_between_a_save_and_a_restore() {
    let (_folder, path) = folder();
    let cache = new_cache();
    cache.insert(b"for good", b"1").unwrap();
    cache.insert_for(b"an hour", b"2", HOUR).unwrap();
    cache.insert_for(b"a day", b"3", 24 * HOUR).unwrap();
    cache.insert_for(b"over", b"4", Duration::ZERO).unwrap();
    cache.insert_for(b"ages", b"5", Duration::MAX).unwrap();
    assert_eq!(cache.save(&path).unwrap().entries, 4);
    let keys = || {
        let restarted = new_cache();
        let restored = restarted.restore(&path).unwrap();
        assert_eq!(restored.entries + restored.expired, 4);
        let keys = restarted.iter().map(|blob| blob.key().to_vec());
        let mut keys: Vec<_> = keys.map(|key| String::from_utf8(key).unwrap()).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(), ["a day", "ages", "an hour", "for good"]);
    set_saved_at(&path, SystemTime::now() - 2 * HOUR);
    assert_eq!(keys(), ["a day", "ages", "for good"]);
    set_saved_at(&path, SystemTime::now() - 48 * HOUR);
    assert_eq!(keys(), ["ages", "for good"]);
    // A clock that was set back: nothing lives longer for that than it would have.
    set_saved_at(&path, SystemTime::now() + 48 * HOUR);
    assert_eq!(keys(), ["a day", "ages", "an hour", "for good"]);
}

#[test]
fn what_is_restored_expires() {
    let (_folder, path) = folder();
    let cache = new_cache();
    cache.insert_for(b"an hour", b"2", HOUR).unwrap();
    cache.save(&path).unwrap();
    set_saved_at(&path, SystemTime::now() - HOUR + Duration::from_secs(6));
    let restarted = new_cache();
    assert_eq!(restarted.restore(&path).unwrap().entries, 1);
    let until = SystemTime::now() + Duration::from_secs(60);
    while restarted.get(b"an hour").is_some() {
        assert!(SystemTime::now() < until);
        thread::yield_now();
    }
    // And is saved again with what it has left.
    cache.insert_for(b"a day", b"3", 24 * HOUR).unwrap();
    cache.save(&path).unwrap();
    set_saved_at(&path, SystemTime::now() - 20 * HOUR);
    let restarted = new_cache();
    assert_eq!(restarted.restore(&path).unwrap().entries, 1);
    restarted.save(&path).unwrap();
    set_saved_at(&path, SystemTime::now() - 5 * HOUR);
    assert_eq!(new_cache().restore(&path).unwrap().expired, 1);
}

#[test]
fn what_the_cache_holds_is_newer_than_the_file() {
    let (_folder, path) = folder();
    let cache = new_cache();
    fill(&cache, 0..10);
    cache.save(&path).unwrap();
    let restarted = new_cache();
    restarted.insert(&3u64.to_le_bytes(), b"newer").unwrap();
    let restored = restarted.restore(&path).unwrap();
    assert_eq!((restored.entries, restored.held), (9, 1));
    assert_eq!(&*restarted.get(&3u64.to_le_bytes()).unwrap(), b"newer");
    assert_eq!(restarted.restore(&path).unwrap().held, 10);
}

#[test]
fn a_load_that_is_under_way_wins_over_the_file() {
    let (_folder, path) = folder();
    let cache = new_cache();
    fill(&cache, 0..10);
    cache.save(&path).unwrap();
    let restarted = new_cache();
    let key = 3u64.to_le_bytes();
    let loaded = restarted.get_or_load(&key, |_, value| {
        assert_eq!(restarted.restore(&path).unwrap().entries, 10);
        value.extend_from_slice(b"newer");
        Ok(())
    });
    assert_eq!(&*loaded.unwrap(), b"newer");
    assert_eq!(&*restarted.get(&key).unwrap(), b"newer");
}

#[test]
fn what_is_cleared_while_it_is_restored_stays_so() {
    let (_folder, path) = folder();
    let cache = Cache::<u64, u64>::new(MIB).unwrap();
    (0..1000).for_each(|key| cache.insert(key, key).unwrap());
    let encode = |key: &u64, value: &u64| Some((key.to_le_bytes(), value.to_le_bytes()));
    cache.save_with(&path, encode).unwrap();
    cache.clear();
    let mut seen = 0;
    let restored = cache
        .restore_with(&path, |key, value| {
            seen += 1;
            if seen == 500 {
                cache.clear();
            }
            let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
            Some((number(key)?, number(value)?))
        })
        .unwrap();
    // The one that was decoded meanwhile was begun after the clear.
    assert!((499..=500).contains(&restored.entries), "{restored:?}");
    assert_eq!(restored.entries + restored.refused, 1000);
    assert_eq!(cache.len(), 0);
}

#[test]
fn a_smaller_cache_keeps_what_was_asked_for_most() {
    let (_folder, path) = folder();
    let cache = BlobCache::from_builder(&Builder::new(16 * MIB).shards(2)).unwrap();
    fill(&cache, 0..20_000);
    let is_hot = |number: u64| number.is_multiple_of(10);
    for _ in 0..3 {
        for number in (0..20_000).filter(|number| is_hot(*number)) {
            assert!(cache.get(&number.to_le_bytes()).is_some());
        }
    }
    assert_eq!(cache.save(&path).unwrap().entries, 20_000);
    let small = BlobCache::from_builder(&Builder::new(MIB).shards(2)).unwrap();
    let restored = small.restore(&path).unwrap();
    assert!(restored.refused > 10_000, "{restored:?}");
    let stats = small.stats();
    assert_eq!((stats.evicted, stats.overshoot_bytes), (0, 0));
    // The tables' lines are charged after they are there.
    let full = stats.budget_bytes * 9 / 10..stats.budget_bytes + 1024;
    assert!(full.contains(&stats.used_bytes), "{stats:?}");
    let kept = held(&small);
    assert_eq!(kept.len() as u64, restored.entries);
    let hot = (0..20_000).filter(|number| is_hot(*number));
    let lost = hot.filter(|number| !kept.contains(number)).count();
    assert_eq!(lost, 0, "of {} that were kept", kept.len());

    // They count as hot in there, too: a scan does not push them out.
    fill(&small, 20_000..30_000);
    let kept = held(&small);
    let hot = (0..20_000).filter(|number| is_hot(*number));
    let lost = hot.filter(|number| !kept.contains(number)).count();
    assert!(lost < 100, "{lost} of 2000 were lost");
}

#[test]
fn a_full_cache_finds_room_for_nearly_all_of_itself() {
    let (_folder, path) = folder();
    let cache = new_cache();
    fill(&cache, 0..50_000);
    assert!(cache.stats().evicted > 0);
    let saved = cache.save(&path).unwrap();
    let restored = new_cache().restore(&path).unwrap();
    assert!(restored.entries * 100 > saved.entries * 95, "{restored:?}");
}

#[test]
fn others_write_while_a_cache_is_saved() {
    without_deadlock(|| {
        let (_folder, path) = folder();
        let cache = new_cache();
        fill(&cache, 0..1000);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for seed in 0..2 {
                let (cache, is_over) = (&cache, &is_over);
                scope.spawn(move || {
                    let mut numbers = Numbers(seed);
                    while !is_over.load(Ordering::Relaxed) {
                        let number = 1000 + numbers.below(3000);
                        if number.is_multiple_of(3) {
                            cache.remove(&number.to_le_bytes());
                        }
                        fill(cache, number..number + 1);
                        // In its own place.
                        let stays = number % 1000;
                        fill(cache, stays..stays + 1);
                    }
                });
            }
            let _end = SetAtEnd(&is_over);
            for _ in 0..10 {
                let saved = cache.save(&path).unwrap();
                let restarted = BlobCache::new(16 * MIB).unwrap();
                let restored = restarted.restore(&path).unwrap();
                assert_eq!((restored.entries, restored.skipped()), (saved.entries, 0));
                // Their values are checked in there.
                let kept = held(&restarted);
                assert!((0..1000).all(|number| kept.contains(&number)));
            }
        });
    });
}

/// A value that does something when it is dropped.
struct OnDrop(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then();
        }
    }
}

#[test]
fn a_value_that_is_dropped_may_save_its_cache_and_not_restore_it() {
    without_deadlock(|| {
        let (_folder, path) = folder();
        let builder = Builder::new(MIB).shards(1);
        let cache = Arc::new(Cache::<u64, OnDrop>::from_builder(&builder).unwrap());
        let (tell, told) = mpsc::channel();
        let weak = Arc::downgrade(&cache);
        let then = move || {
            let cache = weak.upgrade().expect("the cache is there");
            let saved = cache.save_with(&path, |key, _| Some((key.to_le_bytes(), [])));
            let restored = cache.restore_with(&path, |_, _| None);
            tell.send((saved, restored)).unwrap();
        };
        cache.insert(1, OnDrop(Some(Box::new(then)))).unwrap();
        cache.insert(2, OnDrop(None)).unwrap();
        cache.remove(&1);
        let (saved, restored) = told.recv().unwrap();
        assert_eq!(saved.unwrap().entries, 1);
        assert!(matches!(restored, Err(RestoreError::Inside { .. })));
    });
}
