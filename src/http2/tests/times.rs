//! What a client has to do in time.

use std::time::Duration;

use super::super::frame::{flag, kind};
use super::super::*;
use super::client::*;

const SECOND: Duration = Duration::from_secs(1);

/// Ticks each second, as often as it takes until the connection ends.
fn lasts(pair: &mut Pair, mut each: impl FnMut(&mut Pair)) -> (u64, Closing) {
    for second in 1..10_000 {
        if let Err(closing) = pair.pass(SECOND) {
            return (second, closing);
        }
        each(pair);
    }
    panic!("no end");
}

#[test]
fn a_handshake_takes_not_too_long() {
    let mut pair = Pair::with(Limits::default());
    pair.frames();
    let (seconds, closing) = lasts(&mut pair, |_| ());
    assert_eq!((seconds, closing.abuse), (10, Some(Abuse::Handshake)));
    let mut pair = Pair::with(Limits::default());
    let greeting = greeting();
    pair.send(&greeting[..greeting.len() - 9])
        .expect("all but the acknowledgement");
    pair.frames();
    let (seconds, closing) = lasts(&mut pair, |_| ());
    assert_eq!((seconds, closing.code), (30, ErrorCode::SETTINGS_TIMEOUT));
}

#[test]
fn an_idle_connection_is_closed() {
    let mut pair = Pair::new();
    pair.now += 100 * SECOND;
    pair.send(&call(1, "x")).expect("a call");
    pair.frames();
    let (seconds, closing) = lasts(&mut pair, |_| ());
    assert_eq!(
        (seconds, closing.code, closing.abuse),
        (600, ErrorCode::NO_ERROR, None)
    );
}

#[test]
fn a_call_that_waits_is_not_idle() {
    let mut pair = Pair::new();
    pair.send(&call(1, "later")).expect("a call");
    for _ in 0..1000 {
        pair.pass(SECOND).expect("it waits");
    }
}

#[test]
fn idle_time_begins_when_the_last_call_has_ended() {
    let mut pair = Pair::new();
    pair.send(&call(1, "later")).expect("a call");
    for _ in 0..1000 {
        pair.pass(SECOND).expect("it waits");
    }
    let later = pair.echo.later[0];
    let answer = Answer::Message(b"x".to_vec());
    assert!(pair.connection.answer(later, answer));
    pair.frames();
    let (seconds, closing) = lasts(&mut pair, |_| ());
    assert_eq!((seconds, closing.code), (601, ErrorCode::NO_ERROR));
}

#[test]
fn who_does_not_read_is_closed() {
    let mut pair = Pair::new();
    pair.send(&call(1, "x")).expect("a call");
    let (seconds, closing) = lasts(&mut pair, |_| ());
    assert_eq!((seconds, closing.abuse), (31, Some(Abuse::SlowReader)));
    // Nor is it enough to take a byte a second, or to open windows by so little.
    let mut pair = Pair::new();
    pair.send(&call(1, "held 100000")).expect("a call");
    let (seconds, closing) = lasts(&mut pair, |pair| pair.connection.written(1));
    assert_eq!(
        (seconds, closing.abuse),
        (61, Some(Abuse::SlowReader)),
        "its stream goes first"
    );
    let mut pair = Pair::new();
    pair.send(&call(1, "held 100000")).expect("a call");
    pair.bytes();
    let (seconds, closing) = lasts(&mut pair, |pair| {
        pair.send(&[window_update(0, 1), window_update(1, 1)].concat())
            .expect("an update");
        pair.bytes();
    });
    assert_eq!((seconds, closing.abuse), (31, Some(Abuse::SlowReader)));
}

#[test]
fn who_does_not_read_is_closed_sooner_where_room_is_short() {
    let mut pair = Pair::new();
    pair.send(&call(1, "x")).expect("a call");
    for _ in 0..20 {
        pair.pass(SECOND).expect("there is time");
    }
    pair.echo.stall = Some(5 * SECOND);
    let closing = pair.pass(SECOND).expect_err("his time is over");
    assert_eq!(closing.abuse, Some(Abuse::SlowReader));
    // His stream alone, if it is that which has no window.
    let mut pair = Pair::new();
    pair.send(&settings(&[(4, 0)])).expect("no window");
    pair.send(&call(1, "held 100000")).expect("a call");
    pair.frames();
    pair.echo.stall = Some(5 * SECOND);
    for _ in 0..7 {
        pair.pass(SECOND).expect("the connection goes on");
    }
    assert_eq!(pair.connection.open_streams(), 0);
}

#[test]
fn who_reads_a_trickle_of_much_is_closed() {
    let mut pair = Pair::new();
    let windows = [window_update(0, 1 << 30), window_update(1, 1 << 30)].concat();
    pair.send(&[call(1, "held 4000000"), windows].concat())
        .expect("a call");
    let (seconds, closing) = lasts(&mut pair, |pair| pair.connection.written(2000));
    assert_eq!((seconds, closing.abuse), (31, Some(Abuse::SlowReader)));
}

#[test]
fn who_reads_steadily_is_not() {
    let mut pair = Pair::new();
    pair.send(&window_update(0, 1 << 30)).expect("an update");
    pair.send(&call(1, "held 4000000")).expect("a call");
    pair.bytes();
    for _ in 0..390 {
        pair.pass(SECOND).expect("it reads");
        pair.send(&window_update(1, 10_000)).expect("an update");
        pair.bytes();
    }
}

#[test]
fn a_stream_without_a_window_is_reset() {
    let mut pair = Pair::new();
    pair.send(&window_update(0, 1 << 30)).expect("an update");
    pair.send(&[call(1, "held 100000"), call(3, "later")].concat())
        .expect("calls");
    pair.bytes();
    for second in 5..60 {
        pair.send(&call(2 * second + 1, "held 2000"))
            .expect("others go on");
        pair.bytes();
        pair.pass(SECOND).expect("and the connection too");
    }
    assert_eq!(
        (
            pair.connection.open_streams(),
            pair.counts.of(Abuse::SlowReader)
        ),
        (1, 1)
    );
}

#[test]
fn an_unread_stream_does_not_end_an_idle_connection() {
    let mut pair = Pair::new();
    pair.send(&window_update(0, 1 << 30)).expect("an update");
    pair.send(&call(1, "held 100000")).expect("a call");
    pair.bytes();
    for _ in 0..60 {
        pair.pass(SECOND).expect("the connection lives");
    }
    assert_eq!(pair.lines(), ["1 RST 11"]);
    assert_eq!(pair.connection.open_streams(), 0);
}

#[test]
fn calls_that_wait_behind_a_stalled_stream_have_their_turn() {
    let mut pair = Pair::greeted(Limits {
        held_bytes_max: 100_000,
        ..Limits::default()
    });
    pair.send(&window_update(0, 1 << 30)).expect("an update");
    pair.send(&[call(1, "held 100000"), call(3, "hello")].concat())
        .expect("calls");
    pair.lines();
    assert_eq!(
        (pair.echo.events.len(), pair.connection.open_streams()),
        (2, 2)
    );
    for _ in 0..40 {
        pair.pass(SECOND).expect("the connection lives");
    }
    assert_eq!(
        (pair.echo.events.len(), pair.connection.open_streams()),
        (3, 0)
    );
    assert_eq!(pair.lines().len(), 4);
}

#[test]
fn a_connection_may_go_to_another_thread() {
    fn sends<T: Send>(_: &T) {}
    sends(&Pair::new().connection);
}

#[test]
fn a_connection_without_calls_keeps_little() {
    let mut pair = Pair::new();
    pair.send(&call(1, "held 60000")).expect("a call");
    pair.send(&[call(3, "large 200000"), call(5, "later")].concat())
        .expect("calls");
    assert!(pair.connection.memory_bytes() > 200_000);
    let later = pair.echo.later[0];
    pair.connection
        .answer(later, Answer::Message(vec![0; 20_000]));
    pair.send(&[window_update(0, 1 << 20), window_update(3, 1 << 20)].concat())
        .expect("updates");
    pair.bytes();
    for _ in 0..3 {
        pair.pass(SECOND).expect("a tick");
    }
    assert_eq!(
        (
            pair.connection.open_streams(),
            pair.connection.memory_bytes()
        ),
        (0, 0)
    );
}

#[test]
fn a_request_comes_to_its_end() {
    let mut pair = Pair::new();
    pair.send(&frame(
        kind::HEADERS,
        flag::END_HEADERS,
        1,
        &block(&head_of("/echo/Unary")),
    ))
    .expect("headers");
    pair.send(&frame(kind::DATA, 0, 1, &[0, 0, 0, 1, 0]))
        .expect("a prefix");
    for _ in 0..29 {
        pair.pass(SECOND).expect("it waits");
        pair.send(&frame(kind::DATA, 0, 1, &[0])).expect("a byte");
    }
    pair.pass(SECOND).expect("the connection lives");
    assert_eq!(pair.lines(), ["1 RST 11"]);
    assert_eq!(pair.counts.of(Abuse::SlowWriter), 1);
    // A frame of which nothing more comes takes the connection with it.
    pair.send(&frame(kind::PING, 0, 0, &[0; 8])[..12])
        .expect("a part");
    let (seconds, closing) = lasts(&mut pair, |_| ());
    assert_eq!((seconds, closing.abuse), (31, Some(Abuse::SlowWriter)));
}

#[test]
fn a_shutdown_waits_for_calls() {
    let mut pair = Pair::new();
    pair.send(&call(1, "later")).expect("a call");
    let now = pair.now;
    pair.connection.shut_down(now);
    assert_eq!(pair.lines(), ["GOAWAY 2147483647 0", "PING 0 farewell"]);
    pair.send(&call(3, "x")).expect("it was on its way");
    assert_eq!(pair.lines().len(), 3);
    pair.send(&frame(kind::PING, flag::ACK, 0, b"farewell"))
        .expect("the client knows");
    assert_eq!(pair.lines(), ["GOAWAY 3 0"]);
    pair.send(&call(5, "x")).expect("too late");
    assert_eq!(pair.lines(), ["5 RST 7"]);
    assert!(!pair.connection.is_finished());
    let later = pair.echo.later[0];
    pair.connection.answer(later, Answer::Message(Vec::new()));
    assert!(!pair.connection.is_finished(), "it is not written");
    pair.bytes();
    assert!(pair.connection.is_finished());
}

#[test]
fn a_shutdown_does_not_wait_for_a_silent_client() {
    let mut pair = Pair::new();
    let now = pair.now;
    pair.connection.shut_down(now);
    pair.frames();
    assert!(!pair.connection.is_finished());
    pair.pass(2 * SECOND).expect("a tick");
    assert_eq!(pair.lines(), ["GOAWAY 0 0"]);
    assert!(pair.connection.is_finished());
}

#[test]
fn there_is_always_a_time_to_look_next() {
    let pair = Pair::with(Limits::default());
    let deadline = pair.connection.deadline().expect("a deadline");
    assert_eq!(deadline - pair.now, SECOND, "the handshake");
    let mut pair = Pair::new();
    let deadline = pair.connection.deadline().expect("a deadline");
    assert_eq!(deadline - pair.now, 600 * SECOND, "the idle time");
    pair.send(&call(1, "later")).expect("a call");
    let deadline = pair.connection.deadline().expect("a deadline");
    assert_eq!(deadline - pair.now, SECOND);
}
