//! The shard engine: a concurrent in-memory cache with one writer a shard and readers without locks.
//!
//! ```text
//!   reader threads                         owner thread of a shard
//!   get ── table (lock-free) ── entry      ◄── bounded channel ── fills, inserts, removals
//!    │ miss                                 makes room (policy), publishes, retires, sweeps
//!    └─ flight: join it, or lead it ──────►
//! ```
//!
//! * [`Cache`] holds any `K` and `V`, [`BlobCache`] bytes; both are made by [`Builder`].
//! * A key is loaded once however many ask: [`Cache::get_or_load`].
//! * The budget is in bytes and covers entries, overhead, tables, and what was evicted but is still held.
//! * What is evicted is chosen by two clocks, after S3-FIFO, with what ARC and LIRS know; see [`policy`].
//!
//! # Costs
//! A change is a message to another thread: [`Cache::insert`] waits for its answer, some microseconds. A cache starts
//! a thread for each shard; it sleeps while nothing changes. Entries that have expired are not served, but give their
//! memory back only when they are replaced, removed or evicted.
//!
//! What leaves is mostly dropped by an owner. A `Drop` may use caches: what it changes there is done soon after, and
//! lost, with an error in the log, where the queue is full. But it must not wait for a thread that is changing the
//! same cache, as a lock that is held around [`Cache::insert`] would make it do.

mod arena;
mod blobs;
mod budget;
mod builder;
mod bulk;
mod cache;
mod clock;
mod core;
mod entry;
mod flight;
mod foreign;
mod owner;
mod pages;
mod pin;
pub mod policy;
mod reclaim;
mod shard;
mod stats;
mod table;

pub use blobs::{Blob, BlobCache, BlobSink};
pub use builder::{BuildError, Builder};
pub use cache::{Cache, Rejected};
pub use flight::{EntryTooLarge, Failure};
pub use pin::pin_to_core;
pub use stats::{Cause, Stats};

#[cfg(feature = "server")]
pub(crate) use blobs::Lent;
pub use budget::Share;
pub(crate) use core::Loaded;
#[cfg(feature = "server")]
pub(crate) use core::pin_or_warn;
pub(crate) use entry::{BlobBuilder, Bytes};
pub(crate) use flight::{Joined, Lead, Outcome, Parked, panic_text};
