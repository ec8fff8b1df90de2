//! What the engine's types can be used as: that this compiles is most of the test.

use std::error::Error;
use std::fmt::Debug;
use std::io::{self, Write};
use std::panic::{RefUnwindSafe, UnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use corecache::engine::{
    Blob, BlobCache, BlobIter, BlobSink, BuildError, Builder, Cache, Cause, Entry, EntryTooLarge,
    Failure, Iter, Rejected, RestoreError, Restored, SaveError, Saved, Stats,
};

fn is_shared<T: Send + Sync + UnwindSafe + RefUnwindSafe + Debug>() {}
fn is_debug<T: Debug>() {}
fn is_error<T: Error + Send + Sync + 'static>() {}

#[test]
fn types_have_the_traits_that_are_expected_of_them() {
    is_shared::<Cache<String, Vec<u8>>>();
    is_shared::<BlobCache>();
    is_debug::<(Builder, Stats, Cause, Saved, Restored)>();
    is_debug::<(Blob, BlobIter<'_>, BlobSink<'_>)>();
    is_debug::<(Entry<u8, u8>, Iter<'_, u8, u8>)>();
    is_error::<BuildError>();
    is_error::<Failure>();
    is_error::<EntryTooLarge>();
    is_error::<SaveError>();
    is_error::<RestoreError>();
    is_error::<Rejected<u8, fn()>>();
}

/// A value that knows the cache that it is in.
struct Node {
    cache: Weak<Cache<u64, Arc<Node>>>,
    next: u64,
}

#[test]
fn a_value_may_hold_its_cache() {
    let cache = Arc::new(Cache::<u64, Arc<Node>>::new(1 << 20).unwrap());
    let node = |next| {
        let cache = Arc::downgrade(&cache);
        Arc::new(Node { cache, next })
    };
    cache.insert(1, node(2)).unwrap();
    cache.insert(2, node(1)).unwrap();
    let first = cache.get(&1).unwrap();
    let second = first
        .cache
        .upgrade()
        .and_then(|cache| cache.get(&first.next));
    assert_eq!(second.map(|node| node.next), Some(1));
}

#[test]
fn a_cache_is_used_on_after_a_panic_without_more_ado() {
    let cache = Cache::<u64, u64>::new(1 << 20).unwrap();
    let load = || cache.get_or_load(&1, |_| panic!("on purpose"));
    assert!(catch_unwind(load).is_err());
    assert_eq!(cache.get_or_load(&1, |_| Ok(7)).unwrap(), 7);
}

#[test]
fn blobs_are_written_and_compared_as_bytes_are() {
    let pages = BlobCache::new(1 << 20).unwrap();
    let page = pages.get_or_load(b"/", |_, page| {
        io::copy(&mut &b"hel"[..], page)?;
        Ok(write!(page, "lo")?)
    });
    let page = page.unwrap();
    assert_eq!(page, b"hello");
    assert_eq!(page, *b"hello");
    assert_eq!(page, &b"hello"[..]);
    assert_eq!(pages.get(b"/"), Some(page));
}
