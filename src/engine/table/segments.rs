//! Arrays that grow in place: what has been given out stays where it is, and new parts are as large as all before them.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use crate::engine::pages::{self, HUGE_PAGE_BYTES, PAGE_BYTES, Pages};
use crate::engine::sync::{AtomicPtr, Ordering};

/// Items of the first segment; each segment after the second has twice as many as the one before.
pub(super) const FIRST: usize = if cfg!(test) { 2 } else { 64 };
const SEGMENTS: usize = 40;

/// The segment that an item lies in.
#[inline(always)]
fn segment_of(index: usize) -> usize {
    // As many as the powers of two from `FIRST` to the index.
    (index | (FIRST - 1)).ilog2() as usize - (FIRST - 1).ilog2() as usize
}

/// The first item of a segment.
fn first_of(segment: usize) -> usize {
    match segment {
        0 => 0,
        _ => FIRST << (segment - 1),
    }
}

/// An array of `T` whose zeroes are values, changed by one thread and read by all.
pub(super) struct Segments<T> {
    /// Where item 0 would lie if the whole array were as its segment; null: not allocated yet.
    starts: [AtomicPtr<T>; SEGMENTS],
    items: PhantomData<T>,
}

impl<T> Segments<T> {
    pub const fn new() -> Self {
        Self {
            starts: [const { AtomicPtr::new(ptr::null_mut()) }; SEGMENTS],
            items: PhantomData,
        }
    }

    /// Where an item lies, whose segment has been [added](Segments::add).
    #[inline(always)]
    pub fn at(&self, index: usize) -> *mut T {
        // SAFETY: an index below 2^44.
        let start = unsafe { self.starts.get_unchecked(segment_of(index)) }.load(Ordering::Acquire);
        debug_assert!(!start.is_null());
        start.wrapping_add(index)
    }

    /// Sees to it that there is memory for an item: zeroed, and all but small segments become memory as they are used.
    /// By one thread at a time.
    pub fn add(&self, index: usize) {
        let segment = segment_of(index);
        if self.starts[segment].load(Ordering::Relaxed).is_null() {
            let start = new_segment(Self::layout(segment)).cast::<T>();
            let start = start.wrapping_sub(first_of(segment));
            self.starts[segment].store(start, Ordering::Release);
        }
    }

    fn layout(segment: usize) -> Layout {
        let items = FIRST << segment.saturating_sub(1);
        Layout::array::<T>(items).expect("a segment fits the address space")
    }
}

impl<T> Drop for Segments<T> {
    fn drop(&mut self) {
        for (segment, start) in self.starts.iter_mut().enumerate() {
            let start = *start.get_mut();
            if !start.is_null() {
                let start = start.wrapping_add(first_of(segment));
                // SAFETY: made by `add`; nobody else has the array any more.
                unsafe { free_segment(start.cast(), Self::layout(segment)) }
            }
        }
    }
}

fn new_segment(layout: Layout) -> *mut u8 {
    if layout.size() >= PAGE_BYTES {
        let pages = if layout.size() >= HUGE_PAGE_BYTES {
            Pages::Huge
        } else {
            Pages::Small
        };
        return pages::map(layout.size(), pages).as_ptr();
    }
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        handle_alloc_error(layout);
    }
    start
}

/// # Safety
/// The memory comes from [`new_segment`] with this layout, and nobody uses it any more.
unsafe fn free_segment(start: *mut u8, layout: Layout) {
    // SAFETY: by the caller's word; a null pointer never comes here.
    unsafe {
        if layout.size() >= PAGE_BYTES {
            pages::unmap(NonNull::new_unchecked(start), layout.size());
        } else {
            dealloc(start, layout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_a_place_of_its_own() {
        let mut next = vec![0; SEGMENTS];
        for index in 0..1 << 12 {
            let segment = segment_of(index);
            assert_eq!(index - first_of(segment), next[segment]);
            next[segment] += 1;
            assert!(next[segment] <= Segments::<u64>::layout(segment).size() / size_of::<u64>());
        }
    }

    #[test]
    fn items_stay_where_they_are_and_begin_as_zeroes() {
        let items = Segments::<u64>::new();
        let mut places = Vec::new();
        for index in 0..100_000 {
            items.add(index);
            let place = items.at(index);
            // SAFETY: an item of the array, which this thread alone uses.
            unsafe {
                assert_eq!(place.read(), 0);
                place.write(index as u64);
            }
            places.push(place);
        }
        for (index, place) in places.into_iter().enumerate() {
            assert_eq!(items.at(index), place);
            // SAFETY: as above.
            assert_eq!(unsafe { place.read() }, index as u64);
        }
    }
}
