//! What the one writer of a shard does in its turn: it makes room, publishes, evicts, and retires.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use crossbeam::utils::CachePadded;

use super::arena::Arena;
use super::budget::Pool;
use super::clock::{Clock, NEVER};
use super::entry::{Body, Handle, Header};
use super::flight::{Flight, Flights};
use super::foreign::guarded;
use super::policy::{Entries, Policy, Token, TwoClocks};
use super::reclaim;
use super::shard::is_telling;
use super::stats::{Cause, PartitionCounters, ShardGauges};
use super::sync::channel::Sender;
use super::sync::{AtomicU64, Ordering};
use super::table::{Table, Writer, prefetch};
use super::turn::Signals;

mod chores;
mod gather;
mod patrol;
mod room;

use patrol::Patrol;
pub(crate) use room::ask_to_yield;

/// Whose code runs in a turn: one that panics costs its own change, not the shard.
const KEY: &str = "a key that was compared or dropped";
/// How long garbage that a reader holds is left alone: twice as long each time that nothing came of a look at it. A model
/// has no time that passes.
const SWEEP_NS: u64 = if cfg!(all(test, corecache_model)) {
    0
} else {
    50_000_000
};
const SWEEP_MAX_NS: u64 = 2_000_000_000;

pub(crate) enum Change<B: Body> {
    /// Store an entry; close the flight that brought it.
    Publish {
        hash: u64,
        entry: Handle<B>,
        flight: Option<Arc<Flight<B>>>,
    },
    Remove {
        hash: u64,
        key: B::OwnedKey,
    },
}

impl<B: Body> Change<B> {
    pub fn weight_bytes(&self) -> usize {
        match self {
            Change::Publish { entry, .. } => entry.weight_bytes() as usize,
            Change::Remove { .. } => 0,
        }
    }
}

/// What becomes of an entry that is to be restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Restored,
    /// Its key holds a newer one.
    Held,
    /// There is no room without evicting, or the partition was cleared meanwhile.
    Refused,
}

/// Told of each entry that has left.
pub(crate) type Listener<B> = Box<dyn Fn(&Handle<B>, Cause) + Send + Sync>;
type Untold<B> = Vec<(Handle<B>, Cause)>;

struct Listening<B: Body> {
    listener: Arc<OnceLock<Listener<B>>>,
    /// Out of the books already: nobody else may hold them any more.
    untold: Untold<B>,
    untold_bytes: usize,
    /// Retired entries that are still to be put there.
    waiting: usize,
    /// Places of retired entries say why these have left.
    is_on: bool,
}

impl<B: Body> Listening<B> {
    /// What is to be told of a retired entry.
    fn untold_cause(&self, header: &Header) -> Option<Cause> {
        if !self.is_on {
            return None;
        }
        let place = header.place();
        let found = UNTOLD.iter().find(|(number, _)| *number == place);
        found.map(|(_, cause)| *cause)
    }

    #[inline]
    fn add(&mut self, entry: Handle<B>, cause: Cause, weight_bytes: usize) {
        self.untold.push((entry, cause));
        self.untold_bytes += weight_bytes;
        self.waiting -= 1;
    }
}

/// The place of a retired entry says why it has left, as long as the listener is to be told that.
const UNTOLD: [(u32, Cause); 4] = [
    (1, Cause::Evicted),
    (2, Cause::Expired),
    (3, Cause::Removed),
    (4, Cause::Replaced),
];
const TOLD: u32 = 0;
/// While one part in this many of the budget is untold, nothing is stored from within a listener.
const UNTOLD_PART: usize = 4;

/// What a policy asks of the entries whose addresses are its tokens.
struct InTable<'a, B> {
    table: &'a Table,
    body: PhantomData<B>,
}

impl<'a, B> InTable<'a, B> {
    fn new(writer: &'a Writer) -> Self {
        Self {
            table: writer.table(),
            body: PhantomData,
        }
    }
}

#[inline]
fn token(entry: NonNull<Header>) -> Token {
    entry.as_ptr().expose_provenance() as Token
}

#[inline]
fn entry_of(token: Token) -> NonNull<Header> {
    let entry = std::ptr::with_exposed_provenance_mut(token as usize);
    NonNull::new(entry).expect("a token is an address")
}

#[inline]
fn header<'a>(token: Token) -> &'a Header {
    // SAFETY: the table holds a reference to each entry that the queues hold.
    unsafe { entry_of(token).as_ref() }
}

impl<B: Body> Entries for InTable<'_, B> {
    fn counter(&self, token: Token) -> u8 {
        header(token).counter()
    }

    fn set_counter(&mut self, token: Token, counter: u8) {
        header(token).set_counter(counter);
    }

    fn hash(&self, token: Token) -> u32 {
        header(token).hash
    }

    fn weight(&self, token: Token) -> u32 {
        // SAFETY: as in `header`, and built by `B`, as all entries here.
        unsafe { B::weight_bytes(entry_of(token)) }
    }

    fn place(&self, token: Token) -> u32 {
        header(token).place()
    }

    fn set_place(&mut self, token: Token, place: u32) {
        header(token).set_place(place);
    }

    /// What is to be evicted has mostly not been touched for long: its memory is fetched meanwhile.
    fn expect(&self, last: Token, next: Option<Token>) {
        self.table.prefetch(header(last).hash.into());
        if let Some(next) = next {
            prefetch(entry_of(next).as_ptr());
        }
    }
}

/// What is left to do when a turn ends, and after that.
pub(crate) struct Ended<B: Body> {
    /// Written to in the turn, which must not be given back before the loads of this hash are fenced, if there are any.
    pub written: Option<u64>,
    /// Nobody holds these any more: they are to be dropped.
    pub dead: Vec<Handle<B>>,
    /// There is something for the owner to do.
    pub calls_owner: bool,
    /// So much is untold that this thread should see to it.
    pub tells_much: bool,
}

impl<B: Body> Ended<B> {
    /// What the turn's holder need not be told any more.
    #[inline]
    pub fn knows(&self) -> Signals {
        match self.written {
            Some(_) => Signals::NONE,
            None => Signals::FLIGHTS,
        }
    }

    /// The turn went on, and this came of it.
    pub fn add(&mut self, more: Self) {
        self.written = more.written;
        self.dead.extend(more.dead);
        self.calls_owner |= more.calls_owner;
        self.tells_much |= more.tells_much;
    }
}

/// What every turn writes to comes first and fits a cache line; who has the turn next is mostly on another core. What
/// comes behind it is written to now and then, so that the copies that cores have of it stay good.
#[repr(C)]
pub(crate) struct Owner<B: Body> {
    /// A turn that has begun and not ended. If one begins so, the one before ended with a panic.
    is_open: bool,
    /// Something was retired since the shard's own thread went to sleep.
    has_retired: bool,
    /// The hash that was written to last in this turn: a load that is under way is still to be fenced.
    written: Option<u64>,
    used_bytes: usize,
    retired_bytes: usize,
    retired: Vec<NonNull<Header>>,
    /// With so much garbage it is time for a sweep, whether room is needed or not.
    sweep_at_bytes: usize,
    leased_bytes: usize,
    /// The part of `used_bytes` that is the table's.
    table_bytes: usize,
    pub writer: Writer,
    /// The queues of each partition.
    policies: Vec<TwoClocks>,
    dead: Vec<Handle<B>>,
    pub pool: Arc<Pool>,
    counters: Arc<[CachePadded<PartitionCounters>]>,
    gauges: Arc<[CachePadded<ShardGauges>]>,
    shard: usize,
    listening: Listening<B>,
    patrol: Patrol,
    /// When the shard's own thread comes by, if not called before.
    wakes_ns: u64,
    /// What is left of what other shards have asked for.
    owes_bytes: usize,
    is_broken: bool,
    /// The shard's own thread is awake, or wakes in time to look after the garbage.
    sweeps_soon: bool,
    arena: Arc<Arena>,
    /// The bucket at which gathering goes on.
    gathering: Option<usize>,
    /// The bytes of the slots in use when they were gathered last.
    gathered_bytes: usize,
    /// How long garbage is left alone now, and until when.
    rests_ns: u64,
    rest_ends_ns: u64,
    random: u64,
    pub flights: Arc<Flights<B>>,
    clock: Clock,
    /// Wake the owners of all shards.
    alarms: Arc<[Sender<()>]>,
    /// The fault that a test plants: chores that never end.
    #[cfg(test)]
    pub never_tidy: bool,
}

// SAFETY: the raw pointers are references to entries, which are Send; who has the turn alone uses them.
unsafe impl<B: Body> Send for Owner<B> {}

/// What a shard shares with the rest of its cache.
pub(crate) struct Shared<B: Body> {
    pub pool: Arc<Pool>,
    pub arena: Arc<Arena>,
    pub flights: Arc<Flights<B>>,
    pub counters: Arc<[CachePadded<PartitionCounters>]>,
    pub gauges: Arc<[CachePadded<ShardGauges>]>,
    pub clock: Clock,
    pub listener: Arc<OnceLock<Listener<B>>>,
    pub alarms: Arc<[Sender<()>]>,
}

impl<B: Body> Owner<B> {
    pub fn new(shard: usize, shared: Shared<B>) -> Self {
        let partitions = shared.pool.partitions.len();
        Self {
            writer: Writer::new(shared.arena.range()),
            policies: (0..partitions).map(|_| TwoClocks::default()).collect(),
            retired: Vec::new(),
            retired_bytes: 0,
            sweep_at_bytes: shared.pool.quantum_bytes(),
            dead: Vec::new(),
            written: None,
            leased_bytes: 0,
            used_bytes: 0,
            table_bytes: 0,
            patrol: Patrol::default(),
            arena: shared.arena,
            gathering: None,
            gathered_bytes: 0,
            sweeps_soon: false,
            has_retired: false,
            rests_ns: SWEEP_NS,
            rest_ends_ns: 0,
            owes_bytes: 0,
            wakes_ns: NEVER,
            random: 0x9e37_79b9_7f4a_7c15 ^ (shard as u64 + 1),
            listening: Listening {
                listener: shared.listener,
                untold: Vec::new(),
                untold_bytes: 0,
                waiting: 0,
                is_on: false,
            },
            is_open: false,
            is_broken: false,
            shard,
            pool: shared.pool,
            flights: shared.flights,
            counters: shared.counters,
            gauges: shared.gauges,
            clock: shared.clock,
            alarms: shared.alarms,
            #[cfg(test)]
            never_tidy: false,
        }
    }

    /// Begins a turn.
    pub fn open(&mut self) {
        if self.is_open && !self.is_broken {
            self.is_broken = true;
            log::error!(
                "shard {} is broken: it is read on, and not changed any more",
                self.shard
            );
        }
        self.is_open = true;
    }

    /// Ends a turn.
    pub fn close(&mut self) -> Ended<B> {
        if !self.is_broken {
            self.settle();
        }
        self.show();
        self.is_open = false;
        Ended {
            written: self.written.take(),
            dead: if self.dead.is_empty() {
                Vec::new()
            } else {
                std::mem::take(&mut self.dead)
            },
            calls_owner: self.is_overdue(),
            tells_much: self.is_untold(self.pool.credit_cap_bytes()),
        }
    }

    /// Whether more than the shard's part of so many bytes waits for the listener.
    #[inline]
    fn is_untold(&self, bytes: usize) -> bool {
        self.listening.untold_bytes * self.gauges.len() > bytes
    }

    /// Makes a change that was queued.
    pub fn unqueue(&mut self, change: Change<B>) {
        self.pool.dequeue(change.weight_bytes());
        self.make(change);
    }

    /// Makes a change; false if there was nothing to remove, or what was to be stored has no room.
    pub fn make(&mut self, change: Change<B>) -> bool {
        self.fence_written();
        match change {
            Change::Publish {
                hash,
                entry,
                flight,
            } => {
                let is_stored = self.guarded(|owner| owner.publish(hash, entry, flight.as_deref()));
                match &flight {
                    // Only now: until here whoever missed found the flight.
                    Some(flight) => self.flights.close(flight),
                    None => self.written = Some(hash),
                }
                is_stored
            }
            Change::Remove { hash, key } => {
                let is_removed = self.guarded(|owner| owner.remove(hash, &key));
                self.written = Some(hash);
                is_removed
            }
        }
    }

    /// What was begun before the last write is to be seen must not come after it.
    fn fence_written(&mut self) {
        if let Some(hash) = self.written.take() {
            self.flights.fence(hash);
        }
    }

    /// Runs what calls a key's code, on a shard that is whole.
    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> bool) -> bool {
        !self.is_broken && guarded(KEY, || work(self)).unwrap_or(false)
    }

    fn publish(&mut self, hash: u64, entry: Handle<B>, flight: Option<&Flight<B>>) -> bool {
        let header = entry.header();
        let partition = usize::from(header.partition());
        let generation = self.pool.partitions[partition].generation();
        if flight.is_some_and(Flight::is_fenced) || header.generation() != generation {
            self.dead.push(entry);
            return false;
        }
        if flight.is_some() {
            // It was not there.
            self.policies[partition].expect(header.hash);
        }
        let weight = entry.weight_bytes() as usize;
        let is_same = |other| same_key(&entry, other);
        // A listener that stores more than it is told of would never be done, and what it is to be told never end.
        let is_told_enough = self.is_untold(self.pool.budget_bytes() / UNTOLD_PART) && is_telling();
        if is_told_enough || !self.make_room(partition, weight) {
            add(&self.counters[partition].refused, 1);
            // A value that could not be replaced is out of date.
            if let Some(old) = self.writer.remove(hash, is_same) {
                self.drop_out(old, Cause::Replaced);
            }
            self.dead.push(entry);
            return false;
        }
        let old = self.writer.insert(entry.as_ptr(), hash, is_same);
        let expires_ns = expiry_ns::<B>(entry.as_ptr());
        let new = entry.into_raw();
        match old {
            None => {
                self.policies[partition].admit(token(new), &mut InTable::<B>::new(&self.writer))
            }
            Some(old) => self.replace(partition, old, new),
        }
        self.used_bytes += weight;
        self.pool.partitions[partition].add(weight);
        // SAFETY: the table holds a reference to it.
        unsafe { B::settle(new) };
        if expires_ns != NEVER {
            self.patrol.expect(expires_ns);
        }
        add(&self.counters[partition].stored, 1);
        add(&self.counters[partition].entries, 1);
        add(&self.counters[partition].entry_bytes, weight as u64);
        true
    }

    /// Stores an entry of former days, which is older than all that came since: it replaces nothing, evicts nothing, and
    /// fences no load.
    pub fn restore(&mut self, hash: u64, entry: Handle<B>) -> Fate {
        let mut fate = Fate::Refused;
        self.guarded(|owner| {
            let (partition, weight) = (entry.header().partition(), entry.weight_bytes());
            if owner.writer.holds(hash, |other| same_key(&entry, other)) {
                fate = Fate::Held;
            } else if owner.has_room(usize::from(partition), weight as usize)
                && owner.publish(hash, entry, None)
            {
                fate = Fate::Restored;
            }
            fate == Fate::Restored
        });
        fate
    }

    /// The new entry stands where the old one stood, and is as much asked for.
    fn replace(&mut self, partition: usize, old: NonNull<Header>, new: NonNull<Header>) {
        let (old_token, new_token) = (token(old), token(new));
        header(new_token).set_counter(header(old_token).counter());
        self.policies[partition].replace(
            old_token,
            new_token,
            &mut InTable::<B>::new(&self.writer),
        );
        self.retire(old, Cause::Replaced);
    }

    fn remove(&mut self, hash: u64, key: &B::OwnedKey) -> bool {
        // SAFETY: the table holds a reference to each entry that it shows us.
        let is_it = |entry| unsafe { with_handle::<B, _>(entry, |entry| B::has_key(entry, key)) };
        let Some(entry) = self.writer.remove(hash, is_it) else {
            return false;
        };
        let is_expired = self.is_expired(entry);
        let cause = if is_expired {
            Cause::Expired
        } else {
            Cause::Removed
        };
        self.drop_out(entry, cause);
        !is_expired
    }

    fn weight_of(&self, entry: NonNull<Header>) -> usize {
        // SAFETY: linked, or not yet swept; built by `B`, as all entries here.
        unsafe { B::weight_bytes(entry) as usize }
    }

    fn is_expired(&self, entry: NonNull<Header>) -> bool {
        self.clock.is_past(expiry_ns::<B>(entry))
    }

    /// Removes the entries of a partition's former generations from some buckets, `from` on; returns where to go on.
    pub fn clear(&mut self, partition: u16, from: usize) -> Option<usize> {
        const BUCKETS_A_TURN: usize = 1024;
        if self.is_broken {
            return None;
        }
        let generation = self.pool.partitions[usize::from(partition)].generation();
        if from == 0 {
            self.writer.begin_walk();
        }
        let to = (from + BUCKETS_A_TURN).min(self.writer.buckets());
        for bucket in from..to {
            let is_dead = |entry: &NonNull<Header>| {
                // SAFETY: the table holds a reference to each entry that it shows us.
                let header = unsafe { entry.as_ref() };
                header.partition() == partition && header.generation() != generation
            };
            let dead: Vec<_> = self.writer.bucket(bucket).filter(is_dead).collect();
            for entry in dead {
                self.writer.unlink(entry);
                self.drop_out(entry, Cause::Removed);
            }
        }
        self.sweep();
        let goes_on = to < self.writer.buckets();
        if !goes_on {
            self.writer.end_walk();
        }
        goes_on.then_some(to)
    }

    /// Takes an unlinked entry out of its queue and retires it.
    fn drop_out(&mut self, entry: NonNull<Header>, cause: Cause) {
        let partition = usize::from(header(token(entry)).partition());
        self.policies[partition].remove(token(entry), &mut InTable::<B>::new(&self.writer));
        self.retire(entry, cause);
    }

    /// Takes the table's reference to an entry that is in neither table nor queue any more.
    fn retire(&mut self, entry: NonNull<Header>, cause: Cause) {
        let weight = self.weight_of(entry);
        let partition = usize::from(header(token(entry)).partition());
        let counters = &self.counters[partition];
        add(counters.left_by(cause), 1);
        add(&counters.entries, 1_u64.wrapping_neg());
        add(&counters.entry_bytes, (weight as u64).wrapping_neg());
        self.pool.partitions[partition].subtract(weight);
        self.retired_bytes += weight;
        self.has_retired = true;
        if self.listening.listener.get().is_some() {
            self.note_cause(entry, cause);
        }
        self.retired.push(entry);
    }

    /// Says at an entry that is about to be retired what the listener is to be told.
    fn note_cause(&mut self, entry: NonNull<Header>, cause: Cause) {
        if !self.listening.is_on {
            // What left before there was a listener says nothing.
            self.listening.is_on = true;
            let told = |entry: &NonNull<Header>| header(token(*entry)).set_place(TOLD);
            self.retired.iter().for_each(told);
        }
        let untold = UNTOLD.iter().find(|(_, other)| *other == cause);
        let (number, _) = untold.expect("each cause has a number");
        self.listening.waiting += 1;
        header(token(entry)).set_place(*number);
    }

    /// What the listener was not told yet.
    pub fn take_untold(&mut self) -> Untold<B> {
        self.listening.untold_bytes = 0;
        std::mem::take(&mut self.listening.untold)
    }

    /// Takes the garbage that nobody holds out of the books; it is dropped when the turn has ended. Returns its bytes.
    pub fn sweep(&mut self) -> usize {
        if self.retired.is_empty() {
            return 0;
        }
        let (mut freed, dead) = (0, &mut self.dead);
        dead.reserve(self.retired.len());
        let listening = std::cell::RefCell::new(&mut self.listening);
        // SAFETY: retired entries are unlinked, and the references are the table's, which are ours to drop.
        let free = |entry| unsafe {
            let weight = B::weight_bytes(entry) as usize;
            freed += weight;
            let cause = listening.borrow().untold_cause(header(token(entry)));
            let entry = Handle::<B>::from_raw(entry);
            match cause {
                Some(cause) => listening.borrow_mut().add(entry, cause, weight),
                None => dead.push(entry),
            }
        };
        let kept = |entry| {
            let header = header(token(entry));
            let cause = listening.borrow().untold_cause(header);
            if let Some(cause) = cause {
                header.set_place(TOLD);
                // SAFETY: the table's reference is still there.
                let entry = unsafe { Handle::acquire(entry) };
                listening.borrow_mut().add(entry, cause, 0);
            }
        };
        // SAFETY: as for `free`.
        unsafe { reclaim::sweep(&mut self.retired, free, kept) };
        self.rests_ns = if freed > 0 {
            SWEEP_NS
        } else {
            SWEEP_MAX_NS.min(2 * self.rests_ns)
        };
        self.retired_bytes -= freed;
        self.used_bytes -= freed;
        // Twice what could not be freed: so a sweep is paid by what was retired since the last one.
        self.sweep_at_bytes = 2 * self.retired_bytes + self.batch_bytes();
        freed
    }

    fn show(&self) {
        let gauges = &self.gauges[self.shard];
        let set = |gauge: &AtomicU64, value: usize| {
            // What is as it was is not written to.
            if gauge.load(Ordering::Relaxed) != value as u64 {
                gauge.store(value as u64, Ordering::Relaxed);
            }
        };
        set(&gauges.leased_bytes, self.leased_bytes);
        set(&gauges.used_bytes, self.used_bytes);
        set(&gauges.garbage_bytes, self.retired_bytes);
    }
}

impl<B: Body> Drop for Owner<B> {
    /// Nobody reads the table any more. Entries that are still held elsewhere outlive it by their own references.
    fn drop(&mut self) {
        self.arena.put_away();
        if self.is_broken || self.is_open {
            // Nobody knows what it still holds.
            return;
        }
        let retired = std::mem::take(&mut self.retired);
        // SAFETY: the references of the garbage list and of the table, each dropped once.
        let release = |entry| drop(unsafe { Handle::<B>::from_raw(entry) });
        retired.into_iter().for_each(release);
        self.writer.for_each(release);
    }
}

/// Adds to a counter that is written by whoever has the turn, and by nobody else.
fn add(counter: &AtomicU64, more: u64) {
    let now = counter.load(Ordering::Relaxed).wrapping_add(more);
    counter.store(now, Ordering::Relaxed);
}

fn expiry_ns<B: Body>(entry: NonNull<Header>) -> u64 {
    // SAFETY: callers have the entry from the table, or from a handle; all entries here are built by `B`.
    unsafe {
        if entry.as_ref().expires() {
            B::expiry_ns(entry)
        } else {
            NEVER
        }
    }
}

fn same_key<B: Body>(entry: &Handle<B>, other: NonNull<Header>) -> bool {
    // SAFETY: the table holds a reference to each entry that it shows its writer.
    unsafe { with_handle::<B, _>(other, |other| B::same_key(entry, other)) }
}

/// Lends an entry as a handle, without touching its count.
///
/// # Safety
/// `entry` is of body `B` and stays alive for the length of the call.
unsafe fn with_handle<B: Body, R>(entry: NonNull<Header>, f: impl FnOnce(&Handle<B>) -> R) -> R {
    // SAFETY: by the caller's word; the reference is not ours, so it is not dropped.
    let handle = std::mem::ManuallyDrop::new(unsafe { Handle::<B>::from_raw(entry) });
    f(&handle)
}

#[cfg(test)]
mod tests;
