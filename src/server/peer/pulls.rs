//! Large values of other nodes: what is too large for a link is *pulled*, that is read in parts from the node that holds
//! it, over a connection of its own. The load of the key stays parked meanwhile, as it does while it is asked for.
//!
//! A pull begins when there is room for all of the value, in the account of large values that are being loaded (see
//! `engine/charge`). Those that find none wait in their order, and hold nothing. The node that is read from loads nothing
//! for that and waits for nobody, so that no two nodes wait for each other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::calls::{self, Opening, Talk};
use super::wire::{self, Part, Question};
use super::{Aim, Forward, KEEP_ALONE, Peer, Peers};
use crate::group::Room;
use crate::group::error::ErrorKind;
use crate::group::relay::{Incoming, Relayed};
use crate::http2::Code;
use crate::server::service::UNARY_LIMIT_BYTES;

/// Pulls that are under way.
const RUNNING_MAX: usize = 64;
/// Those that wait for room.
const WAITING_MAX: usize = 1024;
/// How long a node may take for the next part although it answers on its links.
const STALL_LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(200);

const PATH: &str = "/corecache.peer.v1.Peer/Read";

/// The pulls of this node.
#[derive(Default)]
pub(super) struct Pulls {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: VecDeque<Wanted>,
}

/// A value that is held by another node.
struct Wanted {
    forward: Forward,
    peer: Arc<Peer>,
    value_bytes: usize,
}

impl Pulls {
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }
}

impl Peers {
    /// Gets a value of so many bytes from the node that has said that it holds it.
    pub(super) fn pull(self: &Arc<Self>, forward: Forward, peer: &Arc<Peer>, value_bytes: u64) {
        let limit_bytes = forward.load.group().entry_limit_bytes();
        let value_bytes = usize::try_from(value_bytes).unwrap_or(usize::MAX);
        // An older node does not say how large it is, and can not be read from.
        if value_bytes == 0 || value_bytes > limit_bytes {
            return self.load_or_peek_on(forward);
        }
        let mut state = self.pulls.state.lock();
        if state.waiting.len() == WAITING_MAX {
            drop(state);
            return forward.load.refuse(format!(
                "{WAITING_MAX} large values of other nodes wait for room beside those that are being loaded; try again later"
            ));
        }
        state.waiting.push_back(Wanted {
            forward,
            peer: peer.clone(),
            value_bytes,
        });
        drop(state);
        self.begin_pulls();
    }

    /// Begins those for which there is room, and gives up those that nobody waits for any more.
    pub(super) fn begin_pulls(self: &Arc<Self>) {
        while let Some((wanted, room)) = self.pulls.next() {
            let running = Running(self.clone());
            match Pulling::new(wanted, room, running) {
                Ok(pulling) => {
                    let address = pulling.peer.address.clone();
                    let opening = Opening {
                        path: PATH,
                        request: Some(pulling.question()),
                        message_max_bytes: UNARY_LIMIT_BYTES,
                    };
                    self.calls.open(&address, None, opening, Box::new(pulling));
                }
                Err(forward) => {
                    let cause = "the system gave no memory for a large value of another node";
                    forward.load.refuse(cause.to_owned());
                }
            }
        }
        for forward in self.pulls.take_unwanted() {
            forward.load.give_up();
        }
    }

    /// It can not be had from that node.
    fn load_or_peek_on(&self, forward: Forward) {
        match forward.is_peek() {
            true => self.go_on(forward),
            false => {
                self.counts.sent_back.fetch_add(1, Ordering::Relaxed);
                let mut load = forward.load;
                load.take_back(Some(KEEP_ALONE));
                self.load_here(load);
            }
        }
    }
}

impl Pulls {
    fn next(&self) -> Option<(Wanted, Room)> {
        let mut state = self.state.lock();
        let first = state
            .waiting
            .front()
            .filter(|_| state.running < RUNNING_MAX)?;
        let room = first.forward.load.room_for(first.value_bytes)?;
        let first = state.waiting.pop_front()?;
        state.running += 1;
        Some((first, room))
    }

    fn take_unwanted(&self) -> Vec<Forward> {
        let mut state = self.state.lock();
        let is_wanted = |wanted: &Wanted| wanted.forward.load.is_wanted();
        if state.waiting.iter().all(is_wanted) {
            return Vec::new();
        }
        let (wanted, unwanted) = state.waiting.drain(..).partition(is_wanted);
        state.waiting = wanted;
        let unwanted: VecDeque<Wanted> = unwanted;
        unwanted.into_iter().map(|wanted| wanted.forward).collect()
    }
}

/// A place among the pulls that are under way.
struct Running(Arc<Peers>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.pulls.state.lock().running -= 1;
    }
}

impl Forward {
    /// What was to be read is not held any more; false if that has been so before.
    fn note_gone(&mut self) -> bool {
        match &mut self.aim {
            Aim::Ranks { was_gone, .. } => !std::mem::replace(was_gone, true),
            Aim::Holders(_) => false,
        }
    }
}

/// How a node has ended a pull.
enum End {
    /// All has been sent.
    Whole,
    /// It does not hold the key any more.
    Gone,
    /// It has too much to do.
    Busy(String),
    /// It could not be reached, was silent, or sent something else.
    Failed(String),
}

impl From<calls::End> for End {
    fn from(end: calls::End) -> Self {
        match end {
            calls::End::Status(status) => match status.code {
                Code::OK => Self::Whole,
                Code::NOT_FOUND => Self::Gone,
                Code::RESOURCE_EXHAUSTED => Self::Busy(status.message.into_owned()),
                _ => Self::Failed(status.to_string()),
            },
            calls::End::Broken(why) => Self::Failed(why),
        }
    }
}

/// A pull that is under way.
struct Pulling {
    forward: Forward,
    peer: Arc<Peer>,
    value_bytes: usize,
    value: Incoming,
    hasher: crc32fast::Hasher,
    /// What the last part said.
    seal: Option<(u32, Option<Duration>)>,
    begun: Instant,
    heard_at: Instant,
    look_at: Instant,
    running: Running,
}

impl Pulling {
    /// The forward comes back if the system has no memory for the value.
    fn new(wanted: Wanted, room: Room, running: Running) -> Result<Self, Forward> {
        let Wanted {
            forward,
            peer,
            value_bytes,
        } = wanted;
        let Ok(value) = forward.load.begin(value_bytes, room) else {
            return Err(forward);
        };
        let now = Instant::now();
        Ok(Self {
            hasher: wire::hasher(forward.load.key()),
            forward,
            peer,
            value_bytes,
            value,
            seal: None,
            begun: now,
            heard_at: now,
            look_at: now + LOOK_EVERY,
            running,
        })
    }

    /// What the node is asked.
    fn question(&self) -> Vec<u8> {
        let load = &self.forward.load;
        let left = load.may_come_until(self.begun);
        let left = left.saturating_duration_since(self.begun);
        let question = Question {
            id: 0,
            group: load.group().name().as_bytes(),
            key: load.key(),
            left_ms: wire::left_ms(left),
            hops: 1,
            peek: true,
        };
        question.alone()
    }

    fn settle(self, end: End) {
        let Self {
            mut forward,
            peer,
            value_bytes,
            value,
            hasher,
            seal,
            begun,
            running,
            ..
        } = self;
        let peers = running.0.clone();
        let end = match (end, seal) {
            (End::Whole, Some((checksum, lives))) if checksum == hasher.finalize() => {
                peers.counts.pulled.fetch_add(1, Ordering::Relaxed);
                let is_hot = || peers.is_known(&forward.load);
                let keep = peers.keep(&forward, value_bytes, lives, is_hot);
                forward.load.fulfil_with(value, keep);
                return;
            }
            (End::Whole, _) => End::Failed("it is not what was asked for".to_owned()),
            (end, _) => end,
        };
        drop((value, running));
        peers.counts.pulls_failed.fetch_add(1, Ordering::Relaxed);
        let address = &peer.address;
        match end {
            _ if Instant::now() >= forward.load.may_come_until(begun) => forward.load.give_up(),
            // It is loaded there once more, and not a third time.
            End::Gone if forward.note_gone() => peers.ask_again(forward),
            End::Gone => peers.load_or_peek_on(forward),
            End::Busy(message) if !forward.is_peek() => forward.load.fail(Relayed {
                kind: ErrorKind::Busy,
                message,
            }),
            End::Busy(why) | End::Failed(why) => {
                log::warn!(
                    "a large value was not read from node {address}: {why}; another way is taken"
                );
                peers.go_on(forward);
            }
            End::Whole => {}
        }
    }
}

impl Talk for Pulling {
    /// Takes an encoded `Part`.
    fn take(&mut self, part: &[u8]) -> Result<(), String> {
        let part = Part::parse(part).map_err(|error| error.to_string())?;
        self.heard_at = Instant::now();
        let len = self.value.len() + part.data.len();
        let is_another = part.value_bytes != 0 && part.value_bytes != self.value_bytes as u64;
        if is_another || len > self.value_bytes || self.seal.is_some() {
            return Err("it is another value than was said".to_owned());
        }
        if part.data.is_empty() && self.value.len() == self.value_bytes {
            self.seal = Some((part.checksum, part.lives));
        }
        self.hasher.update(part.data);
        self.value
            .append(part.data)
            .map_err(|error| error.to_string())
    }

    fn look_at(&self) -> Option<Instant> {
        Some(self.look_at)
    }

    fn look(&mut self, now: Instant) -> Option<calls::End> {
        self.look_at = now + LOOK_EVERY;
        let broken = |why: &str| Some(calls::End::Broken(why.to_owned()));
        if now >= self.forward.load.may_come_until(self.begun) {
            return broken("its time was over");
        }
        let silent = now.saturating_duration_since(self.heard_at);
        let is_gone = silent >= LOOK_EVERY && !self.peer.is_asked();
        match is_gone || silent >= STALL_LIMIT {
            true => broken("the node says nothing"),
            false => None,
        }
    }

    fn end(self: Box<Self>, end: calls::End) {
        let peers = self.running.0.clone();
        self.settle(end.into());
        // It has left room.
        peers.begin_pulls();
    }
}
