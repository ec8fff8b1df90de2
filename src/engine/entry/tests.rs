use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[test]
fn a_header_stays_small() {
    assert!(size_of::<Header>() <= 40, "{} bytes", size_of::<Header>());
}

#[test]
fn the_counter_stops_at_its_top() {
    let header = Header::new(0, 0);
    for expected in [1, 2, 3, 3, 3] {
        header.touch();
        assert_eq!(header.frequency(), expected);
    }
}

#[test]
fn an_entry_drops_key_and_value_once_with_its_last_reference() {
    let (key, value) = (Arc::new(1), Arc::new(2));
    let entry = Handle::typed(7, key.clone(), value.clone());
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
    drop(Handle::typed(0, Key(key.clone()), Panics));
    assert_eq!(Arc::strong_count(&key), 1);
}

#[test]
#[should_panic(expected = "a published entry is immutable")]
fn a_shared_entry_is_not_changed() {
    let mut entry = Handle::typed(0, 1, 2);
    let _other = entry.clone();
    entry.header_mut().weight_bytes = 1;
}

proptest! {
    #[test]
    fn a_blob_is_what_was_written(
        key in vec(any::<u8>(), 0..300),
        parts in vec(vec(any::<u8>(), 0..200), 0..20),
        headroom in any::<u8>(),
        prefix_part in 0.0f64..=1.0,
        reserve in 0usize..3000,
    ) {
        let prefix = vec![0xAB; (f64::from(headroom) * prefix_part) as usize];
        let mut blob = BlobBuilder::new(&key, headroom);
        blob.reserve(reserve);
        parts.iter().for_each(|part| blob.extend(part));
        prop_assert_eq!(blob.value(), parts.concat());
        prop_assert_eq!(blob.len(), parts.concat().len());
        let entry = blob.finish(42, 3, &prefix);
        prop_assert_eq!(entry.key(), &key);
        prop_assert_eq!(entry.value(), [prefix, parts.concat()].concat());
        prop_assert_eq!((entry.header().hash, entry.header().partition), (42, 3));
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
    BlobBuilder::new(b"key", 2).finish(0, 0, b"abc");
}

#[test]
#[should_panic(expected = "a blob has at most 2 GiB")]
fn a_blob_does_not_reserve_what_it_can_not_have() {
    BlobBuilder::new(b"key", 2).reserve(usize::MAX);
}
