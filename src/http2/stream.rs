//! A call that is not answered as soon as it is there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::call::Body;
use super::grpc::PREFIX_BYTES;
use super::head::Refusal;
use super::output::Output;
use super::status::Status;
use super::window::ReceiveWindow;

/// What is still to come from the client.
pub(super) enum Request {
    /// Messages.
    Open,
    /// Something that is not looked at; this is the answer, at its end.
    Unread(Refusal),
    /// Nothing.
    Ended,
}

/// What follows the messages that wait to be sent.
pub(super) enum End {
    /// More of them.
    Open,
    /// Nothing: the last DATA frame ends the stream.
    Data,
    /// Trailers.
    Status(Status),
}

pub(super) struct Stream {
    pub id: u32,
    pub request: Request,
    /// The call has one request and one answer.
    pub is_unary: bool,
    pub method: u16,
    /// When the last message began to come, or was to begin.
    pub since: Instant,
    pub deadline: Option<Instant>,
    pub receive_window: ReceiveWindow,
    /// The message that is coming, with its prefix.
    pub message: Vec<u8>,
    /// What was set aside for it in the account of the connection.
    pub reserved_bytes: usize,
    /// What is to come yet by the request's content-length.
    pub content_left: Option<u64>,
    /// Answers that the handler has put off.
    pub waiting: u32,
    pub send_window: i64,
    pub has_headers: bool,
    pub queue: VecDeque<Part>,
    pub end: End,
    /// It is in the queue of streams that can send.
    pub is_ready: bool,
    /// Since when the client leaves no window.
    pub stalled: Option<Instant>,
}

impl Stream {
    /// A unary call whose request has come.
    pub fn of_whole_request(id: u32, send_window: i64, now: Instant) -> Self {
        Self {
            id,
            request: Request::Ended,
            is_unary: true,
            method: 0,
            since: now,
            deadline: None,
            receive_window: ReceiveWindow::new(0),
            message: Vec::new(),
            reserved_bytes: 0,
            content_left: None,
            waiting: 0,
            send_window,
            has_headers: false,
            queue: VecDeque::new(),
            end: End::Open,
            is_ready: false,
            stalled: None,
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.request, Request::Ended)
    }

    /// Nothing of an answer was sent or waits to be sent.
    pub fn is_unanswered(&self) -> bool {
        !self.has_headers && self.queue.is_empty()
    }

    /// What waits to be sent.
    pub fn queued_bytes(&self) -> usize {
        self.queue.iter().map(Part::body_bytes).sum()
    }

    /// Of that, what is not kept elsewhere as well.
    pub fn copied_bytes(&self) -> usize {
        self.queue.iter().map(Part::copied_bytes).sum()
    }
}

/// What a part takes beside its body: its place, and two small allocations.
const PART_BYTES: usize = size_of::<Part>() + 64;

/// A message, or a text, of which some is still to be sent.
pub(super) struct Part {
    prefix: Option<[u8; PREFIX_BYTES]>,
    body: Body,
    at: usize,
    len: usize,
    /// The body is kept for this only.
    is_copy: bool,
}

impl Part {
    /// A message that is kept elsewhere as well.
    pub fn held(body: Body) -> Self {
        let body_bytes = body.as_ref().as_ref().len();
        Self {
            prefix: Some(super::grpc::prefix(body_bytes)),
            body,
            at: 0,
            len: PREFIX_BYTES + body_bytes,
            is_copy: false,
        }
    }

    /// A message that was made for the client.
    pub fn copied(body: Vec<u8>) -> Self {
        Self {
            is_copy: true,
            ..Self::held(Arc::new(body))
        }
    }

    /// No message of gRPC.
    pub fn text(text: &'static str) -> Self {
        Self {
            prefix: None,
            body: Arc::new(text),
            at: 0,
            len: text.len(),
            is_copy: false,
        }
    }

    pub fn copied_bytes(&self) -> usize {
        if self.is_copy { self.body_bytes() } else { 0 }
    }

    pub fn left(&self) -> usize {
        self.len - self.at
    }

    /// What it takes, of which what is not its body counts where there are many.
    pub fn body_bytes(&self) -> usize {
        PART_BYTES + self.body.as_ref().as_ref().len()
    }

    /// Appends the next `len` bytes of it.
    pub fn put(&mut self, len: usize, out: &mut Output) {
        let prefix = self.prefix.as_ref().map_or(&[][..], |prefix| &prefix[..]);
        let (from, to) = (self.at, self.at + len);
        if from < prefix.len() {
            out.bytes
                .extend_from_slice(&prefix[from..to.min(prefix.len())]);
        }
        let in_body = |place: usize| place.saturating_sub(prefix.len());
        if in_body(from) < in_body(to) {
            out.put(&self.body, in_body(from), in_body(to));
        }
        self.at = to;
    }
}
