//! The calls that wait for a load: bounded over all keys and connections. A caller that gave up is not noticed before
//! its load has ended, so without a bound one slow origin and impatient callers would fill the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls that may wait; the gRPC core keeps some 20 KB for each.
const WAITING_MAX: usize = 8192;

#[derive(Default)]
pub(super) struct Waiting {
    calls: Arc<AtomicUsize>,
}

/// Too many calls wait already.
#[derive(Debug, thiserror::Error)]
#[error("{WAITING_MAX} keys are being waited for on this node already; try again later")]
pub(super) struct Crowded;

impl Waiting {
    /// Lets a caller wait until the ticket is dropped.
    pub fn enter(&self) -> Result<Ticket, Crowded> {
        let before = self.calls.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket(self.calls.clone());
        if before < WAITING_MAX {
            Ok(ticket)
        } else {
            Err(Crowded)
        }
    }

    pub fn len(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

pub(super) struct Ticket(Arc<AtomicUsize>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_may_wait_is_refused_until_one_has_gone() {
        let waiting = Waiting::default();
        let mut tickets: Vec<_> = (0..WAITING_MAX).map(|_| waiting.enter().unwrap()).collect();
        assert!(waiting.enter().is_err());
        assert_eq!(waiting.len(), WAITING_MAX);
        tickets.pop();
        assert!(waiting.enter().is_ok());
        drop(tickets);
        assert_eq!(waiting.len(), 0);
    }
}
