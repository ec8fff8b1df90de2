//! Hot keys, and the nodes that they are asked of in turn: what nodes say of them is remembered for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::known::Known;
use super::node::Node;
use crate::cluster::{Epoch, spread};

/// Hot keys that are remembered.
const KEYS_MAX: usize = 1024;
/// How long a key is spread after a node has said that it is hot.
const MEMORY: Duration = Duration::from_secs(10);

/// The keys that are spread.
pub(super) struct Spread {
    hasher: ahash::RandomState,
    keys: RwLock<HashMap<u64, Hot, ahash::RandomState>>,
    /// How many they are: most clients have none.
    len: AtomicUsize,
    turn: AtomicU32,
}

struct Hot {
    /// The first in rank, as many as it is spread over.
    nodes: Vec<Arc<Node>>,
    /// Of the ring that ranked them.
    epoch: Epoch,
    until: Instant,
}

impl Spread {
    pub fn new() -> Self {
        Self {
            hasher: ahash::RandomState::new(),
            keys: RwLock::default(),
            len: AtomicUsize::new(0),
            turn: AtomicU32::new(0),
        }
    }

    /// Whom to ask for a key next, if it is hot.
    pub fn pick(&self, known: &Known, group: &str, key: &[u8]) -> Option<Arc<Node>> {
        if self.len.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let hash = self.hasher.hash_one((group, key));
        let keys = self.keys.read();
        let hot = keys.get(&hash)?;
        if hot.epoch != known.epoch || hot.until <= Instant::now() {
            return None;
        }
        // Neighbouring numbers lead to ranks far apart.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let rank = spread::rank(hot.nodes.len(), turn.wrapping_mul(0x9e37_79b9));
        let node = &hot.nodes[rank];
        node.is_up().then(|| node.clone())
    }

    /// A node has said how hot a key is.
    pub fn learn(&self, known: &Known, group: &str, key: &[u8], heat: u32) {
        let (hash, now) = (self.hasher.hash_one((group, key)), Instant::now());
        let mut keys = self.keys.write();
        let is_current = |hot: &&Hot| hot.epoch == known.epoch && hot.until > now;
        let nodes = keys.get(&hash).filter(is_current);
        let nodes = nodes.map_or(1, |hot| hot.nodes.len());
        let width = spread::width(heat, nodes, known.members.len());
        if width < 2 {
            return;
        }
        if width == nodes
            && let Some(hot) = keys.get_mut(&hash)
        {
            hot.until = now + MEMORY;
            return;
        }
        if keys.len() >= KEYS_MAX {
            keys.retain(|_, hot| hot.until > now);
        }
        if keys.len() < KEYS_MAX || keys.contains_key(&hash) {
            let (_, nodes) = known.ranks(group.as_bytes(), key, width);
            let (epoch, until) = (known.epoch, now + MEMORY);
            keys.insert(
                hash,
                Hot {
                    nodes,
                    epoch,
                    until,
                },
            );
        }
        self.len.store(keys.len(), Ordering::Relaxed);
    }
}
