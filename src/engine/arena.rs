//! Where a shard's entries lie: slots of one size in spans of 64 KiB, and those in regions of huge pages.
//!
//! ```text
//! range   addresses, 16 GiB at most  | region | region | ... as many as are needed are memory
//! region  2 MiB                      | span | span | span | ... 32 of them
//! span   64 KiB, slots of one size   | header | slot | slot | slot | ...
//! ```
//!
//! In its range a slot has a short name, 32 bits, by which the table knows it. Where the system gives no range, or it is
//! all used, regions lie anywhere.
//!
//! What is larger than a slot can be, or has to be aligned better, is left to the program's allocator. A slot can be
//! given back by any thread, and after the cache has gone: a span keeps its arena alive as long as it has slots in
//! use. A span that has none serves any size, and a region that has none goes back to the system.
//!
//! What a turn gives back together stays *at hand*, so many bytes of it at the most: what is allocated next lies there,
//! in memory that has just been looked at, and neither one looks at a span.
//!
//! When what is stored has other sizes than before, few slots may keep many spans. Then spans of which little is used
//! are *closed*: no slot of them is given out, until the shard's owner has moved what is left there; see `owner/gather`.
//!
//! Sizes lie eight bytes apart up to 256 bytes, and a sixteenth of the power of two below them above that. After B.
//! Leijen et al., "Mimalloc: free list sharding in action", ISMM 2019, much reduced.

use super::sync::{AtomicBool, AtomicUsize, Ordering};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::pages::{self, HUGE_PAGE_BYTES, Pages, Reservation};
use super::sync::Mutex;
use super::table::prefetch;

const REGION_BYTES: usize = HUGE_PAGE_BYTES;
/// As far as 31 bits reach, in steps of a slot's alignment.
const RANGE_MAX_BYTES: usize = SLOT_ALIGN << 31;
const RANGE_MIN_BYTES: usize = 32 * REGION_BYTES;
const SPAN_BYTES: usize = 64 << 10;
const SPANS: usize = REGION_BYTES / SPAN_BYTES;
const SLOT_ALIGN: usize = 8;
const SLOT_MAX_BYTES: usize = 4096;
const CLASSES: usize = class_of(SLOT_MAX_BYTES) + 1;
/// An arena for at least so much has huge pages from the start. A smaller one has so many regions of small pages first:
/// of these, what is not used is no memory. They stay as they are: to have them collapsed would stop readers for
/// milliseconds.
const LARGE_MIN_BYTES: usize = 32 * REGION_BYTES;
const SMALL_PAGE_REGIONS: usize = 4;
/// Spans that are free keep their memory up to so many, and a part of those in use.
const FREE_SPANS_MAX: usize = SPANS;
/// What is given back at once is kept at hand, up to so many bytes and this part of what is in use: the next allocations
/// have it without a look at a span.
const AT_HAND_MAX_BYTES: usize = 256 << 10;
const AT_HAND_PART: usize = 16;
/// Slots that lie idle in spans are worth to be gathered from this part of those in use on, and so many bytes.
const IDLE_PART: usize = 4;
const IDLE_MIN_BYTES: usize = 8 * SPAN_BYTES;
/// Under a checker every entry is an allocation of its own, so that it sees each.
const HAS_SLOTS: bool = !cfg!(any(corecache_malloc, all(test, corecache_model)));

#[inline]
const fn class_of(bytes: usize) -> usize {
    if bytes <= 256 {
        return bytes.div_ceil(8);
    }
    let power = (bytes - 1).ilog2();
    let sixteenth = 1usize << (power - 4);
    32 + (power as usize - 8) * 16 + (bytes - (1 << power)).div_ceil(sixteenth)
}

#[inline]
const fn class_bytes(class: usize) -> usize {
    if class <= 32 {
        return class * 8;
    }
    let (power, sixteenths) = (8 + (class - 33) / 16, (class - 33) % 16 + 1);
    (1 << power) + (sixteenths << (power - 4))
}

/// Whether an allocation gets a slot; if not it is the program's allocator's, by the same layout.
#[inline]
pub(crate) fn has_slot(layout: Layout) -> bool {
    HAS_SLOTS && layout.size() <= SLOT_MAX_BYTES && layout.align() <= SLOT_ALIGN
}

/// The memory that an allocation takes.
#[inline]
pub(crate) fn footprint_bytes(layout: Layout) -> usize {
    if has_slot(layout) {
        class_bytes(class_of(layout.size()))
    } else {
        malloc_footprint_bytes(layout.size())
    }
}

/// What an allocation of `bytes` takes in an allocator with four size classes a doubling (jemalloc's; others are near).
/// Of a large allocation only the pages that are written to are memory.
#[inline]
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

/// The start of a span. All of it is guarded by its arena's lock, except for what says otherwise.
#[repr(C, align(64))]
struct Span {
    /// A strong count of its own. Stands while a slot is in use.
    arena: *const Arena,
    /// Whether it is being emptied: no slot of it is given out. Read without the lock by who has a slot in it.
    is_closed: AtomicBool,
    class: u32,
    used_slots: u32,
    /// Slots that have been given back.
    free: *mut Slot,
    /// From here on no slot has ever been used.
    unused_at: u32,
    /// Neighbours among the spans of the class that have room, or among those that are being emptied.
    previous: *mut Span,
    next: *mut Span,
}

fn slots_in_span(class: usize) -> usize {
    (SPAN_BYTES - size_of::<Span>()) / class_bytes(class)
}

/// # Safety
/// The span is in use, and guarded by the lock, which the caller holds.
unsafe fn is_full(span: *mut Span) -> bool {
    // SAFETY: by the caller's word.
    unsafe { (*span).used_slots as usize == slots_in_span((*span).class as usize) }
}

/// The slots of one shard.
pub(crate) struct Arena {
    state: Mutex<State>,
    range: Range,
    /// What `State` knows, for a look without the lock.
    used_spans: AtomicUsize,
    used_bytes: AtomicUsize,
}

/// The addresses among which slots have short names: distances from the start, in steps of a slot's alignment.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: addresses; what lies there is looked at under other rules.
unsafe impl Send for Range {}
// SAFETY: as above.
unsafe impl Sync for Range {}

impl Range {
    /// The range of no arena: nothing has a name in it.
    pub const NONE: Self = Self {
        start: ptr::null_mut(),
        bytes: 0,
    };

    /// Names for what the model checker's threads allocate, most likely.
    #[cfg(all(test, corecache_model))]
    pub fn around_heap() -> Self {
        let somewhere = Box::new(0_u64);
        let below = (&raw const *somewhere).cast_mut().cast::<u8>();
        Self {
            start: below.wrapping_sub(RANGE_MAX_BYTES / 2),
            bytes: RANGE_MAX_BYTES,
        }
    }

    fn of(reservation: Option<&Reservation>) -> Self {
        #[cfg(all(test, corecache_model))]
        let named = Self::around_heap();
        #[cfg(not(all(test, corecache_model)))]
        let named = Self::NONE;
        reservation.map_or(named, |reservation| Self {
            start: reservation.start().as_ptr(),
            bytes: reservation.bytes(),
        })
    }

    /// The name of what lies at `at`, 1 to 2^31 - 1; none if that is outside.
    #[inline]
    pub fn name_of<T>(self, at: NonNull<T>) -> Option<u32> {
        let distance = at.addr().get().wrapping_sub(self.start.addr());
        // A region begins with a span's own head, so that no slot has distance 0.
        (distance < self.bytes).then_some((distance / SLOT_ALIGN) as u32)
    }

    /// Where what has this name lies.
    #[inline(always)]
    pub fn at<T>(self, name: u32) -> *mut T {
        self.start.wrapping_add(name as usize * SLOT_ALIGN).cast()
    }
}

struct State {
    reservation: Option<Reservation>,
    /// So many regions have small pages.
    small_page_regions: usize,
    /// Parts of it that have been regions, and that are none now; behind them from here on no part has been one.
    parts: BTreeSet<usize>,
    unused_at: usize,
    /// Slots of each class that were given back, and are in use as far as their spans know, but not in `used_bytes`.
    at_hand: [*mut Slot; CLASSES],
    at_hand_bytes: usize,
    /// The first of each class's spans that have room.
    roomy: [*mut Span; CLASSES],
    /// The first of the spans that are being emptied.
    closed: *mut Span,
    /// By address: a bit for each span that is free.
    regions: BTreeMap<usize, u32>,
    /// Those with a free span.
    roomy_regions: BTreeSet<usize>,
    used_spans: usize,
    /// The bytes of the slots in use.
    used_bytes: usize,
}

// SAFETY: the pointers lead into the arena's own regions.
unsafe impl Send for State {}

impl Arena {
    /// An arena for about so many bytes; more than that may lie outside of its range.
    pub fn new(bytes: usize) -> Arc<Self> {
        // Sparse spans, and a budget that grows, take more.
        let range_bytes = bytes.saturating_mul(2).next_power_of_two();
        let small_page_regions = if bytes < LARGE_MIN_BYTES {
            SMALL_PAGE_REGIONS
        } else {
            0
        };
        let range_bytes = range_bytes.clamp(RANGE_MIN_BYTES, RANGE_MAX_BYTES);
        Self::with_range(range_bytes, small_page_regions)
    }

    fn with_range(bytes: usize, small_page_regions: usize) -> Arc<Self> {
        let reservation = HAS_SLOTS.then(|| Reservation::take(bytes)).flatten();
        Arc::new(Self {
            range: Range::of(reservation.as_ref()),
            state: Mutex::new(State {
                reservation,
                small_page_regions,
                parts: BTreeSet::new(),
                unused_at: 0,
                at_hand: [ptr::null_mut(); CLASSES],
                at_hand_bytes: 0,
                roomy: [ptr::null_mut(); CLASSES],
                closed: ptr::null_mut(),
                regions: BTreeMap::new(),
                roomy_regions: BTreeSet::new(),
                used_spans: 0,
                used_bytes: 0,
            }),
            used_spans: AtomicUsize::new(0),
            used_bytes: AtomicUsize::new(0),
        })
    }

    /// Memory for an entry; not initialized.
    pub fn allocate(self: &Arc<Self>, layout: Layout) -> NonNull<u8> {
        if has_slot(layout) {
            let mut state = self.state.lock();
            let class = class_of(layout.size());
            let slot = match state.take_at_hand(class) {
                Some(slot) => slot,
                None => state.take_slot(self, class),
            };
            self.show(&state);
            return slot;
        }
        // SAFETY: an entry is never empty.
        NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
    }

    /// Where its slots have short names.
    pub fn range(&self) -> Range {
        self.range
    }

    fn show(&self, state: &State) {
        self.used_spans.store(state.used_spans, Ordering::Relaxed);
        self.used_bytes.store(state.used_bytes, Ordering::Relaxed);
    }

    /// The memory of all spans that are in use.
    #[inline]
    pub fn span_bytes(&self) -> usize {
        self.used_spans.load(Ordering::Relaxed) * SPAN_BYTES
    }

    /// The memory of the slots in use.
    #[inline]
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Whether so much memory lies idle in spans that it is worth to move what is left in some of them.
    #[inline]
    pub fn is_sparse(&self) -> bool {
        self.idle_bytes() > self.used_bytes() / IDLE_PART + IDLE_MIN_BYTES
    }

    /// Whether it is so much that it can not wait.
    #[inline]
    pub fn is_very_sparse(&self) -> bool {
        self.idle_bytes() > self.used_bytes() / 2 + 2 * IDLE_MIN_BYTES
    }

    #[inline]
    fn idle_bytes(&self) -> usize {
        self.span_bytes().saturating_sub(self.used_bytes())
    }

    /// Closes the spans of which less than half is used, but one of each class: what is allocated from now on lies elsewhere.
    pub fn close_sparse_spans(&self) {
        let mut state = self.state.lock();
        state.put_away();
        state.close_sparse_spans();
    }

    /// Gives the memory of many entries back at once. To be called by who sees to it that [`Arena::put_away`] follows.
    ///
    /// # Safety
    /// As for [`release`]; they all come from this arena.
    pub unsafe fn release_all(&self, entries: impl Iterator<Item = (NonNull<u8>, Layout)>) {
        /// Others allocate meanwhile.
        const AT_ONCE: usize = 64;
        let mut entries = entries.peekable();
        while entries.peek().is_some() {
            // SAFETY: by the caller's word.
            unsafe { self.release_some(entries.by_ref().take(AT_ONCE)) }
        }
    }

    /// # Safety
    /// As for [`Arena::release_all`].
    unsafe fn release_some(&self, entries: impl Iterator<Item = (NonNull<u8>, Layout)>) {
        let mut state = self.state.lock();
        for (start, layout) in entries {
            if !has_slot(layout) {
                // SAFETY: by the caller's word.
                unsafe { dealloc(start.as_ptr(), layout) }
                continue;
            }
            // SAFETY: by the caller's word; the slot is large enough, by its class.
            let emptied = unsafe {
                if state.keep_at_hand(start.cast(), class_of(layout.size())) {
                    continue;
                }
                state.give_back(span_of(start), start.cast())
            };
            // Not its end: the caller has it.
            drop(emptied);
        }
        self.show(&state);
    }

    /// Gives back what is kept at hand, which keeps spans and the arena alive.
    pub fn put_away(&self) {
        let mut state = self.state.lock();
        state.put_away();
        self.show(&state);
    }

    /// Opens those again that have not been emptied meanwhile.
    pub fn open_spans(&self) {
        self.state.lock().open_spans();
    }
}

/// Whether an allocation lies in a span that is being emptied.
///
/// # Safety
/// `start` comes from [`Arena::allocate`] with this layout, and was not released.
pub(crate) unsafe fn is_in_closed_span(start: NonNull<u8>, layout: Layout) -> bool {
    // SAFETY: the span has this slot in use, so it stays.
    has_slot(layout) && unsafe { (*span_of(start)).is_closed.load(Ordering::Relaxed) }
}

fn span_of(slot: NonNull<u8>) -> *mut Span {
    let span = slot.as_ptr().map_addr(|at| at & !(SPAN_BYTES - 1));
    span.cast()
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
    let span = span_of(start);
    // SAFETY: the span has this slot in use, so it stays, and so does its arena.
    let arena = unsafe { &*(*span).arena };
    let mut state = arena.state.lock();
    let emptied = state.give_back(span, start.cast());
    arena.show(&state);
    drop(state);
    // Last, and without the lock: it may be the arena's own end.
    drop(emptied);
}

impl State {
    /// In use again, as far as the books know.
    fn take_at_hand(&mut self, class: usize) -> Option<NonNull<u8>> {
        let slot = NonNull::new(self.at_hand[class])?;
        // SAFETY: a slot at hand is nobody else's, and holds its list's next.
        let next = unsafe { slot.read() }.next;
        // The next allocation writes to all of it.
        for line in (0..class_bytes(class)).step_by(64) {
            prefetch(next.cast::<u8>().wrapping_add(line));
        }
        self.at_hand[class] = next;
        self.at_hand_bytes -= class_bytes(class);
        self.used_bytes += class_bytes(class);
        Some(slot.cast())
    }

    /// False: enough is at hand, or spans are being emptied, this slot's perhaps.
    ///
    /// # Safety
    /// The slot is of this class, in use, and the caller's to give.
    unsafe fn keep_at_hand(&mut self, slot: NonNull<Slot>, class: usize) -> bool {
        let bytes = self.at_hand_bytes + class_bytes(class);
        let bytes_max = AT_HAND_MAX_BYTES.min(self.used_bytes / AT_HAND_PART);
        if bytes > bytes_max || !self.closed.is_null() {
            return false;
        }
        let next = std::mem::replace(&mut self.at_hand[class], slot.as_ptr());
        // SAFETY: by the caller's word.
        unsafe { slot.write(Slot { next }) }
        self.at_hand_bytes = bytes;
        self.used_bytes -= class_bytes(class);
        true
    }

    /// Gives all that is at hand back to the spans. To be called by who has the arena: this is not its end.
    fn put_away(&mut self) {
        for class in 0..CLASSES {
            while let Some(slot) = self.take_at_hand(class) {
                drop(self.give_back(span_of(slot), slot.cast()));
            }
        }
    }

    fn take_slot(&mut self, arena: &Arc<Arena>, class: usize) -> NonNull<u8> {
        let mut span = self.roomy[class];
        if span.is_null() {
            span = self.take_span(arena, class);
            self.link(span);
        }
        self.used_bytes += class_bytes(class);
        // SAFETY: a span in the list is in use, and guarded by the lock that we hold; a free slot holds its list's next;
        // all slots lie within their span.
        unsafe {
            (*span).used_slots += 1;
            let slot = (*span).free;
            let start = if slot.is_null() {
                let at = (*span).unused_at;
                (*span).unused_at = at + class_bytes(class) as u32;
                span.cast::<u8>().add(at as usize)
            } else {
                (*span).free = (*slot).next;
                slot.cast()
            };
            if is_full(span) {
                self.unlink(span);
            }
            NonNull::new_unchecked(start)
        }
    }

    /// Returns the arena's reference that the span held, if that was its last slot.
    fn give_back(&mut self, span: *mut Span, slot: NonNull<Slot>) -> Option<Arc<Arena>> {
        // SAFETY: in use, and guarded by the lock that we hold; the slot is the caller's to give, and large enough.
        unsafe {
            self.used_bytes -= class_bytes((*span).class as usize);
            // One that is closed is in a list, full or not.
            if is_full(span) && !(*span).is_closed.load(Ordering::Relaxed) {
                self.link(span);
            }
            (*span).used_slots -= 1;
            if (*span).used_slots > 0 {
                let next = (*span).free;
                slot.write(Slot { next });
                (*span).free = slot.as_ptr();
                return None;
            }
            self.unlink(span);
            let arena = (*span).arena;
            self.give_span_back(span);
            // The count that `take_span` gave to the span.
            Some(Arc::from_raw(arena))
        }
    }

    /// The list that a span is in.
    fn list(&mut self, span: *mut Span) -> &mut *mut Span {
        // SAFETY: in use, and guarded by the lock that we hold.
        let (is_closed, class) =
            unsafe { ((*span).is_closed.load(Ordering::Relaxed), (*span).class) };
        if is_closed {
            &mut self.closed
        } else {
            &mut self.roomy[class as usize]
        }
    }

    fn link(&mut self, span: *mut Span) {
        let first = std::mem::replace(self.list(span), span);
        // SAFETY: spans in the lists are in use, and guarded by the lock that we hold.
        unsafe {
            (*span).previous = ptr::null_mut();
            (*span).next = first;
            if !first.is_null() {
                (*first).previous = span;
            }
        }
    }

    fn unlink(&mut self, span: *mut Span) {
        // SAFETY: as above; the span is linked.
        unsafe {
            let (previous, next) = ((*span).previous, (*span).next);
            if previous.is_null() {
                *self.list(span) = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
        }
    }

    fn close_sparse_spans(&mut self) {
        for class in 0..CLASSES {
            let mut at = self.roomy[class];
            // The first of them is where what is moved goes to: it would be as sparse elsewhere.
            let mut has_room = false;
            while !at.is_null() {
                let span = at;
                // SAFETY: spans in the lists are in use, and guarded by the lock that we hold.
                unsafe {
                    at = (*span).next;
                    if !std::mem::replace(&mut has_room, true) {
                        continue;
                    }
                    if 2 * (*span).used_slots as usize <= slots_in_span(class) {
                        self.unlink(span);
                        (*span).is_closed.store(true, Ordering::Relaxed);
                        self.link(span);
                    }
                }
            }
        }
    }

    fn open_spans(&mut self) {
        while !self.closed.is_null() {
            let span = self.closed;
            self.unlink(span);
            // SAFETY: as above. One that is closed has room: it had, and nothing was given out.
            unsafe { (*span).is_closed.store(false, Ordering::Relaxed) };
            self.link(span);
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
                is_closed: AtomicBool::new(false),
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
        let pages = if self.regions.len() < self.small_page_regions {
            Pages::Small
        } else {
            Pages::Huge
        };
        let region = self
            .commit_region(pages)
            .unwrap_or_else(|| pages::map(REGION_BYTES, pages));
        let region = region.as_ptr().expose_provenance();
        self.regions.insert(region, u32::MAX);
        self.roomy_regions.insert(region);
    }

    /// The lowest part of the range that is free.
    fn commit_region(&mut self, pages: Pages) -> Option<NonNull<u8>> {
        let reservation = self.reservation.as_ref()?;
        let at = self.parts.first().copied().unwrap_or(self.unused_at);
        if at + REGION_BYTES > reservation.bytes() {
            return None;
        }
        let region = reservation.commit(at, REGION_BYTES, pages)?;
        if !self.parts.remove(&at) {
            self.unused_at += REGION_BYTES;
        }
        Some(region)
    }

    fn give_region_back(&mut self, region: usize) {
        let start = region_start(region);
        let range = Range::of(self.reservation.as_ref());
        let distance = region.wrapping_sub(range.start.addr());
        match &self.reservation {
            Some(reservation) if distance < range.bytes => {
                // SAFETY: committed by `commit_region`; all its spans are free.
                unsafe { reservation.decommit(start, REGION_BYTES) }
                self.parts.insert(distance);
            }
            // SAFETY: mapped by `add_region`; all its spans are free.
            _ => unsafe { pages::unmap(start, REGION_BYTES) },
        }
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
            self.give_region_back(region);
        } else if self.free_spans() > FREE_SPANS_MAX + self.used_spans / IDLE_PART {
            // SAFETY: the span is free, and ours.
            unsafe { pages::discard(NonNull::new_unchecked(span.cast()), SPAN_BYTES) }
        }
    }

    fn free_spans(&self) -> usize {
        self.regions.len() * SPANS - self.used_spans
    }
}

fn region_start(region: usize) -> NonNull<u8> {
    let start = ptr::with_exposed_provenance_mut(region);
    NonNull::new(start).expect("no region lies at address 0")
}

impl Drop for State {
    /// Each span in use holds a reference to the arena, so there are none.
    fn drop(&mut self) {
        let regions = std::mem::take(&mut self.regions);
        regions
            .into_keys()
            .for_each(|region| self.give_region_back(region));
    }
}

const _: () = assert!(SPANS == u32::BITS as usize);

#[cfg(test)]
mod tests;
