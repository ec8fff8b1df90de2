//! Replays traces through the policies that the engine has, and through two to compare them with.
//!
//! A cache is simulated as the papers do it: a request is a hit if its key is stored; if not, the key is stored, and
//! entries are evicted first, until there is room. The weight that a key was stored with counts until it leaves.
//! What weighs more than the whole cache is not stored.
//!
//! ```
//! use corecache::engine::policy::simulate::{Contender, Trace};
//!
//! let trace = Trace::read(&b"a\nb\na\nc\na\n"[..])?;
//! let outcome = trace.replay(Contender::Lru, 2, |_| ());
//! assert_eq!((outcome.requests, outcome.hits), (5, 2));
//! # Ok::<(), corecache::engine::policy::simulate::TraceError>(())
//! ```

mod belady;
mod lru;
mod trace;

use std::fmt;
use std::str::FromStr;

use super::{COUNTER_TOP, Entries, Policy, S3Fifo, Token, TwoClocks};
use belady::Belady;
use lru::Lru;

pub use trace::{Request, Trace, TraceError};

/// Who chooses what is evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Contender {
    /// What the engine uses: [`TwoClocks`].
    Corecache,
    /// [`S3Fifo`].
    S3Fifo,
    /// The entry that has not been asked for the longest.
    Lru,
    /// The clairvoyant optimum of L. Belady (1966): the entry that will not be asked for the longest. It is the
    /// best there can be where all entries weigh the same; where they do not, what prefers light ones may beat it.
    Belady,
}

impl Contender {
    /// All there are.
    pub const ALL: [Contender; 4] = [Self::Corecache, Self::S3Fifo, Self::Lru, Self::Belady];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Corecache => "corecache",
            Self::S3Fifo => "s3fifo",
            Self::Lru => "lru",
            Self::Belady => "belady",
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that none of [`Contender::ALL`] has.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no policy; there are corecache, s3fifo, lru and belady")]
pub struct UnknownPolicy(String);

impl FromStr for Contender {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let mut all = Self::ALL.into_iter();
        all.find(|contender| contender.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Requests in all.
    pub requests: u64,
    /// Those whose key was stored.
    pub hits: u64,
    /// The weight of all requests.
    pub bytes: u64,
    /// The weight of the hits.
    pub hit_bytes: u64,
}

impl Outcome {
    /// The part of the requests that were hits, 0 to 1; 0 without requests.
    pub fn hit_ratio(&self) -> f64 {
        ratio(self.hits, self.requests)
    }

    /// The part of the weight of all requests that hits had, 0 to 1; 0 if nothing weighed anything.
    pub fn byte_hit_ratio(&self) -> f64 {
        ratio(self.hit_bytes, self.bytes)
    }

    fn count(&mut self, weight: u32, is_hit: bool) {
        self.requests += 1;
        self.bytes += u64::from(weight);
        if is_hit {
            self.hits += 1;
            self.hit_bytes += u64::from(weight);
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

/// A cache that is asked for one key after the other.
trait Cache {
    /// Whether the key was stored; it is now, unless it is too heavy.
    fn request(&mut self, request: Request) -> bool;
}

/// How many requests pass between two words on the progress.
const PROGRESS_EVERY: usize = 1 << 16;

impl Trace {
    /// Replays all requests on a cache that holds the weight `size`. Now and then `progress` is told how many requests
    /// have been replayed since it was last.
    pub fn replay(&self, contender: Contender, size: u64, progress: impl FnMut(u64)) -> Outcome {
        match contender {
            Contender::Corecache => self.run(Driven::<TwoClocks>::new(self.keys(), size), progress),
            Contender::S3Fifo => self.run(Driven::<S3Fifo>::new(self.keys(), size), progress),
            Contender::Lru => self.run(Lru::new(self.keys(), size), progress),
            Contender::Belady => self.run(Belady::new(self, size), progress),
        }
    }

    fn run(&self, mut cache: impl Cache, mut progress: impl FnMut(u64)) -> Outcome {
        let mut outcome = Outcome::default();
        for requests in self.requests().chunks(PROGRESS_EVERY) {
            for &request in requests {
                outcome.count(request.weight, cache.request(request));
            }
            progress(requests.len() as u64);
        }
        outcome
    }
}

/// What the simulation keeps of a key, for the policy and for itself.
#[derive(Clone, Copy, Default)]
struct Slot {
    weight: u32,
    place: u32,
    counter: u8,
    is_stored: bool,
}

/// By key; a key's token is 1 more.
struct Slots(Vec<Slot>);

impl Slots {
    fn of(&self, token: Token) -> &Slot {
        &self.0[token as usize - 1]
    }

    fn of_mut(&mut self, token: Token) -> &mut Slot {
        &mut self.0[token as usize - 1]
    }
}

impl Entries for Slots {
    fn counter(&self, token: Token) -> u8 {
        self.of(token).counter
    }

    fn set_counter(&mut self, token: Token, counter: u8) {
        self.of_mut(token).counter = counter;
    }

    fn hash(&self, token: Token) -> u32 {
        hash(token)
    }

    fn weight(&self, token: Token) -> u32 {
        self.of(token).weight
    }

    fn place(&self, token: Token) -> u32 {
        self.of(token).place
    }

    fn set_place(&mut self, token: Token, place: u32) {
        self.of_mut(token).place = place;
    }
}

/// A policy of the engine, driven as an owner does it.
struct Driven<P> {
    policy: P,
    slots: Slots,
    size: u64,
}

/// No key.
const NONE: u32 = u32::MAX;

impl<P: Policy> Driven<P> {
    fn new(keys: usize, size: u64) -> Self {
        Self {
            policy: P::default(),
            slots: Slots(vec![Slot::default(); keys]),
            size,
        }
    }

    fn store(&mut self, token: Token, weight: u32) {
        while self.policy.weight() + u64::from(weight) > self.size {
            let victim = self.policy.evict(&mut self.slots);
            let victim = victim.expect("what does not fit beside others weighs less than all");
            self.slots.of_mut(victim).is_stored = false;
        }
        *self.slots.of_mut(token) = Slot {
            weight,
            is_stored: true,
            ..Slot::default()
        };
        self.policy.admit(token, &mut self.slots);
    }
}

impl<P: Policy> Cache for Driven<P> {
    fn request(&mut self, Request { key, weight }: Request) -> bool {
        let token = Token::from(key) + 1;
        let slot = self.slots.of_mut(token);
        if slot.is_stored {
            slot.counter = (slot.counter + 1).min(COUNTER_TOP);
            return true;
        }
        if u64::from(weight) <= self.size {
            self.store(token, weight);
        }
        false
    }
}

/// Tokens are numbers in the order in which keys come; a hash is not (splitmix64, G. Steele et al., 2014).
fn hash(token: Token) -> u32 {
    let mut z = token.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ z >> 31) >> 32) as u32
}

#[cfg(test)]
mod tests;
