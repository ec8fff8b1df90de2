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

/// Has memory that is in use moved to huge pages, where the system can do that at once (Linux 6.1).
pub(crate) fn make_huge(start: NonNull<u8>, bytes: usize) {
    system::ask_for_huge_pages(start, bytes);
    system::collapse(start, bytes);
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

#[cfg(unix)]
mod system {
    use super::{HUGE_PAGE_BYTES, NonNull};

    /// Maps a huge page more than is wanted, and cuts off what is not aligned.
    pub fn map(bytes: usize) -> Option<NonNull<u8>> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
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

    #[cfg(target_os = "linux")]
    pub fn collapse(start: NonNull<u8>, bytes: usize) {
        const MADV_COLLAPSE: libc::c_int = 25;
        // SAFETY: what lies there stays the same; a refusal changes nothing.
        unsafe { libc::madvise(start.as_ptr().cast(), bytes, MADV_COLLAPSE) };
    }

    #[cfg(not(target_os = "linux"))]
    pub fn ask_for_huge_pages(_start: NonNull<u8>, _bytes: usize) {}

    #[cfg(not(target_os = "linux"))]
    pub fn collapse(_start: NonNull<u8>, _bytes: usize) {}
}

#[cfg(not(unix))]
mod system {
    use super::{NonNull, layout};

    pub fn map(bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: the layout is not empty.
        NonNull::new(unsafe { std::alloc::alloc_zeroed(layout(bytes)) })
    }

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

    pub fn collapse(_start: NonNull<u8>, _bytes: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

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
            make_huge(start, bytes);
            for at in (0..bytes).step_by(4096) {
                // SAFETY: within the mapping.
                assert_eq!(unsafe { start.add(at).read() }, 1);
            }
            // SAFETY: mapped just now.
            unsafe { unmap(start, bytes) }
        }
    }
}
