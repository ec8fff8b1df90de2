//! The typed cache: `Cache<K, V>` with key and value inline in the entry.

use std::borrow::Borrow;
use std::error::Error;
use std::fmt;
use std::hash::Hash;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use ahash::RandomState;

use super::builder::{BuildError, Builder};
use super::core::{Core, Loaded};
use super::entry::{Handle, Header, Typed};
use super::flight::{EntryTooLarge, Failure};
use super::stats::{Cause, Stats};

/// Bytes on the heap that a key and a value own.
type Weigher<K, V> = Box<dyn Fn(&K, &V) -> usize + Send + Sync>;

/// A concurrent cache with a budget in bytes, filled by whoever asks first.
///
/// Reads take no lock and write to no memory that other readers use, once an entry is hot. Changes are made by one
/// owner thread a shard. See the [module](crate::engine) for how that works, and its costs.
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
pub struct Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    core: Core<Typed<K, V>>,
    hasher: RandomState,
    weigher: Option<Weigher<K, V>>,
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
    /// A cache that takes `budget_bytes` of memory, with everything else as it comes.
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
    /// let cache = Cache::<String, Vec<u8>>::from_builder(&Builder::new(64 << 20).shards(4))?;
    /// # Ok::<(), corecache::engine::BuildError>(())
    /// ```
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn from_builder(builder: &Builder) -> Result<Self, BuildError> {
        Ok(Self {
            core: builder.build()?,
            hasher: RandomState::new(),
            weigher: None,
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

    /// Has `listener` told of each entry that leaves, and why. Readers do not find the entry any more by then.
    ///
    /// It runs on the thread of the shard's owner: hits are not held up by it, but the shard's next changes are, so it
    /// should be quick. It may use the cache, as far as that does not wait for an owner: `get` and `insert_soon`, not
    /// `insert`. One that panics is logged. A second listener is not taken.
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

    /// Sets another budget, up or down, while the cache is in use. What is over it is evicted soon after; values that
    /// are still held, and tables that have grown, are not given back by that.
    ///
    /// # Errors
    /// [`BuildError::BudgetTooSmall`] and [`BuildError::BudgetTooLarge`]; the budget stays as it was.
    pub fn resize(&self, budget_bytes: usize) -> Result<(), BuildError> {
        self.core.resize(budget_bytes)
    }

    fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        self.hasher.hash_one(key)
    }

    /// A clone of the value of `key`, or none if it is not held or has expired.
    #[inline]
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

    /// The values of many keys, in their order.
    pub fn get_many<'a, Q>(&self, keys: impl IntoIterator<Item = &'a Q>) -> Vec<Option<V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized + 'a,
        V: Clone,
    {
        keys.into_iter().map(|key| self.get(key)).collect()
    }

    /// The value of `key`; if it is not held, `load` brings it, on this thread, once for all who ask meanwhile.
    ///
    /// Those who come later wait for the first one's outcome, an error included; errors are not stored. If a loader
    /// panics, its panic goes on in its caller, and the next of those who wait loads. A loader may ask the cache
    /// for other keys. A value that is too large for the cache is returned and not stored.
    ///
    /// The shard's owner stores the value some microseconds after this returns: a [`Cache::get`] right then may miss,
    /// unless [`Cache::flush`] comes before it. Asking with a loader never loads twice for that.
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
        let joined = self.core.join(
            hash,
            is_it,
            |other| other.borrow() == key,
            || key.to_owned(),
        );
        let generation = self.core.generation(0);
        let outcome = self.core.load(0, joined, deadline, |owned| {
            let value = load(owned).map_err(|error| Failure::Failed(error.into()))?;
            let mut entry = self.entry(hash, key.to_owned(), value);
            entry.header_mut().generation = generation;
            Ok(Loaded {
                entry,
                stored: true,
            })
        });
        Ok(outcome?.value().clone())
    }

    /// Stores a value, in place of what the key held, and returns when readers see it. That takes a message to the
    /// shard's owner and back; [`Cache::insert_soon`] does not wait.
    ///
    /// # Errors
    /// [`Rejected`] hands back a value that could never fit; what the key held stays.
    pub fn insert(&self, key: K, value: V) -> Result<(), Rejected<K, V>> {
        self.store(key, value, None, true)
    }

    /// As [`Cache::insert`]; from `ttl` from now on the value is not served any more.
    ///
    /// # Errors
    /// As for [`Cache::insert`].
    pub fn insert_for(&self, key: K, value: V, ttl: Duration) -> Result<(), Rejected<K, V>> {
        self.store(key, value, Some(ttl), true)
    }

    /// As [`Cache::insert`], but returns as soon as the owner has been told. Writes of one thread to one key take
    /// effect in their order.
    ///
    /// # Errors
    /// As for [`Cache::insert`].
    pub fn insert_soon(&self, key: K, value: V) -> Result<(), Rejected<K, V>> {
        self.store(key, value, None, false)
    }

    fn store(
        &self,
        key: K,
        value: V,
        ttl: Option<Duration>,
        wait: bool,
    ) -> Result<(), Rejected<K, V>> {
        let weight = self.weight(&key, &value);
        if let Err(reason) = self.core.check_weight(0, weight) {
            return Err(Rejected { key, value, reason });
        }
        let mut entry = self.entry(self.hash(&key), key, value);
        let header = entry.header_mut();
        header.generation = self.core.generation(0);
        if let Some(ttl) = ttl {
            header.hard_expiry_ns = self.core.clock.expiry_after(ttl);
        }
        self.core.insert(entry, wait);
        Ok(())
    }

    fn weight(&self, key: &K, value: &V) -> usize {
        let heap_bytes = self.weigher.as_ref().map_or(0, |weigh| weigh(key, value));
        Core::<Typed<K, V>>::weigh(Typed::<K, V>::ENTRY_BYTES).saturating_add(heap_bytes)
    }

    fn entry(&self, hash: u64, key: K, value: V) -> Handle<Typed<K, V>> {
        let weight = self.weight(&key, &value);
        let mut entry = Handle::typed(hash, key, value);
        entry.header_mut().weight_bytes = u32::try_from(weight).unwrap_or(u32::MAX);
        entry
    }

    /// Removes a key; tells whether it was held. A load of the key that is under way reaches those who wait for it,
    /// and is not stored.
    pub fn remove<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.core.remove(self.hash(key), key.to_owned(), true)
    }

    /// Removes everything. Loads that are under way reach those who wait for them, and are not stored.
    pub fn clear(&self) {
        self.core.clear(0);
    }

    /// Waits until all that was sent to the owners before is to be seen.
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
