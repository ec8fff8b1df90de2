//! What a node that leaves gives to those who will own its keys: it offers them the hottest ones, and they peek at it for
//! them while it still answers. It sends no values: whoever reached the port of a node could give it some.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Sender};
use parking_lot::Mutex;
use protobuf::Message;

use super::Peers;
use super::calls::{End, Opening, Talk};
use crate::cluster::{Placement, Ring, View};
use crate::group::{Group, Groups, Value};
use crate::http2::Code as Http2Code;
use crate::server::pb::peer::{Keys, Offer, Taken};
use crate::server::service::{Code, Service, Status, check_keys};

const PATH: &str = "/corecache.peer.v1.Peer/Take";
/// What the answer may have.
const TAKEN_BYTES: usize = 1024;
/// What is offered in all: so many keys, and a part of the memory.
const KEYS_MAX: usize = 50_000;
const BYTES_PART: usize = 8;
/// What is offered in one call.
const CALL_KEYS: usize = 1000;
const CALL_BYTES: usize = 64 << 10;
/// Calls to one node that have no answer yet: each is a connection, and has the node ask for all of its keys.
const CALLS_UNDER_WAY: usize = 4;
/// How hot an entry is at the most; one that was never asked for again is not offered.
const HOTTEST: u8 = 3;
const COLDEST: u8 = 1;

/// What has become of what was offered.
#[derive(Debug, Default, Clone, Copy)]
pub(in super::super) struct Offered {
    pub keys: usize,
    pub held: usize,
    pub nodes: usize,
}

/// Keys for one node, in calls.
#[derive(Default)]
struct Parcel {
    calls: VecDeque<Offer>,
    /// In the last of them.
    keys: usize,
    bytes: usize,
}

impl Peers {
    /// Offers the hottest keys of this node to their next owners, and waits until they have them, for so long at the most.
    pub fn offer_hottest(
        &self,
        groups: &Groups,
        memory_bytes: usize,
        patience: Duration,
    ) -> Offered {
        let until = Instant::now() + patience;
        let roster = self.roster.read().clone();
        let Some(ring) = roster.ring.as_ref().filter(|ring| ring.members().len() > 1) else {
            return Offered::default();
        };
        let others = ring.members().iter().cloned();
        let others = others.filter(|member| member.address != self.own_address());
        let others = View::new(others.collect()).expect("a part of a view is one");
        let next = Placement::new(&others);
        let halftime = until - patience / 2;
        let (parcels, keys) = self.pack(groups, &**ring, &next, memory_bytes, halftime);
        let nodes = parcels.len();
        let held = hand_out(parcels, until, |address, offer, done| {
            self.offer(address, &offer, until, done);
        });
        Offered { keys, held, nodes }
    }

    fn offer(&self, address: &str, offer: &Offer, until: Instant, done: Done) {
        let offer = match offer.write_to_bytes() {
            Ok(offer) => offer,
            Err(error) => return log::warn!("keys are not offered to another node: {error}"),
        };
        let opening = Opening {
            path: PATH,
            request: Some(offer),
            message_max_bytes: TAKEN_BYTES,
        };
        let offering = Offering { until, done };
        self.calls.open(address, None, opening, Box::new(offering));
    }

    /// The hottest keys of this node, by their next owners, until it is too late for more; and how many they are.
    fn pack(
        &self,
        groups: &Groups,
        ring: &dyn Ring,
        next: &Placement,
        memory_bytes: usize,
        until: Instant,
    ) -> (HashMap<String, Parcel>, usize) {
        let mut parcels = HashMap::<String, Parcel>::new();
        let (mut keys, mut bytes) = (0, 0);
        for heat in (COLDEST..=HOTTEST).rev() {
            for group in groups.iter() {
                for blob in group.as_hot_as(heat) {
                    if keys == KEYS_MAX
                        || bytes > memory_bytes / BYTES_PART
                        || Instant::now() > until
                    {
                        return (parcels, keys);
                    }
                    let (name, key) = (group.name().as_bytes(), blob.key());
                    let mut owner = [0];
                    ring.rank(name, key, &mut owner);
                    let is_own =
                        ring.members()[usize::from(owner[0])].address == self.own_address();
                    if !is_own {
                        continue;
                    }
                    let Some(next) = next.owner(name, key) else {
                        continue;
                    };
                    let parcel = parcels.entry(next.address.clone()).or_default();
                    parcel.add(self.own_address(), group, key);
                    keys += 1;
                    bytes += blob.len();
                }
            }
        }
        (parcels, keys)
    }
}

/// Makes all calls, a few to each node at a time, until it is too late. Returns how many keys are held in the end.
fn hand_out(
    mut parcels: HashMap<String, Parcel>,
    until: Instant,
    mut call: impl FnMut(&str, Offer, Done),
) -> usize {
    let (told, ended) = channel::unbounded();
    let mut begin = |address: &str, parcel: &mut Parcel| {
        let offer = parcel.calls.pop_front()?;
        let done = Done {
            address: address.to_owned(),
            held: 0,
            told: told.clone(),
        };
        call(address, offer, done);
        Some(())
    };
    let mut under_way = 0;
    for (address, parcel) in &mut parcels {
        let begun = (0..CALLS_UNDER_WAY).map_while(|_| begin(address, parcel));
        under_way += begun.count();
    }
    let mut held = 0;
    while under_way > 0
        && let Ok((address, of_call)) = ended.recv_deadline(until)
    {
        held += of_call;
        let next = parcels.get_mut(&address);
        if next.is_none_or(|parcel| begin(&address, parcel).is_none()) {
            under_way -= 1;
        }
    }
    held
}

/// Tells, when it is dropped, that a call has ended, and how many of its keys are held.
struct Done {
    address: String,
    held: usize,
    told: Sender<(String, usize)>,
}

impl Drop for Done {
    fn drop(&mut self) {
        // Who does not wait any more need not know.
        let _ = self
            .told
            .send((std::mem::take(&mut self.address), self.held));
    }
}

impl Parcel {
    fn add(&mut self, own: &str, group: &Group, key: &[u8]) {
        if self.calls.is_empty() || self.keys == CALL_KEYS || self.bytes > CALL_BYTES {
            let mut offer = Offer::new();
            own.clone_into(&mut offer.address);
            self.calls.push_back(offer);
            (self.keys, self.bytes) = (0, 0);
        }
        let Some(offer) = self.calls.back_mut() else {
            return;
        };
        if offer
            .keys
            .last()
            .is_none_or(|keys| keys.group != group.name())
        {
            let mut keys = Keys::new();
            group.name().clone_into(&mut keys.group);
            offer.keys.push(keys);
        }
        if let Some(keys) = offer.keys.last_mut() {
            keys.keys.push(key.to_vec());
        }
        self.keys += 1;
        self.bytes += key.len();
    }
}

/// A call by which keys are offered.
struct Offering {
    until: Instant,
    done: Done,
}

impl Talk for Offering {
    fn take(&mut self, taken: &[u8]) -> Result<(), String> {
        let taken = Taken::parse_from_bytes(taken).map_err(|error| error.to_string())?;
        self.done.held = taken.held as usize;
        Ok(())
    }

    fn look_at(&self) -> Option<Instant> {
        Some(self.until)
    }

    fn look(&mut self, now: Instant) -> Option<End> {
        (now >= self.until).then(|| End::Broken("there was no more time".to_owned()))
    }

    fn end(mut self: Box<Self>, end: End) {
        let why = match end {
            End::Status(status) if status.code == Http2Code::OK => return,
            End::Status(status) => status.to_string(),
            End::Broken(why) => why,
        };
        self.done.held = 0;
        log::warn!("keys that were offered to another node were not taken: {why}");
    }
}

/// Is told how many keys are held.
type Tell = Box<dyn FnOnce(u32) + Send>;

/// Keys that were offered, until the last of them is held or is known not to be.
struct Takings {
    left: AtomicUsize,
    held: AtomicU32,
    answer: Mutex<Option<Tell>>,
}

impl Takings {
    fn settle(&self, value: bool) {
        self.held.fetch_add(value.into(), Ordering::SeqCst);
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(answer) = self.answer.lock().take()
        {
            answer(self.held.load(Ordering::SeqCst));
        }
    }
}

impl Service {
    /// Takes what another node offers; `answer` is told how many of the keys are held in the end.
    pub fn take(
        &self,
        offer: &Offer,
        answer: impl FnOnce(u32) + Send + 'static,
    ) -> Result<(), Status> {
        let keys = offer.keys.iter().map(|keys| keys.keys.len()).sum();
        check_keys(keys, "call")?;
        let Some(peer) = self.peers.member(&offer.address) else {
            let shown: String = offer.address.chars().take(256).collect();
            let message = format!(
                "{shown:?}, which offers keys, is no member of the cluster as it is known here"
            );
            return Err(Status::new(Code::FailedPrecondition, message));
        };
        let takings = Arc::new(Takings {
            // One more, so that it does not end before all were begun.
            left: AtomicUsize::new(keys + 1),
            held: AtomicU32::new(0),
            answer: Mutex::new(Some(Box::new(answer))),
        });
        for keys in &offer.keys {
            let group = self.groups.get(&keys.group);
            for key in &keys.keys {
                let Some(group) = group else {
                    takings.settle(false);
                    continue;
                };
                let told = takings.clone();
                let settle = move |value: Result<Value, _>| told.settle(value.is_ok());
                // Nobody waits for it: what is not there is not loaded.
                if let Some(load) = group.ask_by(key, Some(Instant::now()), settle) {
                    self.peers.take_from(&peer, load);
                }
            }
        }
        takings.settle(false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcels(calls: usize) -> HashMap<String, Parcel> {
        let parcel = || Parcel {
            calls: std::iter::repeat_with(Offer::new).take(calls).collect(),
            ..Parcel::default()
        };
        let of = |address: &str| (address.to_owned(), parcel());
        HashMap::from([of("one"), of("two")])
    }

    #[test]
    fn a_node_has_a_few_calls_at_a_time_and_all_in_the_end() {
        let far = Instant::now() + Duration::from_secs(3600);
        let (mut open, mut calls) = (Vec::new(), 0);
        let held = hand_out(parcels(10), far, |address, _, mut done| {
            calls += 1;
            done.held = calls;
            open.push((address.to_owned(), done));
            let of_node = open.iter().filter(|(of, _)| of == address).count();
            assert!(of_node <= CALLS_UNDER_WAY);
            // The first ones wait for the last of them, the others end at once.
            if open.len() == 2 * CALLS_UNDER_WAY {
                open.clear();
            } else if calls > 2 * CALLS_UNDER_WAY {
                open.pop();
            }
        });
        assert_eq!((calls, held), (20, (1..=20).sum()));
    }

    #[test]
    fn nobody_waits_for_calls_beyond_the_time() {
        let mut open = Vec::new();
        let soon = Instant::now() + Duration::from_millis(20);
        let held = hand_out(parcels(1), soon, |_, _, mut done| match open.len() {
            0 => open.push(done),
            _ => done.held = 3,
        });
        assert_eq!(held, 3, "of the one that has ended");
    }
}
