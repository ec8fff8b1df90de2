//! How many calls may be made again: a part of those that were made, lest a cluster in trouble is asked twice as much.

use std::sync::atomic::{AtomicU64, Ordering};

/// A retry costs what so many calls bring.
const CALLS_A_RETRY: u64 = 10;
/// Retries that a client begins with: its first call may be the one that fails.
const FIRST: u64 = 10;
/// Retries that can be saved up.
const MOST: u64 = 1000;

/// A bucket of tokens, in tenths of a retry.
pub(super) struct Budget {
    tokens: AtomicU64,
    pub calls: AtomicU64,
    pub retries: AtomicU64,
}

impl Budget {
    pub fn new() -> Self {
        Self {
            tokens: AtomicU64::new(FIRST * CALLS_A_RETRY),
            calls: AtomicU64::new(0),
            retries: AtomicU64::new(0),
        }
    }

    /// For a call that is made for the first time.
    pub fn earn(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let more = |tokens: u64| (tokens < MOST * CALLS_A_RETRY).then_some(tokens + 1);
        // A bucket that is full stays full.
        let _ = self
            .tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// For one that is made again; false if it is not to be.
    pub fn spend(&self) -> bool {
        let less = |tokens: u64| tokens.checked_sub(CALLS_A_RETRY);
        let may = self
            .tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok();
        self.retries.fetch_add(may.into(), Ordering::Relaxed);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_ten_calls_may_be_made_again_and_a_few_more() {
        let budget = Budget::new();
        let spent = |calls: u64| {
            (0..calls).for_each(|_| budget.earn());
            (0..).take_while(|_| budget.spend()).count() as u64
        };
        assert_eq!(spent(0), FIRST);
        assert_eq!(spent(9), 0);
        assert_eq!(spent(1), 1);
        assert_eq!(spent(1005), 100);
        assert_eq!(budget.retries.load(Ordering::Relaxed), FIRST + 101);
        assert_eq!(budget.calls.load(Ordering::Relaxed), 1015);
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let budget = Budget::new();
        (0..MOST * CALLS_A_RETRY * 2).for_each(|_| budget.earn());
        assert_eq!((0..).take_while(|_| budget.spend()).count() as u64, MOST);
    }
}
