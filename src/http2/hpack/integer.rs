//! Integers with a prefix (RFC 7541, 5.1).

use super::decode::Failed;

/// Reads an integer whose first byte has `prefix_bits` bits for it, and moves `bytes` past it.
pub(super) fn take(bytes: &mut &[u8], prefix_bits: u32) -> Result<usize, Failed> {
    let (&first, mut rest) = bytes.split_first().ok_or(Failed)?;
    let most = (1usize << prefix_bits) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        // Nothing that is this long can be meant: four bytes more are 2^28.
        for shift in [0, 7, 14, 21] {
            let (&byte, after) = rest.split_first().ok_or(Failed)?;
            rest = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                *bytes = rest;
                return Ok(value);
            }
        }
        return Err(Failed);
    }
    *bytes = rest;
    Ok(value)
}

/// Appends an integer; `pattern` is what stands in the first byte before its prefix.
pub(super) fn put(out: &mut Vec<u8>, pattern: u8, prefix_bits: u32, value: usize) {
    let most = (1usize << prefix_bits) - 1;
    if value < most {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        for (value, prefix_bits, bytes) in [
            (10, 5, &[0b01010][..]),
            (1337, 5, &[0b11111, 0b1001_1010, 0b0000_1010]),
            (42, 8, &[42]),
        ] {
            let mut out = Vec::new();
            put(&mut out, 0, prefix_bits, value);
            assert_eq!(out, bytes);
            let mut rest = bytes;
            assert_eq!(take(&mut rest, prefix_bits), Ok(value));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn what_is_too_long_or_has_no_end_is_refused() {
        for bytes in [
            &[][..],
            &[0xff],
            &[0xff, 0x80],
            &[0xff, 0x80, 0x80, 0x80, 0x80, 0x01],
            &[0xff; 9],
        ] {
            assert_eq!(take(&mut &bytes[..], 7), Err(Failed), "{bytes:x?}");
        }
    }

    #[test]
    fn each_value_comes_back() {
        for value in (0..5000).chain([1 << 20, (1 << 28) - 1]) {
            for prefix_bits in 4..=7 {
                let mut out = Vec::new();
                put(&mut out, 0, prefix_bits, value);
                assert_eq!(take(&mut &out[..], prefix_bits), Ok(value));
            }
        }
    }
}
