//! What a group holds, looked at without a trace, and what became of its loads.

use std::time::Duration;

use super::{ErrorKind, GetError, Group, PendingLoad, Room, Roomless, Value, chunks};
use crate::engine::NEVER;

/// What is known of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub value_bytes: u64,
    /// What it takes of the budget.
    pub entry_bytes: u64,
    /// None if it does not expire.
    pub expires_in: Option<Duration>,
}

impl Group {
    /// Whether `key` is held, and how. It is not counted as a read.
    pub(crate) fn peek(&self, key: &[u8]) -> Option<Holding> {
        let cache = &self.inner.cache;
        let (blob, entry_bytes, expiry_ns) = cache.peek_in(self.inner.partition, key)?;
        let left = || expiry_ns.saturating_sub(cache.core().clock.now_ns());
        Some(Holding {
            value_bytes: chunks::value_len(&blob) as u64,
            entry_bytes: entry_bytes.into(),
            expires_in: (expiry_ns != NEVER).then(|| Duration::from_nanos(left())),
        })
    }

    /// The value of `key`, if it is held. It is not counted as a read.
    pub(crate) fn look(&self, key: &[u8]) -> Option<Value> {
        let (blob, ..) = self.inner.cache.peek_in(self.inner.partition, key)?;
        Some(Value(blob))
    }

    /// Shows all keys that are held to `f`, with what their entries take of the budget.
    pub(crate) fn for_each_held(&self, mut f: impl FnMut(&[u8], u64)) {
        let entries = self.inner.cache.weighed_in(self.inner.partition);
        entries.for_each(|(blob, weight_bytes)| f(blob.key(), weight_bytes.into()));
    }
}

impl PendingLoad {
    /// As [`PendingLoad::run`], with room that was taken for a large value, and tells how the load ended; none if there was
    /// nothing to load any more. Where there is too little room, it is still to be loaded, from its beginning.
    pub(crate) fn run_and_tell(
        self,
        room: Option<Room>,
    ) -> Result<Option<Result<(), ErrorKind>>, Roomless> {
        let kind = |failure| GetError::from_failure("", b"", &failure).kind();
        let outcome = self.run_with(room)?;
        Ok(outcome.map(|outcome| outcome.map(drop).map_err(kind)))
    }
}
