//! What fills a group: the [`Loader`] trait, its context, its [`Sink`] and its errors.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use crate::engine::BlobBuilder;

/// Where a group's values come from: asked for a key, it writes the value into a [`Sink`].
///
/// A loader is called on a thread that may block, never by two callers for one key at a time.
/// Closures implement it:
///
/// ```
/// use corecache::group::{LoadContext, LoadError, Loader, Sink};
///
/// fn is_loader(_: impl Loader) {}
/// is_loader(|key: &[u8], _ctx: &LoadContext<'_>, sink: &mut Sink| {
///     if key.is_empty() {
///         return Err(LoadError::InvalidKey("a key has at least one byte".into()));
///     }
///     sink.append(key)
/// });
/// ```
pub trait Loader: Send + Sync + 'static {
    /// Writes the value of `key` into `sink`.
    ///
    /// # Errors
    /// Any [`LoadError`]; it reaches all who wait for the key, and nothing is stored.
    fn load(&self, key: &[u8], ctx: &LoadContext<'_>, sink: &mut Sink) -> Result<(), LoadError>;
}

impl<F> Loader for F
where
    F: Fn(&[u8], &LoadContext<'_>, &mut Sink) -> Result<(), LoadError> + Send + Sync + 'static,
{
    fn load(&self, key: &[u8], ctx: &LoadContext<'_>, sink: &mut Sink) -> Result<(), LoadError> {
        self(key, ctx, sink)
    }
}

/// What a loader is told beside the key.
#[derive(Debug, Clone, Copy)]
pub struct LoadContext<'a> {
    group: &'a str,
    deadline: Instant,
}

impl<'a> LoadContext<'a> {
    /// A context for a load of `group` that is to end by `deadline`.
    pub fn new(group: &'a str, deadline: Instant) -> Self {
        Self { group, deadline }
    }

    /// The name of the group that is being filled.
    pub fn group(&self) -> &'a str {
        self.group
    }

    /// When the load should be over: who asked for it has then stopped waiting.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The time left until the deadline; zero once it has passed.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Why a loader has no value. The text is passed on to those who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The origin answered that there is no such key.
    #[error("{0}")]
    NotFound(String),
    /// The key can not be a key of this origin.
    #[error("{0}")]
    InvalidKey(String),
    /// The origin did not answer in time.
    #[error("{0}")]
    TimedOut(String),
    /// The origin can not be reached, or failed; a later try may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// The value is larger than the group admits.
    #[error("{0}")]
    TooLarge(String),
    /// Too many loads are under way; this one was not begun.
    #[error("{0}")]
    Busy(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Takes the value that a loader writes, and what is to be done with it.
pub struct Sink {
    pub(super) value: BlobBuilder,
    limit_bytes: usize,
    pub(super) expires_at: Option<SystemTime>,
    pub(super) stored: bool,
}

impl Sink {
    pub(super) fn new(value: BlobBuilder, limit_bytes: usize) -> Self {
        Self {
            value,
            limit_bytes,
            expires_at: None,
            stored: true,
        }
    }

    /// A sink that stands alone, to try a loader out; see [`Sink::bytes`].
    pub fn detached(limit_bytes: usize) -> Self {
        Self::new(BlobBuilder::new(b"", 0), limit_bytes)
    }

    /// What has been written so far.
    pub fn bytes(&self) -> &[u8] {
        self.value.value()
    }

    /// The most bytes that the value may have.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Appends `bytes` to the value.
    ///
    /// # Errors
    /// [`LoadError::TooLarge`] when the value would grow over [`Sink::limit_bytes`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        self.check(self.value.len().saturating_add(bytes.len()))?;
        self.value.extend(bytes);
        Ok(())
    }

    /// Says that the value will have `len_bytes` in all, so that its memory is taken once.
    ///
    /// # Errors
    /// [`LoadError::TooLarge`] when that is over [`Sink::limit_bytes`].
    pub fn expect(&mut self, len_bytes: usize) -> Result<(), LoadError> {
        self.check(len_bytes)?;
        self.value
            .reserve(len_bytes.saturating_sub(self.value.len()));
        Ok(())
    }

    /// The value is not to be served after `at`. Without this it stays until it is evicted.
    pub fn expires_at(&mut self, at: SystemTime) {
        self.expires_at = Some(at);
    }

    /// Those who wait get the value, but it is not kept.
    pub fn do_not_store(&mut self) {
        self.stored = false;
    }

    fn check(&self, len_bytes: usize) -> Result<(), LoadError> {
        if len_bytes <= self.limit_bytes {
            return Ok(());
        }
        Err(LoadError::TooLarge(format!(
            "the value has {len_bytes} bytes or more, the limit is {} bytes",
            self.limit_bytes
        )))
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
