//! Which keys are asked for most, and how often: measured from samples of the requests, so that a hit pays for it with a
//! few instructions.
//!
//! ```text
//! request ──► sampler: one in 64 ──► sketch of its thread ──┐ once a second
//!                                    sketch of another ─────┴──► rates, which decay ──► the top keys
//! ```

mod kept;
mod sampler;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use parking_lot::{Mutex, RwLock};

use crate::cluster::sketch::Sketch;
use crate::group::Group;
pub(super) use kept::Kept;

/// Requests for each that is looked at, on average.
const SAMPLED: u32 = 64;
/// Sketches; threads beyond that many share them.
const SKETCHES: usize = 16;
/// Keys that a sketch counts. With keys of the largest size all of them have 16 MiB.
const PLACES: usize = 256;
/// Keys whose rates are remembered, of all groups.
const TOP_MAX: usize = 1024;
/// How often rates are computed, and how soon an old rate is forgotten: after so long a third of it is left.
const TICK: Duration = Duration::from_secs(1);
const MEMORY: Duration = Duration::from_secs(4);
/// A key that is asked for less often is forgotten: far less than one sample makes.
const FORGOTTEN_RATE: f64 = 1.0;

/// The rates of the keys that are asked for most.
pub(super) struct Hot {
    sketches: [CachePadded<Mutex<Sketch<Asked>>>; SKETCHES],
    hasher: ahash::RandomState,
    top: RwLock<Arc<Top>>,
    hot_rate: f64,
}

/// A key that was asked for.
#[derive(Clone)]
struct Asked {
    group: Group,
    key: Box<[u8]>,
}

/// The keys that are asked for most at a time, and how often.
#[derive(Default)]
pub(super) struct Top {
    keys: Vec<TopKey>,
    /// Their places among `keys`, by hash.
    places: std::collections::HashMap<u64, usize, ahash::RandomState>,
    hasher: ahash::RandomState,
}

#[derive(Clone)]
pub(super) struct TopKey {
    pub group: Group,
    pub key: Box<[u8]>,
    /// How often it is asked for, a second.
    pub rate: f64,
    hash: u64,
}

impl Top {
    /// How often a key is asked for a second; 0 for one that is not among the top ones.
    pub fn rate(&self, group: &Group, key: &[u8]) -> f64 {
        if self.keys.is_empty() {
            return 0.0;
        }
        self.rate_of(self.hasher.hash_one((group.name(), key)))
    }

    fn rate_of(&self, hash: u64) -> f64 {
        let place = self.places.get(&hash);
        place.map_or(0.0, |&place| self.keys[place].rate)
    }

    /// The keys, those first that are asked for most.
    pub fn keys(&self) -> &[TopKey] {
        &self.keys
    }
}

impl Hot {
    /// Starts the thread that computes the rates. It ends with the last of those who have this. From `hot_rate` requests a
    /// second on a key is hot.
    pub fn start(hot_rate: u32) -> io::Result<Arc<Self>> {
        let hot = Arc::new(Self::new(hot_rate));
        let measured = Arc::downgrade(&hot);
        thread::Builder::new()
            .name("hot-keys".to_owned())
            .spawn(move || run(&measured))?;
        Ok(hot)
    }

    fn new(hot_rate: u32) -> Self {
        let hasher = ahash::RandomState::new();
        Self {
            sketches: std::array::from_fn(|_| CachePadded::new(Mutex::new(Sketch::new(PLACES)))),
            top: RwLock::new(Arc::new(Top {
                hasher: hasher.clone(),
                ..Top::default()
            })),
            hasher,
            hot_rate: hot_rate.into(),
        }
    }

    /// From so many requests a second on a key is hot.
    pub fn hot_rate(&self) -> f64 {
        self.hot_rate
    }

    /// Notes that a key was asked for. Returns how hot it is, if that was looked at: how many times the hot rate it has.
    #[inline]
    pub fn note(&self, group: &Group, key: &[u8]) -> u32 {
        match sampler::skip(1) {
            Some(_) => self.sample(group, key),
            None => 0,
        }
    }

    /// As [`Hot::note`], for many keys: those that were seen to be hot, by their indexes.
    #[inline]
    pub fn note_all(&self, group: &Group, keys: &[&[u8]]) -> Vec<(usize, u32)> {
        let mut hot = Vec::new();
        let mut next = 0;
        while let Some(skipped) = sampler::skip(keys.len() - next) {
            let index = next + skipped;
            match self.sample(group, keys[index]) {
                0 => {}
                heat => hot.push((index, heat)),
            }
            next = index + 1;
        }
        hot
    }

    #[cold]
    fn sample(&self, group: &Group, key: &[u8]) -> u32 {
        static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = NEXT_THREAD.fetch_add(1, Ordering::Relaxed);
        }
        // What can not be a key may have any size.
        if group.check_key(key).is_err() {
            return 0;
        }
        let hash = self.hasher.hash_one((group.name(), key));
        let asked = || Asked {
            group: group.clone(),
            key: key.into(),
        };
        let thread = THREAD.with(|thread| *thread);
        self.sketches[thread % SKETCHES].lock().count(hash, asked);
        (self.top.read().rate_of(hash) / self.hot_rate) as u32
    }

    /// The top keys, as of the last second.
    pub fn top(&self) -> Arc<Top> {
        self.top.read().clone()
    }

    /// Computes the rates from what was counted in `time`.
    fn measure(&self, time: Duration) {
        let old = self.top();
        let counted: Vec<_> = self
            .sketches
            .iter()
            .flat_map(|at| at.lock().take())
            .collect();
        if old.keys.is_empty() && counted.is_empty() {
            return;
        }
        let left = (-time.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        let worth = (1.0 - left) * f64::from(SAMPLED) / time.as_secs_f64();
        let mut keys = old.keys.clone();
        let mut places = old.places.clone();
        keys.iter_mut().for_each(|key| key.rate *= left);
        for (hash, counted) in counted {
            let Asked { group, key } = counted.item;
            let place = *places.entry(hash).or_insert(keys.len());
            if place == keys.len() {
                keys.push(TopKey {
                    group,
                    key,
                    rate: 0.0,
                    hash,
                });
            }
            // What it was counted for sure: what is rare must not seem hot.
            keys[place].rate += worth * f64::from(counted.least);
        }
        keys.retain(|key| key.rate >= FORGOTTEN_RATE);
        keys.sort_by(|a, b| b.rate.total_cmp(&a.rate));
        keys.truncate(TOP_MAX);
        let places = keys.iter().zip(0..).map(|(key, place)| (key.hash, place));
        let top = Top {
            places: places.collect(),
            keys,
            hasher: self.hasher.clone(),
        };
        *self.top.write() = Arc::new(top);
    }
}

fn run(hot: &Weak<Hot>) {
    let mut last = Instant::now();
    loop {
        thread::sleep(TICK);
        let Some(hot) = hot.upgrade() else { return };
        hot.measure(last.elapsed());
        last = Instant::now();
    }
}

#[cfg(test)]
mod tests;
