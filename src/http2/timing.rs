//! What a client has to do in time.

use std::time::{Duration, Instant};

use super::abuse::Abuse;
use super::call::Handler;
use super::connection::{Closing, Connection};
use super::frame::ErrorCode;
use super::limits::Limits;
use super::streams::Slot;

/// Who reads less than this while [`Limits::stalled_reader`] passes, with more to be read, does not read.
const READ_LEAST_BYTES: usize = 16 << 10;
/// The same for who has much to read, as a part of what lay there when that time began: he would keep it for hours otherwise.
const READ_LEAST_PART: usize = 16;
/// How long the client may take for the PING that we send with a GOAWAY.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// A connection without calls gives back its buffers after this.
const REST: Duration = Duration::from_secs(2);

pub(super) struct Timing {
    begun: Instant,
    /// The client's first SETTINGS have come.
    pub has_settings: bool,
    /// It has acknowledged ours.
    pub has_ack: bool,
    /// When the last call came, or was seen to have ended.
    pub last_call: Instant,
    had_calls: bool,
    pub shut_down: Option<Instant>,
    /// Since when there is something that the client could take, and how much it has taken since.
    backlog: Option<Instant>,
    pub moved_bytes: usize,
    /// What he has to take of it.
    least_bytes: usize,
    /// Since when a frame has begun to come.
    pub amid_frame: Option<Instant>,
    is_resting: bool,
    looked: Instant,
    /// How often to look while there is something to look at.
    period: Duration,
    idle: Option<Duration>,
}

impl Timing {
    pub fn new(limits: &Limits, now: Instant) -> Self {
        let shortest = [
            limits.handshake,
            limits.settings_ack,
            limits.stalled_reader,
            limits.slow_writer,
        ];
        let shortest = shortest.into_iter().min().unwrap_or_default();
        Self {
            begun: now,
            has_settings: false,
            has_ack: false,
            last_call: now,
            had_calls: false,
            shut_down: None,
            backlog: None,
            moved_bytes: 0,
            least_bytes: 0,
            amid_frame: None,
            is_resting: true,
            looked: now,
            period: (shortest / 4).clamp(Duration::from_millis(5), Duration::from_secs(1)),
            idle: limits.idle,
        }
    }

    /// A call has come.
    pub fn call(&mut self, now: Instant) {
        self.last_call = now;
        self.is_resting = false;
    }

    /// The client has taken so much.
    pub fn moved(&mut self, len_bytes: usize, has_backlog: bool) {
        self.moved_bytes += len_bytes;
        if !has_backlog {
            self.backlog = None;
        }
    }

    /// Far away if there is nothing to look at but the idle time.
    pub fn next_look(&self, is_busy: bool) -> Instant {
        let is_settled = self.has_ack && self.is_resting && self.shut_down.is_none();
        match self.idle {
            _ if is_busy || !is_settled => self.looked + self.period,
            Some(idle) => self.last_call + idle,
            None => self.looked + Duration::from_secs(3600),
        }
    }
}

fn overdue(kind: Abuse, code: ErrorCode, reason: &'static str) -> Closing {
    Closing {
        code,
        reason,
        abuse: Some(kind),
    }
}

impl Connection {
    /// Looks at the clock.
    pub(super) fn look(&mut self, now: Instant, handler: &mut impl Handler) -> Result<(), Closing> {
        self.timing.looked = now;
        self.look_at_handshake(now)?;
        let stall = handler.stall_limit(self.limits.stalled_reader);
        self.look_at_streams(now, stall, handler);
        self.look_at_client(now, stall)?;
        let has_calls = self.open_streams() > 0;
        if std::mem::replace(&mut self.timing.had_calls, has_calls) {
            self.timing.last_call = now;
        }
        if self
            .timing
            .shut_down
            .is_some_and(|since| now >= since + FAREWELL_MAX)
        {
            self.shut_down_finally();
        }
        if has_calls || self.sending.has_backlog() {
            return Ok(());
        }
        if self
            .limits
            .idle
            .is_some_and(|idle| now >= self.timing.last_call + idle)
        {
            return Err(Closing {
                code: ErrorCode::NO_ERROR,
                reason: "there was no call for long",
                abuse: None,
            });
        }
        if !self.timing.is_resting && now >= self.timing.last_call + REST {
            self.timing.is_resting = true;
            self.shrink();
        }
        Ok(())
    }

    fn look_at_handshake(&self, now: Instant) -> Result<(), Closing> {
        let timing = &self.timing;
        if !timing.has_settings && now >= timing.begun + self.limits.handshake {
            let reason = "no preface and SETTINGS in time";
            return Err(overdue(Abuse::Handshake, ErrorCode::PROTOCOL_ERROR, reason));
        }
        if !timing.has_ack && now >= timing.begun + self.limits.settings_ack {
            let reason = "our SETTINGS were not acknowledged in time";
            return Err(overdue(
                Abuse::Handshake,
                ErrorCode::SETTINGS_TIMEOUT,
                reason,
            ));
        }
        Ok(())
    }

    /// The connection as a whole: frames that do not end, replies that are not read.
    fn look_at_client(&mut self, now: Instant, stall: Duration) -> Result<(), Closing> {
        let code = ErrorCode::ENHANCE_YOUR_CALM;
        if self.is_amid_frame() && self.wants_read() {
            let since = *self.timing.amid_frame.get_or_insert(now);
            if now >= since + self.limits.slow_writer {
                return Err(overdue(
                    Abuse::SlowWriter,
                    code,
                    "a frame did not come to its end",
                ));
            }
        } else {
            self.timing.amid_frame = None;
        }
        if !self.sending.has_backlog() {
            self.timing.backlog = None;
        } else if let Some(since) = self.timing.backlog
            && now >= since + stall
        {
            if self.timing.moved_bytes < self.timing.least_bytes {
                return Err(overdue(Abuse::SlowReader, code, "replies are not read"));
            }
            self.timing.backlog = None;
        }
        if self.timing.backlog.is_none() && self.sending.has_backlog() {
            self.timing.backlog = Some(now);
            self.timing.moved_bytes = 0;
            let part_bytes = self.sending.backlog_bytes() / READ_LEAST_PART;
            self.timing.least_bytes = part_bytes.max(READ_LEAST_BYTES);
        }
        Ok(())
    }

    /// Single calls: requests that do not end, windows that do not open.
    fn look_at_streams(&mut self, now: Instant, stall: Duration, handler: &mut impl Handler) {
        let slots: Vec<Slot> = self.sending.streams.slots().collect();
        for slot in slots {
            let stream = &mut self.sending.streams[slot];
            let kind = if !stream.has_ended() && now >= stream.since + self.limits.slow_writer {
                Abuse::SlowWriter
            } else if stream.queue.is_empty() || stream.is_ready {
                stream.stalled = None;
                continue;
            } else if now >= *stream.stalled.get_or_insert(now) + stall {
                Abuse::SlowReader
            } else {
                continue;
            };
            self.counts.add(kind);
            let id = stream.id;
            // Whether the client reads at all is another question, which is asked anew.
            self.timing.backlog = None;
            self.reset(id, ErrorCode::ENHANCE_YOUR_CALM, handler);
        }
    }
}
