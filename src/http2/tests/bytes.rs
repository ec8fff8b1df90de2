//! Plays any bytes as what a client says, or a server, in one piece and in many: nothing breaks, and it makes no difference.

use super::super::frame::{flag, kind, put_header};
use super::super::*;
use super::client::{Pair, block, frame, greeting, settings};

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
pub(crate) fn play_frames(bytes: &[u8]) {
    play(&frames(bytes));
}

/// Gives the bytes to a call that this side has made, as what the server says after its settings and headers.
pub(crate) fn play_to_caller(bytes: &[u8]) {
    let mut all = settings(&[]);
    let head = block(&[(":status", "200")]);
    all.extend(frame(kind::HEADERS, flag::END_HEADERS, 1, &head));
    all.extend(bytes);
    let chunk_len = 1 + bytes.first().map_or(0, |byte| usize::from(*byte));
    assert_eq!(heard([&all[..]]), heard(all.chunks(chunk_len)));
}

/// The same with frames, as in [`play_frames`].
pub(crate) fn play_frames_to_caller(bytes: &[u8]) {
    play_to_caller(&frames(bytes));
}

/// What a call hears, and how it ends.
fn heard<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<End>) {
    let target = Target {
        authority: "there",
        path: "/a/b",
        is_secure: false,
    };
    let (mut call, mut heard) = (Solo::new(&target, 1000), Vec::new());
    for chunk in chunks {
        let take = |message: &[u8]| {
            heard.push(message.to_vec());
            match message {
                [b'!', ..] => Err("it is refused".to_owned()),
                _ => Ok(()),
            }
        };
        if let Err(end) = call.receive(chunk, take) {
            return (heard, Some(end));
        }
        if call.is_ready() {
            call.send(chunk, false);
        }
        call.written(call.unwritten().len());
    }
    (heard, None)
}

fn frames(mut bytes: &[u8]) -> Vec<u8> {
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
    frames
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
