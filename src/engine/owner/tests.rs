//! Partitions, which only the crate can make.

use crate::engine::entry::{BlobBuilder, Bytes, Handle};
use crate::engine::{BlobCache, BuildError, Builder, Share, Stats};

const MIB: usize = 1 << 20;

fn cache(shares: &[(usize, usize)], shards: usize) -> BlobCache {
    let shares = shares
        .iter()
        .map(|&(guaranteed_bytes, largest_bytes)| Share {
            guaranteed_bytes,
            largest_bytes,
        });
    BlobCache::from_builder(
        &Builder::new(8 * MIB)
            .shards(shards)
            .partitions(shares.collect()),
    )
    .unwrap()
}

fn entry(cache: &BlobCache, partition: u16, key: usize, len: usize) -> Handle<Bytes> {
    let key = key.to_le_bytes();
    let mut value = BlobBuilder::new(&key, 0);
    value.extend(&vec![partition as u8; len]);
    cache.seal(value, &cache.facts(partition, &key), b"")
}

fn insert(cache: &BlobCache, partition: u16, key: usize, len: usize) -> bool {
    let hash = cache.hash(partition, &key.to_le_bytes());
    cache.core().insert(hash, entry(cache, partition, key, len))
}

fn stats(cache: &BlobCache, partition: u16) -> Stats {
    cache.core().partition_stats(partition)
}

#[test]
fn a_partition_does_not_grow_over_its_largest_share() {
    let cache = cache(&[(0, MIB), (0, 8 * MIB)], 4);
    for key in 0..4000 {
        insert(&cache, 0, key, 1000);
        let bytes = stats(&cache, 0).entry_bytes as usize;
        assert!(bytes <= MIB + 4 * 1200, "{bytes} bytes");
    }
    assert!(stats(&cache, 0).entry_bytes as usize > MIB * 3 / 4);
    assert_eq!(stats(&cache, 1).entries, 0);
}

#[test]
fn what_a_partition_is_promised_others_can_not_take() {
    let cache = cache(&[(2 * MIB, 8 * MIB), (0, 8 * MIB)], 2);
    let kept = (0..1500)
        .filter(|&key| insert(&cache, 0, key, 1000))
        .count();
    assert_eq!(kept, 1500);
    for key in 0..20_000 {
        insert(&cache, 1, key, 1000);
    }
    assert_eq!(stats(&cache, 0).entries, 1500);
    assert_eq!(stats(&cache, 0).evicted, 0);
    assert!(stats(&cache, 1).evicted > 0);
}

#[test]
fn a_partition_gets_its_promise_back_from_one_that_took_all() {
    let cache = cache(&[(3 * MIB, 8 * MIB), (0, 8 * MIB)], 2);
    for key in 0..10_000 {
        insert(&cache, 1, key, 1000);
    }
    for key in 0..2000 {
        insert(&cache, 0, key, 1000);
    }
    let kept = (0..2000_usize).filter(|key| cache.read_in(0, &key.to_le_bytes(), |_| ()).is_some());
    assert_eq!(kept.count(), 2000);
}

#[test]
fn clear_empties_one_partition_and_its_account() {
    let cache = cache(&[(0, 8 * MIB), (0, 8 * MIB)], 3);
    for key in 0..500 {
        insert(&cache, 0, key, 100);
        insert(&cache, 1, key, 100);
    }
    cache.core().clear(0);
    let (cleared, other) = (stats(&cache, 0), stats(&cache, 1));
    assert_eq!(
        (cleared.entries, cleared.entry_bytes, cleared.removed),
        (0, 0, 500)
    );
    assert_eq!((other.entries, other.removed), (500, 0));
    assert!(other.entry_bytes <= other.used_bytes);
    cache.core().clear(1);
    assert_eq!(stats(&cache, 1).entry_bytes, 0);
}

#[test]
fn partitions_do_not_see_each_others_keys() {
    let cache = cache(&[(0, 8 * MIB), (0, 8 * MIB)], 1);
    insert(&cache, 1, 7, 10);
    let key = 7_usize.to_le_bytes();
    assert!(cache.read_in(0, &key, |_| ()).is_none());
    assert_eq!(
        cache.read_in(1, &key, |lent| lent.value().to_vec()),
        Some(vec![1; 10])
    );
}

#[test]
fn an_entry_over_its_partitions_share_is_refused() {
    let cache = cache(&[(0, MIB), (0, 8 * MIB)], 1);
    let refusal = cache
        .core()
        .admit(&entry(&cache, 0, 1, 2 * MIB))
        .unwrap_err();
    assert_eq!(refusal.largest_bytes, MIB);
    assert!(refusal.entry_bytes > 2 * MIB);
    assert_eq!((stats(&cache, 0).refused, stats(&cache, 1).refused), (1, 0));
    assert!(cache.core().admit(&entry(&cache, 1, 1, 2 * MIB)).is_ok());
}

#[test]
fn an_entry_of_a_former_generation_is_not_stored() {
    let cache = cache(&[], 1);
    let entry = entry(&cache, 0, 1, 10);
    cache.clear();
    assert!(
        !cache
            .core()
            .insert(cache.hash(0, &1_usize.to_le_bytes()), entry)
    );
    assert_eq!(cache.stats().entries, 0);
}

#[test]
fn generations_come_round_without_bringing_anything_back() {
    let cache = cache(&[], 1);
    insert(&cache, 0, 1, 10);
    for _ in 0..3 * usize::from(u8::MAX) {
        cache.clear();
    }
    assert!(cache.get(&1_usize.to_le_bytes()).is_none());
    assert_eq!(cache.stats().entry_bytes, 0);
}

#[test]
fn guarantees_that_add_up_to_more_than_the_budget_are_refused() {
    let share = |guaranteed_bytes| Share {
        guaranteed_bytes,
        largest_bytes: 8 * MIB,
    };
    for shares in [
        vec![share(5 * MIB), share(4 * MIB)],
        vec![share(usize::MAX), share(1)],
    ] {
        let built = BlobCache::from_builder(&Builder::new(8 * MIB).partitions(shares));
        assert!(matches!(built, Err(BuildError::TooMuchGuaranteed { .. })));
    }
}

/// A test that hangs fails too, if late.
#[test]
fn chores_that_never_end_hold_up_neither_a_flush_nor_the_end() {
    let cache = cache(&[(0, 8 * MIB)], 2);
    for key in 0..20_000 {
        insert(&cache, 0, key, 300);
    }
    cache.core().plant_endless_chores();
    let (done, flushed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        cache.flush();
        done.send("flushed").unwrap();
        drop(cache);
        done.send("dropped").unwrap();
    });
    for step in ["flushed", "dropped"] {
        let within = std::time::Duration::from_secs(60);
        assert_eq!(flushed.recv_timeout(within), Ok(step));
    }
}

#[test]
fn the_turns_of_a_flush_suffice_for_all_that_is_to_be_gathered() {
    let cache = cache(&[(0, 8 * MIB)], 1);
    for key in 0..20_000 {
        insert(&cache, 0, key, 200);
    }
    for key in (0..20_000_usize).filter(|key| key % 16 != 0) {
        let key = key.to_le_bytes();
        cache
            .core()
            .remove(cache.hash(0, &key), (0, key.as_slice().into()));
    }
    let is_tidy = || !cache.core().has_chores();
    cache.flush();
    assert!(is_tidy());
    assert_eq!(stats(&cache, 0).entries, 20_000 / 16);
}

/// A turn that has panicked leaves a shard that nobody may change: its owner must not try again and again.
#[test]
fn the_owner_of_a_broken_shard_is_not_called() {
    let cache = cache(&[(0, 8 * MIB)], 1);
    insert(&cache, 0, 1, 100);
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cache.core().each_turn(|owner| {
            owner.listening.waiting = 1;
            panic!("on purpose");
        });
    }));
    assert!(broken.is_err());
    assert!(!insert(&cache, 0, 2, 100));
    cache.core().each_turn(|owner| assert!(!owner.is_overdue()));
    assert!(cache.get(&1_usize.to_le_bytes()).is_some());
}
