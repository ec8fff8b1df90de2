//! What clients do that no client should, each kind with a counter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::limits::Allowance;

/// A kind of load that a client puts on a server at little cost to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abuse {
    /// Streams that are opened and reset, by the client itself or by an error that it makes on purpose.
    RapidReset,
    /// Header blocks in too many pieces, or without an end.
    Continuation,
    /// Header blocks that are too large.
    HeaderBytes,
    /// SETTINGS frames without need.
    Settings,
    /// PING frames without need.
    Ping,
    /// DATA frames with nothing in them.
    EmptyData,
    /// WINDOW_UPDATE frames that add next to nothing.
    WindowUpdate,
    /// Frames that mean nothing here: PRIORITY, unknown types, what belongs to streams that have ended.
    Idle,
    /// More streams at once than the client may have.
    Streams,
    /// A message over the limit, or more of them at once.
    MessageBytes,
    /// Replies that the client does not read, or leaves no window for.
    SlowReader,
    /// Requests that do not come to their end.
    SlowWriter,
    /// No preface or SETTINGS in time, or no acknowledgement of ours.
    Handshake,
    /// Whatever else RFC 9113 calls an error of the connection.
    Protocol,
}

impl Abuse {
    pub const COUNT: usize = Self::ALL.len();
    /// All kinds, with their names in figures.
    pub const ALL: [(Self, &str); 14] = [
        (Self::RapidReset, "rapid_reset"),
        (Self::Continuation, "continuation"),
        (Self::HeaderBytes, "header_bytes"),
        (Self::Settings, "settings"),
        (Self::Ping, "ping"),
        (Self::EmptyData, "empty_data"),
        (Self::WindowUpdate, "window_update"),
        (Self::Idle, "idle_frames"),
        (Self::Streams, "streams"),
        (Self::MessageBytes, "message_bytes"),
        (Self::SlowReader, "slow_reader"),
        (Self::SlowWriter, "slow_writer"),
        (Self::Handshake, "handshake"),
        (Self::Protocol, "protocol"),
    ];
}

/// How often each kind of abuse was met, on all connections that share this.
#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; Abuse::COUNT]);

impl Counts {
    pub fn add(&self, kind: Abuse) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn of(&self, kind: Abuse) -> u64 {
        self.0[kind as usize].load(Ordering::Relaxed)
    }
}

/// What is left of an [`Allowance`].
pub(super) struct Budget {
    allowance: Allowance,
    left: u32,
    /// When it was filled last, and how much had been done by then.
    filled: Instant,
    work: u64,
}

/// More was asked for than there was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spent;

impl Budget {
    pub fn new(allowance: Allowance, now: Instant) -> Self {
        Self {
            allowance,
            left: allowance.burst,
            filled: now,
            work: 0,
        }
    }

    /// Takes one. `work` is what has been done on the connection so far, in calls.
    pub fn take(&mut self, now: Instant, work: u64) -> Result<(), Spent> {
        if self.left == 0 {
            self.fill(now, work);
        }
        self.left = self.left.checked_sub(1).ok_or(Spent)?;
        Ok(())
    }

    fn fill(&mut self, now: Instant, work: u64) {
        let millis = now.saturating_duration_since(self.filled).as_millis() as u64;
        let by_time = millis.saturating_mul(self.allowance.per_second.into()) / 1000;
        let calls = work - self.work;
        let earned = by_time.saturating_add(calls.saturating_mul(self.allowance.per_call.into()));
        if earned == 0 {
            return; // what has begun to be earned is kept
        }
        self.left = earned.min(self.allowance.burst.into()) as u32;
        self.filled = now;
        self.work = work;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn kinds_stand_at_their_numbers() {
        for (number, (kind, _)) in Abuse::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
        let counts = Counts::default();
        counts.add(Abuse::Protocol);
        assert_eq!(counts.of(Abuse::Protocol), 1);
    }

    #[test]
    fn a_budget_is_filled_by_time_and_by_calls() {
        let now = Instant::now();
        let mut budget = Budget::new(Allowance::new(3, 10, 2), now);
        let mut taken = |millis, answered| {
            let now = now + Duration::from_millis(millis);
            (0..)
                .take_while(|_| budget.take(now, answered).is_ok())
                .count()
        };
        assert_eq!(taken(0, 0), 3);
        assert_eq!(taken(99, 0), 0);
        assert_eq!(taken(100, 0), 1, "ten a second");
        assert_eq!(taken(100, 1), 2, "two a call");
        assert_eq!(taken(10_000, 1), 3, "never more than at the beginning");
    }
}
