//! Header blocks that were read before. A client that makes the same call again and again sends the same few bytes, and as
//! long as its table has not changed they mean the same.

use super::head::Call;

/// A longer block is not worth to be remembered.
const BLOCK_MAX_BYTES: usize = 63;
const KNOWN_MAX: usize = 4;

#[derive(Default)]
pub(super) struct KnownHeads {
    /// The version of the table that all of them were read with.
    version: u64,
    known: Vec<Known>,
    /// Which is replaced next.
    next: usize,
}

struct Known {
    len: u8,
    block: [u8; BLOCK_MAX_BYTES],
    call: Call,
    content_length: Option<u64>,
}

impl KnownHeads {
    /// The call that a block begins, and the length of its content if it says so.
    pub fn find(&self, version: u64, block: &[u8]) -> Option<(Call, Option<u64>)> {
        if version != self.version {
            return None;
        }
        let found = self
            .known
            .iter()
            .find(|known| &known.block[..known.len.into()] == block)?;
        Some((found.call, found.content_length))
    }

    /// Remembers a block that was read without a change of the table.
    pub fn remember(
        &mut self,
        version: u64,
        block: &[u8],
        call: Call,
        content_length: Option<u64>,
    ) {
        if block.len() > BLOCK_MAX_BYTES {
            return;
        }
        if version != self.version {
            self.version = version;
            self.known.clear();
        }
        let mut known = Known {
            len: block.len() as u8,
            block: [0; BLOCK_MAX_BYTES],
            call,
            content_length,
        };
        known.block[..block.len()].copy_from_slice(block);
        if self.known.len() < KNOWN_MAX {
            self.known.push(known);
        } else {
            self.known[self.next] = known;
            self.next = (self.next + 1) % KNOWN_MAX;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::Method;
    use super::*;

    fn call(number: u16) -> Call {
        Call {
            method: Method::Unary(number),
            timeout: None,
        }
    }

    #[test]
    fn a_block_is_known_until_the_table_changes() {
        let mut heads = KnownHeads::default();
        heads.remember(1, b"a", call(1), None);
        heads.remember(1, b"ab", call(2), Some(7));
        assert_eq!(heads.find(1, b"a"), Some((call(1), None)));
        assert_eq!(heads.find(1, b"ab"), Some((call(2), Some(7))));
        assert_eq!(heads.find(1, b"b"), None);
        assert_eq!(heads.find(2, b"a"), None);
        heads.remember(2, b"ab", call(3), None);
        assert_eq!(heads.find(2, b"a"), None);
        assert_eq!(heads.find(2, b"ab"), Some((call(3), None)));
    }

    #[test]
    fn few_are_kept_and_none_that_is_long() {
        let mut heads = KnownHeads::default();
        heads.remember(0, &[7; BLOCK_MAX_BYTES + 1], call(0), None);
        for number in 0..100 {
            heads.remember(0, &[number as u8], call(number), None);
            let found = heads.find(0, &[number as u8]);
            assert_eq!(found, Some((call(number), None)));
        }
        assert_eq!(heads.known.len(), KNOWN_MAX);
    }
}
