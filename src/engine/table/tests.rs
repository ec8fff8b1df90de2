use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;

use super::segments::FIRST as FIRST_SEGMENT;
use super::writer::{GROW_AT, SHRINK_AT};
use super::*;
use crate::engine::entry::{Handle, Typed, lone_arena};
use crate::engine::reclaim::{self, Guard};

type Entry = Handle<Typed<u64, u64>>;

fn key_of(entry: NonNull<Header>) -> u64 {
    // SAFETY: all entries of these tests are of this body, and alive while they are linked.
    unsafe { *Typed::<u64, u64>::key_at(entry) }
}

fn new_entry(hash: u64, key: u64) -> NonNull<Header> {
    Entry::lone(hash, key, key).into_raw()
}

fn free(entry: NonNull<Header>) {
    // SAFETY: the reference that `new_entry` gave away; each is taken back once.
    drop(unsafe { Entry::from_raw(entry) });
}

/// A table whose entries have names in its range, as far as there is room in it.
fn new_writer() -> Writer {
    Writer::new(lone_arena().range())
}

impl Writer {
    /// Checks every invariant of the table and returns its entries.
    fn validate(&self) -> HashSet<NonNull<Header>> {
        let mut seen = HashSet::new();
        let mut lines = 0;
        let table = self.table();
        for bucket in 0..self.buckets() {
            let mut line = Some(table.line(bucket));
            while let Some(at) = line {
                lines += 1;
                for (index, place) in at.places.iter().enumerate() {
                    let (name, tag) = (place.load(Ordering::Relaxed), at.tags().tag(index));
                    if name == 0 {
                        assert_eq!(tag, 0, "what is no entry has a tag");
                        continue;
                    }
                    let entry = table.entry(name).expect("what is linked has not left");
                    // SAFETY: linked, so alive.
                    let hash = unsafe { entry.as_ref() }.hash;
                    assert_eq!(bucket_of(hash, self.buckets()), bucket);
                    assert!(seen.insert(entry), "an entry is linked twice");
                }
                line = at.tags().link().map(|number| table.overflow_line(number));
                let is_cut =
                    line.is_none_or(|line| !line.is_empty() || line.tags().link().is_some());
                assert!(is_cut, "the last line is one without entries");
            }
        }
        assert_eq!(seen.len(), self.len());
        assert_eq!(lines, self.buckets() + self.overflow_lines());
        seen
    }
}

/// How badly hashes collide: not at all, in the tag, in the bucket, in both.
fn hash_of(kind: u8, key: u64) -> u64 {
    let spread = key.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    match kind {
        0 => spread,
        1 => spread >> 8,
        2 => spread >> 56 << 56 | 7,
        _ => 0,
    }
}

proptest! {
    #[test]
    fn behaves_as_a_map(kind in 0u8..4, is_far: bool, steps in vec((0u64..80, any::<bool>(), 0usize..9), 1..400)) {
        let mut writer = if is_far { Writer::new(Range::NONE) } else { new_writer() };
        let mut model = HashMap::new();
        for (key, is_insert, merges) in steps {
            let hash = hash_of(kind, key);
            let is_it = |entry| key_of(entry) == key;
            let old = if is_insert {
                let entry = new_entry(hash, key);
                let old = writer.insert(entry, hash, is_it);
                prop_assert_eq!(old, model.insert(key, entry));
                old
            } else {
                let old = writer.remove(hash, is_it);
                prop_assert_eq!(old, model.remove(&key));
                old
            };
            old.into_iter().for_each(free);
            writer.shrink(merges);
            prop_assert_eq!(writer.validate(), model.values().copied().collect());
        }
        let guard = Guard::enter();
        for key in 0..80 {
            let (hash, is_it) = (hash_of(kind, key), |entry| key_of(entry) == key);
            prop_assert_eq!(writer.table().find(guard.slot(), hash, is_it), model.get(&key).copied());
        }
        drop(guard);
        writer.for_each(free);
    }
}

#[test]
fn a_table_that_has_become_too_large_shrinks_and_grows_again() {
    let mut writer = new_writer();
    for round in 0..3 {
        for key in 0..90_000 {
            let hash = hash_of(0, key);
            writer.insert(new_entry(hash, key), hash, |_| false);
        }
        let (grown, bytes) = (writer.buckets(), writer.bytes());
        assert!(grown >= 90_000 / GROW_AT);
        let remove = |writer: &mut Writer, key| {
            let removed = writer.remove(hash_of(0, key), |entry| key_of(entry) == key);
            free(removed.expect("it is there"));
        };
        (0..89_900).for_each(|key| remove(&mut writer, key));
        writer.begin_walk();
        writer.shrink(usize::MAX);
        assert_eq!(writer.buckets(), grown, "while somebody walks");
        writer.end_walk();
        writer.shrink(usize::MAX);
        assert!(writer.buckets() <= 100 / SHRINK_AT, "round {round}");
        assert!(writer.bytes() < bytes * 2 / 3, "round {round}");
        assert_eq!(writer.validate().len(), 100);
        (89_900..90_000).for_each(|key| remove(&mut writer, key));
    }
}

/// Clearing the places before the new shape is announced makes this fail; so does a reader that does not look at the
/// shape again, or that takes a bucket for the same that was merged and split again meanwhile.
#[test]
fn readers_never_miss_what_is_there_while_the_table_grows_and_shrinks() {
    reclaim::prepare();
    const STAYS: u64 = 32;
    let mut writer = new_writer();
    let table = writer.table().clone();
    for key in 0..STAYS {
        let hash = hash_of(0, key);
        writer.insert(new_entry(hash, key), hash, |_| false);
    }
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    for key in 0..STAYS {
                        let guard = Guard::enter();
                        let is_it = |entry| key_of(entry) == key;
                        let found = table.find(guard.slot(), hash_of(0, key), is_it);
                        assert!(found.is_some(), "key {key} was missed");
                    }
                }
            });
        }
        let mut retired = Vec::new();
        for _round in 0..200 {
            for key in STAYS..STAYS + 200 {
                let hash = hash_of(0, key);
                writer.insert(new_entry(hash, key), hash, |_| false);
            }
            for key in STAYS..STAYS + 200 {
                retired.extend(writer.remove(hash_of(0, key), |entry| key_of(entry) == key));
            }
            writer.shrink(usize::MAX);
            // SAFETY: unlinked just now, and the list has the table's references.
            unsafe { reclaim::sweep(&mut retired, free, |_| ()) }
        }
        is_over.store(true, Ordering::Relaxed);
        while !retired.is_empty() {
            // SAFETY: as above.
            unsafe { reclaim::sweep(&mut retired, free, |_| ()) }
        }
    });
    writer.validate();
    writer.for_each(free);
}

#[test]
fn a_split_moves_a_hash_to_the_new_bucket_or_not_at_all() {
    for key in 0..1000 {
        let hash = hash_of(0, key);
        for buckets in FIRST_SEGMENT..300 {
            let at = |buckets| bucket_of(hash as u32, buckets);
            let (before, after) = (at(buckets), at(buckets + 1));
            assert!(before < buckets);
            assert!(after == before || after == buckets);
        }
    }
}

/// Clearing the old words before the new count is announced, in `Writer::split`, makes this fail; so does a reader
/// that does not look at the count again.
#[test]
fn readers_never_miss_what_is_there_while_the_table_grows() {
    reclaim::prepare();
    const STAYS: u64 = 32;
    for round in 0..20u64 {
        let mut writer = new_writer();
        let table = writer.table().clone();
        for key in 0..STAYS {
            let hash = hash_of(0, key);
            writer.insert(new_entry(hash, key), hash, |_| false);
        }
        let grown = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !grown.load(Ordering::Relaxed) {
                        for key in 0..STAYS {
                            let guard = Guard::enter();
                            let is_it = |entry| key_of(entry) == key;
                            let found = table.find(guard.slot(), hash_of(0, key), is_it);
                            assert!(found.is_some(), "key {key} was missed");
                        }
                    }
                });
            }
            for key in STAYS..STAYS + 1500 + round {
                let hash = hash_of(0, key);
                writer.insert(new_entry(hash, key), hash, |_| false);
            }
            grown.store(true, Ordering::Relaxed);
        });
        writer.validate();
        writer.for_each(free);
    }
}
