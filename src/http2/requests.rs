//! Requests: from header blocks and DATA to calls of the handler.

mod content;
mod whole;

use std::time::Instant;

use super::abuse::Abuse;
use super::call::{Handler, Method};
use super::connection::{Connection, Shutdown};
use super::fault::Fault;
use super::frame::{self, ErrorCode, FrameHeader, WINDOW_BYTES, flag};
use super::head::{self, Call, Head};
use super::hpack::Unread;
use super::receive::{BlockStart, Turn};
use super::status::{Code, Status};
use super::stream::{Request, Stream};
use super::streams::Slot;
use super::window::ReceiveWindow;
pub(super) use whole::Begun;

/// DATA on a stream that we have ended is no flood from this size on.
const CRUMB_MAX_BYTES: usize = 1024;

impl Connection {
    /// A header block is there.
    pub(super) fn on_block(
        &mut self,
        start: BlockStart,
        block: &[u8],
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<(), Fault> {
        if start.stream <= self.opened.last() {
            return self.on_trailers(start, block, turn, handler);
        }
        let version = self.decoder.version();
        let known = self.known_heads.find(version, block);
        let (head, content_length) = match known {
            Some((call, content_length)) => (Head::Call(call), content_length),
            None => self.read_head(version, block, handler)?,
        };
        let id = start.stream;
        self.opened.open(id);
        self.timing.call(turn.now);
        self.sending.begun += 1;
        if start.depends_on_itself {
            return Err(Fault::stream(id, ErrorCode::PROTOCOL_ERROR));
        }
        if self.shutdown == Shutdown::Final {
            return Err(Fault::stream(id, ErrorCode::REFUSED_STREAM));
        }
        let streams = self.sending.streams.len() + self.begun.len();
        if streams >= self.limits.streams_max as usize {
            self.counts.add(Abuse::Streams);
            return Err(Fault::stream(id, ErrorCode::REFUSED_STREAM));
        }
        match head {
            Head::Call(call) if start.ends_stream => self.call_without_message(id, call, turn),
            Head::Call(call) => self.begun.push_back(Begun {
                id,
                call,
                content_length,
            }),
            Head::Refused(refusal) if start.ends_stream => self.sending.refuse(id, None, refusal),
            Head::Refused(refusal) => {
                self.open(id, Request::Unread(refusal), content_length, turn.now);
            }
            Head::TooLarge(list_bytes) => {
                self.counts.add(Abuse::HeaderBytes);
                let limit = self.limits.header_list_bytes;
                let message =
                    format!("the metadata has {list_bytes} bytes, at most {limit} are taken");
                let status = Status::new(Code::RESOURCE_EXHAUSTED, message);
                self.fail_early(id, start.ends_stream, status);
            }
            Head::Failed(status) => self.fail_early(id, start.ends_stream, status),
            Head::Malformed(_) => return Err(Fault::stream(id, ErrorCode::PROTOCOL_ERROR)),
        }
        Ok(())
    }

    /// Ends a call that has got no place, whether its messages are still to come or not.
    fn fail_early(&mut self, id: u32, has_ended: bool, status: Status) {
        match has_ended {
            true => self.sending.fail(id, None, status),
            false => self.sending.fail_early(id, status),
        }
    }

    fn read_head(
        &mut self,
        version: u64,
        block: &[u8],
        handler: &mut impl Handler,
    ) -> Result<(Head, Option<u64>), Fault> {
        let list_max_bytes = self.limits.header_list_bytes as usize;
        let read = head::read(
            &mut self.decoder,
            block,
            list_max_bytes,
            &mut self.path,
            handler,
        );
        let (head, content_length) = read.map_err(unread)?;
        if let Head::Call(call) = &head
            && version == self.decoder.version()
        {
            self.known_heads
                .remember(version, block, *call, content_length);
        }
        Ok((head, content_length))
    }

    fn open(
        &mut self,
        id: u32,
        request: Request,
        content_length: Option<u64>,
        now: Instant,
    ) -> Slot {
        let window_bytes = self.limits.stream_window_bytes.max(WINDOW_BYTES);
        let mut stream = Stream {
            receive_window: ReceiveWindow::new(window_bytes),
            content_left: content_length,
            ..Stream::of_whole_request(id, self.sending.initial_window(), now)
        };
        stream.request = request;
        self.sending.streams.insert(stream)
    }

    fn open_call(&mut self, begun: Begun, now: Instant) {
        let Begun { id, call, .. } = begun;
        let slot = self.open(id, Request::Open, begun.content_length, now);
        let stream = &mut self.sending.streams[slot];
        stream.deadline = call.deadline(now);
        (stream.is_unary, stream.method) = match call.method {
            Method::Unary(method) => (true, method),
            Method::Stream(method) => (false, method),
        };
    }

    /// The headers were all.
    fn call_without_message(&mut self, id: u32, call: Call, turn: &mut Turn) {
        match call.method {
            Method::Unary(_) => self.sending.fail(id, None, content::not_one()),
            Method::Stream(_) => {
                let slot = self.open(id, Request::Ended, None, turn.now);
                self.sending.streams[slot].is_unary = false;
                self.sending.end_if_done(slot);
            }
        }
    }

    /// Lets the client go on on the connection.
    fn grant(&mut self) {
        if let Some(increment) = self.window.grant() {
            frame::put_window_update(&mut self.sending.out.bytes, 0, increment);
        }
    }

    /// A header block of a stream that was opened before.
    fn on_trailers(
        &mut self,
        start: BlockStart,
        block: &[u8],
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<(), Fault> {
        self.open_begun(turn.now);
        let malformed = head::read_trailers(&mut self.decoder, block).map_err(unread)?;
        let id = start.stream;
        let Some(slot) = self.sending.streams.find(id) else {
            if self.sending.has_left(id) {
                return self.idle_frame(turn.now);
            }
            self.refuse_idle(id)?;
            return Err(Fault::connection(
                ErrorCode::STREAM_CLOSED,
                "HEADERS on a stream that has ended",
            ));
        };
        if self.sending.streams[slot].has_ended() {
            return Err(Fault::stream(id, ErrorCode::STREAM_CLOSED));
        }
        if malformed.is_some() || !start.ends_stream || start.depends_on_itself {
            return Err(Fault::stream(id, ErrorCode::PROTOCOL_ERROR));
        }
        self.on_content(slot, &[], true, turn, handler)
    }

    /// Returns how much of what comes `after` the frame was used as well.
    pub(super) fn on_data(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        after: &[u8],
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<usize, Fault> {
        if let Some(used) = self.call_at_once(header, payload, after, turn, handler) {
            return Ok(used);
        }
        self.open_begun(turn.now);
        self.on_piece(header, payload, turn, handler)?;
        Ok(0)
    }

    /// Some of a request, in a DATA frame.
    fn on_piece(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<(), Fault> {
        let id = header.stream;
        self.refuse_idle(id)?;
        let exceeded = "more DATA than the connection's window";
        let take = self.window.take(header.len);
        take.map_err(|_| Fault::connection(ErrorCode::FLOW_CONTROL_ERROR, exceeded))?;
        let too_much = || Fault::protocol("more padding than payload");
        let content = frame::without_padding(header, payload).ok_or_else(too_much)?;
        self.grant();
        let ends_stream = header.has(flag::END_STREAM);
        let work = self.sending.work();
        if content.is_empty()
            && !ends_stream
            && self.budgets.empty_data.take(turn.now, work).is_err()
        {
            return Err(Fault::abuse(
                Abuse::EmptyData,
                "too many DATA frames without data",
            ));
        }
        let Some(slot) = self.sending.streams.find(id) else {
            return match self.sending.has_left(id) {
                // What was on its way costs the client more than us, unless it comes in crumbs.
                true if content.len() >= CRUMB_MAX_BYTES => Ok(()),
                true => self.idle_frame(turn.now),
                false => Err(Fault::stream(id, ErrorCode::STREAM_CLOSED)),
            };
        };
        let stream = &mut self.sending.streams[slot];
        if stream.has_ended() {
            return Err(Fault::stream(id, ErrorCode::STREAM_CLOSED));
        }
        if stream.receive_window.take(header.len).is_err() {
            return Err(Fault::stream(id, ErrorCode::FLOW_CONTROL_ERROR));
        }
        if !ends_stream && let Some(increment) = stream.receive_window.grant() {
            frame::put_window_update(&mut self.sending.out.bytes, id, increment);
        }
        self.on_content(slot, content, ends_stream, turn, handler)
    }
}

fn unread(why: Unread) -> Fault {
    match why {
        Unread::Failed => Fault::connection(
            ErrorCode::COMPRESSION_ERROR,
            "a header block can not be read",
        ),
        Unread::BlownUp => Fault::abuse(
            Abuse::HeaderBytes,
            "a header block says far more than it has bytes",
        ),
    }
}
