//! The table under the model checker, see [`super::super::sync::model`]: one writer, readers that must find what is
//! there all the while, and entries that say when they are read after they were freed.
//!
//! Bugs that were planted by hand are found, each by the test that names it.

use super::line::PLACES;
use super::segments::FIRST as FIRST_SEGMENT;
use super::writer::GROW_AT;
use super::*;
use crate::engine::entry::Typed;
use crate::engine::reclaim::Guard;
use crate::engine::reclaim::model::{Garbage, begin, new_entry, reader, value};
use crate::engine::sync::model::plain::Plain;
use crate::engine::sync::model::{check, choose};

fn key_of(entry: NonNull<Header>) -> u64 {
    // SAFETY: all entries of the models are of this body; protected, or linked.
    unsafe { *Typed::<u64, Plain>::key_at(entry) }
}

/// Keys that are a multiple of `FIRST_SEGMENT` share the first bucket. Every second one has the tag of another.
fn hash_of(key: u64) -> u64 {
    (key / 2 + 1) << 56 | key
}

fn insert(writer: &mut Writer, key: u64) -> Option<NonNull<Header>> {
    let hash = hash_of(key);
    writer.insert(new_entry(hash, key), hash, |entry| key_of(entry) == key)
}

fn remove(writer: &mut Writer, key: u64) -> NonNull<Header> {
    let removed = writer.remove(hash_of(key), |entry| key_of(entry) == key);
    removed.expect("the key was there")
}

/// Reads a key's value; whether it was found.
fn read(table: &Table, key: u64) -> bool {
    let guard = Guard::enter();
    let found = table.find(guard.slot(), hash_of(key), |entry| {
        value(entry).read();
        key_of(entry) == key
    });
    found.inspect(|&entry| value(entry).read()).is_some()
}

fn must_read(table: &Table, key: u64) {
    assert!(read(table, key), "key {key} was missed");
}

fn writer_with(keys: impl IntoIterator<Item = u64>) -> Writer {
    begin();
    let ranges = [Range::NONE, Range::around_heap()];
    let mut writer = Writer::new(ranges[choose(2)]);
    for key in keys {
        assert!(insert(&mut writer, key).is_none());
    }
    writer
}

fn end(writer: Writer, mut garbage: Garbage) {
    writer.for_each(|entry| garbage.retire(entry));
    drop(writer);
    garbage.end();
}

/// Entries that make a table of `buckets` as full as it may be.
fn full(buckets: usize) -> u64 {
    (buckets * GROW_AT) as u64
}

/// Planted: `split` clears the old places before it announces the new bucket, or clears them or their tags with
/// `Relaxed`; `find` does not look at the count again, or loads tags with `Relaxed`. All: "key 2 was missed". `split`
/// announces with `Relaxed`: a segment that is null.
#[test]
fn what_a_split_moves_is_always_found() {
    check(|| {
        let last = full(FIRST_SEGMENT);
        let mut writer = writer_with(0..last);
        assert_eq!(writer.buckets(), FIRST_SEGMENT);
        let readers = [[2, 3], [6, 2]].map(|keys| {
            let table = writer.table().clone();
            reader(move || keys.map(|key| must_read(&table, key)))
        });
        insert(&mut writer, last);
        assert!(writer.buckets() > FIRST_SEGMENT);
        for reader in readers {
            reader.join();
        }
        end(writer, Garbage::default());
    });
}

/// Planted: the link is stored with `Relaxed`, or the word that it stands in is loaded so: an entry of the line behind it
/// is missed, or read while it may still be written.
#[test]
fn what_moves_to_an_overflow_line_is_always_found() {
    check(|| {
        let in_one_bucket = (0..PLACES as u64).map(|index| index * 2);
        let mut writer = writer_with(in_one_bucket);
        let readers = [12, 10].map(|key| {
            let table = writer.table().clone();
            reader(move || {
                must_read(&table, key);
                read(&table, PLACES as u64 * 2);
            })
        });
        insert(&mut writer, PLACES as u64 * 2);
        assert_eq!(writer.overflow_lines(), 1);
        for reader in readers {
            reader.join();
        }
        end(writer, Garbage::default());
    });
}

/// Planted: as above; "key 14 was missed".
#[test]
fn what_a_split_takes_out_of_an_overflow_line_is_always_found() {
    check(|| {
        let last = full(FIRST_SEGMENT);
        let mut writer = writer_with((0..last).map(|index| index * 2));
        assert_eq!(writer.overflow_lines(), 1);
        let readers = [[14, 12], [2, 14]].map(|keys| {
            let table = writer.table().clone();
            reader(move || keys.map(|key| must_read(&table, key)))
        });
        insert(&mut writer, 1);
        assert!(writer.buckets() > FIRST_SEGMENT);
        for reader in readers {
            reader.join();
        }
        end(writer, Garbage::default());
    });
}

/// Planted: `reshape` clears the old places before it announces the new shape; `find` does not look at the shape again,
/// or does not look at how often buckets were merged. All: "key 2 was missed".
#[test]
fn what_a_merge_moves_and_a_split_moves_back_is_always_found() {
    check(|| {
        let last = full(FIRST_SEGMENT) + 1;
        let mut writer = writer_with(0..last);
        assert_eq!(writer.buckets(), FIRST_SEGMENT + 1);
        let mut garbage = Garbage::default();
        for key in [0, 4, 5, 7, 8] {
            garbage.retire(remove(&mut writer, key));
        }
        let readers = [[2, 6], [6, 2]].map(|keys| {
            let table = writer.table().clone();
            reader(move || keys.map(|key| must_read(&table, key)))
        });
        writer.shrink(1);
        assert_eq!(writer.buckets(), FIRST_SEGMENT);
        for key in 0..5 {
            insert(&mut writer, 101 + 2 * key);
        }
        assert_eq!(writer.buckets(), FIRST_SEGMENT + 1);
        for reader in readers {
            reader.join();
        }
        end(writer, garbage);
    });
}

/// Planted: `insert` or `put` stores an entry with `Relaxed`: "read while it may still be written". `insert` clears its
/// predecessor's place before it stores; `find` does not look again at a place that has changed. Both: "key 2 was
/// missed". What is removed loses its tag only: "freed twice". `find` does not look at the place again after it announced
/// what was there, or `protect` not at what the number of an entry outside of the range stands for: "read after it was
/// freed".
#[test]
fn what_is_replaced_is_always_found_and_what_leaves_is_not_freed_too_soon() {
    check(|| {
        let mut writer = writer_with(0..6);
        let readers = [[2, 3], [4, 2]].map(|[stays, goes]| {
            let table = writer.table().clone();
            reader(move || {
                must_read(&table, stays);
                read(&table, goes);
                read(&table, 3);
            })
        });
        let mut garbage = Garbage::default();
        garbage.retire(insert(&mut writer, 2).expect("key 2 was there"));
        garbage.retire(remove(&mut writer, 3));
        garbage.sweep();
        assert!(insert(&mut writer, 3).is_none());
        garbage.retire(insert(&mut writer, 4).expect("key 4 was there"));
        garbage.sweep();
        for reader in readers {
            reader.join();
        }
        end(writer, garbage);
    });
}

/// All that a writer does, beside a reader that always finds what stays.
///
/// Planted: the number of an entry outside of the range is given back before its place has another: readers look for ever.
#[test]
fn what_stays_is_found_while_all_else_changes() {
    check(|| {
        let last = full(FIRST_SEGMENT);
        let mut writer = writer_with(0..last);
        let readers = [2, 6].map(|stays| {
            let table = writer.table().clone();
            reader(move || {
                for goes in [4, 0] {
                    must_read(&table, stays);
                    read(&table, goes);
                }
            })
        });
        let mut garbage = Garbage::default();
        garbage.retire(remove(&mut writer, 0));
        for key in last..last + 4 {
            insert(&mut writer, key);
        }
        garbage.retire(insert(&mut writer, 2).expect("key 2 was there"));
        let mut first_bucket = writer.bucket(0);
        let four = first_bucket.find(|entry| key_of(*entry) == 4);
        drop(first_bucket);
        let four = four.expect("key 4 was there");
        writer.unlink(four);
        garbage.retire(four);
        garbage.sweep();
        for reader in readers {
            reader.join();
        }
        end(writer, garbage);
    });
}
