//! Singleflight: one load for a key, however many ask.
//!
//! A flight is opened by the first who misses and joined by those who come after. One of them leads: it loads, and
//! hands the outcome to the flight, where all take it. A flight stays in the map until the shard's writer has published the
//! entry, so that nobody loads again in between. Those who wait may leave at a deadline of their own. If the leader
//! goes away without an outcome (it panicked), the next waiter leads.
//!
//! A thread that leads one key and waits for another could wait for itself, over any number of threads. Such a wait
//! is entered in a list of waits first, and refused where it would close a circle.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use super::entry::{Body, Handle};
use super::foreign::guarded;
use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, Ordering, thread_local};
use super::turn::{Signals, Turn};

/// Why there is no value. Everybody who waited gets a copy.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The loader failed; this is its error.
    #[error(transparent)]
    Failed(Arc<dyn Error + Send + Sync>),
    /// The loader panicked with this message.
    #[error("the loader panicked: {0}")]
    Panicked(Arc<str>),
    /// The load was given up before it began.
    #[error("the load was given up before it began")]
    Abandoned,
    /// The deadline passed while another caller was loading the key; that load goes on.
    #[error("the deadline passed while the key was being loaded")]
    TimedOut,
    /// The loader asked for the key that it is loading, by itself or over other loaders that wait for each other.
    #[error(
        "the loader waits for the key that it is loading itself; it may ask for other keys only"
    )]
    Reentrant,
    /// The entry can not fit the cache; see `EntryTooLarge` for what was asked.
    #[error(transparent)]
    TooLarge(#[from] EntryTooLarge),
    /// The cache was dropped.
    #[error("the cache is gone")]
    Closed,
}

/// An entry was refused because it could never fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the entry takes {entry_bytes} bytes, the cache admits {largest_bytes} bytes at the most: store less, or give the cache a \
     larger budget"
)]
pub struct EntryTooLarge {
    /// What the entry would take, overhead included.
    pub entry_bytes: usize,
    /// The largest that is admitted.
    pub largest_bytes: usize,
}

/// The text of a panic's payload.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> Arc<str> {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).into()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.as_str().into()
    } else {
        "no message".into()
    }
}

pub(crate) type Outcome<B> = Result<Handle<B>, Failure>;
pub(crate) type Callback<B> = Box<dyn FnOnce(Outcome<B>) + Send>;

/// Where a flight's load is done: not known yet, in this process, in another one.
const UNDECIDED: u64 = 0;
#[cfg_attr(not(feature = "server"), allow(dead_code))]
const HERE: u64 = 1;
#[cfg_attr(not(feature = "server"), allow(dead_code))]
const AWAY: u64 = 2;

pub(crate) struct Flight<B: Body> {
    hash: u64,
    key: B::OwnedKey,
    /// Set by a write to the key: what this flight loads is for those who wait for it, not for the table.
    fenced: AtomicBool,
    /// The number of the thread that leads; 0 while none does.
    leader: Arc<AtomicU64>,
    /// Whether it is led in this process: [`UNDECIDED`], [`HERE`] or [`AWAY`].
    place: AtomicU64,
    state: Mutex<State<B>>,
    changed: Condvar,
}

struct State<B: Body> {
    outcome: Option<Outcome<B>>,
    led: bool,
    sleepers: usize,
    callbacks: Vec<Callback<B>>,
    /// The latest deadline of all who have said one; none: nobody has.
    wanted_until: Option<Instant>,
}

/// How a wait ended.
pub(crate) enum Waited<B: Body> {
    Outcome(Outcome<B>),
    /// The leader is gone: it is for the caller to load.
    Lead,
    /// The deadline has passed, and the leader is gone: it is for the caller to pass the lead on.
    LateLead,
}

impl<B: Body> Flight<B> {
    fn new(hash: u64, key: B::OwnedKey) -> Self {
        Self {
            hash,
            key,
            fenced: AtomicBool::new(false),
            leader: Arc::new(AtomicU64::new(0)),
            place: AtomicU64::new(UNDECIDED),
            state: Mutex::new(State {
                outcome: None,
                led: true,
                sleepers: 0,
                callbacks: Vec::new(),
                wanted_until: None,
            }),
            changed: Condvar::new(),
        }
    }

    pub fn key(&self) -> &B::OwnedKey {
        &self.key
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::SeqCst)
    }

    fn fence(&self) {
        self.fenced.store(true, Ordering::SeqCst);
    }

    /// Has the load stay in this process; false if another one has been asked for it. Who is asked by another process
    /// waits only for what stays: two that waited for each other would do so for ever.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub fn keep_here(&self) -> bool {
        let before = self.decide(HERE);
        before != Err(AWAY)
    }

    /// Leaves the load to another process; false if it has to stay.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub fn send_away(&self) -> bool {
        self.decide(AWAY) != Err(HERE)
    }

    /// The other process has failed: the load is done here after all.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub fn take_back(&self) {
        self.place.store(HERE, Ordering::SeqCst);
    }

    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    fn decide(&self, place: u64) -> Result<u64, u64> {
        let order = Ordering::SeqCst;
        self.place.compare_exchange(UNDECIDED, place, order, order)
    }

    /// Sleeps until there is an outcome or a leader is wanted, `deadline` at the latest.
    pub fn wait(&self, deadline: Option<Instant>) -> Waited<B> {
        let mut state = self.state.lock();
        loop {
            if let Some(outcome) = &state.outcome
                && !matches!(outcome, Err(Failure::Abandoned))
            {
                return Waited::Outcome(outcome.clone());
            }
            // The leader may have gone before it could know of us: then the flight is resumed.
            if !state.led || state.outcome.take().is_some() {
                state.led = true;
                return Waited::Lead;
            }
            let Some(_entered) = Wait::enter(&self.leader) else {
                return Waited::Outcome(Err(Failure::Reentrant));
            };
            state.sleepers += 1;
            state.wanted_until = state.wanted_until.max(deadline);
            let is_late = match deadline {
                Some(deadline) => self.changed.wait_until(&mut state, deadline).timed_out(),
                None => {
                    self.changed.wait(&mut state);
                    false
                }
            };
            state.sleepers -= 1;
            if is_late && state.outcome.is_none() {
                if state.led {
                    return Waited::Outcome(Err(Failure::TimedOut));
                }
                state.led = true;
                return Waited::LateLead;
            }
        }
    }

    /// Calls `callback` with the outcome, at once if it is there, otherwise on the thread that brings it. Who waits for
    /// that does so until `deadline`. Gives the callback back if the flight already has `at_most` of them.
    pub fn subscribe(
        &self,
        deadline: Instant,
        callback: Callback<B>,
        at_most: usize,
    ) -> Result<(), Callback<B>> {
        let mut state = self.state.lock();
        if let Some(outcome) = &state.outcome {
            let outcome = outcome.clone();
            drop(state);
            callback(outcome);
            return Ok(());
        }
        if state.callbacks.len() >= at_most {
            return Err(callback);
        }
        state.callbacks.push(callback);
        state.wanted_until = state.wanted_until.max(Some(deadline));
        Ok(())
    }

    /// The latest deadline of all who have said one so far.
    pub fn wanted_until(&self) -> Option<Instant> {
        self.state.lock().wanted_until
    }

    fn complete(&self, outcome: Outcome<B>) {
        let mut state = self.state.lock();
        state.outcome = Some(outcome.clone());
        let callbacks = std::mem::take(&mut state.callbacks);
        self.changed.notify_all();
        drop(state);
        for callback in callbacks {
            let outcome = outcome.clone();
            // One that panics must cost neither the others their answer, nor the flight its end.
            guarded("a caller that was told of a load's end", || {
                callback(outcome);
            });
        }
    }
}

/// The flights of a shard, by hash. A key whose hash is taken by another key's flight is loaded without one, and not
/// stored, since no write to it could be told to the load.
pub(crate) struct Flights<B: Body> {
    open: Mutex<Open<B>>,
    /// How many are open, for who must not wait for the lock.
    count: AtomicUsize,
    /// The shard's: it says whether there are flights.
    turn: Arc<Turn>,
}

type Open<B> = HashMap<u64, Arc<Flight<B>>, ahash::RandomState>;

pub(crate) enum Joined<B: Body> {
    /// The entry had come by the time that the map was locked.
    Hit(Handle<B>),
    Follow(Arc<Flight<B>>),
    Lead(Lead<B>),
}

impl<B: Body> Flights<B> {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::new(HashMap::default()),
            count: AtomicUsize::new(0),
            turn: Turn::new(),
        })
    }

    /// The turn of the shard that these are of.
    pub fn turn(&self) -> &Arc<Turn> {
        &self.turn
    }

    /// Has whoever has the turn know that there are flights. It is taken back by who finds that there are none, under the
    /// lock as well: a load after the other costs the turn's word nothing.
    fn tell_turn(&self) {
        if !self.turn.is_said(Signals::FLIGHTS) {
            self.turn.say(Signals::FLIGHTS);
        }
    }

    /// Joins the flight of a key or opens one. `look` searches the table once more, under the lock: the writer
    /// publishes first and closes the flight after, so one of the two is seen. And it does so after the turn was told
    /// of the flight: what it does not see was written in a turn whose holder was told in time, and will fence.
    pub fn join(
        self: &Arc<Self>,
        hash: u64,
        is_it: impl Fn(&B::OwnedKey) -> bool,
        to_owned: impl FnOnce() -> B::OwnedKey,
        look: impl FnOnce() -> Option<Handle<B>>,
    ) -> Joined<B> {
        let mut open = self.open.lock();
        if let Some(flight) = open.get(&hash) {
            if is_it(&flight.key) {
                return Joined::Follow(flight.clone());
            }
            let flight = Arc::new(Flight::new(hash, to_owned()));
            flight.fence();
            return Joined::Lead(Lead::new(self, flight));
        }
        self.tell_turn();
        if let Some(entry) = look() {
            return Joined::Hit(entry);
        }
        let flight = Arc::new(Flight::new(hash, to_owned()));
        open.insert(hash, flight.clone());
        self.count_open(&open);
        Joined::Lead(Lead::new(self, flight))
    }

    /// Puts a flight that is to be led again back into the map. If its place is taken, it no longer stores.
    fn reopen(&self, flight: &Arc<Flight<B>>) {
        let mut open = self.open.lock();
        self.tell_turn();
        let now = open.entry(flight.hash).or_insert_with(|| flight.clone());
        if !Arc::ptr_eq(now, flight) {
            flight.fence();
        }
        self.count_open(&open);
    }

    /// Takes the flight out of the map.
    pub fn close(&self, flight: &Arc<Flight<B>>) {
        let mut open = self.open.lock();
        if open
            .get(&flight.hash)
            .is_some_and(|now| Arc::ptr_eq(now, flight))
        {
            open.remove(&flight.hash);
            self.count_open(&open);
        }
    }

    /// A write to the key has come: a flight that is open delivers to those who wait, but does not store, and who
    /// asks from now on does not join it.
    pub fn fence(&self, hash: u64) {
        // The lock is given back first: the flight may be the last to hold a key, whose drop is not our code.
        let mut open = self.open.lock();
        let flight = open.remove(&hash);
        self.count_open(&open);
        if open.is_empty() {
            self.turn.unsay(Signals::FLIGHTS);
        }
        drop(open);
        if let Some(flight) = flight {
            flight.fence();
        }
    }

    /// As [`Flights::fence`], for all keys that `is_it` accepts.
    pub fn fence_all(&self, is_it: impl Fn(&B::OwnedKey) -> bool) {
        let mut fenced = Vec::new();
        let mut open = self.open.lock();
        open.retain(|_, flight| {
            let is_fenced = is_it(&flight.key);
            if is_fenced {
                flight.fence();
                fenced.push(flight.clone());
            }
            !is_fenced
        });
        self.count_open(&open);
        // The lock is given back before what was fenced is dropped, as above.
        drop(open);
    }

    /// Fails all who still wait.
    pub fn close_all(&self) {
        let mut open = self.open.lock();
        let closed = std::mem::take(&mut *open);
        self.count_open(&open);
        drop(open);
        for flight in closed.into_values() {
            let mut state = flight.state.lock();
            if state.outcome.is_none() {
                drop(state);
                flight.complete(Err(Failure::Closed));
            } else {
                state.callbacks.clear();
            }
        }
    }

    /// Called under the lock.
    fn count_open(&self, open: &Open<B>) {
        self.count.store(open.len(), Ordering::Relaxed);
    }

    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// The duty to bring a flight's outcome. Dropped without one, it passes to the next waiter.
pub(crate) struct Lead<B: Body> {
    flights: Arc<Flights<B>>,
    flight: Arc<Flight<B>>,
    done: bool,
    alone: bool,
}

impl<B: Body> Lead<B> {
    fn new(flights: &Arc<Flights<B>>, flight: Arc<Flight<B>>) -> Self {
        Self {
            flights: flights.clone(),
            flight,
            done: false,
            alone: false,
        }
    }

    /// Leads a load that nobody can join and that is not stored, without a look at the shard's flights.
    pub fn alone(hash: u64, key: B::OwnedKey) -> Self {
        Self {
            flights: Flights::new(),
            flight: Arc::new(Flight::new(hash, key)),
            done: false,
            alone: true,
        }
    }

    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// Leads a flight whose leader is gone; see [`Waited::Lead`].
    pub fn take_over(flights: &Arc<Flights<B>>, flight: Arc<Flight<B>>) -> Self {
        flights.reopen(&flight);
        Self::new(flights, flight)
    }

    pub fn flight(&self) -> &Arc<Flight<B>> {
        &self.flight
    }

    /// From here on this thread is the one that waiters wait for, until what is returned is dropped.
    pub fn enter(&self) -> Leading {
        Leading::enter(&self.flight.leader)
    }

    /// Leaves the flight without a leader until [`Parked::claim`]; a waiter that may block leads it meanwhile.
    pub fn park(mut self) -> Parked<B> {
        self.done = true;
        self.flight.state.lock().led = false;
        Parked {
            flights: self.flights.clone(),
            flight: self.flight.clone(),
        }
    }

    /// Hands over an outcome that is not to be stored: the flight ends here.
    pub fn finish(mut self, outcome: Outcome<B>) {
        self.done = true;
        self.flights.close(&self.flight);
        self.flight.complete(outcome);
    }

    /// Hands over an entry that the shard's writer is to publish; it then closes the flight. Returns the flight for that.
    pub fn deliver(mut self, entry: Handle<B>) -> Arc<Flight<B>> {
        self.done = true;
        self.flight.complete(Ok(entry));
        self.flight.clone()
    }
}

impl<B: Body> Drop for Lead<B> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.flight.state.lock();
        if state.sleepers > 0 {
            state.led = false;
            self.flight.changed.notify_one();
            return;
        }
        drop(state);
        // Closed before it is completed: who comes now opens a flight of its own.
        self.flights.close(&self.flight);
        self.flight.complete(Err(Failure::Abandoned));
    }
}

/// A load that waits for a thread to run it.
pub(crate) struct Parked<B: Body> {
    flights: Arc<Flights<B>>,
    flight: Arc<Flight<B>>,
}

impl<B: Body> Parked<B> {
    pub fn flight(&self) -> &Arc<Flight<B>> {
        &self.flight
    }

    /// Takes the lead, unless somebody else has, or all is done.
    pub fn claim(self) -> Option<Lead<B>> {
        let mut state = self.flight.state.lock();
        if state.led || state.outcome.is_some() {
            return None;
        }
        state.led = true;
        drop(state);
        Some(Lead::new(&self.flights, self.flight))
    }
}

/// Numbers of threads, from 1.
static NEXT_THREAD: AtomicU64 = AtomicU64::new(1);
/// Whose leader each thread waits for: followed from one to the next before a wait is added, so that no circle closes.
static WAITS: Mutex<Option<HashMap<u64, Arc<AtomicU64>>>> = Mutex::new(None);

thread_local! {
    static THREAD: Cell<u64> = const { Cell::new(0) };
    /// How many flights this thread leads.
    static LEADING: Cell<usize> = const { Cell::new(0) };
}

fn this_thread() -> u64 {
    THREAD.with(|number| {
        if number.get() == 0 {
            number.set(NEXT_THREAD.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// A thread leads a flight while it has this.
pub(crate) struct Leading(Arc<AtomicU64>);

impl Leading {
    fn enter(leader: &Arc<AtomicU64>) -> Self {
        leader.store(this_thread(), Ordering::SeqCst);
        LEADING.with(|count| count.set(count.get() + 1));
        Self(leader.clone())
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.store(0, Ordering::SeqCst);
        LEADING.with(|count| count.set(count.get() - 1));
    }
}

/// A wait that is allowed. One of a thread that leads nothing can close no circle and costs nothing.
struct Wait {
    entered: bool,
}

impl Wait {
    /// None if the leader waits for us, over whatever chain.
    fn enter(leader: &Arc<AtomicU64>) -> Option<Self> {
        if LEADING.with(Cell::get) == 0 {
            return Some(Self { entered: false });
        }
        let me = this_thread();
        let mut waits = WAITS.lock();
        let waits = waits.get_or_insert_default();
        let mut at = leader.load(Ordering::SeqCst);
        while at != 0 {
            if at == me {
                return None;
            }
            at = waits.get(&at).map_or(0, |next| next.load(Ordering::SeqCst));
        }
        waits.insert(me, leader.clone());
        Some(Self { entered: true })
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.entered
            && let Some(waits) = WAITS.lock().as_mut()
        {
            waits.remove(&this_thread());
        }
    }
}

#[cfg(all(test, corecache_model))]
mod model;
#[cfg(test)]
mod tests;
