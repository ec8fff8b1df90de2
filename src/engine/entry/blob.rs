//! The entry of a blob: key bytes and value bytes behind the header.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use super::super::arena::{self, Arena};
use super::super::charge::Charge;
use super::super::clock::NEVER;
use super::super::policy::{Policy, TwoClocks};
use super::{Body, Facts, Handle, Header};

/// The body of the blob cache: key bytes and value bytes inline.
pub(crate) enum Bytes {}

/// ```text
/// short   | Header | lens                            | key | gap | value | expiry, if there is one
/// long    | Header | lens | payload_len | key_len    | key | gap | value | charge, if any | expiry, if there is one
/// ```
#[repr(C)]
struct BlobEntry {
    header: Header,
    /// Of a short blob all lengths: 16 bits of the payload (key, gap and value together), 8 of the key, 5 of the gap. Of
    /// a long one that of the gap, [`LONG`], and whether it is [`CHARGED`].
    lens: u32,
}

#[repr(C)]
struct LongBlobEntry {
    blob: BlobEntry,
    payload_len: u32,
    key_len: u32,
}

const LONG: u32 = 1 << 31;
/// A boxed [`Charge`] lies behind the value.
const CHARGED: u32 = 1 << 30;
const KEY_SHIFT: u32 = 16;
const GAP_SHIFT: u32 = 24;
const SHORT_PAYLOAD_MAX: usize = u16::MAX as usize;
const SHORT_KEY_MAX: usize = u8::MAX as usize;

const SHORT_HEADER_BYTES: usize = size_of::<BlobEntry>();
const LONG_HEADER_BYTES: usize = size_of::<LongBlobEntry>();
const EXPIRY_BYTES: usize = size_of::<u64>();
const CHARGE_BYTES: usize = size_of::<*mut Charge>();

/// The most that key and value of a blob have together, in bytes.
pub(crate) const BLOB_MAX_BYTES: usize = 1 << 31;
/// The most that a key has, in bytes.
pub(crate) const KEY_MAX_BYTES: usize = 1 << 27;
/// The most that can be kept free in front of a value, in bytes.
const HEADROOM_MAX_BYTES: u8 = 31;

/// The lengths of a blob.
#[derive(Clone, Copy)]
struct Lens {
    payload: usize,
    key: usize,
    gap: usize,
    /// Whether the short header holds them, or all the same the long one is used.
    is_short: bool,
    is_charged: bool,
}

impl Lens {
    fn new(key: usize, gap: usize, value: usize, expires: bool) -> Self {
        let payload = key + gap + value;
        let mut lens = Self {
            payload,
            key,
            gap,
            is_short: payload <= SHORT_PAYLOAD_MAX && key <= SHORT_KEY_MAX,
            is_charged: false,
        };
        // What is not moved to a slot stays where it was built, behind a long header.
        lens.is_short &= arena::has_slot(lens.layout(expires));
        lens
    }

    /// # Safety
    /// `entry` is that of a blob, and is alive.
    #[inline]
    unsafe fn of(entry: NonNull<Header>) -> Self {
        // SAFETY: by the caller's word; the long header is there if the short one says so.
        unsafe {
            let lens = entry.cast::<BlobEntry>().as_ref().lens;
            let gap = (lens >> GAP_SHIFT) as usize & usize::from(HEADROOM_MAX_BYTES);
            if lens & LONG == 0 {
                return Self {
                    payload: lens as usize & SHORT_PAYLOAD_MAX,
                    key: (lens >> KEY_SHIFT) as usize & SHORT_KEY_MAX,
                    gap,
                    is_short: true,
                    is_charged: false,
                };
            }
            let long = entry.cast::<LongBlobEntry>().as_ref();
            Self {
                payload: long.payload_len as usize,
                key: long.key_len as usize,
                gap,
                is_short: false,
                is_charged: lens & CHARGED != 0,
            }
        }
    }

    #[inline]
    fn header_bytes(self) -> usize {
        if self.is_short {
            SHORT_HEADER_BYTES
        } else {
            LONG_HEADER_BYTES
        }
    }

    fn layout(self, expires: bool) -> Layout {
        let expiry_bytes = if expires { EXPIRY_BYTES } else { 0 };
        let charge_bytes = if self.is_charged { CHARGE_BYTES } else { 0 };
        blob_layout(self.header_bytes() + self.payload + charge_bytes + expiry_bytes)
    }

    /// Where the pointer to the charge lies, at any address.
    ///
    /// # Safety
    /// `entry` is that of a blob with these lengths, and is charged.
    unsafe fn charge_of(self, entry: NonNull<Header>) -> NonNull<*mut Charge> {
        let at = self.header_bytes() + self.payload;
        // SAFETY: by the caller's word.
        unsafe { entry.cast::<u8>().add(at).cast() }
    }
}

fn blob_layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, align_of::<BlobEntry>()).expect("a blob's size is bounded")
}

impl Bytes {
    /// # Safety
    /// `entry` is that of a blob, and outlives `'a`.
    #[inline]
    pub unsafe fn key_at<'a>(entry: NonNull<Header>) -> &'a [u8] {
        // SAFETY: by the caller's word; the key follows the header.
        unsafe {
            let lens = Lens::of(entry);
            let start = entry.cast::<u8>().add(lens.header_bytes());
            std::slice::from_raw_parts(start.as_ptr(), lens.key)
        }
    }

    /// # Safety
    /// `entry` is that of a blob, and outlives `'a`.
    #[inline]
    pub unsafe fn value_at<'a>(entry: NonNull<Header>) -> &'a [u8] {
        // SAFETY: by the caller's word; the value lies behind key and gap.
        unsafe {
            let lens = Lens::of(entry);
            let at = lens.key + lens.gap;
            let start = entry.cast::<u8>().add(lens.header_bytes() + at);
            std::slice::from_raw_parts(start.as_ptr(), lens.payload - at)
        }
    }

    /// What a blob costs the budget.
    pub fn weigh(key_len: usize, value_len: usize, expires: bool) -> usize {
        weigh(Lens::new(key_len, 0, value_len, expires).layout(expires))
    }
}

fn weigh(layout: Layout) -> usize {
    arena::footprint_bytes(layout) + TwoClocks::BYTES_AN_ENTRY
}

// SAFETY: `free` releases what `write_entry` filled, by the same layout.
unsafe impl Body for Bytes {
    type OwnedKey = (u16, Box<[u8]>);

    fn partition(key: &Self::OwnedKey) -> u16 {
        key.0
    }

    fn has_key(entry: &Handle<Self>, key: &Self::OwnedKey) -> bool {
        entry.header().partition() == key.0 && entry.key() == &*key.1
    }

    fn same_key(a: &Handle<Self>, b: &Handle<Self>) -> bool {
        a.header().partition() == b.header().partition() && a.key() == b.key()
    }

    unsafe fn weight_bytes(entry: NonNull<Header>) -> u32 {
        // SAFETY: by the caller's word.
        let weight = weigh(unsafe { Self::layout_of(entry) });
        u32::try_from(weight).expect("a blob is smaller than 4 GiB")
    }

    unsafe fn expiry_ns(entry: NonNull<Header>) -> u64 {
        // SAFETY: by the caller's word: the expiry is the last of one that expires, at any address.
        unsafe {
            let at = Self::layout_of(entry).size() - EXPIRY_BYTES;
            entry.cast::<u8>().add(at).cast::<u64>().read_unaligned()
        }
    }

    const IS_PLAIN: bool = true;

    unsafe fn layout_of(entry: NonNull<Header>) -> Layout {
        // SAFETY: by the caller's word.
        unsafe { Lens::of(entry).layout(entry.as_ref().expires()) }
    }

    unsafe fn settle(entry: NonNull<Header>) {
        // SAFETY: alive by the caller's word; the charge of one that is charged lives as long.
        unsafe {
            let lens = Lens::of(entry);
            if lens.is_charged {
                (*lens.charge_of(entry).read_unaligned()).settle();
            }
        }
    }

    unsafe fn empty(entry: NonNull<Header>) -> Layout {
        // SAFETY: by the caller's word the last reference; nothing else in a blob needs dropping.
        unsafe {
            let lens = Lens::of(entry);
            if lens.is_charged {
                drop(Box::from_raw(lens.charge_of(entry).read_unaligned()));
            }
            lens.layout(entry.as_ref().expires())
        }
    }
}

impl Handle<Bytes> {
    /// Copies a key and a value into an entry.
    pub fn blob(arena: &Arc<Arena>, facts: &Facts, key: &[u8], value: &[u8]) -> Self {
        let expires = facts.expiry_ns != NEVER;
        let lens = Lens::new(key.len(), 0, value.len(), expires);
        let entry = arena.allocate(lens.layout(expires));
        // SAFETY: allocated with room for the header and both.
        unsafe {
            let payload = entry.add(lens.header_bytes()).as_ptr();
            payload.copy_from_nonoverlapping(key.as_ptr(), key.len());
            let behind = payload.add(key.len());
            behind.copy_from_nonoverlapping(value.as_ptr(), value.len());
            write_header(entry.cast(), facts, lens)
        }
    }

    pub fn key(&self) -> &[u8] {
        // SAFETY: a blob; our reference keeps it alive.
        unsafe { Bytes::key_at(self.entry) }
    }

    pub fn value(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { Bytes::value_at(self.entry) }
    }
}

/// Makes a blob of memory whose payload is written.
///
/// # Safety
/// `entry` is the caller's, and has room for all this, and for the expiry if there is one.
unsafe fn write_header(entry: NonNull<BlobEntry>, facts: &Facts, lens: Lens) -> Handle<Bytes> {
    let header = Header::new(facts);
    let gap = (lens.gap as u32) << GAP_SHIFT;
    // SAFETY: by the caller's word.
    unsafe {
        if lens.is_short {
            let lens = lens.payload as u32 | (lens.key as u32) << KEY_SHIFT | gap;
            entry.write(BlobEntry { header, lens });
        } else {
            let charged = if lens.is_charged { CHARGED } else { 0 };
            let blob = BlobEntry {
                header,
                lens: LONG | charged | gap,
            };
            entry.cast::<LongBlobEntry>().write(LongBlobEntry {
                blob,
                payload_len: lens.payload as u32,
                key_len: lens.key as u32,
            });
        }
        if facts.expiry_ns != NEVER {
            let at = lens.layout(true).size() - EXPIRY_BYTES;
            let end = entry.cast::<u8>().add(at);
            end.cast::<u64>().write_unaligned(facts.expiry_ns);
        }
    }
    Handle {
        entry: entry.cast(),
        body: PhantomData,
    }
}

/// Builds a blob whose length is not known beforehand. A large value stays where it is written; a small one moves to
/// its slot at the end.
///
/// Some bytes can be kept free in front of the value, for a prefix (a length, say) that is known only at the end.
pub(crate) struct BlobBuilder {
    entry: NonNull<BlobEntry>,
    key_len: usize,
    headroom: u8,
    value_len: usize,
    /// Bytes behind a long header: key, headroom, value, and what is reserved.
    capacity: usize,
    charge: Option<Box<Charge>>,
}

// SAFETY: the builder owns its allocation alone.
unsafe impl Send for BlobBuilder {}

impl BlobBuilder {
    /// Starts a value for `key`, with `headroom` bytes free in front of it.
    pub fn new(key: &[u8], headroom: u8) -> Self {
        assert!(key.len() <= KEY_MAX_BYTES, "a key has at most 128 MiB");
        assert!(headroom <= HEADROOM_MAX_BYTES, "a prefix is short");
        let capacity = key.len() + usize::from(headroom);
        let layout = blob_layout(LONG_HEADER_BYTES + capacity);
        // SAFETY: the layout is never empty, it has the header's bytes at least.
        let Some(entry) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        // SAFETY: freshly allocated, large enough for the header and the key.
        unsafe {
            entry
                .add(LONG_HEADER_BYTES)
                .copy_from_nonoverlapping(NonNull::from(key).cast(), key.len());
        }
        Self {
            entry: entry.cast(),
            key_len: key.len(),
            headroom,
            value_len: 0,
            capacity,
            charge: None,
        }
    }

    fn value_start(&self) -> usize {
        LONG_HEADER_BYTES + self.key_len + usize::from(self.headroom)
    }

    fn used(&self) -> usize {
        self.key_len + usize::from(self.headroom) + self.value_len
    }

    fn resize(&mut self, capacity: usize) {
        if !self.try_resize(capacity) {
            handle_alloc_error(blob_layout(LONG_HEADER_BYTES + capacity));
        }
    }

    /// False if the system has no memory for it.
    fn try_resize(&mut self, capacity: usize) -> bool {
        let old = blob_layout(LONG_HEADER_BYTES + self.capacity);
        let new = blob_layout(LONG_HEADER_BYTES + capacity);
        // SAFETY: allocated with `old`; the new size is not zero.
        let moved = unsafe { realloc(self.entry.as_ptr().cast(), old, new.size()) };
        let Some(entry) = NonNull::new(moved) else {
            return false;
        };
        self.entry = entry.cast();
        self.capacity = capacity;
        true
    }

    /// Makes room for `more` bytes of value.
    pub fn reserve(&mut self, more: usize) {
        if !self.try_reserve(more) {
            let need = self.used() + more;
            handle_alloc_error(blob_layout(LONG_HEADER_BYTES + need));
        }
    }

    /// As [`BlobBuilder::reserve`]; false if the system has no memory for it.
    pub fn try_reserve(&mut self, more: usize) -> bool {
        let need = self.used().saturating_add(more);
        assert!(need <= BLOB_MAX_BYTES, "a blob has at most 2 GiB");
        need <= self.capacity || self.try_resize(need)
    }

    /// What the value can grow to without being moved, in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity - self.key_len - usize::from(self.headroom)
    }

    /// Has the charge go with the entry. The charge of one that is small enough for a slot ends with the building.
    pub fn set_charge(&mut self, charge: Box<Charge>) {
        self.charge = Some(charge);
    }

    /// Empties the value; what is reserved stays.
    pub fn clear(&mut self) {
        self.value_len = 0;
    }

    /// Appends to the value; the allocation grows by half where it has to.
    pub fn extend(&mut self, bytes: &[u8]) {
        let used = self.used();
        if used + bytes.len() > self.capacity {
            let half = (self.value_len / 2).min(BLOB_MAX_BYTES - used);
            self.reserve(bytes.len().max(half));
        }
        // SAFETY: `reserve` made room for `bytes` behind what is written.
        unsafe {
            let end = self.entry.cast::<u8>().add(LONG_HEADER_BYTES + used);
            end.as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
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
            let start = self.entry.cast::<u8>().add(self.value_start());
            std::slice::from_raw_parts(start.as_ptr(), self.value_len)
        }
    }

    /// What has been written so far, to be changed.
    pub fn value_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `value`; the builder is borrowed alone.
        unsafe {
            let start = self.entry.cast::<u8>().add(self.value_start());
            std::slice::from_raw_parts_mut(start.as_ptr(), self.value_len)
        }
    }

    /// Puts `prefix` in front of the value and makes it a part of it.
    ///
    /// # Panics
    /// If the prefix is longer than the headroom.
    pub fn finish(mut self, arena: &Arc<Arena>, facts: &Facts, prefix: &[u8]) -> Handle<Bytes> {
        assert!(prefix.len() <= usize::from(self.headroom));
        let gap = usize::from(self.headroom) - prefix.len();
        let expires = facts.expiry_ns != NEVER;
        let mut lens = Lens::new(self.key_len, gap, prefix.len() + self.value_len, expires);
        // An entry with a slot may be copied, and its charge can not.
        let charge = self.charge.take();
        let charge = charge.filter(|_| !lens.is_short && !arena::has_slot(lens.layout(expires)));
        lens.is_charged = charge.is_some();
        let layout = lens.layout(expires);
        // SAFETY: the headroom lies between key and value.
        unsafe {
            let value = self.entry.cast::<u8>().add(self.value_start()).as_ptr();
            value
                .sub(prefix.len())
                .copy_from_nonoverlapping(prefix.as_ptr(), prefix.len());
        }
        let entry = if arena::has_slot(layout) {
            let slot = arena.allocate(layout);
            // SAFETY: the slot has room for its header and for what the builder has written.
            unsafe {
                let from = self.entry.cast::<u8>().add(LONG_HEADER_BYTES);
                slot.add(lens.header_bytes())
                    .copy_from_nonoverlapping(from, lens.payload);
            }
            slot.cast()
        } else {
            self.resize(layout.size() - LONG_HEADER_BYTES);
            let entry = self.entry;
            // What `resize` allocated is the entry's now; there is no charge here any more.
            std::mem::forget(self);
            entry
        };
        if let Some(charge) = charge {
            // SAFETY: the layout has room for it behind the value.
            unsafe {
                let place = lens.charge_of(entry.cast());
                place.write_unaligned(Box::into_raw(charge));
            }
        }
        // SAFETY: written up to here, and allocated with `layout`, by the arena or as it would.
        unsafe { write_header(entry, facts, lens) }
    }
}

impl Drop for BlobBuilder {
    fn drop(&mut self) {
        let layout = blob_layout(LONG_HEADER_BYTES + self.capacity);
        // SAFETY: allocated with this layout, and ours alone.
        unsafe { dealloc(self.entry.as_ptr().cast(), layout) }
    }
}
