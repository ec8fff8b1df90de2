//! A ring with the links to its members, and how a node turns to another one.

use std::collections::HashSet;
use std::sync::Arc;

use super::handover::{Former, by_address};
use super::{Peer, Peers};
use crate::cluster::{Epoch, Member, Ring};

/// A ring, with the links to its members.
pub(super) struct Roster {
    pub ring: Option<Arc<dyn Ring>>,
    /// By their positions in the ring; none for this node.
    pub peers: Vec<Option<Arc<Peer>>>,
    /// Those that it went by before, the last one first.
    pub former: Vec<Former>,
}

impl Roster {
    pub fn epoch(&self) -> Epoch {
        let ring = self.ring.as_ref();
        ring.map_or(Epoch(0), |ring| ring.epoch())
    }
}

impl Peers {
    /// Goes by this ring from now on, by which keys have come from where the one before says. Links to nodes that are in it
    /// still stay as they are.
    pub fn turn_to(&self, ring: Arc<dyn Ring>, before: Arc<dyn Ring>) {
        let _turn = self.turning.lock();
        let old = self.roster.read().clone();
        // One that comes back while it can still be asked is the same.
        let former = old.former.iter().flat_map(Former::peers);
        let back = former.filter(|peer| peer.is_asked());
        let known = by_address(old.peers.iter().flatten().chain(back));
        let peer = |address: &str| match known.get(address) {
            Some(&peer) => peer.clone(),
            None => Arc::new(Peer::new(address, self)),
        };
        self.loaders.set_share(self.share_of(ring.members()));
        let members = ring.members().iter().map(|member| &*member.address);
        let peers = members.map(|address| (address != self.own_address()).then(|| peer(address)));
        let peers: Vec<_> = peers.collect();
        let new = Arc::new(Roster {
            former: old.former_and(before, &peers, self.config.handover),
            peers,
            ring: Some(ring),
        });
        self.replace(&old, new);
        let _look = self.look.lock();
        self.changed.notify_one();
    }

    /// This node's part of all weights.
    fn share_of(&self, members: &[Member]) -> f64 {
        let weight = |member: &Member| f64::from(member.weight);
        let own = members
            .iter()
            .filter(|member| member.address == self.own_address());
        let share = own.map(weight).sum::<f64>() / members.iter().map(weight).sum::<f64>();
        // Who is no member has no part; what it is asked for is to be loaded all the same.
        if share > 0.0 { share } else { 1.0 }
    }

    /// Goes by another roster from now on, and closes the links to nodes that it does not know.
    pub(super) fn replace(&self, old: &Roster, new: Arc<Roster>) {
        *self.roster.write() = new.clone();
        let new = new.linked();
        let stays: HashSet<_> = new.iter().map(Arc::as_ptr).collect();
        let gone = old.linked().into_iter();
        let gone = gone.filter(|peer| !stays.contains(&Arc::as_ptr(peer)));
        let gone: Vec<_> = gone.collect();
        for forward in gone
            .iter()
            .flat_map(|peer| &peer.links)
            .flat_map(|link| link.close())
        {
            self.go_on(forward);
        }
    }
}
