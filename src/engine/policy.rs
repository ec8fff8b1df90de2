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
//! Less than 9 bytes an entry in the queues, of which the token takes 6, and 6 to 8 for its share of the ghosts; beside
//! that up to 2 KiB for each power of two among the weights. An entry that is removed leaves a hole. Where there are
//! many, blocks are put together; until then they are a quarter full at the least, which is 34 bytes an entry (in a
//! class of weight that gets an entry only once in thousands, a block may hold one alone).
//!
//! An insertion looks at one cache line of ghosts and at no more than eight entries. An eviction passes over an entry
//! once for each hit that its counter holds, and over no more than a thousand entries. To take any entry out, or to
//! replace it, costs the same few steps on the mean.
//!
//! [`S3Fifo`] is there to be compared with; [`simulate`] replays traces through both.

mod blocks;
mod clocks;
mod ghosts;
mod queues;
mod s3fifo;
pub mod simulate;

pub use clocks::TwoClocks;
pub use s3fifo::S3Fifo;

/// The top of the counters that hits bump.
pub const COUNTER_TOP: u8 = 3;

/// A number that the driver gives an entry, from 1 to 2^48 - 1: an address in the engine, an index in the simulation.
pub type Token = u64;

/// What the driver of a policy keeps of each entry, by its token.
pub trait Entries {
    /// The counter that hits bump, 0 to [`COUNTER_TOP`].
    fn counter(&self, token: Token) -> u8;
    /// Sets it.
    fn set_counter(&mut self, token: Token, counter: u8);
    /// 32 bits of the key's hash, always the same. Bits that all keys have in common are lost to the ghosts.
    fn hash(&self, token: Token) -> u32;
    /// The entry's weight. It does not change as long as the policy has the entry.
    fn weight(&self, token: Token) -> u32;
    /// What the policy keeps with the entry: where it stands.
    fn place(&self, token: Token) -> u32;
    /// Sets it.
    fn set_place(&mut self, token: Token, place: u32);
    /// A hint: `last` stands last of its kind now, and `next` behind it, so that both will be asked about soon.
    fn expect(&self, last: Token, next: Option<Token>) {
        let _ = (last, next);
    }
}

/// Chooses what is evicted.
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

    /// Takes in a new entry, whose counter the caller has set: to 0, unless its key was asked for before.
    ///
    /// # Panics
    /// If `token` has more than 48 bits.
    fn admit(&mut self, token: Token, entries: &mut impl Entries);

    /// Takes `new` in for `old`, whose key it has: in the same queue and, if about as heavy, in the same position; else
    /// where new entries come in. The counter is left as the caller sets it.
    ///
    /// # Panics
    /// If `old` was not admitted, or `new` has more than 48 bits.
    fn replace(&mut self, old: Token, new: Token, entries: &mut impl Entries);

    /// Takes an entry out that was removed, not evicted.
    ///
    /// # Panics
    /// If `token` was not admitted.
    fn remove(&mut self, token: Token, entries: &mut impl Entries);

    /// Chooses an entry, takes it out and returns its token; none if there is none.
    fn evict(&mut self, entries: &mut impl Entries) -> Option<Token>;
}

#[cfg(test)]
mod tests;
