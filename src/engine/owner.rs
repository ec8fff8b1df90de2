//! The owner of a shard: the one thread that changes its table.
//!
//! It takes messages, makes room, publishes, evicts, and frees what no reader holds any more. While nothing comes it
//! sleeps; only as long as there is garbage that readers hold does it look again now and then.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use super::budget::Pool;
use super::clock::Clock;
use super::entry::{Body, Handle, Header};
use super::flight::{Flight, Flights};
use super::foreign::guarded;
use super::policy::{Entries, Policy, TwoClocks};
use super::reclaim;
use super::stats::{Cause, PartitionCounters, ShardGauges, bump};
use super::table::Writer;

mod room;

pub(crate) use room::ask_to_yield;

/// Whose code runs on an owner, beside the drops that entries guard themselves: one that panics costs its own message,
/// not the shard.
const KEY: &str = "a key that was compared or dropped";
/// How long garbage that a reader holds is left alone.
const SWEEP_EVERY: Duration = Duration::from_millis(50);

thread_local! {
    static IS_OWNER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread owns a shard. If so it runs a key's or a value's code (`Eq`, `Drop`), and must not wait for an
/// owner: neither for itself nor for one that may be waiting for it.
pub(crate) fn is_this_thread() -> bool {
    IS_OWNER.get()
}

pub(crate) enum Message<B: Body> {
    /// Store an entry; close the flight that brought it.
    Publish {
        entry: Handle<B>,
        flight: Option<Arc<Flight<B>>>,
        done: Option<Sender<bool>>,
    },
    Remove {
        hash: u64,
        key: B::OwnedKey,
        done: Option<Sender<bool>>,
    },
    /// Remove the entries of a partition's former generations.
    Clear {
        partition: u16,
        done: Sender<bool>,
    },
    /// Wakes an owner that is asked to give back; see `Pool::ask_back`.
    Yield,
    /// Answered when all that was sent before is done.
    Flush(Sender<bool>),
    Stop,
}

/// What a queue's place costs beside the policy's own: the owner's way back from token to entry.
pub(crate) const QUEUE_BYTES_AN_ENTRY: usize = TwoClocks::BYTES_AN_ENTRY + size_of::<usize>();

/// The entries of one partition in this shard.
#[derive(Default)]
struct Partition {
    policy: TwoClocks,
    /// By token.
    entries: Vec<Option<NonNull<Header>>>,
}

struct EntryCounters<'a>(&'a [Option<NonNull<Header>>]);

impl EntryCounters<'_> {
    fn header(&self, token: u32) -> &Header {
        let entry = self.0[token as usize].expect("a token in use has an entry");
        // SAFETY: the table holds a reference to each entry that the queues hold a token of.
        unsafe { entry.as_ref() }
    }
}

impl Entries for EntryCounters<'_> {
    fn counter(&self, token: u32) -> u8 {
        self.header(token).frequency()
    }

    fn set_counter(&mut self, token: u32, counter: u8) {
        self.header(token).set_frequency(counter);
    }

    fn hash(&self, token: u32) -> u64 {
        self.header(token).hash
    }
}

pub(crate) struct Owner<B: Body> {
    pub writer: Writer,
    partitions: Vec<Partition>,
    retired: Vec<NonNull<Header>>,
    retired_bytes: usize,
    /// With so much garbage it is time for a sweep, whether room is needed or not.
    sweep_at_bytes: usize,
    leased_bytes: usize,
    used_bytes: usize,
    /// The part of `used_bytes` that is the table's.
    table_bytes: usize,
    random: u64,
    /// What has left since the listener was told last.
    untold: Vec<(NonNull<Header>, Cause)>,
    listener: Arc<OnceLock<Listener<B>>>,
    pub shard: usize,
    pub pool: Arc<Pool>,
    pub flights: Arc<Flights<B>>,
    pub counters: Arc<[PartitionCounters]>,
    pub gauges: Arc<[ShardGauges]>,
    pub queues: Arc<[Sender<Message<B>>]>,
    pub clock: Clock,
}

// SAFETY: the raw pointers are references to entries, which are Send; the owner alone uses them.
unsafe impl<B: Body> Send for Owner<B> {}

/// What an owner shares with the rest of its cache.
pub(crate) struct Shared<B: Body> {
    pub pool: Arc<Pool>,
    pub flights: Arc<Flights<B>>,
    pub counters: Arc<[PartitionCounters]>,
    pub gauges: Arc<[ShardGauges]>,
    pub queues: Arc<[Sender<Message<B>>]>,
    pub clock: Clock,
    pub listener: Arc<OnceLock<Listener<B>>>,
}

/// Told of each entry that has left, on the thread of its owner.
pub(crate) type Listener<B> = Box<dyn Fn(&Handle<B>, Cause) + Send + Sync>;

impl<B: Body> Owner<B> {
    pub fn new(shard: usize, shared: Shared<B>) -> Self {
        let partitions = shared.pool.partitions.len();
        Self {
            writer: Writer::new(),
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            retired: Vec::new(),
            retired_bytes: 0,
            sweep_at_bytes: shared.pool.quantum_bytes,
            leased_bytes: 0,
            used_bytes: 0,
            table_bytes: 0,
            untold: Vec::new(),
            listener: shared.listener,
            random: 0x9e37_79b9_7f4a_7c15 ^ (shard as u64 + 1),
            shard,
            pool: shared.pool,
            flights: shared.flights,
            counters: shared.counters,
            gauges: shared.gauges,
            queues: shared.queues,
            clock: shared.clock,
        }
    }

    /// Works until [`Message::Stop`], or until the cache has been dropped.
    pub fn run(mut self, messages: &Receiver<Message<B>>) {
        IS_OWNER.set(true);
        while !self.pool.is_closed() {
            match self.next_message(messages) {
                Some(Message::Stop) => return,
                Some(message) => drop(guarded(KEY, || self.handle(message))),
                None => drop(self.sweep()),
            }
            self.settle();
            self.show();
        }
    }

    /// Sleeps until there is one; none if it is time to look after the garbage.
    fn next_message(&self, messages: &Receiver<Message<B>>) -> Option<Message<B>> {
        if self.retired.is_empty() {
            return Some(messages.recv().unwrap_or(Message::Stop));
        }
        match messages.recv_timeout(SWEEP_EVERY) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Message::Stop),
        }
    }

    fn handle(&mut self, message: Message<B>) {
        match message {
            Message::Publish {
                entry,
                flight,
                done,
            } => {
                self.pool.dequeue(entry.header().weight_bytes as usize);
                let hash = entry.header().hash;
                let stored =
                    guarded(KEY, || self.publish(entry, flight.as_deref())).unwrap_or(false);
                match &flight {
                    // Only now: until here whoever missed found the flight.
                    Some(flight) => self.flights.close(flight),
                    // What was begun before the write is to be seen must not come after it.
                    None => self.flights.fence(hash),
                }
                answer(done, stored);
            }
            Message::Remove { hash, key, done } => {
                let removed = self.remove(hash, &key);
                answer(done, removed);
            }
            Message::Clear { partition, done } => {
                self.clear(usize::from(partition));
                answer(Some(done), true);
            }
            Message::Flush(done) => answer(Some(done), true),
            // What it is about is done after each message.
            Message::Yield | Message::Stop => {}
        }
    }

    fn publish(&mut self, entry: Handle<B>, flight: Option<&Flight<B>>) -> bool {
        let header = entry.header();
        let generation = self.pool.partitions[usize::from(header.partition)].generation();
        if flight.is_some_and(Flight::is_fenced) || header.generation != generation {
            return false;
        }
        let (hash, weight, partition) = (header.hash, header.weight_bytes, header.partition);
        let is_same = |other: NonNull<Header>| same_key::<B>(&entry, other);
        if !self.make_room(usize::from(partition), weight as usize) {
            bump(&self.counters[usize::from(partition)].refused);
            // A value that could not be replaced is out of date.
            if let Some(old) = self.writer.remove(hash, is_same) {
                self.drop_out(old, Cause::Replaced);
            }
            return false;
        }
        let raw = entry.as_ptr();
        let old = self
            .writer
            .insert(raw, hash, |other| same_key::<B>(&entry, other));
        self.enqueue(entry.into_raw(), usize::from(partition));
        self.used_bytes += weight as usize;
        self.pool.partitions[usize::from(partition)].add(weight as usize);
        bump(&self.counters[usize::from(partition)].stored);
        bump(&self.counters[usize::from(partition)].entries);
        if let Some(old) = old {
            self.drop_out(old, Cause::Replaced);
        }
        self.charge_table();
        true
    }

    fn enqueue(&mut self, entry: NonNull<Header>, partition: usize) {
        // SAFETY: the table holds a reference.
        let header = unsafe { entry.as_ref() };
        let partition = &mut self.partitions[partition];
        let token = partition.policy.admit(
            header.hash,
            header.weight_bytes,
            &mut EntryCounters(&partition.entries),
        );
        header.set_token(token);
        header.set_frequency(0);
        let index = token as usize;
        if index == partition.entries.len() {
            partition.entries.push(None);
        }
        partition.entries[index] = Some(entry);
    }

    fn remove(&mut self, hash: u64, key: &B::OwnedKey) -> bool {
        // SAFETY: the table holds a reference to each entry that it shows us.
        let is_it = |entry| unsafe { with_handle::<B, _>(entry, |entry| B::has_key(entry, key)) };
        let removed = self.writer.remove(hash, is_it);
        if let Some(entry) = removed {
            // SAFETY: unlinked, but not yet retired.
            let is_expired = self.clock.is_past(unsafe { entry.as_ref() }.hard_expiry_ns);
            let cause = if is_expired {
                Cause::Expired
            } else {
                Cause::Removed
            };
            self.drop_out(entry, cause);
            return !is_expired;
        }
        false
    }

    fn clear(&mut self, partition: usize) {
        let generation = self.pool.partitions[partition].generation();
        for index in 0..self.partitions[partition].entries.len() {
            let Some(entry) = self.partitions[partition].entries[index] else {
                continue;
            };
            // SAFETY: the table holds a reference to each entry in the queues.
            let header = unsafe { entry.as_ref() };
            if header.generation != generation {
                self.writer.remove(header.hash, |other| other == entry);
                self.drop_out(entry, Cause::Removed);
            }
        }
        self.sweep();
    }

    /// Takes an unlinked entry out of its queue and retires it.
    fn drop_out(&mut self, entry: NonNull<Header>, cause: Cause) {
        // SAFETY: retired only below; its reference is still ours.
        let header = unsafe { entry.as_ref() };
        let partition = &mut self.partitions[usize::from(header.partition)];
        partition.policy.remove(header.token());
        partition.entries[header.token() as usize] = None;
        self.retire(entry, cause);
    }

    fn retire(&mut self, entry: NonNull<Header>, cause: Cause) {
        // SAFETY: as above.
        let header = unsafe { entry.as_ref() };
        let weight = header.weight_bytes as usize;
        let counters = &self.counters[usize::from(header.partition)];
        bump(counters.left_by(cause));
        counters.entries.fetch_sub(1, Ordering::Relaxed);
        self.pool.partitions[usize::from(header.partition)].subtract(weight);
        self.retired_bytes += weight;
        self.retired.push(entry);
        if self.listener.get().is_some() {
            self.untold.push((entry, cause));
        }
    }

    /// Tells the listener what has left. Readers do not find it any more; it is freed after this at the earliest.
    fn tell(&mut self) {
        let Some(listener) = self.listener.get() else {
            return;
        };
        for (entry, cause) in std::mem::take(&mut self.untold) {
            guarded("a listener", || {
                // SAFETY: retired, and not yet swept: the table's reference is still there.
                unsafe { with_handle::<B, _>(entry, |entry| listener(entry, cause)) }
            });
        }
    }

    /// Frees the garbage that nobody holds; returns its bytes.
    fn sweep(&mut self) -> usize {
        self.tell();
        let mut freed = 0;
        // SAFETY: retired entries are unlinked, and the references are the table's, which are ours to drop.
        unsafe {
            reclaim::sweep(&mut self.retired, |entry| {
                freed += entry.as_ref().weight_bytes as usize;
                drop(Handle::<B>::from_raw(entry));
            });
        }
        self.retired_bytes -= freed;
        self.used_bytes -= freed;
        // Twice what could not be freed: so a sweep is paid by what was retired since the last one.
        self.sweep_at_bytes = 2 * self.retired_bytes + self.pool.quantum_bytes;
        freed
    }

    fn show(&self) {
        let gauges = &self.gauges[self.shard];
        let set = |gauge: &AtomicU64, value: usize| gauge.store(value as u64, Ordering::Relaxed);
        set(&gauges.leased_bytes, self.leased_bytes);
        set(&gauges.used_bytes, self.used_bytes);
        set(&gauges.garbage_bytes, self.retired_bytes);
        set(&gauges.garbage_entries, self.retired.len());
    }
}

impl<B: Body> Drop for Owner<B> {
    /// Nobody reads the table any more. Entries that are still held elsewhere outlive it by their own references.
    fn drop(&mut self) {
        if thread::panicking() {
            // A broken invariant ended this owner, not its cache: readers go on, so nothing is freed.
            return;
        }
        let retired = std::mem::take(&mut self.retired);
        // SAFETY: the references of the garbage list and of the table, each dropped once.
        let release = |entry| drop(unsafe { Handle::<B>::from_raw(entry) });
        retired.into_iter().for_each(release);
        self.writer.for_each(release);
    }
}

fn answer(done: Option<Sender<bool>>, value: bool) {
    if let Some(done) = done {
        // Who asked may have left.
        let _ = done.send(value);
    }
}

fn same_key<B: Body>(entry: &Handle<B>, other: NonNull<Header>) -> bool {
    // SAFETY: the table holds a reference to each entry that it shows its owner.
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
