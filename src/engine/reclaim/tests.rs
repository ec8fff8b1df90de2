use std::sync::mpsc::channel;
use std::thread;

use super::*;
use crate::engine::entry::{Handle, Typed};

type Entry = Handle<Typed<u64, u64>>;

fn retired_entry() -> NonNull<Header> {
    Entry::lone(0, 0, 0).into_raw()
}

fn swept(retired: &mut Vec<NonNull<Header>>) -> usize {
    let mut freed = 0;
    // SAFETY: the entries of these tests are in no table, and the list has their only raw reference.
    unsafe {
        let free = |entry| {
            freed += 1;
            drop(Entry::from_raw(entry));
        };
        sweep(retired, free, |_| ());
    }
    freed
}

/// A place that holds `entry`, as a table's would.
fn place_of(entry: NonNull<Header>) -> AtomicPtr<Header> {
    AtomicPtr::new(entry.as_ptr())
}

/// Whether the entry is still at its place after it was announced.
fn protect(guard: &Guard, entry: NonNull<Header>, place: &AtomicPtr<Header>) -> bool {
    guard.slot().announce(entry);
    place.load(Ordering::Acquire) == entry.as_ptr()
}

#[test]
fn what_a_guard_announces_is_kept_until_it_ends() {
    prepare();
    let entry = retired_entry();
    let place = place_of(entry);
    let guard = Guard::enter();
    assert!(protect(&guard, entry, &place));
    let mut retired = vec![retired_entry(), entry, retired_entry()];
    assert_eq!(
        swept(&mut retired),
        2,
        "a borrow keeps what it borrows, and no other"
    );
    assert_eq!(retired, [entry]);
    drop(guard);
    assert_eq!(swept(&mut retired), 1);
}

#[test]
fn what_another_thread_announces_is_kept_until_it_moves_on() {
    prepare();
    let (announced, is_announced) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let reader = thread::spawn(move || {
        let entry = retired_entry();
        let place = place_of(entry);
        let guard = Guard::enter();
        assert!(protect(&guard, entry, &place));
        announced.send(entry.as_ptr() as usize).unwrap();
        may_go_on.recv().unwrap();
    });
    let address = is_announced.recv().unwrap() as *mut Header;
    let mut retired = vec![NonNull::new(address).unwrap()];
    assert_eq!(swept(&mut retired), 0);
    go_on.send(()).unwrap();
    reader.join().unwrap();
    assert_eq!(swept(&mut retired), 1);
}

#[test]
fn a_guard_does_not_protect_what_has_left_its_place() {
    let entry = retired_entry();
    let place = place_of(entry);
    place.store(ptr::null_mut(), Ordering::Release);
    assert!(!protect(&Guard::enter(), entry, &place));
    assert_eq!(swept(&mut vec![entry]), 1);
}

#[test]
fn what_is_counted_is_kept_until_it_is_given_back() {
    let entry = retired_entry();
    // SAFETY: alive, by the reference in `entry`.
    let counted = unsafe { Entry::acquire(entry) };
    let mut retired = vec![entry];
    assert_eq!(swept(&mut retired), 0);
    drop(counted);
    assert_eq!(swept(&mut retired), 1);
}

#[test]
fn guards_nest_deeper_than_there_are_slots() {
    let entries: Vec<_> = (0..3 * SLOTS).map(|_| retired_entry()).collect();
    let mut guards = Vec::new();
    for &entry in &entries {
        let place = place_of(entry);
        let guard = Guard::enter();
        assert!(protect(&guard, entry, &place));
        guards.push(guard);
    }
    let mut retired = entries.clone();
    assert_eq!(swept(&mut retired), 0);
    while guards.pop().is_some() {
        assert_eq!(swept(&mut retired), 1);
    }
    assert_eq!(
        Guard::enter().slot().announced.load(Ordering::Relaxed),
        ptr::null_mut()
    );
}

#[test]
fn what_panics_while_it_is_freed_is_off_the_list() {
    let mut retired = vec![retired_entry(), retired_entry()];
    let first = retired[0];
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // SAFETY: as in `swept`.
        unsafe { sweep(&mut retired, |_| panic!("on purpose"), |_| ()) }
    }));
    assert!(outcome.is_err());
    assert!(!retired.contains(&first));
    assert_eq!(swept(&mut retired), 1);
    assert_eq!(swept(&mut vec![first]), 1);
}

/// Records are taken again. Other tests of this process run beside this one and take some too, far fewer.
#[test]
fn threads_that_come_and_go_share_records() {
    let before = RECORD_COUNT.load(Ordering::Relaxed);
    for _ in 0..2500 {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| drop(Guard::enter()));
            }
        });
    }
    let grown = RECORD_COUNT.load(Ordering::Relaxed) - before;
    assert!(
        grown < 500,
        "10000 threads, four at a time, took {grown} records"
    );
}

#[test]
fn a_destructor_of_a_thread_can_still_read() {
    struct ReadsAtExit;
    impl Drop for ReadsAtExit {
        fn drop(&mut self) {
            let entry = retired_entry();
            let outer = Guard::enter();
            outer.slot().announce(entry);
            let inner = Guard::enter();
            assert!(!ptr::eq(outer.slot, inner.slot));
            drop((outer, inner));
            assert_eq!(swept(&mut vec![entry]), 1);
        }
    }
    std::thread_local!(static LAST: ReadsAtExit = const { ReadsAtExit });
    for reads_before in [false, true] {
        let thread = thread::spawn(move || {
            LAST.with(|_| ());
            if reads_before {
                drop(Guard::enter());
            }
        });
        thread.join().unwrap();
    }
}
