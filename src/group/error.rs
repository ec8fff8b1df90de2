//! Why a group has no answer for a key.

use std::fmt;

use super::loader::LoadError;
use crate::engine::Failure;

/// What kind of thing went wrong; a server maps it to its status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The origin has no such key.
    NotFound,
    /// The key is empty, too long, or no key of this origin.
    InvalidKey,
    /// The value is larger than the group admits.
    TooLarge,
    /// The load took too long, or the caller's own deadline passed.
    TimedOut,
    /// The origin can not be reached, or failed.
    Unavailable,
    /// The origin does not give it to this node: a password that is missing, say.
    Refused,
    /// Too much is being loaded already; the load was not begun.
    Busy,
    /// The loader panicked.
    Panicked,
    /// The loader waits for the key that it is loading.
    Reentrant,
    /// The cache is going away.
    Closed,
    /// Anything else that the loader said.
    Other,
}

/// Why a group has no answer for a key. The text names the group, the key and the cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetError {
    kind: ErrorKind,
    message: String,
}

impl GetError {
    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(super) fn invalid_key(group: &str, key: &[u8], cause: &str) -> Self {
        Self::new(ErrorKind::InvalidKey, group, key, cause)
    }

    pub(super) fn from_failure(group: &str, key: &[u8], failure: &Failure) -> Self {
        #[cfg(feature = "server")]
        if let Failure::Failed(error) = failure
            && let Some(relayed) = error.downcast_ref::<super::relay::Relayed>()
        {
            return Self {
                kind: relayed.kind,
                message: relayed.message.clone(),
            };
        }
        let load_error = match failure {
            Failure::Failed(error) => error.downcast_ref::<LoadError>(),
            _ => None,
        };
        let kind = match (failure, load_error) {
            (_, Some(error)) => error.into(),
            (Failure::Panicked(_), _) => ErrorKind::Panicked,
            (Failure::TimedOut, _) => ErrorKind::TimedOut,
            (Failure::Reentrant, _) => ErrorKind::Reentrant,
            (Failure::TooLarge(_), _) => ErrorKind::TooLarge,
            (Failure::Abandoned | Failure::Closed, _) => ErrorKind::Closed,
            _ => ErrorKind::Other,
        };
        Self::new(kind, group, key, &failure.to_string())
    }

    fn new(kind: ErrorKind, group: &str, key: &[u8], cause: &str) -> Self {
        let key = Shown(key);
        let message = match kind {
            ErrorKind::NotFound => format!("no key {key} in group {group:?}: {cause}"),
            ErrorKind::InvalidKey => format!("key {key} is no key of group {group:?}: {cause}"),
            ErrorKind::TooLarge => {
                format!("the value of key {key} in group {group:?} is too large: {cause}")
            }
            ErrorKind::Busy => {
                format!("key {key} of group {group:?} is not held, and is not loaded now: {cause}")
            }
            _ => format!("key {key} of group {group:?} could not be loaded: {cause}"),
        };
        Self { kind, message }
    }
}

impl From<&LoadError> for ErrorKind {
    fn from(error: &LoadError) -> Self {
        match error {
            LoadError::NotFound(_) => Self::NotFound,
            LoadError::InvalidKey(_) => Self::InvalidKey,
            LoadError::TimedOut(_) => Self::TimedOut,
            LoadError::Unavailable(_) => Self::Unavailable,
            LoadError::Refused(_) => Self::Refused,
            LoadError::TooLarge(_) => Self::TooLarge,
            LoadError::Busy(_) => Self::Busy,
            LoadError::Other(_) => Self::Other,
        }
    }
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for GetError {}

/// A key as text: quoted, escaped, and cut where it is long.
pub(crate) struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 128;
        let (start, rest) = self.0.split_at(self.0.len().min(SHOWN_BYTES));
        write!(f, "\"{}\"", start.escape_ascii())?;
        if rest.is_empty() {
            return Ok(());
        }
        write!(f, "... ({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_quoted_escaped_and_cut() {
        assert_eq!(Shown(b"a\n\"\xff").to_string(), r#""a\n\"\xff""#);
        let shown = Shown(&[b'k'; 4096]).to_string();
        assert_eq!(shown, format!("\"{}\"... (4096 bytes)", "k".repeat(128)));
    }
}
