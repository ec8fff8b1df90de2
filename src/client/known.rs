//! What the client knows of the cluster, and whom it asks for a key.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::dial::{Dialler, can_be_dialled};
use super::node::Node;
use crate::cluster::{Epoch, Member, Placement, Ring, View, slot};
use crate::server::pb::cluster::MembersReply;

/// Ranks that are asked for a key before any other node is.
const RANKS: usize = 3;

/// The nodes, and who of them owns what.
pub(super) struct Known {
    /// None while nothing was learned, of a node that is alone, and where the nodes go by rules that this client has not.
    pub placement: Option<Placement>,
    /// The epoch that the nodes told.
    pub epoch: Epoch,
    /// By their positions in the placement.
    pub members: Vec<Arc<Node>>,
    /// Those that the client was made with.
    pub given: Vec<Arc<Node>>,
    turn: AtomicUsize,
}

impl Known {
    pub fn new(given: Vec<Arc<Node>>) -> Self {
        Self {
            placement: None,
            epoch: Epoch(0),
            members: Vec::new(),
            given,
            turn: AtomicUsize::new(0),
        }
    }

    /// What is known after this reply; none if that is the same.
    pub fn learn(&self, reply: &MembersReply, dialler: &Dialler) -> Option<Self> {
        if reply.epoch == self.epoch.0 || reply.members.is_empty() {
            return None;
        }
        if let Some(member) = reply.members.iter().find(|of| !can_be_dialled(&of.address)) {
            log::warn!(
                "what a node says of its cluster is no view: {:?} is no address",
                member.address
            );
            return None;
        }
        let members = reply.members.iter().map(|member| Member {
            address: member.address.clone(),
            weight: member.weight,
            zone: member.zone.clone(),
        });
        let view = View::new(members.collect())
            .inspect_err(|error| log::warn!("what a node says of its cluster is no view: {error}"))
            .ok()?;
        let placement = match &self.placement {
            Some(placement) => placement.next(&view),
            None => Placement::new(&view),
        };
        let is_ours = placement.epoch().0 == reply.epoch;
        if !is_ours {
            log::warn!(
                "the nodes (version {}) go by rules of placement that this client has not; it asks any of them",
                reply.version
            );
        }
        let all = self.all();
        let node = |member: &Member| {
            let known = all.iter().find(|node| node.address == member.address);
            known
                .cloned()
                .unwrap_or_else(|| Node::new(dialler, &member.address))
        };
        Some(Self {
            members: view.members().iter().map(node).collect(),
            placement: is_ours.then_some(placement),
            epoch: Epoch(reply.epoch),
            given: self.given.clone(),
            turn: AtomicUsize::new(0),
        })
    }

    /// All nodes, each once.
    pub fn all(&self) -> Vec<Arc<Node>> {
        let mut all = self.members.clone();
        for node in &self.given {
            if all.iter().all(|known| known.address != node.address) {
                all.push(node.clone());
            }
        }
        all
    }

    /// Who is to be asked for a key next, `tried` having failed: its owner, who follows in rank, anybody. Those that are
    /// down come last.
    pub fn pick(&self, group: &[u8], key: &[u8], tried: &[Arc<Node>]) -> Option<Arc<Node>> {
        let is_fresh = |node: &Arc<Node>| !tried.iter().any(|tried| Arc::ptr_eq(tried, node));
        let is_good = |node: &Arc<Node>| node.is_up() && is_fresh(node);
        let mut ranked = [0; RANKS];
        let owner = self.ranked(group, key, &mut ranked[..1]);
        if let Some(owner) = owner.first()
            && is_good(owner)
        {
            return Some(Arc::clone(owner));
        }
        let ranked = self.ranked(group, key, &mut ranked);
        if let Some(node) = ranked.iter().find(|node| is_good(node)) {
            return Some(Arc::clone(node));
        }
        let mut all = self.all();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let middle = turn % all.len().max(1);
        all.rotate_left(middle);
        let mut ranks = ranked.into_iter();
        let found = all.iter().find(|node| is_good(node)).cloned();
        found
            .or_else(|| ranks.find(|node| is_fresh(node)).cloned())
            .or_else(|| all.into_iter().find(is_fresh))
    }

    /// Whether somebody who is up could be asked in place of `node`, `tried` having failed.
    pub fn has_other(&self, node: &Node, tried: &[Arc<Node>]) -> bool {
        let is_tried = |other: &Arc<Node>| tried.iter().any(|tried| Arc::ptr_eq(tried, other));
        let all = self.members.iter().chain(&self.given);
        let mut others = all.filter(|other| other.address != node.address);
        others.any(|other| other.is_up() && !is_tried(other))
    }

    fn ranked(&self, group: &[u8], key: &[u8], ranked: &mut [u16]) -> Vec<&Arc<Node>> {
        let Some(placement) = &self.placement else {
            return Vec::new();
        };
        let ranks = placement.rank(group, key, ranked);
        let node = |&position: &u16| &self.members[usize::from(position)];
        ranked[..ranks].iter().map(node).collect()
    }

    /// The slot of a key, and the nodes that are asked for it, best first.
    pub fn ranks(&self, group: &[u8], key: &[u8], count: usize) -> (usize, Vec<Arc<Node>>) {
        let mut ranked = vec![0; count];
        let ranked = self.ranked(group, key, &mut ranked);
        let ranked = match ranked.is_empty() {
            true => self.all().into_iter().take(count).collect(),
            false => ranked.into_iter().cloned().collect(),
        };
        (slot(group, key), ranked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::pb::cluster::ClusterMember;

    fn reply(epoch: u64, addresses: &[&str]) -> MembersReply {
        let mut reply = MembersReply::new();
        reply.epoch = epoch;
        reply.members = addresses
            .iter()
            .map(|address| {
                let mut member = ClusterMember::new();
                (member.address, member.weight) = ((*address).to_owned(), 100);
                member
            })
            .collect();
        reply
    }

    fn epoch(addresses: &[&str]) -> u64 {
        let members = addresses.iter().map(|address| Member::new(*address));
        let view = View::new(members.collect()).unwrap();
        Placement::new(&view).epoch().0
    }

    #[test]
    fn the_owner_is_asked_then_the_ranks_then_anybody() {
        let dialler = Dialler::new(1, None).unwrap();
        let four = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"];
        let known = Known::new(vec![Node::new(&dialler, "127.0.0.1:9")]);
        assert_eq!(known.pick(b"g", b"k", &[]).unwrap().address, "127.0.0.1:9");
        let known = known.learn(&reply(epoch(&four), &four), &dialler).unwrap();
        let (_, ranks) = known.ranks(b"g", b"k", 3);
        let mut tried = Vec::new();
        for rank in &ranks {
            let next = known.pick(b"g", b"k", &tried).unwrap();
            assert!(Arc::ptr_eq(&next, rank));
            tried.push(next);
        }
        while let Some(next) = known.pick(b"g", b"k", &tried) {
            tried.push(next);
        }
        assert_eq!(tried.len(), 5, "all members, and the one that was given");
        assert!(!known.has_other(&tried[0], &tried[1..]));
        assert!(known.has_other(&tried[0], &tried[2..]));
        assert!(tried[1].set_down(true) && !known.has_other(&tried[0], &tried[2..]));
        tried[1].set_down(false);
        // Who is down comes after all others.
        assert!(ranks[0].set_down(true));
        let second = known.pick(b"g", b"k", &[]).unwrap();
        assert!(Arc::ptr_eq(&second, &ranks[1]));
        let last = known.pick(b"g", b"k", &tried[1..]).unwrap();
        assert!(Arc::ptr_eq(&last, &ranks[0]));
    }

    #[test]
    fn nodes_stay_and_other_rules_are_not_gone_by() {
        let dialler = Dialler::new(1, None).unwrap();
        let two = ["127.0.0.1:1", "127.0.0.1:2"];
        let known = Known::new(vec![Node::new(&dialler, two[0])]);
        let first = known.given[0].clone();
        let known = known.learn(&reply(epoch(&two), &two), &dialler).unwrap();
        assert!(Arc::ptr_eq(&known.members[0], &first));
        assert_eq!(known.all().len(), 2);
        assert!(known.learn(&reply(epoch(&two), &[]), &dialler).is_none());
        let strange = known.learn(&reply(7, &two), &dialler).unwrap();
        assert!(strange.placement.is_none());
        assert_eq!(strange.epoch, Epoch(7));
        assert!(strange.pick(b"g", b"k", &[]).is_some());
    }
}
