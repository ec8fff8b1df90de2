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
use super::entry::{Body, Handle};
use super::flight::Flights;
use super::foreign::guarded;
use super::owner::{Change, Ended, Listener, Owner, Shared};
use super::sync::channel::{Receiver, RecvTimeoutError, Sender};
use super::sync::{ArrayQueue, LocalKey, Mutex, Ordering, fence, thread_local};
use super::table::Table;
use super::turn::{Holder, InTurn, Signals};

/// Changes that wait for one shard's turn at the most.
const QUEUE_LEN: usize = if cfg!(all(test, corecache_model)) {
    2
} else {
    1024
};

/// So often one turn makes what was queued meanwhile; then it is left to the owner, whose waking costs more than they do.
const QUEUED_TIMES_MAX: usize = if cfg!(all(test, corecache_model)) {
    1
} else {
    16
};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static JOINING: Cell<bool> = const { Cell::new(false) };
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

/// Whether this thread runs a key's code under the lock of a shard's flights, which it must not wait for again.
#[inline]
pub(crate) fn is_joining() -> bool {
    JOINING.with(Cell::get)
}

/// Runs `work`, which holds the lock of a shard's flights, as if inside of a turn: what is changed from within is only
/// queued.
pub(crate) fn joining<R>(work: impl FnOnce() -> R) -> R {
    let _inside = Flagged::set(&INSIDE);
    let _joining = Flagged::set(&JOINING);
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
    owner: InTurn<Owner<B>>,
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
            owner: InTurn::new(owner.flights.turn().clone(), owner),
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
        if let Some(owner) = self.owner.try_take() {
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

    /// Who has the turn now makes the change before it ends; if nobody has, this thread does.
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
        if self.owner.turn().say(Signals::QUEUED) {
            return Ok(());
        }
        if is_inside() {
            self.wake();
        } else if let Some(owner) = self.owner.try_take() {
            self.take(owner, |_| ());
        }
        Ok(())
    }

    /// Frees what can be freed, and gives back what is wanted elsewhere, in as many turns as that may take. What others
    /// go on changing meanwhile is left to the shard's own thread.
    pub fn tidy(&self) {
        let turns_max = self.turn(|owner| owner.tidy_turns_max());
        let has_more = (0..turns_max).all(|_| self.turn(Owner::tidy));
        if has_more {
            log::debug!("a shard is not tidy after {turns_max} turns; its own thread goes on");
            self.wake();
        }
    }

    /// How many changes wait.
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Waits for the turn; all that was queued before is done first. Not to be called inside of one.
    pub fn turn<R>(&self, work: impl FnOnce(&mut Owner<B>) -> R) -> R {
        debug_assert!(!is_inside());
        self.take(self.owner.take(), work)
    }

    fn take<R>(&self, mut owner: Holder<'_, Owner<B>>, work: impl FnOnce(&mut Owner<B>) -> R) -> R {
        let inside = Flagged::set(&INSIDE);
        owner.open();
        if self.owner.turn().is_said(Signals::QUEUED) {
            self.make_queued(&mut owner);
        }
        let result = work(&mut owner);
        let mut ended = owner.close();
        if let Err((owner, _)) = owner.end(ended.knows()) {
            self.end(owner, &mut ended);
        }
        if !ended.dead.is_empty() {
            Handle::drop_all(&mut ended.dead, &self.arena);
        }
        drop(inside);
        if ended.calls_owner {
            self.wake();
        }
        if ended.tells_much {
            self.tell();
        }
        result
    }

    /// Makes what is queued now, and what only comes meanwhile not: so nobody is kept for long, and not much is dead by
    /// the end of the turn.
    #[cold]
    fn make_queued(&self, owner: &mut Owner<B>) {
        let turn = self.owner.turn();
        turn.unsay(Signals::QUEUED);
        let queued = std::iter::from_fn(|| self.queue.pop());
        queued
            .take(self.queue.len())
            .for_each(|change| owner.unqueue(*change));
        if !self.queue.is_empty() {
            turn.say(Signals::QUEUED);
        }
    }

    /// Ends a turn in which something was said.
    #[cold]
    fn end(&self, mut owner: Holder<'_, Owner<B>>, ended: &mut Ended<B>) {
        let mut times_made = 0;
        let mut known = ended.knows();
        while let Err((back, news)) = owner.end(known) {
            owner = back;
            if let Some(hash) = ended.written.take() {
                self.flights.fence(hash);
            }
            if news.has(Signals::QUEUED) && times_made < QUEUED_TIMES_MAX {
                times_made += 1;
                owner.open();
                self.make_queued(&mut owner);
                ended.add(owner.close());
                known = ended.knows();
            } else if news.has(Signals::QUEUED) {
                ended.calls_owner = true;
                known = ended.knows() | Signals::QUEUED;
            } else {
                known = known | ended.knows();
            }
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
        let untold = self.turn(Owner::take_untold);
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
        !matches!(woken, Err(RecvTimeoutError::Disconnected)) && !self.pool.is_closed()
    }
}

#[cfg(all(test, corecache_model))]
mod model;
