//! One client's connection.

use std::sync::Arc;
use std::time::Instant;

use super::abuse::{Abuse, Counts};
use super::call::{Answer, Handler, StreamId};
use super::limits::Limits;

/// The connection is at its end: what is to be written says so to the client; write it, then close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (HTTP/2 error {code})")]
pub(crate) struct Closing {
    /// The error code of RFC 9113, as it is in the GOAWAY.
    pub code: u32,
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
    sending: Sending,
}

impl Connection {
    /// A connection that was just accepted. Our SETTINGS are there to be written at once.
    pub fn new(limits: Arc<Limits>, counts: Arc<Counts>, now: Instant) -> Self {
        let _ = (limits, counts, now);
        Self {
            sending: Sending {},
        }
    }

    /// Takes bytes that were read, and gives each request that is whole to the handler, at most `calls_max` of them.
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
        let _ = (bytes, now, calls_max, handler);
        Ok(Progress::All)
    }

    /// Whether there is room for more bytes: nothing is kept for lack of turns, and the client reads its replies.
    pub fn wants_read(&self) -> bool {
        true
    }

    /// What is to be written, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::empty()
    }

    /// Whether there is something to be written.
    pub fn wants_write(&self) -> bool {
        self.pieces().next().is_some()
    }

    /// So many bytes of the pieces were written. There may be new ones then: replies are cut into frames as there is room.
    pub fn written(&mut self, len_bytes: usize, now: Instant) {
        let _ = (len_bytes, now);
    }

    /// The answer to a call whose [`Reply`](super::Reply) was put off. Says no if nobody waits for it.
    pub fn answer(&mut self, stream: StreamId, answer: Answer) -> bool {
        self.sending.answer(stream, answer);
        true
    }

    /// Says to the client that it should go elsewhere; its open calls are still answered.
    pub fn shut_down(&mut self, now: Instant) {
        let _ = now;
    }

    /// The connection has been shut down, all calls are answered and all is written: close it.
    pub fn is_finished(&self) -> bool {
        false
    }

    /// Calls that are not answered, or whose reply is not written to its end.
    pub fn open_streams(&self) -> usize {
        0
    }

    /// When to call [`tick`](Self::tick) next, if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Looks at what is overdue: handshake, acknowledgement, idle time, readers and writers that have stalled.
    pub fn tick(&mut self, now: Instant, handler: &mut impl Handler) -> Result<(), Closing> {
        let _ = (now, handler);
        Ok(())
    }

    /// The socket is gone: tells the handler of all calls that nobody waits for any more.
    pub fn end(&mut self, handler: &mut impl Handler) {
        let _ = handler;
    }
}

/// What is needed to answer.
pub(super) struct Sending {}

impl Sending {
    pub fn message(&mut self, stream: StreamId, put: impl FnOnce(&mut Vec<u8>)) {
        let _ = (stream, put);
    }

    pub fn answer(&mut self, stream: StreamId, answer: Answer) {
        let _ = (stream, answer);
    }

    pub fn later(&mut self, stream: StreamId) {
        let _ = stream;
    }
}
