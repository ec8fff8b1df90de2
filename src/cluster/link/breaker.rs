//! Whether a peer is asked at all.

use std::time::{Duration, Instant};

use super::backoff::Backoff;

/// A connection that has lasted so long was a good one: the next failure is a first one again.
const GOOD: Duration = Duration::from_secs(5);

/// What a breaker is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Questions flow.
    Closed,
    /// The peer is being tried: it has to say hello.
    HalfOpen,
    /// The peer failed; nothing is sent to it for a while.
    Open,
}

/// Opens when its peer fails, tries it again after a while that grows, and closes when the peer speaks.
pub(super) struct Breaker {
    condition: Condition,
    /// Since when; for one that is open, until when.
    at: Instant,
    /// It has never failed.
    is_new: bool,
    backoff: Backoff,
    opened: u64,
}

impl Breaker {
    /// A breaker about to try its peer for the first time.
    pub fn new(seed: u64, now: Instant) -> Self {
        Self {
            condition: Condition::Open,
            at: now,
            is_new: true,
            backoff: Backoff::new(seed),
            opened: 0,
        }
    }

    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// How often it has opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Whether the peer may be asked: also while it is tried for the first time, as it is when nodes start together.
    pub fn is_asked(&self) -> bool {
        self.is_new || self.condition == Condition::Closed
    }

    /// Whether its peer has never failed, nor been reached.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether it is time for a try, which has then begun.
    pub fn try_now(&mut self, now: Instant) -> bool {
        let is_time = self.condition == Condition::Open && now >= self.at;
        if is_time {
            self.condition = Condition::HalfOpen;
            self.at = now;
        }
        is_time
    }

    /// Whether a try goes on for longer than `patience`.
    pub fn is_stuck(&self, now: Instant, patience: Duration) -> bool {
        self.condition == Condition::HalfOpen && now.saturating_duration_since(self.at) > patience
    }

    /// The peer has been reached, and is to say hello from `now` on.
    pub fn reached(&mut self, now: Instant) {
        if self.condition == Condition::HalfOpen {
            self.at = now;
        }
    }

    /// The peer that is tried is not asked before it has said hello.
    pub fn expect_nothing(&mut self) {
        self.is_new = false;
    }

    /// The peer has said hello.
    pub fn close(&mut self, now: Instant) {
        self.condition = Condition::Closed;
        self.at = now;
        self.is_new = false;
    }

    /// The peer has not failed, and is to be tried at once.
    pub fn renew(&mut self, now: Instant) {
        self.condition = Condition::Open;
        self.at = now;
    }

    /// How long it has been closed.
    pub fn closed_for(&self, now: Instant) -> Duration {
        match self.condition {
            Condition::Closed => now.saturating_duration_since(self.at),
            _ => Duration::ZERO,
        }
    }

    /// The peer has failed.
    pub fn open(&mut self, now: Instant) {
        if self.condition == Condition::Closed && now.saturating_duration_since(self.at) >= GOOD {
            self.backoff.reset();
        }
        self.condition = Condition::Open;
        self.at = now + self.backoff.next();
        self.is_new = false;
        self.opened += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn it_opens_tries_again_and_closes() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(1, now);
        assert!(
            breaker.is_asked(),
            "a peer that was never tried is waited for"
        );
        assert!(breaker.try_now(now) && !breaker.try_now(now));
        breaker.close(now);
        assert!(breaker.is_asked());

        breaker.open(now);
        assert_eq!(breaker.condition(), Condition::Open);
        assert!(!breaker.is_asked() && !breaker.try_now(now));
        now += LONG;
        assert!(breaker.try_now(now));
        assert_eq!(breaker.condition(), Condition::HalfOpen);
        assert!(!breaker.is_asked(), "a peer that failed is not waited for");
        assert!(breaker.is_stuck(now + LONG, Duration::from_secs(1)));
        breaker.close(now);
        assert!(breaker.is_asked() && breaker.opened() == 1);
    }

    #[test]
    fn a_peer_that_greets_and_fails_is_left_alone_for_longer_and_longer() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(1, now);
        let mut waited = Duration::ZERO;
        for _ in 0..12 {
            breaker.try_now(now);
            breaker.close(now);
            breaker.open(now);
            waited = breaker.at - now;
            now = breaker.at;
        }
        assert!(waited >= Duration::from_secs(1), "{waited:?}");
        breaker.try_now(now);
        breaker.close(now);
        now += GOOD;
        breaker.open(now);
        assert!(breaker.at - now <= Duration::from_millis(50));
    }
}
