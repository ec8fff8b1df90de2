//! A client that writes and reads frames, and a handler that says what it was asked.

use std::time::Duration;

use super::super::frame::{self, FrameHeader, HEADER_BYTES, PREFACE, flag, kind};
use super::super::hpack::{Decoder, field_without_index};
use super::super::*;
use std::sync::Arc;
use std::time::Instant;

pub const UNARY: u16 = 1;
pub const STREAM: u16 = 2;

/// Answers each message with itself, unless its first word says otherwise.
#[derive(Default)]
pub struct Echo {
    /// What came, as text.
    pub events: Vec<String>,
    pub later: Vec<StreamId>,
    pub deadlines: Vec<Option<Instant>>,
    /// What replies are held in is short: they may lie so long.
    pub stall: Option<Duration>,
}

impl Handler for Echo {
    fn method(&mut self, path: &str) -> Result<Method, Status> {
        self.events.push(format!("method {path}"));
        match path {
            "/echo/Unary" => Ok(Method::Unary(UNARY)),
            "/echo/Stream" => Ok(Method::Stream(STREAM)),
            _ => Err(Status::new(Code::UNIMPLEMENTED, format!("no {path} here"))),
        }
    }

    fn call(&mut self, request: Request<'_>, reply: Reply<'_>) {
        let message = request.message;
        let text = String::from_utf8_lossy(&message[..message.len().min(40)]).into_owned();
        self.events
            .push(format!("call {} {} {text}", request.method, message.len()));
        self.deadlines.push(request.deadline);
        match text.split(' ').next() {
            Some("later") => self.later.push(reply.later()),
            Some("fail") => reply.failed(Status::new(Code::NOT_FOUND, text[4..].trim().to_owned())),
            Some("drop") => drop(reply),
            Some("held") => {
                let len: usize = text[5..].trim().parse().expect("a length");
                reply.held(Arc::new(vec![b'h'; len]));
            }
            Some("large") => {
                let len: usize = text[6..].trim().parse().expect("a length");
                reply.message(|out| out.resize(out.len() + len, b'l'));
            }
            _ => reply.message(|out| out.extend_from_slice(message)),
        }
    }

    fn gone(&mut self, stream: StreamId) {
        self.events.push(format!("gone {}", stream.0));
    }

    fn stall_limit(&self, at_most: Duration) -> Duration {
        self.stall.unwrap_or(at_most)
    }
}

/// A frame that has come from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_header(&mut out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
    out
}

pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        field_without_index(&mut out, name.as_bytes(), value.as_bytes());
    }
    out
}

pub fn head_of(path: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "here"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
}

pub fn message(text: &[u8]) -> Vec<u8> {
    [&[0][..], &(text.len() as u32).to_be_bytes(), text].concat()
}

/// HEADERS and DATA of a unary call.
pub fn call(stream: u32, text: &str) -> Vec<u8> {
    let head = block(&head_of("/echo/Unary"));
    let mut out = frame(kind::HEADERS, flag::END_HEADERS, stream, &head);
    out.extend(frame(
        kind::DATA,
        flag::END_STREAM,
        stream,
        &message(text.as_bytes()),
    ));
    out
}

/// Both ends of a connection.
pub struct Pair {
    pub connection: Connection,
    pub counts: Arc<Counts>,
    pub echo: Echo,
    pub now: Instant,
    decoder: Decoder,
    unread: Vec<u8>,
}

impl Pair {
    pub fn with(limits: Limits) -> Self {
        let (now, counts) = (Instant::now(), Arc::<Counts>::default());
        Self {
            connection: Connection::new(Arc::new(limits), counts.clone(), now),
            counts,
            echo: Echo::default(),
            now,
            decoder: Decoder::new(),
            unread: Vec::new(),
        }
    }

    /// A pair that has greeted each other.
    pub fn greeted(limits: Limits) -> Self {
        let mut pair = Self::with(limits);
        pair.send(&greeting()).expect("a greeting");
        pair.frames();
        pair
    }

    pub fn new() -> Self {
        Self::greeted(Limits::default())
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<Progress, Closing> {
        self.connection
            .receive(bytes, self.now, usize::MAX, &mut self.echo)
    }

    /// What the send must end with.
    pub fn dies(&mut self, bytes: &[u8]) -> Closing {
        let closing = self.send(bytes).expect_err("an error of the connection");
        let frames = self.frames();
        let last = frames.last().expect("a GOAWAY");
        assert_eq!(
            (last.kind, &last.payload[4..8]),
            (kind::GOAWAY, &closing.code.0.to_be_bytes()[..])
        );
        assert_eq!(self.send(b""), Err(closing), "it stays closed");
        assert!(self.connection.is_finished());
        closing
    }

    pub fn pass(&mut self, time: Duration) -> Result<(), Closing> {
        self.now += time;
        self.connection.tick(self.now, &mut self.echo)
    }

    /// All that the server has written.
    pub fn bytes(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while self.connection.wants_write() {
            let bytes = self.connection.pieces().collect::<Vec<_>>().concat();
            self.connection.written(bytes.len());
            all.extend(bytes);
        }
        all
    }

    /// The frames of it.
    pub fn frames(&mut self) -> Vec<Frame> {
        let bytes = self.bytes();
        self.unread.extend(bytes);
        let mut frames = Vec::new();
        while let Some(header) = FrameHeader::read(&self.unread) {
            let end = HEADER_BYTES + header.len;
            frames.push(Frame {
                kind: header.kind,
                flags: header.flags,
                stream: header.stream,
                payload: self.unread[HEADER_BYTES..end].to_vec(),
            });
            self.unread.drain(..end);
        }
        assert!(self.unread.is_empty(), "whole frames");
        frames
    }

    /// The fields of a header block, as text.
    pub fn fields(&mut self, block: &[u8]) -> String {
        let mut text = String::new();
        let show = |name: &[u8], value: &[u8]| {
            format!("{}={} ", name.escape_ascii(), value.escape_ascii())
        };
        let decoded = self.decoder.decode(block, usize::MAX, |field| {
            text += &show(field.name, field.value)
        });
        decoded.expect("a header block");
        text.trim_end().to_owned()
    }

    /// The frames as lines of text, DATA with its length and first bytes.
    pub fn lines(&mut self) -> Vec<String> {
        let frames = self.frames();
        let line = |frame: Frame| {
            let end = if frame.flags & flag::END_STREAM != 0 {
                " end"
            } else {
                ""
            };
            let payload = &frame.payload;
            match frame.kind {
                kind::HEADERS => format!("{} HEADERS{end} {}", frame.stream, self.fields(payload)),
                kind::DATA => {
                    let shown = &payload[..payload.len().min(16)];
                    format!(
                        "{} DATA{end} {} {}",
                        frame.stream,
                        payload.len(),
                        shown.escape_ascii()
                    )
                }
                kind::RST_STREAM => format!("{} RST {}", frame.stream, payload[3]),
                kind::GOAWAY => format!(
                    "GOAWAY {} {}",
                    last_u32(&payload[..4]),
                    last_u32(&payload[4..8])
                ),
                kind::WINDOW_UPDATE => format!("{} WINDOW {}", frame.stream, last_u32(payload)),
                kind::PING => format!("PING {} {}", frame.flags, payload.escape_ascii()),
                kind::SETTINGS => format!("SETTINGS {}", frame.flags),
                other => format!("{other}?"),
            }
        };
        frames.into_iter().map(line).collect()
    }
}

fn last_u32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

/// Preface, empty SETTINGS, and the acknowledgement of the server's.
pub fn greeting() -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    out.extend(frame(kind::SETTINGS, 0, 0, &[]));
    out.extend(frame(kind::SETTINGS, flag::ACK, 0, &[]));
    out
}

pub fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_settings(&mut out, pairs);
    out
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &8u32.to_be_bytes())
}
