//! Keys and values: 2^20 keys of 16 bytes, values of 100, asked for as Zipf has it.

pub const KEYS: usize = 1 << 20;
pub const KEY_BYTES: usize = 16;
pub const VALUE_BYTES: usize = 100;
const ZIPF: f64 = 0.99;

pub fn key(number: usize) -> [u8; KEY_BYTES] {
    let mut key = *b"key:000000000000";
    let digits = format!("{number:012}");
    key[4..].copy_from_slice(digits.as_bytes());
    key
}

/// So many draws; the ranks are spread over the keys.
pub fn zipf(draws: usize) -> Vec<usize> {
    let mut sum = 0.0;
    let steps: Vec<f64> = (1..=KEYS)
        .map(|rank| {
            sum += (rank as f64).powf(-ZIPF);
            sum
        })
        .collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        // xorshift64* (Vigna)
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..draws)
        .map(|_| {
            let draw = random() * sum;
            let rank = steps.partition_point(|&step| step < draw);
            // An odd factor visits each key once.
            rank.min(KEYS - 1).wrapping_mul(0x9e_3779) % KEYS
        })
        .collect()
}
