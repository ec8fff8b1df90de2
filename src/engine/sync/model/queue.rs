//! crossbeam's bounded queue, as far as the memory knows it: two counters, with the orderings that crossbeam has.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::atomic::{AtomicUsize, fence};
use crate::engine::sync::Ordering::{Acquire, Relaxed, SeqCst};

pub(crate) struct ArrayQueue<T> {
    pushed: AtomicUsize,
    popped: AtomicUsize,
    capacity: usize,
    /// Never waited for: no other thread goes on between a counter and this.
    items: Mutex<VecDeque<T>>,
}

impl<T> ArrayQueue<T> {
    pub fn new(capacity: usize) -> Self {
        Self {
            pushed: AtomicUsize::new(0),
            popped: AtomicUsize::new(0),
            capacity,
            items: Mutex::default(),
        }
    }

    pub fn push(&self, item: T) -> Result<(), T> {
        loop {
            let pushed = self.pushed.load(Relaxed);
            if pushed >= self.popped.load(Acquire) + self.capacity {
                fence(SeqCst);
                if pushed == self.popped.load(Relaxed) + self.capacity {
                    return Err(item);
                }
                continue;
            }
            let taken = self
                .pushed
                .compare_exchange(pushed, pushed + 1, SeqCst, Relaxed);
            if taken.is_ok() {
                let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
                items.push_back(item);
                return Ok(());
            }
        }
    }

    pub fn pop(&self) -> Option<T> {
        loop {
            let popped = self.popped.load(Relaxed);
            if self.pushed.load(Acquire) <= popped {
                fence(SeqCst);
                if self.pushed.load(Relaxed) == popped {
                    return None;
                }
                continue;
            }
            let taken = self
                .popped
                .compare_exchange(popped, popped + 1, SeqCst, Relaxed);
            if taken.is_ok() {
                let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
                return Some(items.pop_front().expect("what is counted is there"));
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        let popped = self.popped.load(SeqCst);
        self.pushed.load(SeqCst) == popped
    }

    pub fn len(&self) -> usize {
        let popped = self.popped.load(SeqCst);
        self.pushed.load(SeqCst) - popped
    }
}
