//! Reclamation under the model checker, see [`super::super::sync::model`]: readers look at entries that the writer
//! unlinks and frees meanwhile. An entry's value tells when it is used after it was freed, or freed while it may be
//! used.
//!
//! Bugs that were planted by hand are found, each by the test that names it.

use std::sync::Arc;

use super::*;
use crate::engine::entry::{Handle, Typed};
use crate::engine::sync::model::plain::Plain;
use crate::engine::sync::model::{Joins, check, spawn};

pub(crate) type Entry = Handle<Typed<u64, Plain>>;

/// To be called first by each execution: forgets the records and the kind of fence of those before.
pub(crate) fn begin() {
    RECORDS.store(ptr::null_mut(), Ordering::SeqCst);
    RECORD_COUNT.store(0, Ordering::SeqCst);
    MEMBARRIER.store(UNKNOWN, Ordering::SeqCst);
    prepare();
    may_read();
}

/// The checker drops thread-locals in the order of their first use: this one before those that it looks at.
fn may_read() {
    AT_EXIT.with(|_| ());
}

/// A thread that may read.
pub(crate) fn reader<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Joins<T> {
    spawn(|| {
        may_read();
        f()
    })
}

pub(crate) fn new_entry(hash: u64, key: u64) -> NonNull<Header> {
    Entry::lone(hash, key, Plain::written()).into_raw()
}

/// The value of an entry, which is there until the execution ends, even if it counts as freed.
pub(crate) fn value<'a>(entry: NonNull<Header>) -> &'a Plain {
    // SAFETY: all entries of the models are of this body, and `Garbage::end` alone drops them.
    unsafe { Typed::<u64, Plain>::value_at(entry) }
}

/// What was unlinked, and what was freed of it.
#[derive(Default)]
pub(crate) struct Garbage {
    retired: Vec<NonNull<Header>>,
    freed: Vec<NonNull<Header>>,
}

impl Garbage {
    pub fn retire(&mut self, entry: NonNull<Header>) {
        self.retired.push(entry);
    }

    pub fn sweep(&mut self) {
        let freed = &mut self.freed;
        // SAFETY: unlinked by the models; freed here means that the value says so, the memory stays.
        unsafe {
            let free = |entry| {
                value(entry).free();
                freed.push(entry);
            };
            sweep(&mut self.retired, free, |_| ());
        }
    }

    /// To be called when no reader is left: all can be freed, and its memory is.
    pub fn end(mut self) {
        self.sweep();
        assert!(self.retired.is_empty(), "garbage that nobody holds is kept");
        for entry in self.freed {
            // SAFETY: the reference that `new_entry` gave away, taken back once.
            drop(unsafe { Entry::from_raw(entry) });
        }
    }
}

type Place = AtomicPtr<Header>;

/// A place of a table, with its entry.
fn place() -> Place {
    Place::new(new_entry(0, 0).as_ptr())
}

fn protect(guard: &Guard, entry: NonNull<Header>, place: &Place) -> bool {
    guard.slot().announce(entry);
    place.load(Ordering::Acquire) == entry.as_ptr()
}

/// Looks at the entry at a place, as `Table::find` does.
fn look<R>(guard: &Guard, place: &Place, f: impl FnOnce(NonNull<Header>) -> R) -> Option<R> {
    while let Some(entry) = NonNull::new(place.load(Ordering::Acquire)) {
        if protect(guard, entry, place) {
            return Some(f(entry));
        }
    }
    None
}

fn read(place: &Place) {
    look(&Guard::enter(), place, |entry| value(entry).read());
}

/// Unlinks what lies at a place, and puts another there, or none.
fn replace(place: &Place, by: Option<NonNull<Header>>, garbage: &mut Garbage) {
    let by = by.map_or(ptr::null_mut(), NonNull::as_ptr);
    let old = NonNull::new(place.load(Ordering::Relaxed));
    place.store(by, Ordering::Release);
    garbage.retire(old.expect("the place was not free"));
}

/// Planted: `protect` does not look at the place again; readers do not fence where there is no `membarrier`; the writer
/// does not call it where there is; `protect` or the guard's end stores to the slot with `Relaxed`; `sweep` loads slots
/// with `Relaxed`. All: "freed while it may still be used".
#[test]
fn what_a_reader_looks_at_is_not_freed() {
    check(|| {
        begin();
        let place = Arc::new(place());
        let readers = [(); 2].map(|()| {
            let place = place.clone();
            reader(move || {
                read(&place);
                read(&place);
            })
        });
        let mut garbage = Garbage::default();
        for _ in 0..2 {
            replace(&place, Some(new_entry(0, 0)), &mut garbage);
            garbage.sweep();
        }
        replace(&place, None, &mut garbage);
        garbage.sweep();
        for reader in readers {
            reader.join();
        }
        garbage.end();
    });
}

/// Planted: `sweep` looks at the references first and at the slots after; `is_unshared` loads with `Relaxed`. Both:
/// "freed while it may still be used".
#[test]
fn what_is_referred_to_is_not_freed() {
    check(|| {
        begin();
        let place = Arc::new(place());
        let shared = place.clone();
        let reader = reader(move || {
            let held = look(&Guard::enter(), &shared, |entry| {
                // SAFETY: protected by the guard.
                unsafe { Entry::acquire(entry) }
            });
            if let Some(held) = held {
                held.value().read();
            }
        });
        let mut garbage = Garbage::default();
        replace(&place, None, &mut garbage);
        garbage.sweep();
        reader.join();
        garbage.end();
    });
}

/// Planted: the guards of a thread share one slot: "read after it was freed". The guard that takes a record for itself
/// uses its thread's instead: "freed while it may still be used".
#[test]
fn guards_that_nest_protect_an_entry_each() {
    check(|| {
        begin();
        let places: Arc<Vec<Place>> = Arc::new((0..=SLOTS).map(|_| place()).collect());
        let shared = places.clone();
        let reader = reader(move || {
            let mut seen = Vec::new();
            for place in shared.iter() {
                let guard = Guard::enter();
                let entry = look(&guard, place, |entry| entry);
                seen.push((entry, guard));
            }
            while let Some((entry, guard)) = seen.pop() {
                entry.inspect(|&entry| value(entry).read());
                drop(guard);
            }
        });
        let mut garbage = Garbage::default();
        for place in places.iter() {
            replace(place, None, &mut garbage);
        }
        garbage.sweep();
        reader.join();
        garbage.end();
    });
}

/// Planted: a record that is given back is taken without a swap: "freed while it may still be used".
#[test]
fn records_that_are_handed_on_protect_as_well() {
    check(|| {
        begin();
        let place = Arc::new(place());
        let spawn_reader = || {
            let place = place.clone();
            reader(move || read(&place))
        };
        let first = [(); 2].map(|()| spawn_reader());
        for reader in first {
            reader.join();
        }
        let next = [(); 2].map(|()| spawn_reader());
        let mut garbage = Garbage::default();
        replace(&place, None, &mut garbage);
        garbage.sweep();
        for reader in next {
            reader.join();
        }
        let records = RECORD_COUNT.load(Ordering::Relaxed);
        assert!(records <= 2, "records are not handed on");
        garbage.end();
    });
}
