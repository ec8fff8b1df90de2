//! The typed cache: `Cache<K, V>` with key and value inline in the entry.

use std::borrow::Borrow;
use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::builder::{BuildError, Builder};
use super::bulk;
use super::core::{Core, Loaded};
use super::entry::{Facts, Handle, Header, Typed};
use super::flight::{EntryTooLarge, Failure, Joined};
use super::policy::{Policy, TwoClocks};
use super::stats::{Cause, Stats};

/// Bytes on the heap that a key and a value own.
type Weigher<K, V> = Box<dyn Fn(&K, &V) -> usize + Send + Sync>;
/// For how long a value is served.
type Lifetime<K, V> = Box<dyn Fn(&K, &V) -> Option<Duration> + Send + Sync>;

/// A concurrent cache with a budget in bytes, filled by whoever asks first.
///
/// Reads take no lock and write to no memory that other readers use, once an entry is hot. Each shard is changed by one
/// thread at a time. See the [module](crate::engine) for how that works, and its costs.
///
/// ```
/// use corecache::engine::Cache;
///
/// let squares = Cache::<u64, u64>::new(1 << 20)?;
/// let nine = squares.get_or_load(&3, |key| Ok(key * key))?;
/// assert_eq!(nine, 9);
/// assert_eq!(squares.get(&4), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Cache<K, V, S = RandomState>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    core: Core<Typed<K, V>>,
    hasher: S,
    weigher: Option<Weigher<K, V>>,
    lifetime: Option<Lifetime<K, V>>,
}

// Said here, as a value may hold the cache that it is in: the compiler would ask `Core` whether `V` may be sent, and `V`
// whether `Core` may, without end.
// SAFETY: all parts are, as `parts_are_shared` has the compiler check; callbacks are by their types.
unsafe impl<K, V, S> Send for Cache<K, V, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Send,
{
}
// SAFETY: as above.
unsafe impl<K, V, S> Sync for Cache<K, V, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Sync,
{
}

const fn is_shared<T: Send + Sync>() {}

#[allow(dead_code)]
const fn parts_are_shared<K, V>()
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    is_shared::<Core<Typed<K, V>>>();
    is_shared::<Option<Weigher<K, V>>>();
    is_shared::<Option<Lifetime<K, V>>>();
}

// A loader's panic leaves a cache as usable as it was.
impl<K, V, S> UnwindSafe for Cache<K, V, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
}
impl<K, V, S> RefUnwindSafe for Cache<K, V, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
}

impl<K, V, S> fmt::Debug for Cache<K, V, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.partition_stats(0).fmt_as("Cache", f)
    }
}

/// A value that was not stored because it could never fit; key and value come back.
pub struct Rejected<K, V> {
    /// The key.
    pub key: K,
    /// The value.
    pub value: V,
    /// What it would take, and what is admitted.
    pub reason: EntryTooLarge,
}

impl<K, V> fmt::Debug for Rejected<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl<K, V> fmt::Display for Rejected<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<K, V> Error for Rejected<K, V> {}

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// A cache that takes `budget_bytes` of memory, with everything else as it comes. What keys and values own on the
    /// heap is not seen: [`Cache::weigh_with`] says it.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn new(budget_bytes: usize) -> Result<Self, BuildError> {
        Self::from_builder(&Builder::new(budget_bytes))
    }

    /// A cache made to measure.
    ///
    /// ```
    /// use corecache::engine::{Builder, Cache};
    ///
    /// let cache = Cache::<String, Vec<u8>>::from_builder(&Builder::new(64 << 20).shards(4))?
    ///     .weigh_with(|key, value| key.capacity() + value.capacity());
    /// # Ok::<(), corecache::engine::BuildError>(())
    /// ```
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn from_builder(builder: &Builder) -> Result<Self, BuildError> {
        Self::from_builder_with_hasher(builder, RandomState::default())
    }
}

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: BuildHasher,
{
    /// A cache made to measure that hashes its keys by `hasher`, in place of [`foldhash`]: fast, seeded anew for each
    /// cache, and of little help against callers who choose keys to collide and can time the answers. For those there is
    /// the standard library's. The hash's upper 32 bits choose the shard and tell entries apart, its lower ones the
    /// bucket: a hasher that leaves some of them constant, as one does that returns numbers as they are, makes the cache
    /// slow.
    ///
    /// ```
    /// use corecache::engine::{Builder, Cache};
    /// use std::hash::RandomState;
    ///
    /// let hasher = RandomState::new();
    /// let cache = Cache::from_builder_with_hasher(&Builder::new(1 << 20), hasher)?;
    /// cache.insert("of a stranger's choice".to_owned(), 1)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn from_builder_with_hasher(builder: &Builder, hasher: S) -> Result<Self, BuildError> {
        Ok(Self {
            core: builder.build()?,
            hasher,
            weigher: None,
            lifetime: None,
        })
    }

    /// Says how many bytes on the heap a key and a value own, so that they count against the budget. Without this
    /// an entry counts for its inline size: right for numbers and arrays, not for a `String` or a `Vec`.
    pub fn weigh_with(
        mut self,
        heap_bytes: impl Fn(&K, &V) -> usize + Send + Sync + 'static,
    ) -> Self {
        self.weigher = Some(Box::new(heap_bytes));
        self
    }

    /// Says for how long a value is served, from when it is stored, or was loaded, on; none: as long as it is held.
    /// [`Cache::insert_for`] says it for its own values.
    ///
    /// ```
    /// use corecache::engine::Cache;
    /// use std::time::Duration;
    ///
    /// let minute = Duration::from_secs(60);
    /// let names = Cache::<u64, String>::new(1 << 20)?
    ///     .expire_after(move |_id, name| Some(if name.is_empty() { minute } else { 10 * minute }));
    /// let name = names.get_or_load(&7, |_id| Ok("seven".into()))?; // held for ten minutes at the most
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn expire_after(
        mut self,
        lifetime: impl Fn(&K, &V) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.lifetime = Some(Box::new(lifetime));
        self
    }

    /// Has `listener` told of each entry that leaves, and why. Readers do not find the entry any more by then.
    ///
    /// It runs on the thread of the shard's owner, soon after, and holds up neither hits nor changes; it may use the
    /// cache. What it was not told of yet takes memory beside the budget; where that comes to a sixteenth of it, those
    /// who change the cache tell the listener themselves, and wait for it; while it is a quarter, nothing is stored from
    /// within the listener ([`Stats::refused`]). One that stores an entry for each that it is told of goes on for ever.
    /// It hears of the entries of one key in their order. One that panics is logged. A second listener is not taken.
    ///
    /// ```
    /// use corecache::engine::{Cache, Cause};
    /// use std::sync::mpsc;
    ///
    /// let (left, leaving) = mpsc::channel();
    /// let cache = Cache::<u32, u32>::new(1 << 20)?
    ///     .eviction_listener(move |key, _value, cause| drop(left.send((*key, cause))));
    /// cache.insert(1, 10)?;
    /// cache.remove(&1);
    /// assert_eq!(leaving.recv()?, (1, Cause::Removed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn eviction_listener(
        self,
        listener: impl Fn(&K, &V, Cause) + Send + Sync + 'static,
    ) -> Self {
        self.core.listen(Box::new(move |entry, cause| {
            listener(entry.key(), entry.value(), cause);
        }));
        self
    }

    /// Sets another budget, up or down, while the cache is in use. What is over it is evicted soon after, in slices that
    /// hold up nobody for long. What does not come back: values that are still held, until they are not, and a part of the
    /// tables, one or two hundredths of what the cache held at its largest. A cut to less than that evicts all there is;
    /// then most of that part comes back too, and the cache begins anew.
    ///
    /// # Errors
    /// [`BuildError::BudgetTooSmall`] and [`BuildError::BudgetTooLarge`]; the budget stays as it was.
    pub fn resize(&self, budget_bytes: usize) -> Result<(), BuildError> {
        self.core.resize(budget_bytes)
    }

    pub(super) fn core(&self) -> &Core<Typed<K, V>> {
        &self.core
    }

    pub(super) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        self.hasher.hash_one(key)
    }

    /// A clone of the value of `key`, or none if it is not held or has expired.
    // Not inlined, a large value is written where the caller wants it; inlined, it is mostly copied once more.
    #[inline(never)]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        self.get_with(key, V::clone)
    }

    /// Lends the value of `key` to `f`, without cloning it.
    ///
    /// The value stays in memory as long as `f` runs, and no other value does for its sake. `f` may use the cache.
    #[inline]
    pub fn get_with<Q, R>(&self, key: &Q, f: impl FnOnce(&V) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.core
            .read(0, self.hash(key), is_key::<K, V, Q>(key), |entry| {
                // SAFETY: an entry of this cache, protected while this closure runs.
                f(unsafe { Typed::<K, V>::value_at(entry) })
            })
    }

    /// Whether `key` is held and has not expired. That is no hit and no miss, and the entry is kept no longer for it; by
    /// the time that the caller acts on it, it may have left.
    ///
    /// ```
    /// use corecache::engine::Cache;
    ///
    /// let cache = Cache::<String, u32>::new(1 << 20)?;
    /// cache.insert("one".to_owned(), 1)?;
    /// assert!(cache.contains_key("one") && !cache.contains_key("two"));
    /// assert_eq!(cache.stats().hits, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let is_it = is_key::<K, V, Q>(key);
        self.core.peek(0, self.hash(key), is_it, |_| ()).is_some()
    }

    /// The values of many keys, in their order.
    ///
    /// A large cache waits for memory most of the time; this waits for many keys at once, and so takes a fraction of
    /// the time that as many [`Cache::get`] do.
    pub fn get_many<'a, Q>(&self, keys: impl IntoIterator<Item = &'a Q>) -> Vec<Option<V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized + 'a,
        V: Clone,
    {
        let keys: Vec<_> = keys.into_iter().collect();
        self.read_many(&keys, &self.hashes(&keys))
    }

    fn hashes<Q: Hash + ?Sized>(&self, keys: &[&Q]) -> Vec<u64> {
        keys.iter().map(|key| self.hash(*key)).collect()
    }

    fn read_many<Q>(&self, keys: &[&Q], hashes: &[u64]) -> Vec<Option<V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        self.core.read_many(hashes, |index| {
            let is_it = is_key::<K, V, Q>(keys[index]);
            self.core.read(0, hashes[index], is_it, |entry| {
                // SAFETY: an entry of this cache, protected while this closure runs.
                unsafe { Typed::<K, V>::value_at(entry) }.clone()
            })
        })
    }

    /// The values of many keys, in their order; those that are not held are brought by one call of `load`, once for all
    /// who ask meanwhile.
    ///
    /// `load` gets the keys that nobody is loading yet and returns a value for each, in their order. What others are
    /// loading is waited for; should one of them give up, `load` is called again for its key. Where one key fails, so
    /// does the whole call; what was brought is stored all the same.
    ///
    /// ```
    /// use corecache::engine::Cache;
    ///
    /// let squares = Cache::<u64, u64>::new(1 << 20)?;
    /// squares.insert(2, 4)?;
    /// let values = squares.get_many_or_load(&[1, 2, 3], |keys| {
    ///     assert_eq!(keys, [&1, &3]);
    ///     Ok(keys.iter().map(|key| *key * *key).collect())
    /// })?;
    /// assert_eq!(values, [1, 4, 9]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Cache::get_or_load`]; [`Failure::Failed`] too if `load` brings more values than keys, or fewer.
    pub fn get_many_or_load<'a, Q>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
        mut load: impl FnMut(&[&'a Q]) -> Result<Vec<V>, Box<dyn Error + Send + Sync>>,
    ) -> Result<Vec<V>, Failure>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized + 'a,
        V: Clone,
    {
        let keys: Vec<_> = keys.into_iter().collect();
        let hashes = self.hashes(&keys);
        let mut values = self.read_many(&keys, &hashes);
        let missed: Vec<_> = (0..keys.len()).filter(|&at| values[at].is_none()).collect();
        let join = |&at: &usize| (at, self.join(hashes[at], keys[at]));
        let joined = missed.iter().map(join);
        let found = self.core.load_many(0, joined, |indexes| {
            let asked: Vec<_> = indexes.iter().map(|&at| keys[at]).collect();
            let facts = asked.iter().map(|key| self.core.facts(self.hash(*key), 0));
            let facts: Vec<_> = facts.collect();
            let loaded = load(&asked).map_err(|error| Failure::Failed(error.into()))?;
            bulk::check_number(loaded.len(), asked.len())?;
            let with_values = asked.iter().zip(facts).zip(loaded);
            Ok(with_values
                .map(|((key, facts), value)| self.loaded(&facts, (*key).to_owned(), value))
                .collect())
        })?;
        for (at, entry) in found {
            values[at] = Some(entry.value().clone());
        }
        let all: Option<Vec<V>> = values.into_iter().collect();
        Ok(all.expect("what was missed has been loaded"))
    }

    /// The value of `key`; if it is not held, `load` brings it, on this thread, once for all who ask meanwhile.
    ///
    /// Those who come later wait for the first one's outcome, an error included; errors are not stored. If a loader
    /// panics, its panic goes on in its caller, and the next of those who wait loads. A loader may ask the cache
    /// for other keys. A value that is too large for the cache is returned and not stored.
    ///
    /// The value has been stored when this returns on the thread that loaded it; those who waited for it may have
    /// theirs a moment earlier.
    ///
    /// # Errors
    /// [`Failure::Failed`] with the loader's error; [`Failure::Reentrant`] if the loader waits for its own key.
    pub fn get_or_load<Q>(
        &self,
        key: &Q,
        load: impl FnOnce(&K) -> Result<V, Box<dyn Error + Send + Sync>>,
    ) -> Result<V, Failure>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        V: Clone,
    {
        self.load_until(key, None, load)
    }

    /// As [`Cache::get_or_load`], but waits for another caller's load until `deadline` only. A load of this caller's
    /// own is not cut short: its loader keeps its own time.
    ///
    /// # Errors
    /// As above, and [`Failure::TimedOut`].
    pub fn get_or_load_by<Q>(
        &self,
        key: &Q,
        deadline: Instant,
        load: impl FnOnce(&K) -> Result<V, Box<dyn Error + Send + Sync>>,
    ) -> Result<V, Failure>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        V: Clone,
    {
        self.load_until(key, Some(deadline), load)
    }

    fn load_until<Q>(
        &self,
        key: &Q,
        deadline: Option<Instant>,
        load: impl FnOnce(&K) -> Result<V, Box<dyn Error + Send + Sync>>,
    ) -> Result<V, Failure>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        V: Clone,
    {
        let hash = self.hash(key);
        let is_it = is_key::<K, V, Q>(key);
        let hit = self.core.read(0, hash, &is_it, |entry| {
            // SAFETY: an entry of this cache, protected while this closure runs.
            unsafe { Typed::<K, V>::value_at(entry) }.clone()
        });
        if let Some(value) = hit {
            return Ok(value);
        }
        let joined = self.join(hash, key);
        let facts = self.core.facts(hash, 0);
        let outcome = self.core.load(0, joined, deadline, |owned| {
            let value = load(owned).map_err(|error| Failure::Failed(error.into()))?;
            Ok(self.loaded(&facts, key.to_owned(), value))
        });
        Ok(outcome?.value().clone())
    }

    fn join<Q>(&self, hash: u64, key: &Q) -> Joined<Typed<K, V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let is_it = is_key::<K, V, Q>(key);
        let is_same = |other: &K| other.borrow() == key;
        self.core.join(0, hash, is_it, is_same, || key.to_owned())
    }

    fn loaded(&self, facts: &Facts, key: K, value: V) -> Loaded<Typed<K, V>> {
        let ttl = self.lifetime_of(&key, &value);
        let weight = self.weight(&key, &value, ttl.is_some());
        let facts = self.core.expiring(*facts, ttl);
        let arena = self.core.arena(facts.hash);
        Loaded {
            entry: Handle::typed(arena, &facts, weight, key, value),
            stored: true,
        }
    }

    /// Stores a value, in place of what the key held, and returns when readers see it. It waits while another thread
    /// changes the same shard, a microsecond or so; [`Cache::insert_soon`] does not.
    ///
    /// Where there is no room that could be made, because what has left is still held all over the budget, the value is
    /// not stored and what the key held is removed; [`Stats::refused`] counts that.
    ///
    /// # Errors
    /// [`Rejected`] hands back a value that could never fit; what the key held stays.
    pub fn insert(&self, key: K, value: V) -> Result<(), Rejected<K, V>> {
        let hash = self.hash(&key);
        let entry = self.entry(hash, key, value, None)?;
        self.core.insert(hash, entry);
        Ok(())
    }

    /// As [`Cache::insert`]; from `ttl` from now on the value is not served any more.
    ///
    /// # Errors
    /// As for [`Cache::insert`].
    pub fn insert_for(&self, key: K, value: V, ttl: Duration) -> Result<(), Rejected<K, V>> {
        let hash = self.hash(&key);
        let entry = self.entry(hash, key, value, Some(ttl))?;
        self.core.insert(hash, entry);
        Ok(())
    }

    /// As [`Cache::insert`], but does not wait while another thread changes the shard: that one, or the shard's owner,
    /// makes the change then, soon after this returns. Writes of one thread to one key take effect in their order.
    ///
    /// # Errors
    /// As for [`Cache::insert`].
    pub fn insert_soon(&self, key: K, value: V) -> Result<(), Rejected<K, V>> {
        let hash = self.hash(&key);
        let entry = self.entry(hash, key, value, None)?;
        self.core.insert_soon(hash, entry);
        Ok(())
    }

    pub(super) fn entry(
        &self,
        hash: u64,
        key: K,
        value: V,
        ttl: Option<Duration>,
    ) -> Result<Handle<Typed<K, V>>, Rejected<K, V>> {
        let ttl = ttl.or_else(|| self.lifetime_of(&key, &value));
        let weight = self.weight(&key, &value, ttl.is_some());
        if let Err(reason) = self.core.check_weight(0, weight) {
            return Err(Rejected { key, value, reason });
        }
        let facts = self.core.expiring(self.core.facts(hash, 0), ttl);
        let arena = self.core.arena(hash);
        Ok(Handle::typed(arena, &facts, weight, key, value))
    }

    fn lifetime_of(&self, key: &K, value: &V) -> Option<Duration> {
        self.lifetime
            .as_ref()
            .and_then(|lifetime| lifetime(key, value))
    }

    fn weight(&self, key: &K, value: &V, expires: bool) -> usize {
        let heap_bytes = self.weigher.as_ref().map_or(0, |weigh| weigh(key, value));
        let entry_bytes = Typed::<K, V>::footprint_bytes(expires) + TwoClocks::BYTES_AN_ENTRY;
        entry_bytes.saturating_add(heap_bytes)
    }

    /// Removes a key; tells whether it was held. A load of the key that is under way reaches those who wait for it,
    /// and is not stored.
    pub fn remove<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.core.remove(self.hash(key), key.to_owned())
    }

    /// Removes everything. Loads that are under way reach those who wait for them, and are not stored.
    pub fn clear(&self) {
        self.core.clear(0);
    }

    /// Returns when all that was begun before is to be seen, and the listener has been told of what left.
    ///
    /// In the code of a key or a value (`Eq`, `Drop`) it does nothing, and from within a listener it tells nobody.
    pub fn flush(&self) {
        self.core.flush();
    }

    /// What the cache has done and holds.
    pub fn stats(&self) -> Stats {
        self.core.partition_stats(0)
    }

    /// The number of shards, and of owner threads.
    pub fn shards(&self) -> usize {
        self.core.shard_len()
    }
}

fn is_key<K, V, Q>(key: &Q) -> impl Fn(NonNull<Header>) -> bool
where
    K: Borrow<Q>,
    Q: Eq + ?Sized,
{
    // SAFETY: tables show entries of their own cache only, protected while they are looked at.
    move |entry| unsafe { Typed::<K, V>::key_at(entry) }.borrow() == key
}
