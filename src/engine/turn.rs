//! A lock whose word also says what its holder must not miss when it gives the lock back.
//!
//! ```text
//! word    | flights are open | changes are queued | somebody sleeps | taken |
//! ```
//!
//! What is said in the word by others, and what the holder does when it is done, are read-modify-writes of one word. So
//! one of the two comes first: either the holder sees what was said, and stays to see to it, or who says it sees that
//! the turn has ended, and all that was done in it. That takes no fence, and a turn that nobody says anything in begins
//! with one exchange and ends with one.

use std::cell::UnsafeCell;
use std::ops::{BitOr, Deref, DerefMut};
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::sync::{AtomicUsize, Condvar, Mutex, Ordering};

/// How often somebody looks whether the turn is free before he sleeps: it is held for a microsecond, and then what makes
/// it last is mostly that its holder does not run.
const TRIES: usize = 64;

/// What the word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Signals(usize);

impl Signals {
    pub const NONE: Self = Self(0);
    const TAKEN: Self = Self(1);
    /// Somebody sleeps until the turn is given back.
    const SLEEPING: Self = Self(2);
    /// There are changes in the shard's queue.
    pub const QUEUED: Self = Self(4);
    /// Keys of the shard are being loaded.
    pub const FLIGHTS: Self = Self(8);

    #[inline]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[inline]
    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Signals {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The word, and those who sleep for the turn.
pub(crate) struct Turn {
    word: CachePadded<AtomicUsize>,
    sleepers: Mutex<()>,
    given_back: Condvar,
}

impl Turn {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            word: CachePadded::new(AtomicUsize::new(0)),
            sleepers: Mutex::new(()),
            given_back: Condvar::new(),
        })
    }

    /// Says something to whoever has the turn, who will not give it back unseen; false: nobody has it.
    pub fn say(&self, signal: Signals) -> bool {
        // Release: what it is about is seen by the holder. Acquire: if there is none, all that was done in turns is seen.
        let before = Signals(self.word.fetch_or(signal.0, Ordering::AcqRel));
        before.has(Signals::TAKEN)
    }

    /// Takes back what was said.
    pub fn unsay(&self, signal: Signals) {
        // Acquire: what was said once more before is seen to from here on.
        self.word.fetch_and(!signal.0, Ordering::AcqRel);
    }

    /// Whether it is being said; up to date for who says and unsays it under a lock.
    #[inline]
    pub fn is_said(&self, signal: Signals) -> bool {
        self.said().has(signal)
    }

    #[inline]
    fn said(&self) -> Signals {
        Signals(self.word.load(Ordering::Relaxed))
    }

    #[inline]
    fn try_take(&self) -> bool {
        let mut seen = self.said();
        while !seen.has(Signals::TAKEN) {
            let taken = seen | Signals::TAKEN;
            match self.word.compare_exchange_weak(
                seen.0,
                taken.0,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = Signals(now),
            }
        }
        false
    }

    #[cold]
    fn wait(&self) {
        if !cfg!(all(test, corecache_model)) && self.try_often() {
            return;
        }
        while !self.try_take() {
            let mut sleepers = self.sleepers.lock();
            // Who gives the turn back after this waits for the lock, and so for this thread to sleep.
            if self.say(Signals::SLEEPING) {
                self.given_back.wait(&mut sleepers);
            }
        }
    }

    fn try_often(&self) -> bool {
        (0..TRIES).any(|tries| {
            if tries < TRIES / 2 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
            self.try_take()
        })
    }

    /// Gives the turn back, unless something is said that is not in `known`: that is returned.
    #[inline]
    fn try_give_back(&self, known: Signals) -> Result<(), Signals> {
        let mut seen = self.said();
        loop {
            let given_back = seen.without(Signals::TAKEN | Signals::SLEEPING);
            let news = given_back.without(known);
            if news != Signals::NONE {
                return Err(news);
            }
            // Release: who takes the turn next, or says something, sees what was done in this one.
            match self.word.compare_exchange(
                seen.0,
                given_back.0,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => seen = Signals(now),
            }
        }
        if seen.has(Signals::SLEEPING) {
            self.wake_sleepers();
        }
        Ok(())
    }

    #[cold]
    fn wake_sleepers(&self) {
        drop(self.sleepers.lock());
        self.given_back.notify_all();
    }
}

/// What only the holder of a turn may touch. Padded, so that it begins where a cache line does.
#[repr(C)]
pub(crate) struct InTurn<T> {
    what: CachePadded<UnsafeCell<T>>,
    turn: Arc<Turn>,
}

// SAFETY: `what` is reached by the one holder of the turn alone, over a [`Holder`], on one thread after the other.
unsafe impl<T: Send> Sync for InTurn<T> {}

impl<T> InTurn<T> {
    pub fn new(turn: Arc<Turn>, what: T) -> Self {
        Self {
            turn,
            what: CachePadded::new(UnsafeCell::new(what)),
        }
    }

    #[inline]
    pub fn turn(&self) -> &Turn {
        &self.turn
    }

    /// Takes the turn, unless somebody has it.
    #[inline]
    pub fn try_take(&self) -> Option<Holder<'_, T>> {
        self.turn.try_take().then(|| Holder { of: self })
    }

    /// Waits for the turn.
    #[inline]
    pub fn take(&self) -> Holder<'_, T> {
        if !self.turn.try_take() {
            self.turn.wait();
        }
        Holder { of: self }
    }
}

/// Who has the turn.
pub(crate) struct Holder<'a, T> {
    of: &'a InTurn<T>,
}

impl<T> Holder<'_, T> {
    /// Ends the turn, unless something is said that is not in `known`: that is returned, and the turn goes on.
    #[inline]
    pub fn end(self, known: Signals) -> Result<(), (Self, Signals)> {
        match self.of.turn.try_give_back(known) {
            Ok(()) => {
                std::mem::forget(self);
                Ok(())
            }
            Err(news) => Err((self, news)),
        }
    }
}

impl<T> Drop for Holder<'_, T> {
    /// By a panic, in the midst of a turn: what is said is left to the next one.
    fn drop(&mut self) {
        let all = Signals::QUEUED | Signals::FLIGHTS;
        let _ = self.of.turn.try_give_back(all);
    }
}

impl<T> Deref for Holder<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the turn is ours, and with it `what`, until `end` or our drop.
        unsafe { &*self.of.what.get() }
    }
}

impl<T> DerefMut for Holder<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.of.what.get() }
    }
}
