//! Memory straight from the system: zeroed, aligned to huge pages, and in huge pages where that pays.
//!
//! At a million entries most of a hit is waiting for memory, and much of that for the page tables. Pages of 2 MiB
//! leave 512 times fewer of them to walk. They are asked for (`madvise`), as most systems give them to those who ask
//! only; where there are none, everything works as it does without.

use std::alloc::Layout;
use std::ptr::NonNull;

/// The size of a huge page on x86-64, and on aarch64 with pages of 4 KiB.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// How the pages are to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Each becomes memory when it is written to.
    Small,
    /// As above, but in pieces of [`HUGE_PAGE_BYTES`].
    Huge,
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, HUGE_PAGE_BYTES).expect("a mapping fits the address space")
}

/// The least that can be mapped, and given back: a page of any system.
pub(crate) const PAGE_BYTES: usize = 64 << 10;

/// Zeroed memory, aligned to [`HUGE_PAGE_BYTES`]; `bytes` is a multiple of [`PAGE_BYTES`].
pub(crate) fn map(bytes: usize, pages: Pages) -> NonNull<u8> {
    debug_assert!(bytes > 0 && bytes.is_multiple_of(PAGE_BYTES));
    let Some(start) = system::map(bytes) else {
        std::alloc::handle_alloc_error(layout(bytes));
    };
    if pages == Pages::Huge {
        system::ask_for_huge_pages(start, bytes);
    }
    start
}

/// Gives the memory of pages back that stay mapped. What is read there from now on is zeroes, or what there was.
///
/// # Safety
/// The pages lie in a mapping from [`map`], and nobody needs what they hold.
pub(crate) unsafe fn discard(start: NonNull<u8>, bytes: usize) {
    // SAFETY: by the caller's word.
    unsafe { system::discard(start, bytes) }
}

/// Gives memory back.
///
/// # Safety
/// `start` comes from [`map`] with as many `bytes`, is given back once, and nothing refers to it any more.
pub(crate) unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
    // SAFETY: by the caller's word.
    unsafe { system::unmap(start, bytes) }
}

/// A type of which all zeroes are the default value.
///
/// # Safety
/// They have to be.
pub(crate) unsafe trait AllZeroes: Default {}

/// A slice of default values that become memory when they are written to, if the slice is large.
pub(crate) struct Zeroed<T> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: as a box of a slice.
unsafe impl<T: Send> Send for Zeroed<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Zeroed<T> {}

impl<T: AllZeroes> Zeroed<T> {
    pub fn new(len: usize) -> Self {
        const { assert!(align_of::<T>() <= PAGE_BYTES) };
        let layout = Self::layout(len);
        let start = match layout.size() {
            0 => NonNull::dangling(),
            PAGE_BYTES.. => map(layout.size().next_multiple_of(PAGE_BYTES), Pages::Small).cast(),
            // SAFETY: the layout is not empty.
            _ => NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }.cast())
                .unwrap_or_else(|| std::alloc::handle_alloc_error(layout)),
        };
        Self { start, len }
    }
}

impl<T> Zeroed<T> {
    fn layout(len: usize) -> Layout {
        Layout::array::<T>(len).expect("a slice fits the address space")
    }
}

impl<T> Drop for Zeroed<T> {
    fn drop(&mut self) {
        let layout = Self::layout(self.len);
        let values = std::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len);
        let start = self.start.cast();
        // SAFETY: so many values, allocated by `new` in the same way; nobody refers to them any more.
        unsafe {
            values.drop_in_place();
            match layout.size() {
                0 => {}
                PAGE_BYTES.. => unmap(start, layout.size().next_multiple_of(PAGE_BYTES)),
                _ => std::alloc::dealloc(start.as_ptr(), layout),
            }
        }
    }
}

impl<T> std::ops::Deref for Zeroed<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: so many values, which zeroes are by the trait that `new` asks for.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

/// A range of addresses of our own, of which parts are made memory: what lies in it has a short name, its distance from
/// the start.
pub(crate) struct Reservation {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the addresses are the process's.
unsafe impl Send for Reservation {}
// SAFETY: as above; to make memory of a part is a call to the system.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Takes `bytes` of addresses, aligned to [`HUGE_PAGE_BYTES`], and no memory yet. None where the process may have so
    /// many only (`RLIMIT_AS`): what is set aside counts there as if it were used.
    pub fn take(bytes: usize) -> Option<Self> {
        let start = system::reserve(bytes)?;
        Some(Self { start, bytes })
    }

    /// The first address.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How many addresses there are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes memory of the `bytes` from `at` on, both multiples of [`PAGE_BYTES`]; none if the system has no more.
    pub fn commit(&self, at: usize, bytes: usize, pages: Pages) -> Option<NonNull<u8>> {
        assert!(at.checked_add(bytes).is_some_and(|end| end <= self.bytes));
        // SAFETY: within the range.
        let start = unsafe { self.start.add(at) };
        if !system::commit(start, bytes) {
            return None;
        }
        if pages == Pages::Huge {
            system::ask_for_huge_pages(start, bytes);
        }
        Some(start)
    }

    /// Gives the memory of a part back; its addresses stay ours.
    ///
    /// # Safety
    /// Nothing refers to what lies there any more.
    pub unsafe fn decommit(&self, start: NonNull<u8>, bytes: usize) {
        // SAFETY: by the caller's word.
        unsafe { system::decommit(start, bytes) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: whoever made memory of a part lets no reference to it outlive the range.
        unsafe { system::unmap(self.start, self.bytes) }
    }
}

#[cfg(unix)]
mod system {
    use super::{HUGE_PAGE_BYTES, NonNull};

    const MEMORY: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

    pub fn map(bytes: usize) -> Option<NonNull<u8>> {
        map_aligned(bytes, MEMORY, 0)
    }

    pub fn reserve(bytes: usize) -> Option<NonNull<u8>> {
        if has_limit() {
            return None;
        }
        map_aligned(bytes, libc::PROT_NONE, libc::MAP_NORESERVE)
    }

    fn has_limit() -> bool {
        let mut limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: writes to what it is given.
        unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) };
        limit.rlim_cur != libc::RLIM_INFINITY
    }

    /// Maps a huge page more than is wanted, and cuts off what is not aligned.
    fn map_aligned(
        bytes: usize,
        protection: libc::c_int,
        flags: libc::c_int,
    ) -> Option<NonNull<u8>> {
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let whole = bytes + HUGE_PAGE_BYTES;
        // SAFETY: a new mapping, which touches no memory that is there.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), whole, protection, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return None;
        }
        let head = mapped.align_offset(HUGE_PAGE_BYTES);
        let start = mapped.wrapping_byte_add(head);
        let end = start.wrapping_byte_add(bytes);
        // SAFETY: both ends lie in the new mapping, outside of what is handed out.
        unsafe {
            if head > 0 {
                libc::munmap(mapped, head);
            }
            libc::munmap(end, HUGE_PAGE_BYTES - head);
        }
        NonNull::new(start.cast())
    }

    pub fn commit(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: addresses of our own that are no memory yet.
        unsafe { libc::mprotect(start.as_ptr().cast(), bytes, MEMORY) == 0 }
    }

    /// # Safety
    /// As for [`super::Reservation::decommit`].
    pub unsafe fn decommit(start: NonNull<u8>, bytes: usize) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: by the caller's word; a new mapping in the old one's place also takes its advice back.
        let mapped =
            unsafe { libc::mmap(start.as_ptr().cast(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            // The process has as many mappings as it may. The old one stands, and gives its memory back at least.
            // SAFETY: by the caller's word.
            unsafe { discard(start, bytes) }
        }
    }

    /// # Safety
    /// As for [`super::unmap`].
    pub unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
        // SAFETY: by the caller's word.
        unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
    }

    #[cfg(target_os = "linux")]
    pub fn ask_for_huge_pages(start: NonNull<u8>, bytes: usize) {
        // SAFETY: advice on a mapping of our own; a refusal changes nothing.
        unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    }

    /// # Safety
    /// As for [`super::discard`].
    pub unsafe fn discard(start: NonNull<u8>, bytes: usize) {
        // SAFETY: by the caller's word.
        unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTNEED) };
    }

    #[cfg(not(target_os = "linux"))]
    pub fn ask_for_huge_pages(_start: NonNull<u8>, _bytes: usize) {}
}

#[cfg(not(unix))]
mod system {
    use super::{NonNull, layout};

    pub fn map(bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: the layout is not empty.
        NonNull::new(unsafe { std::alloc::alloc_zeroed(layout(bytes)) })
    }

    pub fn reserve(_bytes: usize) -> Option<NonNull<u8>> {
        None
    }

    pub fn commit(_start: NonNull<u8>, _bytes: usize) -> bool {
        false
    }

    /// # Safety
    /// As for [`super::Reservation::decommit`].
    pub unsafe fn decommit(_start: NonNull<u8>, _bytes: usize) {}

    /// # Safety
    /// As for [`super::unmap`].
    pub unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(start.as_ptr(), layout(bytes)) }
    }

    /// # Safety
    /// As for [`super::discard`].
    pub unsafe fn discard(_start: NonNull<u8>, _bytes: usize) {}

    pub fn ask_for_huge_pages(_start: NonNull<u8>, _bytes: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_part_of_a_reservation_is_memory_until_it_is_given_back() {
        let reservation = Reservation::take(8 * HUGE_PAGE_BYTES).unwrap();
        for _ in 0..2 {
            let start = reservation.commit(HUGE_PAGE_BYTES, HUGE_PAGE_BYTES, Pages::Huge);
            let start = start.expect("2 MiB are to be had");
            assert_eq!(start.as_ptr().align_offset(HUGE_PAGE_BYTES), 0);
            // SAFETY: within what was committed; nothing refers to it after.
            unsafe {
                start.write_bytes(1, HUGE_PAGE_BYTES);
                reservation.decommit(start, HUGE_PAGE_BYTES);
            }
        }
        assert!(Reservation::take(1 << 60).is_none());
    }

    // SAFETY: 0 is its default value.
    unsafe impl AllZeroes for u64 {}

    #[test]
    fn what_is_zeroed_is_a_slice_of_default_values_however_long() {
        for len in [0, 1, 1000, 100_000] {
            let numbers = Zeroed::<u64>::new(len);
            assert_eq!(numbers.len(), len);
            assert!(numbers.iter().all(|&number| number == 0));
        }
    }

    #[test]
    fn a_mapping_is_zeroed_aligned_and_ours() {
        for pages in [Pages::Small, Pages::Huge] {
            let bytes = 3 * HUGE_PAGE_BYTES;
            let start = map(bytes, pages);
            assert_eq!(start.as_ptr().align_offset(HUGE_PAGE_BYTES), 0);
            for at in (0..bytes).step_by(4096).chain([bytes - 1]) {
                // SAFETY: within the mapping.
                unsafe {
                    let byte = start.add(at);
                    assert_eq!(byte.read(), 0);
                    byte.write(1);
                }
            }
            // SAFETY: mapped just now.
            unsafe { unmap(start, bytes) }
        }
    }
}
