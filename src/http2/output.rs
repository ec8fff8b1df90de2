//! What is to be written: frames in one buffer, and between them parts of messages that are kept elsewhere.

use std::collections::VecDeque;

use super::call::Body;

/// A part of a message that is shorter is copied: it would cost more as a piece of its own.
pub(super) const COPY_MAX_BYTES: usize = 4096;
/// A buffer that has grown beyond this is given back when it is empty.
const KEPT_MAX_BYTES: usize = 512 << 10;
/// Written bytes that may lie before others in the buffer.
const TAKEN_MAX_BYTES: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Output {
    /// Frames, to which all may append.
    pub bytes: Vec<u8>,
    /// So many of the bytes were written.
    taken: usize,
    inserts: VecDeque<Insert>,
    inserted_bytes: usize,
}

/// A part of a message, to be written when `at` bytes of the buffer have been.
struct Insert {
    at: usize,
    body: Body,
    from: usize,
    to: usize,
}

impl Output {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.taken + self.inserted_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a part of a message.
    pub fn put(&mut self, body: &Body, from: usize, to: usize) {
        if to - from <= COPY_MAX_BYTES {
            self.bytes
                .extend_from_slice(&body.as_ref().as_ref()[from..to]);
            return;
        }
        self.inserted_bytes += to - from;
        self.inserts.push_back(Insert {
            at: self.bytes.len(),
            body: body.clone(),
            from,
            to,
        });
    }

    /// All that is to be written, in order; no piece is empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = self.taken;
        let mut inserts = self.inserts.iter();
        let mut insert = inserts.next();
        std::iter::from_fn(move || {
            let to = insert.map_or(self.bytes.len(), |insert| insert.at);
            if from < to {
                let piece = &self.bytes[from..to];
                from = to;
                return Some(piece);
            }
            let found = insert?;
            insert = inserts.next();
            Some(&found.body.as_ref().as_ref()[found.from..found.to])
        })
    }

    /// So many bytes of the pieces were written.
    pub fn written(&mut self, len: usize) {
        debug_assert!(len <= self.len());
        self.take(len);
        if self.taken == self.bytes.len() && self.inserts.is_empty() {
            self.bytes.clear();
            if self.bytes.capacity() > KEPT_MAX_BYTES {
                self.bytes = Vec::new();
            }
            self.taken = 0;
        } else if self.taken >= TAKEN_MAX_BYTES && self.taken * 2 >= self.bytes.len() {
            self.bytes.drain(..self.taken);
            for insert in &mut self.inserts {
                insert.at -= self.taken;
            }
            self.taken = 0;
        }
    }

    fn take(&mut self, mut len: usize) {
        while let Some(insert) = self.inserts.front_mut() {
            let before = insert.at - self.taken;
            if len < before {
                break;
            }
            self.taken += before;
            let part = (len - before).min(insert.to - insert.from);
            insert.from += part;
            self.inserted_bytes -= part;
            len -= before + part;
            if insert.from < insert.to {
                return;
            }
            self.inserts.pop_front();
        }
        self.taken += len;
    }

    /// Gives back the buffer, if nothing is in it.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn all(output: &Output) -> Vec<u8> {
        let pieces: Vec<_> = output.pieces().collect();
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        pieces.concat()
    }

    proptest! {
        /// Whatever is written in whatever portions comes out in the order in which it went in.
        #[test]
        fn it_is_a_queue(steps in prop::collection::vec((0..20_000usize, any::<bool>(), 0..40_000usize), 1..60)) {
            let mut output = Output::default();
            let mut expected = VecDeque::new();
            for (number, (len, is_body, written)) in steps.into_iter().enumerate() {
                let part = vec![number as u8; len];
                expected.extend(&part);
                if is_body {
                    let body: Body = Arc::new([&b"xx"[..], &part, b"x"].concat());
                    output.put(&body, 2, 2 + len);
                } else {
                    output.bytes.extend_from_slice(&part);
                }
                let written = written.min(output.len());
                prop_assert_eq!(all(&output), expected.make_contiguous());
                output.written(written);
                expected.drain(..written);
                prop_assert_eq!(output.len(), expected.len());
                prop_assert!(output.taken < TAKEN_MAX_BYTES.max(output.bytes.len() / 2 + 1));
            }
        }
    }
}
