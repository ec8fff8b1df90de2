//! The requests of `cache.proto`, read in place, and the replies to `GetMany` and `Fetch`, put together from stored
//! frames.
//!
//! The generated messages would copy every key and check it for UTF-8. These few lines of protobuf's wire format
//! (<https://protobuf.dev/programming-guides/encoding>) borrow from the request, and take keys as the bytes they are.

/// A request that is not what it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request is not a valid {0} message; send one as its .proto file defines it")]
pub(super) struct Malformed(pub(super) &'static str);

/// `GetRequest`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GetRequest<'a> {
    pub group: &'a [u8],
    pub key: &'a [u8],
}

impl<'a> GetRequest<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut request = Self {
            group: b"",
            key: b"",
        };
        let well_formed = for_each_field(bytes, |field| match field {
            (1, Bytes(group)) => request.group = group,
            (2, Bytes(key)) => request.key = key,
            _ => {}
        });
        well_formed.ok_or(Malformed("GetRequest"))?;
        Ok(request)
    }
}

/// `GetManyRequest`, its keys still within the message.
#[derive(Debug)]
pub(super) struct GetManyRequest<'a> {
    pub group: &'a [u8],
    pub keys: Vec<&'a [u8]>,
}

impl<'a> GetManyRequest<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut request = Self {
            group: b"",
            keys: Vec::with_capacity(bytes.len() / KEY_USUAL_BYTES),
        };
        let well_formed = for_each_field(bytes, |field| match field {
            (1, Bytes(group)) => request.group = group,
            (2, Bytes(key)) => request.keys.push(key),
            _ => {}
        });
        well_formed.ok_or(Malformed("GetManyRequest"))?;
        Ok(request)
    }
}

/// `ReadRequest`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReadRequest<'a> {
    pub group: &'a [u8],
    pub key: &'a [u8],
    pub offset: u64,
    pub length: u64,
}

impl<'a> ReadRequest<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut request = Self {
            group: b"",
            key: b"",
            offset: 0,
            length: 0,
        };
        let well_formed = for_each_field(bytes, |field| match field {
            (1, Bytes(group)) => request.group = group,
            (2, Bytes(key)) => request.key = key,
            (3, Number(offset)) => request.offset = offset,
            (4, Number(length)) => request.length = length,
            _ => {}
        });
        well_formed.ok_or(Malformed("ReadRequest"))?;
        Ok(request)
    }
}

/// `FetchRequest`, its keys still within the message.
#[derive(Debug)]
pub(super) struct FetchRequest<'a> {
    pub group: &'a [u8],
    pub keys: Vec<&'a [u8]>,
    pub first_id: u64,
}

impl<'a> FetchRequest<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut request = Self {
            group: b"",
            keys: Vec::with_capacity(bytes.len() / KEY_USUAL_BYTES),
            first_id: 0,
        };
        let well_formed = for_each_field(bytes, |field| match field {
            (1, Bytes(group)) => request.group = group,
            (2, Bytes(key)) => request.keys.push(key),
            (3, Number(id)) => request.first_id = id,
            _ => {}
        });
        well_formed.ok_or(Malformed("FetchRequest"))?;
        Ok(request)
    }
}

/// What a key takes in a request, more or less: a guess for the first allocation.
const KEY_USUAL_BYTES: usize = 12;

pub(super) const VARINT: u64 = 0;
pub(super) const FIXED64: u64 = 1;
pub(super) const LENGTH_DELIMITED: u64 = 2;
pub(super) const FIXED32: u64 = 5;

pub(super) enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// 32 or 64 bits.
    Fixed(u64),
}

use Content::{Bytes, Fixed, Number};

/// Shows `f` each field by its number; it skips those that it does not know. None if the message is cut short, or of a
/// type that proto3 does not have.
#[inline]
pub(super) fn for_each_field<'a>(
    mut rest: &'a [u8],
    mut f: impl FnMut((u64, Content<'a>)),
) -> Option<()> {
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        let content = match key & 7 {
            VARINT => Number(take_varint(&mut rest)?),
            LENGTH_DELIMITED => {
                let len = usize::try_from(take_varint(&mut rest)?).ok()?;
                Bytes(take(&mut rest, len)?)
            }
            FIXED64 => {
                let bytes = take(&mut rest, 8)?.first_chunk()?;
                Fixed(u64::from_le_bytes(*bytes))
            }
            FIXED32 => {
                let bytes = take(&mut rest, 4)?.first_chunk()?;
                Fixed(u32::from_le_bytes(*bytes).into())
            }
            _ => return None,
        };
        f((key >> 3, content));
    }
    Some(())
}

#[inline]
fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(head)
}

#[inline]
fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    if let [byte @ ..0x80, tail @ ..] = *rest {
        *rest = tail;
        return Some((*byte).into());
    }
    take_long_varint(rest)
}

fn take_long_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
pub(super) fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

pub(super) fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | LENGTH_DELIMITED);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Field 2 of a `Value`, at the most.
pub(super) const HEAT_MAX_BYTES: usize = 1 + 5;

/// Says in an encoded `Value` how hot its key is: fields may follow in any order.
pub(super) fn put_heat(value: &mut Vec<u8>, heat: u32) {
    put_varint(value, 2 << 3 | VARINT);
    put_varint(value, heat.into());
}

/// What [`put_hot_key`] adds at the most.
pub(super) const HOT_KEY_MAX_BYTES: usize = 2 + (1 + 10) + (1 + 5);

/// Says in an encoded `GetManyReply` that the key at an index is hot, or in a `FetchReply` that the key of an id is.
pub(super) fn put_hot_key(reply: &mut Vec<u8>, key: u64, heat: u32) {
    let heat = heat.into();
    put_varint(reply, 2 << 3 | LENGTH_DELIMITED);
    put_varint(reply, (2 + varint_len(key) + varint_len(heat)) as u64);
    for (number, value) in [(1, key), (2, heat)] {
        put_varint(reply, number << 3 | VARINT);
        put_varint(reply, value);
    }
}

/// Field 4, 32 bits, and what it takes with its tag.
const CHECKSUM_TAG: u64 = 4 << 3 | FIXED32;
const CHECKSUM_BYTES: usize = 1 + 4;
/// Fields 8 and 7, numbers of up to ten bytes.
const LIVES_TAG: u64 = 8 << 3 | VARINT;
const RATE_TAG: u64 = 7 << 3 | VARINT;

/// What tells whose answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    /// Its place: `Answer` in a `GetManyReply`.
    Place,
    /// Its id: `FetchAnswer` in a `FetchReply`.
    Id(u64),
    /// Its id, with a checksum of the value, how long it may be kept and how hot it is: `Reply` in an `Answer` of peer.proto.
    Checked {
        id: u64,
        checksum: u32,
        /// 0 where there is no end to it.
        lives_ms: u64,
        /// How often it is asked for, a second; 0 where that is not known.
        rate: u64,
    },
}

impl Label {
    #[inline]
    fn len(self) -> usize {
        match self {
            Label::Place => 0,
            Label::Id(id) => 1 + varint_len(id),
            Label::Checked {
                id, lives_ms, rate, ..
            } => {
                let number = |value| if value == 0 { 0 } else { 1 + varint_len(value) };
                1 + varint_len(id) + CHECKSUM_BYTES + number(lives_ms) + number(rate)
            }
        }
    }

    /// The number of the field `value`; `failure` is the next one.
    fn value_field(self) -> u64 {
        match self {
            Label::Place => 1,
            Label::Id(_) | Label::Checked { .. } => 2,
        }
    }

    fn put(self, reply: &mut Vec<u8>) {
        if let Label::Id(id) | Label::Checked { id, .. } = self {
            put_varint(reply, 1 << 3 | VARINT);
            put_varint(reply, id);
        }
        if let Label::Checked {
            checksum,
            lives_ms,
            rate,
            ..
        } = self
        {
            put_varint(reply, CHECKSUM_TAG);
            reply.extend_from_slice(&checksum.to_le_bytes());
            for (tag, value) in [(LIVES_TAG, lives_ms), (RATE_TAG, rate)] {
                if value != 0 {
                    put_varint(reply, tag);
                    put_varint(reply, value);
                }
            }
        }
    }
}

/// What stands before a frame in a reply, encoded: the frame comes right behind it.
pub(super) struct Head {
    bytes: [u8; Self::MAX_BYTES],
    len: usize,
}

impl Head {
    /// Two tags with their lengths, of up to five bytes each, an id, a time and a rate with their tags, and a checksum.
    const MAX_BYTES: usize = 2 * (1 + 5) + 3 * (1 + 10) + CHECKSUM_BYTES;

    /// For the answer with a value; the frame is the encoded `Value`, of less than 4 GiB.
    #[inline]
    pub fn of_value(label: Label, frame: &[u8]) -> Self {
        let frame_len = frame.len() as u64;
        let answer = label.len() as u64 + 1 + varint_len(frame_len) as u64 + frame_len;
        let mut head = Self {
            bytes: [0; Self::MAX_BYTES],
            len: 0,
        };
        head.put(1 << 3 | LENGTH_DELIMITED);
        head.put(answer);
        if let Label::Id(id) | Label::Checked { id, .. } = label {
            head.put(1 << 3 | VARINT);
            head.put(id);
        }
        if let Label::Checked {
            checksum,
            lives_ms,
            rate,
            ..
        } = label
        {
            head.put(CHECKSUM_TAG);
            for byte in checksum.to_le_bytes() {
                head.bytes[head.len] = byte;
                head.len += 1;
            }
            for (tag, value) in [(LIVES_TAG, lives_ms), (RATE_TAG, rate)] {
                if value != 0 {
                    head.put(tag);
                    head.put(value);
                }
            }
        }
        head.put(label.value_field() << 3 | LENGTH_DELIMITED);
        head.put(frame_len);
        head
    }

    /// The bytes that the answer takes.
    #[inline]
    pub fn with(&self, frame: &[u8]) -> usize {
        self.len + frame.len()
    }

    /// Adds the answer to a reply.
    #[inline]
    pub fn put_before(&self, frame: &[u8], reply: &mut Vec<u8>) {
        reply.extend_from_slice(&self.bytes[..self.len]);
        reply.extend_from_slice(frame);
    }

    #[inline]
    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes[self.len] = value as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.bytes[self.len] = value as u8;
        self.len += 1;
    }
}

/// An encoded `Chunk`; the first one says how large the whole value is, and how hot its key.
pub(super) fn chunk(first: Option<(u64, u32)>, data: &[u8]) -> Vec<u8> {
    const HEADS_MAX_BYTES: usize = 32;
    let mut message = Vec::with_capacity(HEADS_MAX_BYTES + data.len());
    if let Some((value_bytes, heat)) = first {
        put_varint(&mut message, 2 << 3 | VARINT);
        put_varint(&mut message, value_bytes);
        if heat != 0 {
            put_varint(&mut message, 3 << 3 | VARINT);
            put_varint(&mut message, heat.into());
        }
    }
    put_bytes(&mut message, 1, data);
    message
}

/// The bytes that [`put_failure`] adds.
pub(super) fn failure_len(label: Label, message: &str) -> usize {
    // Each of the lengths is encoded for what lies within it; a code takes a tag and a byte.
    let failure = 2 + 1 + varint_len(message.len() as u64) + message.len();
    let answer = label.len() + 1 + varint_len(failure as u64) + failure;
    1 + varint_len(answer as u64) + answer
}

/// Adds an answer with `Failure { code, message }` to a reply.
pub(super) fn put_failure(reply: &mut Vec<u8>, label: Label, code: i32, message: &str) {
    let failure = 2 + 1 + varint_len(message.len() as u64) + message.len();
    let answer = label.len() + 1 + varint_len(failure as u64) + failure;
    put_varint(reply, 1 << 3 | LENGTH_DELIMITED);
    put_varint(reply, answer as u64);
    label.put(reply);
    put_varint(reply, (label.value_field() + 1) << 3 | LENGTH_DELIMITED);
    put_varint(reply, failure as u64);
    put_varint(reply, 1 << 3 | VARINT);
    put_varint(reply, code as u64);
    put_bytes(reply, 2, message.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::any;
    use protobuf::Message;

    use super::super::pb::cache;
    use super::*;

    #[test]
    fn requests_are_read_as_protobuf_writes_them() {
        let mut message = cache::GetRequest::new();
        message.group = "blobs".into();
        message.key = "k".repeat(300);
        let bytes = message.write_to_bytes().unwrap();
        let parsed = GetRequest::parse(&bytes).unwrap();
        assert_eq!(parsed.group, b"blobs");
        assert_eq!(parsed.key, message.key.as_bytes());

        let mut message = cache::ReadRequest::new();
        message.group = "blobs".into();
        message.key = "k".into();
        message.offset = 1 << 40;
        message.length = 300;
        let bytes = message.write_to_bytes().unwrap();
        let expected = ReadRequest {
            group: b"blobs",
            key: b"k",
            offset: 1 << 40,
            length: 300,
        };
        assert_eq!(ReadRequest::parse(&bytes), Ok(expected));

        let mut message = cache::GetManyRequest::new();
        message.group = "blobs".into();
        message.keys = vec!["a".into(), String::new(), "c".into()];
        let bytes = message.write_to_bytes().unwrap();
        let parsed = GetManyRequest::parse(&bytes).unwrap();
        assert_eq!(parsed.keys, [&b"a"[..], b"", b"c"]);
    }

    #[test]
    fn a_fetch_request_is_read_as_protobuf_writes_it() {
        let mut message = cache::FetchRequest::new();
        message.group = "blobs".into();
        message.keys = vec!["a".into(), String::new()];
        message.first_id = u64::MAX;
        let bytes = message.write_to_bytes().unwrap();
        let parsed = FetchRequest::parse(&bytes).unwrap();
        assert_eq!((parsed.group, parsed.first_id), (&b"blobs"[..], u64::MAX));
        assert_eq!(parsed.keys, [&b"a"[..], b""]);
    }

    fn value(len: usize) -> (cache::Value, Vec<u8>) {
        let mut value = cache::Value::new();
        value.value = vec![7; len];
        let (prefix, used) = crate::group::frame::prefix(len);
        let frame = [&prefix[..used], &value.value].concat();
        (value, frame)
    }

    fn failure() -> cache::Failure {
        let mut failure = cache::Failure::new();
        failure.code = 5;
        failure.message = "no such key".into();
        failure
    }

    #[test]
    fn replies_are_read_by_protobuf_as_they_were_meant() {
        let mut expected = cache::GetManyReply::new();
        let mut reply = Vec::new();
        for len in [0, 1, 126, 127, 128, 20_000] {
            let (value, frame) = value(len);
            let before = reply.len();
            let head = Head::of_value(Label::Place, &frame);
            head.put_before(&frame, &mut reply);
            assert_eq!(reply.len() - before, head.with(&frame));
            expected.answers.push(Default::default());
            expected.answers.last_mut().unwrap().set_value(value);
        }
        let before = reply.len();
        put_failure(&mut reply, Label::Place, 5, "no such key");
        assert_eq!(
            reply.len() - before,
            failure_len(Label::Place, "no such key")
        );
        expected.answers.push(Default::default());
        expected.answers.last_mut().unwrap().set_failure(failure());
        assert_eq!(
            cache::GetManyReply::parse_from_bytes(&reply).unwrap(),
            expected
        );
    }

    #[test]
    fn fetched_answers_carry_their_ids() {
        let mut expected = cache::FetchReply::new();
        let mut reply = Vec::new();
        for id in [0, 1, 127, 128, 1 << 40, u64::MAX] {
            let label = Label::Id(id);
            let (value, frame) = value(120);
            let before = reply.len();
            let head = Head::of_value(label, &frame);
            head.put_before(&frame, &mut reply);
            put_failure(&mut reply, label, 5, "no such key");
            assert_eq!(
                reply.len() - before,
                head.with(&frame) + failure_len(label, "no such key")
            );
            let mut answer = cache::FetchAnswer::new();
            answer.id = id;
            answer.set_value(value);
            expected.answers.push(answer.clone());
            answer.set_failure(failure());
            expected.answers.push(answer);
        }
        assert_eq!(
            cache::FetchReply::parse_from_bytes(&reply).unwrap(),
            expected
        );
    }

    #[test]
    fn what_is_cut_short_or_unknown_is_refused_or_skipped() {
        let whole = [0x0a, 1, b'g', 0x12, 2, b'k', b'k'];
        assert!(GetRequest::parse(&whole).is_ok());
        for len in [1, 2, 4, 5, 6] {
            assert!(GetRequest::parse(&whole[..len]).is_err(), "{len} bytes");
        }
        assert!(GetRequest::parse(&[0xff; 11]).is_err());
        assert!(GetRequest::parse(&[0x0b, 0x0c]).is_err());
        // Field 9 as a varint, as 64 and as 32 bits.
        let unknown = [
            0x48, 0x80, 1, 0x49, 0, 0, 0, 0, 0, 0, 0, 0, 0x4d, 0, 0, 0, 0,
        ];
        assert!(GetRequest::parse(&unknown).is_ok());
    }

    proptest::proptest! {
        /// The same is done for longer by the fuzz target `wire`.
        #[test]
        fn whatever_comes_is_read_alike_or_refused(
            noise in vec(any::<u8>(), 0..64),
            fields in vec((0..4_u64, vec(any::<u8>(), 0..200)), 0..9),
        ) {
            let one = GetRequest::parse(&noise).is_ok();
            assert_eq!(one, GetManyRequest::parse(&noise).is_ok());
            let mut message = Vec::new();
            for (number, bytes) in &fields {
                put_bytes(&mut message, *number, bytes);
            }
            let all = |wanted| fields.iter().filter(move |(number, _)| *number == wanted);
            let keys: Vec<_> = all(2).map(|(_, key)| &key[..]).collect();
            let group = all(1).next_back().map_or(&[][..], |(_, group)| group);
            let many = GetManyRequest::parse(&message).unwrap();
            assert_eq!((many.group, &many.keys), (group, &keys));
            let one = GetRequest::parse(&message).unwrap();
            assert_eq!((one.group, one.key), (group, keys.last().copied().unwrap_or_default()));
        }
    }
}
