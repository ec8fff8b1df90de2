//! Plays any bytes as what a client says, in one piece and in many: nothing breaks, and it makes no difference.

use super::super::frame::{FRAME_MAX_BYTES, put_header};
use super::super::*;
use super::client::{Pair, greeting};

/// Gives the bytes to a connection as they are, after the greeting.
pub(crate) fn play(bytes: &[u8]) {
    let all = [&greeting(), bytes].concat();
    let chunk_len = 1 + bytes.first().map_or(0, |byte| usize::from(*byte));
    let whole = outcome([&all[..]], usize::MAX);
    let cut = outcome(all.chunks(chunk_len), 1);
    if whole.has_queued || cut.has_queued {
        return; // whether a stream has ended when the next frame of it comes depends on the cuts
    }
    assert_eq!(whole.events, cut.events);
    assert_eq!(whole.end, cut.end);
    assert_eq!(whole.written, cut.written);
}

/// The same with frames that have their lengths right: each is of a kind, flags, a stream below 16, a length, and the payload.
pub(crate) fn play_frames(mut bytes: &[u8]) {
    let mut frames = Vec::new();
    while let [kind, flags, stream, len, rest @ ..] = bytes {
        let (payload, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        put_header(
            &mut frames,
            payload.len(),
            kind % 11,
            *flags,
            u32::from(stream % 16),
        );
        frames.extend_from_slice(payload);
        bytes = rest;
    }
    assert!(frames.len() <= FRAME_MAX_BYTES as usize * 1000);
    play(&frames);
}

#[derive(Debug, PartialEq)]
pub(super) struct Outcome {
    /// What the handler was asked.
    pub events: Vec<String>,
    /// What the client got, all in the end: the order of frames does not depend on when they are written then.
    pub written: Vec<u8>,
    pub end: Option<Closing>,
    /// An answer has not left at once.
    has_queued: bool,
}

/// What comes of bytes that come in these portions.
pub(super) fn outcome<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, calls_max: usize) -> Outcome {
    let mut pair = Pair::with(Limits {
        out_bytes_max: usize::MAX,
        ..Limits::default()
    });
    let mut end = None;
    for chunk in chunks {
        let mut bytes = chunk;
        while end.is_none() {
            let (now, echo) = (pair.now, &mut pair.echo);
            match pair.connection.receive(bytes, now, calls_max, echo) {
                Ok(Progress::All) => break,
                Ok(Progress::More) => bytes = b"",
                Ok(Progress::Blocked) => panic!("there is room for all"),
                Err(closing) => end = Some(closing),
            }
            pair.connection.validate();
        }
    }
    let written = pair.bytes();
    pair.connection.end(&mut pair.echo);
    Outcome {
        events: pair.echo.events,
        written,
        end,
        has_queued: pair.connection.sending.has_queued,
    }
}
