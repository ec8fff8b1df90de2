//! The engine chooses as well as its policy does alone, though it makes room for many entries at a time.

use corecache::engine::policy::simulate::{Contender, Trace};
use corecache::engine::{Builder, Cache};

/// Keys of which the n-th is asked for about in proportion to 1 / n.
fn keys(count: usize) -> Vec<u64> {
    let mut random = 88_172_645_463_325_252_u64;
    let key = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let part = (random >> 11) as f64 / (1_u64 << 53) as f64;
        20_000_f64.powf(part) as u64
    };
    std::iter::repeat_with(key).take(count).collect()
}

#[test]
fn a_small_cache_hits_as_often_as_its_policy_alone() {
    let keys = keys(300_000);
    let lines: String = keys.iter().map(|key| format!("{key}\n")).collect();
    let trace = Trace::read(lines.as_bytes()).unwrap();
    for budget_bytes in [60_000, 170_000, 400_000] {
        let builder = Builder::new(budget_bytes).shards(1);
        let cache = Cache::<u64, [u8; 100]>::from_builder(&builder).unwrap();
        let (mut hits, mut entries) = (0, 0);
        for &key in &keys {
            match cache.get(&key) {
                Some(_) => hits += 1,
                None => cache.insert(key, [0; 100]).unwrap(),
            }
            entries += cache.len();
        }
        let size = entries / keys.len();
        let alone = trace.replay(Contender::Corecache, size as u64, |_| ());
        let short = alone.hit_ratio() - f64::from(hits) / keys.len() as f64;
        assert!(
            short < 0.005,
            "{short} less than the policy alone with {size} entries"
        );
    }
}
