//! Frames that have come: which they are, and whether they are allowed where they stand (RFC 9113, 5.1 and 6).

mod control;

use std::time::Instant;

use super::abuse::Abuse;
use super::call::{Handler, StreamId};
use super::connection::{Closing, Connection};
use super::fault::Fault;
use super::frame::{
    self, ErrorCode, FRAME_MAX_BYTES, FrameHeader, HEADER_BYTES, WINDOW_MOST_BYTES, flag, kind,
};
use super::stream::Stream;

/// So much of a request is counted as another call.
const LIKE_A_CALL_BYTES: usize = 1024;
/// A header block may be so long in any case, so that who has far too much metadata is told, as long as that is no flood.
const BLOCK_LEAST_BYTES: usize = 15 * FRAME_MAX_BYTES as usize;

/// What one call of `receive` may do.
pub(super) struct Turn {
    pub now: Instant,
    pub calls_left: usize,
}

impl Turn {
    /// A request has its turn. One that is long makes as much work as several.
    pub fn take_call(&mut self, message_bytes: usize) {
        let calls = 1 + message_bytes / LIKE_A_CALL_BYTES;
        self.calls_left = self.calls_left.saturating_sub(calls);
    }
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
            kind::DATA => return self.on_data(header, payload, after, turn, handler),
            kind::HEADERS => self.on_headers(header, payload, turn, handler)?,
            kind::CONTINUATION => self.on_continuation(header, payload, turn, handler)?,
            _ => {
                self.open_begun(turn.now);
                self.on_control(header, payload, turn, handler)?;
            }
        }
        Ok(0)
    }

    fn on_control(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        turn: &Turn,
        handler: &mut impl Handler,
    ) -> Result<(), Fault> {
        match header.kind {
            kind::WINDOW_UPDATE => self.on_window_update(header, payload, turn.now)?,
            kind::RST_STREAM => self.on_reset(header, payload, turn.now, handler)?,
            kind::SETTINGS => self.on_settings(header, payload, turn.now)?,
            kind::PING => self.on_ping(header, payload, turn.now)?,
            kind::PRIORITY => self.on_priority(header, payload, turn.now)?,
            kind::PUSH_PROMISE => return Err(Fault::protocol("a client does not push")),
            kind::GOAWAY => self.on_goaway(header, payload, turn.now)?,
            _ => self.idle_frame(turn.now)?,
        }
        Ok(())
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

    fn on_headers(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<(), Fault> {
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
            return self.on_block(start, block, turn, handler);
        }
        self.block = Some(Block {
            start,
            bytes: block.to_vec(),
            frames: 1,
        });
        Ok(())
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
        // In Huffman's code a text may be longer than it is.
        let most_bytes = BLOCK_LEAST_BYTES.max(4 * self.limits.header_list_bytes as usize);
        if block.bytes.len() > most_bytes {
            return Err(Fault::abuse(
                Abuse::HeaderBytes,
                "a header block that is too large",
            ));
        }
        let whole_frames = (most_bytes / FRAME_MAX_BYTES as usize) as u32 + 1;
        if block.frames > self.limits.header_frames_max.max(whole_frames) {
            return Err(Fault::abuse(
                Abuse::Continuation,
                "a header block in too many frames",
            ));
        }
        if header.has(flag::END_HEADERS)
            && let Some(block) = self.block.take()
        {
            self.on_block(block.start, &block.bytes, turn, handler)?;
        }
        Ok(())
    }
}

fn depends_on(priority: &[u8; 5]) -> u32 {
    let [a, b, c, d, _weight] = *priority;
    u32::from_be_bytes([a, b, c, d]) & WINDOW_MOST_BYTES
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
