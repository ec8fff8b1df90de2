//! HPACK (RFC 7541): how header fields are written in HTTP/2.

mod decode;
mod encode;
mod huffman;
mod integer;
mod static_table;
mod table;
#[cfg(test)]
mod tests;

pub(super) use decode::{Decoder, Field, Unread};
pub(super) use encode::{Encoder, field_without_index};
pub(super) use static_table::Name;

/// What a field costs in a table or a list beyond its name and value.
const FIELD_OVERHEAD_BYTES: usize = 32;
