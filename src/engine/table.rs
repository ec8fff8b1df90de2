//! A shard's table: one writer, many readers, no locks.
//!
//! Linear hashing (W. Litwin, VLDB 1980) over [lines](line) of 64 bytes: the table grows by splitting one bucket at a
//! time, so that no insertion ever waits for a rehash, and [segments] once allocated stay where they are. What does not
//! fit a bucket's line goes to overflow lines behind it.
//!
//! A split copies entries to the new bucket, then announces the bucket, then clears the old places; a merge does the
//! same the other way round. A reader that missed an entry because it was moved meanwhile sees by the table's shape that
//! it has to look again. What a merged bucket leaves is given back to the system, but stays readable (as free places).

use std::ptr::NonNull;

use super::arena::Range;
use super::entry::Header;
use super::reclaim::Slot;
use super::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

mod line;
mod scan;
mod segments;
mod writer;

use line::{Line, tag_of};
use segments::Segments;

pub(crate) use scan::Position;
pub(crate) use writer::Writer;

/// Names from here on are numbers of entries that lie elsewhere than in the arena's range.
const FAR: u32 = 1 << 31;

/// The bits of a hash that choose among `buckets` of them and the next ones.
#[inline(always)]
fn mask_of(buckets: u32) -> u32 {
    u32::MAX >> buckets.leading_zeros()
}

/// Where a hash belongs among `buckets` of them, by its lower 32 bits.
#[inline(always)]
fn bucket_of(hash: u32, buckets: usize) -> usize {
    let buckets = buckets as u32;
    masked_bucket_of(hash, buckets, mask_of(buckets))
}

#[inline(always)]
fn masked_bucket_of(hash: u32, buckets: u32, mask: u32) -> usize {
    let index = hash & mask;
    let bucket = if index < buckets {
        index
    } else {
        index & (mask >> 1)
    };
    bucket as usize
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

    fn glance(self) -> u64 {
        u64::from(mask_of(self.buckets)) << 32 | u64::from(self.buckets)
    }

    fn bits(self) -> u64 {
        u64::from(self.merges) << 32 | u64::from(self.buckets)
    }

    #[inline(always)]
    fn bucket_of(self, hash: u64) -> usize {
        bucket_of(hash as u32, self.buckets as usize)
    }
}

/// What readers see of the table. Aligned so that it shares no line with what counts who has it.
#[repr(C, align(128))]
pub(crate) struct Table {
    /// The shape's number of buckets, and above it the bits of a hash that choose among them and the next ones: what a
    /// first look needs. It may differ from the shape for a moment.
    glance: AtomicU64,
    shape: AtomicU64,
    range: Range,
    buckets: Segments<Line>,
    /// By number, from 1.
    overflow: Segments<Line>,
    /// Entries that lie outside of the range, by number.
    far: Segments<AtomicPtr<Header>>,
}

impl Table {
    /// Looks for the entry with `hash` that `is_it` accepts, and returns it under the slot's protection.
    ///
    /// Nearly always it is the first of its tag in its bucket's line, and stays there meanwhile: that way is kept short, as
    /// a core that waits for memory goes on with the next reads as far as their instructions fit its window.
    #[inline(always)]
    pub fn find(
        &self,
        slot: &Slot,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let line = self.line_at_a_glance(hash);
        if let Some(index) = line.first(hash) {
            let place = &line.places[index];
            let name = place.load(Ordering::Acquire);
            if let Some(entry) = self.near(name) {
                slot.announce(entry);
                if place.load(Ordering::Acquire) == name && is_it(entry) {
                    return Some(entry);
                }
            }
        }
        self.find_by_all_means(slot, hash, is_it)
    }

    #[cold]
    #[inline(never)]
    fn find_by_all_means(
        &self,
        slot: &Slot,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let mut shape = self.shape();
        loop {
            let bucket = shape.bucket_of(hash);
            let found = self.find_in(bucket, slot, tag_of(hash), &is_it);
            if found.is_some() {
                return found;
            }
            // Places are cleared only after the new shape is out, and read before it is read again here.
            let now = self.shape();
            if now.merges == shape.merges && now.bucket_of(hash) == bucket {
                return None;
            }
            shape = now;
        }
    }

    fn find_in(
        &self,
        bucket: usize,
        slot: &Slot,
        tag: u8,
        is_it: &impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let mut line = self.line(bucket);
        loop {
            let tags = line.tags();
            for index in tags.matches(tag) {
                if let Some(entry) = self.protect(&line.places[index], slot)
                    && is_it(entry)
                {
                    return Some(entry);
                }
            }
            line = self.overflow_line(tags.link()?);
        }
    }

    /// The entry at a place, under the slot's protection.
    fn protect(&self, place: &AtomicU32, slot: &Slot) -> Option<NonNull<Header>> {
        loop {
            let name = place.load(Ordering::Acquire);
            if name == 0 {
                return None;
            }
            let Some(entry) = self.entry(name) else {
                // It lay elsewhere and has left, its place before its number.
                continue;
            };
            slot.announce(entry);
            // A place that changes while it is looked at is looked at again.
            if place.load(Ordering::Acquire) == name
                && (name < FAR || self.entry(name) == Some(entry))
            {
                return Some(entry);
            }
        }
    }

    /// The entry of a name that is not 0; none if it lay outside of the range, and has left.
    fn entry(&self, name: u32) -> Option<NonNull<Header>> {
        if name < FAR {
            return self.near(name);
        }
        NonNull::new(self.far(name & !FAR).load(Ordering::Acquire))
    }

    /// The entry of a name in the range.
    #[inline(always)]
    fn near(&self, name: u32) -> Option<NonNull<Header>> {
        // SAFETY: who gave the name did it for an address in the range, and none is 0.
        (name as i32 > 0).then(|| unsafe { NonNull::new_unchecked(self.range.at(name)) })
    }

    fn far(&self, number: u32) -> &AtomicPtr<Header> {
        // SAFETY: the number was given out after its item was added; items are zeroed, and live as long as the table.
        unsafe { &*self.far.at(number as usize) }
    }

    #[inline(always)]
    fn shape(&self) -> Shape {
        Shape::load(&self.shape)
    }

    #[inline(always)]
    fn line(&self, bucket: usize) -> &Line {
        // SAFETY: a bucket below the announced count lies in a segment that was added before; lines are zeroed, and live
        // as long as the table.
        unsafe { &*self.buckets.at(bucket) }
    }

    #[inline]
    fn overflow_line(&self, number: u32) -> &Line {
        // SAFETY: as above, of a number that a line links.
        unsafe { &*self.overflow.at(number as usize) }
    }

    /// The line where a hash belongs, nearly always.
    #[inline(always)]
    fn line_at_a_glance(&self, hash: u64) -> &Line {
        // Acquire: the bucket was added before. Whatever is out of step here, the bucket is one that was announced.
        let glance = self.glance.load(Ordering::Acquire);
        let (buckets, mask) = (glance as u32, (glance >> 32) as u32);
        self.line(masked_bucket_of(hash as u32, buckets, mask))
    }

    /// Has the line of a hash fetched, for a read that comes soon.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.line_at_a_glance(hash));
    }

    /// Has the first entry of the tag of `hash` fetched, for a read that comes soon.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        let line = self.line_at_a_glance(hash);
        if let Some(index) = line.first(hash) {
            self.prefetch_place(&line.places[index]);
        }
    }

    #[inline]
    fn prefetch_place(&self, place: &AtomicU32) {
        let name = place.load(Ordering::Relaxed);
        if name < FAR {
            prefetch(self.range.at::<Header>(name));
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

#[cfg(all(test, corecache_model))]
mod model;
#[cfg(test)]
mod tests;
