//! The messages of `peer.proto`, read in place and written without a detour: see [`wire`](crate::server::wire).

use std::time::Duration;

use crate::cluster::Epoch;
use crate::server::wire::Content::{Bytes, Fixed, Number};
use crate::server::wire::{
    FIXED32, FIXED64, LENGTH_DELIMITED, Malformed, VARINT, for_each_field, put_bytes, put_varint,
    varint_len,
};

/// The version of the protocol that this node speaks.
pub const MAJOR: u64 = 1;
pub const MINOR: u64 = 1;

/// What a message takes beside its questions or replies, and a reply beside its value: more than enough.
pub const BESIDE_BYTES: usize = 512;

/// Who speaks.
#[derive(Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    pub major: u64,
    pub minor: u64,
    pub address: &'a [u8],
    pub message_max_bytes: u64,
}

impl<'a> Hello<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut hello = Self {
            major: 0,
            minor: 0,
            address: b"",
            message_max_bytes: 0,
        };
        for_each_field(bytes, |field| match field {
            (1, Number(major)) => hello.major = major,
            (2, Number(minor)) => hello.minor = minor,
            (3, Bytes(address)) => hello.address = address,
            (4, Number(bytes)) => hello.message_max_bytes = bytes,
            _ => {}
        })?;
        Some(hello)
    }

    /// Adds it to a message, as the field of that number.
    pub fn put(&self, number: u64, message: &mut Vec<u8>) {
        let mut hello = Vec::new();
        put_number(&mut hello, 1, self.major);
        put_number(&mut hello, 2, self.minor);
        put_bytes(&mut hello, 3, self.address);
        put_number(&mut hello, 4, self.message_max_bytes);
        put_bytes(message, number, &hello);
    }

    /// Why its node is not spoken to, if so.
    pub fn refusal(&self) -> Option<String> {
        if self.major == MAJOR {
            return None;
        }
        let address = String::from_utf8_lossy(self.address);
        Some(format!(
            "node {address:?} speaks version {}.{} of the protocol between nodes, and this one {MAJOR}.{MINOR}: nodes of \
             different major versions can not be in one cluster; run one version of corecache on both, or the one after it",
            self.major, self.minor
        ))
    }
}

/// The numbers of `Hello` in the two messages.
pub const HELLO_IN_ASK: u64 = 1;
pub const HELLO_IN_ANSWER: u64 = 2;

/// `Ask`, its keys still within the message.
#[derive(Debug)]
pub struct Ask<'a> {
    pub hello: Option<Hello<'a>>,
    pub questions: Vec<Question<'a>>,
    pub epoch: Epoch,
    pub ping: u64,
}

/// `Question`; the group is always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    pub id: u64,
    pub group: &'a [u8],
    pub key: &'a [u8],
    pub left_ms: u64,
    pub hops: u64,
    pub peek: bool,
}

impl<'a> Ask<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut ask = Self {
            hello: None,
            questions: Vec::new(),
            epoch: Epoch(0),
            ping: 0,
        };
        let (mut group, mut all_are_well): (&[u8], _) = (b"", true);
        let well_formed = for_each_field(bytes, |field| match field {
            (1, Bytes(hello)) => {
                ask.hello = Hello::parse(hello);
                all_are_well &= ask.hello.is_some();
            }
            (2, Bytes(question)) => match Question::parse(question, group) {
                Some(question) => {
                    group = question.group;
                    ask.questions.push(question);
                }
                None => all_are_well = false,
            },
            (3, Fixed(epoch)) => ask.epoch = Epoch(epoch),
            (4, Number(ping)) => ask.ping = ping,
            _ => {}
        });
        match well_formed {
            Some(()) if all_are_well => Ok(ask),
            _ => Err(Malformed("Ask")),
        }
    }
}

impl<'a> Question<'a> {
    /// Of a message of its own.
    pub fn parse_alone(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse(bytes, b"").ok_or(Malformed("Question"))
    }

    fn parse(bytes: &'a [u8], group: &'a [u8]) -> Option<Self> {
        let mut question = Self {
            id: 0,
            group,
            key: b"",
            left_ms: 0,
            hops: 0,
            peek: false,
        };
        for_each_field(bytes, |field| match field {
            (1, Number(id)) => question.id = id,
            (2, Bytes(group)) if !group.is_empty() => question.group = group,
            (3, Bytes(key)) => question.key = key,
            (4, Number(left_ms)) => question.left_ms = left_ms,
            (5, Number(hops)) => question.hops = hops,
            (6, Number(peek)) => question.peek = peek != 0,
            _ => {}
        })?;
        Some(question)
    }

    /// Adds it to an `Ask`, in which `before` was the last group that was named.
    pub fn put(&self, before: &[u8], ask: &mut Vec<u8>) {
        put_varint(ask, 2 << 3 | LENGTH_DELIMITED);
        put_varint(ask, self.len(before) as u64);
        self.put_fields(before, ask);
    }

    /// As a message of its own.
    pub fn alone(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.len(b""));
        self.put_fields(b"", &mut message);
        message
    }

    fn group_after(&self, before: &[u8]) -> &[u8] {
        match self.group == before {
            true => b"",
            false => self.group,
        }
    }

    fn len(&self, before: &[u8]) -> usize {
        let number = |value: u64| if value == 0 { 0 } else { 1 + varint_len(value) };
        let text = |bytes: &[u8]| match bytes.len() {
            0 => 0,
            len => 1 + varint_len(len as u64) + len,
        };
        number(self.id)
            + text(self.group_after(before))
            + text(self.key)
            + number(self.left_ms)
            + number(self.hops)
            + number(self.peek.into())
    }

    fn put_fields(&self, before: &[u8], ask: &mut Vec<u8>) {
        let group = self.group_after(before);
        put_number(ask, 1, self.id);
        if !group.is_empty() {
            put_bytes(ask, 2, group);
        }
        if !self.key.is_empty() {
            put_bytes(ask, 3, self.key);
        }
        put_number(ask, 4, self.left_ms);
        put_number(ask, 5, self.hops);
        put_number(ask, 6, self.peek.into());
    }
}

/// How long a caller waits, in milliseconds: at least one.
pub fn left_ms(left: Duration) -> u64 {
    (left.as_millis() as u64).max(1)
}

/// Adds epoch and ping to either message.
pub fn put_news(message: &mut Vec<u8>, epoch: Epoch, ping: u64) {
    put_epoch(message, epoch);
    put_ping(message, ping);
}

pub fn put_epoch(message: &mut Vec<u8>, epoch: Epoch) {
    put_varint(message, 3 << 3 | FIXED64);
    message.extend_from_slice(&epoch.0.to_le_bytes());
}

pub fn put_ping(message: &mut Vec<u8>, ping: u64) {
    put_number(message, 4, ping);
}

/// Why a question is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Refusal {
    NotHeld = 1,
    LoadItYourself = 2,
}

/// The number of the refusal that tells how large the value is.
const TOO_LARGE: u64 = 3;

impl Refusal {
    fn of(number: u64) -> Self {
        match number {
            1 => Self::NotHeld,
            // Also what a newer node may say: its key is loaded in any case.
            _ => Self::LoadItYourself,
        }
    }
}

/// `Answer`, its values still within the message.
#[derive(Debug)]
pub struct Answer<'a> {
    pub hello: Option<Hello<'a>>,
    pub replies: Vec<Reply<'a>>,
    /// Nodes of minor version 0 say it with hello and pings only.
    pub epoch: Option<Epoch>,
}

/// `Reply`.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    pub id: u64,
    pub result: Outcome<'a>,
}

/// A value of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent<'a> {
    /// As it is stored.
    pub frame: &'a [u8],
    pub checksum: u32,
    /// How long it may be kept, if there is an end to it.
    pub lives: Option<Duration>,
    /// How often the one who sends it is asked for it, a second; 0 if that is not known.
    pub rate: u64,
}

/// What a reply says.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    Value(Sent<'a>),
    /// A code of gRPC, and what is said.
    Failure(i32, &'a [u8]),
    Refusal(Refusal),
    /// Held, but too large for a link; so many bytes, 0 if it can not be read in parts either.
    TooLarge(u64),
    Loading,
    /// Nothing that this version knows.
    Nothing,
}

impl<'a> Answer<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut answer = Self {
            hello: None,
            replies: Vec::new(),
            epoch: None,
        };
        let mut all_are_well = true;
        let well_formed = for_each_field(bytes, |field| match field {
            (1, Bytes(reply)) => match Reply::parse(reply) {
                Some(reply) => answer.replies.push(reply),
                None => all_are_well = false,
            },
            (2, Bytes(hello)) => {
                answer.hello = Hello::parse(hello);
                all_are_well &= answer.hello.is_some();
            }
            (3, Fixed(epoch)) => answer.epoch = Some(Epoch(epoch)),
            _ => {}
        });
        match well_formed {
            Some(()) if all_are_well => Ok(answer),
            _ => Err(Malformed("Answer")),
        }
    }
}

impl<'a> Reply<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (mut id, mut checksum, mut is_loading) = (0, 0, false);
        let (mut lives_ms, mut rate, mut value_bytes) = (0, 0, 0);
        let (mut value, mut failure, mut refusal) = (None, None, 0);
        for_each_field(bytes, |field| match field {
            (1, Number(number)) => id = number,
            (2, Bytes(frame)) => value = Some(frame),
            (3, Bytes(bytes)) => failure = Some(bytes),
            (4, Fixed(sum)) => checksum = sum as u32,
            (5, Number(number)) => refusal = number,
            (6, Number(number)) => is_loading = number != 0,
            (7, Number(number)) => rate = number,
            (8, Number(number)) => lives_ms = number,
            (10, Number(number)) => value_bytes = number,
            _ => {}
        })?;
        let result = if let Some(frame) = value {
            Outcome::Value(Sent {
                frame,
                checksum,
                lives: lives(lives_ms),
                rate,
            })
        } else if let Some(bytes) = failure {
            let (mut code, mut message): (_, &[u8]) = (0, b"");
            for_each_field(bytes, |field| match field {
                (1, Number(number)) => code = number as i32,
                (2, Bytes(words)) => message = words,
                _ => {}
            })?;
            Outcome::Failure(code, message)
        } else if refusal == TOO_LARGE {
            Outcome::TooLarge(value_bytes)
        } else if refusal != 0 {
            Outcome::Refusal(Refusal::of(refusal))
        } else if is_loading {
            Outcome::Loading
        } else {
            Outcome::Nothing
        };
        Some(Self { id, result })
    }
}

/// The checksum of a value, with its key: an answer to another question is none to this one.
pub fn checksum(key: &[u8], frame: &[u8]) -> u32 {
    let mut hasher = hasher(key);
    hasher.update(frame);
    hasher.finalize()
}

/// For the checksum of a value that comes in parts.
pub fn hasher(key: &[u8]) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher
}

fn lives(ms: u64) -> Option<Duration> {
    (ms != 0).then(|| Duration::from_millis(ms))
}

/// `Part`, its data still within the message.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    pub data: &'a [u8],
    pub value_bytes: u64,
    pub checksum: u32,
    pub lives: Option<Duration>,
}

impl<'a> Part<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (mut data, mut value_bytes, mut checksum, mut lives_ms): (&[u8], _, _, _) =
            (b"", 0, 0, 0);
        let well_formed = for_each_field(bytes, |field| match field {
            (1, Bytes(bytes)) => data = bytes,
            (2, Number(bytes)) => value_bytes = bytes,
            (3, Fixed(sum)) => checksum = sum as u32,
            (4, Number(number)) => lives_ms = number,
            _ => {}
        });
        well_formed.ok_or(Malformed("Part"))?;
        Ok(Self {
            data,
            value_bytes,
            checksum,
            lives: lives(lives_ms),
        })
    }
}

/// The last `Part` of a value.
pub fn last_part(checksum: u32, lives_ms: u64) -> Vec<u8> {
    let mut message = Vec::with_capacity(16);
    put_varint(&mut message, 3 << 3 | FIXED32);
    message.extend_from_slice(&checksum.to_le_bytes());
    put_number(&mut message, 4, lives_ms);
    message
}

/// What a reply without a value takes at the most.
pub const NOTE_MAX_BYTES: usize = 32;

/// Adds a reply with a refusal.
pub fn put_refusal(answer: &mut Vec<u8>, id: u64, refusal: Refusal) {
    put_note(answer, id, &[(5, refusal as u64)]);
}

/// Adds a reply that says: it is held, and too large.
pub fn put_too_large(answer: &mut Vec<u8>, id: u64, value_bytes: u64) {
    put_note(answer, id, &[(5, TOO_LARGE), (10, value_bytes)]);
}

/// Adds a reply that says: it is being loaded.
pub fn put_loading(answer: &mut Vec<u8>, id: u64) {
    put_note(answer, id, &[(6, 1)]);
}

/// The tags take a byte each.
fn put_note(answer: &mut Vec<u8>, id: u64, fields: &[(u64, u64)]) {
    let lens = fields.iter().map(|(_, value)| 1 + varint_len(*value));
    let len = 1 + varint_len(id) + lens.sum::<usize>();
    put_varint(answer, 1 << 3 | LENGTH_DELIMITED);
    put_varint(answer, len as u64);
    for (number, value) in [(1, id)].iter().chain(fields) {
        put_varint(answer, number << 3 | VARINT);
        put_varint(answer, *value);
    }
}

/// A field that is left out where it is 0.
fn put_number(message: &mut Vec<u8>, number: u64, value: u64) {
    if value != 0 {
        put_varint(message, number << 3 | VARINT);
        put_varint(message, value);
    }
}

// By its path: the fuzzer's target has this file as a module of another name.
#[cfg(test)]
#[path = "wire/tests.rs"]
mod tests;
