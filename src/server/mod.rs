//! The node: the groups behind gRPC, with origins, loaders, an admin port, and an orderly end.
//!
//! ```text
//! front (grpcio) ──► service ──► group ──► engine
//!                       │ miss
//!                    loaders ──► origin
//! admin (HTTP) ──► stats
//! ```
//!
//! grpcio is named in `front`, `deadline`, `connections`, `slice`, `health`, `reflection`, `pb` and `node` alone; what a call means is `service`'s,
//! which knows no transport.

mod admin;
mod brake;
mod connections;
mod cores;
mod deadline;
mod fetch;
mod front;
mod gate;
#[doc(hidden)]
pub mod health;
mod limits;
mod loaders;
mod lookout;
mod many;
mod node;
pub mod origin;
mod outgoing;
#[doc(hidden)]
pub mod pb;
mod read;
#[doc(hidden)]
pub mod reflection;
mod service;
mod slice;
mod stall;
mod stats;
mod waiting;
mod wire;

pub use cores::{Cores, CoresError};
pub use limits::ConnectionLimits;
#[doc(hidden)]
pub use node::core_arguments;
pub use node::{Identity, Node, NodeConfig, StartError};
pub use service::{UNARY_LIMIT_BYTES, VALUE_LIMIT_BYTES};
