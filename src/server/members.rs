//! Which source a node has its members from, and who it is among them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::etcd::{Etcd, EtcdConfig};
use super::node::StartError;
use crate::cluster::membership::{Dns, FileError, List, Membership, PeersFile};
use crate::cluster::{Member, MemberError};

/// How long a node that starts waits for its source to say who is in. After that it begins alone.
const FIRST_WORD: Duration = Duration::from_secs(3);

/// Who a node is in its cluster, and who tells it of the others. By default it is alone.
#[derive(Debug, Default)]
pub struct MembersConfig {
    /// Where the others reach the node, if not where it listens: host and port.
    pub advertise: Option<String>,
    /// The node's weight, if not the usual one.
    pub weight: Option<u32>,
    /// The node's zone.
    pub zone: String,
    /// Who tells of the others.
    pub source: MembersSource,
}

/// Who tells a node of the others.
#[derive(Debug, Default)]
pub enum MembersSource {
    /// Nobody.
    #[default]
    Alone,
    /// A list that does not change.
    List(Vec<Member>),
    /// A file with a member on each line, which is read again when it has changed.
    File(PathBuf),
    /// The addresses of a name, each at this port.
    Dns {
        /// The name.
        name: String,
        /// The port of each node.
        port: u16,
        /// How often the name is asked for.
        every: Duration,
    },
    /// etcd, where each node registers.
    Etcd(EtcdConfig),
}

impl MembersConfig {
    /// Whether there are no others.
    pub(super) fn is_alone(&self) -> bool {
        matches!(self.source, MembersSource::Alone)
    }
}

/// Why a node is no member of its cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembersError {
    /// The address at which it listens is not one for others.
    #[error(
        "the node listens on {0}, at which no other node reaches it; say with --advertise HOST:PORT where they do"
    )]
    Nowhere(SocketAddr),
    /// What is given as its address is none.
    #[error("--advertise: {0}")]
    Advertise(String),
    /// The list is no view.
    #[error("--peers: {0}")]
    List(#[from] MemberError),
    /// The file can not be used.
    #[error("--peers-file {0}: {1}")]
    File(PathBuf, FileError),
    /// The own address is not one that DNS can tell.
    #[error(
        "--peers-dns knows nodes by their addresses, each at port {1}, and this one is {0}; say with --advertise IP:{1} which \
         of the addresses is its own"
    )]
    NoAddress(String, u16),
    /// This build can not speak TLS.
    #[error("etcd by TLS: this build has no TLS; build it with the feature `tls`")]
    NoTls,
}

/// Joins the cluster, as the node that listens at `listen`.
pub(super) fn join(config: MembersConfig, listen: SocketAddr) -> Result<Membership, StartError> {
    let own = own(&config, listen)?;
    let started = match config.source {
        MembersSource::Alone => Membership::start(own, List::alone()),
        MembersSource::List(members) => {
            let list = List::new(members).map_err(MembersError::from)?;
            Membership::start(own, list)
        }
        MembersSource::File(path) => {
            let file = PeersFile::open(&path).map_err(|error| MembersError::File(path, error))?;
            Membership::start(own, file)
        }
        MembersSource::Dns { name, port, every } => {
            let address = own.address.parse();
            if !address.is_ok_and(|address: SocketAddr| address.port() == port) {
                return Err(MembersError::NoAddress(own.address, port).into());
            }
            Membership::start(own, Dns::new(name, port, every))
        }
        MembersSource::Etcd(config) => Membership::start(own, Etcd::new(config)?),
    };
    let membership = started.map_err(StartError::Threads)?;
    if !membership.wait(FIRST_WORD) {
        log::warn!(
            "members: {} has not said who is in for {} s; the node begins alone",
            membership.standing().source,
            FIRST_WORD.as_secs()
        );
    }
    Ok(membership)
}

fn own(config: &MembersConfig, listen: SocketAddr) -> Result<Member, MembersError> {
    let is_alone = matches!(config.source, MembersSource::Alone);
    let mut own = match &config.advertise {
        Some(address) => Member::parse(address)
            .map_err(|error| MembersError::Advertise(error.to_string()))
            .map(|own| Member::new(own.address))?,
        None if listen.ip().is_unspecified() && !is_alone => {
            return Err(MembersError::Nowhere(listen));
        }
        None => Member::new(listen.to_string()),
    };
    own.weight = config.weight.unwrap_or(own.weight);
    own.zone.clone_from(&config.zone);
    Ok(own)
}
