//! Calls and their answers.

use std::sync::Arc;
use std::time::Duration;

use super::super::frame::{flag, kind, setting};
use super::super::*;
use super::client::*;

const HEAD: &str = ":status=200 content-type=application/grpc";

#[test]
fn a_call_is_answered() {
    let mut pair = Pair::new();
    for stream in [1, 3, 5] {
        assert_eq!(pair.send(&call(stream, "hello")), Ok(Progress::All));
        assert_eq!(
            pair.lines(),
            [
                format!("{stream} HEADERS {HEAD}"),
                format!("{stream} DATA 10 \\x00\\x00\\x00\\x00\\x05hello"),
                format!("{stream} HEADERS end grpc-status=0"),
            ]
        );
    }
    assert_eq!(
        pair.echo.events,
        [
            "method /echo/Unary",
            "call 1 5 hello",
            "call 1 5 hello",
            "call 1 5 hello"
        ]
    );
    assert_eq!(pair.connection.open_streams(), 0);
}

/// As load generators have it: the length is said, and the headers of several calls come before their messages.
#[test]
fn a_length_that_is_said_is_looked_at_in_heads_that_are_known_too() {
    let mut pair = Pair::new();
    let text = message(b"hello");
    let len = text.len().to_string();
    let mut fields = head_of("/echo/Unary");
    fields.push(("content-length", &len));
    let block = block(&fields);
    let head = |stream| frame(kind::HEADERS, flag::END_HEADERS, stream, &block);
    let data = |stream, text: &[u8]| frame(kind::DATA, flag::END_STREAM, stream, text);
    for stream in [1, 7, 13] {
        let heads = [head(stream), head(stream + 2), head(stream + 4)].concat();
        let messages = [stream, stream + 2, stream + 4].map(|stream| data(stream, &text));
        pair.send(&[heads, messages.concat()].concat())
            .expect("calls");
    }
    pair.send(&[head(19), data(19, &text)].concat())
        .expect("a call");
    let answers = pair
        .lines()
        .into_iter()
        .filter(|line| line.contains("hello"));
    assert_eq!(answers.count(), 10);
    pair.send(&[head(21), data(21, &message(b"hello!"))].concat())
        .expect("a stream ends, not the connection");
    assert_eq!(pair.lines(), ["21 RST 1"], "PROTOCOL_ERROR");
}

#[test]
fn an_answer_on_a_warm_connection_is_a_few_bytes_longer_than_its_message() {
    let mut pair = Pair::new();
    pair.send(&call(1, "hello")).expect("a call");
    pair.bytes();
    pair.send(&call(3, "hello")).expect("a call");
    let bytes = pair.bytes();
    assert_eq!(bytes.len(), 9 + 2 + 9 + 5 + 5 + 9 + 1);
}

#[test]
fn calls_fail_with_code_and_message() {
    let mut pair = Pair::new();
    pair.send(&call(1, "fail no such key: 100%"))
        .expect("a call");
    let message = "grpc-status=5 grpc-message=no such key: 100%25";
    assert_eq!(pair.lines(), [format!("1 HEADERS end {HEAD} {message}")]);
    pair.send(&call(3, "drop")).expect("a call");
    let message = "grpc-status=13 grpc-message=the call was dropped without an answer";
    assert_eq!(pair.lines(), [format!("3 HEADERS end {HEAD} {message}")]);
}

#[test]
fn an_answer_may_come_later() {
    let mut pair = Pair::new();
    for stream in [1, 3, 5, 7] {
        pair.send(&call(stream, "later")).expect("a call");
    }
    assert_eq!((pair.lines().len(), pair.connection.open_streams()), (0, 4));
    let later = std::mem::take(&mut pair.echo.later);
    assert!(
        pair.connection
            .answer(later[1], Answer::Message(b"two".to_vec()))
    );
    assert!(
        !pair
            .connection
            .answer(later[1], Answer::Message(b"again".to_vec()))
    );
    assert!(
        pair.connection
            .answer(later[0], Answer::Failed(Status::new(Code::UNAVAILABLE, "")))
    );
    assert!(
        pair.connection
            .answer(later[3], Answer::Held(Arc::new(b"four")))
    );
    let lines = pair.lines();
    assert_eq!(lines[1], "3 DATA 8 \\x00\\x00\\x00\\x00\\x03two");
    assert_eq!(lines[3], format!("1 HEADERS end {HEAD} grpc-status=14"));
    assert_eq!(lines[5], "7 DATA 9 \\x00\\x00\\x00\\x00\\x04four");
    pair.send(&reset(5)).expect("a reset");
    assert_eq!(pair.echo.events.last().map(String::as_str), Some("gone 5"));
    assert!(
        !pair
            .connection
            .answer(later[2], Answer::Message(Vec::new()))
    );
    assert_eq!((pair.lines().len(), pair.connection.open_streams()), (0, 0));
}

#[test]
fn who_waits_at_the_end_is_told() {
    let mut pair = Pair::new();
    pair.send(&[call(1, "later"), call(3, "x"), call(5, "later")].concat())
        .expect("calls");
    pair.connection.end(&mut pair.echo);
    assert_eq!(pair.echo.events[4..], ["gone 1", "gone 5"]);
}

#[test]
fn large_answers_are_cut_to_frames_and_windows() {
    for text in ["held 100000", "large 100000"] {
        let mut pair = Pair::new();
        pair.send(&call(1, text)).expect("a call");
        let frames = pair.frames();
        let lens: Vec<_> = frames.iter().map(|frame| frame.payload.len()).collect();
        assert_eq!(
            lens[1..],
            [16_384, 16_384, 16_384, 16_383],
            "the window is used up"
        );
        pair.send(&window_update(0, 1_000_000)).expect("an update");
        assert_eq!(pair.lines(), [""; 0], "and that of the stream");
        pair.send(&window_update(1, 10)).expect("an update");
        assert_eq!(pair.frames()[0].payload.len(), 10);
        pair.send(&window_update(1, 1_000_000)).expect("an update");
        let frames = pair.frames();
        let data = frames.iter().filter(|frame| frame.kind == kind::DATA);
        let data_bytes: usize = data.map(|frame| frame.payload.len()).sum();
        assert_eq!(data_bytes, 100_005 - 65_535 - 10);
        assert_eq!(pair.connection.open_streams(), 0);
    }
}

#[test]
fn large_answers_take_turns() {
    let mut pair = Pair::new();
    pair.send(&settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]))
        .expect("settings");
    pair.send(&window_update(0, 1 << 20)).expect("an update");
    pair.send(
        &[
            call(1, "held 40000"),
            call(3, "held 40000"),
            call(5, "small"),
        ]
        .concat(),
    )
    .expect("calls");
    let data: Vec<_> = pair
        .frames()
        .into_iter()
        .filter(|frame| frame.kind == kind::DATA)
        .collect();
    let streams: Vec<_> = data.iter().map(|frame| frame.stream).collect();
    assert_eq!(streams, [1, 3, 5, 1, 3, 1, 3]);
}

#[test]
fn a_window_may_become_negative() {
    let mut pair = Pair::new();
    pair.send(&call(1, "held 70000")).expect("a call");
    pair.frames();
    pair.send(&window_update(0, 1 << 20)).expect("an update");
    pair.send(&settings(&[(setting::INITIAL_WINDOW_SIZE, 535)]))
        .expect("settings");
    pair.send(&window_update(1, 65_000)).expect("an update");
    assert_eq!(pair.lines(), ["SETTINGS 1"], "its window is 0 now");
    pair.send(&settings(&[(setting::INITIAL_WINDOW_SIZE, 536)]))
        .expect("settings");
    assert_eq!(pair.lines(), ["SETTINGS 1", "1 DATA 1 h"]);
}

#[test]
fn the_end_may_have_a_frame_of_its_own() {
    let head = block(&head_of("/echo/Unary"));
    let mut bytes = frame(kind::HEADERS, flag::END_HEADERS, 1, &head);
    bytes.extend(frame(kind::DATA, 0, 1, &message(b"hello")));
    bytes.extend(frame(kind::DATA, flag::END_STREAM, 1, b""));
    for cut in [0, 40, bytes.len() - 9, bytes.len() - 1] {
        let mut pair = Pair::new();
        pair.send(&bytes[..cut]).expect("a part");
        pair.send(&bytes[cut..]).expect("the rest");
        assert_eq!(pair.echo.events, ["method /echo/Unary", "call 1 5 hello"]);
    }
}

#[test]
fn a_deadline_counts_from_the_headers() {
    let mut pair = Pair::new();
    let mut head = head_of("/echo/Unary");
    head.push(("grpc-timeout", "1500m"));
    let begun = pair.now;
    pair.send(&frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&head)))
        .expect("headers");
    pair.now += Duration::from_secs(1);
    pair.send(&frame(kind::DATA, flag::END_STREAM, 1, &message(b"")))
        .expect("data");
    assert_eq!(
        pair.echo.deadlines,
        [Some(begun + Duration::from_millis(1500))]
    );
}

#[test]
fn turns_are_kept() {
    let mut pair = Pair::new();
    let calls: Vec<u8> = (0..10)
        .flat_map(|number| call(2 * number + 1, "x"))
        .collect();
    let (now, echo) = (pair.now, &mut pair.echo);
    let mut progress = pair.connection.receive(&calls, now, 3, echo);
    for done in [3, 6, 9] {
        assert_eq!(progress, Ok(Progress::More));
        assert!(!pair.connection.wants_read());
        assert_eq!(echo.events.len(), 1 + done);
        progress = pair.connection.receive(b"", now, 3, echo);
    }
    assert_eq!(progress, Ok(Progress::All));
    assert_eq!(
        (echo.events.len(), pair.connection.wants_read()),
        (11, true)
    );
}

#[test]
fn a_long_request_has_the_turn_of_several() {
    let mut pair = Pair::new();
    let long = "x".repeat(10_000);
    let calls: Vec<u8> = (0..6)
        .flat_map(|number| call(2 * number + 1, &long))
        .collect();
    let (now, echo) = (pair.now, &mut pair.echo);
    let progress = pair.connection.receive(&calls, now, 20, echo);
    assert_eq!(progress, Ok(Progress::More));
    assert_eq!(echo.events.len(), 1 + 2);
}

#[test]
fn nothing_is_read_while_nothing_is_written() {
    let mut pair = Pair::greeted(Limits {
        out_bytes_max: 1000,
        ..Limits::default()
    });
    let calls: Vec<u8> = (0..100)
        .flat_map(|number| call(2 * number + 1, "hello"))
        .collect();
    assert_eq!(pair.send(&calls), Ok(Progress::Blocked));
    let before = pair.echo.events.len();
    assert!(before < 30 && !pair.connection.wants_read());
    assert_eq!(pair.send(b""), Ok(Progress::Blocked));
    assert_eq!(pair.echo.events.len(), before);
    while !pair.connection.wants_read() {
        assert!(pair.bytes().len() < 1100);
        pair.send(b"").expect("more");
    }
    assert_eq!(pair.echo.events.len(), 101);
}

#[test]
fn calls_wait_while_much_is_held_for_the_windows() {
    let mut pair = Pair::greeted(Limits {
        held_bytes_max: 400_000,
        ..Limits::default()
    });
    let calls: Vec<u8> = (0..5)
        .flat_map(|number| call(2 * number + 1, "held 60000"))
        .collect();
    pair.send(&window_update(0, i32::MAX as u32 - 65_535))
        .expect("an update");
    pair.send(&settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]))
        .expect("settings");
    assert_eq!(
        pair.send(&calls),
        Ok(Progress::All),
        "it must read on, for the windows"
    );
    assert_eq!(pair.echo.events.len(), 1 + 2);
    assert_eq!(pair.connection.open_streams(), 5);
    pair.send(&window_update(1, 60_005)).expect("an update");
    assert_eq!(pair.echo.events.len(), 1 + 3);
    pair.send(&settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]))
        .expect("settings");
    pair.frames();
    assert_eq!(
        (pair.echo.events.len(), pair.connection.open_streams()),
        (1 + 5, 0)
    );
}

#[test]
fn a_stream_of_messages_is_answered_one_by_one() {
    let mut pair = Pair::new();
    pair.send(&frame(
        kind::HEADERS,
        flag::END_HEADERS,
        1,
        &block(&head_of("/echo/Stream")),
    ))
    .expect("headers");
    let messages = [
        message(b"one"),
        message(b""),
        message(b"later"),
        message(b"two"),
    ]
    .concat();
    for byte in messages {
        pair.send(&frame(kind::DATA, 0, 1, &[byte])).expect("data");
    }
    let lines = pair.lines();
    assert_eq!(lines[0], format!("1 HEADERS {HEAD}"));
    assert_eq!(
        lines[1..],
        [
            "1 DATA 8 \\x00\\x00\\x00\\x00\\x03one",
            "1 DATA 5 \\x00\\x00\\x00\\x00\\x00",
            "1 DATA 8 \\x00\\x00\\x00\\x00\\x03two"
        ]
    );
    pair.send(&frame(kind::DATA, flag::END_STREAM, 1, b""))
        .expect("the end");
    assert_eq!(pair.lines(), [""; 0], "one answer is still to come");
    let later = pair.echo.later[0];
    assert!(
        pair.connection
            .answer(later, Answer::Message(b"three".to_vec()))
    );
    assert_eq!(
        pair.lines(),
        [
            "1 DATA 10 \\x00\\x00\\x00\\x00\\x05three",
            "1 HEADERS end grpc-status=0"
        ]
    );
    assert_eq!(pair.connection.open_streams(), 0);
}

#[test]
fn a_stream_may_end_without_a_message_or_with_a_failure() {
    let mut pair = Pair::new();
    let head = block(&head_of("/echo/Stream"));
    pair.send(&frame(
        kind::HEADERS,
        flag::END_HEADERS | flag::END_STREAM,
        1,
        &head,
    ))
    .expect("headers");
    assert_eq!(
        pair.lines(),
        [
            format!("1 HEADERS {HEAD}"),
            "1 HEADERS end grpc-status=0".to_owned()
        ]
    );
    pair.send(&frame(kind::HEADERS, flag::END_HEADERS, 3, &head))
        .expect("headers");
    pair.send(&frame(
        kind::DATA,
        0,
        3,
        &[message(b"x"), message(b"fail y"), message(b"z")].concat(),
    ))
    .expect("data");
    let lines = pair.lines();
    assert_eq!(
        lines[2..],
        ["3 HEADERS end grpc-status=5 grpc-message=y", "3 RST 0"]
    );
    assert_eq!(pair.connection.open_streams(), 0);
}

#[test]
fn a_large_request_comes_in_pieces() {
    let mut pair = Pair::new();
    let text = vec![b'x'; 3 << 20];
    pair.send(&frame(
        kind::HEADERS,
        flag::END_HEADERS,
        1,
        &block(&head_of("/echo/Unary")),
    ))
    .expect("headers");
    let all = message(&text);
    let mut granted = [0, 0];
    for (number, part) in all.chunks(16_384).enumerate() {
        let end = if (number + 1) * 16_384 >= all.len() {
            flag::END_STREAM
        } else {
            0
        };
        pair.send(&frame(kind::DATA, end, 1, part)).expect("data");
        if end == 0 {
            for update in pair.frames() {
                assert_eq!(update.kind, kind::WINDOW_UPDATE);
                let increment = update
                    .payload
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                granted[usize::from(update.stream == 1)] += increment;
            }
        }
    }
    assert_eq!(
        pair.echo.events[1],
        format!("call 1 {} {}", 3 << 20, "x".repeat(40))
    );
    assert!(
        granted.iter().all(|sum| *sum + (1 << 20) > 3 << 20),
        "{granted:?}"
    );
}

#[test]
fn a_client_without_a_table_gets_all_fields_each_time() {
    let mut pair = Pair::new();
    pair.send(&settings(&[(setting::HEADER_TABLE_SIZE, 0)]))
        .expect("settings");
    for stream in [1, 3] {
        pair.send(&call(stream, "x")).expect("a call");
        let lines = pair.lines();
        assert!(
            lines.contains(&format!("{stream} HEADERS {HEAD}")),
            "{lines:?}"
        );
        assert_eq!(
            lines.last().map(String::as_str),
            Some(&*format!("{stream} HEADERS end grpc-status=0"))
        );
    }
}
