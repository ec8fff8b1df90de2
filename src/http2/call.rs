//! What a connection and those who answer its calls say to each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sending::Sending;
use super::status::{Code, Status};
use super::streams::Slot;

/// The number of a call in its connection. It is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(pub(super) u32);

/// An encoded message that is kept elsewhere, and written from there.
pub(crate) type Body = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// What a path names, and a number for it that the handler chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// One request, one answer.
    Unary(u16),
    /// Any number of requests, each with one answer, in order; the client's end is the end.
    Stream(u16),
}

/// A request that has come as a whole.
pub(crate) struct Request<'a> {
    /// The number that the handler has given to the call's path.
    pub method: u16,
    /// When the caller gives up.
    pub deadline: Option<Instant>,
    /// The encoded message; in the buffer that was read, if it came in one piece.
    pub message: &'a [u8],
}

/// Answers the calls of a connection. It is called in the midst of [`Connection::receive`](super::Connection::receive),
/// so it must not block.
pub(crate) trait Handler {
    /// What is at this path; else how a call of it ends. Asked once in a while and remembered.
    fn method(&mut self, path: &str) -> Result<Method, Status>;

    /// A request to answer.
    fn call(&mut self, request: Request<'_>, reply: Reply<'_>);

    /// Nobody waits for the answer of this stream any more, which was to come later.
    fn gone(&mut self, stream: StreamId);

    /// How long replies may lie untaken as things are, if that is `at_most` where nothing is short.
    fn stall_limit(&self, at_most: Duration) -> Duration {
        at_most
    }
}

/// The place for one answer. Dropped without one, the call ends as INTERNAL.
#[must_use]
pub(crate) struct Reply<'a> {
    sending: &'a mut Sending,
    stream: StreamId,
    /// Where the stream is kept, if it has to be.
    slot: Option<Slot>,
    is_answered: bool,
}

/// An answer that was not there at once.
pub(crate) enum Answer {
    /// An encoded message.
    Message(Vec<u8>),
    /// One that is kept elsewhere.
    Held(Body),
    /// None.
    Failed(Status),
}

impl<'a> Reply<'a> {
    pub(super) fn new(sending: &'a mut Sending, stream: u32, slot: Option<Slot>) -> Self {
        Self {
            sending,
            stream: StreamId(stream),
            slot,
            is_answered: false,
        }
    }

    /// Answers with the encoded message that `put` appends to what is to be written. It must leave alone what is there,
    /// and should not append much more than 16 KiB: that is copied once more. After a panic in it the connection makes no
    /// sense any more, and must be closed.
    pub fn message(mut self, put: impl FnOnce(&mut Vec<u8>)) {
        self.is_answered = true;
        self.sending.message(self.stream.0, self.slot, put);
    }

    /// Answers with an encoded message that is not copied, unless it is short.
    pub fn held(mut self, body: Body) {
        self.is_answered = true;
        self.sending.held(self.stream.0, self.slot, body);
    }

    /// Ends the call without an answer.
    pub fn failed(mut self, status: Status) {
        self.is_answered = true;
        self.sending.fail(self.stream.0, self.slot, status);
    }

    /// The answer will come by [`Connection::answer`](super::Connection::answer), unless [`Handler::gone`] tells that
    /// nobody waits for it any more.
    pub fn later(mut self) -> StreamId {
        self.is_answered = true;
        self.sending.later(self.stream.0, self.slot);
        self.stream
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            let status = Status::new(Code::INTERNAL, "the call was dropped without an answer");
            self.sending.fail(self.stream.0, self.slot, status);
        }
    }
}
