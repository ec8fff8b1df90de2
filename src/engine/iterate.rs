//! Iteration over what a cache holds, while everybody goes on using it.
//!
//! A walk takes no turn and no lock: it reads the tables as any reader does, a bucket at a time, counts the references
//! that it gives out, and holds those of one bucket at the most. See `table::scan` for why it misses nothing.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::iter::FusedIterator;

use super::blobs::{Blob, BlobCache};
use super::cache::Cache;
use super::core::Core;
use super::entry::{Body, Bytes, Handle, Typed};
use super::table::Position;

/// The entries of a partition, shard by shard.
pub(super) struct Walk<'a, B: Body> {
    core: &'a Core<B>,
    partition: u16,
    shard: usize,
    position: Position,
    /// What is left of the bucket that was read last.
    found: Vec<Handle<B>>,
}

impl<'a, B: Body> Walk<'a, B> {
    pub fn new(core: &'a Core<B>, partition: u16) -> Self {
        Self {
            core,
            partition,
            shard: 0,
            position: Position::START,
            found: Vec::new(),
        }
    }

    /// Reads the next bucket; false: there are no more.
    fn read_on(&mut self) -> bool {
        let Some(table) = self.core.table(self.shard) else {
            return false;
        };
        let next = table.scan(self.position, &mut self.found, |entry| {
            // SAFETY: protected while this closure runs; built by `B`, as all entries of this core.
            unsafe { Handle::acquire(entry) }
        });
        self.shard += usize::from(next.is_none());
        self.position = next.unwrap_or(Position::START);
        true
    }

    /// What was found later is newer: a key that was removed and stored anew meanwhile is not shown twice.
    fn forget_older(&mut self, entry: &Handle<B>) {
        let hash = entry.header().hash;
        self.found
            .retain(|older| older.header().hash != hash || !B::same_key(older, entry));
    }

    fn is_shown(&self, entry: &Handle<B>) -> bool {
        let header = entry.header();
        header.partition() == self.partition
            && header.generation() == self.core.generation(self.partition)
            && !self.core.clock.is_past(entry.expiry_ns())
    }
}

impl<B: Body> Iterator for Walk<'_, B> {
    type Item = Handle<B>;

    fn next(&mut self) -> Option<Handle<B>> {
        loop {
            while let Some(entry) = self.found.pop() {
                self.forget_older(&entry);
                if self.is_shown(&entry) {
                    return Some(entry);
                }
            }
            if !self.read_on() {
                return None;
            }
        }
    }
}

/// A counted reference to a key and its value, as [`Cache::iter`] gives them. It keeps both in memory also after they
/// were evicted; so long they count against the budget.
pub struct Entry<K, V>(Handle<Typed<K, V>>)
where
    K: Eq + Send + Sync + 'static,
    V: Send + Sync + 'static;

impl<K, V> Entry<K, V>
where
    K: Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// The key.
    pub fn key(&self) -> &K {
        self.0.key()
    }

    /// The value.
    pub fn value(&self) -> &V {
        self.0.value()
    }
}

impl<K, V> Clone for Entry<K, V>
where
    K: Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> fmt::Debug for Entry<K, V>
where
    K: Eq + Send + Sync + fmt::Debug + 'static,
    V: Send + Sync + fmt::Debug + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry")
            .field(self.key())
            .field(self.value())
            .finish()
    }
}

/// The entries of a [`Cache`]; see [`Cache::iter`].
pub struct Iter<'a, K, V>(Walk<'a, Typed<K, V>>)
where
    K: Eq + Send + Sync + 'static,
    V: Send + Sync + 'static;

impl<K, V> fmt::Debug for Iter<'_, K, V>
where
    K: Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

impl<K, V> Iterator for Iter<'_, K, V>
where
    K: Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    type Item = Entry<K, V>;

    fn next(&mut self) -> Option<Entry<K, V>> {
        self.0.next().map(Entry)
    }
}

impl<K, V> FusedIterator for Iter<'_, K, V>
where
    K: Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
}

impl<K, V, S> Cache<K, V, S>
where
    S: BuildHasher,
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// All that the cache holds, in no order. Nobody waits for a walk, however long it takes, and it counts no hits.
    ///
    /// An entry that is held all the while is shown exactly once, and no key is shown twice; what comes, leaves or is
    /// replaced meanwhile may be shown or not. What has expired or was cleared is not shown. The loop may use the
    /// cache, and change it.
    ///
    /// ```
    /// use corecache::engine::Cache;
    ///
    /// let squares = Cache::<u64, u64>::new(1 << 20)?;
    /// squares.insert(2, 4)?;
    /// squares.insert(3, 9)?;
    /// for entry in &squares {
    ///     assert_eq!(entry.key() * entry.key(), *entry.value());
    /// }
    /// let mut keys: Vec<u64> = squares.iter().map(|entry| *entry.key()).collect();
    /// keys.sort();
    /// assert_eq!(keys, [2, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter(Walk::new(self.core(), 0))
    }

    /// The number of entries. Those that have expired count until their memory is given back.
    pub fn len(&self) -> usize {
        self.core().len(0)
    }

    /// Whether there are no entries; see [`Cache::len`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a, K, V, S> IntoIterator for &'a Cache<K, V, S>
where
    S: BuildHasher,
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    type Item = Entry<K, V>;
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

/// The values of a [`BlobCache`], with their keys; see [`BlobCache::iter`].
pub struct BlobIter<'a>(Walk<'a, Bytes>);

impl fmt::Debug for BlobIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobIter").finish_non_exhaustive()
    }
}

impl Iterator for BlobIter<'_> {
    type Item = Blob;

    fn next(&mut self) -> Option<Blob> {
        self.0.next().map(Blob::new)
    }
}

impl FusedIterator for BlobIter<'_> {}

impl BlobCache {
    /// All that one partition holds; as [`iter`](Self::iter).
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn iter_in(&self, partition: u16) -> BlobIter<'_> {
        BlobIter(Walk::new(self.core(), partition))
    }

    /// All that the cache holds, in no order, each as a value that knows its [key](Blob::key). The rules are those of
    /// [`Cache::iter`].
    ///
    /// ```
    /// use corecache::engine::BlobCache;
    ///
    /// let pages = BlobCache::new(1 << 20)?;
    /// pages.insert(b"/index", b"<h1>hello</h1>")?;
    /// for page in &pages {
    ///     assert_eq!((page.key(), &*page), (&b"/index"[..], &b"<h1>hello</h1>"[..]));
    /// }
    /// assert_eq!(pages.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> BlobIter<'_> {
        BlobIter(Walk::new(self.core(), 0))
    }

    /// As [`BlobCache::iter`], of a partition, with what each entry weighs in bytes.
    #[cfg(feature = "server")]
    pub(crate) fn weighed_in(&self, partition: u16) -> impl Iterator<Item = (Blob, u32)> {
        Walk::new(self.core(), partition).map(|entry| {
            let weight_bytes = entry.weight_bytes();
            (Blob::new(entry), weight_bytes)
        })
    }

    /// The number of entries. Those that have expired count until their memory is given back.
    pub fn len(&self) -> usize {
        self.core().len(0)
    }

    /// Whether there are no entries; see [`BlobCache::len`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> IntoIterator for &'a BlobCache {
    type Item = Blob;
    type IntoIter = BlobIter<'a>;

    fn into_iter(self) -> BlobIter<'a> {
        self.iter()
    }
}

#[cfg(test)]
mod tests;
