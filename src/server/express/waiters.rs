//! The calls of a thread's connections that wait for an answer of another thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::http2::StreamId;
use crate::server::lookout::Line;
use crate::server::places::Token;
use crate::server::waiting::Seat;

/// A stream of a connection.
pub(super) type Call = (Token, StreamId);

#[derive(Default)]
pub(super) struct Waiters {
    by_call: BTreeMap<Call, Waiter>,
    /// Those that other threads have in hand, whether anybody still waits or not.
    unanswered: usize,
}

pub(super) struct Waiter {
    /// When the caller stops waiting, if he ever does.
    pub deadline: Option<Instant>,
    /// His place among those who wait for keys, if it is keys that he waits for.
    pub _seat: Option<Seat>,
    /// Told when he has gone.
    pub line: Option<Arc<Held>>,
}

/// What one call came by, as long as it waits.
#[derive(Default)]
pub(super) struct Held {
    has_gone: AtomicBool,
}

impl Line for Held {
    fn is_cut(&self) -> bool {
        self.has_gone.load(Ordering::Relaxed)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.has_gone.store(true, Ordering::Relaxed);
        }
    }
}

impl Waiters {
    pub fn is_empty(&self) -> bool {
        self.by_call.is_empty()
    }

    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    pub fn insert(&mut self, call: Call, waiter: Waiter) {
        self.unanswered += 1;
        self.by_call.insert(call, waiter);
    }

    /// An answer has come. False if nobody waits for it any more.
    pub fn take_answered(&mut self, call: Call) -> bool {
        self.unanswered -= 1;
        self.remove(call)
    }

    /// Lets go of a call. False if it does not wait any more.
    pub fn remove(&mut self, call: Call) -> bool {
        self.by_call.remove(&call).is_some()
    }

    /// Lets go of the calls whose time is over.
    pub fn take_overdue(&mut self, now: Instant) -> Vec<Call> {
        let is_over = |waiter: &Waiter| waiter.deadline.is_some_and(|deadline| deadline <= now);
        let over = self.by_call.iter().filter(|(_, waiter)| is_over(waiter));
        let over: Vec<_> = over.map(|(call, _)| *call).collect();
        for call in &over {
            self.by_call.remove(call);
        }
        over
    }
}
