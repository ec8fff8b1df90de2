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
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::arriving::{Arrivals, Reply};
use super::lookout::Caller;
use super::many::LOADING_MAX;
use super::outgoing::Encoded;
use super::service::{KEYS_MAX, Miss, Service, Status, UNARY_LIMIT_BYTES, check_keys};
use super::waiting::Place;
use super::wire::{self, FetchRequest, HOT_KEY_MAX_BYTES, Label};
use crate::group::{Group, Value};

/// Keys of one stream that may be without an answer. From there on no request is read.
const UNANSWERED_MAX: usize = KEYS_MAX;
/// What is said of one key. With 10,000 of them a reply is still within its limit.
const MESSAGE_MAX_BYTES: usize = 300;

/// One call, as the thread sees it that polls it.
pub(super) struct Fetch {
    service: Arc<Service>,
    reply: Reply,
    lanes: Vec<Lane>,
    held_back: Option<HeldBack>,
    arrivals: Arc<Arrivals<Arrival>>,
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
            reply: Reply::new(&service.outgoing, UNARY_LIMIT_BYTES, MESSAGE_MAX_BYTES),
            lanes: Vec::new(),
            held_back: None,
            arrivals: Arc::default(),
            arrived: VecDeque::new(),
            deadline,
        }
    }

    /// The last reply has been taken, or has not been yet. Ready when that has been so for too long: then the call is to end.
    pub fn poll_taken(&mut self, is_taken: bool, cx: &mut Context<'_>) -> Poll<()> {
        self.reply.poll_taken(is_taken, &self.service, cx)
    }

    /// Whether another request may be read.
    pub fn wants_requests(&self) -> bool {
        self.held_back.is_none() && self.reply.wants_more() && self.unanswered() < UNANSWERED_MAX
    }

    /// Whether all that was asked has been answered, and the answers taken.
    pub fn is_done(&self) -> bool {
        self.reply.is_empty() && self.held_back.is_none() && self.unanswered() == 0
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
                self.mark(&service.hot.note_all(group, &keys), first_id);
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
                    self.reply.say(Label::Id(nth(first_id, index)), &status);
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
            && self.reply.put(
                Label::Id(*id),
                outcome.as_ref().map(|value| &**value.frame()),
            )
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
        self.reply.take(&self.service.outgoing)
    }

    /// Says of keys, by their indexes, how hot they are: before they are answered, where a reply has room for it.
    fn mark(&mut self, hot: &[(usize, u32)], first_id: u64) {
        if hot.is_empty() || !self.service.peers.has_others() {
            return;
        }
        for &(index, heat) in hot {
            let reply = self.reply.bytes(HOT_KEY_MAX_BYTES);
            wire::put_hot_key(reply, nth(first_id, index), heat);
        }
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
                    reply.put(Label::Id(id), Ok(lent.value()))
                }
                Ok(None) => {
                    missed.push_back((id, keys[index].into()));
                    true
                }
                Err(error) => reply.put(Label::Id(id), Err(&error.into())),
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

/// The id of the key that is `index` after the first one.
fn nth(first_id: u64, index: usize) -> u64 {
    first_id.wrapping_add(index as u64)
}
