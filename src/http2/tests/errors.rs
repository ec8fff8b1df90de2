//! What is malformed, and the error that RFC 9113 or gRPC names for it.

use super::super::frame::{flag, kind, setting};
use super::super::*;
use super::client::*;

const HEAD: &str = ":status=200 content-type=application/grpc";

fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(
        kind::HEADERS,
        flag::END_HEADERS | flags,
        stream,
        &block(fields),
    )
}

/// An open call.
fn opened(stream: u32) -> Vec<u8> {
    headers(0, stream, &head_of("/echo/Unary"))
}

#[test]
fn errors_of_the_connection() {
    let protocol = ErrorCode::PROTOCOL_ERROR;
    let size = ErrorCode::FRAME_SIZE_ERROR;
    let cases: &[(ErrorCode, &str, Vec<u8>)] = &[
        (
            protocol,
            "DATA on the connection",
            frame(kind::DATA, 0, 0, b"x"),
        ),
        (
            protocol,
            "DATA on an idle stream",
            frame(kind::DATA, 0, 1, b"x"),
        ),
        (
            protocol,
            "HEADERS on the connection",
            headers(0, 0, &head_of("/")),
        ),
        (
            protocol,
            "HEADERS on a stream of ours",
            headers(0, 2, &head_of("/")),
        ),
        (
            protocol,
            "padding",
            frame(
                kind::HEADERS,
                flag::END_HEADERS | flag::PADDED,
                1,
                b"\x05abcd",
            ),
        ),
        (
            protocol,
            "padding",
            [opened(1), frame(kind::DATA, flag::PADDED, 1, b"\x05abcd")].concat(),
        ),
        (
            size,
            "no room for a priority",
            frame(
                kind::HEADERS,
                flag::END_HEADERS | flag::PRIORITY,
                1,
                b"1234",
            ),
        ),
        (protocol, "RST_STREAM on the connection", reset(0)),
        (protocol, "RST_STREAM on an idle stream", reset(1)),
        (
            size,
            "RST_STREAM",
            [opened(1), frame(kind::RST_STREAM, 0, 1, b"123")].concat(),
        ),
        (
            protocol,
            "SETTINGS on a stream",
            frame(kind::SETTINGS, 0, 1, b""),
        ),
        (size, "SETTINGS", frame(kind::SETTINGS, 0, 0, b"12345")),
        (
            size,
            "an acknowledgement",
            frame(kind::SETTINGS, flag::ACK, 0, b"123456"),
        ),
        (
            protocol,
            "ENABLE_PUSH",
            settings(&[(setting::ENABLE_PUSH, 2)]),
        ),
        (
            protocol,
            "MAX_FRAME_SIZE",
            settings(&[(setting::MAX_FRAME_SIZE, 16_383)]),
        ),
        (
            protocol,
            "MAX_FRAME_SIZE",
            settings(&[(setting::MAX_FRAME_SIZE, 1 << 24)]),
        ),
        (
            ErrorCode::FLOW_CONTROL_ERROR,
            "a window",
            settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]),
        ),
        (
            protocol,
            "PUSH_PROMISE",
            frame(kind::PUSH_PROMISE, 0, 1, b"1234"),
        ),
        (
            protocol,
            "PING on a stream",
            frame(kind::PING, 0, 1, b"12345678"),
        ),
        (size, "PING", frame(kind::PING, 0, 0, b"1234567")),
        (
            protocol,
            "GOAWAY on a stream",
            frame(kind::GOAWAY, 0, 1, b"12345678"),
        ),
        (size, "GOAWAY", frame(kind::GOAWAY, 0, 0, b"1234567")),
        (protocol, "WINDOW_UPDATE of nothing", window_update(0, 0)),
        (
            protocol,
            "WINDOW_UPDATE on an idle stream",
            window_update(1, 1),
        ),
        (
            size,
            "WINDOW_UPDATE",
            frame(kind::WINDOW_UPDATE, 0, 0, b"123"),
        ),
        (
            ErrorCode::FLOW_CONTROL_ERROR,
            "a window",
            window_update(0, i32::MAX as u32),
        ),
        (
            protocol,
            "CONTINUATION",
            frame(kind::CONTINUATION, flag::END_HEADERS, 1, b""),
        ),
        (
            protocol,
            "CONTINUATION",
            [opened(1), frame(kind::CONTINUATION, 0, 1, b"")].concat(),
        ),
        (
            protocol,
            "an interruption",
            [
                frame(kind::HEADERS, 0, 1, b""),
                frame(kind::PING, 0, 0, &[0; 8]),
            ]
            .concat(),
        ),
        (
            protocol,
            "another's",
            [
                frame(kind::HEADERS, 0, 1, b""),
                frame(kind::CONTINUATION, 0, 3, b""),
            ]
            .concat(),
        ),
        (
            protocol,
            "PRIORITY on the connection",
            frame(kind::PRIORITY, 0, 0, b"12345"),
        ),
        (size, "PRIORITY", frame(kind::PRIORITY, 0, 1, b"1234")),
        (
            protocol,
            "PRIORITY of itself",
            frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0]),
        ),
        (
            ErrorCode::COMPRESSION_ERROR,
            "an index",
            frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xff, 0x7f]),
        ),
        (
            ErrorCode::COMPRESSION_ERROR,
            "trailers",
            [opened(1), frame(kind::HEADERS, 5, 1, &[0x80])].concat(),
        ),
        (
            size,
            "a frame",
            frame(kind::PING, 0, 0, &[0; 16_385])[..9].to_vec(),
        ),
        (protocol, "a lower number", [opened(5), opened(3)].concat()),
        (
            ErrorCode::STREAM_CLOSED,
            "HEADERS after the end",
            [call(1, "x"), opened(1)].concat(),
        ),
        (
            ErrorCode::STREAM_CLOSED,
            "HEADERS after a reset",
            [opened(1), reset(1), opened(1)].concat(),
        ),
        (
            protocol,
            "DATA on a stream that was skipped",
            [opened(5), frame(kind::DATA, 0, 3, b"")].concat(),
        ),
    ];
    for (code, why, bytes) in cases {
        let mut pair = Pair::new();
        assert_eq!(pair.dies(bytes).code, *code, "{why}");
        assert_eq!(pair.counts.of(Abuse::Protocol), 1, "{why}");
    }
}

#[test]
fn errors_of_a_stream() {
    let with = |name, value| {
        let mut head = head_of("/echo/Unary");
        head.push((name, value));
        headers(0, 1, &head)
    };
    let without = |name| {
        let mut head = head_of("/echo/Unary");
        head.retain(|(other, _)| *other != name);
        headers(0, 1, &head)
    };
    let itself = [&[0, 0, 0, 1, 0], &block(&head_of("/echo/Unary"))[..]].concat();
    let data = |flags, payload: &[u8]| frame(kind::DATA, flags, 1, payload);
    let end = flag::END_STREAM;
    let protocol = ErrorCode::PROTOCOL_ERROR;
    let cases: Vec<(ErrorCode, &str, Vec<u8>)> = vec![
        (protocol, "an unknown pseudo-header", with(":other", "x")),
        (
            protocol,
            "a pseudo-header of answers",
            with(":status", "200"),
        ),
        (protocol, "a pseudo-header twice", with(":path", "/")),
        (
            protocol,
            "a pseudo-header late",
            headers(0, 1, &[("a", "b"), (":method", "GET"), (":path", "/")]),
        ),
        (protocol, "upper case", with("X", "y")),
        (protocol, "a value", with("x", "a\nb")),
        (protocol, "connection", with("connection", "close")),
        (protocol, "te", with("te", "gzip")),
        (protocol, "no method", without(":method")),
        (protocol, "no scheme", without(":scheme")),
        (protocol, "no path", without(":path")),
        (
            protocol,
            "an empty path",
            headers(
                0,
                1,
                &[(":method", "POST"), (":scheme", "http"), (":path", "")],
            ),
        ),
        (
            protocol,
            "CONNECT with a path",
            headers(
                0,
                1,
                &[(":method", "CONNECT"), (":authority", "x"), (":path", "/")],
            ),
        ),
        (protocol, "a content-length", with("content-length", "-1")),
        (
            protocol,
            "itself",
            frame(
                kind::HEADERS,
                flag::END_HEADERS | flag::PRIORITY,
                1,
                &itself,
            ),
        ),
        (
            protocol,
            "more content",
            [with("content-length", "3"), data(0, b"1234")].concat(),
        ),
        (
            protocol,
            "less content",
            [with("content-length", "5"), data(end, b"1234")].concat(),
        ),
        (
            protocol,
            "trailers that are no end",
            [opened(1), headers(0, 1, &[("a", "b")])].concat(),
        ),
        (
            protocol,
            "pseudo trailers",
            [opened(1), headers(end, 1, &[(":path", "b")])].concat(),
        ),
        (
            protocol,
            "WINDOW_UPDATE of nothing",
            [opened(1), window_update(1, 0)].concat(),
        ),
        (
            protocol,
            "PRIORITY of itself",
            [opened(1), frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0])].concat(),
        ),
        (
            ErrorCode::FRAME_SIZE_ERROR,
            "PRIORITY",
            [opened(1), frame(kind::PRIORITY, 0, 1, &[0; 4])].concat(),
        ),
        (
            ErrorCode::FLOW_CONTROL_ERROR,
            "a window",
            [opened(1), window_update(1, i32::MAX as u32)].concat(),
        ),
        (
            ErrorCode::STREAM_CLOSED,
            "DATA after the end",
            [call(1, "later"), data(0, b"x")].concat(),
        ),
        (
            ErrorCode::STREAM_CLOSED,
            "DATA after the answer",
            [call(1, "x"), data(0, b"x")].concat(),
        ),
        (
            ErrorCode::STREAM_CLOSED,
            "DATA after a reset",
            [opened(1), reset(1), data(0, b"x")].concat(),
        ),
        (
            ErrorCode::STREAM_CLOSED,
            "HEADERS after the end",
            [call(1, "later"), opened(1)].concat(),
        ),
    ];
    for (code, why, bytes) in cases {
        let mut pair = Pair::new();
        assert_eq!(pair.send(&bytes), Ok(Progress::All), "{why}");
        let lines = pair.lines();
        assert_eq!(lines.last(), Some(&format!("1 RST {}", code.0)), "{why}");
        assert_eq!(pair.connection.open_streams(), 0, "{why}");
        // What was on its way is ignored, and the connection goes on.
        pair.send(&data(end, b"x"))
            .unwrap_or_else(|closing| panic!("{why}: {closing}"));
        pair.send(&call(3, "hello"))
            .unwrap_or_else(|closing| panic!("{why}: {closing}"));
        assert!(
            pair.lines()
                .contains(&"3 HEADERS end grpc-status=0".to_owned()),
            "{why}"
        );
    }
}

#[test]
fn the_first_that_a_client_says() {
    let mut pair = Pair::with(Limits::default());
    pair.frames();
    assert_eq!(
        pair.dies(b"GET / HTTP/1.1\r\n").code,
        ErrorCode::PROTOCOL_ERROR
    );
    for (first, why) in [
        (frame(kind::PING, 0, 0, &[0; 8]), "a ping"),
        (frame(kind::SETTINGS, flag::ACK, 0, b""), "an ack"),
    ] {
        let mut pair = Pair::with(Limits::default());
        pair.send(&greeting()[..24]).expect("the preface");
        assert_eq!(pair.dies(&first).code, ErrorCode::PROTOCOL_ERROR, "{why}");
    }
}

#[test]
fn the_server_greets_first() {
    let mut pair = Pair::with(Limits::default());
    assert_eq!(pair.lines(), ["SETTINGS 0", "0 WINDOW 983041"]);
    pair.send(&greeting()).expect("a greeting");
    assert_eq!(pair.lines(), ["SETTINGS 1"]);
}

#[test]
fn what_may_be_ignored_is() {
    let mut pair = Pair::new();
    let frames = [
        frame(0xfa, 0xff, 7, b"unknown"),
        settings(&[
            (0x99, 1),
            (setting::ENABLE_PUSH, 0),
            (setting::MAX_HEADER_LIST_SIZE, 1),
        ]),
        frame(kind::PING, flag::ACK, 0, b"12345678"),
        frame(kind::GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0bye"),
        frame(kind::PRIORITY, 0, 99, &[0, 0, 0, 3, 7]),
        frame(kind::PING, 0xfe, 0, b"12345678"),
    ];
    pair.send(&frames.concat()).expect("harmless frames");
    assert_eq!(pair.lines(), ["SETTINGS 1", "PING 1 12345678"]);
}

#[test]
fn padding_priority_and_continuation_are_read_over() {
    let mut pair = Pair::new();
    let head = block(&head_of("/echo/Unary"));
    let (first, rest) = head.split_at(20);
    let padded = [&[3, 0, 0, 0, 0, 9], first, &[0; 3]].concat();
    let frames = [
        frame(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, &padded),
        frame(kind::CONTINUATION, 0, 1, &rest[..10]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, &rest[10..]),
        frame(
            kind::DATA,
            flag::PADDED,
            1,
            &[&[2], &message(b"hello")[..], &[0; 2]].concat(),
        ),
        headers(flag::END_STREAM, 1, &[("some", "trailer")]),
    ];
    pair.send(&frames.concat()).expect("a call");
    assert_eq!(pair.echo.events, ["method /echo/Unary", "call 1 5 hello"]);
}

#[test]
fn what_is_no_grpc_is_answered_as_http() {
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    let post = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/"),
        ("content-type", "application/json"),
    ];
    let connect = [(":method", "CONNECT"), (":authority", "x")];
    let head = [(":method", "HEAD"), (":scheme", "http"), (":path", "/")];
    let refused = [
        (&get[..], "405", true),
        (&post, "415", true),
        (&connect, "405", true),
        (&head, "405", false),
    ];
    for (fields, status, has_body) in refused {
        for is_whole in [true, false] {
            let mut pair = Pair::new();
            if is_whole {
                pair.send(&headers(flag::END_STREAM, 1, fields))
                    .expect("headers");
            } else {
                pair.send(&headers(0, 1, fields)).expect("headers");
                pair.send(&frame(kind::DATA, 0, 1, &[0; 16_384]))
                    .expect("content");
                assert_eq!(pair.lines(), [""; 0], "it is answered at its end");
                pair.send(&frame(kind::DATA, flag::END_STREAM, 1, b""))
                    .expect("the end");
            }
            let lines = pair.lines();
            let end = if has_body { "" } else { " end" };
            assert!(
                lines[0].starts_with(&format!("1 HEADERS{end} :status={status}")),
                "{lines:?}"
            );
            assert_eq!(lines.len(), if has_body { 2 } else { 1 });
            assert!(!has_body || lines[1].starts_with("1 DATA end"), "{lines:?}");
            assert_eq!(pair.connection.open_streams(), 0);
        }
    }
}

/// What a call with these messages ends with.
fn outcome(fields: &[(&str, &str)], content: &[u8]) -> Vec<String> {
    let mut pair = Pair::greeted(Limits {
        message_bytes: 1000,
        ..Limits::default()
    });
    pair.send(&headers(0, 1, fields)).expect("headers");
    pair.send(&frame(kind::DATA, flag::END_STREAM, 1, content))
        .expect("content");
    assert_eq!(pair.connection.open_streams(), 0);
    let lines = pair.lines();
    let head = format!("1 HEADERS end {HEAD} ");
    lines
        .into_iter()
        .map(|line| line.strip_prefix(&head).unwrap_or(&line).to_owned())
        .collect()
}

#[test]
fn calls_that_grpc_does_not_know() {
    let head = head_of("/echo/Unary");
    let only = "grpc-message=a unary call has one message, no more and no less grpc-accept-encoding=identity";
    assert_eq!(outcome(&head, b""), [format!("grpc-status=12 {only}")]);
    let two = [message(b"one"), message(b"two")].concat();
    assert_eq!(outcome(&head, &two), [format!("grpc-status=12 {only}")]);
    let cut_off = "grpc-status=13 grpc-message=the request ends amid a message";
    assert_eq!(outcome(&head, &message(b"abc")[..7]), [cut_off]);
    assert_eq!(outcome(&head, &message(b"abc")[..3]), [cut_off]);
    let too_large = "grpc-status=8 grpc-message=the request has 1001 bytes, at most 1000 are taken";
    assert_eq!(outcome(&head, &message(&[0; 1001])), [too_large]);
    let flags = "grpc-status=13 grpc-message=a message has flags that do not exist";
    assert_eq!(outcome(&head, &[2, 0, 0, 0, 0]), [flags]);
    let unnamed = "grpc-status=13 grpc-message=a message is marked as compressed, and the call names no encoding";
    assert_eq!(outcome(&head, &[1, 0, 0, 0, 0]), [unnamed]);
    let mut zipped = head.clone();
    zipped.push(("grpc-encoding", "gzip"));
    let identity = "grpc-status=12 grpc-message=compressed messages are not taken: send them as they are (identity) \
                    grpc-accept-encoding=identity";
    let reset = "1 RST 0".to_owned();
    let identity = [identity.to_owned(), reset.clone()];
    for message in [vec![1, 0, 0, 0, 0], message(b"short")] {
        assert_eq!(
            outcome(&zipped, &message),
            identity,
            "as soon as it is said"
        );
    }
    zipped.pop();
    zipped.push(("grpc-encoding", "identity"));
    assert_eq!(outcome(&zipped, &message(b"x")).len(), 3);
    let mut late = head.clone();
    late.push(("grpc-timeout", "1year"));
    assert_eq!(outcome(&late, b"")[1], reset);
    let unknown = outcome(&head_of("/other"), &message(b"x"));
    let message = "grpc-status=12 grpc-message=no /other here grpc-accept-encoding=identity";
    assert_eq!(unknown, [message.to_owned(), reset]);
}

#[test]
fn metadata_over_the_limit() {
    let mut pair = Pair::greeted(Limits {
        header_list_bytes: 1000,
        ..Limits::default()
    });
    let mut head = head_of("/echo/Unary");
    let long = "x".repeat(1000);
    head.push(("long", &long));
    pair.send(&headers(0, 1, &head)).expect("headers");
    let lines = pair.lines();
    assert!(
        lines[0].contains("grpc-status=8 grpc-message=the metadata has 1318 bytes, at most 1000"),
        "{lines:?}"
    );
    assert_eq!(pair.counts.of(Abuse::HeaderBytes), 1);
    pair.send(&call(3, "x")).expect("a call");
    assert_eq!(pair.lines().len(), 3);
}

#[test]
fn requests_that_are_on_their_way_have_a_limit_together() {
    let mut pair = Pair::greeted(Limits {
        assembling_bytes: 1000,
        ..Limits::default()
    });
    for stream in [1, 3, 5] {
        pair.send(
            &[
                opened(stream),
                frame(kind::DATA, 0, stream, &[0, 0, 0, 1, 0x90]),
            ]
            .concat(),
        )
        .expect("a part");
    }
    let lines = pair.lines();
    assert!(
        lines[0].starts_with(&format!("5 HEADERS end {HEAD} grpc-status=8")),
        "{lines:?}"
    );
    assert_eq!(pair.connection.open_streams(), 2);
    pair.send(&reset(1)).expect("a reset");
    pair.send(&[opened(7), frame(kind::DATA, 0, 7, &[0, 0, 0, 1, 0x90])].concat())
        .expect("a part");
    assert_eq!(pair.lines(), [""; 0]);
}
