use std::sync::Arc;
use std::time::Instant;

use super::super::tests::client::{Echo, block, frame as frame_of, message, settings};
use super::super::{Connection, Limits, Progress};
use super::*;

const MESSAGE_MAX_BYTES: usize = 4 << 20;

fn target(path: &'static str) -> Target<'static> {
    Target {
        authority: "there:8800",
        path,
        is_secure: false,
    }
}

/// A call, and the server that it is made to.
struct Pair {
    solo: Solo,
    server: Connection,
    echo: Echo,
    taken: Vec<Vec<u8>>,
    piece_bytes: usize,
    /// The server has not taken all, until something is written.
    is_blocked: bool,
}

impl Pair {
    fn new(path: &'static str, piece_bytes: usize) -> Self {
        let limits = Limits {
            message_bytes: MESSAGE_MAX_BYTES,
            assembling_bytes: 2 * MESSAGE_MAX_BYTES,
            ..Limits::default()
        };
        Self {
            solo: Solo::new(&target(path), MESSAGE_MAX_BYTES),
            server: Connection::new(Arc::new(limits), Arc::default(), Instant::now()),
            echo: Echo::default(),
            taken: Vec::new(),
            piece_bytes,
            is_blocked: false,
        }
    }

    fn serve(&mut self, mut bytes: &[u8]) {
        self.is_blocked = false;
        loop {
            let received = self
                .server
                .receive(bytes, Instant::now(), 100, &mut self.echo);
            match received.expect("what a server takes") {
                Progress::More => bytes = &[],
                Progress::Blocked => return self.is_blocked = true,
                _ => return,
            }
        }
    }

    /// Carries what each has to say to the other, in pieces, until neither has anything.
    fn carry(&mut self) -> Result<(), End> {
        loop {
            let said = self.solo.unwritten().to_vec();
            self.solo.written(said.len());
            for piece in said.chunks(self.piece_bytes) {
                self.serve(piece);
            }
            let answered: Vec<u8> = self.server.pieces().flatten().copied().collect();
            self.server.written(answered.len());
            if self.is_blocked {
                self.serve(&[]);
            }
            let mut end = Ok(());
            for piece in answered.chunks(self.piece_bytes) {
                let taken = &mut self.taken;
                end = end.and_then(|()| {
                    self.solo.receive(piece, |message| {
                        taken.push(message.to_vec());
                        Ok(())
                    })
                });
            }
            end?;
            if said.is_empty() && answered.is_empty() {
                return Ok(());
            }
        }
    }
}

#[test]
fn messages_go_both_ways_wherever_they_are_cut() {
    for piece_bytes in [1, 2, 7, 100, 16_384, 1 << 20] {
        let mut pair = Pair::new("/echo/Stream", piece_bytes);
        pair.carry().expect("a stream");
        let messages = [&b"one"[..], b"", &[b'x'; 5000], b"last"];
        for text in messages {
            assert!(pair.solo.is_ready());
            pair.solo.send(text, false);
            pair.carry().expect("a stream");
        }
        assert_eq!(pair.taken, messages, "in pieces of {piece_bytes}");
    }
}

#[test]
fn a_call_of_one_message_ends_with_its_status() {
    let ok = Status::new(Code::OK, "");
    for piece_bytes in [1, 10, 1 << 20] {
        let mut pair = Pair::new("/echo/Unary", piece_bytes);
        pair.solo.send(b"hello", true);
        assert!(!pair.solo.is_ready(), "there is no message after the last");
        assert_eq!(pair.carry(), Err(End::Status(ok.clone())));
        assert_eq!(pair.taken, [b"hello"]);
    }
    let mut pair = Pair::new("/echo/Unary", 100);
    pair.solo.send("fail 100% of \u{e9}".as_bytes(), true);
    let status = Status::new(Code::NOT_FOUND, "100% of \u{e9}");
    assert_eq!(pair.carry(), Err(End::Status(status)));
    let mut pair = Pair::new("/echo/None", 100);
    let status = Status::new(Code::UNIMPLEMENTED, "no /echo/None here");
    assert_eq!(pair.carry(), Err(End::Status(status)));
}

#[test]
fn what_is_larger_than_all_windows_comes_whole() {
    let mut pair = Pair::new("/echo/Unary", 10_000);
    let text = vec![b'y'; MESSAGE_MAX_BYTES];
    pair.solo.send(&text, true);
    assert!(matches!(pair.carry(), Err(End::Status(_))));
    assert!(pair.taken == [text]);
    let mut pair = Pair::new("/echo/Stream", 10_000);
    for _ in 0..3 {
        let text = vec![b'z'; 3 << 20];
        pair.taken.clear();
        pair.solo.send(&text, false);
        pair.carry().expect("a stream");
        assert!(pair.taken == [text]);
        assert!(pair.solo.is_ready());
    }
    assert!(pair.solo.message.capacity() + pair.solo.out.capacity() < 1 << 20);
}

#[test]
fn no_message_is_asked_for_that_has_no_room() {
    let mut solo = Solo::new(&target("/a/b"), MESSAGE_MAX_BYTES);
    solo.send(&[1; 65_000], false);
    solo.send(&[1; 500], false);
    assert!(!solo.is_ready(), "they are not written");
    solo.written(solo.unwritten().len());
    assert!(solo.is_ready());
    solo.send(&[1; 999], false);
    solo.written(solo.unwritten().len());
    assert!(!solo.is_ready(), "the window is used up");
    let mut said = settings(&[]);
    said.extend(frame_of(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 16, 0]));
    said.extend(frame_of(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 16, 0]));
    solo.receive(&said, |_| Ok(())).expect("what it takes");
    assert!(solo.is_ready());
}

/// There is always something left that the peer has not taken.
#[test]
fn what_is_written_is_kept_no_longer_although_more_always_follows() {
    let mut solo = Solo::new(&target("/echo/Stream"), MESSAGE_MAX_BYTES);
    solo.sending.connection = i64::MAX / 2;
    solo.sending.stream = i64::MAX / 2;
    let mut written = Vec::new();
    for _ in 0..10_000 {
        solo.send(&[7; 1000], false);
        let some = solo.unwritten().len() - 10;
        written.extend_from_slice(&solo.unwritten()[..some]);
        solo.written(some);
        let kept_bytes = solo.out.len();
        assert!(kept_bytes <= 3 * UNWRITTEN_BYTES, "{kept_bytes}");
    }
    let whole = solo.unwritten();
    assert_eq!(whole.len(), 10);
    written.extend_from_slice(whole);
    let said = written.windows(1000).filter(|bytes| *bytes == [7; 1000]);
    assert_eq!(said.count(), 10_000);
}

#[test]
fn a_peer_that_takes_no_answers_does_not_have_them_pile_up() {
    for asked in [frame_of(kind::PING, 0, 0, &[0; 8]), settings(&[])] {
        let mut solo = Solo::new(&target("/a/b"), 1000);
        solo.receive(&settings(&[]), |_| Ok(())).expect("settings");
        let mut ask = || solo.receive(&asked, |_| Ok(()));
        let end = (0..2 * ANSWERS_MAX).find_map(|_| ask().err());
        assert!(
            matches!(end, Some(End::Broken(why)) if why.contains("before it took the answers"))
        );
    }
}

#[test]
fn a_peer_that_takes_answers_may_ask_for_ever() {
    let ping = frame_of(kind::PING, 0, 0, &[0; 8]);
    let mut solo = Solo::new(&target("/a/b"), 1000);
    solo.receive(&settings(&[]), |_| Ok(())).expect("settings");
    for _ in 0..10 * ANSWERS_MAX {
        solo.receive(&ping, |_| Ok(())).expect("a ping");
        // Something is always left of what it was answered.
        solo.written(solo.unwritten().len() - 10);
    }
}

/// What the call says to what a peer has sent, after its settings and, if `has_begun`, its headers.
fn said_to(has_begun: bool, bytes: &[u8]) -> Result<Vec<u8>, End> {
    let mut solo = Solo::new(&target("/a/b"), 1000);
    solo.receive(&settings(&[]), |_| Ok(()))?;
    if has_begun {
        let head = block(&[(":status", "200"), ("content-type", "application/grpc")]);
        let head = frame_of(kind::HEADERS, flag::END_HEADERS, STREAM, &head);
        solo.receive(&head, |_| Ok(()))?;
    }
    solo.written(solo.unwritten().len());
    let refuse_wrong = |message: &[u8]| match message {
        b"wrong" => Err("it is wrong".to_owned()),
        _ => Ok(()),
    };
    solo.receive(bytes, refuse_wrong)?;
    Ok(solo.unwritten().to_vec())
}

#[test]
fn what_is_wrong_ends_the_call_and_says_so() {
    let data = |flags, payload: &[u8]| frame_of(kind::DATA, flags, STREAM, payload);
    let head = |flags, fields: &[(&str, &str)]| {
        frame_of(
            kind::HEADERS,
            flags | flag::END_HEADERS,
            STREAM,
            &block(fields),
        )
    };
    let goaway = [&7_u32.to_be_bytes()[..], &11_u32.to_be_bytes(), b"calm"].concat();
    for (bytes, why) in [
        (data(0, &message(b"wrong")), "it is wrong"),
        (data(0, &message(&[0; 1001])), "a message of 1001 bytes"),
        (data(0, &[1, 0, 0, 0, 1, 0]), "compressed"),
        (data(flag::END_STREAM, b""), "without a status"),
        (data(flag::PADDED, &[9, 0]), "more padding"),
        (frame_of(kind::DATA, 0, 3, b"x"), "before its headers"),
        (
            [
                frame_of(kind::HEADERS, 0, 1, b""),
                frame_of(kind::PING, 0, 0, &[0; 8]),
            ]
            .concat(),
            "within its headers",
        ),
        (head(flag::END_STREAM, &[]), "without a status"),
        (
            head(flag::END_STREAM, &[(":status", "503")]),
            "HTTP's status 503",
        ),
        (
            frame_of(kind::HEADERS, flag::END_HEADERS, 1, &[0xff; 20]),
            "not HPACK",
        ),
        (frame_of(kind::CONTINUATION, 0, 1, b""), "not begun"),
        (frame_of(kind::RST_STREAM, 0, 1, &[0, 0, 0, 7]), "code 7"),
        (frame_of(kind::RST_STREAM, 0, 1, &[0]), "cut short"),
        (frame_of(kind::GOAWAY, 0, 0, &goaway), "code 11: calm"),
        (frame_of(kind::GOAWAY, 0, 0, &[0; 8]), "goes away"),
        (frame_of(kind::PING, 0, 0, &[0; 7]), "cut short"),
        (frame_of(kind::PUSH_PROMISE, 0, 1, &[0; 4]), "pushes"),
        (
            frame_of(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]),
            "larger window",
        ),
        (vec![0xff; 20], "a frame of 16777215 bytes"),
    ] {
        match said_to(true, &bytes) {
            Err(End::Broken(said)) => assert!(said.contains(why), "{said}, not {why}"),
            other => panic!("{other:?}, not {why}"),
        }
    }
    let mut solo = Solo::new(&target("/a/b"), 1000);
    let end = solo.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n", |_| Ok(()));
    assert_eq!(end, broken("it does not speak HTTP/2"));
}

#[test]
fn what_only_has_to_be_answered_is() {
    let ping = |flags| frame_of(kind::PING, flags, 0, b"12345678");
    assert_eq!(said_to(true, &ping(0)), Ok(ping(flag::ACK)));
    assert_eq!(said_to(true, &ping(flag::ACK)), Ok(Vec::new()));
    let ack = frame_of(kind::SETTINGS, flag::ACK, 0, b"");
    assert_eq!(said_to(false, &settings(&[(3, 100)])), Ok(ack));
    let drains = [&0x7fff_ffff_u32.to_be_bytes()[..], &[0; 4]].concat();
    assert_eq!(
        said_to(true, &frame_of(kind::GOAWAY, 0, 0, &drains)),
        Ok(Vec::new())
    );
    let interim = block(&[(":status", "103")]);
    let interim = frame_of(kind::HEADERS, flag::END_HEADERS, 1, &interim);
    assert_eq!(said_to(false, &interim), Ok(Vec::new()));
    assert_eq!(
        said_to(false, &frame_of(0xaa, 0, 0, b"grease")),
        Ok(Vec::new())
    );
}

#[test]
fn headers_may_come_in_parts_with_padding_and_priority() {
    let fields = block(&[
        (":status", "200"),
        ("grpc-status", "5"),
        ("grpc-message", "no%20key"),
    ]);
    let (one, other) = fields.split_at(7);
    let padded = [&[2, 0, 0, 0, 0, 9][..], one, &[0, 0]].concat();
    let flags = flag::PADDED | flag::PRIORITY | flag::END_STREAM;
    let mut bytes = frame_of(kind::HEADERS, flags, STREAM, &padded);
    bytes.extend(frame_of(
        kind::CONTINUATION,
        flag::END_HEADERS,
        STREAM,
        other,
    ));
    let status = Status::new(Code::NOT_FOUND, "no key");
    assert_eq!(said_to(false, &bytes), Err(End::Status(status)));
}
