//! The blob cache: keys and values are bytes, inline in the entry; a value is lent, copied or counted.

use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io;
#[cfg(feature = "server")]
use std::ops::ControlFlow;
use std::ops::Deref;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use ahash::RandomState;

use super::builder::{BuildError, Builder};
#[cfg(feature = "server")]
use super::bulk::BATCH;
use super::core::{Core, Loaded};
use super::entry::{
    BLOB_MAX_BYTES, BlobBuilder, Body, Bytes, Facts, Handle, Header, KEY_MAX_BYTES,
};
use super::flight::{EntryTooLarge, Failure, Joined, Outcome};
use super::stats::{Cause, Stats};

/// A counted reference to a value. It keeps the value in memory also after it was evicted; so long the value counts
/// against the budget. One that the cache could not store counts nowhere: it is its holders' alone.
#[derive(Clone)]
pub struct Blob(Handle<Bytes>);

impl Blob {
    pub(crate) fn new(entry: Handle<Bytes>) -> Self {
        Self(entry)
    }

    /// The key that the value was stored under, or loaded for.
    pub fn key(&self) -> &[u8] {
        self.0.key()
    }

    /// Gives the reference away as a pointer, to be taken back by [`Blob::from_raw`].
    #[cfg(feature = "server")]
    pub(crate) fn into_raw(self) -> NonNull<Header> {
        self.0.into_raw()
    }

    /// # Safety
    /// `raw` comes from [`Blob::into_raw`], and is taken back once.
    #[cfg(feature = "server")]
    pub(crate) unsafe fn from_raw(raw: NonNull<Header>) -> Self {
        // SAFETY: by the caller's word.
        Self(unsafe { Handle::from_raw(raw) })
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.value()
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.len())
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Blob {}

impl PartialEq<[u8]> for Blob {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl PartialEq<&[u8]> for Blob {
    fn eq(&self, other: &&[u8]) -> bool {
        **self == **other
    }
}

impl<const N: usize> PartialEq<[u8; N]> for Blob {
    fn eq(&self, other: &[u8; N]) -> bool {
        **self == *other
    }
}

impl<const N: usize> PartialEq<&[u8; N]> for Blob {
    fn eq(&self, other: &&[u8; N]) -> bool {
        **self == **other
    }
}

impl Blob {
    /// How hot it is, up to [`COUNTER_TOP`](super::policy::COUNTER_TOP).
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn counter(&self) -> u8 {
        self.0.header().counter()
    }

    /// When it must not be served any more, if it expires.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn expiry_ns(&self) -> Option<u64> {
        self.0.header().expires().then(|| self.0.expiry_ns())
    }
}

/// A value that is lent while a read runs.
pub(crate) struct Lent(NonNull<Header>);

impl Lent {
    pub fn value(&self) -> &[u8] {
        // SAFETY: `Lent` is given out by reference, to closures that run under the entry's protection.
        unsafe { Bytes::value_at(self.0) }
    }

    pub fn to_blob(&self) -> Blob {
        // SAFETY: as above.
        Blob(unsafe { Handle::acquire(self.0) })
    }

    /// When it must not be served any more, if it expires.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub fn expiry_ns(&self) -> Option<u64> {
        // SAFETY: as above; asked only of one that expires.
        unsafe {
            let expires = self.0.as_ref().expires();
            expires.then(|| Bytes::expiry_ns(self.0))
        }
    }
}

/// A concurrent cache of byte strings with a budget in bytes.
///
/// As [`Cache`](super::Cache), but one allocation holds header, key and value, and a hit can take a counted
/// reference ([`Blob`]) in place of a copy.
///
/// ```
/// use corecache::engine::BlobCache;
///
/// let pages = BlobCache::new(16 << 20)?;
/// let page = pages.get_or_load(b"/index", |_key, page| {
///     page.extend_from_slice(b"<h1>hello</h1>");
///     Ok(())
/// })?;
/// assert_eq!(&*page, b"<h1>hello</h1>");
/// assert_eq!(pages.get_with(b"/index", <[u8]>::len), Some(14));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct BlobCache {
    core: Core<Bytes>,
    hasher: RandomState,
    lifetime: Option<Lifetime>,
}

// A loader's panic leaves a cache as usable as it was.
impl UnwindSafe for BlobCache {}
impl RefUnwindSafe for BlobCache {}

/// For how long a value is served, by its key and itself.
type Lifetime = Box<dyn Fn(&[u8], &[u8]) -> Option<Duration> + Send + Sync>;

impl fmt::Debug for BlobCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.partition_stats(0).fmt_as("BlobCache", f)
    }
}

/// Takes the bytes of a value that is being loaded: as a whole, in pieces, or from whatever writes to an
/// [`io::Write`](std::io::Write).
pub struct BlobSink<'a>(&'a mut BlobBuilder);

impl fmt::Debug for BlobSink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobSink({} bytes)", self.0.value().len())
    }
}

impl io::Write for BlobSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobSink<'_> {
    /// Appends to the value.
    ///
    /// # Panics
    /// If key and value together grow over 2 GiB.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// Makes room for so many bytes more.
    ///
    /// # Panics
    /// If key and value together would be over 2 GiB.
    pub fn reserve(&mut self, more_bytes: usize) {
        self.0.reserve(more_bytes);
    }
}

impl BlobCache {
    /// A cache that takes `budget_bytes` of memory, with everything else as it comes.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn new(budget_bytes: usize) -> Result<Self, BuildError> {
        Self::from_builder(&Builder::new(budget_bytes))
    }

    /// A cache made to measure.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn from_builder(builder: &Builder) -> Result<Self, BuildError> {
        Ok(Self {
            core: builder.build()?,
            hasher: RandomState::new(),
            lifetime: None,
        })
    }

    /// Sets another budget, up or down; see [`Cache::resize`](super::Cache::resize).
    ///
    /// # Errors
    /// [`BuildError::BudgetTooSmall`] and [`BuildError::BudgetTooLarge`]; the budget stays as it was.
    pub fn resize(&self, budget_bytes: usize) -> Result<(), BuildError> {
        self.core.resize(budget_bytes)
    }

    /// Says for how long a value is served; see [`Cache::expire_after`](super::Cache::expire_after).
    pub fn expire_after(
        mut self,
        lifetime: impl Fn(&[u8], &[u8]) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.lifetime = Some(Box::new(lifetime));
        self
    }

    /// Has `listener` told of each key and value that leave, and why; see
    /// [`Cache::eviction_listener`](super::Cache::eviction_listener).
    pub fn eviction_listener(
        self,
        listener: impl Fn(&[u8], &[u8], Cause) + Send + Sync + 'static,
    ) -> Self {
        self.core.listen(Box::new(move |entry, cause| {
            listener(entry.key(), entry.value(), cause);
        }));
        self
    }

    #[inline]
    pub(crate) fn hash(&self, partition: u16, key: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u16(partition);
        hasher.write(key);
        hasher.finish()
    }

    /// Reads a value in place; counts the read.
    #[inline]
    pub(crate) fn read_in<R>(
        &self,
        partition: u16,
        key: &[u8],
        f: impl FnOnce(&Lent) -> R,
    ) -> Option<R> {
        let hash = self.hash(partition, key);
        let is_it = is_key(partition, key);
        self.core
            .read(partition, hash, is_it, |entry| f(&Lent(entry)))
    }

    /// A value, with what its entry weighs in bytes and when it expires by the cache's clock. Nothing counts that.
    #[cfg(feature = "server")]
    pub(crate) fn peek_in(&self, partition: u16, key: &[u8]) -> Option<(Blob, u32, u64)> {
        self.glance_in(partition, key, |lent| {
            let Blob(entry) = lent.to_blob();
            let (weight_bytes, expiry_ns) = (entry.weight_bytes(), entry.expiry_ns());
            (Blob(entry), weight_bytes, expiry_ns)
        })
    }

    /// As [`BlobCache::read_in`], without a trace: it is not counted, and keeps nothing in memory for longer.
    pub(crate) fn glance_in<R>(
        &self,
        partition: u16,
        key: &[u8],
        f: impl FnOnce(&Lent) -> R,
    ) -> Option<R> {
        let (hash, is_it) = (self.hash(partition, key), is_key(partition, key));
        self.core
            .peek(partition, hash, is_it, |entry| f(&Lent(entry)))
    }

    /// Reads many values in place, in the order of their keys, until `f` breaks off: it gets the index of each, and
    /// none for a value that is not held. Their memory is fetched together; each read is counted.
    #[cfg(feature = "server")]
    pub(crate) fn read_many_in<Stop>(
        &self,
        partition: u16,
        keys: &[&[u8]],
        mut f: impl FnMut(usize, Option<&Lent>) -> ControlFlow<Stop>,
    ) -> ControlFlow<Stop> {
        let mut hashes = [0; BATCH];
        for (from, batch) in (0..).step_by(BATCH).zip(keys.chunks(BATCH)) {
            for (hash, key) in hashes.iter_mut().zip(batch) {
                *hash = self.hash(partition, key);
            }
            self.core.prefetch(&hashes[..batch.len()]);
            for (index, (hash, key)) in (from..).zip(hashes.iter().zip(batch)) {
                let is_it = is_key(partition, key);
                let held = self.core.read(partition, *hash, is_it, |entry| {
                    f(index, Some(&Lent(entry)))
                });
                held.unwrap_or_else(|| f(index, None))?;
            }
        }
        ControlFlow::Continue(())
    }

    /// After a miss; see `Core::join`.
    pub(crate) fn join_in(&self, partition: u16, key: &[u8]) -> Joined<Bytes> {
        self.core.join(
            partition,
            self.hash(partition, key),
            is_key(partition, key),
            |other| other.0 == partition && *other.1 == *key,
            || (partition, key.into()),
        )
    }

    pub(crate) fn core(&self) -> &Core<Bytes> {
        &self.core
    }

    /// What is known of an entry that is begun now; see `Core::facts`.
    pub(crate) fn facts(&self, partition: u16, key: &[u8]) -> Facts {
        self.core.facts(self.hash(partition, key), partition)
    }

    /// Ends a value: `prefix` goes in front of it.
    pub(crate) fn seal(&self, value: BlobBuilder, facts: &Facts, prefix: &[u8]) -> Handle<Bytes> {
        value.finish(self.core.arena(facts.hash), facts, prefix)
    }

    /// The value of `key`, counted; none if it is not held or has expired.
    pub fn get(&self, key: &[u8]) -> Option<Blob> {
        self.core
            .read(0, self.hash(0, key), is_key(0, key), |entry| {
                // SAFETY: an entry of this cache, protected while this closure runs.
                Blob(unsafe { Handle::acquire(entry) })
            })
    }

    /// Lends the value of `key` to `f`. It stays in memory as long as `f` runs, and no other value does for its sake.
    #[inline]
    pub fn get_with<R>(&self, key: &[u8], f: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.read_in(0, key, |lent| f(lent.value()))
    }

    /// Whether `key` is held and has not expired. That is no hit and no miss, and the entry is kept no longer for it; by
    /// the time that the caller acts on it, it may have left.
    pub fn contains_key(&self, key: &[u8]) -> bool {
        self.glance_in(0, key, |_| ()).is_some()
    }

    /// The values of many keys, in their order; see [`Cache::get_many`](super::Cache::get_many).
    pub fn get_many<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) -> Vec<Option<Blob>> {
        let keys: Vec<_> = keys.into_iter().collect();
        self.read_many(&keys)
    }

    fn read_many(&self, keys: &[&[u8]]) -> Vec<Option<Blob>> {
        let hashes: Vec<_> = keys.iter().map(|key| self.hash(0, key)).collect();
        self.core.read_many(&hashes, |index| {
            let is_it = is_key(0, keys[index]);
            self.core.read(0, hashes[index], is_it, |entry| {
                // SAFETY: an entry of this cache, protected while this closure runs.
                Blob(unsafe { Handle::acquire(entry) })
            })
        })
    }

    /// The values of many keys, in their order; those that are not held are written by one call of `load`, once for all
    /// who ask meanwhile. `load` gets the keys that nobody is loading yet, and a sink for each. The rules are those of
    /// [`Cache::get_many_or_load`](super::Cache::get_many_or_load).
    ///
    /// ```
    /// use corecache::engine::BlobCache;
    ///
    /// let pages = BlobCache::new(16 << 20)?;
    /// let asked: [&[u8]; 2] = [b"/a", b"/b"];
    /// let found = pages.get_many_or_load(asked, |keys, values| {
    ///     for (key, value) in keys.iter().zip(values) {
    ///         value.extend_from_slice(key);
    ///     }
    ///     Ok(())
    /// })?;
    /// assert_eq!(&*found[1], b"/b");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`BlobCache::get_or_load`].
    pub fn get_many_or_load<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a [u8]>,
        mut load: impl FnMut(
            &[&'a [u8]],
            &mut [BlobSink<'_>],
        ) -> Result<(), Box<dyn Error + Send + Sync>>,
    ) -> Result<Vec<Blob>, Failure> {
        let keys: Vec<_> = keys.into_iter().collect();
        let mut values = self.read_many(&keys);
        let missed: Vec<_> = (0..keys.len()).filter(|&at| values[at].is_none()).collect();
        missed
            .iter()
            .try_for_each(|&at| check_len(keys[at].len(), 0))?;
        let joined = missed.iter().map(|&at| (at, self.join_in(0, keys[at])));
        let found = self.core.load_many(0, joined, |indexes| {
            let asked: Vec<_> = indexes.iter().map(|&at| keys[at]).collect();
            let facts: Vec<_> = asked.iter().map(|key| self.facts(0, key)).collect();
            let mut written: Vec<_> = asked.iter().map(|key| BlobBuilder::new(key, 0)).collect();
            let mut sinks: Vec<_> = written.iter_mut().map(BlobSink).collect();
            load(&asked, &mut sinks).map_err(|error| Failure::Failed(error.into()))?;
            let loaded = asked.iter().zip(written).zip(facts);
            Ok(loaded
                .map(|((key, value), facts)| self.loaded(key, value, facts))
                .collect())
        })?;
        for (at, entry) in found {
            values[at] = Some(Blob(entry));
        }
        let all: Option<Vec<Blob>> = values.into_iter().collect();
        Ok(all.expect("what was missed has been loaded"))
    }

    /// The value of `key`; if it is not held, `load` writes it, on this thread, once for all who ask meanwhile. The
    /// rules are those of [`Cache::get_or_load`](super::Cache::get_or_load).
    ///
    /// # Errors
    /// [`Failure::Failed`] with the loader's error; [`Failure::Reentrant`] if the loader waits for its own key.
    pub fn get_or_load(
        &self,
        key: &[u8],
        load: impl FnOnce(&[u8], &mut BlobSink<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
    ) -> Result<Blob, Failure> {
        self.load_until(key, None, load)
    }

    /// As [`BlobCache::get_or_load`], but waits for another caller's load until `deadline` only.
    ///
    /// # Errors
    /// As above, and [`Failure::TimedOut`].
    pub fn get_or_load_by(
        &self,
        key: &[u8],
        deadline: Instant,
        load: impl FnOnce(&[u8], &mut BlobSink<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
    ) -> Result<Blob, Failure> {
        self.load_until(key, Some(deadline), load)
    }

    fn load_until(
        &self,
        key: &[u8],
        deadline: Option<Instant>,
        load: impl FnOnce(&[u8], &mut BlobSink<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
    ) -> Result<Blob, Failure> {
        if let Some(blob) = self.get(key) {
            return Ok(blob);
        }
        check_len(key.len(), 0)?;
        let joined = self.join_in(0, key);
        let facts = self.facts(0, key);
        let outcome: Outcome<Bytes> = self.core.load(0, joined, deadline, |_owned| {
            let mut value = BlobBuilder::new(key, 0);
            load(key, &mut BlobSink(&mut value)).map_err(|error| Failure::Failed(error.into()))?;
            Ok(self.loaded(key, value, facts))
        });
        outcome.map(Blob)
    }

    fn loaded(&self, key: &[u8], value: BlobBuilder, facts: Facts) -> Loaded<Bytes> {
        let ttl = self.lifetime_of(key, value.value());
        let facts = self.core.expiring(facts, ttl);
        Loaded {
            entry: self.seal(value, &facts, b""),
            stored: true,
        }
    }

    fn lifetime_of(&self, key: &[u8], value: &[u8]) -> Option<Duration> {
        self.lifetime
            .as_ref()
            .and_then(|lifetime| lifetime(key, value))
    }

    /// Stores a copy of a value, in place of what the key held, and returns when readers see it.
    ///
    /// # Errors
    /// [`EntryTooLarge`] if the value could never fit; what the key held stays.
    pub fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), EntryTooLarge> {
        let hash = self.hash(0, key);
        let entry = self.entry(hash, key, value, None)?;
        self.core.insert(hash, entry);
        Ok(())
    }

    /// As [`BlobCache::insert`]; from `ttl` from now on the value is not served any more.
    ///
    /// # Errors
    /// As for [`BlobCache::insert`].
    pub fn insert_for(&self, key: &[u8], value: &[u8], ttl: Duration) -> Result<(), EntryTooLarge> {
        let hash = self.hash(0, key);
        let entry = self.entry(hash, key, value, Some(ttl))?;
        self.core.insert(hash, entry);
        Ok(())
    }

    /// As [`BlobCache::insert`], but does not wait while another thread changes the shard; see
    /// [`Cache::insert_soon`](super::Cache::insert_soon).
    ///
    /// # Errors
    /// As for [`BlobCache::insert`].
    pub fn insert_soon(&self, key: &[u8], value: &[u8]) -> Result<(), EntryTooLarge> {
        let hash = self.hash(0, key);
        let entry = self.entry(hash, key, value, None)?;
        self.core.insert_soon(hash, entry);
        Ok(())
    }

    pub(super) fn entry(
        &self,
        hash: u64,
        key: &[u8],
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Handle<Bytes>, EntryTooLarge> {
        check_len(key.len(), value.len())?;
        let ttl = ttl.or_else(|| self.lifetime_of(key, value));
        let weight = Bytes::weigh(key.len(), value.len(), ttl.is_some());
        self.core.check_weight(0, weight)?;
        let facts = self.core.expiring(self.core.facts(hash, 0), ttl);
        let arena = self.core.arena(hash);
        Ok(Handle::blob(arena, &facts, key, value))
    }

    /// Removes a key; tells whether it was held. A load of the key that is under way reaches those who wait for it,
    /// and is not stored.
    pub fn remove(&self, key: &[u8]) -> bool {
        self.core.remove(self.hash(0, key), (0, key.into()))
    }

    /// Removes everything. Loads that are under way reach those who wait for them, and are not stored.
    pub fn clear(&self) {
        self.core.clear(0);
    }

    /// Returns when all that was begun before is to be seen, and the listener has been told of what left; see
    /// [`Cache::flush`](super::Cache::flush).
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

fn check_len(key_bytes: usize, value_bytes: usize) -> Result<(), EntryTooLarge> {
    let entry_bytes = key_bytes.saturating_add(value_bytes);
    let largest_bytes = if key_bytes > KEY_MAX_BYTES {
        KEY_MAX_BYTES
    } else {
        BLOB_MAX_BYTES
    };
    if entry_bytes <= largest_bytes {
        return Ok(());
    }
    Err(EntryTooLarge {
        entry_bytes,
        largest_bytes,
    })
}

fn is_key(partition: u16, key: &[u8]) -> impl Fn(NonNull<Header>) -> bool {
    // SAFETY: tables show entries of their own cache only, protected while they are looked at.
    move |entry| unsafe { entry.as_ref().partition() == partition && Bytes::key_at(entry) == key }
}
