//! Frames that have come: which they are, and whether they are allowed where they stand (RFC 9113, 5.1 and 6).

use std::time::Instant;

use super::abuse::Abuse;
use super::call::{Handler, StreamId};
use super::connection::{Closing, Connection, FAREWELL};
use super::fault::Fault;
use super::frame::{
    self, ErrorCode, FRAME_MAX_BYTES, FRAME_MOST_BYTES, FrameHeader, HEADER_BYTES,
    WINDOW_MOST_BYTES, flag, kind, setting,
};
use super::stream::Stream;

/// What one call of `receive` may do.
pub(super) struct Turn {
    pub now: Instant,
    pub calls_left: usize,
}

/// Why reading has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// What is left is not a whole frame.
    Incomplete,
    /// The turn is over.
    Turn,
    /// There is no room for replies.
    Full,
}

/// A header block that has begun.
pub(super) struct Block {
    pub start: BlockStart,
    pub bytes: Vec<u8>,
    frames: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct BlockStart {
    pub stream: u32,
    pub ends_stream: bool,
    /// By its priority, which is an error of its stream.
    pub depends_on_itself: bool,
}

/// How much of what comes after a frame was used with it.
type Used = usize;

impl Connection {
    /// Reads frames as long as there are whole ones. Returns how many bytes they were.
    pub(super) fn read_frames(
        &mut self,
        bytes: &[u8],
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<(Used, Stop), Closing> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let Some(header) = FrameHeader::read(rest) else {
                return Ok((used, Stop::Incomplete));
            };
            if header.len > FRAME_MAX_BYTES as usize {
                return Err(frame_too_large());
            }
            let Some((payload, after)) = rest[HEADER_BYTES..].split_at_checked(header.len) else {
                return Ok((used, Stop::Incomplete));
            };
            if turn.calls_left == 0 {
                return Ok((used, Stop::Turn));
            }
            if self.sending.is_full() {
                return Ok((used, Stop::Full));
            }
            self.timing.amid_frame = None;
            used += HEADER_BYTES + header.len;
            match self.read_frame(header, payload, after, turn, handler) {
                Ok(more) => used += more,
                Err(Fault::Connection(closing)) => return Err(closing),
                Err(Fault::Stream { id, code }) => self.end_stream(id, code, turn.now, handler)?,
            }
        }
    }

    fn read_frame(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        after: &[u8],
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<Used, Fault> {
        if self.block.is_some() && header.kind != kind::CONTINUATION {
            return Err(Fault::protocol("a header block was interrupted"));
        }
        if !self.timing.has_settings && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(Fault::protocol("the first frame is not SETTINGS"));
        }
        match header.kind {
            kind::HEADERS => return self.on_headers(header, payload, after, turn, handler),
            kind::DATA => self.on_data(header, payload, turn, handler)?,
            kind::WINDOW_UPDATE => self.on_window_update(header, payload, turn.now)?,
            kind::RST_STREAM => self.on_reset(header, payload, turn.now, handler)?,
            kind::SETTINGS => self.on_settings(header, payload, turn.now)?,
            kind::PING => self.on_ping(header, payload, turn.now)?,
            kind::CONTINUATION => self.on_continuation(header, payload, turn, handler)?,
            kind::PRIORITY => self.on_priority(header, payload, turn.now)?,
            kind::PUSH_PROMISE => return Err(Fault::protocol("a client does not push")),
            kind::GOAWAY => self.on_goaway(header, payload, turn.now)?,
            _ => self.idle_frame(turn.now)?,
        }
        Ok(0)
    }

    /// Ends a stream for an error that its client has made.
    fn end_stream(
        &mut self,
        id: u32,
        code: ErrorCode,
        now: Instant,
        handler: &mut impl Handler,
    ) -> Result<(), Closing> {
        self.reset(id, code, handler);
        // A client that does not know our SETTINGS yet can not know that it has too many streams.
        let is_innocent = code == ErrorCode::REFUSED_STREAM && !self.timing.has_ack;
        let answered = self.sending.answered;
        if !is_innocent && self.budgets.resets.take(now, answered).is_err() {
            return Err(rapid_reset());
        }
        Ok(())
    }

    /// Resets a stream, whether it is kept or not.
    pub(super) fn reset(&mut self, id: u32, code: ErrorCode, handler: &mut impl Handler) {
        if let Some(stream) = self.sending.reset(id, code) {
            self.forget(&stream, handler);
        }
    }

    /// Nobody waits for what this stream was to get.
    fn forget(&mut self, stream: &Stream, handler: &mut impl Handler) {
        self.deferred.retain(|deferred| *deferred != stream.id);
        if stream.waiting > 0 {
            handler.gone(StreamId(stream.id));
        }
    }

    // Headers.

    fn on_headers(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        after: &[u8],
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<Used, Fault> {
        if header.stream.is_multiple_of(2) {
            return Err(Fault::protocol("HEADERS on a stream that no client opens"));
        }
        let too_much = || Fault::protocol("more padding than payload");
        let mut block = frame::without_padding(header, payload).ok_or_else(too_much)?;
        let mut start = BlockStart {
            stream: header.stream,
            ends_stream: header.has(flag::END_STREAM),
            depends_on_itself: false,
        };
        if header.has(flag::PRIORITY) {
            let Some((priority, rest)) = block.split_first_chunk::<5>() else {
                return Err(Fault::frame_size("HEADERS without room for their priority"));
            };
            start.depends_on_itself = depends_on(priority) == header.stream;
            block = rest;
        }
        if header.has(flag::END_HEADERS) {
            return self.on_block(start, block, after, turn, handler);
        }
        self.block = Some(Block {
            start,
            bytes: block.to_vec(),
            frames: 1,
        });
        Ok(0)
    }

    fn on_continuation(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<(), Fault> {
        let Some(block) = self
            .block
            .as_mut()
            .filter(|block| block.start.stream == header.stream)
        else {
            return Err(Fault::protocol("CONTINUATION of no header block"));
        };
        block.frames += 1;
        block.bytes.extend_from_slice(payload);
        if block.frames > self.limits.header_frames_max {
            return Err(Fault::abuse(
                Abuse::Continuation,
                "a header block in too many frames",
            ));
        }
        // In Huffman's code a text may be longer than it is.
        if block.bytes.len() > 4 * self.limits.header_list_bytes as usize {
            return Err(Fault::abuse(
                Abuse::HeaderBytes,
                "a header block that is too large",
            ));
        }
        if header.has(flag::END_HEADERS)
            && let Some(block) = self.block.take()
        {
            self.on_block(block.start, &block.bytes, &[], turn, handler)?;
        }
        Ok(())
    }

    // What is not about requests.

    fn on_settings(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::protocol("SETTINGS on a stream"));
        }
        let work = self.sending.work();
        if self.budgets.settings.take(now, work).is_err() {
            return Err(Fault::abuse(Abuse::Settings, "too many SETTINGS"));
        }
        if header.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(Fault::frame_size(
                    "an acknowledgement of SETTINGS with settings",
                ));
            }
            if !self.timing.has_ack {
                self.timing.has_ack = true;
                self.decoder.limit(self.limits.header_table_bytes as usize);
            }
            return Ok(());
        }
        if !payload.len().is_multiple_of(6) {
            return Err(Fault::frame_size("SETTINGS that are no pairs"));
        }
        for (id, value) in frame::settings(payload) {
            self.on_setting(id, value)?;
        }
        self.timing.has_settings = true;
        frame::put_settings_ack(&mut self.sending.out.bytes);
        Ok(())
    }

    fn on_setting(&mut self, id: u16, value: u32) -> Result<(), Fault> {
        match id {
            setting::HEADER_TABLE_SIZE => self.sending.replies.limit_table(value),
            setting::ENABLE_PUSH if value > 1 => {
                return Err(Fault::protocol("ENABLE_PUSH is neither 0 nor 1"));
            }
            setting::INITIAL_WINDOW_SIZE => {
                let too_large = |_| flow_control("INITIAL_WINDOW_SIZE makes a window too large");
                if value > WINDOW_MOST_BYTES {
                    return Err(too_large(super::sending::Overflow));
                }
                self.sending.set_initial_window(value).map_err(too_large)?;
            }
            setting::MAX_FRAME_SIZE => {
                if !(FRAME_MAX_BYTES..=FRAME_MOST_BYTES).contains(&value) {
                    return Err(Fault::protocol("MAX_FRAME_SIZE is out of its range"));
                }
                self.sending.set_frame_max(value);
            }
            _ => (),
        }
        Ok(())
    }

    fn on_ping(&mut self, header: FrameHeader, payload: &[u8], now: Instant) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::protocol("PING on a stream"));
        }
        let Ok(data) = <[u8; 8]>::try_from(payload) else {
            return Err(Fault::frame_size("PING with other than 8 bytes"));
        };
        let work = self.sending.work();
        if self.budgets.pings.take(now, work).is_err() {
            return Err(Fault::abuse(Abuse::Ping, "too many PINGs"));
        }
        if !header.has(flag::ACK) {
            frame::put_ping(&mut self.sending.out.bytes, flag::ACK, data);
        } else if data == FAREWELL {
            self.shut_down_finally();
        }
        Ok(())
    }

    fn on_window_update(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        let Ok(bytes) = <[u8; 4]>::try_from(payload) else {
            return Err(Fault::frame_size("WINDOW_UPDATE with other than 4 bytes"));
        };
        let increment = u32::from_be_bytes(bytes) & WINDOW_MOST_BYTES;
        let work = self.sending.work();
        if self.budgets.window_updates.take(now, work).is_err() {
            return Err(Fault::abuse(Abuse::WindowUpdate, "too many WINDOW_UPDATEs"));
        }
        let id = header.stream;
        if id == 0 {
            if increment == 0 {
                return Err(Fault::protocol("WINDOW_UPDATE of nothing"));
            }
            return self
                .sending
                .widen(increment)
                .map_err(|_| flow_control("the connection's window is too large"));
        }
        let Some(slot) = self.sending.streams.find(id) else {
            return self.refuse_idle(id);
        };
        if increment == 0 {
            return Err(Fault::stream(id, ErrorCode::PROTOCOL_ERROR));
        }
        let too_large = |_| Fault::stream(id, ErrorCode::FLOW_CONTROL_ERROR);
        self.sending
            .widen_stream(slot, increment)
            .map_err(too_large)
    }

    fn on_reset(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
        handler: &mut impl Handler,
    ) -> Result<(), Fault> {
        if payload.len() != 4 {
            return Err(Fault::frame_size("RST_STREAM with other than 4 bytes"));
        }
        let id = header.stream;
        let Some(slot) = self.sending.streams.find(id) else {
            self.refuse_idle(id)?;
            return self.idle_frame(now);
        };
        let stream = self.sending.remove(slot);
        self.forget(&stream, handler);
        let answered = self.sending.answered;
        self.budgets
            .resets
            .take(now, answered)
            .map_err(|_| Fault::Connection(rapid_reset()))
    }

    fn on_priority(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        let id = header.stream;
        if id == 0 {
            return Err(Fault::protocol("PRIORITY on the connection"));
        }
        let is_open = self.sending.streams.find(id).is_some();
        let fault = |code, reason| match is_open {
            true => Fault::stream(id, code),
            false => Fault::connection(code, reason),
        };
        let Ok(priority) = <&[u8; 5]>::try_from(payload) else {
            return Err(fault(
                ErrorCode::FRAME_SIZE_ERROR,
                "PRIORITY with other than 5 bytes",
            ));
        };
        if depends_on(priority) == id {
            return Err(fault(
                ErrorCode::PROTOCOL_ERROR,
                "a stream that depends on itself",
            ));
        }
        self.idle_frame(now)
    }

    fn on_goaway(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::protocol("GOAWAY on a stream"));
        }
        if payload.len() < 8 {
            return Err(Fault::frame_size("GOAWAY with less than 8 bytes"));
        }
        // It is about streams of ours, and there are none.
        self.idle_frame(now)
    }

    /// A frame that changes nothing: a few of them are no harm.
    pub(super) fn idle_frame(&mut self, now: Instant) -> Result<(), Fault> {
        let work = self.sending.work();
        let taken = self.budgets.idle_frames.take(now, work);
        taken.map_err(|_| Fault::abuse(Abuse::Idle, "too many frames that mean nothing"))
    }

    /// Frames on a stream that was never opened are an error of the connection.
    pub(super) fn refuse_idle(&self, id: u32) -> Result<(), Fault> {
        if id > self.opened.last() || id.is_multiple_of(2) || self.opened.was_skipped(id) {
            return Err(Fault::protocol("a frame on a stream that was never opened"));
        }
        Ok(())
    }
}

fn depends_on(priority: &[u8; 5]) -> u32 {
    let [a, b, c, d, _weight] = *priority;
    u32::from_be_bytes([a, b, c, d]) & WINDOW_MOST_BYTES
}

fn flow_control(reason: &'static str) -> Fault {
    Fault::connection(ErrorCode::FLOW_CONTROL_ERROR, reason)
}

fn frame_too_large() -> Closing {
    Closing {
        code: ErrorCode::FRAME_SIZE_ERROR,
        reason: "a frame that is larger than MAX_FRAME_SIZE",
        abuse: Some(Abuse::Protocol),
    }
}

fn rapid_reset() -> Closing {
    Closing {
        code: ErrorCode::ENHANCE_YOUR_CALM,
        reason: "too many streams are reset",
        abuse: Some(Abuse::RapidReset),
    }
}
