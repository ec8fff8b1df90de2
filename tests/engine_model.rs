//! One thread against plain maps: whatever is done, a cache with room for all of it is a map.

use std::collections::HashMap;
use std::time::Duration;

use corecache::engine::{BlobCache, Builder, Cache};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Get(u8),
    Load(u8, u32),
    FailToLoad(u8),
    Insert(u8, u32),
    InsertSoon(u8, u32),
    InsertFor(u8, u32, bool),
    Remove(u8),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0u8..40;
    prop_oneof![
        4 => key.clone().prop_map(Step::Get),
        3 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Load(key, value)),
        1 => key.clone().prop_map(Step::FailToLoad),
        3 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
        2 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::InsertSoon(key, value)),
        2 => (key.clone(), any::<u32>(), any::<bool>())
            .prop_map(|(key, value, lives)| Step::InsertFor(key, value, lives)),
        3 => key.prop_map(Step::Remove),
        1 => Just(Step::Clear),
    ]
}

const LONG: Duration = Duration::from_secs(3600);

fn ttl(lives: bool) -> Duration {
    if lives { LONG } else { Duration::ZERO }
}

/// A value as bytes, of a length that depends on it.
fn bytes(value: u32) -> Vec<u8> {
    value.to_le_bytes().repeat(value as usize % 50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_typed_cache_is_a_map(shards in 1usize..4, steps in vec(step(), 1..200)) {
        let cache = Cache::<u8, u32>::from_builder(&Builder::new(1 << 20).shards(shards)).unwrap();
        let mut model = HashMap::new();
        for step in steps {
            match step {
                Step::Get(key) => prop_assert_eq!(cache.get(&key), model.get(&key).copied()),
                Step::Load(key, value) => {
                    let loaded = cache.get_or_load(&key, |_| Ok(value)).unwrap();
                    prop_assert_eq!(loaded, *model.entry(key).or_insert(value));
                    cache.flush();
                }
                Step::FailToLoad(key) => {
                    let outcome = cache.get_or_load(&key, |_| Err("no".into()));
                    prop_assert_eq!(outcome.ok(), model.get(&key).copied());
                }
                Step::Insert(key, value) => {
                    cache.insert(key, value).unwrap();
                    model.insert(key, value);
                }
                Step::InsertSoon(key, value) => {
                    cache.insert_soon(key, value).unwrap();
                    cache.flush();
                    model.insert(key, value);
                }
                Step::InsertFor(key, value, lives) => {
                    cache.insert_for(key, value, ttl(lives)).unwrap();
                    model.remove(&key);
                    lives.then(|| model.insert(key, value));
                }
                Step::Remove(key) => {
                    prop_assert_eq!(cache.remove(&key), model.remove(&key).is_some());
                }
                Step::Clear => {
                    cache.clear();
                    model.clear();
                }
            }
        }
        let keys: Vec<u8> = (0..40).collect();
        let expected: Vec<_> = keys.iter().map(|key| model.get(key).copied()).collect();
        prop_assert_eq!(cache.get_many(&keys), expected);
        prop_assert_eq!(cache.stats().flights, 0);
    }

    #[test]
    fn a_blob_cache_is_a_map(shards in 1usize..4, steps in vec(step(), 1..200)) {
        let cache = BlobCache::from_builder(&Builder::new(1 << 20).shards(shards)).unwrap();
        let mut model = HashMap::new();
        let of = |key: u8| vec![key; usize::from(key) % 7 + usize::from(key > 0)];
        for step in steps {
            match step {
                Step::Get(key) => {
                    let value = cache.get_with(&of(key), <[u8]>::to_vec);
                    prop_assert_eq!(value.as_ref(), model.get(&of(key)));
                }
                Step::Load(key, value) => {
                    let loaded = cache.get_or_load(&of(key), |_, sink| {
                        bytes(value).chunks(3).for_each(|part| sink.extend_from_slice(part));
                        Ok(())
                    });
                    let expected = model.entry(of(key)).or_insert_with(|| bytes(value));
                    prop_assert_eq!(&*loaded.unwrap(), &**expected);
                    cache.flush();
                }
                Step::FailToLoad(key) => {
                    let outcome = cache.get_or_load(&of(key), |_, _| Err("no".into()));
                    prop_assert_eq!(outcome.is_ok(), model.contains_key(&of(key)));
                }
                Step::Insert(key, value) => {
                    cache.insert(&of(key), &bytes(value)).unwrap();
                    model.insert(of(key), bytes(value));
                }
                Step::InsertSoon(key, value) => {
                    cache.insert_soon(&of(key), &bytes(value)).unwrap();
                    cache.flush();
                    model.insert(of(key), bytes(value));
                }
                Step::InsertFor(key, value, lives) => {
                    cache.insert_for(&of(key), &bytes(value), ttl(lives)).unwrap();
                    model.remove(&of(key));
                    lives.then(|| model.insert(of(key), bytes(value)));
                }
                Step::Remove(key) => {
                    prop_assert_eq!(cache.remove(&of(key)), model.remove(&of(key)).is_some());
                }
                Step::Clear => {
                    cache.clear();
                    model.clear();
                }
            }
        }
        for key in 0..40 {
            let value = cache.get(&of(key)).map(|blob| blob.to_vec());
            prop_assert_eq!(value.as_ref(), model.get(&of(key)));
        }
    }
}
