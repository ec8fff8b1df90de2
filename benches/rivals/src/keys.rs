//! Keys by rank. The ranks of a run lie in one array that is read from front to back, which the hardware fetches ahead:
//! choosing a key costs no cache miss.

use crate::rivals::Key;

/// splitmix64 (G. Steele et al., OOPSLA 2014).
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

pub fn key(rank: u32) -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mix(u64::from(rank)).to_le_bytes());
    key[8..].copy_from_slice(&u64::from(rank).to_le_bytes());
    key
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
