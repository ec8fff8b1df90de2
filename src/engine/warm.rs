//! Warm restart: what a cache holds, saved to a file and restored from it.
//!
//! A save walks the cache as [`Cache::iter`] does and holds up nobody. The file is replaced as a whole: a process that is
//! killed in the middle leaves the former one; see `file`. A restore reads the file twice: first it checks all of it,
//! then it stores, from the most valuable entries to the least; see `format`. What is restored is older than all that
//! the cache has got since, so it replaces nothing, evicts nothing and fences no load.

use std::hash::{BuildHasher, Hash};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::blobs::BlobCache;
use super::cache::Cache;
use super::clock::NEVER;
use super::core::Core;
use super::entry::{Body, Handle};
use super::iterate::Walk;
use super::owner::Fate;
use super::shard;

mod error;
mod file;
mod format;

pub use error::{RestoreError, SaveError};
use file::Replacement;
use format::{Reader, Record, Writer};

/// What a save has written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Saved {
    /// Entries in the file.
    pub entries: u64,
    /// Entries that are not, as `encode` did not want them, or made more than 2 GiB of one.
    pub skipped: u64,
    /// The file's length.
    pub bytes: u64,
}

/// What a restore has read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// Entries that are in the cache now.
    pub entries: u64,
    /// Skipped: they have expired since.
    pub expired: u64,
    /// Skipped: the cache holds something newer for their key.
    pub held: u64,
    /// Skipped: there is no room for them, or the cache was cleared meanwhile.
    pub refused: u64,
    /// Skipped: `decode` made nothing of them.
    pub undecoded: u64,
}

impl Restored {
    /// All entries of the file that are not in the cache for its sake.
    pub fn skipped(&self) -> u64 {
        self.expired + self.held + self.refused + self.undecoded
    }
}

impl BlobCache {
    /// Saves what the cache holds to a file, in place of one that may be there.
    ///
    /// Nobody waits for it: reads and changes go on, and entries that come meanwhile may be saved or not. If it fails, or
    /// the process is killed, the former file stays as it was. It is written as `<path>.saving` first; only its owner may
    /// read it. What has expired is not saved; what would expire has the time that it had left when this began.
    ///
    /// ```
    /// use corecache::engine::{BlobCache, RestoreError};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("pages.warm");
    /// let pages = BlobCache::new(16 << 20)?;
    /// match pages.restore(&path) {
    ///     Ok(restored) => println!("{} pages, {} skipped", restored.entries, restored.skipped()),
    ///     Err(RestoreError::Missing { .. }) => println!("the first start"),
    ///     Err(error) => eprintln!("a cold start: {error}"),
    /// }
    /// pages.insert(b"/index", b"<h1>hello</h1>")?;
    /// assert_eq!(pages.save(&path)?.entries, 1);
    ///
    /// let after_a_restart = BlobCache::new(16 << 20)?;
    /// after_a_restart.restore(&path)?;
    /// assert_eq!(after_a_restart.get(b"/index").as_deref(), Some(&b"<h1>hello</h1>"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`SaveError`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<Saved, SaveError> {
        save(self.core(), path.as_ref(), |entry, add| {
            add(entry.key(), entry.value())
        })
    }

    /// Stores what was saved to a file.
    ///
    /// The file is checked as a whole before anything is stored: of one that is damaged or cut off, nothing is. It may be
    /// restored into a cache in use, and into one of another budget or number of shards:
    ///
    /// * What the cache holds is newer and stays, and so is what is being loaded. But a key that is removed meanwhile may
    ///   come back.
    /// * Nothing is evicted: those with the most hits come first, and what finds no room is skipped.
    /// * The time between the save and now counts for what expires, by the wall clock; if that was set back in between, no
    ///   time has passed.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn restore(&self, path: impl AsRef<Path>) -> Result<Restored, RestoreError> {
        restore(self.core(), path.as_ref(), |record, ttl| {
            let hash = self.hash(0, record.key);
            let entry = self.entry(hash, record.key, record.value, ttl);
            Ok((hash, entry.map_err(|_| Skipped::Refused)?))
        })
    }
}

impl<K, V, S> Cache<K, V, S>
where
    S: BuildHasher,
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Saves what the cache holds to a file, in place of one that may be there: what `encode` makes of key and value, or
    /// nothing where it returns none. The rules are those of [`BlobCache::save`].
    ///
    /// A file does not say of which types its entries were. When they change, change the path, or begin what is encoded
    /// with a number that `decode` checks.
    ///
    /// ```
    /// use corecache::engine::Cache;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("names.warm");
    /// let names = Cache::<u64, String>::new(1 << 20)?;
    /// names.insert(7, "seven".into())?;
    /// names.save_with(&path, |number, name| Some((number.to_le_bytes(), name.clone())))?;
    ///
    /// let after_a_restart = Cache::<u64, String>::new(1 << 20)?;
    /// after_a_restart.restore_with(&path, |number, name| {
    ///     let number = u64::from_le_bytes(number.try_into().ok()?);
    ///     Some((number, String::from_utf8(name.to_vec()).ok()?))
    /// })?;
    /// assert_eq!(after_a_restart.get(&7).as_deref(), Some("seven"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`SaveError`].
    pub fn save_with<A, B>(
        &self,
        path: impl AsRef<Path>,
        mut encode: impl FnMut(&K, &V) -> Option<(A, B)>,
    ) -> Result<Saved, SaveError>
    where
        A: AsRef<[u8]>,
        B: AsRef<[u8]>,
    {
        save(self.core(), path.as_ref(), |entry, add| {
            match encode(entry.key(), entry.value()) {
                Some((key, value)) => add(key.as_ref(), value.as_ref()),
                None => Ok(false),
            }
        })
    }

    /// Stores what was saved to a file, as `decode` makes it of the bytes of key and value; what it makes nothing of is
    /// skipped. The rules are those of [`BlobCache::restore`].
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn restore_with(
        &self,
        path: impl AsRef<Path>,
        mut decode: impl FnMut(&[u8], &[u8]) -> Option<(K, V)>,
    ) -> Result<Restored, RestoreError> {
        restore(self.core(), path.as_ref(), |record, ttl| {
            let (key, value) = decode(record.key, record.value).ok_or(Skipped::Undecoded)?;
            let hash = self.hash(&key);
            let entry = self.entry(hash, key, value, ttl);
            Ok((hash, entry.map_err(|_| Skipped::Refused)?))
        })
    }
}

/// Writes a key and a value; false if they are too large.
type Add<'a> = dyn FnMut(&[u8], &[u8]) -> io::Result<bool> + 'a;

fn save<B: Body>(
    core: &Core<B>,
    path: &Path,
    mut encode: impl FnMut(&Handle<B>, &mut Add) -> io::Result<bool>,
) -> Result<Saved, SaveError> {
    let replacement = Replacement::begin(path)?;
    let mut skipped = 0;
    let mut write = || {
        let begun_ns = core.clock.now_ns();
        let mut writer = Writer::begin(&replacement.file, wall_clock_ns())?;
        for entry in Walk::new(core, 0) {
            let (rank, left_ns) = (format::rank_of(entry.header()), left_ns(&entry, begun_ns));
            let mut add = |key: &[u8], value: &[u8]| {
                let record = Record {
                    left_ns,
                    key,
                    value,
                };
                writer.add(rank, &record)
            };
            skipped += u64::from(!encode(&entry, &mut add)?);
        }
        writer.end()?;
        Ok((writer.entries, writer.bytes))
    };
    let (entries, bytes) = write().map_err(|source| replacement.failed(source))?;
    replacement.publish()?;
    Ok(Saved {
        entries,
        skipped,
        bytes,
    })
}

fn left_ns<B: Body>(entry: &Handle<B>, now_ns: u64) -> u64 {
    match entry.expiry_ns() {
        NEVER => u64::MAX,
        expiry_ns => expiry_ns.saturating_sub(now_ns),
    }
}

fn wall_clock_ns() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since_1970.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// Why there is no entry for a record.
enum Skipped {
    Undecoded,
    Refused,
}

fn restore<B: Body>(
    core: &Core<B>,
    path: &Path,
    mut decode: impl FnMut(&Record, Option<Duration>) -> Result<(u64, Handle<B>), Skipped>,
) -> Result<Restored, RestoreError> {
    if shard::is_inside() {
        let path = path.to_owned();
        return Err(RestoreError::Inside { path });
    }
    // What is cleared from here on stays so.
    let generation = core.generation(0);
    let saved = Reader::open(path)?;
    let away_ns = wall_clock_ns().saturating_sub(saved.saved_at_ns);
    let begun_ns = core.clock.now_ns();
    let mut restored = Restored::default();
    let read = saved.for_each(|rank, record| {
        let ttl = (record.left_ns != u64::MAX).then(|| {
            let passed_ns = away_ns.saturating_add(core.clock.now_ns() - begun_ns);
            Duration::from_nanos(record.left_ns.saturating_sub(passed_ns))
        });
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            restored.expired += 1;
            return;
        }
        let fate = match decode(record, ttl) {
            Err(Skipped::Undecoded) => {
                restored.undecoded += 1;
                return;
            }
            Ok((hash, entry)) if entry.header().generation() == generation => {
                entry.header().set_counter(format::counter_of(rank));
                core.restore(hash, entry)
            }
            _ => Fate::Refused,
        };
        let count = match fate {
            Fate::Restored => &mut restored.entries,
            Fate::Held => &mut restored.held,
            Fate::Refused => &mut restored.refused,
        };
        *count += 1;
    });
    match read {
        Ok(()) => Ok(restored),
        Err(error) => Err(RestoreError::Changed {
            path: path.to_owned(),
            entries: restored.entries,
            source: Box::new(error),
        }),
    }
}
