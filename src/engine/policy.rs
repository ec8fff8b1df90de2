//! What to evict: two clocks, with a boundary between them that moves, and ghosts that have an age.
//!
//! Pure and single-threaded: it knows tokens, weights and hashes, no keys, no values, no time but the number of
//! entries that have come. Who drives it keeps a counter for each token, which hits bump and which [`Entries`] shows;
//! a hit is no event here.
//!
//! ```text
//!           ┌─ hit once: another round ─┐         ┌─ hit: another round for each ─┐
//! new ───►  │        small clock        ├─ twice ─►          main clock           │
//!  │        └───────────┬───────────────┘         └───────────────┬───────────────┘
//!  │                 not hit                                   not hit
//!  │                    └──────────► evicted: a ghost ◄───────────┘
//!  └─ has a ghost, younger than what stands last in main ──► main
//! ```
//!
//! [`TwoClocks`] takes its queues and its lazy promotion from S3-FIFO (J. Yang et al., "FIFO queues are all you need
//! for cache eviction", SOSP 2023) and mends what that is weak at:
//!
//! * **The boundary moves**, as in ARC (N. Megiddo, D. S. Modha, FAST 2003). A key that comes back so soon that a
//!   slightly larger small queue would have kept it moves the boundary one way, one that a slightly larger main queue
//!   would have kept moves it the other way, and each eviction from the small queue moves it back a little: a scan,
//!   of which nothing comes back in time, is left with next to no room.
//! * **A ghost has an age.** A key that comes back goes to the main queue only if it was away for a shorter time than
//!   what is last there has gone without a hit, as in LIRS (S. Jiang, X. Zhang, SIGMETRICS 2002). Otherwise one entry
//!   would go for another that is no better, and a loop larger than the cache would push itself out.
//! * **A hit in the small queue buys another round** there, and only a second one the main queue: requests come in
//!   pairs more often than they go on.
//! * **Light entries stay longer.** An entry costs the room that it takes for the time that nobody has asked for it.
//!   By the product of the two (A. J. Smith's space-time product, 1981) small entries are kept at any price, and the
//!   ratio of hits by bytes is that price; by the square root of the weight most is won in hits, and little lost in
//!   bytes. For this the queues are divided by the logarithm of the weight.
//!
//! # Costs
//! 20 bytes an entry, and 6 to 8 for its share of the ghosts. An insertion looks at one cache line of ghosts and at
//! no more than eight entries. An eviction passes over an entry once for each hit that its counter holds, and over
//! no more than a thousand entries.
//!
//! [`S3Fifo`] is there to be compared with; [`simulate`] replays traces through both.

mod clocks;
mod ghosts;
mod queues;
mod s3fifo;
pub mod simulate;

pub use clocks::TwoClocks;
pub use s3fifo::S3Fifo;

/// The top of the counters that hits bump.
pub const COUNTER_TOP: u8 = 3;

/// What the driver of a policy keeps of each entry, by its token.
pub trait Entries {
    /// The counter that hits bump, 0 to [`COUNTER_TOP`].
    fn counter(&self, token: u32) -> u8;
    /// Sets it.
    fn set_counter(&mut self, token: u32, counter: u8);
    /// The hash that the entry was admitted with.
    fn hash(&self, token: u32) -> u64;
}

/// Chooses what is evicted. Tokens are small numbers, and used again.
pub trait Policy: Default {
    /// What an entry costs in here, its share of the ghosts included.
    const BYTES_AN_ENTRY: usize;

    /// How many entries there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The weight of all entries.
    fn weight(&self) -> u64;

    /// Takes in a new entry and returns its token, whose counter the caller sets to 0.
    fn admit(&mut self, hash: u64, weight: u32, entries: &mut impl Entries) -> u32;

    /// Takes an entry out that was removed, not evicted.
    ///
    /// # Panics
    /// If `token` is not in use.
    fn remove(&mut self, token: u32);

    /// Chooses an entry, takes it out and returns its token; none if there is none.
    fn evict(&mut self, entries: &mut impl Entries) -> Option<u32>;
}

#[cfg(test)]
mod tests;
