//! Where a key is: who owns it, and which nodes hold it.

use std::time::Duration;

use super::call::{Fault, name_of};
use super::error::Asked;
use super::{Client, ClientError, patience};
use crate::cluster::Epoch;
use crate::server::pb::cluster::PeekReply;

/// Who is asked for a key, and what each of them has of it.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The slot of the key.
    pub slot: usize,
    /// The epoch by which the client goes; 0 if the node is alone.
    pub epoch: Epoch,
    /// The nodes, the owner first.
    pub ranks: Vec<Ranked>,
}

/// A node that is asked for a key.
#[derive(Debug, Clone)]
pub struct Ranked {
    /// Its address.
    pub node: String,
    /// What it has of the key, or why it has not said so.
    pub seen: Result<Seen, String>,
}

/// What a node has of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The epoch by which the node goes.
    pub epoch: Epoch,
    /// How it holds the key, if it does.
    pub held: Option<Held>,
    /// The last load of the key by this node, if the node remembers it.
    pub last_load: Option<LastLoad>,
}

/// A load that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastLoad {
    /// How long ago that was.
    pub age: Duration,
    /// How long it took.
    pub took: Duration,
    /// The gRPC status code of what it brought: 0 for the value.
    pub code: i32,
}

impl LastLoad {
    /// The name of its code: `OK`, `NOT_FOUND`.
    pub fn code_name(&self) -> String {
        name_of(self.code)
    }
}

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Bytes of the value.
    pub value_bytes: u64,
    /// What the entry takes of the budget, in bytes.
    pub entry_bytes: u64,
    /// How long it is held at the most; none if it does not expire.
    pub expires_in: Option<Duration>,
}

impl Client {
    /// Asks the first `ranks` of the nodes that are asked for a key whether they hold it. Nothing is loaded, and nothing
    /// stays in memory for longer.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if no node can be asked who is in; what they say, if none of them tells what it holds,
    /// such as [`ClientError::NotFound`] of a group that they have not.
    pub fn explain(
        &self,
        group: &str,
        key: impl AsRef<[u8]>,
        ranks: usize,
    ) -> Result<Explanation, ClientError> {
        let key = key.as_ref();
        // Says so if nobody is there.
        self.attempt(group, key, |node, left, _| {
            node.check(patience(left)).map(drop)
        })?;
        let known = self.inner.known(self.deadline);
        let (slot, nodes) = known.ranks(group.as_bytes(), key, ranks);
        let asked: Vec<_> = nodes
            .iter()
            .map(|node| node.peek(group, key, self.deadline))
            .collect();
        let asked = nodes.iter().zip(asked);
        let answers: Vec<_> = asked
            .map(|(node, answer)| (node, node.wait(&answer, patience(self.deadline))))
            .collect();
        if answers.iter().all(|(_, answer)| answer.is_err()) {
            let asked = Asked {
                group,
                key,
                within: self.deadline,
            };
            let faults = answers.iter().filter_map(|(node, answer)| {
                let fault = answer.as_ref().err()?;
                Some((matches!(fault, Fault::Said(..)), &node.address, fault))
            });
            // What a node says tells more than that another one says nothing.
            if let Some((_, node, fault)) = faults.max_by_key(|(is_said, ..)| *is_said) {
                return Err(asked.error(node, fault));
            }
        }
        let ranks = answers.into_iter().map(|(node, answer)| Ranked {
            node: node.address.clone(),
            seen: answer.map(Seen::from).map_err(|fault| fault.to_string()),
        });
        Ok(Explanation {
            slot,
            epoch: known.epoch,
            ranks: ranks.collect(),
        })
    }
}

impl From<PeekReply> for Seen {
    fn from(reply: PeekReply) -> Self {
        Self {
            epoch: Epoch(reply.epoch),
            held: reply.held.then(|| Held {
                value_bytes: reply.value_bytes,
                entry_bytes: reply.entry_bytes,
                expires_in: reply.expires_in_ms.map(Duration::from_millis),
            }),
            last_load: reply.last_load.into_option().map(|load| LastLoad {
                age: Duration::from_millis(load.age_ms),
                took: Duration::from_millis(load.took_ms),
                code: load.code,
            }),
        }
    }
}
