//! The entry of a blob: key bytes and value bytes behind the header, built in place.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::marker::PhantomData;
use std::ptr::NonNull;

use super::{Body, Handle, Header};

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
