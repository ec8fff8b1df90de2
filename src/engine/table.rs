//! A shard's table: one writer, many readers, no locks.
//!
//! Linear hashing (W. Litwin, VLDB 1980) over lines of 64 bytes with eight words each: the table grows by splitting one
//! bucket at a time, so that no insertion ever waits for a rehash, and segments once allocated stay where they are.
//!
//! ```text
//! word    | tag: 16 bits of the hash | address of the entry: 48 bits, the lowest of them 0 |
//!         | 0                        | address of an overflow line,  the lowest bit 1     |   in a line's last word only
//!         | 0                        | 0                                                  |   free
//! ```
//!
//! A split copies entries to the new bucket, then announces the bucket, then clears the old words. A reader that
//! missed an entry because it was moved meanwhile sees by the bucket count that it has to look again.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::entry::Header;
use super::reclaim::Guard;

const WORDS: usize = 8;
const LAST: usize = WORDS - 1;
/// Buckets of the first segment; each segment after the second has twice as many as the one before.
const FIRST_SEGMENT: usize = if cfg!(test) { 2 } else { 64 };
const SEGMENTS: usize = 40;
/// Entries a bucket, on the mean, before the table grows: nine in two buckets.
const GROW_AT: (usize, usize) = (9, 2);

const ADDRESS: u64 = (1 << 48) - 1;
const LINK: u64 = 1;

#[repr(C, align(64))]
struct Line {
    words: [AtomicU64; WORDS],
}

impl Line {
    /// A bit for each word that has the tag of `hash`. All words are compared, without a branch: where an entry lies in
    /// its line is a coin toss that no predictor learns.
    #[inline]
    fn matches(&self, hash: u64) -> u32 {
        let bit = |(index, word): (u32, &AtomicU64)| {
            let differs = word.load(Ordering::Acquire) ^ hash;
            u32::from(differs <= ADDRESS) << index
        };
        (0..)
            .zip(&self.words)
            .map(bit)
            .fold(0, |bits, bit| bits | bit)
    }
}

fn tag(hash: u64) -> u64 {
    hash & !ADDRESS
}

fn pack(entry: NonNull<Header>, hash: u64) -> u64 {
    let address = entry.as_ptr() as u64;
    assert_eq!(address & !ADDRESS, 0, "addresses of 48 bits are supported");
    tag(hash) | address
}

/// The entry that a word holds; none for a free word or a link.
#[inline]
fn entry_in(word: u64) -> Option<NonNull<Header>> {
    if word & LINK != 0 {
        return None;
    }
    NonNull::new((word & ADDRESS) as *mut Header)
}

fn link_in(word: u64) -> Option<NonNull<Line>> {
    if word & LINK == 0 {
        return None;
    }
    NonNull::new((word & ADDRESS & !LINK) as *mut Line)
}

/// Where a hash belongs among `buckets` of them. The bits that choose the shard and the tag are at the top.
#[inline]
fn bucket_of(hash: u64, buckets: usize) -> usize {
    let mask = (1usize << (usize::BITS - 1 - buckets.leading_zeros())) - 1;
    let index = hash as usize & (mask << 1 | 1);
    if index < buckets { index } else { index & mask }
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

/// What readers see of the table.
pub(crate) struct Table {
    buckets: AtomicUsize,
    /// Where bucket 0 would lie if the whole table were as its segment; null: not allocated yet.
    segments: [AtomicPtr<Line>; SEGMENTS],
}

impl Table {
    /// Looks for the entry with `hash` that `is_it` accepts, and returns it under the guard's protection.
    #[inline]
    pub fn find(
        &self,
        guard: &Guard,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        loop {
            let buckets = self.buckets.load(Ordering::Acquire);
            let bucket = bucket_of(hash, buckets);
            let found = self.find_in(bucket, guard, hash, &is_it);
            if found.is_some() {
                return found;
            }
            // Words are cleared only after the new count is out, and read before it is read again here.
            let now = self.buckets.load(Ordering::Acquire);
            if bucket_of(hash, now) == bucket {
                return None;
            }
        }
    }

    #[inline]
    fn find_in(
        &self,
        bucket: usize,
        guard: &Guard,
        hash: u64,
        is_it: &impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let mut line = self.line(bucket);
        loop {
            let mut matches = line.matches(hash);
            while matches != 0 {
                let word = &line.words[matches.trailing_zeros() as usize];
                matches &= matches - 1;
                let mut seen = word.load(Ordering::Acquire);
                // A word that changes while it is looked at is looked at again.
                while seen & !ADDRESS == tag(hash) {
                    let Some(entry) = entry_in(seen) else { break };
                    if !guard.protect(entry, word, seen) {
                        seen = word.load(Ordering::Acquire);
                        continue;
                    }
                    if is_it(entry) {
                        return Some(entry);
                    }
                    break;
                }
            }
            line = self.next(line)?;
        }
    }

    #[inline]
    fn line(&self, bucket: usize) -> &Line {
        let bucket_0 = self.segments[segment_of(bucket)].load(Ordering::Acquire);
        debug_assert!(!bucket_0.is_null());
        // SAFETY: a bucket below the announced count lies in a segment that was allocated before and never moves.
        unsafe { &*bucket_0.wrapping_add(bucket) }
    }

    #[inline]
    fn next(&self, line: &Line) -> Option<&Line> {
        let link = link_in(line.words[LAST].load(Ordering::Acquire))?;
        // SAFETY: a link leads to a line that lives as long as the table.
        Some(unsafe { link.as_ref() })
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for bucket in 0..*self.buckets.get_mut() {
            let mut next = link_in(self.line(bucket).words[LAST].load(Ordering::Relaxed));
            while let Some(line) = next {
                // SAFETY: overflow lines are boxes that only their one link leads to.
                let line = unsafe { Box::from_raw(line.as_ptr()) };
                next = link_in(line.words[LAST].load(Ordering::Relaxed));
            }
        }
        for (segment, lines) in self.segments.iter_mut().enumerate() {
            let bucket_0 = *lines.get_mut();
            if !bucket_0.is_null() {
                let lines = bucket_0.wrapping_add(first_bucket(segment));
                // SAFETY: allocated with this layout by `Writer::add_segment`.
                unsafe { dealloc(lines.cast(), segment_layout(segment)) }
            }
        }
    }
}

/// The one writer of a table. It holds a reference to each entry that the table holds, as raw pointers: who gets one
/// back from `insert` or `remove` has to retire it.
pub(crate) struct Writer {
    table: Arc<Table>,
    len: usize,
    overflow_lines: usize,
}

impl Writer {
    pub fn new() -> Self {
        let writer = Self {
            table: Arc::new(Table {
                segments: [const { AtomicPtr::new(ptr::null_mut()) }; SEGMENTS],
                buckets: AtomicUsize::new(FIRST_SEGMENT),
            }),
            len: 0,
            overflow_lines: 0,
        };
        writer.add_segment(0);
        writer
    }

    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The bytes of all lines.
    pub fn bytes(&self) -> usize {
        (self.buckets() + self.overflow_lines) * size_of::<Line>()
    }

    fn buckets(&self) -> usize {
        self.table.buckets.load(Ordering::Relaxed)
    }

    fn add_segment(&self, segment: usize) {
        let layout = segment_layout(segment);
        // SAFETY: the layout is not empty; all bits zero is a line of free words.
        let lines = unsafe { alloc_zeroed(layout) }.cast::<Line>();
        if lines.is_null() {
            handle_alloc_error(layout);
        }
        let bucket_0 = lines.wrapping_sub(first_bucket(segment));
        self.table.segments[segment].store(bucket_0, Ordering::Release);
    }

    /// Puts `entry` where `is_it` finds its predecessor, which is returned, or else at a free place.
    pub fn insert(
        &mut self,
        entry: NonNull<Header>,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let word = pack(entry, hash);
        if let Some(place) = self.word_of(hash, is_it) {
            // Release: the entry is written before it can be found.
            return entry_in(place.swap(word, Ordering::AcqRel));
        }
        self.len += 1;
        let lines = put(self.table.line(bucket_of(hash, self.buckets())), word);
        self.overflow_lines += lines;
        let (entries, buckets) = GROW_AT;
        while self.len * buckets > self.buckets() * entries {
            self.split();
        }
        None
    }

    /// Unlinks the entry that `is_it` accepts and returns it.
    pub fn remove(
        &mut self,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let removed = entry_in(self.word_of(hash, is_it)?.swap(0, Ordering::AcqRel));
        self.len -= 1;
        removed
    }

    /// All entries.
    pub fn for_each(&self, mut f: impl FnMut(NonNull<Header>)) {
        for bucket in 0..self.buckets() {
            for word in self.words(bucket) {
                if let Some(entry) = entry_in(word.load(Ordering::Relaxed)) {
                    f(entry);
                }
            }
        }
    }

    fn words(&self, bucket: usize) -> impl Iterator<Item = &AtomicU64> {
        std::iter::successors(Some(self.table.line(bucket)), |line| self.table.next(line))
            .flat_map(|line| &line.words)
    }

    fn word_of(&self, hash: u64, is_it: impl Fn(NonNull<Header>) -> bool) -> Option<&AtomicU64> {
        self.words(bucket_of(hash, self.buckets())).find(|word| {
            let seen = word.load(Ordering::Relaxed);
            seen & !ADDRESS == tag(hash) && entry_in(seen).is_some_and(&is_it)
        })
    }

    fn split(&mut self) {
        let buckets = self.buckets();
        let old = buckets - (1 << buckets.ilog2());
        let segment = segment_of(buckets);
        if buckets == first_bucket(segment) {
            self.add_segment(segment);
        }
        let to = self.table.line(buckets);
        let mut lines = 0;
        let mut moved = Vec::with_capacity(WORDS);
        for word in self.words(old) {
            let seen = word.load(Ordering::Relaxed);
            let Some(entry) = entry_in(seen) else {
                continue;
            };
            // SAFETY: the table holds a reference to what it links.
            if bucket_of(unsafe { entry.as_ref() }.hash, buckets + 1) == buckets {
                lines += put(to, seen);
                moved.push(word);
            }
        }
        self.table.buckets.store(buckets + 1, Ordering::Release);
        for word in moved {
            word.store(0, Ordering::Release);
        }
        self.overflow_lines += lines;
    }
}

/// Stores `word` at a free place of the bucket that starts with `line`; returns how many overflow lines that took.
fn put(line: &Line, word: u64) -> usize {
    for place in &line.words {
        if place.load(Ordering::Relaxed) == 0 {
            place.store(word, Ordering::Release);
            return 0;
        }
    }
    let last = &line.words[LAST];
    let seen = last.load(Ordering::Relaxed);
    if let Some(next) = link_in(seen) {
        // SAFETY: lines behind a link live as long as the table.
        return put(unsafe { next.as_ref() }, word);
    }
    // The last entry moves to the new line; a reader finds it there by the link that takes its place.
    let overflow = Box::new(Line {
        words: [const { AtomicU64::new(0) }; WORDS],
    });
    overflow.words[0].store(seen, Ordering::Relaxed);
    overflow.words[1].store(word, Ordering::Relaxed);
    let address = Box::into_raw(overflow) as u64;
    assert_eq!(address & !ADDRESS, 0, "addresses of 48 bits are supported");
    last.store(address | LINK, Ordering::Release);
    1
}

#[cfg(test)]
mod tests;
