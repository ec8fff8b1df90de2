//! The answering side of a link: near to [`Fetch`](super::super::fetch::Fetch), with keys of all groups, each with its
//! time. What is held is encoded right away into the one reply that is being put together; what is missed is loaded
//! here, and said to be loading; what loaders bring waits in [`Arrivals`].

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::super::arriving::{Arrivals, Reply};
use super::super::outgoing::Encoded;
use super::super::service::{
    Code, KEYS_MAX, Miss, Served, Service, Status, UNARY_LIMIT_BYTES, check_keys,
};
use super::super::wire::Label;
use super::wire::{
    self, Ask, BESIDE_BYTES, HELLO_IN_ANSWER, Hello, MAJOR, MINOR, NOTE_MAX_BYTES, Question,
    Refusal,
};
use crate::cluster::Epoch;
use crate::engine::Lent;
use crate::group::{GetError, Group, Value, chunks};

/// Keys of one stream that may be without an answer. From there on no message is read.
const UNANSWERED_MAX: usize = KEYS_MAX;
/// The epoch, with its tag.
const EPOCH_BYTES: usize = 9;
/// What is said of one key.
const MESSAGE_MAX_BYTES: usize = 2048;
/// The largest frame that a link carries.
const FRAME_MAX_BYTES: usize = UNARY_LIMIT_BYTES - 2 * BESIDE_BYTES;

/// One stream, as the thread sees it that polls it.
pub(in super::super) struct Answering {
    service: Arc<Service>,
    message_max_bytes: usize,
    reply: Reply,
    /// Questions that the reply had no room for. They have not been looked up yet.
    held_back: VecDeque<Kept>,
    arrivals: Arc<Arrivals<Arrival>>,
    /// Taken from `arrivals`, but not put into a reply yet.
    arrived: VecDeque<Arrival>,
    /// Keys that are being loaded, or whose outcome is not in a reply yet.
    loading: usize,
    has_greeted: bool,
}

/// A question that outlives its message.
struct Kept {
    id: u64,
    group: Box<[u8]>,
    key: Box<[u8]>,
    until: Instant,
    hops: u64,
    peek: bool,
    epoch: Epoch,
}

struct Arrival {
    id: u64,
    key: Box<[u8]>,
    outcome: Result<Value, Status>,
    lives_ms: u64,
}

/// What holds for the questions of a message.
#[derive(Clone, Copy)]
struct Terms {
    now: Instant,
    /// The ring by which they were asked.
    theirs: Epoch,
}

impl Answering {
    /// For a stream whose messages may have so many bytes.
    pub fn new(service: &Arc<Service>, message_max_bytes: usize) -> Self {
        Self {
            service: service.clone(),
            message_max_bytes,
            reply: Reply::new(
                &service.outgoing,
                UNARY_LIMIT_BYTES - BESIDE_BYTES,
                MESSAGE_MAX_BYTES,
            ),
            held_back: VecDeque::new(),
            arrivals: Arc::default(),
            arrived: VecDeque::new(),
            loading: 0,
            has_greeted: false,
        }
    }

    /// The last reply has been taken, or has not been yet. Ready when that has been so for too long: then the call is to end.
    pub fn poll_taken(&mut self, is_taken: bool, cx: &mut Context<'_>) -> Poll<()> {
        self.reply.poll_taken(is_taken, &self.service, cx)
    }

    /// Whether another message may be read.
    pub fn wants_requests(&self) -> bool {
        self.held_back.is_empty() && self.reply.wants_more() && self.loading < UNANSWERED_MAX
    }

    /// Whether all that was asked has been answered, and the answers taken.
    pub fn is_done(&self) -> bool {
        self.reply.is_empty() && self.held_back.is_empty() && self.loading == 0
    }

    /// Takes an encoded `Ask`, when one is wanted. An error ends the call.
    pub fn ask(&mut self, message: &[u8]) -> Result<(), Status> {
        let ask = Ask::parse(message)?;
        check_keys(ask.questions.len(), "message")?;
        self.greet(ask.hello.as_ref())?;
        if ask.ping != 0 {
            wire::put_ping(self.reply.bytes(BESIDE_BYTES), ask.ping);
        }
        let terms = Terms {
            now: Instant::now(),
            theirs: ask.epoch,
        };
        let seen = self.answer(&ask.questions, terms);
        let rest = ask.questions[seen..].iter().map(|question| Kept {
            id: question.id,
            group: question.group.into(),
            key: question.key.into(),
            until: terms.now + Duration::from_millis(question.left_ms),
            hops: question.hops,
            peek: question.peek,
            epoch: terms.theirs,
        });
        self.held_back.extend(rest);
        Ok(())
    }

    /// The first message says who asks, and is answered likewise.
    fn greet(&mut self, hello: Option<&Hello<'_>>) -> Result<(), Status> {
        match (hello, self.has_greeted) {
            (None, true) => return Ok(()),
            (Some(hello), false) => {
                if let Some(words) = hello.refusal() {
                    log::warn!("a link was refused: {words}");
                    return Err(Status::new(Code::FailedPrecondition, words));
                }
            }
            _ => {
                let message = "the first message of a link, and no other, says hello";
                return Err(Status::new(Code::InvalidArgument, message));
            }
        }
        self.has_greeted = true;
        let peers = &self.service.peers;
        let own = Hello {
            major: MAJOR,
            minor: MINOR,
            address: peers.own_address().as_bytes(),
            message_max_bytes: self.message_max_bytes as u64,
        };
        own.put(HELLO_IN_ANSWER, self.reply.bytes(BESIDE_BYTES));
        Ok(())
    }

    /// Sees to what was held back, and to what loaders have brought, as far as the reply has room. `cx` is woken when
    /// there is more.
    pub fn gather(&mut self, cx: &Context<'_>) {
        self.answer_held_back();
        if self.loading == 0 {
            return;
        }
        self.arrivals.take(&mut self.arrived, cx.waker());
        while let Some(Arrival {
            id,
            key,
            outcome,
            lives_ms,
        }) = self.arrived.front()
        {
            let terms = KeepTerms {
                lives_ms: *lives_ms,
                rate: 0,
            };
            let frame = outcome.as_ref().map(|value| (&**value.frame(), terms));
            if !put(&mut self.reply, *id, key, frame) {
                break;
            }
            self.loading -= 1;
            self.arrived.pop_front();
        }
    }

    /// An encoded `Answer`, to be sent now. Each says by which ring the node goes.
    pub fn take_reply(&mut self) -> Option<Encoded> {
        if !self.reply.is_empty() {
            let epoch = self.service.peers.epoch();
            wire::put_epoch(self.reply.bytes(EPOCH_BYTES), epoch);
        }
        self.reply.take(&self.service.outgoing)
    }

    fn answer_held_back(&mut self) {
        while self.reply.wants_more() && !self.held_back.is_empty() {
            // One at a time: a message that overflows has large values.
            let Some(kept) = self.held_back.pop_front() else {
                return;
            };
            let terms = Terms {
                now: Instant::now(),
                theirs: kept.epoch,
            };
            let left = kept.until.saturating_duration_since(terms.now);
            let question = Question {
                id: kept.id,
                group: &kept.group,
                key: &kept.key,
                left_ms: wire::left_ms(left),
                hops: kept.hops,
                peek: kept.peek,
            };
            if self.answer(&[question], terms) == 0 {
                self.held_back.push_front(kept);
                return;
            }
        }
    }

    /// Answers questions, or begins to load. Returns how many it has seen to: fewer than all if the reply has no room.
    fn answer(&mut self, questions: &[Question<'_>], terms: Terms) -> usize {
        let service = self.service.clone();
        let mut seen = 0;
        for run in questions.chunk_by(|a, b| (a.group, a.peek) == (b.group, b.peek)) {
            let done = match service.group(run[0].group) {
                Ok(group) => self.answer_of(group, run, terms),
                // Groups are added a node after the other.
                Err(_) => {
                    for question in run {
                        self.refuse(question.id, Refusal::LoadItYourself);
                    }
                    run.len()
                }
            };
            seen += done;
            if done < run.len() {
                break;
            }
        }
        seen
    }

    /// The questions of a run are of one group, and all of them peeks or none.
    fn answer_of(&mut self, group: &Group, run: &[Question<'_>], terms: Terms) -> usize {
        let keys: Vec<&[u8]> = run.iter().map(|question| question.key).collect();
        let is_peek = run[0].peek;
        let mut missed = Vec::new();
        let (reply, top) = (&mut self.reply, self.service.hot.top());
        let answer = |index: usize, held: Result<Option<&Lent>, GetError>| {
            let Question { id, key, .. } = run[index];
            let is_seen_to = match held {
                Ok(Some(lent)) => {
                    reply.expect(lent.value(), keys.len() - index);
                    let lives_ms = group.lives_ms(lent.expiry_ns());
                    let terms = KeepTerms {
                        lives_ms,
                        rate: top.rate(group, key) as u64,
                    };
                    put(reply, id, key, Ok((lent.value(), terms)))
                }
                Ok(None) => {
                    missed.push(index);
                    true
                }
                Err(error) => put(reply, id, key, Err(&error.into())),
            };
            match is_seen_to {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(index),
            }
        };
        let read = match is_peek {
            true => group.peek_frames(&keys, answer),
            false => group.read_frames(&keys, answer),
        };
        for index in missed {
            self.miss(group, &run[index], terms);
        }
        let seen = match read {
            ControlFlow::Continue(()) => run.len(),
            ControlFlow::Break(index) => index,
        };
        if !is_peek {
            for question in &run[..seen] {
                self.service.hot.note(group, question.key);
            }
        }
        seen
    }

    fn miss(&mut self, group: &Group, question: &Question<'_>, terms: Terms) {
        let Question { id, key, .. } = *question;
        if question.peek {
            return self.refuse(id, Refusal::NotHeld);
        }
        let was_passed_on = question.hops > 0;
        if was_passed_on && terms.theirs != self.service.peers.epoch() {
            return self.refuse(id, Refusal::LoadItYourself);
        }
        let until = terms.now + Duration::from_millis(question.left_ms);
        let arrivals = self.arrivals.clone();
        let (owned, of): (Box<[u8]>, _) = (key.into(), group.clone());
        let peers = self.service.peers.clone();
        let answer = move |outcome: Result<Value, Status>| {
            if let Ok(value) = &outcome
                && is_too_large(value.frame())
            {
                peers.keep_at_hand(&of, value.clone());
            }
            let expiry_ns = outcome.as_ref().map(|value| value.frame().expiry_ns());
            arrivals.put(Arrival {
                id,
                key: owned,
                lives_ms: of.lives_ms(expiry_ns.unwrap_or_default()),
                outcome,
            });
        };
        let miss = Miss { group, key };
        let served = match was_passed_on {
            true => self.service.load_here(&miss, Some(until), answer),
            false => {
                self.service.load_any(&miss, Some(until), answer);
                Served::Here
            }
        };
        match served {
            Served::Here => {
                self.loading += 1;
                wire::put_loading(self.reply.bytes(NOTE_MAX_BYTES), id);
            }
            Served::Elsewhere => self.refuse(id, Refusal::LoadItYourself),
        }
    }

    fn refuse(&mut self, id: u64, refusal: Refusal) {
        wire::put_refusal(self.reply.bytes(NOTE_MAX_BYTES), id, refusal);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.arrivals.close();
    }
}

/// Whether it is to be read in parts.
fn is_too_large(frame: &[u8]) -> bool {
    frame.len() > FRAME_MAX_BYTES
}

/// What is said of a value beside it: it tells whether it is kept, and how long.
#[derive(Clone, Copy, Default)]
struct KeepTerms {
    lives_ms: u64,
    rate: u64,
}

/// Puts an answer, a frame with what tells whether it is kept; false if there is no room for it.
fn put(
    reply: &mut Reply,
    id: u64,
    key: &[u8],
    outcome: Result<(&[u8], KeepTerms), &Status>,
) -> bool {
    if !reply.wants_more() {
        return false;
    }
    let label = |checksum, KeepTerms { lives_ms, rate }| Label::Checked {
        id,
        checksum,
        lives_ms,
        rate,
    };
    match outcome {
        Ok((frame, _)) if is_too_large(frame) => {
            let value_bytes = chunks::value_len(frame) as u64;
            wire::put_too_large(reply.bytes(NOTE_MAX_BYTES), id, value_bytes);
            true
        }
        Ok((frame, terms)) => reply.put(label(wire::checksum(key, frame), terms), Ok(frame)),
        Err(status) => reply.put(label(0, KeepTerms::default()), Err(status)),
    }
}
