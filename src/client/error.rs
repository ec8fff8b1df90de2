//! Why a client has no value for a key.

use std::fmt;
use std::time::Duration;

use super::call::Fault;
use crate::group::error::Shown;

/// Why there is no value for a key, with its group, and the node that was asked last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no such key, or no such group; the message says which of the two.
    #[error("{node}: NOT_FOUND: {message}")]
    NotFound {
        /// The node that said so.
        node: String,
        /// The group.
        group: String,
        /// The key.
        key: Vec<u8>,
        /// What it said.
        message: String,
    },
    /// The node has refused the key, or could not load it.
    #[error("{node}: {code}: {message}")]
    Failed {
        /// The node that said so.
        node: String,
        /// The group.
        group: String,
        /// The key.
        key: Vec<u8>,
        /// The name of the gRPC status, such as `RESOURCE_EXHAUSTED`.
        code: String,
        /// What it said.
        message: String,
    },
    /// No node could be reached that was asked, or no more were, to keep within the budget of retries.
    #[error(
        "key {} of group {group:?}: {node}: UNAVAILABLE: {message}",
        Shown(key)
    )]
    Unreachable {
        /// The node that was asked last.
        node: String,
        /// The group.
        group: String,
        /// The key.
        key: Vec<u8>,
        /// What became of the call.
        message: String,
    },
    /// The deadline of the call has passed.
    #[error("key {} of group {group:?}: {node}: no answer within {} s", Shown(key), within.as_secs_f64())]
    TimedOut {
        /// The node that was asked last.
        node: String,
        /// The group.
        group: String,
        /// The key.
        key: Vec<u8>,
        /// What the call was given.
        within: Duration,
    },
}

impl ClientError {
    /// The group that was asked for.
    pub fn group(&self) -> &str {
        match self {
            Self::NotFound { group, .. }
            | Self::Failed { group, .. }
            | Self::Unreachable { group, .. }
            | Self::TimedOut { group, .. } => group,
        }
    }

    /// The key that was asked for.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::NotFound { key, .. }
            | Self::Failed { key, .. }
            | Self::Unreachable { key, .. }
            | Self::TimedOut { key, .. } => key,
        }
    }
}

/// What was asked for, for the words of an error.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub group: &'a str,
    pub key: &'a [u8],
    /// What the call was given.
    pub within: Duration,
}

impl Asked<'_> {
    pub fn error(self, node: &str, fault: &Fault) -> ClientError {
        let (node, group, key) = (node.to_owned(), self.group.to_owned(), self.key.to_vec());
        match fault.clone() {
            Fault::Said(code, message) if code == "NOT_FOUND" => ClientError::NotFound {
                node,
                group,
                key,
                message,
            },
            Fault::Said(code, message) => ClientError::Failed {
                node,
                group,
                key,
                code,
                message,
            },
            Fault::Lost(message) => ClientError::Unreachable {
                node,
                group,
                key,
                message,
            },
            Fault::Late => ClientError::TimedOut {
                node,
                group,
                key,
                within: self.within,
            },
        }
    }
}

/// Why a client was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildClientError {
    /// There is nobody to ask.
    #[error("a client takes one node at least, as host:port; give it some nodes of the cluster")]
    NoNodes,
    /// What was given for a node is not an address.
    #[error("{0:?} is no node; a node is host:port")]
    Address(String),
    /// TLS was asked for, and this build has none.
    #[error("this build has no TLS; build it with the feature `tls`")]
    NoTls,
    /// The system gave no thread.
    #[error("no thread to follow the cluster with: {0}")]
    Thread(std::io::Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(code, message) => write!(f, "{code}: {message}"),
            Self::Lost(message) => write!(f, "UNAVAILABLE: {message}"),
            Self::Late => f.write_str("no answer in time"),
        }
    }
}
