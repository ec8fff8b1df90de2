//! Answers on their way out: the calls that are open, the client's windows, and whose turn it is.

mod pacing;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::call::{Answer, Body, StreamId};
use super::frame::{self, ErrorCode, FRAME_MAX_BYTES, HEADER_BYTES, WINDOW_BYTES};
use super::grpc::PREFIX_BYTES;
use super::head::Refusal;
use super::limits::Limits;
use super::output::{COPY_MAX_BYTES, Output};
use super::replies::Replies;
use super::status::{Code, Status};
use super::stream::{End, Part, Stream};
use super::streams::{Slot, Streams};
pub(super) use pacing::Overflow;

/// An answer that has come later and is larger is not copied.
const COPY_LATE_MAX_BYTES: usize = 16 << 10;
/// As many bytes of answers entitle to as much as a call.
const WORTH_A_CALL_BYTES: u64 = 1024;
/// How much more may wait of what is kept elsewhere as well than of what is kept for the client alone.
pub(super) const ELSEWHERE_TIMES: usize = 4;
/// Streams that we have ended before the client did, which are remembered as such.
const LEFT_MAX: usize = 128;

pub(super) struct Sending {
    pub limits: Arc<Limits>,
    pub out: Output,
    pub replies: Replies,
    pub streams: Streams,
    /// What the client takes on the connection.
    window: i64,
    /// What it takes on a new stream.
    initial_window: i64,
    frame_max_bytes: usize,
    /// Streams that have something to send, and a window for it. Numbers of streams that have gone may be among them.
    ready: VecDeque<u32>,
    /// Bodies in the queues of streams.
    pub held_bytes: usize,
    /// What is set aside for messages that are coming.
    pub reserved_bytes: usize,
    /// Of these, what is not kept elsewhere as well.
    copied_bytes: usize,
    /// What has come of messages that are not whole, or not passed on.
    pub collected_bytes: usize,
    /// Calls that have come, those that were answered, and the bytes of their answers.
    pub begun: u64,
    pub answered: u64,
    sent_bytes: u64,
    left: VecDeque<u32>,
    /// Something had to wait for its turn.
    #[cfg(any(test, fuzzing))]
    pub has_queued: bool,
    /// When the last bytes came.
    pub now: Instant,
}

impl Sending {
    pub fn new(limits: Arc<Limits>, now: Instant) -> Self {
        Self {
            limits,
            out: Output::default(),
            replies: Replies::new(),
            streams: Streams::default(),
            window: WINDOW_BYTES.into(),
            initial_window: WINDOW_BYTES.into(),
            frame_max_bytes: FRAME_MAX_BYTES as usize,
            ready: VecDeque::new(),
            held_bytes: 0,
            reserved_bytes: 0,
            copied_bytes: 0,
            collected_bytes: 0,
            begun: 0,
            answered: 0,
            sent_bytes: 0,
            left: VecDeque::new(),
            #[cfg(any(test, fuzzing))]
            has_queued: false,
            now,
        }
    }

    /// What has been done for the client, in calls: how often it may do what it needs for them.
    pub fn work(&self) -> u64 {
        self.begun + self.answered + self.sent_bytes / WORTH_A_CALL_BYTES
    }

    /// What is on the heap for this connection's calls and answers.
    pub fn memory_bytes(&self) -> usize {
        let streams = self.streams.len() * size_of::<Stream>();
        self.out.capacity() + self.copied_bytes + self.collected_bytes + streams
    }

    pub fn initial_window(&self) -> i64 {
        self.initial_window
    }

    /// No more is to be read until the client has taken some.
    pub fn is_full(&self) -> bool {
        self.out.len() > self.limits.out_bytes_max
    }

    /// So much waits for the client's windows that no more calls are begun.
    pub fn is_holding_much(&self) -> bool {
        self.held_bytes > self.limits.held_bytes_max / 4
    }

    /// Answers that come later are refused. What is kept elsewhere as well has more room: a client may have asked for
    /// much before any of it has come.
    pub fn holds_too_much(&self) -> bool {
        let most_bytes = self.limits.held_bytes_max;
        self.copied_bytes > most_bytes || self.held_bytes > ELSEWHERE_TIMES * most_bytes
    }

    /// Only the client's windows keep back what is held.
    pub fn waits_for_window(&self) -> bool {
        self.window <= 0 || self.ready.is_empty()
    }

    /// Whether the client leaves something that it could take.
    pub fn has_backlog(&self) -> bool {
        self.backlog_bytes() > 0
    }

    pub fn backlog_bytes(&self) -> usize {
        self.out.len() + self.held_bytes
    }

    /// Answers a call with the message that `put` appends.
    pub fn message(&mut self, id: u32, slot: Option<Slot>, put: impl FnOnce(&mut Vec<u8>)) {
        let window = match slot {
            None => self.initial_window,
            Some(slot) => {
                let stream = &self.streams[slot];
                if !stream.is_unary || !stream.is_unanswered() || !stream.has_ended() {
                    let mut message = Vec::new();
                    put(&mut message);
                    return self.enqueue(id, Some(slot), Part::copied(message), false);
                }
                stream.send_window
            }
        };
        let at = self.replies.open(&mut self.out.bytes, id);
        let body_at = at + HEADER_BYTES + PREFIX_BYTES;
        put(&mut self.out.bytes);
        let len = self.out.bytes.len() - body_at;
        let data = PREFIX_BYTES + len;
        if data as i64 > window.min(self.window)
            || data > self.frame_max_bytes
            || !self.ready.is_empty()
        {
            let body = self.out.bytes.split_off(body_at);
            self.out.bytes.truncate(at);
            return self.enqueue(id, slot, Part::copied(body), true);
        }
        Replies::close(&mut self.out.bytes, at, len);
        self.replies.put_trailers(&mut self.out.bytes, id);
        self.window -= data as i64;
        self.answered += 1;
        self.sent_bytes += data as u64;
        if let Some(slot) = slot {
            self.remove(slot);
        }
    }

    /// Answers a call with a message that is kept elsewhere, unless it is so short that a copy costs less.
    pub fn held(&mut self, id: u32, slot: Option<Slot>, body: Body) {
        let bytes = body.as_ref().as_ref();
        if bytes.len() <= COPY_MAX_BYTES {
            self.message(id, slot, |out| out.extend_from_slice(bytes));
        } else {
            self.enqueue(id, slot, Part::held(body), false);
        }
    }

    fn enqueue(&mut self, id: u32, slot: Option<Slot>, part: Part, has_headers: bool) {
        let slot = slot.unwrap_or_else(|| {
            let stream = Stream::of_whole_request(id, self.initial_window, self.now);
            self.streams.insert(stream)
        });
        let stream = &mut self.streams[slot];
        stream.has_headers |= has_headers;
        if !stream.has_headers {
            self.replies.put_headers(&mut self.out.bytes, id);
            stream.has_headers = true;
        }
        self.answered += 1;
        self.held_bytes += part.body_bytes();
        self.copied_bytes += part.copied_bytes();
        stream.queue.push_back(part);
        if stream.is_unary {
            stream.end = End::Status(Status::new(Code::OK, ""));
        }
        self.make_ready(slot);
    }

    /// Ends a call without an answer, or after what it has got.
    pub fn fail(&mut self, id: u32, slot: Option<Slot>, status: Status) {
        let has_headers = match slot {
            None => false,
            Some(slot) => {
                let stream = &mut self.streams[slot];
                if !stream.queue.is_empty() {
                    stream.end = End::Status(status);
                    return;
                }
                stream.has_headers
            }
        };
        self.replies
            .put_status(&mut self.out.bytes, id, has_headers, &status);
        self.answered += 1;
        if let Some(slot) = slot {
            self.finish(slot);
        }
    }

    /// Ends a call, most of whose request may still be on its way, before it has got a place.
    pub fn fail_early(&mut self, id: u32, status: Status) {
        self.fail(id, None, status);
        frame::put_reset(&mut self.out.bytes, id, ErrorCode::NO_ERROR);
        self.leave(id);
    }

    /// Answers as HTTP does to what is no call.
    pub fn refuse(&mut self, id: u32, slot: Option<Slot>, refusal: Refusal) {
        let slot = slot.unwrap_or_else(|| {
            let stream = Stream::of_whole_request(id, self.initial_window, self.now);
            self.streams.insert(stream)
        });
        let content = refusal.has_body.then_some(refusal.text.len());
        self.replies
            .put_refusal(&mut self.out.bytes, id, refusal.status, content);
        if content.is_none() {
            return self.finish(slot);
        }
        let stream = &mut self.streams[slot];
        stream.has_headers = true;
        stream.end = End::Data;
        let part = Part::text(refusal.text);
        self.held_bytes += part.body_bytes();
        stream.queue.push_back(part);
        self.make_ready(slot);
    }

    /// The answer will come later.
    pub fn later(&mut self, id: u32, slot: Option<Slot>) {
        let slot = slot.unwrap_or_else(|| {
            let stream = Stream::of_whole_request(id, self.initial_window, self.now);
            self.streams.insert(stream)
        });
        self.streams[slot].waiting += 1;
    }

    /// An answer that was put off. Says no if nobody waits for it.
    pub fn answer_late(&mut self, id: StreamId, answer: Answer) -> bool {
        let Some(slot) = self.streams.find(id.0) else {
            return false;
        };
        let stream = &mut self.streams[slot];
        if stream.waiting == 0 || !matches!(stream.end, End::Open) {
            return false;
        }
        stream.waiting -= 1;
        let is_unary = stream.is_unary;
        self.answer(id.0, Some(slot), answer);
        if !is_unary && self.streams.find(id.0) == Some(slot) {
            self.end_if_done(slot);
        }
        true
    }

    fn answer(&mut self, id: u32, slot: Option<Slot>, answer: Answer) {
        match answer {
            Answer::Failed(status) => self.fail(id, slot, status),
            _ if self.holds_too_much() => {
                let message = "too many replies of this connection wait to be read";
                self.fail(id, slot, Status::new(Code::RESOURCE_EXHAUSTED, message));
            }
            Answer::Message(message) if message.len() <= COPY_LATE_MAX_BYTES => {
                self.message(id, slot, |out| out.extend_from_slice(&message));
            }
            Answer::Message(message) => self.enqueue(id, slot, Part::copied(message), false),
            Answer::Held(body) => self.held(id, slot, body),
        }
    }

    /// Ends a stream of messages, if the client has ended its side and has all answers.
    pub fn end_if_done(&mut self, slot: Slot) {
        let stream = &mut self.streams[slot];
        if !stream.has_ended() || stream.waiting > 0 || !matches!(stream.end, End::Open) {
            return;
        }
        let id = stream.id;
        if !stream.has_headers {
            self.replies.put_headers(&mut self.out.bytes, id);
            stream.has_headers = true;
        }
        self.fail(id, Some(slot), Status::new(Code::OK, ""));
    }

    /// We have said all. What the client still has to say does not matter any more.
    fn finish(&mut self, slot: Slot) {
        let stream = self.remove(slot);
        if !stream.has_ended() {
            frame::put_reset(&mut self.out.bytes, stream.id, ErrorCode::NO_ERROR);
            self.leave(stream.id);
        }
    }

    /// Resets a stream, whether it has a place or not. Returns what has lost its answer.
    pub fn reset(&mut self, id: u32, code: ErrorCode) -> Option<Stream> {
        frame::put_reset(&mut self.out.bytes, id, code);
        self.leave(id);
        let slot = self.streams.find(id)?;
        Some(self.remove(slot))
    }

    pub fn remove(&mut self, slot: Slot) -> Stream {
        let stream = self.streams.remove(slot);
        if stream.is_ready {
            self.ready.retain(|ready| *ready != stream.id);
        }
        self.held_bytes -= stream.queued_bytes();
        self.copied_bytes -= stream.copied_bytes();
        self.collected_bytes -= stream.message.len();
        self.reserved_bytes -= stream.reserved_bytes;
        stream
    }

    fn leave(&mut self, id: u32) {
        if self.left.len() == LEFT_MAX {
            self.left.pop_front();
        }
        self.left.push_back(id);
    }

    /// We have ended this stream, and the client may not have known.
    pub fn has_left(&self, id: u32) -> bool {
        self.left.contains(&id)
    }

    /// Gives back what is only kept to be used again.
    pub fn shrink(&mut self) {
        self.out.shrink();
        self.streams.shrink();
        if self.ready.is_empty() {
            self.ready = VecDeque::new();
        }
    }

    /// Panics unless all accounts are right.
    #[cfg(any(test, fuzzing))]
    pub fn validate(&self) {
        let streams = || self.streams.slots().map(|slot| &self.streams[slot]);
        assert_eq!(
            self.held_bytes,
            streams().map(Stream::queued_bytes).sum::<usize>()
        );
        assert_eq!(
            self.reserved_bytes,
            streams().map(|stream| stream.reserved_bytes).sum::<usize>()
        );
        for stream in streams() {
            let is_ready = self.ready.contains(&stream.id);
            assert_eq!(is_ready, stream.is_ready, "stream {}", stream.id);
            // One whose window was made smaller finds out in its turn.
            let has_queue = !stream.queue.is_empty();
            assert!(
                is_ready || !has_queue || stream.send_window <= 0,
                "stream {}",
                stream.id
            );
            assert!(has_queue || !is_ready, "stream {}", stream.id);
            assert!(stream.message.len() <= PREFIX_BYTES + stream.reserved_bytes);
        }
        assert!(self.ready.len() <= self.streams.len());
        assert!(self.streams.len() <= self.limits.streams_max as usize);
        assert!(self.left.len() <= LEFT_MAX);
    }
}
