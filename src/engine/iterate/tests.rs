use super::*;

/// Between two looks at a bucket a key can leave one place and come to another.
#[test]
fn of_two_entries_of_one_key_the_later_one_is_shown() {
    let cache = Cache::<u64, u64>::new(1 << 20).unwrap();
    let entry = |key: u64, value: u64| {
        let hash = cache.hash(&key);
        cache.entry(hash, key, value, None).unwrap()
    };
    let mut walk = Walk::new(cache.core(), 0);
    walk.found = vec![entry(1, 10), entry(2, 20), entry(1, 11), entry(3, 30)];
    let mut shown: Vec<(u64, u64)> = walk.map(|entry| (*entry.key(), *entry.value())).collect();
    shown.sort();
    assert_eq!(shown, [(1, 11), (2, 20), (3, 30)]);
}
