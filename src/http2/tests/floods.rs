//! What costs a client little: each has a bound and a figure.

use std::time::Duration;

use super::super::frame::{flag, kind};
use super::super::*;
use super::client::*;

fn headers(stream: u32) -> Vec<u8> {
    frame(
        kind::HEADERS,
        flag::END_HEADERS,
        stream,
        &block(&head_of("/echo/Unary")),
    )
}

/// Sends what `part` makes until the connection ends; returns how often, and as what it was counted.
fn floods(pair: &mut Pair, mut part: impl FnMut(u32) -> Vec<u8>) -> (u32, Abuse) {
    for round in 0..1_000_000 {
        if let Err(closing) = pair.send(&part(round)) {
            assert_eq!(closing.code, ErrorCode::ENHANCE_YOUR_CALM);
            let kind = closing.abuse.expect("it is counted");
            assert_eq!(pair.counts.of(kind), 1);
            assert_eq!(pair.connection.open_streams(), 0);
            return (round, kind);
        }
        pair.bytes();
    }
    panic!("no end");
}

#[test]
fn each_flood_ends() {
    let limits = Limits::default();
    let mut pair = Pair::new();
    let flood = floods(&mut pair, |_| settings(&[]));
    assert_eq!(flood, (limits.settings.burst - 2, Abuse::Settings));
    let flood = floods(&mut Pair::new(), |_| frame(kind::PING, 0, 0, &[0; 8]));
    assert_eq!(flood, (limits.pings.burst, Abuse::Ping));
    let flood = floods(&mut Pair::new(), |_| window_update(0, 1));
    assert_eq!(flood, (limits.window_updates.burst, Abuse::WindowUpdate));
    let flood = floods(&mut Pair::new(), |_| frame(kind::PRIORITY, 0, 1, &[0; 5]));
    assert_eq!(flood, (limits.idle_frames.burst, Abuse::Idle));
    let flood = floods(&mut Pair::new(), |_| frame(77, 0, 1, &[0; 5]));
    assert_eq!(flood, (limits.idle_frames.burst, Abuse::Idle));
}

#[test]
fn who_pings_too_often_is_told_in_the_words_that_clients_know() {
    let mut pair = Pair::new();
    let pings = frame(kind::PING, 0, 0, &[0; 8]).repeat(1000);
    assert_eq!(pair.dies(&pings).reason, "too_many_pings");
}

#[test]
fn empty_data_ends() {
    let burst = Limits::default().empty_data.burst;
    for payload in [
        (0, &b""[..]),
        (flag::PADDED, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        let mut pair = Pair::new();
        pair.send(&headers(1)).expect("headers");
        let flood = floods(&mut pair, |_| frame(kind::DATA, payload.0, 1, payload.1));
        let for_the_call = Limits::default().empty_data.per_call;
        assert_eq!(flood, (burst + for_the_call, Abuse::EmptyData));
    }
}

#[test]
fn rapid_reset_ends_and_the_handler_is_told() {
    let burst = Limits::default().resets.burst;
    let mut pair = Pair::new();
    let flood = floods(&mut pair, |round| {
        [call(2 * round + 1, "later"), reset(2 * round + 1)].concat()
    });
    assert_eq!(flood, (burst, Abuse::RapidReset));
    let gone = pair
        .echo
        .events
        .iter()
        .filter(|event| event.starts_with("gone"));
    assert_eq!(gone.count() as u32, burst + 1);
    // The same by errors that make us reset.
    let flood = floods(&mut Pair::new(), |round| {
        [headers(2 * round + 1), window_update(2 * round + 1, 0)].concat()
    });
    assert!(
        flood.0 <= burst && matches!(flood.1, Abuse::RapidReset | Abuse::WindowUpdate),
        "{flood:?}"
    );
    let malformed = block(&[("X", "y")]);
    let flood = floods(&mut Pair::new(), |round| {
        frame(kind::HEADERS, flag::END_HEADERS, 2 * round + 1, &malformed)
    });
    assert_eq!(flood, (burst, Abuse::RapidReset));
}

#[test]
fn who_resets_now_and_then_may_go_on() {
    let mut pair = Pair::new();
    for round in 0..2000 {
        let stream = 4 * round + 1;
        pair.send(&[call(stream, "later"), reset(stream), call(stream + 2, "x")].concat())
            .expect("one of two is answered");
        pair.bytes();
    }
    for round in 2000..2500 {
        pair.now += Duration::from_millis(10);
        pair.send(&[call(4 * round + 1, "later"), reset(4 * round + 1)].concat())
            .expect("a hundred a second");
    }
}

/// An origin that hangs, and callers with short deadlines: all calls are given up, and none too soon.
#[test]
fn who_has_waited_may_give_up() {
    let mut pair = Pair::new();
    for batch in 0..500 {
        let streams = (0..16).map(|number| 2 * (16 * batch + number) + 1);
        let calls: Vec<_> = streams.clone().flat_map(|id| call(id, "later")).collect();
        pair.send(&calls).expect("some calls");
        pair.now += Duration::from_millis(5);
        let resets: Vec<_> = streams.flat_map(reset).collect();
        pair.send(&resets).expect("they have waited");
    }
}

#[test]
fn pings_and_windows_may_keep_pace_with_calls() {
    let mut pair = Pair::new();
    for round in 0..1000 {
        let ping = frame(kind::PING, 0, 0, &[0; 8]);
        let updates = [window_update(0, 14), ping.clone(), ping].concat();
        pair.send(&[call(2 * round + 1, "some text"), updates].concat())
            .expect("a busy client");
        pair.bytes();
    }
}

#[test]
fn a_client_may_open_windows_for_calls_that_wait() {
    let mut pair = Pair::new();
    for number in 0..1000 {
        let stream = 2 * number + 1;
        pair.send(
            &[
                call(stream, "later"),
                window_update(stream, 1),
                window_update(0, 1),
            ]
            .concat(),
        )
        .expect("a call");
    }
    let later = std::mem::take(&mut pair.echo.later);
    for id in &later {
        assert!(pair.connection.answer(*id, Answer::Message(Vec::new())));
    }
    pair.send(&call(2001, "held 4000000")).expect("a call");
    for _ in 0..4000 {
        let updates = [window_update(0, 1000), window_update(2001, 1000)].concat();
        pair.send(&updates).expect("small updates while it reads");
        pair.bytes();
    }
    assert_eq!(pair.connection.open_streams(), 0);
}

#[test]
fn header_blocks_have_an_end() {
    let flood = |limits: Limits, part: &'static [u8]| {
        let mut pair = Pair::greeted(limits);
        pair.send(&frame(kind::HEADERS, 0, 1, b""))
            .expect("a beginning");
        floods(&mut pair, |_| frame(kind::CONTINUATION, 0, 1, part))
    };
    assert_eq!(flood(Limits::default(), b""), (15, Abuse::Continuation));
    let (rounds, kind) = flood(Limits::default(), &[b'x'; 16_384]);
    assert!(rounds <= 15 && kind == Abuse::HeaderBytes);
}

#[test]
fn header_blocks_that_blow_up_end_the_connection() {
    let name = "a".repeat(4000);
    let mut fields = head_of("/echo/Unary");
    let head = |fields: &[(&str, &str)], more: &[u8]| {
        frame(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            1,
            &[&block(fields), more].concat(),
        )
    };
    // A name for the table, and then that name again and again.
    let mut bomb = vec![0x40, 0x7f, 0xa1, 0x1e];
    bomb.extend(name.as_bytes());
    bomb.push(0);
    bomb.extend([0x0f, 47, 0].repeat(3000));
    let closing = Pair::new().dies(&head(&fields, &bomb));
    assert_eq!(closing.code, ErrorCode::ENHANCE_YOUR_CALM);
    assert_eq!(closing.abuse, Some(Abuse::HeaderBytes));
    // Metadata far over the limit is no flood, and the call is told.
    let long = "\u{e9}".repeat(100_000);
    fields.push(("long", &long));
    let block = block(&fields);
    let mut pair = Pair::new();
    let (last, others) = (block.chunks(16_000).count() - 1, block.chunks(16_000));
    for (number, part) in others.enumerate() {
        let (kind, stream_end) = match number {
            0 => (kind::HEADERS, flag::END_STREAM),
            _ => (kind::CONTINUATION, 0),
        };
        let end = if number == last { flag::END_HEADERS } else { 0 };
        pair.send(&frame(kind, end | stream_end, 1, part))
            .expect("a part of the block");
    }
    let lines = pair.lines();
    assert!(
        lines[0].contains("grpc-status=8 grpc-message=the metadata has 200"),
        "{lines:?}"
    );
    assert!(
        pair.connection.memory_bytes() < 32 << 10,
        "nothing of it is kept"
    );
}

#[test]
fn metadata_up_to_a_large_limit_is_taken() {
    let mut pair = Pair::greeted(Limits {
        header_list_bytes: 1 << 20,
        ..Limits::default()
    });
    let mut fields = head_of("/echo/Unary");
    let long = "\u{e9}".repeat(250_000);
    fields.push(("long", &long));
    let block = block(&fields);
    let parts: Vec<_> = block.chunks(16_000).collect();
    assert!(parts.len() > 20);
    let (last, parts) = parts.split_last().expect("some");
    pair.send(&frame(kind::HEADERS, 0, 1, parts[0]))
        .expect("headers");
    for part in &parts[1..] {
        pair.send(&frame(kind::CONTINUATION, 0, 1, part))
            .expect("more");
    }
    pair.send(&frame(kind::CONTINUATION, flag::END_HEADERS, 1, last))
        .expect("the end");
    pair.send(&frame(kind::DATA, flag::END_STREAM, 1, &message(b"x")))
        .expect("a message");
    assert_eq!(pair.lines().len(), 3);
}

#[test]
fn a_frame_that_says_one_setting_again_and_again_is_many() {
    use super::super::frame::setting::INITIAL_WINDOW_SIZE;
    let mut pair = Pair::new();
    pair.send(&settings(&[
        (INITIAL_WINDOW_SIZE, 1),
        (INITIAL_WINDOW_SIZE, 2),
    ]))
    .expect("twice is no harm");
    let closing = pair.dies(&settings(&[(INITIAL_WINDOW_SIZE, 1); 1000]));
    assert_eq!(closing.abuse, Some(Abuse::Settings));
}

#[test]
fn a_stream_has_only_so_many_requests_in_a_piece() {
    let mut pair = Pair::new();
    let head = block(&head_of("/echo/Stream"));
    pair.send(&frame(kind::HEADERS, flag::END_HEADERS, 1, &head))
        .expect("headers");
    pair.send(&frame(kind::DATA, 0, 1, &message(b"x").repeat(2000)))
        .expect("requests");
    assert!(pair.echo.events.len() < 200, "{}", pair.echo.events.len());
    let last = pair.lines().pop().expect("its end");
    assert!(last.contains("RST"), "{last}");
}

#[test]
fn streams_over_the_limit_are_refused() {
    let mut pair = Pair::greeted(Limits {
        streams_max: 10,
        ..Limits::default()
    });
    for number in 0..10 {
        pair.send(&call(2 * number + 1, "later")).expect("a call");
    }
    pair.send(&call(21, "x")).expect("one more");
    assert_eq!(pair.lines(), ["21 RST 7"]);
    assert_eq!(pair.counts.of(Abuse::Streams), 1);
    let later = pair.echo.later[0];
    pair.connection.answer(later, Answer::Message(Vec::new()));
    pair.send(&call(23, "x")).expect("a call");
    assert_eq!(pair.lines().len(), 6);
}

#[test]
fn replies_that_are_held_have_a_bound() {
    let mut pair = Pair::greeted(Limits {
        held_bytes_max: 100_000,
        ..Limits::default()
    });
    for number in 0..10 {
        pair.send(&call(2 * number + 1, "later")).expect("a call");
    }
    pair.send(&settings(&[(
        super::super::frame::setting::INITIAL_WINDOW_SIZE,
        0,
    )]))
    .expect("settings");
    let mut failed = 0;
    for later in std::mem::take(&mut pair.echo.later) {
        assert!(
            pair.connection
                .answer(later, Answer::Message(vec![0; 30_000]))
        );
        failed += pair
            .lines()
            .iter()
            .filter(|line| line.contains("grpc-status=8"))
            .count();
    }
    assert_eq!(failed, 6);
    // What is kept elsewhere as well has more room.
    let mut pair = Pair::greeted(Limits {
        held_bytes_max: 100_000,
        ..Limits::default()
    });
    for number in 0..20 {
        pair.send(&call(2 * number + 1, "later")).expect("a call");
    }
    for later in std::mem::take(&mut pair.echo.later) {
        let body = std::sync::Arc::new(vec![0; 30_000]);
        assert!(pair.connection.answer(later, Answer::Held(body)));
    }
    let lines = pair.lines();
    let refused = lines.iter().filter(|line| line.contains("grpc-status=8"));
    assert_eq!(refused.count(), 4, "two are sent, fourteen wait");
    // A stream that asks for much with little does not get more.
    let mut pair = Pair::greeted(Limits {
        held_bytes_max: 1 << 20,
        ..Limits::default()
    });
    pair.send(&frame(
        kind::HEADERS,
        flag::END_HEADERS,
        1,
        &block(&head_of("/echo/Stream")),
    ))
    .expect("headers");
    let asks = message(b"large 50000").repeat(1000);
    pair.send(&frame(kind::DATA, 0, 1, &asks))
        .expect("requests");
    assert!(pair.echo.events.len() < 10, "{}", pair.echo.events.len());
}
