//! A shard and its turn: who has the turn is the shard's one writer.
//!
//! A change is made at once, on the thread that wants it, if it gets the turn. One that is not to wait is queued where
//! somebody else has the turn, and made by whoever has it before the turn ends. What nobody waits for is left to the
//! shard's own thread, its owner: sweeping what readers held, giving back the memory of what has expired, telling the
//! listener, and giving room to other shards. It sleeps until there is such work.
//!
//! ```text
//! thread                                      owner of the shard
//!   build the entry                             sleep
//!   take the turn ──────────────┐               woken, or it is time: take the turn
//!     what is queued, the change│                 sweep, patrol, give back
//!     (evict, publish, retire)  │               end the turn
//!   end the turn ───────────────┘               tell the listener
//!   free what nobody holds
//! ```
//!
//! Values are dropped, and the listener is called, without the turn.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::utils::CachePadded;

use super::arena::Arena;
use super::budget::Pool;
use super::entry::Body;
use super::flight::Flights;
use super::foreign::guarded;
use super::owner::{Change, Listener, Owner, Shared};
use super::sync::channel::{Receiver, RecvTimeoutError, Sender};
use super::sync::{ArrayQueue, LocalKey, Mutex, MutexGuard, Ordering, fence, thread_local};
use super::table::Table;

/// Changes that wait for one shard's turn at the most.
const QUEUE_LEN: usize = if cfg!(all(test, corecache_model)) {
    2
} else {
    1024
};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs a key's or a value's code (`Eq`, `Drop`) on a shard's behalf. Such code must not wait for a
/// turn: neither for the one that its own thread may have, nor for one whose holder may be waiting for it.
#[inline]
pub(crate) fn is_inside() -> bool {
    INSIDE.with(Cell::get)
}

/// Whether this thread tells a listener, which must not wait for others that do.
#[inline]
pub(crate) fn is_telling() -> bool {
    TELLING.with(Cell::get)
}

/// Runs `work` as if inside of a turn: what is changed from within is only queued.
pub(crate) fn inside<R>(work: impl FnOnce() -> R) -> R {
    let _inside = Flagged::set(&INSIDE);
    work()
}

/// Runs `work` without telling a listener on this thread.
pub(crate) fn quietly<R>(work: impl FnOnce() -> R) -> R {
    let _quiet = Flagged::set(&TELLING);
    work()
}

/// Sets a flag of this thread for a while.
struct Flagged {
    flag: &'static LocalKey<Cell<bool>>,
    before: bool,
}

impl Flagged {
    #[inline]
    fn set(flag: &'static LocalKey<Cell<bool>>) -> Self {
        Self {
            flag,
            before: flag.with(|flag| flag.replace(true)),
        }
    }
}

impl Drop for Flagged {
    #[inline]
    fn drop(&mut self) {
        self.flag.with(|flag| flag.set(self.before));
    }
}

/// Readers use the table alone, so nothing that a turn writes to lies beside it.
#[repr(C)]
pub(crate) struct Shard<B: Body> {
    pub table: Arc<Table>,
    pub flights: Arc<Flights<B>>,
    pub arena: Arc<Arena>,
    pool: Arc<Pool>,
    listener: Arc<OnceLock<Listener<B>>>,
    alarm: Sender<()>,
    ringing: Receiver<()>,
    /// Boxed, since a change holds a key inline, whatever its size.
    queue: CachePadded<ArrayQueue<Box<Change<B>>>>,
    owner: CachePadded<Mutex<Owner<B>>>,
    /// One at a time tells the listener, so that it hears of a key's entries in their order.
    telling: Mutex<()>,
}

impl<B: Body> Shard<B> {
    /// `ringing` hears when the shard's alarm is rung.
    pub fn new(index: usize, shared: Shared<B>, ringing: Receiver<()>) -> Self {
        let (listener, arena) = (shared.listener.clone(), shared.arena.clone());
        let alarm = shared.alarms[index].clone();
        let owner = Owner::new(index, shared);
        Self {
            table: owner.writer.table().clone(),
            flights: owner.flights.clone(),
            arena,
            pool: owner.pool.clone(),
            listener,
            owner: CachePadded::new(Mutex::new(owner)),
            telling: Mutex::new(()),
            queue: CachePadded::new(ArrayQueue::new(QUEUE_LEN)),
            alarm,
            ringing,
        }
    }

    /// Makes a change and returns what it came to. Inside of another turn it is only queued.
    pub fn change(&self, change: Change<B>) -> bool {
        if is_inside() {
            return self.change_later(change);
        }
        self.turn(|owner| owner.make(change))
    }

    /// As [`Shard::change`], but does not wait for the turn if somebody else has it.
    pub fn change_soon(&self, change: Change<B>) -> bool {
        if is_inside() {
            return self.change_later(change);
        }
        if let Some(owner) = self.owner.try_lock() {
            return self.take(owner, |owner| owner.make(change));
        }
        match self.queue(change) {
            Ok(()) => true,
            // Much is under way: who wants still more has to wait.
            Err(change) => self.change(change),
        }
    }

    /// What can not wait is lost where the queue is full.
    fn change_later(&self, change: Change<B>) -> bool {
        let Err(change) = self.queue(change) else {
            return true;
        };
        log::error!(
            "the queue of a shard is full: a change made by a value's or a key's own code is lost"
        );
        if let Change::Publish {
            flight: Some(flight),
            ..
        } = change
        {
            self.flights.close(&flight);
        }
        false
    }

    /// Who has the turn now looks at the queue once more when it ends; so does this thread, if nobody has.
    fn queue(&self, change: Change<B>) -> Result<(), Change<B>> {
        let bytes = change.weight_bytes();
        // What is on its way is within no budget.
        let is_calm = self.pool.enqueue(bytes);
        let refused = if is_calm || is_inside() {
            self.queue.push(Box::new(change)).err().map(|full| *full)
        } else {
            Some(change)
        };
        if let Some(change) = refused {
            self.pool.dequeue(bytes);
            return Err(change);
        }
        if is_inside() {
            self.wake();
        } else {
            self.help();
        }
        Ok(())
    }

    /// How many changes wait.
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Waits for the turn; all that was queued before is done first. Not to be called inside of one.
    pub fn turn<R>(&self, work: impl FnOnce(&mut Owner<B>) -> R) -> R {
        debug_assert!(!is_inside());
        self.take(self.owner.lock(), work)
    }

    fn take<R>(
        &self,
        mut owner: MutexGuard<'_, Owner<B>>,
        work: impl FnOnce(&mut Owner<B>) -> R,
    ) -> R {
        let inside = Flagged::set(&INSIDE);
        owner.open();
        if !self.queue.is_empty() {
            let queued = std::iter::from_fn(|| self.queue.pop());
            queued
                .take(QUEUE_LEN)
                .for_each(|change| owner.unqueue(*change));
        }
        let result = work(&mut owner);
        let ended = owner.close();
        drop(owner);
        drop(ended.dead);
        drop(inside);
        if ended.calls_owner {
            self.wake();
        }
        if ended.tells_much {
            self.tell();
        }
        self.help();
        result
    }

    /// Sees to it that what was queued while this thread had the turn, or failed to get it, does not stay there.
    fn help(&self) {
        // Pairs with itself: who queues looks whether the turn is free, who ends a turn looks at the queue.
        fence(Ordering::SeqCst);
        if !self.queue.is_empty() && !self.owner.is_locked() {
            self.wake();
        }
    }

    /// Wakes the owner, unless that has already been done.
    pub fn wake(&self) {
        let _ = self.alarm.try_send(());
    }

    /// Tells the listener of all that has left so far.
    pub fn tell(&self) {
        // Neither inside of a turn, nor from within the listener.
        if is_inside() || TELLING.with(Cell::get) {
            return;
        }
        let _telling = Flagged::set(&TELLING);
        let _turn = self.telling.lock();
        let untold = self.owner.lock().take_untold();
        // What was queued meanwhile found the turn taken.
        self.help();
        let Some(listener) = self.listener.get() else {
            return;
        };
        for (entry, cause) in untold {
            guarded("a listener", || listener(&entry, cause));
            // Its drop may use the cache, as the listener may.
            guarded("a key or a value that was dropped", || drop(entry));
        }
    }

    /// The owner's life, until the cache has been dropped. `also` is done each time that it wakes.
    pub fn run(&self, also: impl Fn()) {
        let mut sleep = None;
        while self.sleep(sleep) {
            also();
            self.turn(Owner::look_after);
            self.tell();
            sleep = self.turn(Owner::go_to_sleep);
        }
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// False: the cache is gone.
    fn sleep(&self, at_most: Option<Duration>) -> bool {
        let woken = match at_most {
            None => self
                .ringing
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            Some(at_most) => self.ringing.recv_timeout(at_most),
        };
        // Who rings an alarm that rings already leaves it at that: from here on what that was for is seen.
        fence(Ordering::SeqCst);
        !matches!(woken, Err(RecvTimeoutError::Disconnected)) && !self.owner.lock().pool.is_closed()
    }
}

#[cfg(all(test, corecache_model))]
mod model;
