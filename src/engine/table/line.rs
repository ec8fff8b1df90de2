//! A line of the table: one cache line, with twelve places for entries and a tag for each.
//!
//! ```text
//! line    | tags 0 to 7 | tags 8 to 11, link | place 0 | place 1 | ... | place 11 |    8, 8 and 12 times 4 bytes
//! tag     8 bits of the hash; 0 where the place is free
//! link    the number of the overflow line behind this one; 0: none
//! place   the name of an entry; 0: free
//! name    below 2^31 a distance in the arena's range, from 2^31 on the number of an entry that lies elsewhere
//! ```
//!
//! The places are the truth, and what a reader checks its announcement against; tags only say where to look. So an
//! entry's name is stored before its tag, and cleared in any order.

use crate::engine::sync::{AtomicU32, AtomicU64, Ordering};

/// Fewer for the model checker, so that its tables are small.
pub(super) const PLACES: usize = if cfg!(all(test, corecache_model)) {
    7
} else {
    12
};
const TAGS_A_WORD: usize = 8;
const LINK_SHIFT: u32 = 32;

#[repr(C, align(64))]
pub(super) struct Line {
    tags: [AtomicU64; 2],
    pub places: [AtomicU32; PLACES],
}

/// The tag of a hash.
#[inline(always)]
pub(super) fn tag_of(hash: u64) -> u8 {
    (hash >> 56) as u8
}

/// The tags of a line, and its link, as they were at one time.
#[derive(Clone, Copy)]
pub(super) struct Tags([u64; 2]);

impl Tags {
    /// The places whose tag is `tag`: all are compared at once, without a branch, since where an entry lies in its line is
    /// a coin toss that no predictor learns.
    #[inline(always)]
    pub fn matches(self, tag: u8) -> Matches {
        Matches(equal_bytes(self.0, tag) & ((1 << PLACES) - 1))
    }

    /// The number of the overflow line behind this one.
    #[inline(always)]
    pub fn link(self) -> Option<u32> {
        let number = (self.0[1] >> LINK_SHIFT) as u32;
        (number != 0).then_some(number)
    }

    pub fn tag(self, index: usize) -> u8 {
        (self.0[index / TAGS_A_WORD] >> shift_of(index)) as u8
    }
}

fn shift_of(index: usize) -> usize {
    index % TAGS_A_WORD * 8
}

/// A bit for each byte that is `byte`, the first byte's the lowest.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn equal_bytes(words: [u64; 2], byte: u8) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
    // SAFETY: every x86-64 has SSE2.
    unsafe {
        let words = _mm_set_epi64x(words[1] as i64, words[0] as i64);
        _mm_movemask_epi8(_mm_cmpeq_epi8(words, _mm_set1_epi8(byte as i8))) as u32
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn equal_bytes(words: [u64; 2], byte: u8) -> u32 {
    equal_bytes_of(words[0], byte) | equal_bytes_of(words[1], byte) << TAGS_A_WORD
}

#[cfg_attr(target_arch = "x86_64", cfg(test))]
#[inline(always)]
fn equal_bytes_of(word: u64, byte: u8) -> u32 {
    const EACH_BYTE: u64 = 0x0101_0101_0101_0101;
    const LOW_BITS: u64 = EACH_BYTE * 0x7f;
    let differs = word ^ (EACH_BYTE * u64::from(byte));
    // A byte is 0 if neither its lower bits carry into its highest one, nor that is set.
    let is_not_0 = ((differs & LOW_BITS) + LOW_BITS) | differs | LOW_BITS;
    // The lowest bits of the bytes side by side: each of the multiplier's bits brings one of them to the top byte.
    let lowest = !is_not_0 >> 7;
    (lowest.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
}

/// A bit for each tag that is the one of `hash`, in as few instructions as there can be.
#[cfg(all(target_arch = "x86_64", not(all(test, corecache_model))))]
#[inline(always)]
fn equal_tags(tags: &[AtomicU64; 2], hash: u64) -> u32 {
    use std::arch::asm;
    use std::arch::x86_64::{
        _mm_cvtsi64_si128, _mm_movemask_epi8, _mm_shufflehi_epi16, _mm_unpackhi_epi64,
        _mm_unpacklo_epi8,
    };
    // SAFETY: every x86-64 has SSE2; a line is aligned, as the comparison's operand in memory has to be. That is read as
    // two loads of a word each would: what depends on it comes after it, and the processor keeps loads in order.
    unsafe {
        let hash = _mm_cvtsi64_si128(hash as i64);
        let highest = _mm_shufflehi_epi16::<0xff>(_mm_unpacklo_epi8(hash, hash));
        let mut equal = _mm_unpackhi_epi64(highest, highest);
        asm!(
            "pcmpeqb {equal}, xmmword ptr [{tags}]",
            equal = inout(xmm_reg) equal,
            tags = in(reg) tags,
            options(nostack, readonly, preserves_flags)
        );
        _mm_movemask_epi8(equal) as u32
    }
}

#[cfg(not(all(target_arch = "x86_64", not(all(test, corecache_model)))))]
#[inline(always)]
fn equal_tags(tags: &[AtomicU64; 2], hash: u64) -> u32 {
    let words = [
        tags[0].load(Ordering::Acquire),
        tags[1].load(Ordering::Acquire),
    ];
    equal_bytes(words, tag_of(hash))
}

/// Places of a line, a bit for each.
pub(super) struct Matches(u32);

impl Iterator for Matches {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let index = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        Some(index as usize)
    }
}

impl Line {
    /// The first place whose tag is that of `hash`.
    #[inline(always)]
    pub fn first(&self, hash: u64) -> Option<usize> {
        let equal = equal_tags(&self.tags, hash) & ((1 << PLACES) - 1);
        (equal != 0).then(|| equal.trailing_zeros() as usize)
    }

    #[inline(always)]
    pub fn tags(&self) -> Tags {
        // Acquire: who sees a tag sees what lies at its place, and who sees a link what lies behind it.
        Tags([
            self.tags[0].load(Ordering::Acquire),
            self.tags[1].load(Ordering::Acquire),
        ])
    }

    /// Whether no place has an entry, for the writer.
    pub fn is_empty(&self) -> bool {
        let mut places = self.places.iter();
        places.all(|place| place.load(Ordering::Relaxed) == 0)
    }

    #[inline]
    pub fn set_tag(&self, index: usize, tag: u8) {
        let word = &self.tags[index / TAGS_A_WORD];
        let others = word.load(Ordering::Relaxed) & !(0xff << shift_of(index));
        word.store(
            others | u64::from(tag) << shift_of(index),
            Ordering::Release,
        );
    }

    pub fn set_link(&self, number: Option<u32>) {
        let tags = self.tags[1].load(Ordering::Relaxed) as u32;
        let link = u64::from(number.unwrap_or(0)) << LINK_SHIFT;
        // Release: the line behind this one is written before it can be found.
        self.tags[1].store(link | u64::from(tags), Ordering::Release);
    }
}

const _: () = assert!(size_of::<Line>() == 64);
const _: () = assert!(PLACES <= TAGS_A_WORD + LINK_SHIFT as usize / 8);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tags_match_where_they_are_equal(words in any::<[u64; 2]>(), few in 0u64..3, tag in any::<u8>()) {
            let close = words[0] & (0x0101_0101_0101_0101 * few) | u64::from(tag) << 24;
            for words in [words, [close, words[1]], [words[1], close]] {
                let tags = Tags(words);
                let bytes = [words[0].to_le_bytes(), words[1].to_le_bytes()].concat();
                let found: Vec<_> = tags.matches(tag).collect();
                let expected: Vec<_> = (0..PLACES).filter(|&index| bytes[index] == tag).collect();
                prop_assert_eq!(&found, &expected);
                let by_words = equal_bytes_of(words[0], tag) | equal_bytes_of(words[1], tag) << 8;
                prop_assert_eq!(by_words, equal_bytes(words, tag));
                let line = Line { tags: words.map(AtomicU64::new), places: Default::default() };
                prop_assert_eq!(line.first(u64::from(tag) << 56 | words[0] >> 8), expected.first().copied());
                prop_assert!((0..PLACES).all(|index| tags.tag(index) == bytes[index]));
            }
        }
    }

    #[test]
    fn a_link_and_the_tags_beside_it_leave_each_other_alone() {
        let line = Line {
            tags: Default::default(),
            places: std::array::from_fn(|_| AtomicU32::new(0)),
        };
        line.set_link(Some(u32::MAX));
        assert!((0..PLACES).all(|index| line.tags().tag(index) == 0));
        (0..PLACES).for_each(|index| line.set_tag(index, index as u8 + 1));
        assert_eq!(line.tags().link(), Some(u32::MAX));
        line.set_link(None);
        assert_eq!(line.tags().link(), None);
        assert!((0..PLACES).all(|index| line.tags().tag(index) == index as u8 + 1));
        assert!(line.is_empty());
        line.places[PLACES - 1].store(1, Ordering::Relaxed);
        assert!(!line.is_empty());
    }
}
