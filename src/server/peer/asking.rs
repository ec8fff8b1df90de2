//! The asking side of a link: what it has to say to the other node, and what becomes of what comes.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::super::service::UNARY_LIMIT_BYTES;
use super::calls::{ENDS_HERE, End, Opening, Talk};
use super::wire::{self, Answer, HELLO_IN_ASK, Hello, MAJOR, MINOR, Outcome, Question};
use super::{Forward, Peer, Peers};
use crate::cluster::Epoch;
use crate::cluster::link::{Link, Next};
use crate::counted;
use crate::http2::Code;

const PATH: &str = "/corecache.peer.v1.Peer/Link";
/// A message of questions has so many bytes, or one question: so short that the other node answers the first of them while
/// the rest are on their way.
const MESSAGE_BYTES: usize = 4 << 10;
/// What the question that comes last takes at the most, with what a message has beside its questions.
const REST_BYTES: usize = 5 << 10;

/// Opens a stream of a node's link of that number.
pub(super) fn open(peers: &Arc<Peers>, peer: &Arc<Peer>, number: usize, stream: u64) {
    let asking = Asking {
        peers: peers.clone(),
        peer: peer.clone(),
        link: peer.links[number].clone(),
        stream,
        message_bytes: MESSAGE_BYTES,
        has_greeted: false,
        is_greeted: false,
    };
    let thread = Some(peer.thread_of(number, peers.calls.threads()));
    let calls = &peers.calls;
    let opening = Opening {
        path: PATH,
        request: None,
        message_max_bytes: UNARY_LIMIT_BYTES,
    };
    calls.open(&peer.address, thread, opening, Box::new(asking));
}

struct Asking {
    peers: Arc<Peers>,
    peer: Arc<Peer>,
    link: Arc<Link<Forward>>,
    stream: u64,
    message_bytes: usize,
    /// Whether this node has said hello, and whether the other one has.
    has_greeted: bool,
    is_greeted: bool,
}

impl Talk for Asking {
    /// What has queued up, as one message of questions that were asked by one ring.
    fn next(&mut self, waker: &Waker, can_send: bool) -> Next<Vec<u8>> {
        if !self.has_greeted && can_send {
            self.has_greeted = true;
            return Next::Send(self.hello());
        }
        let (peers, message_bytes) = (&self.peers, self.message_bytes);
        let can_send = can_send && self.has_greeted;
        self.link.next(self.stream, waker, can_send, |sending| {
            let now = Instant::now();
            let ping = u64::from(sending.ping);
            let mut message = Vec::with_capacity(1024);
            let mut epoch: Option<Epoch> = None;
            let mut group: Option<crate::group::Group> = None;
            sending.questions(|id, forward, until| {
                let theirs = forward.epoch();
                if *epoch.get_or_insert(theirs) != theirs || message.len() >= message_bytes {
                    return false;
                }
                let load = &forward.load;
                let question = Question {
                    id,
                    group: load.group().name().as_bytes(),
                    key: load.key(),
                    left_ms: wire::left_ms(until.saturating_duration_since(now)),
                    hops: 1,
                    peek: forward.is_peek(),
                };
                let before = group
                    .as_ref()
                    .map_or(&b""[..], |group| group.name().as_bytes());
                question.put(before, &mut message);
                if before != question.group {
                    group = Some(load.group().clone());
                }
                true
            });
            wire::put_news(&mut message, epoch.unwrap_or_else(|| peers.epoch()), ping);
            message
        })
    }

    /// Takes a message of answers.
    fn take(&mut self, message: &[u8]) -> Result<(), String> {
        let answer = Answer::parse(message).map_err(|error| error.to_string())?;
        self.take_greeting(&answer)?;
        let taken = self.link.heard(self.stream, answer.epoch, |waiting| {
            let mut taken = Vec::with_capacity(answer.replies.len());
            for reply in &answer.replies {
                match reply.result {
                    Outcome::Loading => waiting.loading(reply.id),
                    _ => taken.extend(waiting.take(reply.id).map(|asked| (asked, &reply.result))),
                }
            }
            taken
        });
        let (mut good, mut garbage) = (0, 0);
        for (forward, result) in taken.into_iter().flatten() {
            match self.peers.answered(&self.peer, forward, result) {
                true => good += 1,
                false => garbage += 1,
            }
        }
        if garbage > 0 {
            let address = &self.peer.address;
            log::warn!(
                "link to {address}: of a message {} not what was asked for",
                counted(garbage, "answer is", "answers are")
            );
        }
        for forward in self.link.judge(self.stream, good, garbage) {
            self.peers.go_on(forward);
        }
        Ok(())
    }

    fn end(self: Box<Self>, end: End) {
        match end {
            End::Status(status) if status.code == Code::OK => self.peer.note_leaving(),
            End::Status(status) => self.peer.note(&status.to_string()),
            End::Broken(why) if why == ENDS_HERE => {}
            End::Broken(why) => self.peer.note(&why),
        }
        for forward in self.link.ended(self.stream) {
            self.peers.go_on(forward);
        }
    }
}

impl Asking {
    fn hello(&self) -> Vec<u8> {
        let mut message = Vec::new();
        let own = Hello {
            major: MAJOR,
            minor: MINOR,
            address: self.peers.own_address().as_bytes(),
            message_max_bytes: UNARY_LIMIT_BYTES as u64,
        };
        own.put(HELLO_IN_ASK, &mut message);
        wire::put_news(&mut message, self.peers.epoch(), 0);
        message
    }

    fn take_greeting(&mut self, answer: &Answer<'_>) -> Result<(), String> {
        if let Some(hello) = &answer.hello {
            if let Some(words) = hello.refusal() {
                return Err(words);
            }
            let theirs = usize::try_from(hello.message_max_bytes).unwrap_or(usize::MAX);
            self.message_bytes = theirs.saturating_sub(REST_BYTES).clamp(1, MESSAGE_BYTES);
        }
        if !self.is_greeted {
            if answer.hello.is_none() {
                let why = "its first message does not say hello: it is no node, or a broken one";
                return Err(why.to_owned());
            }
            self.is_greeted = true;
            self.peer.note_open();
            self.link.greeted(self.stream);
        }
        Ok(())
    }
}
