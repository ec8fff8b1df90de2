//! A client of a cluster, or of one node: synchronous, and it asks the owner of a key.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use corecache::client::{Client, ClientError};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder()
//!     .node("cache-1:8800") // any two nodes of the cluster: it learns of the others
//!     .node("cache-2:8800")
//!     .deadline(Duration::from_secs(2))
//!     .build()?;
//! match client.get("blobs", "hello.txt") {
//!     Ok(value) => println!("{} bytes", value.len()),
//!     Err(ClientError::NotFound { .. }) => println!("there is no such key"),
//!     Err(error) => return Err(error.into()),
//! }
//! // Many keys go to their owners at the same time, and come back in order.
//! let keys = ["a", "b", "c"];
//! for (key, value) in keys.iter().zip(client.get_many("blobs", &keys)) {
//!     println!("{key}: {:?}", value.map(|value| value.len()));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A whole program is `examples/ask_cluster.rs`.
//!
//! # What it does
//!
//! It learns from any node who is in the cluster, computes who owns which key as the nodes do, and asks the owner. If that
//! can not be reached, it asks the next in rank, then any node that it knows; a node that was found to be down is asked
//! last, until a thread of the client's has seen that it is back. So callers wait for a node that is gone at most once.
//! A node that says nothing for half a second, or for a third of the time that a call has left, is asked whether it is
//! there; if it is not, it counts as gone. Where no other node is up it is waited for as long as the call may take.
//! A node takes so many calls at a time from a connection: where more than a hundred are under way, it is asked by another one.
//!
//! # Doors
//!
//! Once a node has answered a few calls it is asked whether it has an express door on the same host (`--express`), which
//! answers for a part of the processor time. If that can be reached, values come by it; large ones, and all else, by the
//! front door.
//!
//! # Retries
//!
//! A call is made again only if its node could not be reached, and one call in ten at the most (and ten more, to begin
//! with). What a node has answered is the answer: a key whose origin has failed is not asked for again.
//!
//! # Hot keys
//!
//! Nodes mark the values of keys that they are asked for very often. For ten seconds from then on, such a key is asked of the
//! first nodes in its rank in turn, more of them the hotter it is, up to 16; each of them keeps it while it is hot.
//!
//! # Threads
//!
//! A client has a thread that follows the cluster, and one or more of the gRPC core's. Callers block on their own. A clone
//! shares it all.

mod budget;
mod call;
mod dial;
mod error;
mod explain;
mod express;
mod follow;
mod known;
mod many;
mod node;
mod plan;
mod reading;
mod spread;
mod top;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Sender};
use parking_lot::{Mutex, RwLock};

use crate::cluster::View;
use crate::server::pb::cluster::MembersReply;
use budget::Budget;
use call::Fault;
use dial::{Dialler, can_be_dialled};
use error::Asked;
pub use error::{BuildClientError, ClientError};
pub use explain::{Explanation, Held, LastLoad, Ranked, Seen};
use known::Known;
use node::{Node, Patience};
pub use plan::{Amount, Change, Plan, PlanError, Weighed, WeighedGroup};
use reading::Reading;
use spread::Spread;
pub use top::{TopKey, TopKeys};

/// What a call may take at the most: no time that a clock can not tell.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Nodes that a call goes to, one after the other.
const ATTEMPTS: usize = 5;
/// A node that says nothing of a call for so long is asked whether it is there. Of a call that has little time it is asked
/// sooner, so that there is time left for another node.
const PATIENCE: Duration = Duration::from_millis(500);
const PATIENCE_LEAST: Duration = Duration::from_millis(50);
const PATIENCE_PARTS: u32 = 3;

fn silence(left: Duration) -> Duration {
    (left / PATIENCE_PARTS).clamp(PATIENCE_LEAST, PATIENCE)
}

/// For what no other node can be asked for, and yet is not waited for: what a node has to say of itself.
fn patience(left: Duration) -> Patience<'static> {
    Patience {
        silence: silence(left),
        has_other: &|| true,
    }
}

/// How a client is made.
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: Vec<String>,
    roots: Option<Vec<u8>>,
    deadline: Duration,
    refresh: Duration,
    threads: usize,
}

impl Builder {
    /// A node of the cluster, as `host:port`. Several may be given; one that can be reached is enough.
    pub fn node(mut self, address: impl Into<String>) -> Self {
        self.nodes.push(address.into());
        self
    }

    /// Several nodes.
    pub fn nodes(mut self, addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.nodes.extend(addresses.into_iter().map(Into::into));
        self
    }

    /// Calls the nodes over TLS, and trusts the certificates in this PEM text.
    pub fn tls_ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(pem.into());
        self
    }

    /// What a call may take, with all its retries: 30 seconds if not given, a day at the most.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(DEADLINE_MAX);
        self
    }

    /// How often a node is asked who is in: 5 seconds if not given. It is asked too when a node is lost.
    pub fn refresh(mut self, every: Duration) -> Self {
        self.refresh = every.clamp(Duration::from_millis(100), DEADLINE_MAX);
        self
    }

    /// Threads of the gRPC core: 1 if not given.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Makes the client. No node is called before the first key is asked for.
    ///
    /// # Errors
    /// See [`BuildClientError`].
    pub fn build(self) -> Result<Client, BuildClientError> {
        if self.nodes.is_empty() {
            return Err(BuildClientError::NoNodes);
        }
        if let Some(address) = self.nodes.iter().find(|node| !can_be_dialled(node)) {
            return Err(BuildClientError::Address(address.clone()));
        }
        let dialler = Dialler::new(self.threads, self.roots)?;
        let mut nodes = self.nodes;
        nodes.sort();
        nodes.dedup();
        let given = nodes
            .iter()
            .map(|address| Node::new(&dialler, address))
            .collect();
        // One word is enough for any number of nodes.
        let (news, heard) = channel::bounded(1);
        let inner = Arc::new(Inner {
            dialler,
            known: RwLock::new(Arc::new(Known::new(given))),
            has_learned: AtomicBool::new(false),
            learning: Mutex::new(()),
            budget: Budget::new(),
            spread: Spread::new(),
            news,
        });
        let (followed, every) = (Arc::downgrade(&inner), self.refresh);
        thread::Builder::new()
            .name("client".to_owned())
            .spawn(move || follow::run(&followed, &heard, every))
            .map_err(BuildClientError::Thread)?;
        Ok(Client {
            inner,
            deadline: self.deadline,
        })
    }
}

/// A client of a cluster. See the [module](self).
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    deadline: Duration,
}

struct Inner {
    dialler: Dialler,
    known: RwLock<Arc<Known>>,
    /// Whether a node has told who is in.
    has_learned: AtomicBool,
    learning: Mutex<()>,
    budget: Budget,
    spread: Spread,
    news: Sender<()>,
}

/// What a client has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientStats {
    /// Calls: one for each `get`, and for each part of a `get_many`.
    pub calls: u64,
    /// Calls that were made again.
    pub retries: u64,
}

impl Client {
    /// Begins a client.
    pub fn builder() -> Builder {
        Builder {
            nodes: Vec::new(),
            roots: None,
            deadline: Duration::from_secs(30),
            refresh: Duration::from_secs(5),
            threads: 1,
        }
    }

    /// The same client, for calls that may take so long; see [`Builder::deadline`].
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            inner: self.inner.clone(),
            deadline: deadline.min(DEADLINE_MAX),
        }
    }

    /// The value of a key. One that is too large for one message is read in parts, up to 1 GiB.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get(&self, group: &str, key: impl AsRef<[u8]>) -> Result<Vec<u8>, ClientError> {
        let key = key.as_ref();
        let got = self.attempt(group, key, |node, left, patience| {
            node.get(group, key, left, patience)
        });
        let got = got.map(|value| {
            if value.heat > 0 {
                self.inner.learn_heat(group, key, value.heat);
            }
            value.value
        });
        match got {
            Err(ClientError::Failed { code, .. }) if code == "OUT_OF_RANGE" => {
                let mut value = Vec::new();
                self.read(group, key, 0, 0, |chunk| {
                    value.extend_from_slice(chunk);
                    true
                })?;
                Ok(value)
            }
            got => got,
        }
    }

    /// Reads a value as it comes, from `offset` on, `length` bytes of it or all for 0. `take` gets each chunk, of which
    /// there is one at least, and tells whether it wants more. If the node is lost in the middle, the next one goes on from
    /// there.
    ///
    /// # Errors
    /// See [`ClientError`]. Some chunks may have been taken before. `ABORTED` says that the next node has a value of another
    /// length.
    pub fn read(
        &self,
        group: &str,
        key: impl AsRef<[u8]>,
        offset: u64,
        length: u64,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), ClientError> {
        let key = key.as_ref();
        let mut reading = Reading::new((group, key), (offset, length), &mut take);
        self.attempt(group, key, |node, left, patience| {
            node.read(&mut reading, (left, patience))
        })?;
        if reading.heat > 0 {
            self.inner.learn_heat(group, key, reading.heat);
        }
        Ok(())
    }

    /// The values of many keys of a group, in their order. They are asked for where they are owned, all at the same time;
    /// a key that fails does not fail the others.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        group: &str,
        keys: &[K],
    ) -> Vec<Result<Vec<u8>, ClientError>> {
        many::get(self, group, keys)
    }

    /// The members of the cluster as the client knows them, empty if it knows none.
    pub fn view(&self) -> View {
        let known = self.inner.known(self.deadline);
        let view = known.placement.as_ref().map(|placement| placement.view());
        view.cloned().unwrap_or_default()
    }

    /// What the client and its clones have done.
    pub fn stats(&self) -> ClientStats {
        let budget = &self.inner.budget;
        ClientStats {
            calls: budget.calls.load(Ordering::Relaxed),
            retries: budget.retries.load(Ordering::Relaxed),
        }
    }

    /// Makes a call to the owner of a key, or who stands in.
    fn attempt<R>(
        &self,
        group: &str,
        key: &[u8],
        mut call: impl FnMut(&Node, Duration, Patience<'_>) -> Result<R, Fault>,
    ) -> Result<R, ClientError> {
        let deadline = Instant::now() + self.deadline;
        let asked = Asked {
            group,
            key,
            within: self.deadline,
        };
        let known = self.inner.known(self.deadline);
        self.inner.budget.earn();
        let mut tried: Vec<Arc<Node>> = Vec::new();
        let mut last = None;
        while tried.len() < ATTEMPTS {
            let Some(node) = self.inner.pick(&known, group, key, &tried) else {
                break;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if !tried.is_empty() && (left.is_zero() || !self.inner.budget.spend()) {
                break;
            }
            let patience = Patience {
                silence: silence(left),
                has_other: &|| known.has_other(&node, &tried),
            };
            match call(&node, left, patience) {
                Ok(value) => {
                    node.set_down(false);
                    return Ok(value);
                }
                Err(fault) => last = Some((node.clone(), fault.clone())),
            }
            match &last {
                Some((_, Fault::Lost(_))) => self.inner.lost(&node),
                Some((_, Fault::Late)) => {
                    self.inner.suspect(&node);
                    break;
                }
                _ => break,
            }
            tried.push(node);
        }
        // There is one node at least, so that one was asked.
        let (node, fault) = last.expect("a client has nodes");
        Err(asked.error(&node.address, &fault))
    }
}

impl Inner {
    /// What is known. The first to ask waits until a node has said who is in, or half of its time is over.
    fn known(&self, within: Duration) -> Arc<Known> {
        if !self.has_learned.load(Ordering::Acquire)
            && let Some(_learning) = self.learning.try_lock_for(within / 2)
            && !self.has_learned.load(Ordering::Acquire)
        {
            let given = self.known.read().given.clone();
            if follow::first_word(self, &given, within / 2) {
                self.has_learned.store(true, Ordering::Release);
            }
        }
        self.known.read().clone()
    }

    /// The table is made without the lock: it may take a while.
    fn learn(&self, reply: &MembersReply) {
        let known = self.known.read().clone();
        if let Some(new) = known.learn(reply, &self.dialler) {
            *self.known.write() = Arc::new(new);
        }
        self.has_learned.store(true, Ordering::Release);
    }

    /// Whom to ask for a key next, `tried` having failed. At first a hot key is anybody's who shares it.
    fn pick(
        &self,
        known: &Known,
        group: &str,
        key: &[u8],
        tried: &[Arc<Node>],
    ) -> Option<Arc<Node>> {
        let hot = match tried.is_empty() {
            true => self.spread.pick(known, group, key),
            false => None,
        };
        hot.or_else(|| known.pick(group.as_bytes(), key, tried))
    }

    /// A node has said that a key is hot.
    #[cold]
    fn learn_heat(&self, group: &str, key: &[u8], heat: u32) {
        let known = self.known.read().clone();
        self.spread.learn(&known, group, key, heat);
    }

    /// A call has ended before its node said anything: was there too little time, or is the node gone? Nobody waits for the
    /// answer.
    fn suspect(self: &Arc<Self>, node: &Arc<Node>) {
        if node.is_up() && node.begin_check() {
            node.doubt_express();
            let (inner, checked) = (Arc::downgrade(self), node.clone());
            node.start_members(PATIENCE, move |reply| {
                checked.end_check();
                if let (Err(Fault::Late | Fault::Lost(_)), Some(inner)) = (reply, inner.upgrade()) {
                    inner.lost(&checked);
                }
            });
        }
    }

    /// A node could not be reached.
    fn lost(&self, node: &Node) {
        if node.set_down(true) {
            // If it is full, the thread knows already.
            let _ = self.news.try_send(());
        }
    }
}
