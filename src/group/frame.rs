//! The shape in which a value is stored: the encoded reply, `Value { bytes value = 1; }` of `cache.proto`, so that a
//! hit is sent as it lies in memory. In protobuf's wire format that is a tag byte, the length as a varint, the bytes.

/// Field 1, length-delimited.
const TAG: u8 = 0x0a;

/// The most bytes that stand in front of a value.
pub(crate) const PREFIX_MAX_BYTES: usize = 6;

/// What stands in front of a value of `len_bytes`; the bytes that count are the first `.1` of `.0`.
pub(crate) fn prefix(len_bytes: usize) -> ([u8; PREFIX_MAX_BYTES], usize) {
    let mut bytes = [0; PREFIX_MAX_BYTES];
    bytes[0] = TAG;
    let mut used = 1;
    let mut rest = u32::try_from(len_bytes).expect("a blob has at most 2 GiB");
    while rest >= 0x80 {
        bytes[used] = rest as u8 | 0x80;
        rest >>= 7;
        used += 1;
    }
    bytes[used] = rest as u8;
    (bytes, used + 1)
}

/// Whether what is stored is one frame, and not the chunks of a large value (see `chunks`).
#[cfg(any(test, feature = "server"))]
pub(crate) fn is_whole(stored: &[u8]) -> bool {
    let head = stored.iter().skip(1).zip((0..).step_by(7));
    let mut len = 0;
    for (byte, shift) in head {
        len |= usize::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return value(stored).len() == len;
        }
    }
    false
}

/// Whether what has come from elsewhere can be stored as a frame.
#[cfg(any(test, feature = "server"))]
pub(crate) fn is_valid(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(PREFIX_MAX_BYTES)];
    let ends = head.iter().skip(1).any(|byte| *byte < 0x80);
    head.first() == Some(&TAG) && ends && is_whole(bytes)
}

/// The value in a stored frame.
pub(crate) fn value(frame: &[u8]) -> &[u8] {
    let varint = frame.iter().skip(1).take_while(|byte| **byte >= 0x80);
    &frame[2 + varint.count()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_from_its_frame() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
            let (bytes, used) = prefix(len);
            let mut frame = bytes[..used].to_vec();
            frame.resize(used + len, 7);
            assert_eq!(value(&frame).len(), len);
        }
    }

    #[test]
    fn what_is_no_frame_is_known() {
        for len in [0, 1, 127, 128, 20_000] {
            let (bytes, used) = prefix(len);
            let mut frame = bytes[..used].to_vec();
            frame.resize(used + len, 7);
            assert!(is_valid(&frame));
            frame.push(7);
            assert!(!is_valid(&frame), "one byte more than it says");
            frame.truncate(frame.len() - 2);
            assert!(!is_valid(&frame), "one byte less");
        }
        let too_long = [&[TAG][..], &[0x80; 30], &[0]].concat();
        for wrong in [&b""[..], &[TAG], &[TAG, 0x80], &[0x12, 0], &too_long] {
            assert!(!is_valid(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn the_prefix_is_protobufs() {
        assert_eq!(&prefix(3).0[..prefix(3).1], [0x0a, 3]);
        assert_eq!(&prefix(300).0[..prefix(300).1], [0x0a, 0xac, 0x02]);
    }
}
