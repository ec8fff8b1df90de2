//! Plays any bytes as a script of what a client and its server do, beside a model of what each must see of the other.
//!
//! The client keeps the rules, but where a step says otherwise. Its bytes come in portions, and it reads in portions. At the
//! end it opens all windows: then each call must have its whole answer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::super::abuse::Abuse;
use super::super::frame::{FrameHeader, HEADER_BYTES, flag, kind, setting};
use super::super::hpack::Decoder;
use super::super::*;
use super::client::{self, Pair, block, frame, head_of, message, settings, window_update};

const STREAMS_MAX: usize = 12;
/// Steps until all must be quiet at the end.
const SETTLE_MAX: usize = 2_000;

/// Limits under which everything happens with little, and no flood is seen in a long script.
fn limits() -> Limits {
    let free = Allowance::new(u32::MAX, 0, 0);
    let hour = Duration::from_secs(3600);
    Limits {
        streams_max: STREAMS_MAX as u32,
        out_bytes_max: 20_000,
        held_bytes_max: 200_000,
        message_bytes: 100_000,
        assembling_bytes: 10 << 20,
        stream_window_bytes: 65_535,
        connection_window_bytes: 100_000,
        resets: free,
        settings: free,
        pings: free,
        empty_data: free,
        window_updates: free,
        idle_frames: free,
        handshake: hour,
        settings_ack: hour,
        idle: None,
        stalled_reader: hour,
        slow_writer: hour,
        ..Limits::default()
    }
}

/// What a call must be answered with.
#[derive(Debug, Clone, PartialEq)]
enum Answered {
    /// These bytes, once.
    With(Vec<u8>),
    /// An error with this code.
    Failed(u8),
    /// What the server has not said yet.
    Open,
    /// Anything: the client has broken a rule, or the server had no room.
    Anyhow,
}

#[derive(Debug)]
struct Call {
    expected: Answered,
    /// What the client has not sent yet of its message.
    unsent: Vec<u8>,
    has_sent_end: bool,
    is_reset: bool,
    /// What it may send, and what the server may.
    send_window: i64,
    receive_window: i64,
    has_headers: bool,
    content: Vec<u8>,
    /// The code that it has ended with.
    end: Option<u8>,
    was_reset: bool,
}

impl Call {
    fn is_open(&self) -> bool {
        !self.is_reset && self.end.is_none() && !self.was_reset
    }
}

struct Player {
    pair: Pair,
    /// What the client has said and the server has not got.
    on_its_way: Vec<u8>,
    /// What the client has read of frames that are not whole.
    unread: Vec<u8>,
    decoder: Decoder,
    calls: BTreeMap<u32, Call>,
    next_stream: u32,
    send_window: i64,
    receive_window: i64,
    /// What the client's last SETTINGS say, whether the server knows or not.
    initial_window: i64,
    /// Changes that the server has not acknowledged, and the first stream that they do not concern.
    changes: VecDeque<(i64, u32)>,
    pings: VecDeque<[u8; 8]>,
    is_going: bool,
    /// The client has done what ends the connection with this code.
    doom: Option<ErrorCode>,
    end: Option<Closing>,
    goaway: Option<u32>,
}

/// Plays the script. Panics where the server does what it must not.
pub(crate) fn play(script: &[u8]) {
    let mut player = Player::new();
    let mut rest = script;
    while let [step, low, high, after @ ..] = rest {
        rest = after;
        player.step(*step, u16::from_le_bytes([*low, *high]));
        player.check();
    }
    player.settle();
}

impl Player {
    fn new() -> Self {
        let mut pair = Pair::with(limits());
        pair.bytes();
        pair.send(&client::greeting()).expect("a greeting");
        Self {
            pair,
            on_its_way: Vec::new(),
            unread: Vec::new(),
            decoder: Decoder::new(),
            calls: BTreeMap::new(),
            next_stream: 1,
            send_window: 100_000,
            receive_window: 65_535,
            initial_window: 65_535,
            changes: VecDeque::from([(0, 0)]), // the greeting's
            pings: VecDeque::new(),
            is_going: false,
            doom: None,
            end: None,
            goaway: None,
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        if self.doom.is_none() {
            self.on_its_way.extend(bytes);
        }
    }

    fn step(&mut self, step: u8, number: u16) {
        match step % 24 {
            0..=4 => self.call(number),
            5 | 6 => self.go_on(number, usize::from(number >> 4)),
            7 => self.reset(number),
            8 | 9 => self.deliver(usize::from(number)),
            10 | 11 => self.deliver(usize::from(number % 64)),
            12 | 13 => self.read(usize::from(number)),
            14 => self.widen(number, i64::from(number)),
            15 => self.set_window(i64::from(number) * 2),
            16 => {
                let size = u32::from(number % 256);
                self.changes.push_back((0, 0));
                self.say(&settings(&[
                    (setting::HEADER_TABLE_SIZE, size),
                    (setting::MAX_FRAME_SIZE, 16_384 + size),
                ]));
            }
            17 => {
                let data = u64::from(number).to_be_bytes();
                self.pings.push_back(data);
                self.say(&frame(kind::PING, 0, 0, &data));
            }
            18 | 19 => self.answer(number),
            20 => self.pass(Duration::from_millis(u64::from(number) / 64)),
            21 => self.ignorable(number),
            22 if number.is_multiple_of(8) => self.shut_down(),
            22 => self.misbehave_on_stream(number),
            _ => self.misbehave(number),
        }
    }

    /// One of the calls that are open, as the client sees it.
    fn pick(&self, number: u16) -> Option<u32> {
        let open: Vec<u32> = self
            .calls
            .iter()
            .filter(|(_, call)| call.is_open())
            .map(|(id, _)| *id)
            .collect();
        (!open.is_empty()).then(|| open[usize::from(number) % open.len()])
    }

    fn call(&mut self, number: u16) {
        let open = self.calls.values().filter(|call| call.is_open()).count();
        if open >= STREAMS_MAX || self.is_going || self.doom.is_some() {
            return;
        }
        let (kind, len) = (number % 16, usize::from(number >> 4));
        let (text, expected) = match kind {
            0 => (b"later".to_vec(), Answered::Open),
            1 => (b"later ".repeat(1 + len), Answered::Open),
            2 => (b"fail".to_vec(), Answered::Failed(5)),
            3 => (b"drop".to_vec(), Answered::Failed(13)),
            4 | 5 => (
                format!("held {}", len * 16).into_bytes(),
                Answered::With(vec![b'h'; len * 16]),
            ),
            6 => (
                format!("large {}", len * 16).into_bytes(),
                Answered::With(vec![b'l'; len * 16]),
            ),
            7 => (vec![b'x'; len * 16], Answered::With(vec![b'x'; len * 16])),
            _ => (vec![b'x'; len / 64], Answered::With(vec![b'x'; len / 64])),
        };
        let id = self.next_stream;
        self.next_stream += 2;
        self.calls.insert(
            id,
            Call {
                expected,
                unsent: message(&text),
                has_sent_end: false,
                is_reset: false,
                send_window: 65_535,
                receive_window: self.initial_window,
                has_headers: false,
                content: Vec::new(),
                end: None,
                was_reset: false,
            },
        );
        self.say(&frame(
            kind::HEADERS,
            flag::END_HEADERS,
            id,
            &block(&head_of("/echo/Unary")),
        ));
        if kind % 4 != 3 {
            self.send(id, usize::MAX, flag::END_STREAM);
        }
    }

    /// Sends some more of a call's message, as far as the windows have room, and the end if that is all.
    fn send(&mut self, id: u32, most: usize, end: u8) {
        loop {
            let call = self.calls.get_mut(&id).expect("it is there");
            if call.has_sent_end || !call.is_open() {
                return;
            }
            let window = self.send_window.min(call.send_window).max(0) as usize;
            let len = call.unsent.len().min(window).min(most).min(16_384);
            let part: Vec<u8> = call.unsent.drain(..len).collect();
            let is_all = call.unsent.is_empty();
            if part.is_empty() && !is_all {
                return;
            }
            call.send_window -= len as i64;
            self.send_window -= len as i64;
            let flags = if is_all { end } else { 0 };
            call.has_sent_end = flags != 0;
            self.say(&frame(kind::DATA, flags, id, &part));
            if most != usize::MAX || is_all {
                return;
            }
        }
    }

    fn go_on(&mut self, number: u16, most: usize) {
        if let Some(id) = self.pick(number) {
            self.send(
                id,
                most,
                if number.is_multiple_of(3) {
                    0
                } else {
                    flag::END_STREAM
                },
            );
        }
    }

    fn reset(&mut self, number: u16) {
        if let Some(id) = self.pick(number) {
            self.calls.get_mut(&id).expect("it is there").is_reset = true;
            self.say(&client::reset(id));
        }
    }

    fn widen(&mut self, number: u16, increment: i64) {
        if increment == 0 {
            return;
        }
        match self.pick(number) {
            Some(id) if number.is_multiple_of(2) => {
                let call = self.calls.get_mut(&id).expect("it is there");
                if call.receive_window + increment < 1 << 30 {
                    call.receive_window += increment;
                    self.say(&window_update(id, increment as u32));
                }
            }
            _ => {
                self.receive_window += increment;
                self.say(&window_update(0, increment as u32));
            }
        }
    }

    fn set_window(&mut self, size: i64) {
        self.changes
            .push_back((size - self.initial_window, self.next_stream));
        self.initial_window = size;
        self.say(&settings(&[(setting::INITIAL_WINDOW_SIZE, size as u32)]));
    }

    fn ignorable(&mut self, number: u16) {
        let id = u32::from(number % 32) + 1;
        self.say(&match number % 3 {
            0 => frame(0x40 | (number >> 8) as u8, number as u8, id, &[1, 2, 3]),
            1 => frame(kind::PRIORITY, 0, id, &[0, 0, 0, 0, 1]),
            _ => frame(kind::GOAWAY, 0, 0, &[0; 8]),
        });
    }

    /// What ends a stream, if the server still knows it.
    fn misbehave_on_stream(&mut self, number: u16) {
        let Some(id) = self.pick(number / 8) else {
            return;
        };
        let call = self.calls.get_mut(&id).expect("it is there");
        let bytes = match number % 8 {
            1 => window_update(id, 0),
            2 => {
                call.receive_window += i64::from(i32::MAX); // one of two is none
                window_update(id, i32::MAX as u32).repeat(2)
            }
            // After the end they would end the connection, if the stream has been forgotten.
            3 if !call.has_sent_end => frame(
                kind::HEADERS,
                flag::END_HEADERS | flag::END_STREAM,
                id,
                &block(&[(":path", "/")]),
            ),
            4 if self.send_window > 9 => {
                self.send_window -= 9;
                frame(
                    kind::DATA,
                    flag::END_STREAM,
                    id,
                    &[1, 0, 0, 0, 4, 1, 1, 1, 1],
                )
            }
            _ => return,
        };
        call.expected = Answered::Anyhow;
        call.has_sent_end = true;
        self.say(&bytes);
    }

    /// What ends the connection.
    fn misbehave(&mut self, number: u16) {
        if !number.is_multiple_of(4) || self.doom.is_some() {
            return; // so that scripts may be long
        }
        let protocol = ErrorCode::PROTOCOL_ERROR;
        let (bytes, code) = match number / 4 % 8 {
            0 => (window_update(0, 0), protocol),
            1 => (
                window_update(0, i32::MAX as u32).repeat(2),
                ErrorCode::FLOW_CONTROL_ERROR,
            ),
            2 => (
                frame(kind::PING, 0, 0, &[0; 7]),
                ErrorCode::FRAME_SIZE_ERROR,
            ),
            3 => (frame(kind::DATA, 0, self.next_stream, b""), protocol),
            4 => (
                frame(kind::HEADERS, flag::END_HEADERS, self.next_stream, &[0x80]),
                ErrorCode::COMPRESSION_ERROR,
            ),
            5 => (frame(kind::CONTINUATION, 0, 1, b""), protocol),
            6 => (
                settings(&[(setting::INITIAL_WINDOW_SIZE, u32::MAX)]),
                ErrorCode::FLOW_CONTROL_ERROR,
            ),
            _ => (frame(kind::PUSH_PROMISE, 0, 1, b""), protocol),
        };
        self.say(&bytes);
        self.receive_window += i64::from(i32::MAX); // one of two updates is none
        self.doom = Some(code);
    }

    // The server's side.

    fn deliver(&mut self, len: usize) {
        if !self.pair.connection.wants_read() {
            self.run(b"");
            return;
        }
        let bytes: Vec<u8> = self
            .on_its_way
            .drain(..len.min(self.on_its_way.len()))
            .collect();
        self.run(&bytes);
    }

    fn run(&mut self, bytes: &[u8]) {
        let calls_max = 1 + bytes.len() % 3;
        let (now, echo) = (self.pair.now, &mut self.pair.echo);
        let result = self.pair.connection.receive(bytes, now, calls_max, echo);
        self.ended(result.map(drop));
    }

    fn ended(&mut self, result: Result<(), Closing>) {
        if let Err(closing) = result {
            assert_eq!(Some(closing.code), self.doom, "{closing}");
            assert_eq!(closing.abuse, Some(Abuse::Protocol));
            self.end = Some(closing);
        }
    }

    fn pass(&mut self, time: Duration) {
        let result = self.pair.pass(time);
        self.ended(result);
    }

    fn shut_down(&mut self) {
        let now = self.pair.now;
        self.pair.connection.shut_down(now);
    }

    fn answer(&mut self, number: u16) {
        let later = &mut self.pair.echo.later;
        if later.is_empty() {
            return;
        }
        let id = later.remove(usize::from(number) % later.len());
        let len = usize::from(number) * 2;
        let (answer, expected) = match number % 4 {
            0 => (
                Answer::Failed(Status::new(Code::ABORTED, "no \u{fc} 100%")),
                Answered::Failed(10),
            ),
            1 => (
                Answer::Held(std::sync::Arc::new(vec![b'a'; len])),
                Answered::With(vec![b'a'; len]),
            ),
            _ => (
                Answer::Message(vec![b'a'; len]),
                Answered::With(vec![b'a'; len]),
            ),
        };
        let has_room = !self.pair.connection.sending.holds_too_much();
        let is_taken = self.pair.connection.answer(id, answer);
        let is_gone = self.pair.echo.events.contains(&format!("gone {}", id.0));
        assert_eq!(is_taken, !is_gone, "stream {}", id.0);
        let call = self.calls.get_mut(&id.0).expect("it was called");
        if call.expected == Answered::Open {
            call.expected = match is_taken {
                true if has_room || matches!(expected, Answered::Failed(_)) => expected,
                true => Answered::Failed(8),
                false => Answered::Anyhow,
            };
        }
    }

    fn check(&self) {
        self.pair.connection.validate();
        let sending = &self.pair.connection.sending;
        let limits = limits();
        // A frame, and what answers to a few frames more.
        assert!(
            sending.out.len() <= limits.out_bytes_max + 140_000,
            "{} bytes",
            sending.out.len()
        );
        assert!(
            sending.held_bytes
                <= super::super::sending::ELSEWHERE_TIMES * limits.held_bytes_max + 140_000,
            "{} bytes",
            sending.held_bytes
        );
    }

    // What the client reads.

    fn read(&mut self, len: usize) {
        let mut left = len;
        for piece in self.pair.connection.pieces() {
            let part = &piece[..piece.len().min(left)];
            self.unread.extend_from_slice(part);
            left -= part.len();
        }
        self.pair.connection.written(len - left);
        let unread = std::mem::take(&mut self.unread);
        let mut rest = &unread[..];
        while let Some(header) = FrameHeader::read(rest)
            && let Some((payload, after)) = rest[HEADER_BYTES..].split_at_checked(header.len)
        {
            self.on_frame(header, payload);
            rest = after;
        }
        self.unread = rest.to_vec();
    }

    fn on_frame(&mut self, header: FrameHeader, payload: &[u8]) {
        assert!(
            self.goaway.is_none_or(|code| code == 0),
            "nothing comes after the end"
        );
        let id = header.stream;
        match header.kind {
            kind::SETTINGS if header.has(flag::ACK) => {
                let (change, first) = self.changes.pop_front().expect("it was asked for");
                for (_, call) in self.calls.range_mut(..first) {
                    call.receive_window += change;
                }
            }
            kind::PING if header.has(flag::ACK) => {
                assert_eq!(
                    self.pings.pop_front().as_ref().map(|data| &data[..]),
                    Some(payload)
                );
            }
            kind::PING => self.say(&frame(kind::PING, flag::ACK, 0, payload)),
            kind::GOAWAY => {
                self.is_going = true;
                self.goaway = Some(u32::from_be_bytes([
                    payload[4], payload[5], payload[6], payload[7],
                ]));
            }
            kind::WINDOW_UPDATE => {
                let increment = i64::from(u32::from_be_bytes([
                    payload[0], payload[1], payload[2], payload[3],
                ]));
                assert!(increment > 0);
                match self.calls.get_mut(&id) {
                    Some(call) => call.send_window += increment,
                    None => self.send_window += increment,
                }
                assert!(self.send_window <= 100_000);
            }
            kind::HEADERS => self.on_headers(header, payload),
            kind::DATA => {
                self.receive_window -= payload.len() as i64;
                assert!(self.receive_window >= 0, "the window of the connection");
                assert!(payload.len() <= 16_384 + 255 && !payload.is_empty());
                let call = self.answered_call(id);
                call.receive_window -= payload.len() as i64;
                assert!(call.receive_window >= 0, "the window of stream {id}");
                assert!(call.has_headers);
                call.content.extend_from_slice(payload);
            }
            kind::RST_STREAM => {
                let code = payload[3];
                let shuts_down = self.is_going;
                let call = self.calls.get_mut(&id).expect("it was opened");
                assert!(!call.was_reset, "stream {id} is reset twice");
                let is_refused = shuts_down && code == 7 && call.end.is_none();
                assert!(
                    is_refused || call.expected == Answered::Anyhow || call.is_reset,
                    "stream {id}: reset for {code}"
                );
                call.was_reset = true;
            }
            other => panic!("frame {other}"),
        }
    }

    /// A call to which something comes: it is not at its end.
    fn answered_call(&mut self, id: u32) -> &mut Call {
        let call = self.calls.get_mut(&id).expect("it was opened");
        assert!(
            call.end.is_none() && !call.was_reset,
            "stream {id} goes on after its end"
        );
        call
    }

    fn on_headers(&mut self, header: FrameHeader, payload: &[u8]) {
        let (mut code, mut has_status) = (None, false);
        let decoded = self
            .decoder
            .decode(payload, usize::MAX, |field| match field.name {
                b":status" => has_status = field.value == b"200",
                b"grpc-status" => {
                    code = std::str::from_utf8(field.value)
                        .ok()
                        .and_then(|text| text.parse().ok())
                }
                _ => (),
            });
        decoded.expect("a header block");
        let call = self.answered_call(header.stream);
        assert_eq!(has_status, !call.has_headers);
        assert_eq!(code.is_some(), header.has(flag::END_STREAM));
        call.has_headers = true;
        call.end = code;
    }

    // The end.

    /// Lets everything come to its end, and looks at what each call has got.
    fn settle(&mut self) {
        if self.doom.is_none() {
            self.open_all();
        }
        for _ in 0..SETTLE_MAX {
            while !self.pair.echo.later.is_empty() && self.doom.is_none() {
                self.answer(2);
            }
            let unfinished: Vec<u32> = self
                .calls
                .iter()
                .filter(|(_, call)| call.is_open())
                .map(|(id, _)| *id)
                .collect();
            for id in unfinished {
                self.send(id, usize::MAX, flag::END_STREAM);
            }
            self.deliver(10_000);
            self.read(usize::MAX);
            self.check();
            if self.is_quiet() {
                return self.look_back();
            }
        }
        let open: Vec<_> = self
            .calls
            .iter()
            .filter(|(_, call)| call.is_open())
            .collect();
        panic!(
            "it does not come to its end: {} bytes on their way, open: {open:?}",
            self.on_its_way.len()
        );
    }

    fn open_all(&mut self) {
        self.set_window(1 << 29);
        self.widen(1, 1 << 30);
        let open: Vec<u32> = self
            .calls
            .iter()
            .filter(|(_, call)| call.is_open())
            .map(|(id, _)| *id)
            .collect();
        for id in open {
            self.calls.get_mut(&id).expect("it is there").receive_window += 1 << 29;
            self.say(&window_update(id, 1 << 29));
        }
    }

    fn is_quiet(&self) -> bool {
        if self.doom.is_some() {
            return self.end.is_some() && !self.pair.connection.wants_write();
        }
        let is_said = self.on_its_way.is_empty() && self.pair.connection.wants_read();
        is_said
            && !self.pair.connection.wants_write()
            && self.calls.values().all(|call| !call.is_open())
    }

    fn look_back(&mut self) {
        if let Some(doom) = self.doom {
            assert_eq!(self.goaway, Some(doom.0));
            return;
        }
        assert!(self.unread.is_empty() && self.pings.is_empty() && self.changes.is_empty());
        assert_eq!(self.pair.connection.open_streams(), 0);
        assert_eq!(self.pair.connection.sending.held_bytes, 0);
        for (id, call) in &self.calls {
            if call.is_reset || call.was_reset && self.is_going {
                continue;
            }
            match &call.expected {
                Answered::With(bytes) => {
                    assert_eq!(call.end, Some(0), "stream {id}");
                    assert!(
                        call.content == message(bytes),
                        "stream {id}: {} of {}",
                        call.content.len(),
                        bytes.len()
                    );
                }
                Answered::Failed(code) => assert_eq!(
                    (call.end, call.content.len()),
                    (Some(*code), 0),
                    "stream {id}"
                ),
                Answered::Open => panic!("stream {id} was never called"),
                Answered::Anyhow => (),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_script_goes_well(script in prop::collection::vec(any::<u8>(), 0..600)) {
            play(&script);
        }
    }
}
