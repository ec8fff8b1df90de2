//! Keys and values by rank. The ranks of a run lie in one array that is read from front to back, which the hardware
//! fetches ahead, and a key is computed from its rank: choosing one costs no cache miss.

use std::hash::Hash;
use std::sync::Arc;

/// What a cache is asked for.
pub trait Key: Copy + Hash + Eq + Send + Sync + 'static {
    fn of(rank: u64) -> Self;
}

/// What it answers.
pub trait Value: Clone + Send + Sync + 'static {
    fn of(rank: u64) -> Self;
}

/// 16 bytes as two words: caches that are generic over their keys hash and compare them faster than `[u8; 16]`.
pub type Words = (u64, u64);

/// The value that is measured with.
pub type Payload = [u8; 100];

impl Key for Words {
    fn of(rank: u64) -> Self {
        (mix(rank), rank)
    }
}

impl Key for [u8; 16] {
    fn of(rank: u64) -> Self {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&mix(rank).to_le_bytes());
        key[8..].copy_from_slice(&rank.to_le_bytes());
        key
    }
}

impl Key for u64 {
    fn of(rank: u64) -> Self {
        rank
    }
}

impl Value for Payload {
    fn of(rank: u64) -> Self {
        [rank as u8; 100]
    }
}

impl Value for Arc<Payload> {
    fn of(rank: u64) -> Self {
        Arc::new(Payload::of(rank))
    }
}

impl Value for u64 {
    fn of(rank: u64) -> Self {
        rank
    }
}

/// splitmix64 (G. Steele et al., OOPSLA 2014).
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// All ranks below `n`, a power of two, once each and out of order: keys that are hot are not to be neighbours in
/// memory because they were inserted one after the other.
pub fn scattered(n: usize) -> impl Iterator<Item = u64> {
    let n = n as u64;
    assert!(n.is_power_of_two());
    (0..n).map(move |i| i.wrapping_mul(0x9e37_79b9) & (n - 1))
}

/// `count` ranks below `n`, Zipf with exponent `s`.
pub fn zipf(n: usize, s: f64, count: usize, seed: u64) -> Vec<u32> {
    let mut sums = Vec::with_capacity(n);
    let mut sum = 0.0;
    for rank in 1..=n {
        sum += (rank as f64).powf(-s);
        sums.push(sum);
    }
    let draw = |i: usize| {
        let at = mix(seed.wrapping_add(i as u64)) as f64 / u64::MAX as f64 * sum;
        sums.partition_point(|&s| s < at).min(n - 1) as u32
    };
    (0..count).map(draw).collect()
}
