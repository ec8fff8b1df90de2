use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::engine::arena::Range;
use crate::engine::entry::{Handle, Typed};
use crate::engine::reclaim;
use crate::engine::table::bucket_of;
use crate::engine::table::segments::FIRST as FIRST_SEGMENT;
use crate::engine::table::writer::{Writer, parent_of};

type Entry = Handle<Typed<u64, u64>>;

fn new_entry(hash: u64, key: u64) -> NonNull<Header> {
    Entry::lone(hash, key, key).into_raw()
}

fn free(entry: NonNull<Header>) {
    // SAFETY: the reference that `new_entry` gave away; each is taken back once.
    drop(unsafe { Entry::from_raw(entry) });
}

fn key_of(entry: NonNull<Header>) -> u64 {
    // SAFETY: all entries of these tests are of this body, and alive while they are linked.
    unsafe { *Typed::<u64, u64>::key_at(entry) }
}

fn hash_of(key: u64) -> u64 {
    key.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn insert(writer: &mut Writer, key: u64) {
    let hash = hash_of(key);
    let old = writer.insert(new_entry(hash, key), hash, |entry| key_of(entry) == key);
    assert!(old.is_none());
}

#[test]
fn a_depth_is_the_bits_that_a_bucket_has_in_common() {
    for buckets in FIRST_SEGMENT..300 {
        for hash in (0..16).map(|number| hash_of(number) as u32) {
            let bucket = bucket_of(hash, buckets);
            let depth = depth_of(bucket, buckets);
            // Bits above the depth change nothing, the highest one below it does.
            assert_eq!(bucket_of(hash ^ 1 << depth, buckets), bucket);
            assert_ne!(bucket_of(hash ^ 1 << (depth - 1), buckets), bucket);
            assert!((0..buckets).all(|other| {
                let depth = depth_of(other, buckets);
                is_in(hash, other, depth) == (other == bucket)
            }));
        }
    }
}

#[test]
fn a_walk_comes_by_each_bucket_once() {
    for buckets in FIRST_SEGMENT..300 {
        let mut walked = vec![false; buckets];
        let mut position = Some(Position::START);
        while let Some(at) = position {
            let bucket = bucket_of(at.hash(), buckets);
            assert!(!std::mem::replace(&mut walked[bucket], true));
            position = Position::behind(bucket, depth_of(bucket, buckets));
        }
        assert!(walked.into_iter().all(|is_walked| is_walked));
    }
}

proptest! {
    /// The table grows and shrinks between the steps of a walk.
    #[test]
    fn what_stays_is_seen_once_and_nothing_twice(
        stay in 0u64..100,
        at_first in 0u64..200,
        steps in proptest::collection::vec((0u64..40, 0usize..40, any::<bool>()), 0..60),
    ) {
        let mut writer = Writer::new(Range::NONE);
        let table = writer.table().clone();
        (0..stay + at_first).for_each(|key| insert(&mut writer, key));
        let mut goes: Vec<_> = (stay..stay + at_first).collect();
        let mut seen = HashMap::new();
        let (mut next_key, mut steps) = (stay + at_first, steps.into_iter());
        let (mut found, mut position) = (Vec::new(), Some(Position::START));
        while let Some(at) = position {
            position = table.scan(at, &mut found, key_of);
            found.iter().for_each(|&key| *seen.entry(key).or_insert(0) += 1);
            let (count, merges, grows) = steps.next().unwrap_or_default();
            for _ in 0..count {
                if grows {
                    insert(&mut writer, next_key);
                    goes.push(next_key);
                    next_key += 1;
                } else if let Some(key) = goes.pop() {
                    let removed = writer.remove(hash_of(key), |entry| key_of(entry) == key);
                    free(removed.unwrap());
                }
            }
            writer.shrink(merges);
        }
        prop_assert!((0..stay).all(|key| seen.contains_key(&key)));
        prop_assert!(seen.values().all(|&times| times == 1));
        writer.for_each(free);
    }
}

/// Between the announcement of a new bucket and the clearing of the old places, in `Writer::split`.
#[test]
fn an_entry_that_is_in_two_buckets_is_seen_in_its_own() {
    let mut writer = Writer::new(Range::NONE);
    let table = writer.table().clone();
    (0..500).for_each(|key| insert(&mut writer, key));
    let last = writer.buckets() - 1;
    let old = parent_of(last);
    let moved: Vec<_> = writer.bucket(last).collect();
    assert!(!moved.is_empty());
    moved.iter().for_each(|entry| writer.put(old, *entry));

    let (mut seen, mut found, mut position) = (Vec::new(), Vec::new(), Some(Position::START));
    while let Some(at) = position {
        position = table.scan(at, &mut found, key_of);
        seen.append(&mut found);
    }
    seen.sort();
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
    let copies = table.entries(old).filter(|at| moved.contains(&at.entry));
    copies.for_each(|copy| copy.clear());
    writer.for_each(free);
}

/// Leaving out the second look at the count, in `Table::scan`, makes this fail.
#[test]
fn walks_miss_nothing_while_another_thread_makes_the_table_grow() {
    reclaim::prepare();
    const STAYS: u64 = 64;
    for round in 0..10u64 {
        let mut writer = Writer::new(Range::NONE);
        let table = writer.table().clone();
        (0..STAYS).for_each(|key| insert(&mut writer, key));
        let is_grown = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_grown.load(Ordering::Relaxed) {
                        let (mut found, mut position) = (Vec::new(), Some(Position::START));
                        let mut times = vec![0; STAYS as usize];
                        while let Some(at) = position {
                            position = table.scan(at, &mut found, key_of);
                            let stays = found.iter().filter(|key| **key < STAYS);
                            stays.for_each(|&key| times[key as usize] += 1);
                        }
                        assert!(times.iter().all(|&times| times == 1), "{times:?}");
                    }
                });
            }
            (STAYS..STAYS + 2000 + round).for_each(|key| insert(&mut writer, key));
            is_grown.store(true, Ordering::Relaxed);
        });
        writer.for_each(free);
    }
}
