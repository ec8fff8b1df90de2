//! Where a key lies: in one of 2^20 slots, which are what members own.

use twox_hash::XxHash3_64;

/// How many slots there are, however many members.
pub const SLOTS: usize = 1 << SLOT_BITS;

pub(super) const SLOT_BITS: u32 = 20;

/// The slot of a key: the upper bits of the key's xxh3, whose seed is the xxh3 of the group's name.
///
/// So no group and key are taken for others that read the same when written one after the other. It is the same on every
/// machine and in every version; it is no secret either, so whoever picks keys can aim at a slot.
#[inline]
pub fn slot(group: &[u8], key: &[u8]) -> usize {
    let seed = XxHash3_64::oneshot(group);
    (XxHash3_64::oneshot_with_seed(seed, key) >> (u64::BITS - SLOT_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_have_been_the_same_ever_since() {
        let long = [b'k'; 300];
        let keys: [(&str, &[u8]); 6] = [
            ("blobs", b"hello.txt"),
            ("blob", b"shello.txt"),
            ("blobs", b""),
            ("blobs", b"a"),
            ("blobs", &long[..200]),
            ("blobs", &long),
        ];
        let slots = keys.map(|(group, key)| slot(group.as_bytes(), key));
        assert_eq!(slots, [959_381, 646_594, 919_981, 260_705, 35_769, 599_035]);
    }
}
