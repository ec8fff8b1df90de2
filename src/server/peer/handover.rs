//! Keys that have become this node's: before it loads them, it asks those who may hold them.
//!
//! A peek is answered with what is held, or at once with: it is not. It is never passed on and loads nothing, so that no
//! peek waits for another one. Who is asked: the owner by the former ring, then who follows this node in rank.

use std::collections::{HashMap, HashSet, VecDeque};
use std::iter;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::forward::RANKS;
use super::{Aim, Forward, Peer, Peers, Roster};
use crate::cluster::{Ring, View};
use crate::group::PendingLoad;

/// How long one is waited for.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);
/// How many are asked.
const HOLDERS_MAX: usize = 3;
/// How many rings are remembered, each with a table of 2 MiB.
const FORMER_MAX: usize = 4;

/// Who may hold a key, the likeliest first.
pub(super) type Holders = VecDeque<Arc<Peer>>;

/// A ring that this node went by.
#[derive(Clone)]
pub(super) struct Former {
    ring: Arc<dyn Ring>,
    /// As those of a roster.
    peers: Vec<Option<Arc<Peer>>>,
    /// From then on nobody is asked for what he owned.
    until: Instant,
}

impl Former {
    /// The other nodes in it.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.iter().flatten()
    }

    fn peer(&self, position: u16) -> Option<&Arc<Peer>> {
        self.peers[usize::from(position)].as_ref()
    }
}

impl Roster {
    /// What is remembered by the roster that takes the place of this one: the ring `before` it, and those before that.
    pub(super) fn former_and(
        &self,
        before: Arc<dyn Ring>,
        new: &[Option<Arc<Peer>>],
        handover: Duration,
    ) -> Vec<Former> {
        let now = Instant::now();
        let known = by_address(self.peers.iter().chain(new).flatten());
        let members = before.members().iter();
        let peers = members.map(|member| known.get(&*member.address));
        let last = Former {
            peers: peers.map(|peer| peer.map(|&peer| peer.clone())).collect(),
            ring: before,
            until: now + handover,
        };
        let all = iter::once(last).chain(self.former.iter().cloned());
        let mut former: Vec<_> = all.filter(|former| former.until > now).collect();
        former.truncate(FORMER_MAX);
        former
    }

    /// All nodes that there are links to.
    pub(super) fn linked(&self) -> Vec<Arc<Peer>> {
        let mut known = HashSet::new();
        let former = self.former.iter().flat_map(Former::peers);
        let all = self.peers.iter().flatten().chain(former);
        let linked = all.filter(|peer| known.insert(Arc::as_ptr(peer)));
        linked.cloned().collect()
    }

    /// Whether this node owns its key.
    pub(super) fn is_own(&self, load: &PendingLoad) -> bool {
        let Some(ring) = &self.ring else {
            return true;
        };
        let owner = owner(&**ring, load);
        owner.is_some_and(|owner| self.peers[usize::from(owner)].is_none())
    }

    /// Who may hold a key of this node's; nobody, unless it was another one's a short time ago.
    pub(super) fn holders(&self, load: &PendingLoad, now: Instant) -> Holders {
        let mut holders = Holders::new();
        for former in self.former.iter().filter(|former| former.until > now) {
            let owner = owner(&*former.ring, load);
            add(&mut holders, owner.and_then(|owner| former.peer(owner)));
        }
        let Some(ring) = self.ring.as_ref().filter(|_| !holders.is_empty()) else {
            return holders;
        };
        let mut ranked = [0; RANKS];
        let ranks = ring.rank(load.group().name().as_bytes(), load.key(), &mut ranked);
        for position in &ranked[..ranks] {
            add(&mut holders, self.peers[usize::from(*position)].as_ref());
        }
        holders
    }
}

/// Nodes by their addresses; of those with the same, the first.
pub(super) fn by_address<'a>(
    peers: impl Iterator<Item = &'a Arc<Peer>>,
) -> HashMap<&'a str, &'a Arc<Peer>> {
    let mut known = HashMap::new();
    for peer in peers {
        known.entry(&*peer.address).or_insert(peer);
    }
    known
}

fn owner(ring: &dyn Ring, load: &PendingLoad) -> Option<u16> {
    let mut owner = [0];
    let ranks = ring.rank(load.group().name().as_bytes(), load.key(), &mut owner);
    (ranks > 0).then_some(owner[0])
}

fn add(holders: &mut Holders, peer: Option<&Arc<Peer>>) {
    if let Some(peer) = peer
        && holders.len() < HOLDERS_MAX
        && !holders.iter().any(|known| Arc::ptr_eq(known, peer))
    {
        holders.push_back(peer.clone());
    }
}

impl Peers {
    /// The view as it was before this node was in it.
    pub(super) fn without_own(&self, view: &View) -> View {
        let others = view.members().iter().cloned();
        let others = others.filter(|member| member.address != self.own_address());
        View::new(others.collect()).expect("a part of a view is one")
    }

    /// Whether keys of this node's may be had from others.
    pub fn expects_handover(&self) -> bool {
        let roster = self.roster.read();
        let now = Instant::now();
        let is_recent = roster.former.iter().any(|former| former.until > now);
        is_recent && roster.peers.iter().flatten().next().is_some()
    }

    /// Peeks at the next holder; loads, when none is left.
    pub(super) fn peek_on(&self, mut forward: Forward) {
        while let Some(peer) = forward.take_holder() {
            match peer.ask(forward) {
                Ok(()) => {
                    self.counts.peeked.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err((back, _)) => forward = back,
            }
        }
        let load = forward.load;
        if !load.is_wanted() {
            load.give_up();
        } else if forward.roster.is_own(&load) {
            self.load_here(load);
        } else {
            // It was offered, and others have asked for it meanwhile.
            self.load(load);
        }
    }

    /// Has a key from the one who has offered it, if it is still there.
    pub(super) fn take_from(&self, peer: &Arc<Peer>, load: PendingLoad) {
        self.go_on(Forward {
            until: load.wanted_until(),
            load,
            aim: Aim::Holders(Box::new([peer.clone()].into())),
            roster: self.roster.read().clone(),
        });
    }

    /// The member of that address, if it is another one.
    pub(super) fn member(&self, address: &str) -> Option<Arc<Peer>> {
        let roster = self.roster.read();
        let mut members = roster.peers.iter().flatten();
        members.find(|peer| peer.address == address).cloned()
    }

    /// All nodes that there are links to: the other members, and those that were it a short time ago.
    pub(super) fn linked(&self) -> Vec<Arc<Peer>> {
        self.roster.read().linked()
    }

    /// Forgets the former rings whose time is over.
    pub(super) fn forget_former(&self, now: Instant) {
        let _turn = self.turning.lock();
        let old = self.roster.read().clone();
        if old.former.iter().all(|former| former.until > now) {
            return;
        }
        let former = old.former.iter().filter(|former| former.until > now);
        let new = Arc::new(Roster {
            ring: old.ring.clone(),
            peers: old.peers.clone(),
            former: former.cloned().collect(),
        });
        self.replace(&old, new);
    }
}

impl Forward {
    fn take_holder(&mut self) -> Option<Arc<Peer>> {
        match &mut self.aim {
            Aim::Holders(holders) => holders.pop_front(),
            Aim::Ranks { .. } => None,
        }
    }
}
