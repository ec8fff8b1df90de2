//! Loads that another process is asked for: they stay with who asks it until its answer is there, and a loader's thread
//! takes no part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::ErrorKind;
use super::filling;
use super::frame;
use super::load::PendingLoad;
use super::{GetError, Group, Value};
use crate::engine::{BlobBuilder, Failure, Loaded};

/// What is smaller is copied into the replies; those who wait for it are bounded.
const SMALL_BYTES: usize = 4096;

/// Why another process has no value, in its own words, which name group and key.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Relayed {
    pub kind: ErrorKind,
    pub message: String,
}

/// The key is being loaded, but by another process.
pub(crate) struct Elsewhere;

impl Group {
    /// As [`Group::ask_by`], for another process that asks: what is loaded by yet another one is not waited for.
    pub(crate) fn ask_here(
        &self,
        key: &[u8],
        deadline: Option<Instant>,
        answer: impl FnOnce(Result<Value, GetError>) + Send + 'static,
    ) -> Result<Option<PendingLoad>, Elsewhere> {
        self.join_by(key, deadline, answer, |flight| flight.keep_here())
            .map_err(|_| Elsewhere)
    }
}

impl PendingLoad {
    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    pub(crate) fn key(&self) -> &[u8] {
        let parked = self.parked.as_ref();
        parked.map_or(b"", |parked| &parked.flight().key().1)
    }

    /// Until when some of those who have asked so far wait for it.
    pub(crate) fn wanted_until(&self) -> Instant {
        let parked = self.parked.as_ref();
        let until = parked.and_then(|parked| parked.flight().wanted_until());
        until.unwrap_or(self.deadline).min(self.deadline)
    }

    /// Whether another process may be asked for it: not if one waits for it already.
    pub(crate) fn send_away(&self) -> bool {
        let parked = self.parked.as_ref();
        parked.is_some_and(|parked| parked.flight().send_away())
    }

    /// It is to be run here after all, and its value kept for so long if a time is given.
    pub(crate) fn take_back(&mut self, keep: Option<Duration>) {
        self.keep = keep;
        if let Some(parked) = &self.parked {
            parked.flight().take_back();
        }
    }

    /// Ends it with a stored frame that came from elsewhere, on a thread that does not block. The frame is kept for so
    /// long, or not at all.
    pub(crate) fn fulfil(mut self, stored: &[u8], keep: Option<Duration>) {
        debug_assert!(frame::is_whole(stored), "it was looked at");
        let Some(lead) = self.claim() else { return };
        let inner = &self.group.inner;
        let core = inner.cache.core();
        let key = &lead.flight().key().1;
        let mut facts = inner.cache.facts(inner.partition, key);
        if let Some(keep) = keep {
            facts.expiry_ns = core.clock.expiry_after(keep);
        }
        let mut value = BlobBuilder::new(key, 0);
        if keep.is_none()
            && stored.len() > SMALL_BYTES
            && let Some(large) = &inner.large
        {
            // No budget counts what is not kept, and those who read it may do so slowly.
            let mut charge = large.account.open();
            if let Err(full) = charge.set(stored.len()) {
                let busy = Failure::Failed(Arc::new(filling::busy(full)));
                return lead.finish(Err(busy));
            }
            value.set_charge(charge);
        }
        value.reserve(stored.len());
        value.extend(stored);
        let entry = inner.cache.seal(value, &facts, b"");
        let stored = keep.is_some();
        // The outcome reaches the callers by the flight.
        let _ = core.conclude_soon(lead, Ok(Loaded { entry, stored }));
    }

    /// Ends it with what another process said.
    pub(crate) fn fail(mut self, relayed: Relayed) {
        if let Some(lead) = self.claim() {
            lead.finish(Err(Failure::Failed(Arc::new(relayed))));
        }
    }
}
