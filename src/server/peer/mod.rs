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
//! where they are. A key that has just become this node's is peeked for before it is loaded: see `handover`. `calls` is how
//! they are called. `routing` is the picture above; `links` looks after the links, `roster` after who is in.

mod agreement;
mod answering;
mod asking;
mod calls;
mod figures;
mod forward;
mod handover;
mod keeping;
mod links;
mod offers;
mod parts;
mod pulls;
mod recent;
mod roster;
mod routing;
mod tries;
mod wire;

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::hot::{Hot, Kept};
use super::loaders::Loaders;
use crate::cluster::membership::Membership;
use crate::cluster::{Epoch, Placement, Ring};
pub(super) use answering::Answering;
pub(super) use calls::{Calls, Driver, Letter, LinkTls, Post};
pub(super) use figures::PeerMetrics;
use forward::Aim;
pub(super) use forward::Forward;
pub(super) use links::{Peer, prefer};
use parts::AtHand;
pub(super) use parts::Seal;
use pulls::Pulls;
use recent::Recent;
use roster::Roster;

/// How long a node keeps what it had to load although it is another's.
const KEEP_ALONE: Duration = Duration::from_secs(5);

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
    calls: Calls,
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

impl Peers {
    /// Starts the thread that looks after the links. Without a ring there are none.
    pub fn start(
        config: LinkConfig,
        loaders: Loaders,
        hot: Arc<Hot>,
        calls: Calls,
    ) -> io::Result<Arc<Self>> {
        let peers = Arc::new(Self {
            own_address: OnceLock::new(),
            kept: Kept::new(config.hot_share_bytes),
            config,
            loaders,
            calls,
            roster: RwLock::new(Arc::new(Roster {
                ring: None,
                peers: Vec::new(),
                former: Vec::new(),
            })),
            turning: Mutex::new(()),
            hot,
            pulls: Pulls::default(),
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

    /// Has these threads drive the links from now on.
    pub fn use_threads(&self, posts: impl IntoIterator<Item = Post>) {
        self.calls.use_threads(posts);
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

    /// All other members.
    pub fn all(&self) -> Vec<Arc<Peer>> {
        self.roster.read().peers.iter().flatten().cloned().collect()
    }
}
