//! Groups: named caches that fill themselves, side by side in one budget.
//!
//! A group has a [`Loader`] and a share of the budget. Asked for a key that it does not hold, it loads the key once,
//! however many ask. Values are immutable: loaded, never written, and kept until they are evicted, or until the
//! expiry that their loader gave them.
//!
//! ```
//! use corecache::engine::Builder;
//! use corecache::group::{GroupConfig, Groups, LoadContext, LoadError, Sink};
//!
//! let load = |key: &[u8], _ctx: &LoadContext<'_>, sink: &mut Sink| match key {
//!     b"missing" => Err(LoadError::NotFound("there is no such page".into())),
//!     _ => sink.append(key),
//! };
//! let groups = Groups::new(&Builder::new(16 << 20), [GroupConfig::new("pages", load)])?;
//! let pages = groups.get("pages").expect("it was just made");
//! assert_eq!(pages.get(b"index")?.bytes(), b"index");
//! assert!(pages.get(b"missing").is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod chunks;
pub(crate) mod error;
mod filling;
pub(crate) mod frame;
#[cfg(feature = "server")]
pub(crate) mod holding;
mod load;
mod loader;
#[cfg(feature = "server")]
pub(crate) mod relay;

use std::collections::HashMap;
use std::fmt;
#[cfg(feature = "server")]
use std::ops::ControlFlow;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use error::{ErrorKind, GetError};
pub use load::PendingLoad;
#[cfg(feature = "server")]
pub(crate) use load::Roomless;
pub use loader::{LoadContext, LoadError, Loader, Sink};

#[cfg(feature = "server")]
use crate::engine::Lent;
use crate::engine::{Account, Blob, BlobCache, BuildError, Builder, Share, Stats};
use filling::Large;
#[cfg(feature = "server")]
pub(crate) use filling::Room;

/// The longest key, in bytes.
pub const KEY_MAX_BYTES: usize = 4096;

/// The longest name of a group, in bytes.
pub const NAME_MAX_BYTES: usize = 255;

/// How a group is made: [`GroupConfig::new`], and what is not to be as it comes.
pub struct GroupConfig {
    name: String,
    origin: String,
    loader: Box<dyn Loader>,
    guaranteed_bytes: usize,
    largest_bytes: Option<usize>,
    entry_limit_bytes: usize,
    load_timeout: Duration,
    /// Values of more bytes are stored in chunks; none: all in one piece.
    chunks_over_bytes: Option<usize>,
    limit_is: &'static str,
    load_least: Duration,
    site: Option<String>,
}

impl GroupConfig {
    /// A group that is filled by `loader`, takes what of the budget it needs, admits values up to 64 MiB, and gives
    /// a load 30 seconds.
    pub fn new(name: impl Into<String>, loader: impl Loader) -> Self {
        Self {
            name: name.into(),
            origin: String::new(),
            loader: Box::new(loader),
            guaranteed_bytes: 0,
            largest_bytes: None,
            entry_limit_bytes: 64 << 20,
            load_timeout: Duration::from_secs(30),
            chunks_over_bytes: None,
            limit_is: "",
            load_least: Duration::from_secs(1),
            site: None,
        }
    }

    /// What is shown as the place that the group loads from.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = origin.into();
        self
    }

    /// Bytes of the budget that other groups can not take from this one.
    pub fn guaranteed_bytes(mut self, bytes: usize) -> Self {
        self.guaranteed_bytes = bytes;
        self
    }

    /// Bytes of the budget that this group can not grow over.
    pub fn largest_bytes(mut self, bytes: usize) -> Self {
        self.largest_bytes = Some(bytes);
        self
    }

    /// The largest value that is admitted, in bytes; 1 GiB at the most.
    pub fn entry_limit_bytes(mut self, bytes: usize) -> Self {
        self.entry_limit_bytes = bytes.min(1 << 30);
        self
    }

    /// How long a load may take, the time that it waits for a thread included; a year at the most.
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        self.load_timeout = timeout.min(YEAR);
        self
    }

    /// Has values of more than `bytes` stored in chunks, as a node sends them. Their loads are bounded by the memory:
    /// what could not be kept is refused, and so is what would be too much at a time.
    #[cfg(feature = "server")]
    pub(crate) fn chunks_over(mut self, bytes: usize) -> Self {
        self.chunks_over_bytes = Some(bytes);
        self
    }

    /// Has callers told by these words who set the limit of a value, behind its bytes.
    #[cfg(feature = "server")]
    pub(crate) fn limit_is(mut self, words: &'static str) -> Self {
        self.limit_is = words;
        self
    }

    /// The largest value that is admitted where an entry may weigh so much.
    fn limit_bytes(&self, entry_bytes: usize) -> usize {
        // More than an entry has beside the value: the key, headers, what is lost at the end of its memory.
        const BESIDE_BYTES: usize = KEY_MAX_BYTES + 3 * 4096;
        let Some(over_bytes) = self.chunks_over_bytes else {
            return self.entry_limit_bytes;
        };
        let fitting_bytes = chunks::largest_within(entry_bytes.saturating_sub(BESIDE_BYTES));
        self.entry_limit_bytes.min(fitting_bytes.max(over_bytes))
    }

    /// How long a load that has begun may take at the least, even if all who wait have less time: a second if not
    /// given. What it brings is for those who ask next. With none, a key that takes longer to load than its callers
    /// wait would never be held.
    pub fn load_least(mut self, least: Duration) -> Self {
        self.load_least = least;
        self
    }

    /// The place that the group loads from: groups with one name for it share the limit of loads there. A group
    /// without it is by itself.
    pub fn site(mut self, site: impl Into<String>) -> Self {
        self.site = Some(site.into());
        self
    }
}

/// The part of the budget that large values may take beside it while they are loaded: one in ..., or what one of them
/// takes.
const LOADING_PART: usize = 4;

/// Why groups were not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupsError {
    /// A name that can not be one.
    #[error(
        "group name {0:?} is not usable: it takes 1 to {NAME_MAX_BYTES} bytes, without '/', '=' and control characters"
    )]
    Name(String),
    /// A name that was given twice.
    #[error("group {0:?} is given twice; give each group a name of its own")]
    Twice(String),
    /// More groups than can be told apart.
    #[error("there are at most 65535 groups, {0} were asked for")]
    TooMany(usize),
    /// A largest share below the guaranteed one.
    #[error(
        "group {name:?} is guaranteed {guaranteed_bytes} bytes, but may have {largest_bytes} at the most"
    )]
    Shares {
        /// The group.
        name: String,
        /// What it is guaranteed.
        guaranteed_bytes: usize,
        /// What it may have.
        largest_bytes: usize,
    },
    /// The cache below could not be made.
    #[error(transparent)]
    Cache(#[from] BuildError),
}

/// Groups by name, in one cache.
pub struct Groups {
    groups: HashMap<Box<[u8]>, Group, ahash::RandomState>,
    /// In the order in which they were given.
    order: Vec<Group>,
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    account: Arc<Account>,
}

impl Groups {
    /// Makes the cache and the groups in it.
    ///
    /// # Errors
    /// See [`GroupsError`].
    pub fn new(
        cache: &Builder,
        configs: impl IntoIterator<Item = GroupConfig>,
    ) -> Result<Self, GroupsError> {
        let configs: Vec<_> = configs.into_iter().collect();
        let shares = shares(cache.budget(), &configs)?;
        let budget_bytes = cache.budget();
        let cache = Arc::new(BlobCache::from_builder(&cache.clone().partitions(shares))?);
        let limits = configs.iter().zip(0u16..);
        let limits: Vec<_> = limits
            .map(|(config, partition)| config.limit_bytes(cache.core().largest_bytes(partition)))
            .collect();
        let largest = limits.iter().copied().max().map(chunks::stored_bytes);
        let account = Account::new(largest.unwrap_or(0).max(budget_bytes / LOADING_PART));
        let order: Vec<_> = configs
            .into_iter()
            .zip(limits)
            .zip(0u16..)
            .map(|((config, limit_bytes), partition)| {
                let large = config.chunks_over_bytes.map(|over_bytes| Large {
                    over_bytes,
                    limit_bytes,
                    limit_is: match limit_bytes < config.entry_limit_bytes {
                        true => ", which is what the memory of the group has room for",
                        false => config.limit_is,
                    },
                    account: account.clone(),
                });
                Group::new(config, limit_bytes, large, partition, cache.clone())
            })
            .collect();
        let groups = order
            .iter()
            .map(|group| (group.name().as_bytes().into(), group.clone()));
        Ok(Self {
            groups: groups.collect(),
            order,
            account,
        })
    }

    /// Bytes of large values that are being loaded, or are held although they could not be kept.
    #[cfg(feature = "server")]
    pub(crate) fn loading_bytes(&self) -> usize {
        self.account.bytes()
    }

    /// The group of that name.
    pub fn get(&self, name: &str) -> Option<&Group> {
        self.get_bytes(name.as_bytes())
    }

    /// As [`Groups::get`], of a name as it comes over a wire.
    pub fn get_bytes(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(name)
    }

    /// All groups, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        self.order.iter()
    }
}

fn shares(budget_bytes: usize, configs: &[GroupConfig]) -> Result<Vec<Share>, GroupsError> {
    if configs.len() > usize::from(u16::MAX) {
        return Err(GroupsError::TooMany(configs.len()));
    }
    let mut names = std::collections::HashSet::new();
    let share = |config: &GroupConfig| {
        let name = config.name.clone();
        let is_usable = (1..=NAME_MAX_BYTES).contains(&name.len())
            && !name.contains(|c: char| c == '/' || c == '=' || c.is_control());
        if !is_usable {
            return Err(GroupsError::Name(name));
        }
        let guaranteed_bytes = config.guaranteed_bytes;
        let largest_bytes = config
            .largest_bytes
            .unwrap_or(budget_bytes)
            .min(budget_bytes);
        if guaranteed_bytes > largest_bytes {
            return Err(GroupsError::Shares {
                name,
                guaranteed_bytes,
                largest_bytes,
            });
        }
        if !names.insert(name.clone()) {
            return Err(GroupsError::Twice(name));
        }
        Ok(Share {
            guaranteed_bytes,
            largest_bytes,
        })
    };
    configs.iter().map(share).collect()
}

/// A named cache that fills itself. A clone is the same group.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    name: Arc<str>,
    origin: String,
    partition: u16,
    loader: Box<dyn Loader>,
    cache: Arc<BlobCache>,
    entry_limit_bytes: usize,
    large: Option<Large>,
    load_timeout: Duration,
    load_least: Duration,
    site: Option<String>,
    /// Loads that the origin answered with: no such key.
    not_found: AtomicU64,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({:?})", self.inner.name)
    }
}

impl Group {
    fn new(
        config: GroupConfig,
        entry_limit_bytes: usize,
        large: Option<Large>,
        partition: u16,
        cache: Arc<BlobCache>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                name: config.name.into(),
                origin: config.origin,
                partition,
                loader: config.loader,
                cache,
                entry_limit_bytes,
                large,
                load_timeout: config.load_timeout,
                // More than a load may take at all would be no time that can be told.
                load_least: config.load_least.min(config.load_timeout),
                site: config.site,
                not_found: AtomicU64::new(0),
            }),
        }
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The place that the group loads from, as its configuration calls it.
    pub fn origin(&self) -> &str {
        &self.inner.origin
    }

    /// The place that the group shares with others, as its configuration calls it.
    pub fn site(&self) -> Option<&str> {
        self.inner.site.as_deref()
    }

    /// The value of `key`, loaded on this thread if it is not held and nobody else is loading it.
    ///
    /// A value that this thread loaded has been stored when this returns; who waited for it may have it a moment earlier.
    ///
    /// # Errors
    /// [`GetError`], whose text names group, key and cause.
    ///
    /// # Panics
    /// If the loader panics on this thread.
    pub fn get(&self, key: &[u8]) -> Result<Value, GetError> {
        self.get_by(key, Instant::now() + self.inner.load_timeout)
    }

    /// As [`Group::get`], until `deadline`: for a load by another caller the wait ends then, and a load of this
    /// caller's own is told so.
    ///
    /// # Errors
    /// As for [`Group::get`].
    ///
    /// # Panics
    /// As for [`Group::get`].
    pub fn get_by(&self, key: &[u8], deadline: Instant) -> Result<Value, GetError> {
        self.check_key(key)?;
        match self.held(key) {
            Some(value) => Ok(value),
            None => self.load_here(key, deadline),
        }
    }

    /// The value of `key`, if it is held. Nothing is loaded.
    pub fn held(&self, key: &[u8]) -> Option<Value> {
        let partition = self.inner.partition;
        self.inner
            .cache
            .read_in(partition, key, |lent| Value(lent.to_blob()))
    }

    /// Lends the value of `key` to `f`, if it is held. Nothing is loaded.
    pub fn get_with<R>(&self, key: &[u8], f: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.inner.cache.read_in(self.inner.partition, key, |lent| {
            f(frame::value(lent.value()))
        })
    }

    /// Lends the stored frame of `key` to `f`, if it is held.
    #[cfg(feature = "server")]
    #[inline]
    pub(crate) fn read_frame<R>(&self, key: &[u8], f: impl FnOnce(&Lent) -> R) -> Option<R> {
        self.inner.cache.read_in(self.inner.partition, key, f)
    }

    /// Lends the stored frames of many keys to `f`, by their index and in their order, until it breaks off: none for a
    /// key that is not held, an error for one that can not be a key. Their memory is fetched together.
    #[cfg(feature = "server")]
    pub(crate) fn read_frames<Stop>(
        &self,
        keys: &[&[u8]],
        mut f: impl FnMut(usize, Result<Option<&Lent>, GetError>) -> ControlFlow<Stop>,
    ) -> ControlFlow<Stop> {
        let (cache, partition) = (&self.inner.cache, self.inner.partition);
        cache.read_many_in(partition, keys, |index, lent| match lent {
            Some(lent) => f(index, Ok(Some(lent))),
            None => f(index, self.check_key(keys[index]).map(|()| None)),
        })
    }

    /// As [`Group::read_frames`], for another node that asks what is held here: that is no read.
    #[cfg(feature = "server")]
    pub(crate) fn peek_frames<Stop>(
        &self,
        keys: &[&[u8]],
        mut f: impl FnMut(usize, Result<Option<&Lent>, GetError>) -> ControlFlow<Stop>,
    ) -> ControlFlow<Stop> {
        for (index, key) in keys.iter().enumerate() {
            let (cache, partition) = (&self.inner.cache, self.inner.partition);
            let held = cache.glance_in(partition, key, |lent| f(index, Ok(Some(lent))));
            held.unwrap_or_else(|| f(index, self.check_key(key).map(|()| None)))?;
        }
        ControlFlow::Continue(())
    }

    /// Waits until all that was loaded before is held, as far as it is kept.
    pub fn flush(&self) {
        self.inner.cache.flush();
    }

    /// Whether `key` can be a key at all.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`] for an empty one, or one of more than [`KEY_MAX_BYTES`].
    pub fn check_key(&self, key: &[u8]) -> Result<(), GetError> {
        let cause = match key.len() {
            0 => "it is empty; a key has at least one byte".to_owned(),
            len if len > KEY_MAX_BYTES => {
                format!("it has {len} bytes; a key has {KEY_MAX_BYTES} at the most")
            }
            _ => return Ok(()),
        };
        Err(GetError::invalid_key(self.name(), key, &cause))
    }

    /// What the group has done and holds.
    pub fn stats(&self) -> Stats {
        self.inner
            .cache
            .core()
            .partition_stats(self.inner.partition)
    }

    /// How many loads, among those that [`Stats::load_failures`] counts, were answered with: no such key.
    pub fn not_found(&self) -> u64 {
        self.inner.not_found.load(Ordering::Relaxed)
    }

    /// The group's share of the budget.
    pub fn share(&self) -> Share {
        self.inner.cache.core().share(self.inner.partition)
    }

    /// The number of shards of the cache that holds the group.
    pub fn shards(&self) -> usize {
        self.inner.cache.shards()
    }

    /// The largest value that is admitted, in bytes.
    pub fn entry_limit_bytes(&self) -> usize {
        self.inner.entry_limit_bytes
    }
}

/// A value of a group, counted: it stays in memory as long as it is held.
#[derive(Clone)]
pub struct Value(Blob);

impl Value {
    /// The value's bytes.
    pub fn bytes(&self) -> &[u8] {
        #[cfg(feature = "server")]
        debug_assert!(frame::is_whole(&self.0), "a node asks for chunks");
        frame::value(&self.0)
    }

    /// The encoded reply that it is stored as.
    #[cfg(feature = "server")]
    pub(crate) fn frame(&self) -> &Blob {
        &self.0
    }
}

#[cfg(feature = "server")]
impl From<Blob> for Value {
    /// Takes a stored frame for what it is.
    fn from(frame: Blob) -> Self {
        Self(frame)
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group that loads each key as its own value.
    fn echo(load_timeout: Duration) -> Group {
        let load = |key: &[u8], _: &LoadContext<'_>, sink: &mut Sink| match key {
            b"missing" => Err(LoadError::NotFound("the folder has no such file".into())),
            _ => sink.append(key),
        };
        let config = GroupConfig::new("blobs", load).load_timeout(load_timeout);
        let groups = Groups::new(&Builder::new(1 << 20), [config]).unwrap();
        groups.get("blobs").unwrap().clone()
    }

    #[test]
    fn a_load_may_take_as_long_as_it_likes() {
        let group = echo(Duration::MAX);
        assert_eq!(*group.get(b"a").unwrap(), *b"a");
        let (answer, answers) = std::sync::mpsc::channel();
        let load = group.ask(b"b", move |value| answer.send(value).unwrap());
        load.expect("nobody has asked for it yet").run();
        assert_eq!(*answers.recv().unwrap().unwrap(), *b"b");
    }

    #[test]
    fn what_was_loaded_is_held_after_a_flush() {
        let group = echo(Duration::from_secs(30));
        for key in 0..100_u8 {
            group.get(&[key]).unwrap();
            group.flush();
            assert_eq!(*group.held(&[key]).unwrap(), [key]);
        }
    }

    #[test]
    fn an_error_names_group_key_and_cause_once() {
        let error = echo(Duration::from_secs(30)).get(b"missing").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let text = r#"no key "missing" in group "blobs": the folder has no such file"#;
        assert_eq!(error.to_string(), text);
    }
}
