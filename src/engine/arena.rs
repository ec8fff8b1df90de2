//! Where a shard's entries lie: slots of one size in spans of 64 KiB, and those in regions of huge pages.
//!
//! ```text
//! region  2 MiB, from the system     | span | span | span | ... 32 of them
//! span   64 KiB, slots of one size   | header | slot | slot | slot | ...
//! ```
//!
//! What is larger than a slot can be, or has to be aligned better, is left to the program's allocator. A slot can be
//! given back by any thread, and after the cache has gone: a span keeps its arena alive as long as it has slots in
//! use. A span that has none serves any size, and a region that has none goes back to the system.
//!
//! Sizes lie eight bytes apart up to 256 bytes, and a sixteenth of the power of two below them above that. After B.
//! Leijen et al., "Mimalloc: free list sharding in action", ISMM 2019, much reduced.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use parking_lot::Mutex;

use super::pages::{self, HUGE_PAGE_BYTES, Pages};

const REGION_BYTES: usize = HUGE_PAGE_BYTES;
const SPAN_BYTES: usize = 64 << 10;
const SPANS: usize = REGION_BYTES / SPAN_BYTES;
const SLOT_ALIGN: usize = 8;
const SLOT_MAX_BYTES: usize = 4096;
const CLASSES: usize = class_of(SLOT_MAX_BYTES) + 1;
/// So many regions an arena has before it asks for huge pages, for all of them: until then, what is not used is no
/// memory.
const SMALL_PAGE_REGIONS: usize = 4;
/// Under a checker of memory errors every entry is an allocation of its own, so that it sees each.
const HAS_SLOTS: bool = !cfg!(corecache_malloc);

const fn class_of(bytes: usize) -> usize {
    if bytes <= 256 {
        return bytes.div_ceil(8);
    }
    let power = (bytes - 1).ilog2();
    let sixteenth = 1usize << (power - 4);
    32 + (power as usize - 8) * 16 + (bytes - (1 << power)).div_ceil(sixteenth)
}

const fn class_bytes(class: usize) -> usize {
    if class <= 32 {
        return class * 8;
    }
    let (power, sixteenths) = (8 + (class - 33) / 16, (class - 33) % 16 + 1);
    (1 << power) + (sixteenths << (power - 4))
}

/// Whether an allocation gets a slot; if not it is the program's allocator's, by the same layout.
pub(crate) fn has_slot(layout: Layout) -> bool {
    HAS_SLOTS && layout.size() <= SLOT_MAX_BYTES && layout.align() <= SLOT_ALIGN
}

/// The memory that an allocation takes.
pub(crate) fn footprint_bytes(layout: Layout) -> usize {
    if has_slot(layout) {
        class_bytes(class_of(layout.size()))
    } else {
        malloc_footprint_bytes(layout.size())
    }
}

/// What an allocation of `bytes` takes in an allocator with four size classes a doubling (jemalloc's; others are near).
/// Of a large allocation only the pages that are written to are memory.
fn malloc_footprint_bytes(bytes: usize) -> usize {
    const PAGE_BYTES: usize = 4096;
    if bytes <= 128 {
        return bytes.next_multiple_of(16).max(16);
    }
    // Classes between two powers of two lie a quarter of the lower one apart.
    let class = 1usize << ((bytes - 1).ilog2() - 2);
    bytes.next_multiple_of(class.min(PAGE_BYTES))
}

struct Slot {
    next: *mut Slot,
}

/// The start of a span. All of it is guarded by its arena's lock, except for `arena`, which stands while a slot is in
/// use.
#[repr(C, align(64))]
struct Span {
    /// A strong count of its own.
    arena: *const Arena,
    class: u32,
    used_slots: u32,
    /// Slots that have been given back.
    free: *mut Slot,
    /// From here on no slot has ever been used.
    unused_at: u32,
    /// Neighbours among the spans of the class that have room.
    previous: *mut Span,
    next: *mut Span,
}

impl Span {
    fn is_full(&self) -> bool {
        let slot_bytes = class_bytes(self.class as usize);
        self.free.is_null() && self.unused_at as usize + slot_bytes > SPAN_BYTES
    }
}

/// The slots of one shard.
pub(crate) struct Arena {
    state: Mutex<State>,
}

struct State {
    /// The first of each class's spans that have room.
    roomy: [*mut Span; CLASSES],
    /// By address: a bit for each span that is free.
    regions: BTreeMap<usize, u32>,
    /// Those with a free span.
    roomy_regions: BTreeSet<usize>,
    used_spans: usize,
}

// SAFETY: the pointers lead into the arena's own regions.
unsafe impl Send for State {}

impl Arena {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                roomy: [ptr::null_mut(); CLASSES],
                regions: BTreeMap::new(),
                roomy_regions: BTreeSet::new(),
                used_spans: 0,
            }),
        })
    }

    /// Memory for an entry; not initialized.
    pub fn allocate(self: &Arc<Self>, layout: Layout) -> NonNull<u8> {
        if has_slot(layout) {
            return self.state.lock().take_slot(self, class_of(layout.size()));
        }
        // SAFETY: an entry is never empty.
        NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
    }

    /// The memory of all spans that are in use, and of slots in them that are not.
    #[cfg(test)]
    pub fn span_bytes(&self) -> usize {
        self.state.lock().used_spans * SPAN_BYTES
    }
}

/// Gives an entry's memory back, on any thread.
///
/// # Safety
/// `start` comes from [`Arena::allocate`] with this layout, and nothing refers to it any more.
pub(crate) unsafe fn release(start: NonNull<u8>, layout: Layout) {
    if !has_slot(layout) {
        // SAFETY: by the caller's word.
        return unsafe { dealloc(start.as_ptr(), layout) };
    }
    let span = start.as_ptr().map_addr(|at| at & !(SPAN_BYTES - 1));
    let span = span.cast::<Span>();
    // SAFETY: the span has this slot in use, so it stays, and so does its arena.
    let arena = unsafe { &*(*span).arena };
    let emptied = arena.state.lock().give_back(span, start.cast());
    // Last, and without the lock: it may be the arena's own end.
    drop(emptied);
}

impl State {
    fn take_slot(&mut self, arena: &Arc<Arena>, class: usize) -> NonNull<u8> {
        let mut span = self.roomy[class];
        if span.is_null() {
            span = self.take_span(arena, class);
            self.link(span);
        }
        // SAFETY: a span in the list is in use, and guarded by the lock that we hold.
        let header = unsafe { &mut *span };
        header.used_slots += 1;
        let slot = header.free;
        let start = if slot.is_null() {
            let start = span
                .cast::<u8>()
                .wrapping_add(header.unused_at as usize)
                .cast();
            header.unused_at += class_bytes(class) as u32;
            start
        } else {
            // SAFETY: a free slot holds its list's next.
            header.free = unsafe { (*slot).next };
            slot
        };
        if header.is_full() {
            self.unlink(span);
        }
        // SAFETY: within a span, so not null.
        unsafe { NonNull::new_unchecked(start.cast()) }
    }

    /// Returns the arena's reference that the span held, if that was its last slot.
    fn give_back(&mut self, span: *mut Span, slot: NonNull<Slot>) -> Option<Arc<Arena>> {
        // SAFETY: in use, and guarded by the lock that we hold.
        let header = unsafe { &mut *span };
        if header.is_full() {
            self.link(span);
        }
        header.used_slots -= 1;
        if header.used_slots > 0 {
            // SAFETY: the slot is the caller's to give, and large enough.
            unsafe { slot.write(Slot { next: header.free }) };
            header.free = slot.as_ptr();
            return None;
        }
        self.unlink(span);
        let arena = header.arena;
        self.give_span_back(span);
        // SAFETY: the count that `take_span` gave to the span.
        Some(unsafe { Arc::from_raw(arena) })
    }

    fn link(&mut self, span: *mut Span) {
        // SAFETY: spans in the lists are in use, and guarded by the lock that we hold.
        unsafe {
            let first = &mut self.roomy[(*span).class as usize];
            (*span).previous = ptr::null_mut();
            (*span).next = *first;
            if !first.is_null() {
                (**first).previous = span;
            }
            *first = span;
        }
    }

    fn unlink(&mut self, span: *mut Span) {
        // SAFETY: as above; the span is linked.
        unsafe {
            let (previous, next) = ((*span).previous, (*span).next);
            if previous.is_null() {
                self.roomy[(*span).class as usize] = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
        }
    }

    /// The lowest one that is free, so that the highest regions empty themselves.
    fn take_span(&mut self, arena: &Arc<Arena>, class: usize) -> *mut Span {
        if self.roomy_regions.is_empty() {
            self.add_region();
        }
        let region = *self.roomy_regions.first().expect("one was added");
        let free = self.regions.get_mut(&region).expect("a region is listed");
        let index = free.trailing_zeros() as usize;
        *free &= *free - 1;
        if *free == 0 {
            self.roomy_regions.remove(&region);
        }
        self.used_spans += 1;
        let span = ptr::with_exposed_provenance_mut::<Span>(region + index * SPAN_BYTES);
        // SAFETY: a free span of a region that is ours; aligned, and large enough.
        unsafe {
            span.write(Span {
                arena: Arc::into_raw(arena.clone()),
                class: class as u32,
                used_slots: 0,
                free: ptr::null_mut(),
                unused_at: size_of::<Span>() as u32,
                previous: ptr::null_mut(),
                next: ptr::null_mut(),
            });
        }
        span
    }

    fn add_region(&mut self) {
        let pages = if self.regions.len() < SMALL_PAGE_REGIONS {
            Pages::Small
        } else {
            Pages::Huge
        };
        if self.regions.len() == SMALL_PAGE_REGIONS {
            for &region in self.regions.keys() {
                pages::make_huge(region_start(region), REGION_BYTES);
            }
        }
        let region = pages::map(REGION_BYTES, pages).as_ptr().expose_provenance();
        self.regions.insert(region, u32::MAX);
        self.roomy_regions.insert(region);
    }

    fn give_span_back(&mut self, span: *mut Span) {
        let region = span.addr() & !(REGION_BYTES - 1);
        let index = (span.addr() - region) / SPAN_BYTES;
        let free = self.regions.get_mut(&region).expect("a region is listed");
        *free |= 1 << index;
        self.used_spans -= 1;
        let is_empty = *free == u32::MAX;
        self.roomy_regions.insert(region);
        // One that is empty is kept, so that the next span does not have to ask for it again.
        if is_empty && self.roomy_regions.len() > 1 {
            self.roomy_regions.remove(&region);
            self.regions.remove(&region);
            unmap_region(region);
        }
    }
}

fn region_start(region: usize) -> NonNull<u8> {
    let start = ptr::with_exposed_provenance_mut(region);
    NonNull::new(start).expect("no region lies at address 0")
}

fn unmap_region(region: usize) {
    // SAFETY: mapped by `add_region`; all its spans are free.
    unsafe { pages::unmap(region_start(region), REGION_BYTES) }
}

impl Drop for State {
    /// Each span in use holds a reference to the arena, so there are none.
    fn drop(&mut self) {
        self.regions.keys().copied().for_each(unmap_region);
    }
}

const _: () = assert!(SPANS == u32::BITS as usize);

#[cfg(test)]
mod tests;
