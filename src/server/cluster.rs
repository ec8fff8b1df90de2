//! What a node tells of its cluster: who is in, what it holds of a key, what a change would take from it. No transport is
//! named here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use super::last_loads::LastLoad;
use super::pb::cluster as pb;
use super::pb::cluster::{
    ClusterMember, MembersReply, MembersRequest, PeekReply, PeekRequest, TopKeysReply,
    TopKeysRequest, WeighReply, WeighRequest, WeighedGroup,
};
use super::service::{Code, Service, Status, UNARY_LIMIT_BYTES};
use crate::cluster::{Epoch, Member, Placement, View, slot};
use crate::group::Group;

/// Members that one question may add or remove.
const CHANGES_MAX: usize = 64;
/// Keys that are told as those that are asked for most.
const TOP_KEYS_MAX: usize = 1000;
/// What is told of a key beside group and key, at the most.
const BESIDE_KEY_BYTES: usize = 32;

/// The calls of `corecache.v1.Cluster`.
pub(super) struct Cluster {
    service: Arc<Service>,
    is_weighing: Arc<AtomicBool>,
    /// What is told of the express door; 0 for nothing.
    express_port: AtomicU16,
    /// By this a caller can tell that he has the same node at either door.
    node: u64,
}

impl Cluster {
    pub fn new(service: Arc<Service>) -> Self {
        Self {
            service,
            is_weighing: Arc::default(),
            express_port: AtomicU16::new(0),
            node: ahash::RandomState::new().hash_one(()),
        }
    }

    /// The express door is open at `express`. It is told of if it is reached by the same host as the front door, at `front`.
    pub fn tell_express(&self, express: SocketAddr, front: SocketAddr) {
        if shares_host(express, front) {
            self.express_port.store(express.port(), Ordering::Relaxed);
        }
    }

    pub fn members(&self, request: &MembersRequest) -> MembersReply {
        let mut reply = MembersReply::new();
        reply.version = env!("CARGO_PKG_VERSION").to_owned();
        reply.node = self.node;
        reply.express_port = self.express_port.load(Ordering::Relaxed).into();
        if let Some(ring) = self.service.peers.ring() {
            reply.epoch = ring.epoch().0;
            if request.known_epoch != reply.epoch {
                reply.members = ring.members().iter().map(written).collect();
            }
        }
        reply
    }

    pub fn peek(&self, request: &PeekRequest) -> Result<PeekReply, Status> {
        let group = self.service.group(request.group.as_bytes())?;
        group.check_key(&request.key)?;
        let mut reply = PeekReply::new();
        reply.epoch = self.service.peers.epoch().0;
        if let Some(holding) = group.peek(&request.key) {
            reply.held = true;
            reply.value_bytes = holding.value_bytes;
            reply.entry_bytes = holding.entry_bytes;
            reply.expires_in_ms = holding.expires_in.map(|left| left.as_millis() as u64);
        }
        let last = self.service.loaders.last(group, &request.key);
        reply.last_load = last.map(told).into();
        Ok(reply)
    }

    /// The keys that are asked for most.
    pub fn top_keys(&self, request: &TopKeysRequest) -> Result<TopKeysReply, Status> {
        if !request.group.is_empty() {
            self.service.group(request.group.as_bytes())?;
        }
        let count = match request.count {
            0 => TOP_KEYS_MAX,
            count => TOP_KEYS_MAX.min(count as usize),
        };
        let top = self.service.hot.top();
        let is_wanted = |name: &str| request.group.is_empty() || name == request.group;
        let keys = top.keys().iter().filter(|top| is_wanted(top.group.name()));
        // Of the largest keys a reply has room for fewer.
        let mut left_bytes = UNARY_LIMIT_BYTES;
        let keys = keys.take(count).map_while(|top| {
            let bytes = top.group.name().len() + top.key.len() + BESIDE_KEY_BYTES;
            left_bytes = left_bytes.checked_sub(bytes)?;
            let mut told = pb::TopKey::new();
            top.group.name().clone_into(&mut told.group);
            told.key = top.key.to_vec();
            told.rate = top.rate;
            Some(told)
        });
        let mut reply = TopKeysReply::new();
        reply.keys = keys.collect();
        reply.hot_rate = self.service.hot.hot_rate();
        Ok(reply)
    }

    /// Checks the change; the walk itself takes a thread that may be busy for a while.
    pub fn begin_weighing(&self, request: &WeighRequest) -> Result<Weighing, Status> {
        let (now, epoch) = self.view()?;
        let then = changed(&now, &request.add, &request.remove)?;
        if self.is_weighing.swap(true, Ordering::Acquire) {
            let message =
                "the node is weighing what it holds for another call; try again in a moment";
            return Err(Status::new(Code::ResourceExhausted, message));
        }
        Ok(Weighing {
            service: self.service.clone(),
            _turn: Turn(self.is_weighing.clone()),
            now,
            epoch,
            then,
        })
    }

    /// The members, with this node as the only one if it has always been alone.
    fn view(&self) -> Result<(View, Epoch), Status> {
        let peers = &self.service.peers;
        let (members, epoch) = match peers.ring() {
            Some(ring) => (ring.members().to_vec(), ring.epoch()),
            None => (vec![Member::new(peers.own_address())], Epoch(0)),
        };
        View::new(members)
            .map(|view| (view, epoch))
            .map_err(|_| Status::internal())
    }
}

/// Whether who reaches the front door reaches the express door by the same host.
fn shares_host(express: SocketAddr, front: SocketAddr) -> bool {
    express.ip().is_unspecified() || express.ip() == front.ip()
}

fn written(member: &Member) -> ClusterMember {
    let mut written = ClusterMember::new();
    written.address.clone_from(&member.address);
    written.weight = member.weight;
    written.zone.clone_from(&member.zone);
    written
}

fn told(load: LastLoad) -> pb::LastLoad {
    let mut told = pb::LastLoad::new();
    told.age_ms = load.ended.elapsed().as_millis() as u64;
    told.took_ms = load.took.as_millis() as u64;
    told.code = load
        .outcome
        .map_or_else(|kind| Code::from(kind) as i32, |()| 0);
    told
}

/// The view after a change. Who is added takes the place of one with that address.
fn changed(now: &View, add: &[String], remove: &[String]) -> Result<View, Status> {
    let wrong = |message: String| Status::new(Code::InvalidArgument, message);
    if add.len() + remove.len() > CHANGES_MAX {
        let message = format!(
            "{} changes at once; {CHANGES_MAX} are the most",
            add.len() + remove.len()
        );
        return Err(wrong(message));
    }
    let joined: Result<Vec<_>, _> = add.iter().map(|text| Member::parse(text)).collect();
    let joined = joined.map_err(|error| wrong(error.to_string()))?;
    if let Some(unknown) = remove
        .iter()
        .find(|address| now.position(address).is_none())
    {
        return Err(wrong(format!("{unknown:?} is no member of the cluster")));
    }
    let stays = |member: &&Member| {
        !remove.contains(&member.address)
            && joined.iter().all(|joined| joined.address != member.address)
    };
    let mut members: Vec<_> = now.members().iter().filter(stays).cloned().collect();
    members.extend(joined.iter().cloned());
    View::new(members).map_err(|error| wrong(error.to_string()))
}

/// Frees the place of the one walk when that is over.
struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A walk over what is held, to be run.
pub(super) struct Weighing {
    service: Arc<Service>,
    _turn: Turn,
    now: View,
    epoch: Epoch,
    then: View,
}

impl Weighing {
    pub fn run(self) -> WeighReply {
        let now = Placement::new(&self.now);
        let then = now.next(&self.then);
        let own = self.now.position(self.service.peers.own_address());
        let mut reply = WeighReply::new();
        reply.epoch = self.epoch.0;
        let groups = self.service.groups.iter();
        reply.groups = groups
            .map(|group| weighed(group, own, &now, &then))
            .collect();
        reply.groups.sort_by(|a, b| a.name.cmp(&b.name));
        reply
    }
}

fn weighed(group: &Group, own: Option<usize>, now: &Placement, then: &Placement) -> WeighedGroup {
    let mut weighed = WeighedGroup::new();
    weighed.name = group.name().to_owned();
    weighed.origin = group.origin().to_owned();
    let owner = |placement: &Placement, slot: usize| -> Option<usize> {
        let owner = usize::from(placement.owners()[slot]);
        (owner < placement.view().members().len()).then_some(owner)
    };
    let own_then = own.and_then(|own| {
        let address = &now.view().members()[own].address;
        then.view().position(address)
    });
    group.for_each_held(|key, bytes| {
        weighed.entries += 1;
        weighed.bytes += bytes;
        let slot = slot(group.name().as_bytes(), key);
        if own.is_none() || owner(now, slot) != own {
            return;
        }
        weighed.owned_entries += 1;
        weighed.owned_bytes += bytes;
        if own_then.is_none() || owner(then, slot) != own_then {
            weighed.moving_entries += 1;
            weighed.moving_bytes += bytes;
        }
    });
    weighed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(members: &[&str]) -> View {
        let members = members.iter().map(|text| Member::parse(text).unwrap());
        View::new(members.collect()).unwrap()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn an_express_door_on_another_host_is_not_told_of() {
        let shares = |express: &str, front: &str| {
            shares_host(express.parse().unwrap(), front.parse().unwrap())
        };
        assert!(shares("0.0.0.0:2", "10.0.0.1:1"));
        assert!(shares("10.0.0.1:2", "10.0.0.1:1"));
        assert!(shares("[::]:2", "[::]:1"));
        assert!(!shares("127.0.0.1:2", "0.0.0.0:1"));
        assert!(!shares("127.0.0.1:2", "10.0.0.1:1"));
    }

    #[test]
    fn members_join_leave_and_change_their_weight() {
        let now = view(&["a:1", "b:1"]);
        let then = changed(&now, &texts(&["c:1@x", "a:1=200"]), &texts(&["b:1"])).unwrap();
        assert_eq!(then, view(&["a:1=200", "c:1@x"]));
    }

    #[test]
    fn what_is_no_change_is_refused() {
        let now = view(&["a:1"]);
        for (add, remove, words) in [
            (&["b"][..], &[][..], "no port"),
            (&[], &["b:1"], "no member of the cluster"),
            (&["b:1", "b:1=2"], &[], "twice"),
        ] {
            let refused = changed(&now, &texts(add), &texts(remove)).unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument);
            assert!(refused.message.contains(words), "{}", refused.message);
        }
        let many: Vec<_> = (1..=65).map(|port| format!("b:{port}")).collect();
        assert!(changed(&now, &many, &[]).is_err());
    }
}
