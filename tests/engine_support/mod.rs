//! What several engine tests share: a bound on how long a test may hang, and values that are counted.
#![allow(dead_code, reason = "each test file uses its part")]

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Runs `test` on a thread of its own and fails if it is not over in five minutes: a deadlock is to be seen as one.
pub fn without_deadlock<R: Send + 'static>(test: impl FnOnce() -> R + Send + 'static) -> R {
    let (over, is_over) = channel::<()>();
    let thread = thread::spawn(move || {
        let _over = over;
        test()
    });
    match is_over.recv_timeout(Duration::from_secs(300)) {
        Err(RecvTimeoutError::Timeout) => panic!("still not over after five minutes: a deadlock"),
        _ => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
    }
}

/// Sets a flag when it goes, also by a failed assertion: those who wait for it would hide the failure.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Counts values that are alive, and notices one that is used after its drop or dropped twice.
#[derive(Clone, Default)]
pub struct Census(Arc<AtomicIsize>);

impl Census {
    pub fn alive(&self) -> isize {
        self.0.load(Ordering::SeqCst)
    }

    pub fn value(&self, number: u64) -> Counted {
        self.0.fetch_add(1, Ordering::SeqCst);
        Counted {
            number,
            check: Box::new(!number),
            is_alive: AtomicBool::new(true),
            census: self.clone(),
        }
    }
}

pub struct Counted {
    number: u64,
    check: Box<u64>,
    is_alive: AtomicBool,
    census: Census,
}

impl Counted {
    /// The value's number, after a check that it is whole.
    pub fn number(&self) -> u64 {
        assert!(self.is_alive.load(Ordering::SeqCst), "used after its drop");
        assert_eq!(*self.check, !self.number, "a torn value");
        self.number
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.census.value(self.number())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let was_alive = self.is_alive.swap(false, Ordering::SeqCst);
        assert!(was_alive, "dropped twice");
        self.census.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A stream of numbers that a seed determines (splitmix64, S. Vigna).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
