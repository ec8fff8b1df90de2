//! The other nodes: who is asked for what is missed here, and what is done when one can not be.
//!
//! ```text
//! miss ──► ring: who owns the key?
//!            this node ──────────────────────────────► loaders
//!            another ──► its link ──► answered ──────► all who wait here
//!                          │ it can not be reached, is silent, talks nonsense
//!                          ▼
//!                        the next in rank, and the next; then loaders
//! ```
//!
//! The parked load of the key waits at the link, so that a node asks for a key once, however many ask it. A node that is
//! asked by another never passes the question on, and never waits for a third one to load: nodes whose rings differ load
//! where they are. A key that has just become this node's is peeked for before it is loaded: see `handover`. No transport
//! is named here but in `dial`.

mod agreement;
mod answering;
mod dial;
mod figures;
mod handover;
mod offers;
mod parts;
mod pulls;
mod recent;
mod tries;
mod wire;

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use super::hot::{Hot, Kept};
use super::loaders::Loaders;
use super::service::Code;
use crate::cluster::link::{Figures, Link, Lost, Refused};
use crate::cluster::membership::Membership;
use crate::cluster::{Epoch, Member, Placement, Ring};
use crate::group::error::ErrorKind;
use crate::group::frame;
use crate::group::relay::{Keep, Relayed};
use crate::group::{Group, PendingLoad, Value};
pub(super) use answering::Answering;
pub(super) use dial::{Dialler, LinkTls};
pub(super) use figures::PeerMetrics;
use handover::{Former, Holders, by_address};
use parts::AtHand;
pub(super) use parts::Seal;
use pulls::Pulls;
use recent::Recent;
use tries::Tries;
use wire::{Outcome, Refusal, Sent};

/// Nodes that are asked for a key, one after the other, before a node does it alone.
const RANKS: usize = 3;
/// How long a node keeps what it had to load although it is another's.
const KEEP_ALONE: Duration = Duration::from_secs(5);
/// How often links are looked at while something is under way on them, and while nothing is.
const LOOK_BUSY: Duration = Duration::from_millis(20);
const LOOK_IDLE: Duration = Duration::from_millis(200);
/// So old a stream gets, where there is another: nodes close connections after a time.
const RETIRE_AFTER: Duration = Duration::from_secs(20 * 60);
/// An entry beside its key and its value, more or less.
const ENTRY_BYTES: usize = 64;
/// A question beside its key.
const QUESTION_BYTES: usize = 64;

/// How nodes ask each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// Connections to each of the other nodes.
    pub links: usize,
    /// How long a node that says nothing is waited for, before the next one is asked.
    pub patience: Duration,
    /// How long a hot value of another node is kept; zero for not at all.
    pub keep: Duration,
    /// How often a key is asked for that is hot, a second.
    pub hot_rate: u32,
    /// The most that values of other nodes may take, in bytes.
    pub hot_share_bytes: usize,
    /// How long, after the members have changed, a node asks the others whether they hold a key that has become its own,
    /// before it loads it; zero for not at all.
    pub handover: Duration,
    /// How long a node that has started says that it is not ready, at the most, while its keys come from others.
    pub wait_warm: Duration,
    /// The PEM file of those who sign the certificates of the other nodes; needed where nodes have TLS.
    pub roots: Option<Vec<u8>>,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            links: 2,
            patience: Duration::from_millis(500),
            keep: Duration::from_secs(10),
            hot_rate: 100,
            hot_share_bytes: 8 << 20,
            handover: Duration::from_secs(180),
            wait_warm: Duration::ZERO,
            roots: None,
        }
    }
}

/// What has become of what was missed and is another node's.
#[derive(Default)]
pub(super) struct Counts {
    /// Keys that another node was asked for.
    pub asked: AtomicU64,
    /// Values that came from there.
    pub values: AtomicU64,
    /// Values among them that were hot, and are kept here for a time.
    pub kept: AtomicU64,
    /// Times that the next in rank was turned to.
    pub passed_over: AtomicU64,
    /// Keys that were loaded here because no other node could be asked.
    pub alone: AtomicU64,
    /// Keys that were loaded here because the other node said so: it goes by another ring, or does not send large values.
    pub sent_back: AtomicU64,
    /// Large ones that came in parts.
    pub pulled: AtomicU64,
    /// Times that a large one did not come whole.
    pub pulls_failed: AtomicU64,
    /// Values that came, but had no room beside the large ones, so that they were loaded and kept here.
    pub roomless: AtomicU64,
    /// Times that another node was asked whether it holds a key that has become this node's.
    pub peeked: AtomicU64,
    /// Values that came from there.
    pub handed_over: AtomicU64,
}

/// The other nodes, and which of them is asked for what.
pub(super) struct Peers {
    own_address: OnceLock<String>,
    config: LinkConfig,
    loaders: Loaders,
    dialler: Dialler,
    roster: RwLock<Arc<Roster>>,
    /// Held while another roster is made.
    turning: Mutex<()>,
    hot: Arc<Hot>,
    pub kept: Kept,
    pulls: Pulls,
    at_hand: AtHand,
    recent: Recent,
    hasher: ahash::RandomState,
    pub counts: Counts,
    /// Told when there are other nodes.
    changed: Condvar,
    look: Mutex<()>,
}

/// A ring, with the links to its members.
struct Roster {
    ring: Option<Arc<dyn Ring>>,
    /// By their positions in the ring; none for this node.
    peers: Vec<Option<Arc<Peer>>>,
    /// Those that it went by before, the last one first.
    former: Vec<Former>,
}

/// A node, and the links to it.
pub(super) struct Peer {
    pub address: String,
    links: Vec<Arc<Link<Forward>>>,
    /// What was last said of it: what is said again and again is logged once.
    noted: Mutex<String>,
    odds: agreement::Known,
}

/// A load on its way to another node.
pub(super) struct Forward {
    load: PendingLoad,
    roster: Arc<Roster>,
    aim: Aim,
    /// What was said to be left to the one who was asked last.
    until: Instant,
}

/// Who is asked.
enum Aim {
    /// Those in rank for the key, until one has loaded it.
    Ranks {
        /// Who is first. Who follows is looked for when that one has failed.
        owner: u16,
        /// The rank that is the next to be asked.
        next: usize,
        /// Whether a large value was not there any more when it was to be read.
        was_gone: bool,
    },
    /// Those who may hold a key of this node's, whether they do.
    Holders(Box<Holders>),
}

impl Peers {
    /// Starts the thread that looks after the links. Without a ring there are none.
    pub fn start(
        config: LinkConfig,
        loaders: Loaders,
        hot: Arc<Hot>,
        dialler: Dialler,
    ) -> io::Result<Arc<Self>> {
        let peers = Arc::new(Self {
            own_address: OnceLock::new(),
            kept: Kept::new(config.hot_share_bytes),
            config,
            loaders,
            dialler,
            roster: RwLock::new(Arc::new(Roster {
                ring: None,
                peers: Vec::new(),
                former: Vec::new(),
            })),
            turning: Mutex::new(()),
            hot,
            pulls: Pulls::start()?,
            at_hand: AtHand::default(),
            recent: Recent::new(),
            hasher: ahash::RandomState::new(),
            counts: Counts::default(),
            changed: Condvar::new(),
            look: Mutex::new(()),
        });
        let looked_at = peers.clone();
        thread::Builder::new()
            .name("links".to_owned())
            .spawn(move || looked_at.run())?;
        Ok(peers)
    }

    /// Goes by what is known of the members, from now on.
    pub fn follow(self: &Arc<Self>, members: &Membership) {
        let _ = self.own_address.set(members.own_address().to_owned());
        let peers = self.clone();
        let mut last: Option<Arc<Placement>> = None;
        members.subscribe(move |view| {
            // A node that has always been alone needs no table for that.
            if last.is_none() && view.members().len() < 2 {
                return;
            }
            // The others had their keys without this node.
            let first = || Arc::new(Placement::new(&peers.without_own(&view)));
            let before = last.take().unwrap_or_else(first);
            let ring = Arc::new(before.next(&view));
            peers.turn_to(ring.clone(), before);
            last = Some(ring);
        });
    }

    /// The address by which the others know this node; empty for one that is no member yet.
    pub fn own_address(&self) -> &str {
        self.own_address.get().map_or("", String::as_str)
    }

    /// Whether there are other nodes.
    pub fn has_others(&self) -> bool {
        let roster = self.roster.read();
        let ring = roster.ring.as_ref();
        ring.is_some_and(|ring| ring.members().len() > 1)
    }

    /// The ring that this node goes by; none if it has always been alone.
    pub fn ring(&self) -> Option<Arc<dyn Ring>> {
        self.roster.read().ring.clone()
    }

    /// The ring that this node goes by.
    pub fn epoch(&self) -> Epoch {
        self.roster.read().epoch()
    }

    /// Goes by this ring from now on, by which keys have come from where the one before says. Links to nodes that are in it
    /// still stay as they are.
    fn turn_to(&self, ring: Arc<dyn Ring>, before: Arc<dyn Ring>) {
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
    fn replace(&self, old: &Roster, new: Arc<Roster>) {
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

    /// All other members.
    pub fn all(&self) -> Vec<Arc<Peer>> {
        self.roster.read().peers.iter().flatten().cloned().collect()
    }

    /// Has a load done by the node that owns its key, or the next best.
    pub fn load(&self, load: PendingLoad) {
        let roster = self.roster.read().clone();
        let Some(ring) = &roster.ring else {
            return self.load_here(load);
        };
        let mut owner = [0];
        let ranks = ring.rank(load.group().name().as_bytes(), load.key(), &mut owner);
        let is_own = |position: u16| roster.peers[usize::from(position)].is_none();
        // Another node may wait for it here: it must not wait for yet another one.
        if ranks == 0 || is_own(owner[0]) {
            return self.hand_over(load, roster);
        }
        if !load.send_away() {
            return self.load_here(load);
        }
        self.counts.asked.fetch_add(1, Ordering::Relaxed);
        self.go_on(Forward {
            until: load.wanted_until(),
            load,
            aim: Aim::Ranks {
                owner: owner[0],
                next: 0,
                was_gone: false,
            },
            roster,
        });
    }

    /// Does a load for another node, which takes this one for the owner of the key or the next best.
    pub fn load_own(&self, load: PendingLoad) {
        let roster = self.roster.read().clone();
        match roster.is_own(&load) {
            true => self.hand_over(load, roster),
            false => self.load_here(load),
        }
    }

    /// Has a key of this node's from who held it until now, or loads it.
    fn hand_over(&self, load: PendingLoad, roster: Arc<Roster>) {
        let holders = roster.holders(&load, Instant::now());
        if holders.is_empty() {
            return self.load_here(load);
        }
        self.go_on(Forward {
            until: load.wanted_until(),
            load,
            aim: Aim::Holders(Box::new(holders)),
            roster,
        });
    }

    /// Asks the next one.
    fn go_on(&self, forward: Forward) {
        match forward.is_peek() {
            true => self.peek_on(forward),
            false => self.rank_on(forward),
        }
    }

    fn rank_on(&self, mut forward: Forward) {
        while let Some(position) = forward.take_next() {
            let Some(peer) = forward.roster.peers[usize::from(position)].clone() else {
                // All before this node have failed: it stands in for them.
                forward.load.take_back(None);
                return self.load_here(forward.load);
            };
            if forward.is_passed_over() {
                self.counts.passed_over.fetch_add(1, Ordering::Relaxed);
            }
            match peer.ask(forward) {
                Ok(()) => return,
                Err((back, Refused::Unreachable)) => forward = back,
                Err((back, Refused::Full(full))) => {
                    let cause = format!("node {} is asked for too much: {full}", peer.address);
                    return back.load.refuse(cause);
                }
            }
        }
        self.counts.alone.fetch_add(1, Ordering::Relaxed);
        forward.load.take_back(Some(KEEP_ALONE));
        self.load_here(forward.load);
    }

    fn load_here(&self, load: PendingLoad) {
        let group = load.group().clone();
        self.loaders.submit(&group, load);
    }

    /// Takes what another node has answered; false if that is not what it was asked for.
    fn answered(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        forward: Forward,
        outcome: &Outcome<'_>,
    ) -> bool {
        match *outcome {
            Outcome::Value(sent) => {
                let is_its = wire::checksum(forward.load.key(), sent.frame) == sent.checksum;
                let is_good = is_its && frame::is_valid(sent.frame);
                match is_good {
                    true => self.take(forward, &sent),
                    false => self.go_on(forward),
                }
                is_good
            }
            Outcome::TooLarge(value_bytes) => {
                self.pull(forward, peer, value_bytes);
                true
            }
            // It was a peek: the next one may hold it.
            Outcome::Failure(..) | Outcome::Refusal(_) if forward.is_peek() => {
                self.go_on(forward);
                true
            }
            Outcome::Failure(code, message) => match kind_of(code) {
                Some(ErrorKind::TimedOut) if forward.is_wanted_longer() => {
                    self.ask_again(forward);
                    true
                }
                Some(kind) => {
                    let message = String::from_utf8_lossy(message).into_owned();
                    forward.load.fail(Relayed { kind, message });
                    true
                }
                None => {
                    self.go_on(forward);
                    false
                }
            },
            Outcome::Refusal(Refusal::LoadItYourself) => {
                self.counts.sent_back.fetch_add(1, Ordering::Relaxed);
                let mut load = forward.load;
                load.take_back(Some(KEEP_ALONE));
                self.load_here(load);
                true
            }
            // It was not a peek; and what loads is not taken from the link.
            Outcome::Refusal(Refusal::NotHeld) | Outcome::Loading | Outcome::Nothing => {
                self.go_on(forward);
                false
            }
        }
    }

    fn take(&self, forward: Forward, sent: &Sent<'_>) {
        let is_hot = || self.is_hot(&forward.load, sent.rate);
        let keep = self.keep(&forward, sent.frame.len(), sent.lives, is_hot);
        if let Err(mut load) = forward.load.fulfil(sent.frame, keep) {
            // Loaded and kept here it is in the budget, and waits as others do.
            self.counts.roomless.fetch_add(1, Ordering::Relaxed);
            load.take_back(Some(KEEP_ALONE));
            self.load_here(load);
        }
    }

    fn lost(&self, forward: Forward, why: Lost) {
        match why {
            _ if forward.is_peek() => self.go_on(forward),
            Lost::Broken | Lost::Unheard => self.go_on(forward),
            Lost::TooLate if forward.load.wanted_until() > Instant::now() => {
                self.ask_again(forward);
            }
            Lost::TooLate => forward.load.give_up(),
        }
    }

    /// Others have come who have more time: the same node is asked once more.
    fn ask_again(&self, mut forward: Forward) {
        if let Aim::Ranks { next, .. } = &mut forward.aim {
            *next -= 1;
        }
        self.go_on(forward);
    }

    /// Counts a value that has come, and says how long it is kept, if it has so long to live: not at all, unless it is hot
    /// and there is room for it.
    fn keep(
        &self,
        forward: &Forward,
        bytes: usize,
        lives: Option<Duration>,
        is_hot: impl FnOnce() -> bool,
    ) -> Keep {
        let load = &forward.load;
        let (count, keep) = match forward.is_peek() {
            true => (&self.counts.handed_over, Keep::Always),
            false => (&self.counts.values, self.keep_hot(load, bytes, is_hot)),
        };
        count.fetch_add(1, Ordering::Relaxed);
        match (keep, lives) {
            (Keep::Always, Some(lives)) => Keep::For(lives),
            (Keep::For(keep), Some(lives)) => Keep::For(keep.min(lives)),
            (keep, _) => keep,
        }
    }

    /// A value of this group was loaded for another node, which is about to read it in parts.
    fn keep_at_hand(&self, group: &Group, value: Value) {
        self.at_hand.put(group, value, Instant::now());
        // Whoever looks after the links lets go of it.
        let _look = self.look.lock();
        self.changed.notify_one();
    }

    /// Whether a key is hot here, or at the node that has said how often it is asked for it.
    fn is_hot(&self, load: &PendingLoad, rate_there: u64) -> bool {
        let hot_rate = self.hot.hot_rate();
        rate_there as f64 >= hot_rate || self.hot.top().rate(load.group(), load.key()) >= hot_rate
    }

    /// Whether a key has been asked for a moment ago. For large values: to pull one twice is enough.
    fn is_known(&self, load: &PendingLoad) -> bool {
        let hash = self.hasher.hash_one((load.group().name(), load.key()));
        self.recent.note(hash, self.config.keep, Instant::now())
    }

    fn keep_hot(
        &self,
        load: &PendingLoad,
        value_bytes: usize,
        is_hot: impl FnOnce() -> bool,
    ) -> Keep {
        let keep = self.config.keep;
        let least_bytes = ENTRY_BYTES + load.key().len() + value_bytes;
        // Memory is given in sizes that are a quarter apart at the most.
        let bytes = least_bytes + least_bytes / 4;
        match !keep.is_zero() && is_hot() && self.kept.take_room(bytes, keep, Instant::now()) {
            true => {
                self.counts.kept.fetch_add(1, Ordering::Relaxed);
                Keep::For(keep)
            }
            false => Keep::No,
        }
    }

    /// Looks after the links; sleeps while there are none.
    fn run(self: &Arc<Self>) {
        let mut tries = Tries::new(Instant::now());
        let mut turn = 0;
        let mut look = self.look.lock();
        loop {
            let peers = self.linked();
            let pulls_wait = self.pulls.waiting() > 0;
            let is_busy = pulls_wait || peers.iter().any(|peer| peer.is_busy());
            let nothing_is_at_hand = self.at_hand.forget(Instant::now());
            if peers.is_empty() && nothing_is_at_hand {
                self.changed.wait(&mut look);
            } else if is_busy {
                self.changed.wait_for(&mut look, LOOK_BUSY);
            } else {
                self.changed.wait_for(&mut look, LOOK_IDLE);
            }
            parking_lot::MutexGuard::unlocked(&mut look, || {
                self.forget_former(Instant::now());
                // Where not all may be tried, those are first that come after the last one that was.
                let mut peers = self.linked();
                let first = turn % peers.len().max(1);
                peers.rotate_left(first);
                for (number, peer) in peers.iter().enumerate() {
                    if self.look_at(peer, &mut tries) {
                        turn = first + number + 1;
                    }
                }
                self.compare_rings(Instant::now());
                if pulls_wait {
                    // Room that readers have given back is news to nobody.
                    self.begin_pulls();
                }
            });
        }
    }

    /// Returns whether it was tried to reach the node. One that is gone is tried by one of its links, and by the others when
    /// it is back.
    fn look_at(self: &Arc<Self>, peer: &Arc<Peer>, tries: &mut Tries) -> bool {
        let now = Instant::now();
        let mut is_tried = false;
        let mut doubted_since: Option<Instant> = None;
        for (number, link) in peer.links.iter().enumerate() {
            if link.age(now) > RETIRE_AFTER && peer.can_do_without(number) {
                link.retire();
            }
            let may_retry = (number == 0 || peer.is_asked()) && tries.may(now);
            let tick = link.tick(now, may_retry);
            if tick.is_silent {
                peer.note("it says nothing");
            }
            doubted_since = doubted_since.into_iter().chain(tick.doubted_since).min();
            for (forward, why) in tick.lost {
                self.lost(forward, why);
            }
            if let Some(stream) = tick.connect {
                tries.spend();
                is_tried = true;
                dial::open(self, peer, link, stream);
            }
        }
        if let Some(since) = doubted_since {
            peer.links.iter().for_each(|link| link.doubt(since));
        }
        is_tried
    }
}

impl Peer {
    fn new(address: &str, peers: &Peers) -> Self {
        let (config, groups) = (&peers.config, peers.loaders.groups());
        let link = |number| {
            let seed = peers.hasher.hash_one((address, number));
            Arc::new(Link::new(config.patience, seed, groups))
        };
        Self {
            address: address.to_owned(),
            links: (0..config.links).map(link).collect(),
            noted: Mutex::default(),
            odds: agreement::Known::default(),
        }
    }

    /// Each thread has a link that it prefers, so that what it asks in a row is one message.
    fn ask(&self, mut forward: Forward) -> Result<(), (Forward, Refused)> {
        static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = NEXT_THREAD.fetch_add(1, Ordering::Relaxed);
        }
        let first = THREAD.with(|thread| *thread);
        let bytes = QUESTION_BYTES + forward.load.key().len();
        let group = forward.load.group().number();
        forward.until = match forward.is_peek() {
            true => Instant::now() + handover::PATIENCE,
            false => forward.load.wanted_until(),
        };
        let until = forward.until;
        let mut refused = Refused::Unreachable;
        for offset in 0..self.links.len() {
            let link = &self.links[(first + offset) % self.links.len()];
            match link.ask(forward, group, bytes, until) {
                Ok(()) => return Ok(()),
                Err((back, why)) => {
                    forward = back;
                    if why != Refused::Unreachable {
                        refused = why;
                    }
                }
            }
        }
        Err((forward, refused))
    }

    /// A link to it is open.
    fn note_open(&self) {
        self.noted.lock().clear();
        log::info!("node {} is linked to", self.address);
    }

    /// A link to it has failed.
    fn note(&self, why: &str) {
        let mut noted = self.noted.lock();
        if *noted == why {
            return;
        }
        why.clone_into(&mut noted);
        log::warn!(
            "a link to node {} has failed: {why}; it is tried again",
            self.address
        );
    }

    /// Whether another link than that one takes questions.
    fn can_do_without(&self, number: usize) -> bool {
        let mut others = self.links.iter().enumerate();
        others.any(|(other, link)| other != number && link.is_asked())
    }

    /// Whether one of its links takes questions.
    fn is_asked(&self) -> bool {
        self.links.iter().any(|link| link.is_asked())
    }

    fn is_busy(&self) -> bool {
        self.links.iter().any(|link| link.is_busy())
    }

    /// What its links are at.
    pub fn figures(&self) -> impl Iterator<Item = Figures> {
        self.links.iter().map(|link| link.figures())
    }
}

impl Roster {
    fn epoch(&self) -> Epoch {
        let ring = self.ring.as_ref();
        ring.map_or(Epoch(0), |ring| ring.epoch())
    }
}

impl Forward {
    /// The ring by which it is asked for.
    fn epoch(&self) -> Epoch {
        self.roster.epoch()
    }

    /// Whether only what is held is asked for.
    fn is_peek(&self) -> bool {
        matches!(self.aim, Aim::Holders(_))
    }

    /// Whether one that comes before who is asked now has failed.
    fn is_passed_over(&self) -> bool {
        matches!(self.aim, Aim::Ranks { next: 2.., .. })
    }

    /// The next in rank.
    fn take_next(&mut self) -> Option<u16> {
        let Aim::Ranks { owner, next, .. } = &mut self.aim else {
            return None;
        };
        let rank = *next;
        *next += 1;
        if rank == 0 {
            return Some(*owner);
        }
        let mut ranked = [0; RANKS];
        let (group, key) = (self.load.group().name(), self.load.key());
        let ring = self.roster.ring.as_ref()?;
        let ranks = ring.rank(group.as_bytes(), key, &mut ranked);
        ranked[..ranks].get(rank).copied()
    }

    /// Whether the one who was asked had less time than those have who wait now, and that time is over.
    fn is_wanted_longer(&self) -> bool {
        /// What messages may take on their way.
        const SLACK: Duration = Duration::from_millis(100);
        let now = Instant::now();
        self.until <= now + SLACK && self.load.wanted_until() > self.until.max(now)
    }
}

/// What a code means that came with a failure; none for one that no node answers a key with.
fn kind_of(code: i32) -> Option<ErrorKind> {
    const KINDS: [ErrorKind; 8] = [
        ErrorKind::NotFound,
        ErrorKind::InvalidKey,
        ErrorKind::TooLarge,
        ErrorKind::TimedOut,
        ErrorKind::Unavailable,
        ErrorKind::Refused,
        ErrorKind::Busy,
        ErrorKind::Other,
    ];
    let mut kinds = KINDS.into_iter();
    kinds.find(|kind| Code::from(*kind) as i32 == code)
}
