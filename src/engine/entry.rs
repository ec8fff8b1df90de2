//! An entry is one allocation: a [`Header`], then the key, then the value.
//!
//! ```text
//! typed   | Header | K | V |
//! blob    | Header | key_len | value_len | key bytes | gap | value bytes |
//! ```
//!
//! The table and the owner only ever see the header; a [`Body`] knows what lies behind it. An entry is immutable
//! from the moment it is published, except for what the table below allows:
//!
//! | field | written by | read by |
//! |---|---|---|
//! | `refs` | anyone who holds a reference | anyone |
//! | `frequency` | readers, up to its top; the owner | readers, the owner |
//! | `token` | the owner | the owner |
//! | all others | the builder, before the entry is published | anyone |

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};

mod blob;

pub(crate) use blob::{BLOB_PART_MAX_BYTES, BlobBuilder, Bytes};

use super::clock::NEVER;
use super::foreign::guarded;
use super::policy::COUNTER_TOP;

#[repr(C)]
pub(crate) struct Header {
    pub hash: u64,
    /// When the entry must not be served any more, on the cache's clock; [`NEVER`] if it does not expire.
    pub hard_expiry_ns: u64,
    refs: AtomicU32,
    /// What the entry costs the budget, its share of table and queues included.
    pub weight_bytes: u32,
    token: AtomicU32,
    pub partition: u16,
    /// Entries of an older generation than their partition's are dead.
    pub generation: u16,
    frequency: AtomicU8,
    /// Blob only: unused bytes between key and value.
    gap_bytes: u8,
}

impl Header {
    fn new(hash: u64, partition: u16) -> Self {
        Self {
            hash,
            hard_expiry_ns: NEVER,
            refs: AtomicU32::new(1),
            weight_bytes: 0,
            token: AtomicU32::new(0),
            partition,
            generation: 0,
            frequency: AtomicU8::new(0),
            gap_bytes: 0,
        }
    }

    /// Bumps the counter, unless it is at its top: a hot entry is never written to. Two readers may lose one of
    /// two bumps to each other; the policy only asks for more or less.
    #[inline]
    pub fn touch(&self) {
        let seen = self.frequency.load(Ordering::Relaxed);
        if seen < COUNTER_TOP {
            self.frequency.store(seen + 1, Ordering::Relaxed);
        }
    }

    pub fn frequency(&self) -> u8 {
        self.frequency.load(Ordering::Relaxed)
    }

    pub fn set_frequency(&self, frequency: u8) {
        self.frequency.store(frequency, Ordering::Relaxed);
    }

    pub fn token(&self) -> u32 {
        self.token.load(Ordering::Relaxed)
    }

    pub fn set_token(&self, token: u32) {
        self.token.store(token, Ordering::Relaxed);
    }

    /// Whether the caller's reference is the only one. Acquire: what the others did with the entry is done.
    pub fn is_unshared(&self) -> bool {
        self.refs.load(Ordering::Acquire) == 1
    }
}

/// What lies behind an entry's header.
///
/// # Safety
/// `free` must take back exactly what the implementor's constructor allocated.
pub(crate) unsafe trait Body: Sized + Send + Sync + 'static {
    /// A key that can outlive the call that brought it.
    type OwnedKey: Send + Sync + 'static;

    /// The partition that a key belongs to.
    fn partition(key: &Self::OwnedKey) -> u16;

    /// Whether the entry is of this key.
    fn has_key(entry: &Handle<Self>, key: &Self::OwnedKey) -> bool;

    /// Whether two entries are of one key.
    fn same_key(a: &Handle<Self>, b: &Handle<Self>) -> bool;

    /// Drops key and value and frees the allocation.
    ///
    /// # Safety
    /// `entry` was built by this body, and nobody holds a reference to it any more.
    unsafe fn free(entry: NonNull<Header>);
}

/// A counted reference to an entry.
pub(crate) struct Handle<B: Body> {
    entry: NonNull<Header>,
    body: PhantomData<B>,
}

// SAFETY: the count is atomic, and a body is Send and Sync by its bound.
unsafe impl<B: Body> Send for Handle<B> {}
// SAFETY: as above; a shared handle gives out shared references only.
unsafe impl<B: Body> Sync for Handle<B> {}

impl<B: Body> Handle<B> {
    /// Adds a reference to an entry that the caller keeps alive meanwhile.
    ///
    /// # Safety
    /// `entry` was built by `B` and stays alive for the length of this call.
    pub unsafe fn acquire(entry: NonNull<Header>) -> Self {
        // SAFETY: alive, by the caller's word.
        let seen = unsafe { entry.as_ref() }
            .refs
            .fetch_add(1, Ordering::Relaxed);
        if seen > u32::MAX / 2 {
            // A count that wraps would free an entry in use; no program holds two billion references and goes on.
            std::process::abort();
        }
        Self {
            entry,
            body: PhantomData,
        }
    }

    /// Takes over a reference that [`Handle::into_raw`] gave away.
    ///
    /// # Safety
    /// `entry` comes from `into_raw` of a `Handle<B>`, and is taken back once.
    pub unsafe fn from_raw(entry: NonNull<Header>) -> Self {
        Self {
            entry,
            body: PhantomData,
        }
    }

    /// Gives the reference away, to be taken back by [`Handle::from_raw`].
    pub fn into_raw(self) -> NonNull<Header> {
        let entry = self.entry;
        std::mem::forget(self);
        entry
    }

    pub fn as_ptr(&self) -> NonNull<Header> {
        self.entry
    }

    pub fn header(&self) -> &Header {
        // SAFETY: the reference that we hold keeps it alive.
        unsafe { self.entry.as_ref() }
    }

    /// The header of an entry that nobody else has seen yet.
    pub fn header_mut(&mut self) -> &mut Header {
        assert!(
            self.header().is_unshared(),
            "a published entry is immutable"
        );
        // SAFETY: the only reference is ours, and it is borrowed mutably.
        unsafe { self.entry.as_mut() }
    }
}

impl<B: Body> Clone for Handle<B> {
    fn clone(&self) -> Self {
        // SAFETY: built by `B`, and alive by our own reference.
        unsafe { Self::acquire(self.entry) }
    }
}

impl<B: Body> Drop for Handle<B> {
    fn drop(&mut self) {
        if self.header().refs.fetch_sub(1, Ordering::Release) == 1 {
            // Pairs with the Release of those who dropped theirs before.
            fence(Ordering::Acquire);
            // SAFETY: that was the last reference.
            unsafe { B::free(self.entry) }
        }
    }
}

/// The body of `Cache<K, V>`: key and value as they are, inline.
pub(crate) struct Typed<K, V>(PhantomData<(K, V)>);

#[repr(C)]
struct TypedEntry<K, V> {
    header: Header,
    key: K,
    value: V,
}

// SAFETY: `free` takes back the box that `Handle::typed` made.
unsafe impl<K, V> Body for Typed<K, V>
where
    K: Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    type OwnedKey = K;

    fn partition(_key: &K) -> u16 {
        0
    }

    fn has_key(entry: &Handle<Self>, key: &K) -> bool {
        entry.key() == key
    }

    fn same_key(a: &Handle<Self>, b: &Handle<Self>) -> bool {
        a.key() == b.key()
    }

    unsafe fn free(entry: NonNull<Header>) {
        // SAFETY: the pointer came from a box of this type, by the caller's word.
        let entry = unsafe { Box::from_raw(entry.cast::<TypedEntry<K, V>>().as_ptr()) };
        // Mostly an owner comes by here. A key or value that panics when it is dropped must not take it down.
        guarded("a key or a value that was dropped", || drop(entry));
    }
}

impl<K, V> Typed<K, V> {
    /// The bytes of one entry, heap memory behind key and value not included.
    pub const ENTRY_BYTES: usize = size_of::<TypedEntry<K, V>>();

    /// # Safety
    /// `entry` was built by this body and outlives `'a`.
    pub unsafe fn key_at<'a>(entry: NonNull<Header>) -> &'a K {
        // SAFETY: by the caller's word.
        unsafe { &(*entry.cast::<TypedEntry<K, V>>().as_ptr()).key }
    }

    /// # Safety
    /// `entry` was built by this body and outlives `'a`.
    pub unsafe fn value_at<'a>(entry: NonNull<Header>) -> &'a V {
        // SAFETY: by the caller's word.
        unsafe { &(*entry.cast::<TypedEntry<K, V>>().as_ptr()).value }
    }
}

impl<K, V> Handle<Typed<K, V>>
where
    K: Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    pub fn typed(hash: u64, key: K, value: V) -> Self {
        let entry = Box::new(TypedEntry {
            header: Header::new(hash, 0),
            key,
            value,
        });
        Self {
            entry: NonNull::from(Box::leak(entry)).cast(),
            body: PhantomData,
        }
    }

    pub fn key(&self) -> &K {
        // SAFETY: built by this body; our reference keeps it alive.
        unsafe { Typed::<K, V>::key_at(self.entry) }
    }

    pub fn value(&self) -> &V {
        // SAFETY: as above.
        unsafe { Typed::<K, V>::value_at(self.entry) }
    }
}

#[cfg(test)]
mod tests;
