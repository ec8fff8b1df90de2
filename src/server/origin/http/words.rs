//! What an origin says beside a status that is no value.

use std::io::Read;

use ureq::Body;

/// The most bytes of an answer that an error repeats.
const SAID_BYTES: usize = 200;

/// A body up to this size is read to its end, so that its connection can be used again.
const DRAINED_BYTES: u64 = 16 * 1024;

/// The first words of a body on one line, without control characters.
pub(super) fn first(body: &mut Body) -> String {
    let mut bytes = drain(body);
    bytes.truncate(SAID_BYTES);
    one_line(&bytes)
}

/// Reads a body to its end, or as far as it is worth to keep its connection.
pub(super) fn drain(body: &mut Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What came before an error is all that was said.
    let _ = body.as_reader().take(DRAINED_BYTES).read_to_end(&mut bytes);
    bytes
}

fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut line: String = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    while line.len() > SAID_BYTES {
        line.pop();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_one_short_clean_line() {
        assert_eq!(one_line(b" \r\n\0"), "");
        assert_eq!(
            one_line(b"the\r\n\tdisk \x1b[31mis\0full\n"),
            "the disk [31mis full"
        );
        assert_eq!(
            one_line("\u{85}caf\u{e9}\u{202e}".as_bytes()),
            "café\u{202e}"
        );
        let long = one_line(&[0xff; SAID_BYTES]);
        assert!(long.len() <= SAID_BYTES && long.starts_with('\u{fffd}'));
    }
}
