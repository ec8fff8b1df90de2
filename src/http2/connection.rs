//! One client's connection: what its owner sees of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::abuse::{Abuse, Budget, Counts};
use super::call::{Answer, Handler, StreamId};
use super::frame::{
    self, ErrorCode, FRAME_MAX_BYTES, HEADER_BYTES, PREFACE, WINDOW_BYTES, setting,
};
use super::hpack::Decoder;
use super::known_heads::KnownHeads;
use super::limits::Limits;
use super::opened::Opened;
use super::receive::{Block, Stop, Turn};
use super::requests::Begun;
use super::sending::Sending;
use super::timing::Timing;
use super::window::ReceiveWindow;

/// The connection is at its end: what is to be written says so to the client; write it, then close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (HTTP/2 error {})", code.0)]
pub(crate) struct Closing {
    /// The error code of RFC 9113, as it is in the GOAWAY.
    pub code: ErrorCode,
    /// What the client did.
    pub reason: &'static str,
    /// What it was counted as; none for what is no fault, as an idle connection.
    pub abuse: Option<Abuse>,
}

/// How far [`Connection::receive`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All that there was has been taken.
    All,
    /// As many calls as were asked for: there are more. Call again, with no bytes, when others have had their turn.
    More,
    /// The client does not read its replies: call again, with no bytes, when something was written.
    Blocked,
}

/// One client's connection, with no socket and no clock of its own.
pub(crate) struct Connection {
    pub(super) limits: Arc<Limits>,
    pub(super) counts: Arc<Counts>,
    pub(super) sending: Sending,
    pub(super) decoder: Decoder,
    pub(super) known_heads: KnownHeads,
    /// The path of the request that is being read.
    pub(super) path: Vec<u8>,
    /// So much of the client's preface has come.
    pub(super) preface: usize,
    /// A header block that is coming in pieces.
    pub(super) block: Option<Block>,
    pub(super) opened: Opened,
    /// In the order of their numbers; empty but while a read is taken.
    pub(super) begun: VecDeque<Begun>,
    pub(super) window: ReceiveWindow,
    /// Requests that are whole, and wait until less is held for the client's windows.
    pub(super) deferred: VecDeque<u32>,
    pub(super) budgets: Budgets,
    pub(super) timing: Timing,
    pub(super) shutdown: Shutdown,
    /// What was read and is not used yet; from `kept_at` on.
    kept: Vec<u8>,
    kept_at: usize,
    last: Progress,
    closed: Option<Closing>,
}

pub(super) struct Budgets {
    pub resets: Budget,
    pub settings: Budget,
    pub pings: Budget,
    pub empty_data: Budget,
    pub window_updates: Budget,
    pub idle_frames: Budget,
}

/// How far we are with saying goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shutdown {
    No,
    /// The client knows that it should go, but calls that it has sent before it knew are taken.
    Announced,
    /// It knows the last call that is taken.
    Final,
}

/// Calls that are made in a tick, when what they have waited for has gone.
const DEFERRED_MAX: usize = 64;

/// The PING by which we see that the client has got our first GOAWAY.
pub(super) const FAREWELL: [u8; 8] = *b"farewell";

impl Connection {
    /// A connection that was just accepted. Our SETTINGS are there to be written at once.
    pub fn new(limits: Arc<Limits>, counts: Arc<Counts>, now: Instant) -> Self {
        let mut sending = Sending::new(limits.clone(), now);
        let window_bytes = limits.connection_window_bytes.max(WINDOW_BYTES);
        let out = &mut sending.out.bytes;
        frame::put_settings(
            out,
            &[
                (setting::HEADER_TABLE_SIZE, limits.header_table_bytes),
                (setting::MAX_CONCURRENT_STREAMS, limits.streams_max),
                (
                    setting::INITIAL_WINDOW_SIZE,
                    limits.stream_window_bytes.max(WINDOW_BYTES),
                ),
                (setting::MAX_HEADER_LIST_SIZE, limits.header_list_bytes),
            ],
        );
        if window_bytes > WINDOW_BYTES {
            frame::put_window_update(out, 0, window_bytes - WINDOW_BYTES);
        }
        Self {
            sending,
            counts,
            decoder: Decoder::new(),
            known_heads: KnownHeads::default(),
            path: Vec::new(),
            preface: 0,
            block: None,
            opened: Opened::default(),
            begun: VecDeque::new(),
            window: ReceiveWindow::new(window_bytes),
            deferred: VecDeque::new(),
            budgets: Budgets {
                resets: Budget::new(limits.resets, now),
                settings: Budget::new(limits.settings, now),
                pings: Budget::new(limits.pings, now),
                empty_data: Budget::new(limits.empty_data, now),
                window_updates: Budget::new(limits.window_updates, now),
                idle_frames: Budget::new(limits.idle_frames, now),
            },
            timing: Timing::new(&limits, now),
            shutdown: Shutdown::No,
            kept: Vec::new(),
            kept_at: 0,
            last: Progress::All,
            closed: None,
            limits,
        }
    }

    /// Takes bytes that were read, and gives each request that is whole to the handler, at most `calls_max` of them, which
    /// is one at least.
    ///
    /// All bytes are taken, whatever the outcome: what is not a whole frame, and what comes after the last call, is
    /// copied and kept. Do not read while [`wants_read`](Self::wants_read) says no.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        now: Instant,
        calls_max: usize,
        handler: &mut impl Handler,
    ) -> Result<Progress, Closing> {
        if let Some(closing) = self.closed {
            return Err(closing);
        }
        self.sending.now = now;
        let mut turn = Turn {
            now,
            calls_left: calls_max,
        };
        let taken = self.take(bytes, &mut turn, handler);
        self.open_begun(now);
        let stop = match taken {
            Ok(stop) => stop,
            Err(closing) => return Err(self.close(closing, handler)),
        };
        self.timing.moved_bytes += self.sending.pump();
        let waits = self.call_deferred(&mut turn, handler);
        self.last = match (stop, waits) {
            (Stop::Turn, _) | (_, Some(Progress::More)) => Progress::More,
            (Stop::Full, _) | (_, Some(Progress::Blocked)) => Progress::Blocked,
            _ => Progress::All,
        };
        Ok(self.last)
    }

    /// Uses the bytes, those first that were kept.
    fn take(
        &mut self,
        mut bytes: &[u8],
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<Stop, Closing> {
        if self.preface < PREFACE.len() {
            bytes = self.take_preface(bytes)?;
        }
        if !self.kept.is_empty() {
            // Without the lack of turns or room what is kept is less than a frame, and only that is completed.
            let mut kept = std::mem::take(&mut self.kept);
            let take_all = self.last != Progress::All;
            let len = if take_all {
                bytes.len()
            } else {
                missing(&kept[self.kept_at..], bytes)
            };
            let (used, rest) = bytes.split_at(len);
            kept.extend_from_slice(used);
            bytes = rest;
            let result = self.read_frames(&kept[self.kept_at..], turn, handler);
            if let Ok((used, _)) = result {
                self.kept_at += used;
            }
            if self.kept_at == kept.len() {
                kept.clear();
                self.kept_at = 0;
            }
            self.kept = kept;
            let (_, stop) = result?;
            if !self.kept.is_empty() || stop != Stop::Incomplete {
                self.kept.extend_from_slice(bytes);
                return Ok(stop);
            }
        }
        let (used, stop) = self.read_frames(bytes, turn, handler)?;
        self.kept.extend_from_slice(&bytes[used..]);
        Ok(stop)
    }

    fn take_preface<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Closing> {
        let awaited = &PREFACE[self.preface..];
        let len = awaited.len().min(bytes.len());
        if bytes[..len] != awaited[..len] {
            return Err(Closing {
                code: ErrorCode::PROTOCOL_ERROR,
                reason: "what came is not the preface of HTTP/2",
                abuse: Some(Abuse::Protocol),
            });
        }
        self.preface += len;
        Ok(&bytes[len..])
    }

    /// Whether there is room for more bytes: nothing is kept for lack of turns, and the client reads its replies.
    pub fn wants_read(&self) -> bool {
        self.closed.is_none() && self.last == Progress::All && !self.sending.is_full()
    }

    /// What is to be written, in order; no piece is empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.sending.out.pieces()
    }

    /// Whether there is something to be written.
    pub fn wants_write(&self) -> bool {
        !self.sending.out.is_empty()
    }

    /// So many bytes of the pieces were written. There may be new ones then: replies are cut into frames as there is room.
    /// If the last [`Progress`] was [`Progress::Blocked`], it is time for [`receive`](Self::receive) with no bytes.
    pub fn written(&mut self, len_bytes: usize) {
        self.sending.out.written(len_bytes);
        if self.closed.is_none() {
            self.sending.pump();
        }
        self.timing.moved(len_bytes, self.sending.has_backlog());
    }

    /// The answer to a call whose [`Reply`](super::Reply) was put off. Says no if nobody waits for it.
    pub fn answer(&mut self, stream: StreamId, answer: Answer) -> bool {
        let is_taken = self.sending.answer_late(stream, answer);
        self.timing.moved_bytes += self.sending.pump();
        is_taken
    }

    /// Says to the client that it should go elsewhere; its open calls, and those that are on their way, are still answered.
    pub fn shut_down(&mut self, now: Instant) {
        self.timing.shut_down.get_or_insert(now);
        if self.shutdown == Shutdown::No && self.closed.is_none() {
            self.shutdown = Shutdown::Announced;
            let out = &mut self.sending.out.bytes;
            frame::put_goaway(
                out,
                i32::MAX as u32,
                ErrorCode::NO_ERROR,
                "the server shuts down",
            );
            frame::put_ping(out, 0, FAREWELL);
        }
    }

    /// The client knows that it should go: what it sends from now on is refused.
    pub(super) fn shut_down_finally(&mut self) {
        if self.shutdown == Shutdown::Announced {
            self.shutdown = Shutdown::Final;
            let (out, last) = (&mut self.sending.out.bytes, self.opened.last());
            frame::put_goaway(out, last, ErrorCode::NO_ERROR, "the server shuts down");
        }
    }

    /// The connection has been shut down, all calls are answered and all is written: close it.
    pub fn is_finished(&self) -> bool {
        let is_over =
            self.closed.is_some() || self.shutdown == Shutdown::Final && self.open_streams() == 0;
        is_over && !self.wants_write()
    }

    /// Calls that are not answered, or whose reply is not cut into frames to its end.
    pub fn open_streams(&self) -> usize {
        self.sending.streams.len()
    }

    /// What the connection keeps on the heap: requests that are not whole, and replies that are not written. Bodies that are
    /// kept elsewhere do not count.
    pub fn memory_bytes(&self) -> usize {
        let block_bytes = self
            .block
            .as_ref()
            .map_or(0, |block| block.bytes.capacity());
        let begun_bytes = self.begun.capacity() * size_of::<Begun>();
        let head_bytes = begun_bytes + self.path.capacity() + self.decoder.memory_bytes();
        self.kept.capacity() + block_bytes + head_bytes + self.sending.memory_bytes()
    }

    /// When to call [`tick`](Self::tick) next. It is not worth to be more precise than some milliseconds.
    pub fn deadline(&self) -> Option<Instant> {
        let is_busy = self.open_streams() > 0 || self.sending.has_backlog() || self.is_amid_frame();
        Some(self.timing.next_look(is_busy))
    }

    /// Looks at what is overdue: handshake, acknowledgement, idle time, readers and writers that have stalled.
    pub fn tick(&mut self, now: Instant, handler: &mut impl Handler) -> Result<(), Closing> {
        if let Some(closing) = self.closed {
            return Err(closing);
        }
        self.sending.now = now;
        if let Err(closing) = self.look(now, handler) {
            return Err(self.close(closing, handler));
        }
        // What was held may have gone, and the client may not say anything by itself.
        let mut turn = Turn {
            now,
            calls_left: DEFERRED_MAX,
        };
        self.call_deferred(&mut turn, handler);
        Ok(())
    }

    /// The socket is gone: tells the handler of all calls that nobody waits for any more.
    pub fn end(&mut self, handler: &mut impl Handler) {
        let slots: Vec<_> = self.sending.streams.slots().collect();
        for slot in slots {
            let stream = self.sending.remove(slot);
            if stream.waiting > 0 {
                handler.gone(StreamId(stream.id));
            }
        }
        self.deferred.clear();
    }

    /// A frame, or a block of headers, has begun and not ended.
    pub(super) fn is_amid_frame(&self) -> bool {
        !self.kept.is_empty() || self.block.is_some() || self.preface < PREFACE.len()
    }

    fn close(&mut self, closing: Closing, handler: &mut impl Handler) -> Closing {
        if let Some(kind) = closing.abuse {
            self.counts.add(kind);
        }
        // Answers that are ready go first, however much came with what was wrong.
        self.timing.moved_bytes += self.sending.pump();
        let (out, last) = (&mut self.sending.out.bytes, self.opened.last());
        frame::put_goaway(out, last, closing.code, closing.reason);
        self.closed = Some(closing);
        self.end(handler);
        closing
    }

    /// Panics unless all accounts are right.
    #[cfg(any(test, fuzzing))]
    pub(super) fn validate(&self) {
        self.sending.validate();
        assert!(self.begun.is_empty());
        for id in &self.deferred {
            assert!(
                self.sending.streams.find(*id).is_some(),
                "stream {id} waits for its turn"
            );
        }
    }

    /// Gives back what is only kept to be used again.
    pub(super) fn shrink(&mut self) {
        self.sending.shrink();
        self.decoder.shrink();
        self.path = Vec::new();
        self.begun = VecDeque::new();
        if self.kept.is_empty() {
            self.kept = Vec::new();
        }
        if self.deferred.is_empty() {
            self.deferred = VecDeque::new();
        }
    }
}

/// How many of `bytes` belong to the frame that `begun` is the beginning of.
fn missing(begun: &[u8], bytes: &[u8]) -> usize {
    let mut header = [0; HEADER_BYTES];
    let len = begun.len().min(HEADER_BYTES);
    header[..len].copy_from_slice(&begun[..len]);
    let more = (HEADER_BYTES - len).min(bytes.len());
    header[len..len + more].copy_from_slice(&bytes[..more]);
    if len + more < HEADER_BYTES {
        return more;
    }
    let frame = frame::FrameHeader::read(&header).expect("it is whole");
    // One that is too large is an error, for which its header is enough.
    let payload = if frame.len > FRAME_MAX_BYTES as usize {
        0
    } else {
        frame.len
    };
    (HEADER_BYTES + payload)
        .saturating_sub(begun.len())
        .min(bytes.len())
}
