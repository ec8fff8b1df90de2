//! The caches and maps that are measured, each with the key and value types that suit it best.
//!
//! `get` does what a program does with the value: it ends up with one that it owns, a copy or a counted reference.

use std::hint::black_box;

pub type Key = [u8; 16];
pub type Value = [u8; 100];

/// What a workload needs of a cache.
pub trait Rival: Send + Sync + 'static {
    const NAME: &'static str;
    /// For `capacity` entries, with room to spare: nothing is to be evicted where all reads are to hit.
    fn new(capacity: usize) -> Self;
    /// Whether the key was there.
    fn get(&self, key: &Key) -> bool;
    fn insert(&self, key: Key, value: Value);
    /// The value, loaded by a loader that takes no time.
    fn get_or_load(&self, key: &Key);
    /// Returns when what was inserted is to be seen.
    fn flush(&self) {}
}

pub fn value_of(key: &Key) -> Value {
    [key[0]; 100]
}

/// An entry's bytes in a corecache budget, generously.
const ENTRY_BYTES: usize = 400;

pub struct Typed(corecache::engine::Cache<Key, Value>);

impl Rival for Typed {
    const NAME: &'static str = "corecache";

    fn new(capacity: usize) -> Self {
        Self(corecache::engine::Cache::new((capacity * ENTRY_BYTES).max(1 << 20)).unwrap())
    }

    fn get(&self, key: &Key) -> bool {
        black_box(self.0.get(key)).is_some()
    }

    fn insert(&self, key: Key, value: Value) {
        self.0.insert_soon(key, value).unwrap();
    }

    fn get_or_load(&self, key: &Key) {
        black_box(self.0.get_or_load(key, |key| Ok(value_of(key))).unwrap());
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// The same, lending the value in place of copying it.
pub struct Lent(corecache::engine::Cache<Key, Value>);

impl Rival for Lent {
    const NAME: &'static str = "corecache get_with";

    fn new(capacity: usize) -> Self {
        Self(Typed::new(capacity).0)
    }

    fn get(&self, key: &Key) -> bool {
        self.0.get_with(key, |value| black_box(value[50])).is_some()
    }

    fn insert(&self, key: Key, value: Value) {
        self.0.insert_soon(key, value).unwrap();
    }

    fn get_or_load(&self, key: &Key) {
        black_box(self.0.get_or_load(key, |key| Ok(value_of(key))).unwrap());
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// The blob cache, with counted references.
pub struct Blobs(corecache::engine::BlobCache);

impl Rival for Blobs {
    const NAME: &'static str = "corecache blobs";

    fn new(capacity: usize) -> Self {
        Self(corecache::engine::BlobCache::new((capacity * ENTRY_BYTES).max(1 << 20)).unwrap())
    }

    fn get(&self, key: &Key) -> bool {
        black_box(self.0.get(key)).is_some()
    }

    fn insert(&self, key: Key, value: Value) {
        self.0.insert_soon(&key, &value).unwrap();
    }

    fn get_or_load(&self, key: &Key) {
        let load = |key: &[u8], sink: &mut corecache::engine::BlobSink<'_>| {
            sink.extend_from_slice(&[key[0]; 100]);
            Ok(())
        };
        black_box(self.0.get_or_load(key, load).unwrap());
    }

    fn flush(&self) {
        self.0.flush();
    }
}

pub struct QuickCache(quick_cache::sync::Cache<Key, Value>);

impl Rival for QuickCache {
    const NAME: &'static str = "quick_cache";

    fn new(capacity: usize) -> Self {
        Self(quick_cache::sync::Cache::new(capacity * 3 / 2))
    }

    fn get(&self, key: &Key) -> bool {
        black_box(self.0.get(key)).is_some()
    }

    fn insert(&self, key: Key, value: Value) {
        self.0.insert(key, value);
    }

    fn get_or_load(&self, key: &Key) {
        let value = self.0.get_or_insert_with(key, || Ok::<_, ()>(value_of(key)));
        let _ = black_box(value);
    }
}

/// quick_cache with its values behind a counted pointer: a get clones the pointer.
pub struct QuickCacheArc(quick_cache::sync::Cache<Key, std::sync::Arc<Value>>);

impl Rival for QuickCacheArc {
    const NAME: &'static str = "quick_cache Arc";

    fn new(capacity: usize) -> Self {
        Self(quick_cache::sync::Cache::new(capacity * 3 / 2))
    }

    fn get(&self, key: &Key) -> bool {
        black_box(self.0.get(key)).is_some()
    }

    fn insert(&self, key: Key, value: Value) {
        self.0.insert(key, value.into());
    }

    fn get_or_load(&self, key: &Key) {
        let value = self.0.get_or_insert_with(key, || Ok::<_, ()>(value_of(key).into()));
        let _ = black_box(value);
    }
}

pub struct Moka(moka::sync::Cache<Key, Value>);

impl Rival for Moka {
    const NAME: &'static str = "moka";

    fn new(capacity: usize) -> Self {
        Self(moka::sync::Cache::new(capacity as u64 * 3 / 2))
    }

    fn get(&self, key: &Key) -> bool {
        black_box(self.0.get(key)).is_some()
    }

    fn insert(&self, key: Key, value: Value) {
        self.0.insert(key, value);
    }

    fn get_or_load(&self, key: &Key) {
        black_box(self.0.get_with_by_ref(key, || value_of(key)));
    }
}

pub struct MiniMoka(mini_moka::sync::Cache<Key, Value>);

impl Rival for MiniMoka {
    const NAME: &'static str = "mini-moka";

    fn new(capacity: usize) -> Self {
        Self(mini_moka::sync::Cache::new(capacity as u64 * 3 / 2))
    }

    fn get(&self, key: &Key) -> bool {
        black_box(self.0.get(key)).is_some()
    }

    fn insert(&self, key: Key, value: Value) {
        self.0.insert(key, value);
    }

    fn get_or_load(&self, key: &Key) {
        if self.0.get(key).is_none() {
            self.0.insert(*key, value_of(key));
        }
    }
}

pub struct Foyer(foyer::Cache<Key, Value>);

impl Rival for Foyer {
    const NAME: &'static str = "foyer";

    fn new(capacity: usize) -> Self {
        Self(foyer::CacheBuilder::new(capacity * 3 / 2).with_shards(8).build())
    }

    fn get(&self, key: &Key) -> bool {
        black_box(self.0.get(key)).is_some()
    }

    fn insert(&self, key: Key, value: Value) {
        self.0.insert(key, value);
    }

    fn get_or_load(&self, key: &Key) {
        if self.0.get(key).is_none() {
            self.0.insert(*key, value_of(key));
        }
    }
}

pub struct Papaya(papaya::HashMap<Key, Value>);

impl Rival for Papaya {
    const NAME: &'static str = "papaya (map)";

    fn new(capacity: usize) -> Self {
        Self(papaya::HashMap::with_capacity(capacity))
    }

    fn get(&self, key: &Key) -> bool {
        black_box(self.0.pin().get(key).copied()).is_some()
    }

    fn insert(&self, key: Key, value: Value) {
        self.0.pin().insert(key, value);
    }

    fn get_or_load(&self, key: &Key) {
        black_box(*self.0.pin().get_or_insert_with(*key, || value_of(key)));
    }
}

pub struct DashMap(dashmap::DashMap<Key, Value>);

impl Rival for DashMap {
    const NAME: &'static str = "dashmap (map)";

    fn new(capacity: usize) -> Self {
        Self(dashmap::DashMap::with_capacity(capacity))
    }

    fn get(&self, key: &Key) -> bool {
        black_box(self.0.get(key).map(|value| *value)).is_some()
    }

    fn insert(&self, key: Key, value: Value) {
        self.0.insert(key, value);
    }

    fn get_or_load(&self, key: &Key) {
        black_box(*self.0.entry(*key).or_insert_with(|| value_of(key)));
    }
}
