//! Saved caches that are damaged, processes that are killed while they save, and paths of no use.

mod engine_support;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use corecache::engine::{BlobCache, Builder, Cache, RestoreError, SaveError};
use engine_support::without_deadlock;
use tempfile::TempDir;

const MIB: usize = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);

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

fn fill(cache: &BlobCache, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let key = number.to_le_bytes();
        cache.insert(&key, &key.repeat(3)).unwrap();
    }
}

#[test]
fn a_file_that_is_damaged_anywhere_is_refused_whole() {
    let (_folder, path) = folder();
    let cache = new_cache();
    fill(&cache, 0..5);
    for number in 0..4u64 {
        // Chunks of several ranks.
        (0..number).for_each(|_| drop(cache.get(&number.to_le_bytes())));
    }
    cache.insert_for(b"expires", b"some day", HOUR).unwrap();
    cache.save(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    assert_eq!(new_cache().restore(&path).unwrap().entries, 6);

    let restarted = new_cache();
    let is_refused = |file: &[u8], what: &str| {
        fs::write(&path, file).unwrap();
        let refused = restarted.restore(&path);
        let error = refused.expect_err(what);
        let is_told = matches!(
            error,
            RestoreError::Damaged { .. } | RestoreError::NotSaved { .. }
        );
        assert!(is_told, "{what}: {error:?}");
        assert!(error.to_string().contains("pages.warm"), "{error}");
        assert_eq!(restarted.iter().count(), 0, "{what}");
    };
    for at in 0..whole.len() {
        for bits in [0x01, 0x80, 0xff, whole[at]] {
            let mut damaged = whole.clone();
            damaged[at] ^= bits;
            if damaged != whole {
                is_refused(&damaged, &format!("byte {at} ^ {bits:#x}"));
            }
        }
        is_refused(&whole[..at], &format!("cut off at {at}"));
        let hole = [&whole[..at], &whole[at + 1..]].concat();
        is_refused(&hole, &format!("without byte {at}"));
        let more = [&whole[..at], &[0], &whole[at..]].concat();
        is_refused(&more, &format!("a byte more at {at}"));
    }
    is_refused(&[&whole[..], &[0]].concat(), "a byte behind the end");
    is_refused(&whole.repeat(2), "twice");
    fs::write(&path, &whole).unwrap();
    assert_eq!(restarted.restore(&path).unwrap().entries, 6);
}

#[test]
fn a_file_that_changes_while_it_is_restored_is_told_of() {
    let (_folder, path) = folder();
    let cache = Cache::<u64, Vec<u8>>::new(16 * MIB).unwrap();
    (0..1000).for_each(|key| cache.insert(key, vec![1; 1000]).unwrap());
    let encode = |key: &u64, value: &Vec<u8>| Some((key.to_le_bytes(), value.clone()));
    cache.save_with(&path, encode).unwrap();
    let restarted = Cache::<u64, Vec<u8>>::new(16 * MIB).unwrap();
    let mut is_first = true;
    let result = restarted.restore_with(&path, |key, value| {
        if std::mem::take(&mut is_first) {
            let len = fs::metadata(&path).unwrap().len() as usize;
            fs::write(&path, vec![0; len]).unwrap();
        }
        Some((u64::from_le_bytes(key.try_into().ok()?), value.to_vec()))
    });
    let Err(RestoreError::Changed { entries, .. }) = result else {
        panic!("{result:?}");
    };
    assert_eq!(entries, restarted.len() as u64);
}

#[test]
fn paths_that_are_of_no_use_are_told_of() {
    let (folder, path) = folder();
    let cache = new_cache();
    assert!(matches!(
        cache.restore(&path),
        Err(RestoreError::Missing { .. })
    ));
    assert!(matches!(
        cache.restore(folder.path()),
        Err(RestoreError::NotSaved { .. })
    ));
    for nowhere in [
        folder.path(),
        Path::new(""),
        Path::new("/"),
        Path::new(".."),
    ] {
        let refused = cache.save(nowhere);
        assert!(
            matches!(refused, Err(SaveError::NoFileName { .. })),
            "{refused:?}"
        );
    }
    let refused = cache.save(folder.path().join("no-such-folder/pages.warm"));
    assert!(matches!(refused, Err(SaveError::Io { .. })), "{refused:?}");
    fs::write(&path, b"something else entirely, and long enough").unwrap();
    assert!(matches!(
        cache.restore(&path),
        Err(RestoreError::NotSaved { .. })
    ));
    assert_eq!(names(&folder), ["pages.warm"]);
}

#[test]
fn a_save_that_fails_leaves_the_former_file() {
    let (folder, path) = folder();
    let cache = Cache::<u64, u64>::new(MIB).unwrap();
    (0..1000).for_each(|key| cache.insert(key, key).unwrap());
    let encode = |key: &u64, value: &u64| Some((key.to_le_bytes(), value.to_le_bytes()));
    cache.save_with(&path, encode).unwrap();
    let former = fs::read(&path).unwrap();
    // One that panics in the middle.
    let mut count = 0;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        cache.save_with(&path, |key, value| {
            count += 1;
            assert!(count < 500, "on purpose");
            encode(key, value)
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(fs::read(&path).unwrap(), former);
    assert_eq!(names(&folder), ["pages.warm"]);
}

#[test]
fn two_saves_to_one_path_do_not_mix() {
    without_deadlock(|| {
        let (folder, path) = folder();
        let cache = new_cache();
        fill(&cache, 0..1000);
        // From within a save: the other one has to be told.
        let outer = Cache::<u64, u64>::new(MIB).unwrap();
        outer.insert(1, 1).unwrap();
        outer
            .save_with(&path, |key, value| {
                assert!(matches!(cache.save(&path), Err(SaveError::Busy { .. })));
                Some((key.to_le_bytes(), value.to_le_bytes()))
            })
            .unwrap();
        assert_eq!(new_cache().restore(&path).unwrap().entries, 1);
        // And many at a time: each is whole or refused.
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        match cache.save(&path) {
                            Ok(saved) => assert_eq!(saved.entries, 1000),
                            Err(error) => assert!(matches!(error, SaveError::Busy { .. })),
                        }
                        let entries = new_cache().restore(&path).unwrap().entries;
                        assert!([1, 1000].contains(&entries));
                    }
                });
            }
        });
        assert_eq!(names(&folder), ["pages.warm"]);
    });
}

const CHILD: &str = "CORECACHE_TEST_SAVES_TO";

/// A test that runs once more, in a process of its own, to be killed; at the latest when this is dropped.
struct Saving(Child);

impl Saving {
    fn start(test: &str, path: &Path) -> Self {
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        let said = BufReader::new(self.0.stdout.take().unwrap());
        said.lines().map_while(Result::ok)
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The lines around are the test harness's.
fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{what}").unwrap();
    out.flush().unwrap();
}

fn encode(key: &u64, value: &u64) -> Option<([u8; 8], [u8; 8])> {
    Some((key.to_le_bytes(), value.to_le_bytes()))
}

fn restore_numbers(path: &Path) -> Cache<u64, u64> {
    let cache = Cache::<u64, u64>::new(16 * MIB).unwrap();
    let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
    let restored = cache
        .restore_with(path, |key, value| Some((number(key)?, number(value)?)))
        .unwrap();
    assert_eq!(restored.skipped(), 0);
    cache
}

#[test]
fn a_process_that_is_killed_while_it_saves_leaves_the_former_file() {
    const ENTRIES: u64 = 20_000;
    let cache = Cache::<u64, u64>::new(16 * MIB).unwrap();
    if let Some(path) = env::var_os(CHILD) {
        (0..ENTRIES).for_each(|key| cache.insert(key, 2).unwrap());
        let mut count = 0;
        let saved = cache.save_with(path, |key, value| {
            count += 1;
            if count == ENTRIES - 1 {
                say("in the middle");
                // Until it is killed, or its parent is gone.
                std::io::stdin().read_line(&mut String::new()).unwrap();
            }
            encode(key, value)
        });
        panic!("was not killed: {saved:?}");
    }
    let (folder, path) = folder();
    (0..ENTRIES).for_each(|key| cache.insert(key, 1).unwrap());
    cache.save_with(&path, encode).unwrap();
    let test = "a_process_that_is_killed_while_it_saves_leaves_the_former_file";
    let mut saving = Saving::start(test, &path);
    assert!(saving.lines().any(|line| line == "in the middle"));
    // It has written most of its file, and holds the lock.
    let left = folder.path().join("pages.warm.saving");
    assert!(fs::metadata(&left).unwrap().len() > 100_000);
    let refused = cache.save_with(&path, encode);
    assert!(matches!(refused, Err(SaveError::Busy { .. })));
    drop(saving);

    let restarted = restore_numbers(&path);
    assert_eq!(restarted.len() as u64, ENTRIES);
    assert!(restarted.iter().all(|entry| *entry.value() == 1));
    // What it left behind is no saved cache, and in nobody's way.
    let broken = Cache::<u64, u64>::new(MIB).unwrap();
    let refused = broken.restore_with(&left, |_, _| None);
    assert!(matches!(refused, Err(RestoreError::Damaged { .. })));
    (0..ENTRIES).for_each(|key| cache.insert(key, 3).unwrap());
    cache.save_with(&path, encode).unwrap();
    assert_eq!(names(&folder), ["pages.warm"]);
    let restarted = restore_numbers(&path);
    assert!(restarted.iter().all(|entry| *entry.value() == 3));
}

#[test]
fn a_process_that_is_killed_at_any_time_leaves_a_whole_file() {
    const ENTRIES: u64 = 2000;
    if let Some(path) = env::var_os(CHILD) {
        let cache = Cache::<u64, u64>::new(16 * MIB).unwrap();
        for round in 1.. {
            (0..ENTRIES).for_each(|key| cache.insert(key, round).unwrap());
            cache.save_with(&path, encode).unwrap();
            say(&format!("saved {round}"));
        }
    }
    let test = "a_process_that_is_killed_at_any_time_leaves_a_whole_file";
    let (_folder, path) = folder();
    for kills in 0..10 {
        let mut saving = Saving::start(test, &path);
        let saved = saving.lines();
        let mut saved = saved.filter_map(|line| line.strip_prefix("saved ")?.parse::<u64>().ok());
        let last = saved.by_ref().take(1 + kills % 4).last().unwrap();
        drop(saving);
        let restarted = restore_numbers(&path);
        assert_eq!(restarted.len() as u64, ENTRIES);
        let rounds: HashSet<u64> = restarted.iter().map(|entry| *entry.value()).collect();
        assert_eq!(rounds.len(), 1);
        assert!(rounds.iter().all(|round| *round >= last));
    }
}

#[cfg(unix)]
#[test]
fn a_saved_cache_is_for_its_owner_only() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let (folder, path) = folder();
    let cache = new_cache();
    cache.save(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // Somebody else's link where the file is to be written.
    let precious = folder.path().join("precious");
    fs::write(&precious, b"precious").unwrap();
    symlink(&precious, folder.path().join("pages.warm.saving")).unwrap();
    assert!(matches!(cache.save(&path), Err(SaveError::Io { .. })));
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
}
