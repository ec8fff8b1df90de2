//! The node: the groups behind gRPC, with origins, loaders, an admin port, and an orderly end.
//!
//! ```text
//! front (grpcio) ──► service ──► group ──► engine
//!                       │ miss
//!                     peer ──► the node that owns the key
//!                       │ this one
//!                    loaders ──► origin
//! admin (HTTP) ──► stats
//! ```
//!
//! Beside the front door is `express`, over the protocol in [`crate::http2`] and the system's sockets.
//!
//! grpcio is named in `front`, `deadline`, `connections`, `slice`, `health`, `reflection`, `pb`, `etcd`,
//! `node`, `peer::dial` and `peer::offers` alone; what a call means is `service`'s,
//! which knows no transport.

mod admin;
mod arriving;
mod brake;
mod cluster;
mod connections;
mod cores;
mod deadline;
mod etcd;
#[cfg(target_os = "linux")]
mod express;
mod fetch;
mod front;
mod gate;
#[doc(hidden)]
pub mod health;
mod hot;
mod identity;
mod last_loads;
mod limits;
mod loaders;
mod lookout;
mod mail;
mod many;
mod members;
mod node;
pub mod origin;
mod outgoing;
mod pace;
#[doc(hidden)]
pub mod pb;
mod peer;
mod places;
mod read;
mod readiness;
#[doc(hidden)]
pub mod reflection;
mod service;
mod slice;
mod stall;
mod stats;
mod waiting;
mod wire;

pub use cores::{Cores, CoresError};
pub use etcd::{EtcdConfig, EtcdTls};
pub use identity::{Identity, Renewal};
pub use limits::ConnectionLimits;
pub use members::{MembersConfig, MembersError, MembersSource};
#[doc(hidden)]
pub use node::{AskerAnswer, core_arguments};
pub use node::{Node, NodeConfig, StartError};
pub use peer::LinkConfig;
pub use service::{UNARY_LIMIT_BYTES, VALUE_LIMIT_BYTES};
