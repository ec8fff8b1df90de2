//! What a saved cache looks like. All numbers are little-endian; a crc is the CRC-32 of zip and Ethernet.
//!
//! ```text
//! file     head | chunk | chunk | ... | end
//! head     "corewarm" | version u32 | when it was saved, ns since 1970, u64 | crc u32 of all this
//! chunk    payload's length u32 | its entries u32 | their rank u32 | crc u32 of all this and the payload | payload
//! payload  for each entry: ns it had left, u64 | key's length u32 | value's length u32 | key | value
//! end      a chunk of rank 2^32 - 1 without entries; its payload: entries in the file u64 | crc u32 of all crcs before
//! ```
//!
//! The head is the same in every version. An entry that does not expire has 2^64 - 1 ns left. Entries of one rank are as much worth, those of a higher rank
//! more; see [`rank_of`]. A chunk has entries of one rank, 64 KiB of them or a single larger one, so that a file is
//! written in one go, and read from the most valuable entries to the least.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

use super::RestoreError;
use crate::engine::entry::Header;
use crate::engine::policy::{COUNTER_TOP, TwoClocks};

const MAGIC: &[u8; 8] = b"corewarm";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 24;
const CHUNK_HEAD_BYTES: usize = 16;
const RECORD_HEAD_BYTES: usize = 16;
const END: u32 = u32::MAX;
const RANKS: usize = 2 * (COUNTER_TOP as usize + 1);
const CHUNK_BYTES: usize = 64 << 10;
/// The most that key and value have together, in bytes.
const ENTRY_MAX_BYTES: usize = 1 << 31;

/// By hits first: of two that have been hit as often, the one in the main queue has proved itself before.
pub fn rank_of(header: &Header) -> u8 {
    2 * header.counter() + u8::from(TwoClocks::is_main(header.place()))
}

/// The counter of an entry of this rank.
pub fn counter_of(rank: u8) -> u8 {
    rank / 2
}

#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// `u64::MAX`: it does not expire.
    pub left_ns: u64,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes a record off the front.
    fn split_from(payload: &mut &'a [u8]) -> Option<Self> {
        let left_ns = take_u64(payload)?;
        let key_bytes = take_u32(payload)? as usize;
        let value_bytes = take_u32(payload)? as usize;
        let (key, rest) = payload.split_at_checked(key_bytes)?;
        let (value, rest) = rest.split_at_checked(value_bytes)?;
        *payload = rest;
        Some(Self {
            left_ns,
            key,
            value,
        })
    }
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

/// Sorts records into chunks, one for each rank, and writes those that are full.
pub struct Writer<W> {
    out: W,
    /// With room for the chunk's head in front.
    chunks: [Vec<u8>; RANKS],
    counts: [u32; RANKS],
    crcs: Hasher,
    pub entries: u64,
    pub bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the head.
    pub fn begin(mut out: W, saved_at_ns: u64) -> io::Result<Self> {
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend(saved_at_ns.to_le_bytes());
        let crc = crc32fast::hash(&head).to_le_bytes();
        head.extend(crc);
        out.write_all(&head)?;
        let mut crcs = Hasher::new();
        crcs.update(&crc);
        Ok(Self {
            out,
            chunks: [const { Vec::new() }; RANKS],
            counts: [0; RANKS],
            crcs,
            entries: 0,
            bytes: head.len() as u64,
        })
    }

    /// Adds an entry; false if it is too large.
    pub fn add(&mut self, rank: u8, record: &Record) -> io::Result<bool> {
        let entry_bytes = record.key.len().saturating_add(record.value.len());
        if entry_bytes > ENTRY_MAX_BYTES {
            return Ok(false);
        }
        let rank = usize::from(rank);
        let record_bytes = RECORD_HEAD_BYTES + entry_bytes;
        if self.chunks[rank].len() + record_bytes > CHUNK_BYTES {
            self.write_chunk(rank)?;
        }
        let chunk = &mut self.chunks[rank];
        if chunk.is_empty() {
            chunk.extend([0; CHUNK_HEAD_BYTES]);
        }
        chunk.reserve(record_bytes);
        chunk.extend(record.left_ns.to_le_bytes());
        chunk.extend((record.key.len() as u32).to_le_bytes());
        chunk.extend((record.value.len() as u32).to_le_bytes());
        chunk.extend(record.key);
        chunk.extend(record.value);
        self.counts[rank] += 1;
        self.entries += 1;
        Ok(true)
    }

    fn write_chunk(&mut self, rank: usize) -> io::Result<()> {
        let count = std::mem::take(&mut self.counts[rank]);
        if count > 0 {
            let mut chunk = std::mem::take(&mut self.chunks[rank]);
            self.write(&mut chunk, count, rank as u32)?;
            // What a large entry took is not kept.
            chunk.clear();
            chunk.shrink_to(2 * CHUNK_BYTES);
            self.chunks[rank] = chunk;
        }
        Ok(())
    }

    fn write(&mut self, chunk: &mut [u8], entries: u32, rank: u32) -> io::Result<()> {
        let payload_bytes = (chunk.len() - CHUNK_HEAD_BYTES) as u32;
        chunk[..4].copy_from_slice(&payload_bytes.to_le_bytes());
        chunk[4..8].copy_from_slice(&entries.to_le_bytes());
        chunk[8..12].copy_from_slice(&rank.to_le_bytes());
        let crc = crc_of_chunk(&chunk[..12], &chunk[CHUNK_HEAD_BYTES..]).to_le_bytes();
        chunk[12..16].copy_from_slice(&crc);
        self.crcs.update(&crc);
        self.bytes += chunk.len() as u64;
        self.out.write_all(chunk)
    }

    /// Writes what is left, and the end.
    pub fn end(&mut self) -> io::Result<()> {
        (0..RANKS).try_for_each(|rank| self.write_chunk(rank))?;
        let mut end = vec![0; CHUNK_HEAD_BYTES];
        end.extend(self.entries.to_le_bytes());
        end.extend(self.crcs.clone().finalize().to_le_bytes());
        self.write(&mut end, 0, END)
    }
}

fn crc_of_chunk(head: &[u8], payload: &[u8]) -> u32 {
    let mut crc = Hasher::new();
    crc.update(head);
    crc.update(payload);
    crc.finalize()
}

struct ChunkHead {
    entries: u32,
    rank: u32,
    crc: u32,
}

/// A file that has been read once from its beginning to its end, and found whole.
pub struct Reader {
    path: PathBuf,
    file: File,
    file_bytes: u64,
    pub saved_at_ns: u64,
    /// Where the chunks of each rank begin.
    chunks: [Vec<u64>; RANKS],
    payload: Vec<u8>,
}

impl Reader {
    pub fn open(path: &Path) -> Result<Self, RestoreError> {
        let unreadable = |source: io::Error| RestoreError::unreadable(path, source);
        // Opening a pipe would wait for its other end.
        let metadata = fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            let path = path.to_owned();
            return Err(RestoreError::NotSaved { path });
        }
        let file = File::open(path).map_err(unreadable)?;
        let mut reader = Self {
            path: path.to_owned(),
            file_bytes: file.metadata().map_err(unreadable)?.len(),
            file,
            saved_at_ns: 0,
            chunks: [const { Vec::new() }; RANKS],
            payload: Vec::new(),
        };
        reader.verify()?;
        Ok(reader)
    }

    fn verify(&mut self) -> Result<(), RestoreError> {
        let mut crcs = Hasher::new();
        crcs.update(&self.read_head()?.to_le_bytes());
        let (mut at, mut entries) = (HEAD_BYTES as u64, 0);
        loop {
            let head = self.read_chunk(at)?;
            let next = at + (CHUNK_HEAD_BYTES + self.payload.len()) as u64;
            if head.rank == END {
                return self.verify_end(at, next, entries, crcs.finalize());
            }
            let Some(chunks) = self.chunks.get_mut(head.rank as usize) else {
                return Err(self.damaged(at, "a chunk has a rank that there is not"));
            };
            chunks.push(at);
            if !is_made_of(&self.payload, head.entries) {
                return Err(self.damaged(at, "the entries of a chunk do not fill it"));
            }
            crcs.update(&head.crc.to_le_bytes());
            entries += u64::from(head.entries);
            at = next;
        }
    }

    fn verify_end(&self, at: u64, end: u64, entries: u64, crc: u32) -> Result<(), RestoreError> {
        let mut payload = &self.payload[..];
        let said = (take_u64(&mut payload), take_u32(&mut payload));
        if said != (Some(entries), Some(crc)) || !payload.is_empty() {
            return Err(self.damaged(at, "it has not the chunks that its end speaks of"));
        }
        if end != self.file_bytes {
            return Err(self.damaged(end, "it goes on behind its end"));
        }
        Ok(())
    }

    /// Returns the head's crc.
    fn read_head(&mut self) -> Result<u32, RestoreError> {
        let mut head = [0; HEAD_BYTES];
        let there = self.file_bytes.min(HEAD_BYTES as u64) as usize;
        self.read(0, &mut head[..there])?;
        let path = || self.path.clone();
        if there < MAGIC.len() || head[..8] != *MAGIC {
            return Err(RestoreError::NotSaved { path: path() });
        }
        let (said, crc) = head.split_at(HEAD_BYTES - 4);
        if there < HEAD_BYTES || crc != crc32fast::hash(said).to_le_bytes() {
            return Err(self.damaged(0, "its head is damaged"));
        }
        let mut rest = &head[8..];
        let version = take_u32(&mut rest).unwrap_or_default();
        if version != VERSION {
            return Err(RestoreError::OtherVersion {
                path: path(),
                version,
            });
        }
        self.saved_at_ns = take_u64(&mut rest).unwrap_or_default();
        Ok(take_u32(&mut rest).unwrap_or_default())
    }

    /// Reads the chunk that begins at a byte, and checks its crc; its payload is in `self.payload` then.
    fn read_chunk(&mut self, at: u64) -> Result<ChunkHead, RestoreError> {
        const CUT_OFF: &str = "it ends in the middle";
        let mut head = [0; CHUNK_HEAD_BYTES];
        let payload_at = at + CHUNK_HEAD_BYTES as u64;
        if payload_at > self.file_bytes {
            return Err(self.damaged(at, CUT_OFF));
        }
        self.read(at, &mut head)?;
        let mut rest = &head[..];
        let mut number = || take_u32(&mut rest).unwrap_or_default();
        let (payload_bytes, entries, rank, crc) = (number(), number(), number(), number());
        // Before there is memory for it.
        if payload_at + u64::from(payload_bytes) > self.file_bytes {
            return Err(self.damaged(at, CUT_OFF));
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(payload_bytes as usize, 0);
        let read = self.read(payload_at, &mut payload);
        self.payload = payload;
        read?;
        if crc != crc_of_chunk(&head[..12], &self.payload) {
            return Err(self.damaged(at, "the checksum of a chunk is wrong"));
        }
        Ok(ChunkHead { entries, rank, crc })
    }

    fn read(&mut self, at: u64, bytes: &mut [u8]) -> Result<(), RestoreError> {
        let sought = self.file.seek(SeekFrom::Start(at));
        sought
            .and_then(|_| self.file.read_exact(bytes))
            .map_err(|source| RestoreError::unreadable(&self.path, source))
    }

    fn damaged(&self, at_byte: u64, what: &'static str) -> RestoreError {
        RestoreError::Damaged {
            path: self.path.clone(),
            at_byte,
            what,
        }
    }

    /// Calls `each` with all records and their rank, those of the highest rank first.
    pub fn for_each(mut self, mut each: impl FnMut(u8, &Record)) -> Result<(), RestoreError> {
        for rank in (0..RANKS).rev() {
            for at in std::mem::take(&mut self.chunks[rank]) {
                let head = self.read_chunk(at)?;
                if head.rank as usize != rank || !is_made_of(&self.payload, head.entries) {
                    return Err(self.damaged(at, "a chunk is another one than before"));
                }
                let mut payload = &self.payload[..];
                while let Some(record) = Record::split_from(&mut payload) {
                    each(rank as u8, &record);
                }
            }
        }
        Ok(())
    }
}

/// Whether a payload is so many records, and nothing else.
fn is_made_of(mut payload: &[u8], entries: u32) -> bool {
    (0..entries).all(|_| Record::split_from(&mut payload).is_some()) && payload.is_empty()
}

#[cfg(test)]
mod tests;
