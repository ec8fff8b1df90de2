//! The Huffman code of RFC 7541, appendix B. It is canonical: codes of one length follow each other in the order of their
//! symbols, and longer ones come after shorter ones. So the lengths tell all.

use super::decode::Failed;

/// The length in bits of each symbol's code; the last is the end of string.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const END_OF_STRING: u16 = 256;
const LONGEST_BITS: usize = 30;

struct Code {
    /// The code of each symbol, in its low bits.
    codes: [u32; 257],
    /// All symbols in the order of their codes.
    symbols: [u16; 257],
    /// For each length: the codes of up to this length end here, were they all filled up to 32 bits with zeros.
    ends: [u64; LONGEST_BITS + 1],
    /// For each length: what to add to a code of it to find its place in `symbols`.
    offsets: [i64; LONGEST_BITS + 1],
    /// For the next 8 bits: symbol and length, where the code is not longer; else length 0.
    short: [(u8, u8); 256],
}

const fn code() -> Code {
    let mut made = Code {
        codes: [0; 257],
        symbols: [0; 257],
        ends: [0; LONGEST_BITS + 1],
        offsets: [0; LONGEST_BITS + 1],
        short: [(0, 0); 256],
    };
    let (mut next, mut place, mut len) = (0u64, 0, 1);
    while len <= LONGEST_BITS {
        next <<= 1;
        made.offsets[len] = place as i64 - next as i64;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == len {
                made.codes[symbol] = next as u32;
                made.symbols[place] = symbol as u16;
                if len <= 8 {
                    let mut fill = 0;
                    while fill < 1 << (8 - len) {
                        made.short[((next as usize) << (8 - len)) | fill] =
                            (symbol as u8, len as u8);
                        fill += 1;
                    }
                }
                place += 1;
                next += 1;
            }
            symbol += 1;
        }
        made.ends[len] = next << (32 - len);
        len += 1;
    }
    made
}

static CODE: Code = code();

/// The symbol whose code is longer than 8 bits, and its length: what `next` begins with.
fn long(next: u32) -> (u16, u32) {
    let mut len = 9;
    while u64::from(next) >= CODE.ends[len] {
        len += 1; // the code is complete: the last end is 2^32
    }
    let place = i64::from(next >> (32 - len)) + CODE.offsets[len];
    (CODE.symbols[place as usize], len as u32)
}

/// Appends what `bytes` are the code of.
pub(super) fn decode(mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Failed> {
    // The next bits to read are the highest; below them are ones.
    let (mut bits, mut filled) = (u64::MAX, 0u32);
    loop {
        while filled <= 56 {
            let Some((&byte, rest)) = bytes.split_first() else {
                break;
            };
            let shift = 56 - filled;
            bits = bits & !(0xff << shift) | u64::from(byte) << shift;
            filled += 8;
            bytes = rest;
        }
        let (symbol, len) = CODE.short[(bits >> 56) as usize];
        let (symbol, len) = match len {
            0 => long((bits >> 32) as u32),
            _ => (u16::from(symbol), u32::from(len)),
        };
        if len > filled {
            // Less than a code is left: padding, which is the beginning of the end of string.
            return if filled < 8 && bits == u64::MAX {
                Ok(())
            } else {
                Err(Failed)
            };
        }
        if symbol == END_OF_STRING {
            return Err(Failed);
        }
        out.push(symbol as u8);
        bits = bits << len | ((1 << len) - 1);
        filled -= len;
    }
}

/// The bytes that the code of `bytes` takes.
pub(super) fn encoded_len(bytes: &[u8]) -> usize {
    let bits: usize = bytes
        .iter()
        .map(|byte| usize::from(LENGTHS[usize::from(*byte)]))
        .sum();
    bits.div_ceil(8)
}

/// Appends the code of `bytes`.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut filled) = (0u64, 0u32);
    for &byte in bytes {
        let len = u32::from(LENGTHS[usize::from(byte)]);
        bits = bits << len | u64::from(CODE.codes[usize::from(byte)]);
        filled += len;
        while filled >= 8 {
            filled -= 8;
            out.push((bits >> filled) as u8);
        }
    }
    if filled > 0 {
        let padding = 8 - filled;
        out.push((bits << padding) as u8 | ((1 << padding) - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut out = Vec::new();
        decode(bytes, &mut out).map(|()| out)
    }

    #[test]
    fn codes_that_appendix_b_names() {
        for (symbol, code) in [
            (0, 0x1ff8),
            (usize::from(b'%'), 0x15),
            (usize::from(b'0'), 0x0),
            (usize::from(b'~'), 0x1ffd),
            (127, 0x0fff_fffc),
            (128, 0xfffe6),
            (249, 0x0fff_fffe),
            (255, 0x3ff_ffee),
            (256, 0x3fff_ffff),
        ] {
            assert_eq!(CODE.codes[symbol], code, "{symbol}");
        }
        assert_eq!(CODE.ends[LONGEST_BITS], 1 << 32, "it is complete");
    }

    #[test]
    fn strings_of_the_examples() {
        for (text, code) in [
            (
                &b"www.example.com"[..],
                &[
                    0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ][..],
            ),
            (b"no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            (b"302", &[0x64, 0x02]),
            (b"", &[]),
        ] {
            assert_eq!(decoded(code).as_deref(), Ok(text));
            let mut out = Vec::new();
            encode(text, &mut out);
            assert_eq!((&out[..], encoded_len(text)), (code, code.len()));
        }
    }

    #[test]
    fn each_pair_of_bytes_comes_back() {
        for first in 0..=255 {
            for second in 0..=255 {
                let mut out = Vec::new();
                encode(&[first, second], &mut out);
                assert_eq!(decoded(&out), Ok(vec![first, second]));
            }
        }
    }

    #[test]
    fn padding_is_less_than_a_byte_of_ones() {
        assert_eq!(decoded(&[0b0000_0111]), Ok(b"0".to_vec()));
        assert_eq!(decoded(&[0b0000_0110]), Err(Failed), "not all ones");
        assert_eq!(
            decoded(&[0b0000_0111, 0xff]),
            Err(Failed),
            "more than 7 bits"
        );
        assert_eq!(
            decoded(&[0xff, 0xff, 0xff, 0xfc]),
            Err(Failed),
            "the end of string"
        );
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(Failed), "and more");
        assert_eq!(decoded(&[0xff]), Err(Failed), "nothing but padding");
    }
}
