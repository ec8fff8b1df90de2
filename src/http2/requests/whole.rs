//! Calls that come as a whole within one read: headers, and later among its frames all of the message. Nothing is kept of
//! them, unless the answer comes later.

use std::time::Instant;

use super::super::call::{Handler, Method, Reply, Request as Message};
use super::super::connection::Connection;
use super::super::frame::{FrameHeader, HEADER_BYTES, flag, kind};
use super::super::grpc::{self, PREFIX_BYTES};
use super::super::head::Call;
use super::super::receive::Turn;

/// A call whose headers have come in this read. It gets a place among the streams with the first frame that needs
/// one, or at the end of the read.
pub(in super::super) struct Begun {
    pub id: u32,
    pub call: Call,
    pub content_length: Option<u64>,
}

impl Connection {
    /// Calls the handler if a DATA frame is all of the request whose headers came first. Returns how much of what comes
    /// `after` the frame was used as well.
    pub(super) fn call_at_once(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        after: &[u8],
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Option<usize> {
        let begun = self.begun.front()?;
        let Method::Unary(method) = begun.call.method else {
            return None;
        };
        let id = begun.id;
        let is_told = |len| len == payload.len() as u64;
        if header.stream != id
            || header.has(flag::PADDED)
            || !begun.content_length.is_none_or(is_told)
        {
            return None;
        }
        let used = match header.has(flag::END_STREAM) {
            true => 0,
            false => end_alone(id, after)?,
        };
        let (0, len) = grpc::read_prefix(payload)? else {
            return None;
        };
        let is_fit = len == payload.len() - PREFIX_BYTES && len <= self.limits.message_bytes;
        if !is_fit || self.sending.is_holding_much() || self.window.take(header.len).is_err() {
            return None;
        }
        let deadline = begun.call.deadline(turn.now);
        self.begun.pop_front();
        self.grant();
        turn.take_call(len);
        let message = Message {
            method,
            deadline,
            message: &payload[PREFIX_BYTES..],
        };
        handler.call(message, Reply::new(&mut self.sending, id, None));
        Some(used)
    }

    /// What has begun, and was not whole, gets its places.
    pub(in super::super) fn open_begun(&mut self, now: Instant) {
        while let Some(begun) = self.begun.pop_front() {
            self.open_call(begun, now);
        }
    }
}

/// The length of the frame that says the end of a stream and nothing else, if that comes next: some clients send it after
/// each request.
fn end_alone(id: u32, after: &[u8]) -> Option<usize> {
    let end = FrameHeader::read(after)?;
    let is_it = (end.kind, end.len, end.stream) == (kind::DATA, 0, id);
    (is_it && end.has(flag::END_STREAM)).then_some(HEADER_BYTES)
}
