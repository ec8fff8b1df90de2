//! What a request contains: messages, in pieces or whole.

use super::super::abuse::Abuse;
use super::super::call::{Handler, Reply, Request as Message, StreamId};
use super::super::connection::{Connection, Progress};
use super::super::fault::Fault;
use super::super::frame::ErrorCode;
use super::super::grpc::{self, PREFIX_BYTES};
use super::super::receive::Turn;
use super::super::status::{Code, Status};
use super::super::stream::{End, Request};
use super::super::streams::Slot;

/// Answers that a stream of messages may have put off.
const WAITING_MAX: u32 = 64;
/// Messages of a stream that one DATA frame may have: they are all answered in one turn.
const MESSAGES_A_PIECE_MAX: u32 = 128;

impl Connection {
    /// Some of a request's content, which may be its end.
    pub(super) fn on_content(
        &mut self,
        slot: Slot,
        content: &[u8],
        is_end: bool,
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<(), Fault> {
        let stream = &mut self.sending.streams[slot];
        let id = stream.id;
        if let Some(left) = &mut stream.content_left {
            match left.checked_sub(content.len() as u64) {
                Some(rest) if !is_end || rest == 0 => *left = rest,
                _ => return Err(Fault::stream(id, ErrorCode::PROTOCOL_ERROR)),
            }
        }
        match &stream.request {
            Request::Unread(refusal) => {
                let refusal = *refusal;
                if is_end {
                    stream.request = Request::Ended;
                    self.sending.refuse(id, Some(slot), refusal);
                }
            }
            Request::Open => {
                if is_end {
                    stream.request = Request::Ended;
                }
                let outcome = match stream.is_unary {
                    true => self.on_unary(slot, content, is_end, turn, handler),
                    false => self.on_messages(slot, content, is_end, turn, handler),
                };
                if let Err(status) = outcome {
                    self.fail(slot, status, handler);
                }
            }
            Request::Ended => (),
        }
        Ok(())
    }

    fn fail(&mut self, slot: Slot, status: Status, handler: &mut impl Handler) {
        let (id, waiting) = {
            let stream = &mut self.sending.streams[slot];
            (stream.id, std::mem::take(&mut stream.waiting))
        };
        if waiting > 0 {
            handler.gone(StreamId(id));
        }
        self.sending.fail(id, Some(slot), status);
    }

    /// Collects the message of a unary call, and calls at its end.
    fn on_unary(
        &mut self,
        slot: Slot,
        content: &[u8],
        is_end: bool,
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<(), Status> {
        if is_end
            && self.sending.streams[slot].message.is_empty()
            && !self.sending.is_holding_much()
            && let Some(message) = self.whole(content)
        {
            self.hand_over(slot, message, turn, handler);
            return Ok(());
        }
        let rest = self.collect(slot, content)?;
        if !rest.is_empty() {
            return Err(not_one());
        }
        if !is_end {
            return Ok(());
        }
        let stream = &self.sending.streams[slot];
        match grpc::read_prefix(&stream.message) {
            Some((_, len)) if len == stream.message.len() - PREFIX_BYTES => (),
            None if stream.message.is_empty() => return Err(not_one()),
            _ => return Err(cut_off()),
        }
        if self.sending.is_holding_much() {
            self.deferred.push_back(stream.id);
        } else {
            self.call(slot, turn, handler);
        }
        Ok(())
    }

    /// Calls for each message of a stream of them.
    fn on_messages(
        &mut self,
        slot: Slot,
        mut content: &[u8],
        is_end: bool,
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Result<(), Status> {
        let id = self.sending.streams[slot].id;
        let mut calls = 0;
        while !content.is_empty() && matches!(self.sending.streams[slot].end, End::Open) {
            content = self.collect(slot, content)?;
            let stream = &self.sending.streams[slot];
            match grpc::read_prefix(&stream.message) {
                Some((_, len)) if len == stream.message.len() - PREFIX_BYTES => (),
                _ => break,
            }
            if self.sending.is_holding_much() || stream.waiting >= WAITING_MAX {
                let message = "too many requests of this stream wait for their answers to be read";
                return Err(Status::new(Code::RESOURCE_EXHAUSTED, message));
            }
            calls += 1;
            if calls > MESSAGES_A_PIECE_MAX {
                let message =
                    "too many requests at once: send the next ones when these are answered";
                return Err(Status::new(Code::RESOURCE_EXHAUSTED, message));
            }
            self.call(slot, turn, handler);
            if self.sending.streams.find(id) != Some(slot) {
                return Ok(()); // the handler has ended it
            }
            self.sending.streams[slot].since = turn.now;
        }
        if is_end {
            let stream = &self.sending.streams[slot];
            if !stream.message.is_empty() && matches!(stream.end, End::Open) {
                return Err(cut_off());
            }
            self.sending.end_if_done(slot);
        }
        Ok(())
    }

    /// The message, if it has come in one piece: nothing is kept of it then.
    fn whole<'a>(&self, content: &'a [u8]) -> Option<&'a [u8]> {
        let (0, len) = grpc::read_prefix(content)? else {
            return None;
        };
        let message = &content[PREFIX_BYTES..];
        (message.len() == len && len <= self.limits.message_bytes).then_some(message)
    }

    /// Adds what belongs to the message that is coming, and returns the rest.
    fn collect<'a>(&mut self, slot: Slot, content: &'a [u8]) -> Result<&'a [u8], Status> {
        let stream = &mut self.sending.streams[slot];
        let missing = PREFIX_BYTES.saturating_sub(stream.message.len());
        let (prefix, content) = content.split_at(missing.min(content.len()));
        stream.message.extend_from_slice(prefix);
        self.sending.collected_bytes += prefix.len();
        let Some((flag, len)) = grpc::read_prefix(&self.sending.streams[slot].message) else {
            return Ok(content);
        };
        if missing > 0 {
            self.judge(flag, len)?;
            self.sending.reserved_bytes += len;
            self.sending.streams[slot].reserved_bytes = len;
        }
        let stream = &mut self.sending.streams[slot];
        let missing = PREFIX_BYTES + len - stream.message.len();
        let (part, rest) = content.split_at(missing.min(content.len()));
        stream.message.extend_from_slice(part);
        self.sending.collected_bytes += part.len();
        Ok(rest)
    }

    /// Whether a message that begins so is taken.
    fn judge(&self, flag: u8, len: usize) -> Result<(), Status> {
        match flag {
            0 => (),
            1 => {
                let message = "a message is marked as compressed, and the call names no encoding";
                return Err(Status::new(Code::INTERNAL, message));
            }
            _ => {
                return Err(Status::new(
                    Code::INTERNAL,
                    "a message has flags that do not exist",
                ));
            }
        }
        let (limit, reserved) = (self.limits.message_bytes, self.sending.reserved_bytes);
        if len > limit {
            self.counts.add(Abuse::MessageBytes);
            let message = format!("the request has {len} bytes, at most {limit} are taken");
            return Err(Status::new(Code::RESOURCE_EXHAUSTED, message));
        }
        if reserved > 0 && reserved + len > self.limits.assembling_bytes {
            self.counts.add(Abuse::MessageBytes);
            let message = "too many large requests of this connection are on their way: send them one after the other";
            return Err(Status::new(Code::RESOURCE_EXHAUSTED, message));
        }
        Ok(())
    }

    /// Calls the handler with the message that a stream has collected.
    fn call(&mut self, slot: Slot, turn: &mut Turn, handler: &mut impl Handler) {
        let stream = &mut self.sending.streams[slot];
        let collected = std::mem::take(&mut stream.message);
        self.sending.collected_bytes -= collected.len();
        self.sending.reserved_bytes -= std::mem::take(&mut stream.reserved_bytes);
        self.hand_over(slot, &collected[PREFIX_BYTES..], turn, handler);
    }

    fn hand_over(
        &mut self,
        slot: Slot,
        message: &[u8],
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) {
        let stream = &self.sending.streams[slot];
        let message = Message {
            method: stream.method,
            deadline: stream.deadline,
            message,
        };
        let id = stream.id;
        turn.take_call(message.message.len());
        handler.call(message, Reply::new(&mut self.sending, id, Some(slot)));
    }

    /// Calls for requests that had to wait, if there is room now. Says what those wait for that are left.
    pub(in super::super) fn call_deferred(
        &mut self,
        turn: &mut Turn,
        handler: &mut impl Handler,
    ) -> Option<Progress> {
        while let Some(&id) = self.deferred.front() {
            if self.sending.is_holding_much() {
                // The client's WINDOW_UPDATE comes by itself; what is written must be asked for.
                return (!self.sending.waits_for_window()).then_some(Progress::Blocked);
            }
            if turn.calls_left == 0 {
                return Some(Progress::More);
            }
            self.deferred.pop_front();
            if let Some(slot) = self.sending.streams.find(id) {
                self.call(slot, turn, handler);
                self.timing.moved_bytes += self.sending.pump();
            }
        }
        None
    }
}

/// What the specification calls a violation of the cardinality.
pub(super) fn not_one() -> Status {
    Status::new(
        Code::UNIMPLEMENTED,
        "a unary call has one message, no more and no less",
    )
}

fn cut_off() -> Status {
    Status::new(Code::INTERNAL, "the request ends amid a message")
}
