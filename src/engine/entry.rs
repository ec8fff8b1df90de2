//! An entry is one allocation: a [`Header`], then the key, then the value.
//!
//! ```text
//! typed   | Header | weight | K | V |                       and, if the entry expires, when
//! blob    | Header | lengths | key bytes | gap | value bytes |               as above
//! ```
//!
//! The table and the writer of a shard only ever see the header; a [`Body`] knows what lies behind it. An entry is
//! immutable from the moment it is published, except for what the table below allows:
//!
//! | field | written by | read by |
//! |---|---|---|
//! | `refs` | anyone who holds a reference | anyone |
//! | `word`: the counter in it | readers, up to its top; the writer | readers, the writer |
//! | `place` | the writer, for its policy | the writer |
//! | all others | who builds it, before it is published | anyone |

use std::alloc::Layout;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

mod blob;

pub(crate) use blob::{BLOB_MAX_BYTES, BlobBuilder, Bytes, KEY_MAX_BYTES};

use super::arena::{self, Arena};
use super::clock::NEVER;
use super::foreign::guarded;
use super::policy::COUNTER_TOP;
use super::sync::{AtomicU32, Ordering, fence};

/// What an entry's weight is, at the most; the value above it stands for all that is more.
pub(crate) const WEIGHT_MAX_BYTES: usize = u32::MAX as usize - 1;

/// ```text
/// word    | expires, 1 bit | 5 bits | counter, 2 bits | generation, 8 bits | partition, 16 bits |
/// ```
const GENERATION_SHIFT: u32 = 16;
const COUNTER_SHIFT: u32 = 24;
const COUNTER: u32 = (COUNTER_TOP as u32) << COUNTER_SHIFT;
const EXPIRES: u32 = 1 << 31;
const _: () = assert!(COUNTER_TOP == 0b11);

#[repr(C)]
pub(crate) struct Header {
    /// The part of the key's hash that says where it belongs in its shard's table.
    pub hash: u32,
    refs: AtomicU32,
    place: AtomicU32,
    word: AtomicU32,
}

fn word_of(partition: u16, generation: u8) -> u32 {
    u32::from(generation) << GENERATION_SHIFT | u32::from(partition)
}

/// The word of an entry that does not expire and has its counter at its top.
pub(super) fn hot_word(partition: u16, generation: u8) -> u32 {
    word_of(partition, generation) | COUNTER
}

/// The generation in a word.
#[inline]
pub(super) fn generation_of(word: u32) -> u8 {
    (word >> GENERATION_SHIFT) as u8
}

/// What is known of an entry beside its key and its value.
#[derive(Clone, Copy)]
pub(crate) struct Facts {
    pub hash: u64,
    pub partition: u16,
    pub generation: u8,
    /// When it must not be served any more, on the cache's clock; [`NEVER`] if it does not expire.
    pub expiry_ns: u64,
}

impl Header {
    fn new(facts: &Facts) -> Self {
        let expires = if facts.expiry_ns == NEVER { 0 } else { EXPIRES };
        let word = word_of(facts.partition, facts.generation) | expires;
        Self {
            hash: facts.hash as u32,
            refs: AtomicU32::new(1),
            place: AtomicU32::new(0),
            word: AtomicU32::new(word),
        }
    }

    /// The header of a copy.
    fn copy(&self) -> Self {
        Self {
            hash: self.hash,
            refs: AtomicU32::new(1),
            place: AtomicU32::new(0),
            word: AtomicU32::new(self.word()),
        }
    }

    #[inline]
    fn word(&self) -> u32 {
        self.word.load(Ordering::Relaxed)
    }

    /// The partition that the entry belongs to.
    #[inline]
    pub fn partition(&self) -> u16 {
        self.word() as u16
    }

    /// Entries of an older generation than their partition's are dead.
    #[inline]
    pub fn generation(&self) -> u8 {
        generation_of(self.word())
    }

    /// Whether the entry has a [hot word](hot_word): most hits are of such entries, and there is nothing more to be done
    /// for them.
    #[inline(always)]
    pub fn is_hot(&self, hot_word: u32) -> bool {
        self.word() == hot_word
    }

    /// Bumps the counter, unless it is at its top: a hot entry is never written to. Two readers may lose one of
    /// two bumps to each other; the policy only asks for more or less.
    #[inline]
    pub fn touch(&self) {
        let seen = self.word();
        if seen & COUNTER < COUNTER {
            self.word
                .store(seen + (1 << COUNTER_SHIFT), Ordering::Relaxed);
        }
    }

    #[inline]
    pub fn expires(&self) -> bool {
        self.word() & EXPIRES != 0
    }

    #[inline]
    pub fn counter(&self) -> u8 {
        (self.word() >> COUNTER_SHIFT) as u8 & COUNTER_TOP
    }

    #[inline]
    pub fn set_counter(&self, counter: u8) {
        let others = self.word() & !COUNTER;
        self.word.store(
            others | u32::from(counter) << COUNTER_SHIFT,
            Ordering::Relaxed,
        );
    }

    #[inline]
    pub fn place(&self) -> u32 {
        self.place.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn set_place(&self, place: u32) {
        self.place.store(place, Ordering::Relaxed);
    }

    /// Whether the caller's reference is the only one. Acquire: what the others did with the entry is done.
    #[inline]
    pub fn is_unshared(&self) -> bool {
        self.refs.load(Ordering::Acquire) == 1
    }
}

/// What lies behind an entry's header.
///
/// # Safety
/// `empty` must return the layout of what the implementor's constructor allocated.
pub(crate) unsafe trait Body: Sized + Send + Sync + 'static {
    /// A key that can outlive the call that brought it.
    type OwnedKey: Send + Sync + 'static;

    /// The partition that a key belongs to.
    fn partition(key: &Self::OwnedKey) -> u16;

    /// Whether the entry is of this key.
    fn has_key(entry: &Handle<Self>, key: &Self::OwnedKey) -> bool;

    /// Whether two entries are of one key.
    fn same_key(a: &Handle<Self>, b: &Handle<Self>) -> bool;

    /// What the entry costs the budget.
    ///
    /// # Safety
    /// `entry` was built by this body and is alive.
    unsafe fn weight_bytes(entry: NonNull<Header>) -> u32;

    /// When an entry that expires must not be served any more.
    ///
    /// # Safety
    /// As above; the entry [expires](Header::expires).
    unsafe fn expiry_ns(entry: NonNull<Header>) -> u64;

    /// Whether a copy of an entry's bytes is as good as the entry.
    const IS_PLAIN: bool;

    /// The memory that an entry has.
    ///
    /// # Safety
    /// `entry` was built by this body and is alive.
    unsafe fn layout_of(entry: NonNull<Header>) -> Layout;

    /// Whether an entry lies in a span that is being emptied.
    ///
    /// # Safety
    /// As above.
    unsafe fn is_in_closed_span(entry: NonNull<Header>) -> bool {
        // SAFETY: by the caller's word.
        unsafe { arena::is_in_closed_span(entry.cast(), Self::layout_of(entry)) }
    }

    /// A copy that has one reference.
    ///
    /// # Safety
    /// As above; the body is [plain](Body::IS_PLAIN).
    unsafe fn copy(arena: &Arc<Arena>, entry: NonNull<Header>) -> Handle<Self> {
        debug_assert!(Self::IS_PLAIN);
        // SAFETY: both have this layout. The header is not copied as it lies there, since others write to it.
        unsafe {
            let layout = Self::layout_of(entry);
            let copy = arena.allocate(layout).cast::<Header>();
            let behind = size_of::<Header>();
            let (from, to) = (
                entry.cast::<u8>().add(behind),
                copy.cast::<u8>().add(behind),
            );
            to.copy_from_nonoverlapping(from, layout.size() - behind);
            copy.write(entry.as_ref().copy());
            Handle {
                entry: copy,
                body: PhantomData,
            }
        }
    }

    /// The budget counts the entry from now on: what else it was charged to no longer does.
    ///
    /// # Safety
    /// `entry` was built by this body and is alive.
    unsafe fn settle(_entry: NonNull<Header>) {}

    /// Drops key and value, and returns the layout of the memory that is to be released.
    ///
    /// # Safety
    /// `entry` was built by this body, and nobody holds a reference to it any more.
    unsafe fn empty(entry: NonNull<Header>) -> Layout;
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

    pub fn weight_bytes(&self) -> u32 {
        // SAFETY: built by `B`; our reference keeps it alive.
        unsafe { B::weight_bytes(self.entry) }
    }

    /// When the entry must not be served any more; [`NEVER`] if it does not expire.
    pub fn expiry_ns(&self) -> u64 {
        if !self.header().expires() {
            return NEVER;
        }
        // SAFETY: as above, and it expires.
        unsafe { B::expiry_ns(self.entry) }
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
            unsafe { arena::release(self.entry.cast(), B::empty(self.entry)) }
        }
    }
}

impl<B: Body> Handle<B> {
    /// Drops handles of entries of one arena, whose memory is given back at once where nobody else holds them.
    pub fn drop_all(handles: &mut Vec<Self>, arena: &Arena) {
        let dead: Vec<_> = handles
            .drain(..)
            .filter(|handle| handle.header().is_unshared())
            .map(|handle| {
                let entry = handle.into_raw();
                // SAFETY: that was the last reference: who has one alone is the one who could give another.
                (entry.cast(), unsafe { B::empty(entry) })
            })
            .collect();
        // SAFETY: allocated with these layouts, and nothing refers to them any more.
        unsafe { arena.release_all(dead.into_iter()) }
    }
}

/// The body of `Cache<K, V>`: key and value as they are, inline.
pub(crate) struct Typed<K, V>(PhantomData<(K, V)>);

#[repr(C)]
struct TypedEntry<K, V> {
    header: Header,
    weight_bytes: u32,
    key: K,
    value: V,
}

#[repr(C)]
struct ExpiringEntry<K, V> {
    entry: TypedEntry<K, V>,
    expiry_ns: u64,
}

// SAFETY: `empty` returns the layout by which `Handle::typed` allocates.
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

    unsafe fn weight_bytes(entry: NonNull<Header>) -> u32 {
        // SAFETY: by the caller's word.
        unsafe { entry.cast::<TypedEntry<K, V>>().as_ref().weight_bytes }
    }

    unsafe fn expiry_ns(entry: NonNull<Header>) -> u64 {
        // SAFETY: by the caller's word: one that expires was built so.
        unsafe { entry.cast::<ExpiringEntry<K, V>>().as_ref().expiry_ns }
    }

    // A value may be written to through shared references, or have to be dropped once.
    const IS_PLAIN: bool = false;

    unsafe fn layout_of(entry: NonNull<Header>) -> Layout {
        // SAFETY: by the caller's word.
        Self::layout(unsafe { entry.as_ref() }.expires())
    }

    unsafe fn empty(entry: NonNull<Header>) -> Layout {
        let typed = entry.cast::<TypedEntry<K, V>>();
        // SAFETY: alive until here, and the last reference, by the caller's word.
        unsafe {
            let layout = Self::layout(entry.as_ref().expires());
            if std::mem::needs_drop::<TypedEntry<K, V>>() {
                // Who comes by here mostly has other things to do, which must not end with somebody else's panic.
                guarded("a key or a value that was dropped", || {
                    typed.drop_in_place();
                });
            }
            layout
        }
    }
}

impl<K, V> Typed<K, V> {
    fn layout(expires: bool) -> Layout {
        if expires {
            Layout::new::<ExpiringEntry<K, V>>()
        } else {
            Layout::new::<TypedEntry<K, V>>()
        }
    }

    /// The memory that one entry takes, what key and value own on the heap not included.
    pub fn footprint_bytes(expires: bool) -> usize {
        arena::footprint_bytes(Self::layout(expires))
    }

    /// # Safety
    /// `entry` was built by this body and outlives `'a`.
    #[inline]
    pub unsafe fn key_at<'a>(entry: NonNull<Header>) -> &'a K {
        // SAFETY: by the caller's word.
        unsafe { &(*entry.cast::<TypedEntry<K, V>>().as_ptr()).key }
    }

    /// # Safety
    /// `entry` was built by this body and outlives `'a`.
    #[inline]
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
    pub fn typed(arena: &Arc<Arena>, facts: &Facts, weight_bytes: usize, key: K, value: V) -> Self {
        let expires = facts.expiry_ns != NEVER;
        let start = arena.allocate(Typed::<K, V>::layout(expires));
        // SAFETY: allocated with the layout of what is written; the larger one starts with the smaller.
        unsafe {
            start.cast::<TypedEntry<K, V>>().write(TypedEntry {
                header: Header::new(facts),
                weight_bytes: u32::try_from(weight_bytes).unwrap_or(u32::MAX),
                key,
                value,
            });
            if expires {
                let entry = start.cast::<ExpiringEntry<K, V>>().as_ptr();
                (&raw mut (*entry).expiry_ns).write(facts.expiry_ns);
            }
        }
        Self {
            entry: start.cast(),
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
impl<K, V> Handle<Typed<K, V>>
where
    K: Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// An entry of no shard.
    pub fn lone(hash: u64, key: K, value: V) -> Self {
        let facts = Facts {
            hash,
            partition: 0,
            generation: 0,
            expiry_ns: NEVER,
        };
        Self::typed(lone_arena(), &facts, 0, key, value)
    }
}

/// Where the entries of no shard lie.
#[cfg(test)]
pub(super) fn lone_arena() -> &'static Arc<Arena> {
    static ARENA: std::sync::OnceLock<Arc<Arena>> = std::sync::OnceLock::new();
    ARENA.get_or_init(|| Arena::new(0))
}

#[cfg(test)]
mod tests;
