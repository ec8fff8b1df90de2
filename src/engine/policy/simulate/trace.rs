use std::collections::HashMap;
use std::io::{self, BufRead, Read};

/// One line of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Keys are numbered from 0 in the order in which they come.
    pub key: u32,
    /// 1 in a trace without sizes. A size of 4 GiB and more counts as 1 byte less than 4 GiB.
    pub weight: u32,
}

/// The requests of a trace, in memory: 8 bytes each.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    requests: Vec<Request>,
    /// By key: the weight that it had first.
    weights: Vec<u32>,
    is_sized: bool,
    capped: u64,
}

/// Why a trace was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The source failed.
    #[error("line {line}: {source}")]
    Read {
        /// Counted from 1.
        line: u64,
        /// What it said.
        source: io::Error,
    },
    /// More or fewer words than the first line has, or than any may have.
    #[error("line {line} has {words} words; each line is `key`, or each is `key size`")]
    Words {
        /// Counted from 1.
        line: u64,
        /// How many there are.
        words: usize,
    },
    /// The second word is no number.
    #[error("line {line}: the size {size:?} is not a whole number of bytes")]
    Size {
        /// Counted from 1.
        line: u64,
        /// What stands there, cut where it is long.
        size: String,
    },
    /// A line without an end; this is hardly a trace.
    #[error("line {line} has more than {LINE_MAX_BYTES} bytes; is this a trace?")]
    LongLine {
        /// Counted from 1.
        line: u64,
    },
    /// More requests than are numbered here.
    #[error("there are more than {MAX_REQUESTS} requests; replay a part of the trace")]
    TooLong,
    /// Not one request.
    #[error("there is no request in it")]
    Empty,
}

/// Some editors put it in front of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const LINE_MAX_BYTES: u64 = 64 << 10;
const MAX_REQUESTS: usize = u32::MAX as usize - 1;

impl Trace {
    /// Reads a request a line: `key`, or `key size` with the size in bytes. A key is anything without a space in it.
    /// Empty lines are passed over.
    pub fn read(mut input: impl BufRead) -> Result<Self, TraceError> {
        let mut trace = Self::default();
        let mut keys = HashMap::<Box<[u8]>, u32, ahash::RandomState>::default();
        let (mut bytes, mut line) = (Vec::new(), 0);
        while read_line(&mut input, &mut bytes, line + 1)? {
            line += 1;
            let text = match line {
                1 => bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes),
                _ => &bytes,
            };
            let Some((key, size)) = split(text, line)? else {
                continue;
            };
            if trace.requests.is_empty() {
                trace.is_sized = size.is_some();
            } else if size.is_some() != trace.is_sized {
                let words = 1 + usize::from(size.is_some());
                return Err(TraceError::Words { line, words });
            }
            if trace.requests.len() == MAX_REQUESTS {
                return Err(TraceError::TooLong);
            }
            let weight = size.unwrap_or(1);
            trace.capped += u64::from(weight == u32::MAX);
            let next = trace.weights.len() as u32;
            let key = *keys.entry(key.into()).or_insert(next);
            if key == next {
                trace.weights.push(weight);
            }
            trace.requests.push(Request { key, weight });
        }
        if trace.requests.is_empty() {
            return Err(TraceError::Empty);
        }
        Ok(trace)
    }

    /// The requests, in their order.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// How many distinct keys there are.
    pub fn keys(&self) -> usize {
        self.weights.len()
    }

    /// Whether the lines were `key size`; if not, sizes of caches are in entries.
    pub fn is_sized(&self) -> bool {
        self.is_sized
    }

    /// Requests of 4 GiB and more, which count as 1 byte less than that; no cache of the engine holds such an entry.
    pub fn capped(&self) -> u64 {
        self.capped
    }

    /// The weight of all distinct keys: a cache of this size evicts nothing.
    pub fn footprint(&self) -> u64 {
        self.weights.iter().copied().map(u64::from).sum()
    }
}

/// Reads the next line without its end; false after the last.
fn read_line(
    input: &mut impl BufRead,
    line: &mut Vec<u8>,
    number: u64,
) -> Result<bool, TraceError> {
    line.clear();
    let mut limited = input.take(LINE_MAX_BYTES);
    let read = limited.read_until(b'\n', line);
    let read = read.map_err(|source| TraceError::Read {
        line: number,
        source,
    })?;
    if read as u64 == LINE_MAX_BYTES && line.last() != Some(&b'\n') {
        return Err(TraceError::LongLine { line: number });
    }
    Ok(read > 0)
}

type Parts<'a> = (&'a [u8], Option<u32>);

/// Key and size; nothing if the line is empty.
fn split(bytes: &[u8], line: u64) -> Result<Option<Parts<'_>>, TraceError> {
    let is_space = |byte: &u8| byte.is_ascii_whitespace();
    let mut words = bytes.split(is_space).filter(|word| !word.is_empty());
    let Some(key) = words.next() else {
        return Ok(None);
    };
    let size = words.next();
    let rest = words.count();
    if rest > 0 {
        return Err(TraceError::Words {
            line,
            words: 2 + rest,
        });
    }
    let size = size.map(|size| parse(size).ok_or_else(|| wrong_size(size, line)));
    Ok(Some((key, size.transpose()?)))
}

fn parse(size: &[u8]) -> Option<u32> {
    if !size.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Of digits alone, so what is not read is too large.
    let size = std::str::from_utf8(size).ok()?;
    Some(size.parse().unwrap_or(u32::MAX))
}

fn wrong_size(size: &[u8], line: u64) -> TraceError {
    let size = String::from_utf8_lossy(size).chars().take(40).collect();
    TraceError::Size { line, size }
}
