//! What streams of answers are made of, to clients (`fetch`) and to peers (`peer`): the one reply that is being put
//! together, and what loaders have brought meanwhile.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::many::never_fits;
use super::outgoing::{Encoded, Full, Outgoing};
use super::service::{Service, Status};
use super::stall::Stall;
use super::wire::{self, Head, Label};

/// A reply of so many bytes gets no more answers; it is to leave first.
const REPLY_ENOUGH_BYTES: usize = 256 << 10;

/// The reply that is being put together.
pub(super) struct Reply {
    encoded: Encoded,
    /// For another one that has not been taken yet.
    waits: bool,
    stall: Stall,
    limit_bytes: usize,
    message_max_bytes: usize,
}

impl Reply {
    /// An empty one, for up to `limit_bytes`; what is said of one key is cut at `message_max_bytes`.
    pub fn new(outgoing: &Arc<Outgoing>, limit_bytes: usize, message_max_bytes: usize) -> Self {
        Self {
            encoded: outgoing.stream_reply(),
            waits: false,
            stall: Stall::default(),
            limit_bytes,
            message_max_bytes,
        }
    }

    /// The last one has been taken, or has not been yet. Ready when that has been so for too long: then the call is to end.
    pub fn poll_taken(
        &mut self,
        is_taken: bool,
        service: &Service,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        self.waits = !is_taken;
        if is_taken {
            self.stall.end();
            return Poll::Pending;
        }
        let Service {
            reads, outgoing, ..
        } = service;
        let limit = || outgoing.stall_limit(reads.stall_limit);
        let stalled = self.stall.poll(&reads.stalled, limit, cx);
        if stalled.is_ready() {
            outgoing.note_stalled();
        }
        stalled
    }

    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// What has been put, to be sent now; the next one begins.
    pub fn take(&mut self, outgoing: &Arc<Outgoing>) -> Option<Encoded> {
        if self.is_empty() {
            return None;
        }
        let mut reply = mem::replace(&mut self.encoded, outgoing.stream_reply());
        reply.shrink();
        Some(reply)
    }

    /// What is not to be sent at once takes no more than its share.
    fn reserve(&mut self, bytes: usize) -> Result<(), Full> {
        if self.has_time() {
            self.encoded.reserve_share(bytes)
        } else {
            self.encoded.reserve(bytes)
        }
    }

    /// What there is no room for now may go into another one: this one, or the one before it, is to leave first.
    fn has_time(&self) -> bool {
        self.waits || !self.encoded.is_empty()
    }

    pub fn wants_more(&self) -> bool {
        self.encoded.len() < REPLY_ENOUGH_BYTES
    }

    /// Where something else is written that is short.
    pub fn bytes(&mut self, more_bytes: usize) -> &mut Vec<u8> {
        self.encoded.reserve_anyway(more_bytes);
        self.encoded.bytes()
    }

    /// Takes memory for `keys` such values, as far as one reply goes, if it is to be the first one.
    pub fn expect(&mut self, frame: &[u8], keys: usize) {
        if self.encoded.is_empty() {
            let one = Head::of_value(Label::Id(u64::MAX), frame).with(frame);
            let bytes = one.saturating_mul(keys);
            // If there are too many bytes on their way, the value itself is told so.
            let _ = self.reserve(bytes.min(REPLY_ENOUGH_BYTES));
        }
    }

    /// Puts an answer; false if there is no room for it.
    pub fn put(&mut self, label: Label, outcome: Result<&[u8], &Status>) -> bool {
        if !self.wants_more() {
            return false;
        }
        let frame = match outcome {
            Ok(frame) => frame,
            Err(status) => {
                self.say(label, status);
                return true;
            }
        };
        let head = Head::of_value(label, frame);
        let bytes = head.with(frame);
        if bytes > self.limit_bytes {
            self.say(label, &never_fits(frame));
        } else if self.encoded.len() + bytes > self.limit_bytes {
            return false;
        } else if let Err(full) = self.reserve(bytes) {
            if self.has_time() {
                return false;
            }
            self.say(label, &full.into());
        } else {
            head.put_before(frame, self.encoded.bytes());
        }
        true
    }

    /// Puts a failure, whether there is room or not.
    pub fn say(&mut self, label: Label, Status { code, message }: &Status) {
        let end = (0..=self.message_max_bytes).rfind(|&at| message.is_char_boundary(at));
        let message = &message[..end.unwrap_or(0)];
        self.encoded
            .reserve_anyway(wire::failure_len(label, message));
        wire::put_failure(self.encoded.bytes(), label, *code as i32, message);
    }
}

/// What loaders have brought, and who is to be told.
pub(super) struct Arrivals<A>(Mutex<Landing<A>>);

struct Landing<A> {
    arrived: Vec<A>,
    waker: Option<Waker>,
    closed: bool,
}

impl<A> Default for Arrivals<A> {
    fn default() -> Self {
        Self(Mutex::new(Landing {
            arrived: Vec::new(),
            waker: None,
            closed: false,
        }))
    }
}

impl<A> Arrivals<A> {
    pub fn put(&self, arrival: A) {
        let mut landing = self.0.lock();
        if landing.closed {
            return;
        }
        landing.arrived.push(arrival);
        let waker = landing.waker.take();
        drop(landing);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Moves what has come to `arrived`; if that is nothing, `waker` is told when something comes.
    pub fn take(&self, arrived: &mut VecDeque<A>, waker: &Waker) {
        let mut landing = self.0.lock();
        arrived.extend(landing.arrived.drain(..));
        match &mut landing.waker {
            Some(known) => known.clone_from(waker),
            None => landing.waker = Some(waker.clone()),
        }
    }

    pub fn close(&self) {
        let mut landing = self.0.lock();
        landing.closed = true;
        let arrived = mem::take(&mut landing.arrived);
        drop(landing);
        drop(arrived);
    }
}
