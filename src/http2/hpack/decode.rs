//! Reads header blocks (RFC 7541, 6).

use std::cell::Cell;

use super::static_table::{self, Name};
use super::table::Table;
use super::{FIELD_OVERHEAD_BYTES, huffman, integer};

/// The block is not HPACK, or refers to what is not there: the connection has no common table any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Failed;

/// Why a block was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Unread {
    Failed,
    /// Its fields are so much longer than it is that only who wants to make work would send it.
    BlownUp,
}

impl From<Failed> for Unread {
    fn from(_: Failed) -> Self {
        Self::Failed
    }
}

/// What the fields of any block may have together, and what they may have more for each of its bytes. Huffman's code makes
/// five bytes eight, and what a client says again and again is short.
const FIELDS_FREE_BYTES: usize = 64 << 10;
const FIELDS_A_BYTE: usize = 8;
/// Buffers that have grown beyond this are given back after the block.
const KEPT_MAX_BYTES: usize = 4096;

/// A header field.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Field<'a> {
    pub kind: Name,
    pub name: &'a [u8],
    pub value: &'a [u8],
}

/// Reads the blocks of one connection, in their order.
pub(in super::super) struct Decoder {
    table: Table,
    /// The largest table that the other side may use.
    limit_bytes: usize,
    /// The next block has to begin with a size that holds to the limit.
    must_shrink: bool,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// With the table that each side has before it is told otherwise.
    pub fn new() -> Self {
        Self {
            table: Table::new(super::encode::DEFAULT_TABLE_BYTES),
            limit_bytes: super::encode::DEFAULT_TABLE_BYTES,
            must_shrink: false,
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// The other side has acknowledged how large its table may be.
    pub fn limit(&mut self, max_bytes: usize) {
        self.limit_bytes = max_bytes;
        self.must_shrink = self.table.max_bytes() > max_bytes;
    }

    /// Counts the changes of the table: with the same number, the same block means the same fields.
    pub fn version(&self) -> u64 {
        self.table.version()
    }

    /// Gives back what is only kept to be used again.
    pub fn shrink(&mut self) {
        self.name = Vec::new();
        self.value = Vec::new();
    }

    /// What is on the heap for the field that is being read.
    pub fn memory_bytes(&self) -> usize {
        self.name.capacity() + self.value.capacity()
    }

    /// Reads a block, and shows each of its fields to `visit` until their sizes exceed `list_max_bytes`. Returns their
    /// whole size. The table is kept whatever the size.
    pub fn decode(
        &mut self,
        block: &[u8],
        list_max_bytes: usize,
        visit: impl FnMut(Field<'_>),
    ) -> Result<usize, Unread> {
        let read = self.read_block(block, list_max_bytes, visit);
        for buffer in [&mut self.name, &mut self.value] {
            if buffer.capacity() > KEPT_MAX_BYTES {
                *buffer = Vec::new();
            }
        }
        read
    }

    fn read_block(
        &mut self,
        mut block: &[u8],
        list_max_bytes: usize,
        mut visit: impl FnMut(Field<'_>),
    ) -> Result<usize, Unread> {
        let most_bytes = FIELDS_FREE_BYTES + FIELDS_A_BYTE * block.len();
        let list_bytes = Cell::new(0);
        let mut show = |field: Field<'_>| {
            let field_bytes = field.name.len() + field.value.len() + FIELD_OVERHEAD_BYTES;
            list_bytes.set(list_bytes.get() + field_bytes);
            if list_bytes.get() <= list_max_bytes {
                visit(field);
            }
        };
        self.read_sizes(&mut block)?;
        while let Some(&first) = block.first() {
            if list_bytes.get() > most_bytes {
                return Err(Unread::BlownUp);
            }
            if first & 0x80 != 0 {
                let index = integer::take(&mut block, 7)?;
                let (kind, name, value) = self.get(index)?;
                show(Field { kind, name, value });
            } else if first & 0x40 != 0 {
                self.read_literal(&mut block, 6, true, &mut show)?;
            } else if first & 0x20 != 0 {
                return Err(Failed.into()); // a size, after a field
            } else {
                self.read_literal(&mut block, 4, false, &mut show)?;
            }
        }
        Ok(list_bytes.get())
    }

    #[cfg(test)]
    pub(super) fn table_bytes(&self) -> usize {
        self.table.size_bytes()
    }

    /// As if a block had begun with this size.
    #[cfg(test)]
    pub(super) fn resize_for_test(&mut self, max_bytes: usize) {
        self.table.resize(max_bytes);
        self.must_shrink = false;
    }

    fn get(&self, index: usize) -> Result<(Name, &[u8], &[u8]), Failed> {
        match index {
            0 => Err(Failed),
            1..=static_table::LEN => Ok(static_table::get(index)),
            _ => self.table.get(index - static_table::LEN - 1).ok_or(Failed),
        }
    }

    fn read_sizes(&mut self, block: &mut &[u8]) -> Result<(), Failed> {
        while let Some(0x20..0x40) = block.first() {
            let size_bytes = integer::take(block, 5)?;
            if size_bytes > self.limit_bytes {
                return Err(Failed);
            }
            self.table.resize(size_bytes);
            self.must_shrink = false;
        }
        if self.must_shrink {
            Err(Failed)
        } else {
            Ok(())
        }
    }

    fn read_literal(
        &mut self,
        block: &mut &[u8],
        prefix_bits: u32,
        is_added: bool,
        show: &mut impl FnMut(Field<'_>),
    ) -> Result<(), Failed> {
        let index = integer::take(block, prefix_bits)?;
        // A name from the table is copied, as its entry may leave for the new one.
        self.name.clear();
        match index {
            0 => read_string(block, &mut self.name)?,
            1..=static_table::LEN => self.name.extend_from_slice(static_table::get(index).1),
            _ => {
                let back = index - static_table::LEN - 1;
                let (_, name, _) = self.table.get(back).ok_or(Failed)?;
                self.name.extend_from_slice(name);
            }
        }
        self.value.clear();
        read_string(block, &mut self.value)?;
        let kind = Name::of(&self.name, &self.value);
        show(Field {
            kind,
            name: &self.name,
            value: &self.value,
        });
        if is_added {
            self.table.insert(kind, &self.name, &self.value);
        }
        Ok(())
    }
}

/// Reads a string literal (RFC 7541, 5.2) to the end of `out`.
fn read_string(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Failed> {
    let is_huffman = block.first().is_some_and(|first| first & 0x80 != 0);
    let len = integer::take(block, 7)?;
    let (text, rest) = block.split_at_checked(len).ok_or(Failed)?;
    *block = rest;
    if is_huffman {
        return huffman::decode(text, out);
    }
    out.extend_from_slice(text);
    Ok(())
}
