//! Locks with the face of `parking_lot`'s. A deadline is a coin that the checker tosses.

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{choose, memory, switch};

pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// None while the guard's thread waits.
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.acquire();
        MutexGuard {
            mutex: self,
            held: Some(held),
        }
    }

    /// To the memory a lock is a word, swapped by who takes it and stored to by who gives it back.
    fn acquire(&self) {
        memory::with(|memory| {
            let place = memory.place(self.address(), 0);
            memory.note(self.address(), true);
            let _ = memory.update(place, Ordering::Acquire, Ordering::Acquire, |_| Some(1));
        });
    }

    fn release(&self) {
        memory::with(|memory| {
            let place = memory.place(self.address(), 0);
            memory.store(place, 0, Ordering::Release);
        });
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl<T> Drop for Mutex<T> {
    fn drop(&mut self) {
        memory::forget(self.address());
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("none only while it waits")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("none only while it waits")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.mutex.release();
    }
}

pub(crate) struct Condvar(shuttle::sync::Condvar);

pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub const fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        guard.mutex.release();
        let held = guard.held.take().expect("none only while it waits");
        guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
        guard.mutex.acquire();
    }

    /// Waits, or finds the deadline past: others may have come by meanwhile, but none of them has woken this thread.
    pub fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        _deadline: Instant,
    ) -> WaitTimeoutResult {
        let is_past = choose(2) == 0;
        if is_past {
            guard.mutex.release();
            guard.held = None;
            switch();
            let again = guard.mutex.0.lock();
            guard.held = Some(again.unwrap_or_else(PoisonError::into_inner));
            guard.mutex.acquire();
        } else {
            self.wait(guard);
        }
        WaitTimeoutResult(is_past)
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}
