//! What fills a group: the [`Loader`] trait, its context, its [`Sink`] and its errors.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use super::filling::Filling;
use crate::counted;

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

/// Why a loader has no value. The text is passed on to those who asked, behind the names of group and key, which it
/// need not repeat.
///
/// From an [`io::Error`] it is made by `?`: [`LoadError::TimedOut`] for a time that is over, else
/// [`LoadError::Unavailable`]; and the error of a [`Sink`] comes back as what it was.
///
/// ```
/// use corecache::group::{LoadContext, LoadError, Sink};
///
/// let load = |_key: &[u8], _ctx: &LoadContext<'_>, sink: &mut Sink| {
///     let mut origin: &[u8] = b"a longer value than that";
///     std::io::copy(&mut origin, sink)?;
///     Ok::<(), LoadError>(())
/// };
/// let ctx = LoadContext::new("pages", std::time::Instant::now());
/// let error = load(b"index", &ctx, &mut Sink::detached(10)).unwrap_err();
/// assert!(matches!(error, LoadError::TooLarge(_)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
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
    /// The origin does not give it to this node, and will not until somebody changes something there or here.
    #[error("{0}")]
    Refused(String),
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

impl From<io::Error> for LoadError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{TimedOut, WouldBlock};

        match error.downcast() {
            Ok(error) => error,
            // What a read of a socket with a time limit says is the one or the other, as systems go.
            Err(error) if matches!(error.kind(), TimedOut | WouldBlock) => {
                Self::TimedOut(error.to_string())
            }
            Err(error) => Self::Unavailable(error.to_string()),
        }
    }
}

/// Takes the value that a loader writes, and what is to be done with it.
pub struct Sink {
    pub(super) value: Filling,
    limit_bytes: usize,
    pub(super) expires_at: Option<SystemTime>,
    pub(super) stored: bool,
}

impl Sink {
    pub(super) fn new(value: Filling, limit_bytes: usize) -> Self {
        Self {
            value,
            limit_bytes,
            expires_at: None,
            stored: true,
        }
    }

    /// A sink that stands alone, to try a loader out; see [`Sink::bytes`].
    pub fn detached(limit_bytes: usize) -> Self {
        Self::new(Filling::new(b"", None), limit_bytes)
    }

    /// What has been written so far.
    ///
    /// # Panics
    /// In a node, once the value is too large for a unary reply: it does not lie in one piece then. How much it is,
    /// [`Sink::len`] tells always.
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.value.bytes();
        bytes.expect("a value that is too large for a unary reply does not lie in one piece")
    }

    /// How many bytes have been written so far.
    pub fn len(&self) -> usize {
        self.value.len()
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most bytes that the value may have.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Appends `bytes` to the value.
    ///
    /// # Errors
    /// [`LoadError::TooLarge`] when the value would grow over [`Sink::limit_bytes`]; [`LoadError::Busy`] in a node, when
    /// there are too many bytes of large values that are being loaded.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        self.check(self.len().saturating_add(bytes.len()))?;
        self.value.append(bytes)
    }

    /// Says that the value will have `len_bytes` in all, so that its memory is taken once.
    ///
    /// # Errors
    /// As for [`Sink::append`].
    pub fn expect(&mut self, len_bytes: usize) -> Result<(), LoadError> {
        self.check(len_bytes)?;
        self.value.expect(len_bytes)
    }

    /// Forgets what was written and said, so that a loader can start again; the memory that was taken stays.
    pub fn clear(&mut self) {
        self.value.clear();
        self.expires_at = None;
        self.stored = true;
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
            "the value has {} or more, the limit is {}{}",
            counted(len_bytes, "byte", "bytes"),
            counted(self.limit_bytes, "byte", "bytes"),
            self.value.limit_is()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sink_says_comes_back_from_io() {
        let mut sink = Sink::detached(4);
        let error = io::copy(&mut &b"12345"[..], &mut sink).unwrap_err();
        let said = sink.append(b"12345").unwrap_err();
        assert!(matches!(said, LoadError::TooLarge(_)), "{said:?}");
        assert_eq!(LoadError::from(error), said);
    }

    #[test]
    fn what_io_says_keeps_its_words() {
        let error = |kind| LoadError::from(io::Error::new(kind, "the disk is on fire"));
        let words = || "the disk is on fire".to_owned();
        for kind in [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock] {
            assert_eq!(error(kind), LoadError::TimedOut(words()));
        }
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::Other] {
            assert_eq!(error(kind), LoadError::Unavailable(words()));
        }
    }

    #[test]
    fn a_sink_that_is_cleared_starts_again() {
        let mut sink = Sink::detached(4);
        sink.append(b"old").unwrap();
        sink.do_not_store();
        sink.expires_at(SystemTime::UNIX_EPOCH);
        sink.clear();
        assert_eq!(
            (sink.bytes(), sink.stored, sink.expires_at),
            (&b""[..], true, None)
        );
        sink.append(b"newer").unwrap_err();
        sink.append(b"new").unwrap();
        assert_eq!(sink.bytes(), b"new");
    }
}
