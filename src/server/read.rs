//! `Read`: a value, or a part of it, in messages that follow each other as their reader takes them.
//!
//! A large value is stored in chunks that are messages already, and a chunk that is read as a whole is sent as it lies
//! there. Of one that is read in part a few KiB at a time are copied. So a reader that stops costs a reference to the
//! value, which the budget counts, and a copy of [`PART_BYTES`]; and one that takes nothing for too long is let go, lest
//! callers without a deadline keep what they do not read for ever.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::lookout::{Caller, Lookout, Ticket};
use super::peer::Seal;
use super::service::{Code, Miss, Service, Status};
use super::waiting;
use super::wire::{self, ReadRequest};
use crate::counted;
use crate::engine::Blob;
use crate::group::chunks;
use crate::group::error::Shown;
use crate::group::{Group, Value};

/// Reads that may be open at once, over all connections.
const OPEN_MAX: usize = 2048;
/// What is copied at a time.
const PART_BYTES: usize = 32 << 10;

/// The reads that are open.
pub(super) struct Reads {
    open: AtomicUsize,
    /// What a reader has to take a message.
    pub stall_limit: Duration,
    pub stalled: Lookout,
}

impl Reads {
    /// Starts the thread that looks for readers that stand still; without readers it sleeps.
    pub fn start(stall_limit: Duration) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            open: AtomicUsize::new(0),
            stall_limit,
            stalled: Lookout::start("read-stalls")?,
        }))
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn enter(self: &Arc<Self>) -> Result<Place, Status> {
        let place = Place(self.clone());
        if self.open.fetch_add(1, Ordering::Relaxed) < OPEN_MAX {
            return Ok(place);
        }
        let message = format!(
            "{OPEN_MAX} values are being read from this node already; read to their ends or cancel some, or try again \
             later"
        );
        Err(Status::new(Code::ResourceExhausted, message))
    }

    /// Lets a reader go that has taken nothing for too long.
    fn watch(&self) -> Watch {
        let limit = self.stall_limit;
        let stalled = self.stalled.enter(Caller {
            deadline: Some(Instant::now() + limit),
            line: None,
        });
        Watch { stalled, limit }
    }
}

/// Tells when a reader has taken nothing for too long.
struct Watch {
    stalled: Ticket,
    limit: Duration,
}

/// A place among the open reads.
struct Place(Arc<Reads>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What became of a `Read` at once.
pub(super) enum Start {
    Held(Reading),
    /// The value is to come, while the caller waits in the place.
    Loading(Wanted, waiting::Place),
}

/// What is wanted of a value.
pub(super) struct Wanted {
    group: Group,
    offset: u64,
    length: u64,
    /// How hot the key was seen to be, for other nodes to share it.
    heat: u32,
    place: Place,
}

impl Wanted {
    /// Begins to read the value.
    pub fn of(self, value: Value) -> Result<Reading, Status> {
        let value_bytes = chunks::value_len(value.frame());
        let at = usize::try_from(self.offset).ok();
        let Some(at) = at.filter(|at| *at <= value_bytes) else {
            let message = format!(
                "offset {} is beyond the end of the value of key {} in group {:?}, which has {}",
                self.offset,
                Shown(value.frame().key()),
                self.group.name(),
                counted(value_bytes, "byte", "bytes")
            );
            return Err(Status::new(Code::OutOfRange, message));
        };
        let watch = self.place.0.watch();
        let left = value_bytes - at;
        let wanted = usize::try_from(self.length).unwrap_or(usize::MAX);
        let length = if wanted == 0 { left } else { wanted.min(left) };
        Ok(Reading {
            value,
            value_bytes,
            at,
            end: at + length,
            is_begun: false,
            heat: self.heat,
            seal: None,
            watch,
            _place: self.place,
        })
    }
}

/// The rest of a value that is being read.
pub(super) struct Reading {
    value: Value,
    value_bytes: usize,
    at: usize,
    end: usize,
    is_begun: bool,
    heat: u32,
    /// For another node: what the last message says.
    seal: Option<Seal>,
    watch: Watch,
    _place: Place,
}

/// An encoded `Chunk`.
#[derive(Debug)]
pub(super) enum Message {
    /// It lies there in what is stored.
    Stored(Range<usize>),
    Copied(Vec<u8>),
}

impl Reading {
    /// What the messages lie in.
    pub fn stored(&self) -> &Blob {
        self.value.frame()
    }

    /// Done when what was sent last has not been taken for too long.
    pub fn stalled(&mut self) -> &mut Ticket {
        &mut self.watch.stalled
    }

    /// The next message, when the last one has been taken; none at the end. The first one tells how large the value is, and
    /// how hot its key.
    pub fn next(&mut self) -> Option<Message> {
        self.watch
            .stalled
            .put_off(Instant::now() + self.watch.limit);
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        if self.at == self.end && !is_first {
            return self.seal.take().map(|seal| Message::Copied(seal.end()));
        }
        let first = is_first.then_some((self.value_bytes as u64, self.heat));
        if self.at == self.end {
            return Some(copied(first, b""));
        }
        let stored = self.value.frame();
        let chunk = chunks::chunk_with(stored, self.at);
        let from = chunk.data.start + (self.at - chunk.at);
        let left = (chunk.data.end - from).min(self.end - self.at);
        if left <= PART_BYTES || left < chunk.data.len() {
            let part = &stored[from..from + left.min(PART_BYTES)];
            self.seal.iter_mut().for_each(|seal| seal.add(part));
            self.at += part.len();
            return Some(copied(first, part));
        }
        if is_first {
            return Some(copied(first, b""));
        }
        self.seal
            .iter_mut()
            .for_each(|seal| seal.add(&stored[chunk.data.clone()]));
        self.at += left;
        Some(Message::Stored(chunk.message))
    }
}

fn copied(first: Option<(u64, u32)>, data: &[u8]) -> Message {
    Message::Copied(wire::chunk(first, data))
}

impl Service {
    /// Begins to read a whole value for another node, which is told with the last message that it is all of it.
    pub fn read_sealed(&self, group: &Group, value: Value, seal: Seal) -> Result<Reading, Status> {
        let wanted = Wanted {
            group: group.clone(),
            offset: 0,
            length: 0,
            heat: 0,
            place: self.reads.enter()?,
        };
        let mut reading = wanted.of(value)?;
        reading.seal = Some(seal);
        Ok(reading)
    }

    /// Begins to answer a `ReadRequest`: at once if the value is held, and otherwise when `answer` gets it.
    pub fn read(
        &self,
        request: &[u8],
        caller: Caller,
        answer: impl FnOnce(Result<Value, Status>) + Send + 'static,
    ) -> Result<Start, Status> {
        let request = ReadRequest::parse(request)?;
        let group = self.group(request.group)?;
        group.check_key(request.key)?;
        let heat = self.hot.note(group, request.key);
        let wanted = Wanted {
            group: group.clone(),
            offset: request.offset,
            length: request.length,
            heat: if self.peers.has_others() { heat } else { 0 },
            place: self.reads.enter()?,
        };
        if let Some(value) = group.held(request.key) {
            return wanted.of(value).map(Start::Held);
        }
        let deadline = caller.deadline;
        let place = self.waiting.enter(group, caller)?;
        let miss = Miss {
            group,
            key: request.key,
        };
        self.load_any(&miss, deadline, answer);
        Ok(Start::Loading(wanted, place))
    }
}

#[cfg(test)]
mod tests {
    use protobuf::Message as _;

    use super::super::pb::cache::Chunk;
    use super::super::service::VALUE_LIMIT_BYTES;
    use super::*;
    use crate::engine::Builder;
    use crate::group::{GroupConfig, Groups, LoadContext, Sink};

    /// A group of a node whose keys are the lengths of their values.
    fn group() -> Group {
        let load = |key: &[u8], _: &LoadContext<'_>, sink: &mut Sink| {
            let len: usize = std::str::from_utf8(key).unwrap().parse().unwrap();
            sink.append(&value(len))
        };
        let config = GroupConfig::new("blobs", load).chunks_over(VALUE_LIMIT_BYTES);
        let groups = Groups::new(&Builder::new(64 << 20), [config]).unwrap();
        groups.get("blobs").unwrap().clone()
    }

    fn reads() -> Arc<Reads> {
        Reads::start(Duration::from_secs(60)).unwrap()
    }

    fn value(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at ^ (at >> 11)) as u8).collect()
    }

    fn read(group: &Group, len: usize, offset: u64, length: u64) -> Result<Vec<u8>, Status> {
        let reads = reads();
        let wanted = Wanted {
            group: group.clone(),
            offset,
            length,
            heat: 0,
            place: reads.enter().unwrap(),
        };
        let mut reading = wanted.of(group.get(len.to_string().as_bytes()).unwrap())?;
        let mut read = Vec::new();
        let mut is_first = true;
        while let Some(message) = reading.next() {
            let encoded = match message {
                Message::Copied(encoded) => {
                    assert!(encoded.len() < PART_BYTES + 32, "{} bytes", encoded.len());
                    encoded
                }
                Message::Stored(range) => reading.stored()[range].to_vec(),
            };
            let chunk = Chunk::parse_from_bytes(&encoded).unwrap();
            assert_eq!(chunk.value_bytes, if is_first { len as u64 } else { 0 });
            is_first = false;
            read.extend(chunk.data);
        }
        assert!(!is_first, "an empty answer is a message too");
        drop(reading);
        assert_eq!(reads.open(), 0);
        Ok(read)
    }

    #[test]
    fn what_is_read_is_the_part_that_was_asked_for() {
        let group = group();
        for len in [
            0,
            1,
            100,
            40_000,
            VALUE_LIMIT_BYTES,
            VALUE_LIMIT_BYTES + 1,
            9 << 20,
        ] {
            let value = value(len);
            let edges = [0, 1, 1 << 20, 4 << 20, VALUE_LIMIT_BYTES, 8 << 20, len];
            let places = edges
                .iter()
                .flat_map(|&at| [at.saturating_sub(1), at, at + 1]);
            let places: Vec<_> = places.filter(|&at| at <= len).collect();
            for &from in &places {
                for &to in places.iter().filter(|&&to| to > from) {
                    let read = read(&group, len, from as u64, (to - from) as u64).unwrap();
                    assert!(read == value[from..to], "{from}..{to} of {len}");
                }
                let rest = read(&group, len, from as u64, 0).unwrap();
                assert!(rest == value[from..], "{from}.. of {len}");
                let more = read(&group, len, from as u64, u64::MAX).unwrap();
                assert!(more == value[from..], "{from}.. of {len}");
            }
        }
    }

    #[test]
    fn an_offset_beyond_the_end_is_out_of_range() {
        let group = group();
        for offset in [101, u64::MAX] {
            let status = read(&group, 100, offset, 0).unwrap_err();
            assert_eq!(status.code, Code::OutOfRange);
            for words in [&offset.to_string(), "\"100\"", "has 100 bytes"] {
                assert!(status.message.contains(words), "{}", status.message);
            }
        }
    }

    #[test]
    fn one_more_read_than_may_be_open_is_refused() {
        let reads = reads();
        let mut places: Vec<_> = (0..OPEN_MAX).map(|_| reads.enter().ok().unwrap()).collect();
        assert_eq!(reads.enter().err().unwrap().code, Code::ResourceExhausted);
        assert_eq!(reads.open(), OPEN_MAX);
        places.pop();
        assert!(reads.enter().is_ok());
    }
}
