//! Writes header blocks. The only fields that are worth a place in the other side's table are the two of each answer: a
//! reply is then three bytes of headers and one of trailers.

use super::{FIELD_OVERHEAD_BYTES, huffman, integer, static_table};

/// The size of a table before anything is said about it.
pub(super) const DEFAULT_TABLE_BYTES: usize = 4096;

/// `:status: 200`, in the static table.
const OK: u8 = 0x80 | 8;
const CONTENT_TYPE_INDEX: usize = 31;
const CONTENT_TYPE: (&[u8], &[u8]) = (b"content-type", b"application/grpc");
const GRPC_STATUS_OK: (&[u8], &[u8]) = (b"grpc-status", b"0");

/// What both fields take in a table.
const NEEDED_BYTES: usize = size_bytes(CONTENT_TYPE) + size_bytes(GRPC_STATUS_OK);

const fn size_bytes((name, value): (&[u8], &[u8])) -> usize {
    name.len() + value.len() + FIELD_OVERHEAD_BYTES
}

/// Writes the blocks of one connection's answers, in their order.
pub(in super::super) struct Encoder {
    /// The other side's table has room for our two fields.
    has_table: bool,
    /// What has to be said about the size of the table before the next block: the least that was asked for, and the last.
    sizes: Option<(usize, usize)>,
    /// How many fields were added before each of ours.
    content_type: Option<usize>,
    status_ok: Option<usize>,
    added: usize,
}

impl Encoder {
    pub fn new() -> Self {
        Self {
            has_table: true,
            sizes: None,
            content_type: None,
            status_ok: None,
            added: 0,
        }
    }

    /// Both fields are in the table, and there is nothing to say about its size: all blocks of one kind are the same now.
    pub fn is_settled(&self) -> bool {
        self.sizes.is_none()
            && (self.content_type.is_some() && self.status_ok.is_some() || !self.has_table)
    }

    /// The other side says how large its table may be.
    pub fn limit(&mut self, max_bytes: usize) {
        let used = max_bytes.min(DEFAULT_TABLE_BYTES);
        let least = self.sizes.map_or(used, |(least, _)| least.min(used));
        self.sizes = Some((least, used));
        if least < NEEDED_BYTES {
            // The table is emptied, or has no room for all.
            (self.content_type, self.status_ok, self.added) = (None, None, 0);
            self.sizes = Some((0, used));
        }
        self.has_table = used >= NEEDED_BYTES;
    }

    /// The headers of an answer: status 200 and gRPC's content type.
    pub fn put_headers(&mut self, out: &mut Vec<u8>) {
        self.put_sizes(out);
        out.push(OK);
        self.content_type = self.put_ours(out, self.content_type, CONTENT_TYPE_INDEX, CONTENT_TYPE);
    }

    /// The trailers of an answer that is complete.
    pub fn put_trailers(&mut self, out: &mut Vec<u8>) {
        self.put_sizes(out);
        self.status_ok = self.put_ours(out, self.status_ok, 0, GRPC_STATUS_OK);
    }

    /// What has to stand at the beginning of a block.
    pub fn put_sizes(&mut self, out: &mut Vec<u8>) {
        if let Some((least, last)) = self.sizes.take() {
            if least != last {
                integer::put(out, 0x20, 5, least);
            }
            integer::put(out, 0x20, 5, last);
        }
    }

    fn put_ours(
        &mut self,
        out: &mut Vec<u8>,
        known: Option<usize>,
        name_index: usize,
        field: (&[u8], &[u8]),
    ) -> Option<usize> {
        if let Some(before) = known {
            let index = static_table::LEN + self.added - before;
            integer::put(out, 0x80, 7, index);
            return known;
        }
        if !self.has_table {
            put_literal(out, 0, 4, name_index, field);
            return None;
        }
        put_literal(out, 0x40, 6, name_index, field);
        self.added += 1;
        Some(self.added - 1)
    }
}

/// Appends a field that is not added to the table.
pub(in super::super) fn field_without_index(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let index = (1..=static_table::LEN).find(|index| static_table::get(*index).1 == name);
    put_literal(out, 0, 4, index.unwrap_or(0), (name, value));
}

fn put_literal(
    out: &mut Vec<u8>,
    pattern: u8,
    prefix_bits: u32,
    name_index: usize,
    (name, value): (&[u8], &[u8]),
) {
    integer::put(out, pattern, prefix_bits, name_index);
    if name_index == 0 {
        put_string(out, name);
    }
    put_string(out, value);
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    let huffman_len = huffman::encoded_len(text);
    if huffman_len < text.len() {
        integer::put(out, 0x80, 7, huffman_len);
        huffman::encode(text, out);
    } else {
        integer::put(out, 0, 7, text.len());
        out.extend_from_slice(text);
    }
}
