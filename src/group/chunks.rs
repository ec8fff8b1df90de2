//! The shape in which a node stores a value that is too large for a unary reply: in chunks, each of them an encoded
//! `Chunk { bytes data = 1; }` of `cache.proto`, so that a stream sends them as they lie in memory.
//!
//! ```text
//! | head | 1 MiB of the value | head | 1 MiB of it | ... | head | what is left |
//! ```
//!
//! A head takes four bytes, the tag and the length of 1 MiB; that of the last chunk may be shorter, and then stands at
//! the end of its four. A value that is small enough lies in one piece (see `frame`), and is an encoded `Chunk` as well.

#[cfg(any(test, feature = "server"))]
use std::ops::Range;

use super::frame;

/// The bytes of the value in each chunk but the last.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
const HEAD_BYTES: usize = 4;
const STRIDE_BYTES: usize = HEAD_BYTES + CHUNK_BYTES;

/// The head of a full chunk: field 1, and the length as a varint.
pub(super) const FULL_HEAD: [u8; HEAD_BYTES] = [0x0a, 0x80, 0x80, 0x40];

/// The bytes that a value of `len_bytes` takes in chunks, without the first head.
pub(super) fn stored_bytes(len_bytes: usize) -> usize {
    len_bytes + len_bytes.saturating_sub(1) / CHUNK_BYTES * HEAD_BYTES
}

/// The largest value that takes so many bytes in chunks, or fewer.
pub(super) fn largest_within(frame_bytes: usize) -> usize {
    let rest = frame_bytes % STRIDE_BYTES;
    frame_bytes / STRIDE_BYTES * CHUNK_BYTES + rest.saturating_sub(HEAD_BYTES)
}

/// Takes a value apart that lies in one piece at the start of `stored`, and has `len_bytes`; the rest of `stored` is the
/// room for the heads.
pub(super) fn take_apart(stored: &mut [u8], len_bytes: usize) {
    debug_assert_eq!(stored.len(), stored_bytes(len_bytes));
    let chunks = len_bytes.div_ceil(CHUNK_BYTES);
    for chunk in (1..chunks).rev() {
        let from = chunk * CHUNK_BYTES;
        let to = chunk * STRIDE_BYTES;
        stored.copy_within(from..len_bytes.min(from + CHUNK_BYTES), to);
        stored[to - HEAD_BYTES..to].copy_from_slice(&FULL_HEAD);
    }
}

/// Writes the head of the last chunk of a value of `len_bytes`, which is not the only one.
pub(super) fn end(stored: &mut [u8], len_bytes: usize) {
    let last = (len_bytes - 1) / CHUNK_BYTES;
    let (head, used) = frame::prefix(len_bytes - last * CHUNK_BYTES);
    let data = last * STRIDE_BYTES;
    stored[data - used..data].copy_from_slice(&head[..used]);
}

/// A part of a stored value that is a message of its own.
#[cfg(any(test, feature = "server"))]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Where its bytes begin in the value.
    pub at: usize,
    /// Where they lie in what is stored.
    pub data: Range<usize>,
    /// Where the message lies, its head and them.
    pub message: Range<usize>,
}

/// The bytes that a stored value has.
#[cfg(any(test, feature = "server"))]
pub(crate) fn value_len(stored: &[u8]) -> usize {
    if frame::is_whole(stored) {
        frame::value(stored).len()
    } else {
        largest_within(stored.len())
    }
}

/// The chunk of a stored value that has its byte `at`.
#[cfg(any(test, feature = "server"))]
pub(crate) fn chunk_with(stored: &[u8], at: usize) -> Chunk {
    let end = stored.len();
    if frame::is_whole(stored) {
        let head = end - frame::value(stored).len();
        return Chunk {
            at: 0,
            data: head..end,
            message: 0..end,
        };
    }
    let chunk = at / CHUNK_BYTES;
    let data = chunk * STRIDE_BYTES + HEAD_BYTES;
    let data = data..end.min(data + CHUNK_BYTES);
    let (_, head) = frame::prefix(data.len());
    Chunk {
        at: chunk * CHUNK_BYTES,
        message: data.start - head..data.end,
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_head_is_that_of_a_full_chunk() {
        assert_eq!(frame::prefix(CHUNK_BYTES).0[..HEAD_BYTES], FULL_HEAD);
        assert_eq!(frame::prefix(CHUNK_BYTES).1, HEAD_BYTES);
    }

    #[test]
    fn the_largest_value_within_some_bytes_takes_no_more() {
        for len in [1, 2, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 1 << 30] {
            let bytes = HEAD_BYTES + stored_bytes(len);
            assert_eq!(largest_within(bytes), len);
            assert_eq!(largest_within(bytes - 1), len - 1);
        }
    }
}
