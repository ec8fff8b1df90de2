//! What gRPC adds to HTTP/2: the prefix of a message, timeouts, and text in trailers
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::time::Duration;

/// What stands before each message: whether it is compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// The prefix of a message that is not compressed.
pub(super) fn prefix(len: usize) -> [u8; PREFIX_BYTES] {
    let [a, b, c, d] = (len as u32).to_be_bytes();
    [0, a, b, c, d]
}

/// The flag and the length that a message begins with; none if it is too short for that.
pub(super) fn read_prefix(bytes: &[u8]) -> Option<(u8, usize)> {
    let &[flag, a, b, c, d, ..] = bytes else {
        return None;
    };
    Some((flag, u32::from_be_bytes([a, b, c, d]) as usize))
}

/// Whether a content type is gRPC's: `application/grpc`, alone or with a format or parameters.
pub(super) fn is_content_type(value: &[u8]) -> bool {
    match value.strip_prefix(b"application/grpc") {
        Some([]) => true,
        Some([next, ..]) => matches!(next, b'+' | b';'),
        None => false,
    }
}

/// A `grpc-timeout`: up to eight digits and a unit.
pub(super) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits
        .iter()
        .fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Percent-encodes a message for its trailer, and cuts it where it would exceed `max_bytes`.
pub(super) fn percent_encoded(message: &str, max_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len().min(max_bytes));
    let mut utf8 = [0; 4];
    for char in message.chars() {
        let before = out.len();
        for &byte in char.encode_utf8(&mut utf8).as_bytes() {
            match byte {
                b'%' | ..0x20 | 0x7f.. => {
                    let digit = |digit: u8| b"0123456789ABCDEF"[usize::from(digit)];
                    out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 0xf)]);
                }
                _ => out.push(byte),
            }
        }
        if out.len() > max_bytes {
            out.truncate(before);
            break;
        }
    }
    out
}

/// The text of a message's trailer. What is not as it should be is left as it is.
pub(super) fn percent_decoded(value: &[u8]) -> String {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| {
            after
                .get(at)
                .and_then(|&digit| char::from(digit).to_digit(16))
        };
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                rest = &after[2..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        for value in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=utf-8",
        ] {
            assert!(is_content_type(value.as_bytes()), "{value}");
        }
        for value in [
            "",
            "application/grpcx",
            "application/grpc-web",
            "application/json",
        ] {
            assert!(!is_content_type(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn timeouts() {
        for (value, nanos) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("4m", 4_000_000),
            ("5u", 5_000),
            ("99999999n", 99_999_999),
        ] {
            assert_eq!(timeout(value.as_bytes()), Some(Duration::from_nanos(nanos)));
        }
        for value in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "1.5S",
            "123456789S",
            "1 S",
        ] {
            assert_eq!(timeout(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn messages_are_text_that_a_trailer_can_hold() {
        assert_eq!(percent_encoded("a b~", 99), b"a b~");
        assert_eq!(percent_encoded("100%\n\u{7f}", 99), b"100%25%0A%7F");
        assert_eq!(percent_encoded("\u{e9}x", 99), b"%C3%A9x");
        assert_eq!(
            percent_encoded("a\u{e9}x", 6),
            b"a",
            "no half of a character"
        );
        assert_eq!(percent_encoded("abc", 2), b"ab");
    }

    #[test]
    fn messages_come_back() {
        for message in ["", "a b~", "100%", "\n\u{e9}\u{7f}%41", "%"] {
            let encoded = percent_encoded(message, 99);
            assert_eq!(percent_decoded(&encoded), message);
        }
        assert_eq!(percent_decoded(b"50% of it%4"), "50% of it%4");
        assert_eq!(percent_decoded(b"%ff"), "\u{fffd}");
    }
}
