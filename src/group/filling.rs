//! A value that is being written, in the shape in which it is stored.
//!
//! In a node, a value that outgrows a unary reply is taken apart into chunks once, when it does, and goes on in chunks;
//! its bytes are charged to an account, since no budget counts them before they are stored. Where its length was told
//! beforehand, nothing is moved after that. Where it was not, it moves a few times, to four times the room: what is
//! reserved and not written takes addresses, but no memory.

use std::sync::Arc;

use super::chunks::{self, CHUNK_BYTES, FULL_HEAD};
use super::frame::{self, PREFIX_MAX_BYTES};
use super::loader::LoadError;
use crate::engine::{Account, BlobBuilder, Charge, Full};

/// What a node does about large values.
#[derive(Clone)]
pub(super) struct Large {
    /// A value of more bytes than that is a large one.
    pub over_bytes: usize,
    /// The largest of them, and where that limit comes from.
    pub limit_bytes: usize,
    pub limit_is: &'static str,
    pub account: Arc<Account>,
}

pub(super) struct Filling {
    stored: BlobBuilder,
    len: usize,
    in_chunks: bool,
    /// None: values lie in one piece, however large they are.
    large: Option<Large>,
    charge: Option<Box<Charge>>,
    charged_bytes: usize,
    /// What was charged beforehand; it stays charged to the end.
    reserved_bytes: usize,
    lacks_bytes: Option<usize>,
}

impl Filling {
    pub fn new(key: &[u8], large: Option<Large>) -> Self {
        Self {
            stored: BlobBuilder::new(key, PREFIX_MAX_BYTES as u8),
            len: 0,
            in_chunks: false,
            large,
            charge: None,
            charged_bytes: 0,
            reserved_bytes: 0,
            lacks_bytes: None,
        }
    }

    /// As [`Filling::new`], with so many bytes charged already.
    pub fn with_room(key: &[u8], large: Option<Large>, room: Option<Room>) -> Self {
        let mut filling = Self::new(key, large);
        if let Some(Room { charge, bytes }) = room {
            filling.charge = Some(charge);
            filling.charged_bytes = bytes;
            filling.reserved_bytes = bytes;
        }
        filling
    }

    /// How much room it takes to try again, if there was too little. A value whose length was not told asks for twice as
    /// much each time, so that it is not begun again for each chunk.
    pub fn lacks_bytes(&self) -> Option<usize> {
        let twice = (2 * self.reserved_bytes).min(self.most_bytes());
        self.lacks_bytes.map(|bytes| bytes.max(twice))
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Where the limit of a value comes from, if that is known.
    pub fn limit_is(&self) -> &'static str {
        self.large.as_ref().map_or("", |large| large.limit_is)
    }

    /// What has been written so far; none once it lies in chunks.
    pub fn bytes(&self) -> Option<&[u8]> {
        (!self.in_chunks).then(|| self.stored.value())
    }

    /// Forgets what was written; the memory stays.
    pub fn clear(&mut self) {
        self.stored.clear();
        self.len = 0;
        self.in_chunks = false;
    }

    /// Makes room for a value of `len_bytes` in all.
    pub fn expect(&mut self, len_bytes: usize) -> Result<(), LoadError> {
        if self.is_large(len_bytes) {
            return self.make_room(len_bytes, chunks::stored_bytes(len_bytes));
        }
        let more = len_bytes.saturating_sub(self.stored.len());
        self.stored.reserve(more);
        Ok(())
    }

    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), LoadError> {
        let len = self.len + bytes.len();
        if !self.is_large(len) {
            self.stored.extend(bytes);
            self.len = len;
            return Ok(());
        }
        self.make_room(len, self.next_room(len))?;
        if !self.in_chunks {
            self.take_apart();
        }
        while !bytes.is_empty() {
            let in_chunk = self.len % CHUNK_BYTES;
            if in_chunk == 0 && self.len > 0 {
                self.stored.extend(&FULL_HEAD);
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - in_chunk));
            self.stored.extend(now);
            self.len += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// The value, and what stands in front of it.
    pub fn finish(mut self) -> (BlobBuilder, [u8; PREFIX_MAX_BYTES], usize) {
        let first = if self.in_chunks {
            chunks::end(self.stored.value_mut(), self.len);
            CHUNK_BYTES
        } else {
            self.len
        };
        let keeps_charge = self.in_chunks || self.reserved_bytes > 0;
        if let Some(mut charge) = self.charge.filter(|_| keeps_charge) {
            // Less than before is never refused.
            let _ = charge.set(self.stored.len().min(self.charged_bytes));
            self.stored.set_charge(charge);
        }
        let (prefix, used) = frame::prefix(first);
        (self.stored, prefix, used)
    }

    fn is_large(&self, len_bytes: usize) -> bool {
        let large = self.large.as_ref();
        large.is_some_and(|large| len_bytes > large.over_bytes)
    }

    /// What the largest value takes.
    fn most_bytes(&self) -> usize {
        let large = self.large.as_ref();
        large.map_or(0, |large| chunks::stored_bytes(large.limit_bytes))
    }

    /// The room for a value of `len_bytes` that may go on to grow. What is moved to it is at most half of it, so that both
    /// together are never more than the largest value.
    fn next_room(&self, len_bytes: usize) -> usize {
        let most = self.most_bytes();
        let next = self.stored.capacity().saturating_mul(4);
        if next > most / 2 {
            most
        } else {
            next.max(chunks::stored_bytes(len_bytes))
        }
    }

    /// Makes `room`, unless what there is suffices, and charges what a value of `len_bytes` takes.
    fn make_room(&mut self, len_bytes: usize, room: usize) -> Result<(), LoadError> {
        let need = chunks::stored_bytes(len_bytes);
        let most = self.most_bytes();
        if need > self.stored.capacity() {
            let used = self.stored.len();
            // What is moved is there twice meanwhile.
            self.charge((used + need).min(most))?;
            if !self.stored.try_reserve(room - used) {
                return Err(LoadError::Busy(format!(
                    "the system gave no memory for a value of {len_bytes} bytes"
                )));
            }
        } else if need <= self.charged_bytes {
            return Ok(());
        }
        self.charge(need.next_multiple_of(CHUNK_BYTES).min(most))
    }

    fn charge(&mut self, bytes: usize) -> Result<(), LoadError> {
        if let Some(large) = &self.large {
            let bytes = bytes.max(self.reserved_bytes);
            let charge = self.charge.get_or_insert_with(|| large.account.open());
            if let Err(full) = charge.set(bytes) {
                self.lacks_bytes = Some(bytes);
                return Err(busy(&full));
            }
            self.charged_bytes = bytes;
        }
        Ok(())
    }

    fn take_apart(&mut self) {
        let heads = chunks::stored_bytes(self.len) - self.len;
        self.stored
            .extend(&FULL_HEAD.repeat(heads / FULL_HEAD.len()));
        chunks::take_apart(self.stored.value_mut(), self.len);
        self.in_chunks = true;
    }
}

/// Room for a large value, charged before it is loaded.
pub(crate) struct Room {
    charge: Box<Charge>,
    bytes: usize,
}

impl Large {
    /// What is charged for a value whose length is told beforehand, at the most.
    #[cfg(feature = "server")]
    pub fn charged_bytes(&self, value_bytes: usize) -> usize {
        let most = chunks::stored_bytes(self.limit_bytes);
        chunks::stored_bytes(value_bytes)
            .next_multiple_of(CHUNK_BYTES)
            .min(most)
    }
}

impl Room {
    /// None: there is not so much.
    #[cfg(any(test, feature = "server"))]
    pub fn take(account: &Arc<Account>, bytes: usize) -> Option<Self> {
        let mut charge = account.open();
        charge.set(bytes).ok()?;
        Some(Self { charge, bytes })
    }
}

fn busy(full: &Full) -> LoadError {
    LoadError::Busy(format!(
        "large values of {} bytes are being loaded, or still read although they could not be kept; {} bytes are the \
         most; try again later",
        full.bytes, full.limit_bytes
    ))
}

#[cfg(test)]
mod tests;
