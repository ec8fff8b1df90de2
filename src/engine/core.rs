//! What both caches share: shards, their owners, and the ways in.

use std::process;
use std::ptr::NonNull;
use std::sync::{Arc, Once, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::arena::Arena;
use super::budget::{PartitionAccount, Pool, Share};
use super::builder::{BuildError, SHARD_MIN_BYTES, check_budget};
use super::clock::{Clock, NEVER};
use super::entry::{Body, Facts, Handle, Header, WEIGHT_MAX_BYTES, generation_of};
use super::flight::{EntryTooLarge, Failure, Flight, Flights, Joined, Lead, Outcome, Waited};
use super::owner::{self, Change, Fate, Listener, Shared};
use super::pin::pin_to_core;
use super::reclaim::Guard;
use super::shard::{self, Shard};
use super::stats::{LoadCounters, PartitionCounters, ReadCounters, ShardGauges, Stats, bump};
use super::sync::channel::{self, Receiver, Sender};
use super::sync::{AtomicU64, Ordering};
use super::table::Table;
use crossbeam::utils::CachePadded;

pub(crate) struct Core<B: Body> {
    /// Those of the shards, side by side.
    tables: Box<[Arc<Table>]>,
    shards: Arc<[CachePadded<Shard<B>>]>,
    pool: Arc<Pool>,
    partitions: Arc<[PartitionAccount]>,
    reads: ReadCounters,
    loads: Box<[LoadCounters]>,
    /// By shard, then by partition.
    counters: Box<[Arc<[CachePadded<PartitionCounters>]>]>,
    gauges: Arc<[CachePadded<ShardGauges>]>,
    alarms: Arc<[Sender<()>]>,
    pub clock: Clock,
    owners: Vec<JoinHandle<()>>,
    /// Whose the owners are: a child that was forked has none.
    process: u32,
    listener: Arc<OnceLock<Listener<B>>>,
}

impl<B: Body> Core<B> {
    /// Starts the owners.
    pub fn start(pool: Arc<Pool>, shards: usize, cores: &[usize]) -> Result<Self, BuildError> {
        let partitions = pool.partitions.len();
        let (alarms, ringing): (Vec<_>, Vec<_>) = (0..shards).map(|_| channel::bounded(1)).unzip();
        let counters = || (0..partitions).map(|_| CachePadded::default());
        let mut core = Self {
            tables: Box::default(),
            shards: Arc::default(),
            partitions: pool.partitions.clone(),
            reads: ReadCounters::new(partitions),
            loads: (0..partitions).map(|_| LoadCounters::default()).collect(),
            counters: (0..shards).map(|_| counters().collect()).collect(),
            gauges: (0..shards).map(|_| CachePadded::default()).collect(),
            alarms: alarms.into(),
            clock: Clock::new(),
            owners: Vec::with_capacity(shards),
            process: process::id(),
            listener: Arc::default(),
            pool,
        };
        core.make_shards(ringing);
        for index in 0..shards {
            let pinned = (!cores.is_empty()).then(|| cores[index % cores.len()]);
            let shards = core.shards.clone();
            let thread = thread::Builder::new().name(format!("shard-{index}"));
            // On failure the threads started so far are stopped by the drop of `core`.
            core.owners.push(thread.spawn(move || {
                pinned.inspect(|&core| pin_or_warn(core));
                shards[index].run(|| clear_wanted(&shards));
            })?);
        }
        Ok(core)
    }

    /// A shard for each alarm.
    fn make_shards(&mut self, ringing: Vec<Receiver<()>>) {
        let ringing = ringing.into_iter().enumerate();
        let new_shard =
            |(index, ringing)| CachePadded::new(Shard::new(index, self.shared(index), ringing));
        self.shards = ringing.map(new_shard).collect();
        let tables = self.shards.iter().map(|shard| shard.table.clone());
        self.tables = tables.collect();
    }

    fn shared(&self, shard: usize) -> Shared<B> {
        Shared {
            pool: self.pool.clone(),
            arena: Arena::new(self.pool.budget_bytes() / self.gauges.len()),
            flights: Flights::new(),
            counters: self.counters[shard].clone(),
            gauges: self.gauges.clone(),
            alarms: self.alarms.clone(),
            clock: self.clock,
            listener: self.listener.clone(),
        }
    }

    #[inline(always)]
    fn shard_index(&self, hash: u64) -> usize {
        // Bits that neither the tag nor, up to 2^32 buckets, the bucket is made of.
        ((hash >> 32 & 0xffff) as usize * self.tables.len()) >> 16
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Shard<B> {
        &self.shards[self.shard_index(hash)]
    }

    #[inline(always)]
    fn table_of(&self, hash: u64) -> &Table {
        let index = self.shard_index(hash);
        debug_assert!(index < self.tables.len());
        // SAFETY: a number below 2^16, times that of tables, over 2^16.
        unsafe { self.tables.get_unchecked(index) }
    }

    /// Where an entry of this hash is to lie, which is about to be stored: meanwhile its line is fetched.
    pub fn arena(&self, hash: u64) -> &Arc<Arena> {
        let shard = self.shard(hash);
        shard.table.prefetch(hash);
        &shard.arena
    }

    /// What is known of an entry that is begun now and does not expire.
    pub fn facts(&self, hash: u64, partition: u16) -> Facts {
        Facts {
            hash,
            partition,
            generation: self.generation(partition),
            expiry_ns: NEVER,
        }
    }

    /// What is known of an entry that lives for so long from now on; none: as long as it is held.
    pub fn expiring(&self, facts: Facts, ttl: Option<Duration>) -> Facts {
        let expiry_ns = ttl.map_or(NEVER, |ttl| self.clock.expiry_after(ttl));
        Facts { expiry_ns, ..facts }
    }

    /// Reads an entry in place, without a lock, and counts the read.
    ///
    /// `f` runs while the entry is protected: the pointer is good until it returns.
    #[inline(always)]
    pub fn read<R>(
        &self,
        partition: u16,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
        f: impl FnOnce(NonNull<Header>) -> R,
    ) -> Option<R> {
        let guard = Guard::enter();
        let Some(entry) = self.find_live(&guard, partition, hash, is_it) else {
            self.reads.count_miss(guard.reader(), partition);
            return None;
        };
        self.reads.count_hit(guard.reader(), partition);
        Some(f(entry))
    }

    /// As [`Core::read`], without a trace: it is not counted, and keeps nothing in memory for longer.
    pub fn peek<R>(
        &self,
        partition: u16,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
        f: impl FnOnce(NonNull<Header>) -> R,
    ) -> Option<R> {
        let guard = Guard::enter();
        let entry = self.table_of(hash).find(guard.slot(), hash, is_it)?;
        // SAFETY: protected by the guard.
        let header = unsafe { entry.as_ref() };
        // SAFETY: as above; built by `B`, as all entries here.
        let is_past = || header.expires() && self.clock.is_past(unsafe { B::expiry_ns(entry) });
        let is_current = header.generation() == self.generation(partition);
        (is_current && !is_past()).then(|| f(entry))
    }

    #[inline(always)]
    fn find_live(
        &self,
        guard: &Guard,
        partition: u16,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let entry = self.table_of(hash).find(guard.slot(), hash, is_it)?;
        // SAFETY: protected by the guard.
        let header = unsafe { entry.as_ref() };
        let hot = self.partitions[usize::from(partition)].hot();
        if header.is_hot(hot) {
            return Some(entry);
        }
        if header.generation() != generation_of(hot) {
            return None;
        }
        // SAFETY: as above; built by `B`, as all entries here.
        if header.expires() && self.clock.is_past(unsafe { B::expiry_ns(entry) }) {
            return None;
        }
        header.touch();
        Some(entry)
    }

    /// Has what a read of each of `hashes` will need fetched: many at a time, they cost not much more than one.
    #[inline]
    pub fn prefetch(&self, hashes: &[u64]) {
        for &hash in hashes {
            self.table_of(hash).prefetch(hash);
        }
        for &hash in hashes {
            self.table_of(hash).prefetch_entry(hash);
        }
    }

    /// A counted reference to an entry; not counted as a read.
    fn look(
        &self,
        partition: u16,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<Handle<B>> {
        let guard = Guard::enter();
        let entry = self.find_live(&guard, partition, hash, is_it)?;
        // SAFETY: protected by the guard, and built by `B`, as all entries here.
        Some(unsafe { Handle::acquire(entry) })
    }

    /// After a miss: joins the key's flight, or opens one. The code of a key that is being compared or copied for that
    /// joins nobody: it loads for itself, and that is not stored.
    pub fn join(
        &self,
        partition: u16,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
        is_key: impl Fn(&B::OwnedKey) -> bool,
        to_owned: impl FnOnce() -> B::OwnedKey,
    ) -> Joined<B> {
        if shard::is_joining() {
            return Joined::Lead(Lead::alone(hash, to_owned()));
        }
        let look = || self.look(partition, hash, is_it);
        // Under the lock of the flights, which a change would take too.
        shard::joining(|| self.shard(hash).flights.join(hash, is_key, to_owned, look))
    }

    /// After a miss: waits for the load that is under way, or loads on this thread.
    pub fn load(
        &self,
        partition: u16,
        joined: Joined<B>,
        deadline: Option<Instant>,
        load: impl FnOnce(&B::OwnedKey) -> Result<Loaded<B>, Failure>,
    ) -> Outcome<B> {
        let lead = match joined {
            Joined::Hit(entry) => return Ok(entry),
            Joined::Lead(lead) => lead,
            Joined::Follow(flight) => {
                self.count_joined(partition);
                match flight.wait(deadline) {
                    Waited::Outcome(outcome) => return outcome,
                    Waited::Lead => self.take_over(flight),
                    Waited::LateLead => {
                        drop(self.take_over(flight));
                        return Err(Failure::TimedOut);
                    }
                }
            }
        };
        self.lead(partition, lead, load)
    }

    /// Leads a flight whose leader is gone.
    pub fn take_over(&self, flight: Arc<Flight<B>>) -> Lead<B> {
        Lead::take_over(&self.shard(flight.hash()).flights, flight)
    }

    /// Loads on this thread and hands the outcome to all who wait. If `load` panics, the next waiter leads.
    pub fn lead(
        &self,
        partition: u16,
        lead: Lead<B>,
        load: impl FnOnce(&B::OwnedKey) -> Result<Loaded<B>, Failure>,
    ) -> Outcome<B> {
        let (outcome, timed) = self.run(partition, &lead, load);
        timed.stop(outcome.is_ok());
        self.conclude(lead, outcome)
    }

    /// As [`Core::lead`], but where `load` has no outcome yet, the lead comes back, and that was no load.
    #[cfg(feature = "server")]
    pub fn try_lead(
        &self,
        partition: u16,
        lead: Lead<B>,
        load: impl FnOnce(&B::OwnedKey) -> Option<Result<Loaded<B>, Failure>>,
    ) -> Result<Outcome<B>, Lead<B>> {
        let (outcome, timed) = self.run(partition, &lead, load);
        let Some(outcome) = outcome else {
            timed.forget();
            return Err(lead);
        };
        timed.stop(outcome.is_ok());
        Ok(self.conclude(lead, outcome))
    }

    fn run<R>(
        &self,
        partition: u16,
        lead: &Lead<B>,
        load: impl FnOnce(&B::OwnedKey) -> R,
    ) -> (R, LoadTimer<'_>) {
        let timed = LoadTimer::start(self.load_counters(partition));
        let _leading = lead.enter();
        (load(lead.flight().key()), timed)
    }

    /// Hands an outcome to all who wait, and stores it.
    pub fn conclude(&self, lead: Lead<B>, outcome: Result<Loaded<B>, Failure>) -> Outcome<B> {
        self.conclude_by(lead, outcome, Shard::change)
    }

    /// As [`Core::conclude`], on a thread that is not to wait for a turn.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub fn conclude_soon(&self, lead: Lead<B>, outcome: Result<Loaded<B>, Failure>) -> Outcome<B> {
        self.conclude_by(lead, outcome, Shard::change_soon)
    }

    fn conclude_by(
        &self,
        lead: Lead<B>,
        outcome: Result<Loaded<B>, Failure>,
        change: impl FnOnce(&Shard<B>, Change<B>) -> bool,
    ) -> Outcome<B> {
        let Loaded { entry, stored } = match outcome {
            Ok(loaded) => loaded,
            Err(failure) => {
                lead.finish(Err(failure.clone()));
                return Err(failure);
            }
        };
        if stored && !lead.is_alone() && self.admit(&entry).is_ok() {
            let flight = lead.deliver(entry.clone());
            let hash = flight.hash();
            let publish = Change::Publish {
                hash,
                entry: entry.clone(),
                flight: Some(flight),
            };
            change(self.shard(hash), publish);
        } else {
            lead.finish(Ok(entry.clone()));
        }
        Ok(entry)
    }

    pub fn load_counters(&self, partition: u16) -> &LoadCounters {
        &self.loads[usize::from(partition)]
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
        self.check_weight(entry.header().partition(), entry.weight_bytes() as usize)
    }

    /// As [`Core::admit`], before there is an entry.
    pub fn check_weight(&self, partition: u16, entry_bytes: usize) -> Result<(), EntryTooLarge> {
        let largest_bytes = self.largest_bytes(partition).min(WEIGHT_MAX_BYTES);
        if entry_bytes <= largest_bytes {
            return Ok(());
        }
        bump(&self.load_counters(partition).refused);
        Err(EntryTooLarge {
            entry_bytes,
            largest_bytes,
        })
    }

    /// Stores an admitted entry in place of what its key holds; false if there was no room.
    pub fn insert(&self, hash: u64, entry: Handle<B>) -> bool {
        let shard = self.shard(hash);
        // What it replaces, and by now the line is there.
        shard.table.prefetch_entry(hash);
        shard.change(publish(hash, entry))
    }

    /// As [`Core::insert`], but does not wait while another thread changes the shard.
    pub fn insert_soon(&self, hash: u64, entry: Handle<B>) {
        let shard = self.shard(hash);
        shard.table.prefetch_entry(hash);
        shard.change_soon(publish(hash, entry));
    }

    /// Removes a key; tells whether there was an entry.
    pub fn remove(&self, hash: u64, key: B::OwnedKey) -> bool {
        self.shard(hash).change(Change::Remove { hash, key })
    }

    /// The generation that entries of this partition have now; loads take it before they begin.
    #[inline]
    pub fn generation(&self, partition: u16) -> u8 {
        self.pool.partitions[usize::from(partition)].generation()
    }

    /// Removes all entries of a partition: at once for readers, and for the budget by the time that it returns.
    /// What is being loaded now reaches those who wait, and is not stored. Inside of a turn it is left to an owner.
    pub fn clear(&self, partition: u16) {
        if shard::is_inside() || shard::is_telling() {
            self.pool.partitions[usize::from(partition)].want_clear();
            self.shards[0].wake();
        } else {
            clear(&self.shards, &self.pool, partition);
        }
    }

    /// The table of a shard; none: there are no more.
    pub fn table(&self, shard: usize) -> Option<&Table> {
        self.shards.get(shard).map(|shard| &*shard.table)
    }

    /// Entries of a partition that are held now.
    pub fn len(&self, partition: u16) -> usize {
        let counters = self.counters.iter();
        let counts = counters.map(|shard| &shard[usize::from(partition)].entries);
        counts
            .map(|entries| entries.load(Ordering::Relaxed) as usize)
            .sum()
    }

    /// Stores an admitted entry of former days; see `Owner::restore`. Not to be called inside of a turn.
    pub fn restore(&self, hash: u64, entry: Handle<B>) -> Fate {
        self.shard(hash).turn(|owner| owner.restore(hash, entry))
    }

    /// Sets another budget. What is over it is evicted soon, by the shards in proportion to what they hold.
    pub fn resize(&self, budget_bytes: usize) -> Result<(), BuildError> {
        check_budget(budget_bytes, self.shards.len())?;
        self.pool.resize(budget_bytes);
        let debt = self.pool.debt_bytes();
        if debt > 0 {
            owner::ask_to_yield(&self.pool, &self.gauges, &self.alarms, None, debt);
        }
        Ok(())
    }

    /// Sets who is told of entries that leave; once.
    pub fn listen(&self, listener: Listener<B>) {
        // Its one caller takes the cache by value and hands it on, so a second one is a mistake that is not made.
        let _ = self.listener.set(listener);
    }

    /// Returns when all that was begun before is to be seen, shards have given way to each other, and the listener has
    /// been told.
    pub fn flush(&self) {
        if shard::is_inside() {
            return;
        }
        for shard in self.shards.iter() {
            shard.tidy();
        }
        // What was dropped by that may have asked for one.
        clear_wanted(&self.shards);
        for shard in self.shards.iter() {
            shard.tell();
            shard.arena.put_away();
        }
    }

    /// Counts a caller that joined a load without waiting on this thread.
    pub fn count_joined(&self, partition: u16) {
        bump(&self.load_counters(partition).joined);
    }

    /// The figures of one partition; `used_bytes` and what follows it are the whole cache's.
    pub fn partition_stats(&self, partition: u16) -> Stats {
        let (hits, misses) = self.reads.sum(partition);
        let loads = self.load_counters(partition);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sum = |gauge: fn(&ShardGauges) -> &AtomicU64| {
            self.gauges.iter().map(|shard| get(gauge(shard))).sum()
        };
        let count = |counter: fn(&PartitionCounters) -> &AtomicU64| -> u64 {
            let shards = self.counters.iter();
            shards
                .map(|shard| get(counter(&shard[usize::from(partition)])))
                .sum()
        };
        Stats {
            hits,
            misses,
            joined: get(&loads.joined),
            loads: get(&loads.loads),
            load_failures: get(&loads.load_failures),
            load_time: Duration::from_nanos(get(&loads.load_ns)),
            entries: count(|shard| &shard.entries),
            stored: count(|shard| &shard.stored),
            evicted: count(|shard| &shard.evicted),
            expired: count(|shard| &shard.expired),
            removed: count(|shard| &shard.removed),
            replaced: count(|shard| &shard.replaced),
            refused: get(&loads.refused) + count(|shard| &shard.refused),
            entry_bytes: count(|shard| &shard.entry_bytes),
            used_bytes: sum(|shard| &shard.used_bytes),
            garbage_bytes: sum(|shard| &shard.garbage_bytes),
            budget_bytes: self.pool.budget_bytes() as u64,
            overshoot_bytes: self.pool.debt_bytes() as u64,
            queued: self
                .shards
                .iter()
                .map(|shard| shard.queue_len() as u64)
                .sum(),
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
        let garbage =
            |shard: &CachePadded<ShardGauges>| shard.garbage_bytes.load(Ordering::Relaxed);
        self.gauges.iter().map(garbage).sum()
    }

    pub fn shard_len(&self) -> usize {
        self.shards.len()
    }

    #[cfg(test)]
    pub fn has_chores(&self) -> bool {
        self.shards
            .iter()
            .any(|shard| shard.turn(|owner| owner.has_chores()))
    }

    /// Plants the fault of chores that never end in each shard.
    #[cfg(test)]
    pub fn plant_endless_chores(&self) {
        self.each_turn(|owner| owner.never_tidy = true);
    }

    #[cfg(test)]
    pub fn each_turn(&self, mut work: impl FnMut(&mut owner::Owner<B>)) {
        self.shards.iter().for_each(|shard| shard.turn(&mut work));
    }
}

impl<B: Body> Drop for Core<B> {
    fn drop(&mut self) {
        self.pool.close();
        for alarm in self.alarms.iter() {
            let _ = alarm.try_send(());
        }
        // A value or a listener can hold the last reference to its own cache, and end on an owner; then the owners
        // end later.
        let this_thread = thread::current().id();
        let is_owner = self
            .owners
            .iter()
            .any(|owner| owner.thread().id() == this_thread);
        let is_forked = process::id() != self.process;
        if !is_owner && !is_forked && !shard::is_inside() {
            for owner in self.owners.drain(..) {
                let _ = owner.join();
            }
        }
        for shard in self.shards.iter() {
            shard.flights.close_all();
        }
        self.flush();
    }
}

fn clear<B: Body>(shards: &[CachePadded<Shard<B>>], pool: &Pool, partition: u16) {
    // A listener is told of it without the lock: what it does may need that.
    shard::quietly(|| {
        let _turn = pool.clearing.lock();
        pool.partitions[usize::from(partition)].start_generation();
        for shard in shards {
            shard
                .flights
                .fence_all(|key| B::partition(key) == partition);
            let mut from = Some(0);
            while let Some(bucket) = from {
                from = shard.turn(|owner| owner.clear(partition, bucket));
            }
        }
    });
}

/// Does the clears that could not wait for their turns.
fn clear_wanted<B: Body>(shards: &[CachePadded<Shard<B>>]) {
    let pool = shards[0].pool();
    for (partition, account) in pool.partitions.iter().enumerate() {
        if account.take_clear() {
            clear(shards, pool, partition as u16);
        }
    }
}

fn publish<B: Body>(hash: u64, entry: Handle<B>) -> Change<B> {
    Change::Publish {
        hash,
        entry,
        flight: None,
    }
}

/// What a loader brought.
pub(crate) struct Loaded<B: Body> {
    pub entry: Handle<B>,
    pub stored: bool,
}

/// Counts a load when it ends, however it ends.
pub(crate) struct LoadTimer<'a> {
    counters: &'a LoadCounters,
    start: Instant,
    is_ok: bool,
}

impl<'a> LoadTimer<'a> {
    pub fn start(counters: &'a LoadCounters) -> Self {
        Self {
            counters,
            start: Instant::now(),
            is_ok: false,
        }
    }

    pub fn stop(mut self, is_ok: bool) {
        self.is_ok = is_ok;
    }

    /// There was no load.
    #[cfg(feature = "server")]
    pub fn forget(self) {
        std::mem::forget(self);
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

#[cfg(all(test, corecache_model))]
pub(super) mod model;
