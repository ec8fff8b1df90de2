//! Several nodes that are one cluster, and who of them owns a key.

use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use corecache::cluster::{Member, Placement, Ring, View};

use super::client::Client;
use super::{Node, corecache, eventually, http};

/// A cluster on the loopback.
pub struct Cluster {
    pub nodes: Vec<Node>,
    placement: Placement,
}

impl Cluster {
    /// Starts so many nodes, each with `args`, and returns when all are linked.
    pub fn start(nodes: usize, args: &[&str]) -> Cluster {
        let cluster = Cluster::start_without_links(nodes, args);
        for node in &cluster.nodes {
            wait_for_links(node, nodes - 1);
        }
        cluster
    }

    /// The same, and returns when all of them listen.
    pub fn start_without_links(nodes: usize, args: &[&str]) -> Cluster {
        let addresses = free_addresses(nodes);
        let nodes = addresses.iter();
        Cluster {
            nodes: nodes
                .map(|&own| start_member(own, &addresses, args))
                .collect(),
            placement: placement(&addresses),
        }
    }

    /// Which nodes are asked for a key, the owner first.
    pub fn ranks(&self, group: &str, key: &str) -> Vec<usize> {
        let mut ranked = vec![0; self.nodes.len()];
        self.placement
            .rank(group.as_bytes(), key.as_bytes(), &mut ranked);
        let members = self.placement.members();
        let of = |position: u16| {
            let address = &members[usize::from(position)].address;
            let is_it = |node: &Node| node.addr.to_string() == *address;
            self.nodes
                .iter()
                .position(is_it)
                .expect("a node of the cluster")
        };
        ranked.into_iter().map(of).collect()
    }

    /// So many keys that `owner` owns, by names that begin with `prefix`.
    pub fn keys_of(&self, owner: usize, group: &str, prefix: &str, count: usize) -> Vec<String> {
        let keys = (0..).map(|number| format!("{prefix}{number}"));
        let owned = keys.filter(|key| self.ranks(group, key)[0] == owner);
        owned.take(count).collect()
    }

    pub fn client(&self, node: usize) -> Client {
        Client::connect(self.nodes[node].addr)
    }
}

/// Who owns what among these nodes.
pub fn placement(addresses: &[SocketAddr]) -> Placement {
    let members = addresses
        .iter()
        .map(|address| Member::new(address.to_string()));
    Placement::new(&View::new(members.collect()).expect("each is there once"))
}

/// One of [`free_addresses`].
pub fn free_address() -> SocketAddr {
    free_addresses(1)[0]
}

/// Addresses that nobody listens at, nor will: their ports are below those that the system gives out, and each is given out
/// once by a process.
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    const PORTS: Range<u16> = 10_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let address = || {
        let offset =
            std::process::id().wrapping_mul(97) % 20_000 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (offset % PORTS.len() as u32) as u16;
        SocketAddr::from(([127, 0, 0, 1], port))
    };
    let is_free = |address: &SocketAddr| TcpListener::bind(address).is_ok();
    let addresses = std::iter::repeat_with(address).take(PORTS.len());
    let free: Vec<_> = addresses.filter(is_free).take(count).collect();
    assert_eq!(free.len(), count, "there are free ports");
    free
}

/// Starts a node that has these peers, itself among them.
pub fn start_member(own: SocketAddr, addresses: &[SocketAddr], args: &[&str]) -> Node {
    let peers: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    let peers = peers.join(",");
    let args = [&["--peers", &peers], args].concat();
    Node::start_with(corecache(), own, args)
}

/// A figure of the metrics page, added up over its labels that have `labels` in them; 0 where there is none.
pub fn figure(node: &Node, name: &str, labels: &str) -> u64 {
    let (_, page) = http::get(node.admin, "/metrics");
    let name = format!("corecache_{name}");
    let values = page.lines().filter_map(|line| {
        let (key, value) = line.rsplit_once(' ')?;
        let rest = key.strip_prefix(&name)?;
        let is_it = (rest.is_empty() || rest.starts_with('{')) && rest.contains(labels);
        is_it.then(|| value.parse::<f64>().expect("a figure") as u64)
    });
    values.sum()
}

/// Waits until a node goes by a ring with so many others, and all links to them are open.
pub fn wait_for_links(node: &Node, peers: usize) {
    eventually("all links are open", || {
        let (_, page) = http::get(node.admin, "/metrics");
        let links = page.lines().filter_map(|line| {
            let link = line.strip_prefix("corecache_peer_links{")?;
            let (labels, count) = link.rsplit_once(' ')?;
            Some((labels.contains("breaker=\"closed\""), count != "0"))
        });
        let links: Vec<_> = links.collect();
        // Of one page: what is on two may be of two rings.
        let known = links.iter().filter(|(closed, _)| *closed).count();
        known == peers && links.into_iter().all(|(closed, some)| closed == some)
    });
}

/// How long `call` takes.
pub fn timed<R>(call: impl FnOnce() -> R) -> (R, Duration) {
    let start = Instant::now();
    let result = call();
    (result, start.elapsed())
}
