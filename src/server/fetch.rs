//! `Fetch`: a stream of keys, each answered as soon as its value is there.
//!
//! A stream belongs to the thread that polls it. Held values are encoded right away into the one reply that is being
//! put together; it leaves when the door can send it, with all that has come up to then. What is missed is loaded, a
//! few keys of a group at a time. What loaders bring waits in [`Arrivals`], not encoded yet, for the stream to be
//! polled.
//!
//! So a caller that does not read costs the reply that can not be sent, the next one, and what its loads have brought;
//! nothing more is looked up, loaded or taken from it then, and its call ends when that has been so for too long.

use std::collections::VecDeque;
use std::mem;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;

use super::lookout::Caller;
use super::many::{LOADING_MAX, never_fits};
use super::outgoing::{Encoded, Full};
use super::service::{KEYS_MAX, Miss, Service, Status, UNARY_LIMIT_BYTES, check_keys};
use super::stall::Stall;
use super::waiting::Place;
use super::wire::{self, FetchRequest, Head, Label};
use crate::group::{Group, Value};

/// Keys of one stream that may be without an answer. From there on no request is read.
const UNANSWERED_MAX: usize = KEYS_MAX;
/// A reply of so many bytes gets no more answers; it is to leave first.
const REPLY_ENOUGH_BYTES: usize = 256 << 10;
/// What is said of one key. With 10,000 of them a reply is still within its limit.
const MESSAGE_MAX_BYTES: usize = 300;

/// One call, as the thread sees it that polls it.
pub(super) struct Fetch {
    service: Arc<Service>,
    reply: Reply,
    stall: Stall,
    lanes: Vec<Lane>,
    held_back: Option<HeldBack>,
    arrivals: Arc<Arrivals>,
    /// Taken from `arrivals`, but not put into a reply yet.
    arrived: VecDeque<Arrival>,
    /// When the caller stops waiting.
    deadline: Option<Instant>,
}

/// A group, and its keys that were not held.
struct Lane {
    group: Group,
    missed: VecDeque<(u64, Box<[u8]>)>,
    /// Keys that are being loaded, or whose outcome is not in a reply yet.
    loading: usize,
    /// While keys are being loaded.
    place: Option<Place>,
}

/// The rest of a request, which the reply had no room for. It has not been looked up yet.
struct HeldBack {
    lane: usize,
    first_id: u64,
    keys: VecDeque<Box<[u8]>>,
}

struct Arrival {
    lane: usize,
    id: u64,
    outcome: Result<Value, Status>,
}

impl Fetch {
    /// For a caller that waits until `deadline`.
    pub fn new(service: &Arc<Service>, deadline: Option<Instant>) -> Self {
        Self {
            service: service.clone(),
            reply: Reply {
                encoded: service.outgoing.stream_reply(),
                waits: false,
            },
            stall: Stall::default(),
            lanes: Vec::new(),
            held_back: None,
            arrivals: Arc::default(),
            arrived: VecDeque::new(),
            deadline,
        }
    }

    /// The last reply has been taken, or has not been yet. Ready when that has been so for too long: then the call is to end.
    pub fn poll_taken(&mut self, is_taken: bool, cx: &mut Context<'_>) -> Poll<()> {
        self.reply.waits = !is_taken;
        if is_taken {
            self.stall.end();
            return Poll::Pending;
        }
        let Service {
            reads, outgoing, ..
        } = &*self.service;
        let limit = || outgoing.stall_limit(reads.stall_limit);
        let stalled = self.stall.poll(&reads.stalled, limit, cx);
        if stalled.is_ready() {
            outgoing.note_stalled();
        }
        stalled
    }

    /// Whether another request may be read.
    pub fn wants_requests(&self) -> bool {
        self.held_back.is_none() && self.reply.wants_more() && self.unanswered() < UNANSWERED_MAX
    }

    /// Whether all that was asked has been answered, and the answers taken.
    pub fn is_done(&self) -> bool {
        self.reply.encoded.is_empty() && self.held_back.is_none() && self.unanswered() == 0
    }

    fn unanswered(&self) -> usize {
        let of_lane = |lane: &Lane| lane.missed.len() + lane.loading;
        self.lanes.iter().map(of_lane).sum()
    }

    /// Takes an encoded `FetchRequest`, when one is wanted. An error ends the call.
    pub fn ask(&mut self, request: &[u8]) -> Result<(), Status> {
        let FetchRequest {
            group,
            keys,
            first_id,
        } = FetchRequest::parse(request)?;
        check_keys(keys.len(), "message")?;
        let service = self.service.clone();
        match service.group(group) {
            Ok(group) => {
                let lane = self.lane(group);
                let answered = self.look_up(lane, first_id, &keys);
                if answered < keys.len() {
                    self.held_back = Some(HeldBack {
                        lane,
                        first_id: nth(first_id, answered),
                        keys: keys[answered..].iter().map(|&key| key.into()).collect(),
                    });
                }
            }
            Err(status) => {
                for index in 0..keys.len() {
                    self.reply.say(nth(first_id, index), &status);
                }
            }
        }
        self.load();
        Ok(())
    }

    /// Sees to what was held back, and to what loaders have brought, as far as the reply has room. `cx` is woken when
    /// there is more.
    pub fn gather(&mut self, cx: &Context<'_>) {
        self.look_up_held_back();
        self.load();
        if self.unanswered() == 0 {
            return;
        }
        self.arrivals.take(&mut self.arrived, cx.waker());
        while let Some(Arrival { lane, id, outcome }) = self.arrived.front()
            && self
                .reply
                .put(*id, outcome.as_ref().map(|value| &**value.frame()))
        {
            self.lanes[*lane].loading -= 1;
            self.arrived.pop_front();
        }
        self.load();
        for lane in &mut self.lanes {
            if lane.loading == 0 && lane.missed.is_empty() {
                lane.place = None;
            }
        }
    }

    /// An encoded `FetchReply`, to be sent now.
    pub fn take_reply(&mut self) -> Option<Encoded> {
        if self.reply.encoded.is_empty() {
            return None;
        }
        let next = self.service.outgoing.stream_reply();
        let mut reply = mem::replace(&mut self.reply.encoded, next);
        reply.shrink();
        Some(reply)
    }

    fn lane(&mut self, group: &Group) -> usize {
        let name = group.name();
        let known = self.lanes.iter().position(|lane| lane.group.name() == name);
        known.unwrap_or_else(|| {
            self.lanes.push(Lane {
                group: group.clone(),
                missed: VecDeque::new(),
                loading: 0,
                place: None,
            });
            self.lanes.len() - 1
        })
    }

    /// Answers keys that are held, and takes down those that are not. Returns how many it has seen to: fewer than all
    /// if the reply has no room.
    fn look_up(&mut self, lane: usize, first_id: u64, keys: &[&[u8]]) -> usize {
        let Self { reply, lanes, .. } = self;
        let Lane { group, missed, .. } = &mut lanes[lane];
        let read = group.read_frames(keys, |index, held| {
            let id = nth(first_id, index);
            let is_seen_to = match held {
                Ok(Some(lent)) => {
                    reply.expect(lent.value(), keys.len() - index);
                    reply.put(id, Ok(lent.value()))
                }
                Ok(None) => {
                    missed.push_back((id, keys[index].into()));
                    true
                }
                Err(error) => reply.put(id, Err(&error.into())),
            };
            match is_seen_to {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(index),
            }
        });
        match read {
            ControlFlow::Continue(()) => keys.len(),
            ControlFlow::Break(index) => index,
        }
    }

    fn look_up_held_back(&mut self) {
        /// As many as are looked up at a time: a reply may have room for one of them alone.
        const SOME: usize = 16;
        while self.reply.wants_more()
            && let Some(mut rest) = self.held_back.take()
        {
            let some: Vec<&[u8]> = rest.keys.iter().take(SOME).map(|key| &**key).collect();
            let answered = self.look_up(rest.lane, rest.first_id, &some);
            rest.keys.drain(..answered);
            rest.first_id = nth(rest.first_id, answered);
            if !rest.keys.is_empty() {
                self.held_back = Some(rest);
            }
            if answered == 0 {
                break;
            }
        }
    }

    /// Has keys loaded, as many as may be at a time, unless replies wait to be read.
    fn load(&mut self) {
        if !self.reply.wants_more() || self.lanes.iter().all(|lane| lane.missed.is_empty()) {
            return;
        }
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            if lane.missed.is_empty() {
                continue;
            }
            if lane.place.is_none() {
                // The door ends the call when its deadline has passed, or its caller has gone, and this with it.
                match self.service.waiting.enter(&lane.group, Caller::default()) {
                    Ok(place) => lane.place = Some(place),
                    Err(crowded) => {
                        self.arrived.extend(lane.fail(number, &crowded.into()));
                        continue;
                    }
                }
            }
            while lane.loading < LOADING_MAX
                && let Some((id, key)) = lane.missed.pop_front()
            {
                lane.loading += 1;
                let arrivals = self.arrivals.clone();
                let miss = Miss {
                    group: &lane.group,
                    key: &key,
                };
                self.service.load(&miss, self.deadline, move |outcome| {
                    arrivals.put(Arrival {
                        lane: number,
                        id,
                        outcome,
                    });
                });
            }
        }
    }
}

impl Lane {
    /// What becomes of the keys that are not asked for.
    fn fail(&mut self, number: usize, status: &Status) -> impl Iterator<Item = Arrival> {
        self.loading += self.missed.len();
        self.missed.drain(..).map(move |(id, _)| Arrival {
            lane: number,
            id,
            outcome: Err(status.clone()),
        })
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.arrivals.close();
    }
}

/// The reply that is being put together.
struct Reply {
    encoded: Encoded,
    /// For another one that has not been taken yet.
    waits: bool,
}

impl Reply {
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

    fn wants_more(&self) -> bool {
        self.encoded.len() < REPLY_ENOUGH_BYTES
    }

    /// Takes memory for `keys` such values, as far as one reply goes, if it is to be the first one.
    fn expect(&mut self, frame: &[u8], keys: usize) {
        if self.encoded.is_empty() {
            let one = Head::of_value(Label::Id(u64::MAX), frame).with(frame);
            let bytes = one.saturating_mul(keys);
            // If there are too many bytes on their way, the value itself is told so.
            let _ = self.reserve(bytes.min(REPLY_ENOUGH_BYTES));
        }
    }

    /// Puts an answer; false if there is no room for it.
    fn put(&mut self, id: u64, outcome: Result<&[u8], &Status>) -> bool {
        if !self.wants_more() {
            return false;
        }
        let frame = match outcome {
            Ok(frame) => frame,
            Err(status) => {
                self.say(id, status);
                return true;
            }
        };
        let head = Head::of_value(Label::Id(id), frame);
        let bytes = head.with(frame);
        if bytes > UNARY_LIMIT_BYTES {
            self.say(id, &never_fits(frame));
        } else if self.encoded.len() + bytes > UNARY_LIMIT_BYTES {
            return false;
        } else if let Err(full) = self.reserve(bytes) {
            if self.has_time() {
                return false;
            }
            self.say(id, &full.into());
        } else {
            head.put_before(frame, self.encoded.bytes());
        }
        true
    }

    /// Puts a failure, whether there is room or not.
    fn say(&mut self, id: u64, Status { code, message }: &Status) {
        let end = (0..=MESSAGE_MAX_BYTES).rfind(|&at| message.is_char_boundary(at));
        let message = &message[..end.unwrap_or(0)];
        let label = Label::Id(id);
        self.encoded
            .reserve_anyway(wire::failure_len(label, message));
        wire::put_failure(self.encoded.bytes(), label, *code as i32, message);
    }
}

/// What loaders have brought, and who is to be told.
#[derive(Default)]
struct Arrivals(Mutex<Landing>);

#[derive(Default)]
struct Landing {
    arrived: Vec<Arrival>,
    waker: Option<Waker>,
    closed: bool,
}

impl Arrivals {
    fn put(&self, arrival: Arrival) {
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
    fn take(&self, arrived: &mut VecDeque<Arrival>, waker: &Waker) {
        let mut landing = self.0.lock();
        arrived.extend(landing.arrived.drain(..));
        match &mut landing.waker {
            Some(known) => known.clone_from(waker),
            None => landing.waker = Some(waker.clone()),
        }
    }

    fn close(&self) {
        let mut landing = self.0.lock();
        landing.closed = true;
        let arrived = mem::take(&mut landing.arrived);
        drop(landing);
        drop(arrived);
    }
}

/// The id of the key that is `index` after the first one.
fn nth(first_id: u64, index: usize) -> u64 {
    first_id.wrapping_add(index as u64)
}
