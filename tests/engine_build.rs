//! How caches are made: what is refused, and what goes on with less.

use std::hash::{BuildHasherDefault, Hasher};

use corecache::engine::{BlobCache, BuildError, Builder, Cache, pin_to_core};

fn refusal(builder: &Builder) -> BuildError {
    match Cache::<u64, u64>::from_builder(builder) {
        Ok(_) => panic!("{builder:?} is not to be built"),
        Err(error) => error,
    }
}

#[test]
fn a_cache_has_a_shard() {
    let error = refusal(&Builder::new(1 << 20).shards(0));
    assert!(matches!(error, BuildError::NoShards), "{error}");
    let error = refusal(&Builder::new(1 << 40).shards(65_537));
    assert!(
        matches!(error, BuildError::TooManyShards(65_537)),
        "{error}"
    );
}

#[test]
fn a_budget_has_a_least_and_a_most() {
    for (budget_bytes, shards) in [(0, 1), (100, 1), (1 << 20, 1000)] {
        let error = refusal(&Builder::new(budget_bytes).shards(shards));
        let BuildError::BudgetTooSmall { least_bytes, .. } = error else {
            panic!("{error}");
        };
        assert!(
            error.to_string().contains(&budget_bytes.to_string()),
            "{error}"
        );
        let least = Builder::new(least_bytes).shards(shards.min(8));
        assert!(Cache::<u64, u64>::from_builder(&least).is_ok());
    }
    assert!(matches!(
        refusal(&Builder::new(0)),
        BuildError::BudgetTooSmall { .. }
    ));
    let error = refusal(&Builder::new(usize::MAX));
    assert!(
        matches!(error, BuildError::BudgetTooLarge(usize::MAX)),
        "{error}"
    );
}

#[test]
fn the_largest_budget_works() {
    let cache = Cache::<u64, u64>::new(isize::MAX as usize / 4).unwrap();
    cache.insert(1, 2).unwrap();
    assert_eq!(cache.get(&1), Some(2));
}

#[test]
fn the_smallest_budget_holds_something() {
    let cache = BlobCache::from_builder(&Builder::new(16 << 10).shards(1)).unwrap();
    for key in 0..1000_u32 {
        cache.insert(&key.to_le_bytes(), &[1; 100]).unwrap();
    }
    let stats = cache.stats();
    assert!(
        stats.entries > 10 && stats.used_bytes <= 18 << 10,
        "{stats:?}"
    );
}

#[test]
fn more_shards_than_cores_work() {
    let cache = Cache::<u64, u64>::from_builder(&Builder::new(4 << 20).shards(64)).unwrap();
    assert_eq!(cache.shards(), 64);
    for key in 0..1000 {
        cache.insert(key, key).unwrap();
    }
    assert!((0..1000).all(|key| cache.get(&key) == Some(key)));
}

#[test]
fn a_core_that_is_not_there_is_gone_without() {
    for cores in [vec![100_000], vec![1023], vec![usize::MAX, 0]] {
        let cache = Cache::<u64, u64>::from_builder(&Builder::new(1 << 20).shards(3).pin_to(cores));
        let cache = cache.unwrap();
        cache.insert(1, 2).unwrap();
        assert_eq!(cache.get(&1), Some(2));
    }
    assert!(pin_to_core(100_000).is_err());
}

#[test]
fn caches_come_and_go() {
    for _ in 0..200 {
        let cache = Cache::<u64, u64>::from_builder(&Builder::new(1 << 20).shards(4)).unwrap();
        cache.insert_soon(1, 2).unwrap();
    }
}

/// Of all hashers the worst.
#[derive(Default)]
struct Same;

impl Hasher for Same {
    fn finish(&self) -> u64 {
        7
    }

    fn write(&mut self, _: &[u8]) {}
}

#[test]
fn a_hasher_may_be_slow_and_the_cache_is_right() {
    let hasher = BuildHasherDefault::<Same>::default();
    let cache = Cache::from_builder_with_hasher(&Builder::new(1 << 20), hasher).unwrap();
    for key in 0..1000_u32 {
        cache.insert(key, key + 1).unwrap();
    }
    cache.remove(&500);
    for key in 0..1000 {
        let wanted = (key != 500).then_some(key + 1);
        assert_eq!(cache.get(&key), wanted);
    }
    assert_eq!(cache.iter().count(), 999);
}

#[test]
fn what_holds_a_cache_can_be_printed() {
    let cache = Cache::<u64, u64>::new(1 << 20).unwrap();
    cache.insert(1, 2).unwrap();
    let text = format!("{cache:?}");
    assert!(
        text.starts_with("Cache { entries: 1, used_bytes: "),
        "{text}"
    );
    let blobs = format!("{:?}", BlobCache::new(1 << 20).unwrap());
    assert!(blobs.starts_with("BlobCache { entries: 0, "), "{blobs}");
}
