//! What both caches share: shards, their owners, and the ways in.

use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Sender};

use parking_lot::Mutex;

use super::budget::{Pool, Share, footprint_bytes};
use super::builder::{BuildError, SHARD_MIN_BYTES, check_budget};
use super::clock::Clock;
use super::entry::{Body, Handle, Header};
use super::flight::{EntryTooLarge, Failure, Flights, Joined, Lead, Outcome, Waited};
use super::owner::{self, Listener, Message, Owner, QUEUE_BYTES_AN_ENTRY, Shared};
use super::pin::pin_to_core;
use super::reclaim::Guard;
use super::stats::{PartitionCounters, ReadCounters, ShardGauges, Stats, bump};
use super::table::Table;

/// Messages that wait for one owner at the most; a sender waits for a place.
const QUEUE_LEN: usize = 1024;
/// What a header's 32 bits hold, less the value that stands for all that is more.
const WEIGHT_MAX_BYTES: usize = u32::MAX as usize - 1;

struct Shard<B: Body> {
    table: Arc<Table>,
    flights: Arc<Flights<B>>,
}

pub(crate) struct Core<B: Body> {
    shards: Box<[Shard<B>]>,
    queues: Arc<[Sender<Message<B>>]>,
    pool: Arc<Pool>,
    reads: ReadCounters,
    counters: Arc<[PartitionCounters]>,
    gauges: Arc<[ShardGauges]>,
    pub clock: Clock,
    owners: Vec<JoinHandle<()>>,
    clearing: Mutex<()>,
    listener: Arc<OnceLock<Listener<B>>>,
}

impl<B: Body> Core<B> {
    /// Starts the owners.
    pub fn start(pool: Arc<Pool>, shards: usize, cores: &[usize]) -> Result<Self, BuildError> {
        let partitions = pool.partitions.len();
        let (queues, messages): (Vec<_>, Vec<_>) =
            (0..shards).map(|_| channel::bounded(QUEUE_LEN)).unzip();
        let mut core = Self {
            shards: Box::default(),
            queues: queues.into(),
            reads: ReadCounters::new(partitions),
            counters: (0..partitions)
                .map(|_| PartitionCounters::default())
                .collect(),
            gauges: (0..shards).map(|_| ShardGauges::default()).collect(),
            clock: Clock::new(),
            owners: Vec::with_capacity(shards),
            clearing: Mutex::new(()),
            listener: Arc::default(),
            pool,
        };
        let mut made = Vec::with_capacity(shards);
        for (index, messages) in messages.into_iter().enumerate() {
            let flights = Flights::new();
            let owner = Owner::new(index, core.shared(&flights));
            made.push(Shard {
                table: owner.writer.table().clone(),
                flights,
            });
            let pinned = (!cores.is_empty()).then(|| cores[index % cores.len()]);
            let thread = thread::Builder::new().name(format!("shard-{index}"));
            // On failure the threads started so far are stopped by the drop of `core`.
            core.owners.push(thread.spawn(move || {
                pinned.inspect(|&core| pin_or_warn(core));
                owner.run(&messages);
            })?);
        }
        core.shards = made.into();
        Ok(core)
    }

    fn shared(&self, flights: &Arc<Flights<B>>) -> Shared<B> {
        Shared {
            pool: self.pool.clone(),
            flights: flights.clone(),
            counters: self.counters.clone(),
            gauges: self.gauges.clone(),
            queues: self.queues.clone(),
            clock: self.clock,
            listener: self.listener.clone(),
        }
    }

    fn shard_index(&self, hash: u64) -> usize {
        // Bits that neither the tag nor, up to 2^32 buckets, the bucket is made of.
        ((hash >> 32 & 0xffff) as usize * self.shards.len()) >> 16
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Shard<B> {
        &self.shards[self.shard_index(hash)]
    }

    /// Reads an entry in place, without a lock, and counts the read.
    ///
    /// `f` runs while the entry is protected: the pointer is good until it returns.
    #[inline]
    pub fn read<R>(
        &self,
        partition: u16,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
        f: impl FnOnce(NonNull<Header>) -> R,
    ) -> Option<R> {
        let guard = Guard::enter();
        let found = self.find_live(&guard, hash, is_it);
        self.reads.count(guard.reader(), partition, found.is_some());
        found.map(f)
    }

    #[inline]
    fn find_live(
        &self,
        guard: &Guard,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let entry = self.shard(hash).table.find(guard, hash, is_it)?;
        // SAFETY: protected by the guard.
        let header = unsafe { entry.as_ref() };
        let is_cleared = header.generation != self.generation(header.partition);
        if is_cleared || self.clock.is_past(header.hard_expiry_ns) {
            return None;
        }
        header.touch();
        Some(entry)
    }

    /// A counted reference to an entry; not counted as a read.
    fn look(&self, hash: u64, is_it: impl Fn(NonNull<Header>) -> bool) -> Option<Handle<B>> {
        let guard = Guard::enter();
        let entry = self.find_live(&guard, hash, is_it)?;
        // SAFETY: protected by the guard, and built by `B`, as all entries here.
        Some(unsafe { Handle::acquire(entry) })
    }

    /// After a miss: joins the key's flight, or opens one.
    pub fn join(
        &self,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
        is_key: impl Fn(&B::OwnedKey) -> bool,
        to_owned: impl FnOnce() -> B::OwnedKey,
    ) -> Joined<B> {
        let look = || self.look(hash, is_it);
        self.shard(hash).flights.join(hash, is_key, to_owned, look)
    }

    /// After a miss: waits for the load that is under way, or loads on this thread.
    pub fn load(
        &self,
        partition: u16,
        joined: Joined<B>,
        deadline: Option<Instant>,
        load: impl FnOnce(&B::OwnedKey) -> Result<Loaded<B>, Failure>,
    ) -> Outcome<B> {
        let counters = &self.counters[usize::from(partition)];
        let lead = match joined {
            Joined::Hit(entry) => return Ok(entry),
            Joined::Lead(lead) => lead,
            Joined::Follow(flight) => {
                bump(&counters.joined);
                let flights = &self.shard(flight.hash()).flights;
                match flight.wait(deadline) {
                    Waited::Outcome(outcome) => return outcome,
                    Waited::Lead => Lead::take_over(flights, flight),
                    Waited::LateLead => {
                        drop(Lead::take_over(flights, flight));
                        return Err(Failure::TimedOut);
                    }
                }
            }
        };
        self.lead(partition, lead, load)
    }

    /// Loads on this thread and hands the outcome to all who wait. If `load` panics, the next waiter leads.
    pub fn lead(
        &self,
        partition: u16,
        lead: Lead<B>,
        load: impl FnOnce(&B::OwnedKey) -> Result<Loaded<B>, Failure>,
    ) -> Outcome<B> {
        let counters = &self.counters[usize::from(partition)];
        let timed = LoadTimer::start(counters);
        let outcome = lead.run(|| load(lead.flight().key()));
        timed.stop(outcome.is_ok());
        match outcome {
            Err(failure) => {
                lead.finish(Err(failure.clone()));
                Err(failure)
            }
            Ok(Loaded { entry, stored }) => {
                if stored && self.admit(&entry).is_ok() {
                    let flight = Some(lead.deliver(entry.clone()));
                    self.send(Message::Publish {
                        entry: entry.clone(),
                        flight,
                        done: None,
                    });
                } else {
                    lead.finish(Ok(entry.clone()));
                }
                Ok(entry)
            }
        }
    }

    /// What an entry of so many allocated bytes takes from the budget, the table's lines not included.
    pub fn weigh(allocated_bytes: usize) -> usize {
        footprint_bytes(allocated_bytes) + QUEUE_BYTES_AN_ENTRY
    }

    pub fn share(&self, partition: u16) -> Share {
        self.pool.partitions[usize::from(partition)].share
    }

    /// The most that an entry of this partition may weigh.
    pub fn largest_bytes(&self, partition: u16) -> usize {
        let share = self.pool.partitions[usize::from(partition)].share;
        let overhead = self.shards.len() * SHARD_MIN_BYTES / 2;
        share.largest_bytes.min(self.pool.budget_bytes() - overhead)
    }

    /// Refuses what can never fit, and counts that.
    pub fn admit(&self, entry: &Handle<B>) -> Result<(), EntryTooLarge> {
        let header = entry.header();
        self.check_weight(header.partition, header.weight_bytes as usize)
    }

    /// As [`Core::admit`], before there is an entry.
    pub fn check_weight(&self, partition: u16, entry_bytes: usize) -> Result<(), EntryTooLarge> {
        let largest_bytes = self.largest_bytes(partition).min(WEIGHT_MAX_BYTES);
        if entry_bytes <= largest_bytes {
            return Ok(());
        }
        bump(&self.counters[usize::from(partition)].refused);
        Err(EntryTooLarge {
            entry_bytes,
            largest_bytes,
        })
    }

    /// Stores an admitted entry in place of what its key holds; waits until that is to be seen, if `wait`.
    pub fn insert(&self, entry: Handle<B>, wait: bool) -> bool {
        self.shard(entry.header().hash)
            .flights
            .fence(entry.header().hash);
        self.ask(wait, |done| Message::Publish {
            entry,
            flight: None,
            done,
        })
    }

    /// Removes a key; tells whether there was an entry, if `wait`.
    pub fn remove(&self, hash: u64, key: B::OwnedKey, wait: bool) -> bool {
        self.shard(hash).flights.fence(hash);
        self.ask(wait, |done| Message::Remove { hash, key, done })
    }

    /// The generation that entries of this partition have now; loads take it before they begin.
    #[inline]
    pub fn generation(&self, partition: u16) -> u16 {
        self.pool.partitions[usize::from(partition)].generation()
    }

    /// Removes all entries of a partition: at once for readers, and for the budget by the time that it returns.
    /// What is being loaded now reaches those who wait, and is not stored.
    pub fn clear(&self, partition: u16) {
        // One at a time, so that generations can not come round; an owner must not wait for the others.
        let _turn = (!owner::is_this_thread()).then(|| self.clearing.lock());
        self.pool.partitions[usize::from(partition)].start_generation();
        for shard in &self.shards {
            shard
                .flights
                .fence_all(|key| B::partition(key) == partition);
        }
        self.tell_all(|done| Message::Clear { partition, done });
    }

    /// Sets another budget. What is over it is evicted soon, by the shards in proportion to what they hold.
    pub fn resize(&self, budget_bytes: usize) -> Result<(), BuildError> {
        check_budget(budget_bytes, self.shards.len())?;
        self.pool.resize(budget_bytes);
        let debt = self.pool.debt_bytes();
        if debt > 0 {
            owner::ask_to_yield(&self.pool, &self.gauges, &self.queues, None, debt);
        }
        Ok(())
    }

    /// Sets who is told of entries that leave; once.
    pub fn listen(&self, listener: Listener<B>) {
        // Its one caller takes the cache by value and hands it on, so a second one is a mistake that is not made.
        let _ = self.listener.set(listener);
    }

    /// Waits until all that was sent before is done.
    pub fn flush(&self) {
        self.tell_all(Message::Flush);
    }

    fn tell_all(&self, message: impl Fn(Sender<bool>) -> Message<B>) {
        let (done, all_done) = channel::bounded(self.queues.len());
        for queue in self.queues.iter() {
            let _ = post(queue, message(done.clone()));
        }
        drop(done);
        if !owner::is_this_thread() {
            while all_done.recv().is_ok() {}
        }
    }

    fn ask(&self, wait: bool, message: impl FnOnce(Option<Sender<bool>>) -> Message<B>) -> bool {
        if !wait || owner::is_this_thread() {
            self.send(message(None));
            return true;
        }
        let (done, answer) = channel::bounded(1);
        self.send(message(Some(done)));
        answer.recv().unwrap_or(false)
    }

    fn send(&self, message: Message<B>) {
        let (hash, bytes) = match &message {
            Message::Publish { entry, .. } => {
                let header = entry.header();
                (header.hash, header.weight_bytes as usize)
            }
            Message::Remove { hash, .. } => (*hash, 0),
            _ => (0, 0),
        };
        let index = self.shard_index(hash);
        let is_calm = self.pool.enqueue(bytes);
        if let Err(message) = post(&self.queues[index], message) {
            self.pool.dequeue(bytes);
            self.lose(index, message);
        } else if !is_calm && !owner::is_this_thread() {
            // Entries on their way are within no budget: who sends many waits until the owner has come by.
            let (done, passed) = channel::bounded(1);
            let _ = post(&self.queues[index], Message::Flush(done));
            let _ = passed.recv();
        }
    }

    /// Only what an owner sends while it drops a value can fail to be sent; see [`owner::is_this_thread`].
    fn lose(&self, index: usize, message: Message<B>) {
        log::error!("the queue of shard {index} is full, a change made by a value's drop is lost");
        if let Message::Publish {
            flight: Some(flight),
            ..
        } = message
        {
            self.shards[index].flights.close(&flight);
        }
    }

    /// Counts a caller that joined a load without waiting on this thread.
    pub fn count_joined(&self, partition: u16) {
        bump(&self.counters[usize::from(partition)].joined);
    }

    /// The figures of one partition; `used_bytes` and what follows it are the whole cache's.
    pub fn partition_stats(&self, partition: u16) -> Stats {
        let (hits, misses) = self.reads.sum(partition);
        let counters = &self.counters[usize::from(partition)];
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let sum = |gauge: fn(&ShardGauges) -> &std::sync::atomic::AtomicU64| {
            self.gauges.iter().map(|shard| get(gauge(shard))).sum()
        };
        Stats {
            hits,
            misses,
            joined: get(&counters.joined),
            loads: get(&counters.loads),
            load_failures: get(&counters.load_failures),
            load_time: Duration::from_nanos(get(&counters.load_ns)),
            entries: get(&counters.entries),
            stored: get(&counters.stored),
            evicted: get(&counters.evicted),
            expired: get(&counters.expired),
            removed: get(&counters.removed),
            replaced: get(&counters.replaced),
            refused: get(&counters.refused),
            entry_bytes: self.pool.partitions[usize::from(partition)].used_bytes() as u64,
            used_bytes: sum(|shard| &shard.used_bytes),
            garbage_bytes: sum(|shard| &shard.garbage_bytes),
            budget_bytes: self.pool.budget_bytes() as u64,
            overshoot_bytes: self.pool.debt_bytes() as u64,
            queued: self.queues.iter().map(|queue| queue.len() as u64).sum(),
            flights: self
                .shards
                .iter()
                .map(|shard| shard.flights.len() as u64)
                .sum(),
        }
    }

    pub fn budget_bytes(&self) -> u64 {
        self.pool.budget_bytes() as u64
    }

    /// Bytes of entries that left the cache, but that somebody still holds.
    pub fn garbage_bytes(&self) -> u64 {
        let garbage = |shard: &ShardGauges| shard.garbage_bytes.load(Ordering::Relaxed);
        self.gauges.iter().map(garbage).sum()
    }

    pub fn shard_len(&self) -> usize {
        self.shards.len()
    }
}

impl<B: Body> Drop for Core<B> {
    fn drop(&mut self) {
        self.pool.close();
        for queue in self.queues.iter() {
            // A full queue will do: its owner looks after each message.
            let _ = queue.try_send(Message::Stop);
        }
        // A value can hold the last reference to its own cache, and be dropped by an owner; then the owners end later.
        if !owner::is_this_thread() {
            for owner in self.owners.drain(..) {
                let _ = owner.join();
            }
        }
        for shard in &self.shards {
            shard.flights.close_all();
        }
    }
}

/// Sends, and waits for a place in the queue; an owner does not wait, it gets the message back.
fn post<B: Body>(queue: &Sender<Message<B>>, message: Message<B>) -> Result<(), Message<B>> {
    if owner::is_this_thread() {
        queue.try_send(message).map_err(|error| error.into_inner())
    } else {
        queue.send(message).map_err(|error| error.into_inner())
    }
}

/// What a loader brought.
pub(crate) struct Loaded<B: Body> {
    pub entry: Handle<B>,
    pub stored: bool,
}

/// Counts a load when it ends, however it ends.
struct LoadTimer<'a> {
    counters: &'a PartitionCounters,
    start: Instant,
    is_ok: bool,
}

impl<'a> LoadTimer<'a> {
    fn start(counters: &'a PartitionCounters) -> Self {
        Self {
            counters,
            start: Instant::now(),
            is_ok: false,
        }
    }

    fn stop(mut self, is_ok: bool) {
        self.is_ok = is_ok;
    }
}

impl Drop for LoadTimer<'_> {
    fn drop(&mut self) {
        bump(&self.counters.loads);
        let took_ns = self.start.elapsed().as_nanos() as u64;
        self.counters.load_ns.fetch_add(took_ns, Ordering::Relaxed);
        if !self.is_ok {
            bump(&self.counters.load_failures);
        }
    }
}

/// Binds the thread to a core; the first refusal in the process is logged.
pub(crate) fn pin_or_warn(core: usize) {
    static WARNED: Once = Once::new();
    if let Err(refusal) = pin_to_core(core) {
        WARNED.call_once(|| {
            log::warn!("a thread can not be bound to core {core}: {refusal}; going on without");
        });
    }
}
