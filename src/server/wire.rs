//! The requests of `cache.proto`, read in place, and the reply to `GetMany`, put together from stored frames.
//!
//! The generated messages would copy every key and check it for UTF-8. These few lines of protobuf's wire format
//! (<https://protobuf.dev/programming-guides/encoding>) borrow from the request, and take keys as the bytes they are.

/// A request that is not what it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request is not a valid {0} message; send one as cache.proto defines it")]
pub(super) struct Malformed(&'static str);

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
        let well_formed = for_each_field(bytes, |number, value| match number {
            1 => request.group = value,
            2 => request.key = value,
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
            keys: Vec::new(),
        };
        let well_formed = for_each_field(bytes, |number, value| match number {
            1 => request.group = value,
            2 => request.keys.push(value),
            _ => {}
        });
        well_formed.ok_or(Malformed("GetManyRequest"))?;
        Ok(request)
    }
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

/// Shows `f` each length-delimited field; fields of other types are skipped, as unknown ones are to be. None if the
/// message is cut short, or of a type that proto3 does not have.
fn for_each_field<'a>(mut rest: &'a [u8], mut f: impl FnMut(u64, &'a [u8])) -> Option<()> {
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        match key & 7 {
            VARINT => drop(take_varint(&mut rest)?),
            FIXED64 => drop(take(&mut rest, 8)?),
            FIXED32 => drop(take(&mut rest, 4)?),
            LENGTH_DELIMITED => {
                let len = usize::try_from(take_varint(&mut rest)?).ok()?;
                f(key >> 3, take(&mut rest, len)?);
            }
            _ => return None,
        }
    }
    Some(())
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(head)
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
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

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | LENGTH_DELIMITED);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The bytes that [`put_value`] adds.
pub(super) fn value_len(frame: &[u8]) -> usize {
    let answer = 1 + varint_len(frame.len() as u64) + frame.len();
    1 + varint_len(answer as u64) + answer
}

/// Adds `Answer { value }` to a `GetManyReply`; the frame is the encoded `Value`.
pub(super) fn put_value(reply: &mut Vec<u8>, frame: &[u8]) {
    let answer = 1 + varint_len(frame.len() as u64) + frame.len();
    put_varint(reply, 1 << 3 | LENGTH_DELIMITED);
    put_varint(reply, answer as u64);
    put_bytes(reply, 1, frame);
}

/// The bytes that [`put_failure`] adds.
pub(super) fn failure_len(message: &str) -> usize {
    // Each of the three lengths is encoded for what lies within it; a code takes a tag and a byte.
    let failure = 2 + 1 + varint_len(message.len() as u64) + message.len();
    let answer = 1 + varint_len(failure as u64) + failure;
    1 + varint_len(answer as u64) + answer
}

/// Adds `Answer { failure: Failure { code, message } }` to a `GetManyReply`.
pub(super) fn put_failure(reply: &mut Vec<u8>, code: i32, message: &str) {
    let failure = 2 + 1 + varint_len(message.len() as u64) + message.len();
    put_varint(reply, 1 << 3 | LENGTH_DELIMITED);
    put_varint(reply, (1 + varint_len(failure as u64) + failure) as u64);
    put_varint(reply, 2 << 3 | LENGTH_DELIMITED);
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

        let mut message = cache::GetManyRequest::new();
        message.group = "blobs".into();
        message.keys = vec!["a".into(), String::new(), "c".into()];
        let bytes = message.write_to_bytes().unwrap();
        let parsed = GetManyRequest::parse(&bytes).unwrap();
        assert_eq!(parsed.keys, [&b"a"[..], b"", b"c"]);
    }

    #[test]
    fn replies_are_read_by_protobuf_as_they_were_meant() {
        let mut expected = cache::GetManyReply::new();
        let mut reply = Vec::new();
        for len in [0, 1, 126, 127, 128, 20_000] {
            let mut value = cache::Value::new();
            value.value = vec![7; len];
            let (prefix, used) = crate::group::frame::prefix(len);
            let frame = [&prefix[..used], &value.value].concat();
            let before = reply.len();
            put_value(&mut reply, &frame);
            assert_eq!(reply.len() - before, value_len(&frame));
            expected.answers.push(Default::default());
            expected.answers.last_mut().unwrap().set_value(value);
        }
        let before = reply.len();
        put_failure(&mut reply, 5, "no such key");
        assert_eq!(reply.len() - before, failure_len("no such key"));
        let mut failure = cache::Failure::new();
        failure.code = 5;
        failure.message = "no such key".into();
        expected.answers.push(Default::default());
        expected.answers.last_mut().unwrap().set_failure(failure);
        assert_eq!(
            cache::GetManyReply::parse_from_bytes(&reply).unwrap(),
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
