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

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};

use super::clock::NEVER;
use super::foreign::guarded;

/// The top of the counter that a hit bumps; S3-FIFO needs two bits.
pub(crate) const FREQUENCY_TOP: u8 = 3;

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
        if seen < FREQUENCY_TOP {
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

/// The body of the blob cache: key bytes and value bytes inline.
pub(crate) enum Bytes {}

#[repr(C)]
struct BlobEntry {
    header: Header,
    key_len: u32,
    value_len: u32,
}

const BLOB_HEADER_BYTES: usize = size_of::<BlobEntry>();

fn blob_layout(payload_bytes: usize) -> Layout {
    Layout::from_size_align(BLOB_HEADER_BYTES + payload_bytes, align_of::<BlobEntry>())
        .expect("a blob's size is bounded by u32")
}

/// # Safety
/// `entry` was built by [`BlobBuilder`] and is alive.
unsafe fn blob_at<'a>(entry: NonNull<Header>) -> &'a BlobEntry {
    // SAFETY: by the caller's word; `BlobEntry` starts with the header.
    unsafe { entry.cast::<BlobEntry>().as_ref() }
}

impl Bytes {
    /// # Safety
    /// `entry` was built by [`BlobBuilder`] and outlives `'a`.
    pub unsafe fn key_at<'a>(entry: NonNull<Header>) -> &'a [u8] {
        // SAFETY: by the caller's word; `key_len` bytes follow the header.
        unsafe {
            let len = blob_at(entry).key_len as usize;
            std::slice::from_raw_parts(entry.as_ptr().cast::<u8>().add(BLOB_HEADER_BYTES), len)
        }
    }

    /// # Safety
    /// `entry` was built by [`BlobBuilder`] and outlives `'a`.
    pub unsafe fn value_at<'a>(entry: NonNull<Header>) -> &'a [u8] {
        // SAFETY: by the caller's word; the value lies behind key and gap.
        unsafe {
            let blob = blob_at(entry);
            let start =
                BLOB_HEADER_BYTES + blob.key_len as usize + usize::from(blob.header.gap_bytes);
            let len = blob.value_len as usize;
            std::slice::from_raw_parts(entry.as_ptr().cast::<u8>().add(start), len)
        }
    }
}

// SAFETY: `free` rebuilds the layout from the lengths that `finish` shrank the allocation to.
unsafe impl Body for Bytes {
    type OwnedKey = (u16, Box<[u8]>);

    fn partition(key: &Self::OwnedKey) -> u16 {
        key.0
    }

    fn has_key(entry: &Handle<Self>, key: &Self::OwnedKey) -> bool {
        entry.header().partition == key.0 && entry.key() == &*key.1
    }

    fn same_key(a: &Handle<Self>, b: &Handle<Self>) -> bool {
        a.header().partition == b.header().partition && a.key() == b.key()
    }

    unsafe fn free(entry: NonNull<Header>) {
        // SAFETY: by the caller's word the last reference; nothing in a blob needs dropping.
        unsafe {
            let blob = blob_at(entry);
            let payload = blob.key_len as usize
                + usize::from(blob.header.gap_bytes)
                + blob.value_len as usize;
            dealloc(entry.as_ptr().cast(), blob_layout(payload));
        }
    }
}

impl Handle<Bytes> {
    pub fn key(&self) -> &[u8] {
        // SAFETY: built by `BlobBuilder`; our reference keeps it alive.
        unsafe { Bytes::key_at(self.entry) }
    }

    pub fn value(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { Bytes::value_at(self.entry) }
    }

    /// The bytes that the allocation has.
    pub fn allocated_bytes(&self) -> usize {
        BLOB_HEADER_BYTES
            + self.key().len()
            + usize::from(self.header().gap_bytes)
            + self.value().len()
    }
}

/// The most that key and value of a blob have together, in bytes.
pub(crate) const BLOB_PART_MAX_BYTES: usize = 1 << 31;

/// Builds a blob entry in place: the value's bytes are written where they will stay.
///
/// Up to 255 bytes can be kept free in front of the value, for a prefix (a length, say) that is known only at the end.
pub(crate) struct BlobBuilder {
    entry: NonNull<Header>,
    key_len: usize,
    headroom: u8,
    value_len: usize,
    /// Bytes behind the blob's header: key, headroom, value, and what is reserved.
    capacity: usize,
}

// SAFETY: the builder owns its allocation alone.
unsafe impl Send for BlobBuilder {}

impl BlobBuilder {
    /// Starts a value for `key`, with `headroom` bytes free in front of it.
    pub fn new(key: &[u8], headroom: u8) -> Self {
        assert!(key.len() <= BLOB_PART_MAX_BYTES, "a key has at most 2 GiB");
        let capacity = key.len() + usize::from(headroom);
        let layout = blob_layout(capacity);
        // SAFETY: the layout is never empty, it has the header's bytes at least.
        let Some(entry) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        // SAFETY: freshly allocated, large enough for the header and the key.
        unsafe {
            entry.cast::<BlobEntry>().write(BlobEntry {
                header: Header::new(0, 0),
                key_len: key.len() as u32,
                value_len: 0,
            });
            entry
                .add(BLOB_HEADER_BYTES)
                .copy_from_nonoverlapping(NonNull::from(key).cast(), key.len());
        }
        Self {
            entry: entry.cast(),
            key_len: key.len(),
            headroom,
            value_len: 0,
            capacity,
        }
    }

    fn value_start(&self) -> usize {
        BLOB_HEADER_BYTES + self.key_len + usize::from(self.headroom)
    }

    fn resize(&mut self, capacity: usize) {
        let old = blob_layout(self.capacity);
        let new = blob_layout(capacity);
        // SAFETY: allocated with `old`; the new size is not zero.
        let moved = unsafe { realloc(self.entry.as_ptr().cast(), old, new.size()) };
        let Some(entry) = NonNull::new(moved) else {
            handle_alloc_error(new)
        };
        self.entry = entry.cast();
        self.capacity = capacity;
    }

    /// Makes room for `more` bytes of value.
    pub fn reserve(&mut self, more: usize) {
        let used = self.key_len + usize::from(self.headroom) + self.value_len;
        let need = used.saturating_add(more);
        assert!(need <= BLOB_PART_MAX_BYTES, "a blob has at most 2 GiB");
        if need > self.capacity {
            self.resize(need);
        }
    }

    /// Empties the value; what is reserved stays.
    pub fn clear(&mut self) {
        self.value_len = 0;
    }

    /// Appends to the value; the allocation grows by half where it has to.
    pub fn extend(&mut self, bytes: &[u8]) {
        let used = self.key_len + usize::from(self.headroom) + self.value_len;
        if used + bytes.len() > self.capacity {
            let half = (self.value_len / 2).min(BLOB_PART_MAX_BYTES - used);
            self.reserve(bytes.len().max(half));
        }
        // SAFETY: `reserve` made room for `bytes` behind what is written.
        unsafe {
            let end = self
                .entry
                .as_ptr()
                .cast::<u8>()
                .add(self.value_start() + self.value_len);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), end, bytes.len());
        }
        self.value_len += bytes.len();
    }

    pub fn len(&self) -> usize {
        self.value_len
    }

    /// What has been written so far.
    pub fn value(&self) -> &[u8] {
        // SAFETY: `value_len` bytes have been written behind the headroom.
        unsafe {
            let start = self.entry.as_ptr().cast::<u8>().add(self.value_start());
            std::slice::from_raw_parts(start, self.value_len)
        }
    }

    /// Puts `prefix` in front of the value and makes it a part of it.
    ///
    /// # Panics
    /// If the prefix is longer than the headroom.
    pub fn finish(mut self, hash: u64, partition: u16, prefix: &[u8]) -> Handle<Bytes> {
        assert!(prefix.len() <= usize::from(self.headroom));
        let used = self.key_len + usize::from(self.headroom) + self.value_len;
        if used < self.capacity {
            self.resize(used);
        }
        let gap = self.headroom - prefix.len() as u8;
        // SAFETY: the headroom lies between key and value; nobody else sees the entry yet.
        unsafe {
            let start = self.entry.as_ptr().cast::<u8>().add(self.value_start());
            std::ptr::copy_nonoverlapping(prefix.as_ptr(), start.sub(prefix.len()), prefix.len());
            let mut header = Header::new(hash, partition);
            header.gap_bytes = gap;
            self.entry.cast::<BlobEntry>().write(BlobEntry {
                header,
                key_len: self.key_len as u32,
                value_len: (prefix.len() + self.value_len) as u32,
            });
        }
        let handle = Handle {
            entry: self.entry,
            body: PhantomData,
        };
        std::mem::forget(self);
        handle
    }
}

impl Drop for BlobBuilder {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and ours alone.
        unsafe { dealloc(self.entry.as_ptr().cast(), blob_layout(self.capacity)) }
    }
}

#[cfg(test)]
mod tests;
