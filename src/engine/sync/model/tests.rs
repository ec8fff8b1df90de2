//! The checker, checked: what the memory model allows is seen, what it forbids is not.

use std::sync::atomic::AtomicBool as Flag;

use super::atomic::{AtomicU64, compiler_fence, fence};
use super::lock::{Condvar, Mutex};
use super::plain::Plain;
use super::*;
use crate::engine::sync::Ordering::{self, Acquire, Relaxed, Release, SeqCst};

/// Whether some execution of `litmus` returns true.
fn can_be(litmus: impl Fn() -> bool + Send + Sync + 'static) -> bool {
    let seen = Arc::new(Flag::new(false));
    let found = seen.clone();
    check(move || {
        if litmus() {
            found.store(true, Relaxed);
        }
    });
    seen.load(Relaxed)
}

/// A message is written, then announced: whether the announcement can be seen without the message.
fn message_is_missed(write: Ordering, read: Ordering) -> bool {
    can_be(move || {
        let words = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let writer = {
            let words = words.clone();
            spawn(move || {
                words[0].store(1, Relaxed);
                words[1].store(1, write);
            })
        };
        let is_missed = words[1].load(read) == 1 && words[0].load(Relaxed) == 0;
        writer.join();
        is_missed
    })
}

#[test]
fn a_message_is_passed_by_release_and_acquire_only() {
    assert!(!message_is_missed(Release, Acquire));
    assert!(!message_is_missed(SeqCst, SeqCst));
    assert!(message_is_missed(Relaxed, Acquire));
    assert!(message_is_missed(Release, Relaxed));
}

/// Each of two threads stores to a word of its own, fences, and looks at the other's: whether both can find nothing.
fn both_miss(one: fn(), other: fn()) -> bool {
    fn side(words: &[AtomicU64; 2], mine: usize, fence: fn()) -> u64 {
        words[mine].store(1, Release);
        fence();
        words[1 - mine].load(Acquire)
    }
    can_be(move || {
        let words = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let theirs = words.clone();
        let thread = spawn(move || side(&theirs, 1, other));
        let seen = side(&words, 0, one);
        seen == 0 && thread.join() == 0
    })
}

#[test]
fn store_buffers_are_drained_by_fences_on_both_sides_or_membarrier_on_one() {
    let light = || compiler_fence(SeqCst);
    let full = || fence(SeqCst);
    assert!(both_miss(light, light));
    assert!(both_miss(full, light));
    assert!(both_miss(full, || fence(Ordering::AcqRel)));
    assert!(!both_miss(full, full));
    assert!(!both_miss(light, membarrier::run));
}

#[test]
fn fences_pass_messages_for_relaxed_accesses() {
    let missed = can_be(|| {
        let words = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let theirs = words.clone();
        let writer = spawn(move || {
            theirs[0].store(1, Relaxed);
            fence(Release);
            theirs[1].store(1, Relaxed);
        });
        let is_announced = words[1].load(Relaxed) == 1;
        fence(Acquire);
        let is_missed = is_announced && words[0].load(Relaxed) == 0;
        writer.join();
        is_missed
    });
    assert!(!missed);
}

/// A word is written before a channel is found full: whether it can be missed by who receives what was in there.
fn what_a_full_channel_hides(fence: fn()) -> bool {
    can_be(move || {
        let word = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = channel::bounded(1);
        assert!(sender.try_send(()).is_ok());
        let theirs = word.clone();
        let writer = spawn(move || {
            theirs.store(1, Relaxed);
            sender.try_send(()).is_err()
        });
        assert!(receiver.recv().is_ok());
        fence();
        let is_missed = word.load(Relaxed) == 0;
        writer.join() && is_missed
    })
}

#[test]
fn who_finds_a_channel_full_is_seen_by_who_fences_after_it_has_received() {
    assert!(what_a_full_channel_hides(|| compiler_fence(SeqCst)));
    assert!(!what_a_full_channel_hides(|| fence(SeqCst)));
}

#[test]
#[should_panic(expected = "read after it was freed")]
fn what_is_used_after_it_was_freed_is_found() {
    check(|| {
        let shared = Arc::new((Plain::default(), AtomicU64::new(0)));
        let theirs = shared.clone();
        let reader = spawn(move || {
            if theirs.1.load(Acquire) == 1 {
                theirs.0.read();
            }
        });
        shared.0.free();
        shared.1.store(1, Release);
        reader.join();
    });
}

fn hand_over_plain(order: Ordering) {
    check(move || {
        let shared = Arc::new((Plain::written(), AtomicU64::new(0)));
        let theirs = shared.clone();
        let reader = spawn(move || {
            theirs.0.read();
            theirs.1.store(1, order);
        });
        if shared.1.load(Acquire) == 1 {
            shared.0.free();
        }
        reader.join();
    });
}

#[test]
fn what_is_freed_after_its_last_use_is_not_a_race() {
    hand_over_plain(Release);
}

#[test]
#[should_panic(expected = "freed while it may still be used")]
fn what_is_freed_without_order_is_a_race() {
    hand_over_plain(Relaxed);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_wake_up_that_is_lost_is_found() {
    check(|| {
        let pair = Arc::new((Mutex::new(false), Condvar::new()));
        let theirs = pair.clone();
        let waker = spawn(move || {
            *theirs.0.lock() = true;
            theirs.1.notify_one();
        });
        let is_set = *pair.0.lock();
        // Between the look and the wait the waker may come and go.
        if !is_set {
            pair.1.wait(&mut pair.0.lock());
        }
        waker.join();
    });
}
