use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const FACTS: Facts = Facts {
    hash: 42,
    partition: 3,
    generation: 5,
    expiry_ns: NEVER,
};

fn typed<K, V>(key: K, value: V) -> Handle<Typed<K, V>>
where
    K: Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    Handle::typed(&Arena::new(0), &FACTS, 100, key, value)
}

#[test]
fn a_header_stays_small() {
    assert_eq!(size_of::<Header>(), 16);
}

#[test]
fn the_counter_stops_at_its_top() {
    let header = Header::new(&FACTS);
    for expected in [1, 2, 3, 3, 3] {
        header.touch();
        assert_eq!(header.counter(), expected);
    }
}

#[test]
fn an_entry_drops_key_and_value_once_with_its_last_reference() {
    let (key, value) = (Arc::new(1), Arc::new(2));
    let entry = typed(key.clone(), value.clone());
    let other = entry.clone();
    drop(entry);
    assert_eq!((**other.key(), **other.value()), (1, 2));
    assert!(other.header().is_unshared());
    let raw = other.into_raw();
    assert_eq!(Arc::strong_count(&key), 2);
    // SAFETY: given away just now.
    drop(unsafe { Handle::<Typed<Arc<i32>, Arc<i32>>>::from_raw(raw) });
    assert_eq!((Arc::strong_count(&key), Arc::strong_count(&value)), (1, 1));
}

#[test]
fn a_value_that_panics_in_its_drop_is_caught_and_its_key_still_dropped() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    #[derive(PartialEq, Eq)]
    struct Key(Arc<i32>);
    let key = Arc::new(1);
    drop(typed(Key(key.clone()), Panics));
    assert_eq!(Arc::strong_count(&key), 1);
}

#[test]
fn an_expiry_is_kept_beside_the_counter() {
    let facts = Facts {
        expiry_ns: 123_456,
        ..FACTS
    };
    let arena = Arena::new(0);
    let check = |header: &Header, expiry_ns: u64| {
        for counter in [1, 2, 3, 3, 0] {
            assert_eq!((header.expires(), expiry_ns), (true, 123_456));
            header.touch();
            header.set_counter(counter);
            assert_eq!(header.counter(), counter);
        }
    };
    let entry = Handle::typed(&arena, &facts, 0, 1u8, 2u8);
    // SAFETY: alive, and built to expire.
    let expiry_ns = unsafe { Typed::<u8, u8>::expiry_ns(entry.as_ptr()) };
    check(entry.header(), expiry_ns);
    for len in [0, 3, 8, 10_000] {
        let blob = Handle::blob(&arena, &facts, b"key", &vec![7; len]);
        // SAFETY: as above.
        check(blob.header(), unsafe { Bytes::expiry_ns(blob.as_ptr()) });
        assert_eq!((blob.key(), blob.value()), (&b"key"[..], &vec![7; len][..]));
    }
}

#[test]
fn what_has_to_be_aligned_is() {
    #[repr(align(64))]
    #[derive(PartialEq, Eq)]
    struct Aligned(u8);
    let entry = typed(Aligned(1), Aligned(2));
    assert_eq!((entry.key().0, entry.value().0), (1, 2));
    assert!(std::ptr::from_ref(entry.value()).is_aligned());
}

proptest! {
    #[test]
    fn a_blob_is_what_was_written(
        key in vec(any::<u8>(), 0..300),
        parts in vec(vec(any::<u8>(), 0..200), 0..20),
        headroom in 0..=31u8,
        prefix_part in 0.0f64..=1.0,
        reserve in 0usize..3000,
    ) {
        let prefix = vec![0xAB; (f64::from(headroom) * prefix_part) as usize];
        let mut blob = BlobBuilder::new(&key, headroom);
        blob.reserve(reserve);
        parts.iter().for_each(|part| blob.extend(part));
        prop_assert_eq!(blob.value(), parts.concat());
        prop_assert_eq!(blob.len(), parts.concat().len());
        let entry = blob.finish(&Arena::new(0), &FACTS, &prefix);
        let behind_key = usize::from(headroom) + parts.concat().len();
        let weight = Bytes::weigh(key.len(), behind_key, false);
        prop_assert_eq!(entry.weight_bytes() as usize, weight);
        prop_assert_eq!(entry.key(), &key);
        prop_assert_eq!(entry.value(), [prefix, parts.concat()].concat());
        prop_assert_eq!((entry.header().hash, entry.header().partition()), (42, 3));
        let copy = entry.clone();
        prop_assert!(Bytes::same_key(&entry, &copy));
        prop_assert!(Bytes::has_key(&entry, &(3, key.clone().into())));
        prop_assert!(!Bytes::has_key(&entry, &(2, key.into())));
    }
}

#[test]
fn a_blob_that_is_given_up_frees_its_memory() {
    let mut blob = BlobBuilder::new(b"key", 10);
    blob.extend(&[1; 1000]);
    drop(blob);
}

#[test]
#[should_panic(expected = "prefix.len() <= usize::from(self.headroom)")]
fn a_prefix_fits_its_headroom() {
    BlobBuilder::new(b"key", 2).finish(&Arena::new(0), &FACTS, b"abc");
}

#[test]
#[should_panic(expected = "a blob has at most 2 GiB")]
fn a_blob_does_not_reserve_what_it_can_not_have() {
    BlobBuilder::new(b"key", 2).reserve(usize::MAX);
}
