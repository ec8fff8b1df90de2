//! corecache: a synchronous, thread-per-core cache that fills itself.
//!
//! The ways in, from the bottom up:
//!
//! * [`engine`]: a concurrent in-memory cache, typed ([`engine::Cache`]) or of bytes ([`engine::BlobCache`]), with one
//!   budget in bytes, reads without locks, and one load for a key however many ask.
//! * [`group`]: named caches side by side in one budget, each filled by a [`group::Loader`].
#![cfg_attr(
    feature = "server",
    doc = "* [`server`]: a node that serves groups over gRPC; the binary `corecache` is made of it.\n* [`client`]: a client of such nodes, which asks the owner of a key."
)]
#![cfg_attr(
    not(feature = "server"),
    doc = "* `server` and `client` (feature `server`): a node that serves groups over gRPC, and a client of such nodes."
)]
//!
//! # A cache in a program
//!
//! ```
//! use corecache::engine::Cache;
//!
//! let lengths = Cache::<String, usize>::new(16 << 20)? // 16 MiB
//!     .weigh_with(|key, _| key.capacity()); // of which this is what an entry owns on the heap
//! let len = lengths.get_or_load("hello", |key| Ok(key.len()))?;
//! assert_eq!(len, 5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Without the default features there is no gRPC, no C++ and no network code in the build. The crate is not published: it is
//! depended on by the path of a clone, or by `git = "..."` with the URL that it is cloned from.
//!
//! ```toml
//! corecache = { path = "../corecache", default-features = false }
//! ```
//!
//! How large, how many shards, which cores, and what it costs: see [`engine`].
#![warn(missing_docs)]

#[cfg(feature = "server")]
pub mod client;
#[cfg(any(feature = "server", test))]
pub mod cluster;
mod counted;
pub mod engine;
pub mod group;
#[cfg(feature = "express")]
#[cfg_attr(not(feature = "server"), allow(dead_code, unused_imports))]
// alone it has no door, only tests
mod http2;
#[cfg(feature = "server")]
pub mod server;

#[cfg(feature = "server")]
pub use client::Client;
// For the messages of the binary.
#[doc(hidden)]
pub use counted::counted;
