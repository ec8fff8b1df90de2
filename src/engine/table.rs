//! A shard's table: one writer, many readers, no locks.
//!
//! Linear hashing (W. Litwin, VLDB 1980) over lines of 64 bytes: the table grows by splitting one bucket at a time, so
//! that no insertion ever waits for a rehash, and segments once allocated stay where they are.
//!
//! ```text
//! line    | tags | place 0 | place 1 | ... | place 6 |        eight words: one cache line
//! tags    one byte a place: 8 bits of the hash, never 0; 0: the place is free
//! place   the address of an entry; 0: free; in the last one perhaps the address of an overflow line, plus 1
//! ```
//!
//! The places are the truth, and what a reader checks its announcement against; tags only say where to look. So an
//! entry's address is stored before its tag, and cleared in any order.
//!
//! A split copies entries to the new bucket, then announces the bucket, then clears the old places; a merge does the
//! same the other way round. A reader that missed an entry because it was moved meanwhile sees by the table's shape that
//! it has to look again. What a merged bucket leaves is given back to the system, but stays readable (as free places).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::entry::Header;
use super::pages::{self, HUGE_PAGE_BYTES, PAGE_BYTES, Pages};
use super::reclaim::Guard;
use super::sync::{AtomicPtr, AtomicU64, Mutex, Ordering};

mod scan;

pub(crate) use scan::Position;

const PLACES: usize = 7;
const LAST: usize = PLACES - 1;
/// Buckets of the first segment; each segment after the second has twice as many as the one before.
const FIRST_SEGMENT: usize = if cfg!(test) { 2 } else { 64 };
const SEGMENTS: usize = 40;
/// Entries a bucket, on the mean, with which the table grows, and below which it may shrink.
const GROW_AT: usize = 4;
const SHRINK_AT: usize = 2;
/// Buckets whose lines are given back together, among the first, and behind them.
const PAGE_BUCKETS: usize = PAGE_BYTES / size_of::<Line>();
const HUGE_PAGE_BUCKETS: usize = HUGE_PAGE_BYTES / size_of::<Line>();

/// The bits of the tags that a reader compares: all but the last byte, which no place has.
const TAG_BYTES: u64 = u64::MAX >> 8;
const EACH_BYTE: u64 = 0x0101_0101_0101_0101;

#[repr(C, align(64))]
struct Line {
    tags: AtomicU64,
    places: [AtomicPtr<Header>; PLACES],
}

/// The tag of a hash, 1 to 255.
#[inline]
fn tag_of(hash: u64) -> u8 {
    ((hash >> 56) as u8).max(1)
}

/// The places whose tag is `tag`: all are compared at once, without a branch, since where
/// an entry lies in its line is a coin toss that no predictor learns.
#[inline(always)]
fn matches(tags: u64, tag: u8) -> Matches {
    const LOW_BITS: u64 = EACH_BYTE * 0x7f;
    let differs = tags ^ (EACH_BYTE * u64::from(tag));
    // A byte is 0 if neither its lower bits carry into its highest one, nor that is set.
    let is_not_0 = ((differs & LOW_BITS) + LOW_BITS) | differs | LOW_BITS;
    Matches(!is_not_0 & TAG_BYTES)
}

/// Places of a line, as the highest bits of their tags.
struct Matches(u64);

impl Iterator for Matches {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let index = self.0.trailing_zeros() / 8;
        self.0 &= self.0 - 1;
        Some(index as usize)
    }
}

/// The overflow line that a last place leads to.
#[inline]
fn link_in(place: *mut Header) -> Option<NonNull<Line>> {
    if place.addr() & 1 == 0 {
        return None;
    }
    NonNull::new(place.map_addr(|at| at & !1).cast())
}

/// The entry in a place.
#[inline]
fn entry_in(place: *mut Header) -> Option<NonNull<Header>> {
    if place.addr() & 1 == 1 {
        return None;
    }
    NonNull::new(place)
}

/// Where a hash belongs among `buckets` of them, by its lower 32 bits.
#[inline]
fn bucket_of(hash: u32, buckets: usize) -> usize {
    let mask = usize::MAX >> buckets.leading_zeros();
    let index = hash as usize & mask;
    if index < buckets {
        index
    } else {
        index & (mask >> 1)
    }
}

/// The segment that a bucket lies in.
#[inline]
fn segment_of(bucket: usize) -> usize {
    (usize::BITS - (bucket / FIRST_SEGMENT).leading_zeros()) as usize
}

/// The first bucket of a segment.
fn first_bucket(segment: usize) -> usize {
    match segment {
        0 => 0,
        _ => FIRST_SEGMENT << (segment - 1),
    }
}

fn segment_layout(segment: usize) -> Layout {
    let buckets = FIRST_SEGMENT << segment.saturating_sub(1);
    Layout::array::<Line>(buckets).expect("a segment fits the address space")
}

/// Zeroed lines: all free. All but the first segments become memory as the table grows into them.
fn new_segment(segment: usize) -> *mut Line {
    let layout = segment_layout(segment);
    if layout.size() >= PAGE_BYTES {
        let pages = if layout.size() >= HUGE_PAGE_BYTES {
            Pages::Huge
        } else {
            Pages::Small
        };
        return pages::map(layout.size(), pages).as_ptr().cast();
    }
    // SAFETY: the layout is not empty.
    let lines = unsafe { alloc_zeroed(layout) };
    if lines.is_null() {
        handle_alloc_error(layout);
    }
    lines.cast()
}

/// # Safety
/// The lines come from [`new_segment`], and nobody reads them any more.
unsafe fn free_segment(lines: *mut Line, segment: usize) {
    let layout = segment_layout(segment);
    // SAFETY: by the caller's word; a null pointer never comes here.
    unsafe {
        if layout.size() >= PAGE_BYTES {
            pages::unmap(NonNull::new_unchecked(lines.cast()), layout.size());
        } else {
            dealloc(lines.cast(), layout);
        }
    }
}

/// How many buckets there are, and how often two have been merged: a bucket that was merged and split again since a
/// reader looked is not the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    buckets: u32,
    merges: u32,
}

impl Shape {
    #[inline(always)]
    fn load(from: &AtomicU64) -> Self {
        let bits = from.load(Ordering::Acquire);
        Self {
            buckets: bits as u32,
            merges: (bits >> 32) as u32,
        }
    }

    fn bits(self) -> u64 {
        u64::from(self.merges) << 32 | u64::from(self.buckets)
    }

    #[inline(always)]
    fn bucket_of(self, hash: u64) -> usize {
        bucket_of(hash as u32, self.buckets as usize)
    }
}

/// What readers see of the table.
pub(crate) struct Table {
    shape: AtomicU64,
    /// Where bucket 0 would lie if the whole table were as its segment; null: not allocated yet.
    segments: [AtomicPtr<Line>; SEGMENTS],
    /// Where overflow lines lie; readers know nothing of it.
    overflow: Mutex<Vec<NonNull<u8>>>,
}

// SAFETY: the pointers lead to memory of the table's own, in which there are atomics only.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    /// Looks for the entry with `hash` that `is_it` accepts, and returns it under the guard's protection.
    #[inline(always)]
    pub fn find(
        &self,
        guard: &Guard,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let mut shape = Shape::load(&self.shape);
        loop {
            let bucket = shape.bucket_of(hash);
            let found = self.find_in(bucket, guard, tag_of(hash), &is_it);
            if found.is_some() {
                return found;
            }
            // Places are cleared only after the new shape is out, and read before it is read again here.
            let now = Shape::load(&self.shape);
            if now.merges == shape.merges && now.bucket_of(hash) == bucket {
                return None;
            }
            shape = now;
        }
    }

    #[inline(always)]
    fn find_in(
        &self,
        bucket: usize,
        guard: &Guard,
        tag: u8,
        is_it: &impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let mut line = self.line(bucket);
        loop {
            for index in matches(line.tags.load(Ordering::Acquire), tag) {
                let place = &line.places[index];
                // A place that changes while it is looked at is looked at again.
                while let Some(entry) = entry_in(place.load(Ordering::Acquire)) {
                    if guard.protect(entry, place) {
                        if is_it(entry) {
                            return Some(entry);
                        }
                        break;
                    }
                }
            }
            line = next(line)?;
        }
    }

    #[inline(always)]
    fn line(&self, bucket: usize) -> &Line {
        let bucket_0 = self.segments[segment_of(bucket)].load(Ordering::Acquire);
        debug_assert!(!bucket_0.is_null());
        // SAFETY: a bucket below the announced count lies in a segment that was allocated before and never moves.
        unsafe { &*bucket_0.wrapping_add(bucket) }
    }

    /// Has the line of a hash fetched, for a read that comes soon.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.line(Shape::load(&self.shape).bucket_of(hash)));
    }

    /// Has the first entry of the tag of `hash` fetched, for a read that comes soon.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        let line = self.line(Shape::load(&self.shape).bucket_of(hash));
        if let Some(index) = matches(line.tags.load(Ordering::Relaxed), tag_of(hash)).next() {
            prefetch(line.places[index].load(Ordering::Relaxed));
        }
    }
}

/// A hint: whatever the address is, nothing but time depends on it.
#[inline]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address does no harm.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) at, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

#[inline]
fn next(line: &Line) -> Option<&Line> {
    let link = link_in(line.places[LAST].load(Ordering::Acquire))?;
    // SAFETY: a link leads to a line that lives as long as the table.
    Some(unsafe { link.as_ref() })
}

impl Drop for Table {
    fn drop(&mut self) {
        for page in self.overflow.lock().drain(..) {
            // SAFETY: mapped by `Writer::take_line`; nobody else has the table any more.
            unsafe { pages::unmap(page, PAGE_BYTES) }
        }
        for (segment, lines) in self.segments.iter_mut().enumerate() {
            let bucket_0 = *lines.get_mut();
            if !bucket_0.is_null() {
                // SAFETY: made by `Writer::add_segment`; nobody else has the table any more.
                unsafe { free_segment(bucket_0.wrapping_add(first_bucket(segment)), segment) }
            }
        }
    }
}

/// A place that holds an entry.
#[derive(Clone, Copy)]
struct At<'a> {
    line: &'a Line,
    index: usize,
    entry: NonNull<Header>,
}

impl At<'_> {
    fn clear(&self) {
        // Release: what was done before (a split's announcement) is seen by whoever sees that the place is free.
        self.line.places[self.index].store(ptr::null_mut(), Ordering::Release);
        set_tag(self.line, self.index, 0);
    }
}

#[inline]
fn set_tag(line: &Line, index: usize, tag: u8) {
    let shift = 8 * index;
    let others = line.tags.load(Ordering::Relaxed) & !(0xff << shift);
    line.tags
        .store(others | u64::from(tag) << shift, Ordering::Release);
}

/// The entries of a line, and those of the lines behind it.
fn entries(first: &Line) -> impl Iterator<Item = At<'_>> {
    std::iter::successors(Some(first), |line| next(line)).flat_map(|line| {
        line.places
            .iter()
            .enumerate()
            .filter_map(move |(index, place)| {
                let entry = entry_in(place.load(Ordering::Relaxed))?;
                Some(At { line, index, entry })
            })
    })
}

/// The one writer of a table. It holds a reference to each entry that the table holds, as raw pointers: who gets one
/// back from `insert` or `remove` has to retire it.
pub(crate) struct Writer {
    table: Arc<Table>,
    len: usize,
    /// The most buckets that there were so far.
    peak: usize,
    overflow_lines: usize,
    /// The most overflow lines that there were so far.
    overflow_peak: usize,
    /// The next overflow line that was never used.
    fresh: NonNull<Line>,
    walks: usize,
    /// Overflow lines that no bucket needs. A reader may still be there, so they can only be used again.
    spare: Vec<NonNull<Line>>,
}

// SAFETY: the pointers lead to lines of the table, which are atomics only.
unsafe impl Send for Writer {}

impl Writer {
    pub fn new() -> Self {
        let writer = Self {
            table: Arc::new(Table {
                segments: [const { AtomicPtr::new(ptr::null_mut()) }; SEGMENTS],
                shape: AtomicU64::new(FIRST_SEGMENT as u64),
                overflow: Mutex::new(Vec::new()),
            }),
            len: 0,
            peak: FIRST_SEGMENT,
            overflow_lines: 0,
            overflow_peak: 0,
            fresh: NonNull::dangling(),
            walks: 0,
            spare: Vec::new(),
        };
        writer.add_segment(0);
        writer
    }

    #[inline]
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The bytes of all lines. The first ones, up to a page, are not given back.
    #[inline]
    pub fn bytes(&self) -> usize {
        let buckets = self.buckets().max(self.peak.min(PAGE_BUCKETS));
        (buckets + self.overflow_peak) * size_of::<Line>()
    }

    /// How many buckets there are.
    #[inline]
    pub fn buckets(&self) -> usize {
        self.shape().buckets as usize
    }

    #[inline]
    fn shape(&self) -> Shape {
        Shape::load(&self.table.shape)
    }

    #[inline]
    fn line_of(&self, hash: u32) -> &Line {
        self.table.line(bucket_of(hash, self.buckets()))
    }

    fn add_segment(&self, segment: usize) {
        let bucket_0 = new_segment(segment).wrapping_sub(first_bucket(segment));
        self.table.segments[segment].store(bucket_0, Ordering::Release);
    }

    /// Puts `entry` where `is_it` finds its predecessor, which is returned, or else at a free place.
    pub fn insert(
        &mut self,
        entry: NonNull<Header>,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        if let Some(at) = self.find(hash, is_it) {
            // Release: the entry is written before it can be found.
            at.line.places[at.index].store(entry.as_ptr(), Ordering::Release);
            return Some(at.entry);
        }
        self.len += 1;
        self.put(bucket_of(hash as u32, self.buckets()), entry, tag_of(hash));
        while self.len > self.buckets() * GROW_AT {
            self.split();
        }
        None
    }

    /// Whether there is an entry that `is_it` accepts.
    pub fn holds(&self, hash: u64, is_it: impl Fn(NonNull<Header>) -> bool) -> bool {
        self.find(hash, is_it).is_some()
    }

    /// Unlinks the entry that `is_it` accepts and returns it.
    pub fn remove(
        &mut self,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let at = self.find(hash, is_it)?;
        at.clear();
        let removed = at.entry;
        self.left(hash as u32);
        Some(removed)
    }

    /// Unlinks an entry.
    ///
    /// # Panics
    /// If it is not in the table.
    pub fn unlink(&mut self, entry: NonNull<Header>) {
        // SAFETY: the caller has it from the table or the queues, and it was not retired.
        let hash = unsafe { entry.as_ref() }.hash;
        let found = entries(self.line_of(hash)).find(|at| at.entry == entry);
        found.expect("what is unlinked is in the table").clear();
        self.left(hash);
    }

    /// Puts a copy of an entry in its place.
    ///
    /// # Panics
    /// If `old` is not in the table.
    pub fn exchange(&mut self, old: NonNull<Header>, new: NonNull<Header>) {
        // SAFETY: as in `unlink`.
        let hash = unsafe { old.as_ref() }.hash;
        let found = entries(self.line_of(hash)).find(|at| at.entry == old);
        let at = found.expect("what is exchanged is in the table");
        // Release: the copy is written before it can be found.
        at.line.places[at.index].store(new.as_ptr(), Ordering::Release);
    }

    /// An entry has been unlinked. Where it was the last of an overflow line, its bucket gives that away.
    fn left(&mut self, hash: u32) {
        self.len -= 1;
        self.cut(bucket_of(hash, self.buckets()));
    }

    /// Takes the last line from a bucket as long as that is an overflow line without entries.
    fn cut(&mut self, bucket: usize) {
        if next(self.table.line(bucket)).is_none() {
            return;
        }
        let table = self.table.clone();
        loop {
            let mut line = table.line(bucket);
            let Some(mut last) = next(line) else { return };
            while let Some(behind) = next(last) {
                (line, last) = (last, behind);
            }
            if last.tags.load(Ordering::Relaxed) != 0 {
                return;
            }
            line.places[LAST].store(ptr::null_mut(), Ordering::Release);
            self.overflow_lines -= 1;
            self.spare.push(NonNull::from(last));
        }
    }

    /// Whether the table is much larger than it has to be, and may shrink.
    #[inline]
    pub fn is_loose(&self) -> bool {
        self.walks == 0 && self.buckets() > FIRST_SEGMENT && self.len < self.buckets() * SHRINK_AT
    }

    /// Takes back so many buckets at the most.
    pub fn shrink(&mut self, buckets: usize) {
        for _ in 0..buckets {
            if !self.is_loose() {
                break;
            }
            self.merge();
        }
    }

    /// Until [`Writer::end_walk`] no bucket is merged: who walks over the buckets from the first to the last, in several
    /// turns, meets each entry that stays.
    pub fn begin_walk(&mut self) {
        self.walks += 1;
    }

    pub fn end_walk(&mut self) {
        self.walks -= 1;
    }

    /// The entries of one bucket.
    pub fn bucket(&self, bucket: usize) -> impl Iterator<Item = NonNull<Header>> {
        entries(self.table.line(bucket)).map(|at| at.entry)
    }

    /// All entries.
    pub fn for_each(&self, mut f: impl FnMut(NonNull<Header>)) {
        (0..self.buckets()).for_each(|bucket| self.bucket(bucket).for_each(&mut f));
    }

    fn find(&self, hash: u64, is_it: impl Fn(NonNull<Header>) -> bool) -> Option<At<'_>> {
        let mut line = self.line_of(hash as u32);
        loop {
            for index in matches(line.tags.load(Ordering::Relaxed), tag_of(hash)) {
                let entry = entry_in(line.places[index].load(Ordering::Relaxed));
                if let Some(entry) = entry.filter(|entry| is_it(*entry)) {
                    return Some(At { line, index, entry });
                }
            }
            line = next(line)?;
        }
    }

    /// Stores an entry at a free place of a bucket.
    fn put(&mut self, bucket: usize, entry: NonNull<Header>, tag: u8) {
        let first = self.table.line(bucket);
        let mut line = first;
        loop {
            let is_free = |place: &AtomicPtr<Header>| place.load(Ordering::Relaxed).is_null();
            if let Some(index) = line.places.iter().position(is_free) {
                line.places[index].store(entry.as_ptr(), Ordering::Release);
                return set_tag(line, index, tag);
            }
            match next(line) {
                Some(next) => line = next,
                None => break,
            }
        }
        // The last entry moves to a new line; a reader finds it there by the link that takes its place.
        let full = NonNull::from(line);
        let overflow = self.take_line();
        // SAFETY: lines live as long as the table, and only this thread writes to them.
        let (line, new) = unsafe { (full.as_ref(), overflow.as_ref()) };
        let last = &line.places[LAST];
        let tags = [(line.tags.load(Ordering::Relaxed) >> (8 * LAST)) as u8, tag];
        for (index, moved) in [last.load(Ordering::Relaxed), entry.as_ptr()]
            .into_iter()
            .enumerate()
        {
            new.places[index].store(moved, Ordering::Release);
            set_tag(new, index, tags[index]);
        }
        let link = overflow.as_ptr().cast::<Header>();
        last.store(link.map_addr(|at| at | 1), Ordering::Release);
        set_tag(line, LAST, 0);
        self.overflow_lines += 1;
    }

    fn take_line(&mut self) -> NonNull<Line> {
        if let Some(line) = self.spare.pop() {
            return line;
        }
        if self.overflow_peak.is_multiple_of(PAGE_BUCKETS) {
            let page = pages::map(PAGE_BYTES, Pages::Small);
            self.table.overflow.lock().push(page);
            self.fresh = page.cast();
        }
        self.overflow_peak += 1;
        // SAFETY: a page has room for so many lines; zeroes are free places. The last one leaves it where it is not used.
        let next = unsafe { self.fresh.add(1) };
        std::mem::replace(&mut self.fresh, next)
    }

    /// Moves the entries of `from` that belong to `to` in the new shape.
    fn reshape(&mut self, from: usize, to: usize, shape: Shape) {
        let table = self.table.clone();
        let moves = |at: &At| {
            // SAFETY: the table holds a reference to what it links.
            let hash = unsafe { at.entry.as_ref() }.hash;
            shape.bucket_of(hash.into()) == to
        };
        for at in entries(table.line(from)).filter(moves) {
            let tag = (at.line.tags.load(Ordering::Relaxed) >> (8 * at.index)) as u8;
            self.put(to, at.entry, tag);
        }
        table.shape.store(shape.bits(), Ordering::Release);
        for at in entries(table.line(from)).filter(moves) {
            at.clear();
        }
        self.cut(from);
    }

    fn split(&mut self) {
        let Shape { buckets, merges } = self.shape();
        let new = buckets as usize;
        let segment = segment_of(new);
        if self.table.segments[segment]
            .load(Ordering::Relaxed)
            .is_null()
        {
            self.add_segment(segment);
        }
        let shape = Shape {
            buckets: buckets + 1,
            merges,
        };
        self.reshape(parent_of(new), new, shape);
        self.peak = self.peak.max(new + 1);
    }

    fn merge(&mut self) {
        let Shape { buckets, merges } = self.shape();
        let old = buckets as usize - 1;
        let shape = Shape {
            buckets: buckets - 1,
            merges: merges.wrapping_add(1),
        };
        self.reshape(old, parent_of(old), shape);
        let page = if old >= HUGE_PAGE_BUCKETS {
            HUGE_PAGE_BYTES
        } else {
            PAGE_BYTES
        };
        if old > 0 && old.is_multiple_of(page / size_of::<Line>()) {
            let start = NonNull::from(self.table.line(old)).cast();
            // SAFETY: the page is one of a segment's own, all of its places are free, and free is what zeroes are.
            unsafe { pages::discard(start, page) }
        }
    }
}

/// The bucket that another one was split from.
fn parent_of(bucket: usize) -> usize {
    bucket - (1 << bucket.ilog2())
}

#[cfg(all(test, corecache_model))]
mod model;
#[cfg(test)]
mod tests;
