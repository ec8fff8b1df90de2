//! corecache: a synchronous, thread-per-core cache that fills itself.
#![warn(missing_docs)]

pub mod engine;
pub mod group;
#[cfg(feature = "server")]
pub mod server;
