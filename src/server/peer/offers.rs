//! What a node that leaves gives to those who will own its keys: it offers them the hottest ones, and they peek at it for
//! them while it still answers. It sends no values: whoever reached the port of a node could give it some.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, Sender};
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
    calls: Vec<Offer>,
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
        let (told, held) = channel::unbounded();
        for (address, parcel) in &parcels {
            for offer in &parcel.calls {
                self.offer(address, offer, until, told.clone());
            }
        }
        drop(told);
        Offered {
            keys,
            held: sum_until(&held, until),
            nodes: parcels.len(),
        }
    }

    fn offer(&self, address: &str, offer: &Offer, until: Instant, told: Sender<usize>) {
        let offer = match offer.write_to_bytes() {
            Ok(offer) => offer,
            Err(error) => return log::warn!("keys are not offered to another node: {error}"),
        };
        let opening = Opening {
            path: PATH,
            request: Some(offer),
            message_max_bytes: TAKEN_BYTES,
        };
        let offering = Offering {
            until,
            held: 0,
            told,
        };
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

/// The sum of what calls tell, until the last of them has ended. One that has reached nobody yet may take longer.
fn sum_until(told: &Receiver<usize>, until: Instant) -> usize {
    std::iter::from_fn(|| told.recv_deadline(until).ok()).sum()
}

impl Parcel {
    fn add(&mut self, own: &str, group: &Group, key: &[u8]) {
        if self.calls.is_empty() || self.keys == CALL_KEYS || self.bytes > CALL_BYTES {
            let mut offer = Offer::new();
            own.clone_into(&mut offer.address);
            self.calls.push(offer);
            (self.keys, self.bytes) = (0, 0);
        }
        let Some(offer) = self.calls.last_mut() else {
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
    held: usize,
    told: Sender<usize>,
}

impl Talk for Offering {
    fn take(&mut self, taken: &[u8]) -> Result<(), String> {
        let taken = Taken::parse_from_bytes(taken).map_err(|error| error.to_string())?;
        self.held = taken.held as usize;
        Ok(())
    }

    fn look_at(&self) -> Option<Instant> {
        Some(self.until)
    }

    fn look(&mut self, now: Instant) -> Option<End> {
        (now >= self.until).then(|| End::Broken("there was no more time".to_owned()))
    }

    fn end(self: Box<Self>, end: End) {
        let why = match end {
            End::Status(status) if status.code == Http2Code::OK => {
                // Who does not wait any more need not know.
                let _ = self.told.send(self.held);
                return;
            }
            End::Status(status) => status.to_string(),
            End::Broken(why) => why,
        };
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

    #[test]
    fn nobody_waits_for_calls_beyond_the_time() {
        let (told, held) = channel::unbounded();
        let late = told.clone();
        told.send(1).unwrap();
        told.send(2).unwrap();
        assert_eq!(sum_until(&held, Instant::now()), 3);
        drop((told, late));
        let far = Instant::now() + Duration::from_secs(3600);
        assert_eq!(sum_until(&held, far), 0, "all have ended");
    }
}
