//! Which keys the nodes are asked for most.

use std::collections::HashMap;

use super::{Client, patience};
use crate::server::pb::cluster::TopKeysRequest;

/// The keys that the nodes are asked for most.
#[derive(Debug, Clone, PartialEq)]
pub struct TopKeys {
    /// Those first that are asked for most, at all nodes together.
    pub keys: Vec<TopKey>,
    /// From so many requests a second on a node takes a key for hot: the least that a node has told.
    pub hot_rate: f64,
    /// The nodes that were asked, and why one has not told.
    pub nodes: Vec<(String, Result<(), String>)>,
}

/// A key, and how often it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct TopKey {
    /// The group.
    pub group: String,
    /// The key.
    pub key: Vec<u8>,
    /// Requests a second, at all nodes together.
    pub rate: f64,
    /// The same by node, those first that are asked most.
    pub by_node: Vec<(String, f64)>,
}

impl Client {
    /// Asks all nodes that the client knows which keys of a group, or of all groups, they are asked for most. A key that
    /// one node asks another for counts at both.
    pub fn top_keys(&self, group: Option<&str>, count: usize) -> TopKeys {
        let known = self.inner.known(self.deadline);
        let mut request = TopKeysRequest::new();
        request.group = group.unwrap_or_default().to_owned();
        let nodes = match known.members.is_empty() {
            true => &known.given,
            false => &known.members,
        };
        let asked: Vec<_> = nodes
            .iter()
            .map(|node| (node, node.top_keys(&request, self.deadline)))
            .collect();
        let mut merged: HashMap<(String, Vec<u8>), TopKey> = HashMap::new();
        let (mut hot_rate, mut told) = (f64::INFINITY, Vec::new());
        for (node, answer) in asked {
            let reply = node.wait(&answer, patience(self.deadline));
            let reply = reply.map(|reply| {
                hot_rate = hot_rate.min(reply.hot_rate);
                for top in reply.keys {
                    let id = (top.group.clone(), top.key.clone());
                    let key = merged.entry(id).or_insert_with(|| TopKey {
                        group: top.group,
                        key: top.key,
                        rate: 0.0,
                        by_node: Vec::new(),
                    });
                    key.rate += top.rate;
                    key.by_node.push((node.address.clone(), top.rate));
                }
            });
            let reply = reply.map_err(|fault| fault.to_string());
            told.push((node.address.clone(), reply));
        }
        let mut keys: Vec<_> = merged.into_values().collect();
        keys.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.key.cmp(&b.key)));
        keys.truncate(count);
        for key in &mut keys {
            key.by_node.sort_by(|a, b| b.1.total_cmp(&a.1));
        }
        TopKeys {
            keys,
            hot_rate,
            nodes: told,
        }
    }
}
