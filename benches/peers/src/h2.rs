//! As much of HTTP/2 as it takes to load a gRPC server from one thread: it is to cost less than the server does.
//!
//! Requests have the same headers always, so they are encoded once: in full for the first request of a connection, by
//! their places in the table of headers for the others. Of replies the data is read, and the end; headers are skipped.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
/// What a request may have before the server takes more, as long as it has not said otherwise.
pub const STREAM_WINDOW: i64 = 65_535;
/// As large as windows and frames may be.
const WINDOW_MAX: u32 = (1 << 31) - 1;
const FRAME_MAX: u32 = (1 << 24) - 1;
/// What is read until the window is filled up again.
const WINDOW_STEP: u32 = 1 << 29;

pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    /// The part of `input` that has been read and not seen.
    unseen: std::ops::Range<usize>,
    output: Vec<u8>,
    path: &'static str,
    next_stream: u32,
    /// What may be sent on the connection, and in one frame.
    window: i64,
    frame_bytes: usize,
    unacknowledged: u32,
}

/// What a server has said.
pub enum Event<'a> {
    /// Some bytes of a reply.
    Data(&'a [u8]),
    /// The stream of this number has ended.
    End(u32),
    /// The server takes so many bytes more of a request.
    Window(u32),
}

impl Connection {
    pub fn open(addr: SocketAddr, path: &'static str) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        let mut connection = Self {
            stream,
            input: vec![0; 1 << 20],
            unseen: 0..0,
            output: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            path,
            next_stream: 1,
            window: STREAM_WINDOW,
            frame_bytes: 16_384,
            unacknowledged: 0,
        };
        let mut settings = Vec::new();
        for (name, value) in [
            (INITIAL_WINDOW_SIZE, WINDOW_MAX),
            (MAX_FRAME_SIZE, FRAME_MAX),
        ] {
            settings.extend(name.to_be_bytes());
            settings.extend(value.to_be_bytes());
        }
        connection.frame(SETTINGS, 0, 0, &settings);
        connection.frame(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes());
        Ok(connection)
    }

    /// Begins a request; its number.
    pub fn begin(&mut self) -> u32 {
        let number = self.next_stream;
        self.next_stream += 2;
        let headers = match number {
            1 => first_headers(self.path),
            // POST, http, and the four that the first request has put into the table.
            _ => vec![0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe],
        };
        self.frame(HEADERS, END_HEADERS, number, &headers);
        number
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether the server takes so much more now.
    pub fn takes(&self, bytes: usize) -> bool {
        self.window >= bytes as i64
    }

    /// Adds to a request. Nothing is sent before `flush`.
    pub fn send(&mut self, number: u32, bytes: &[u8], is_end: bool) {
        self.window -= bytes.len() as i64;
        let mut parts = bytes.chunks(self.frame_bytes).peekable();
        while let Some(part) = parts.next() {
            let flags = if is_end && parts.peek().is_none() {
                END_STREAM
            } else {
                0
            };
            self.frame(DATA, flags, number, part);
        }
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// Waits for something, and shows all that has come.
    pub fn receive(&mut self, mut see: impl FnMut(Event<'_>)) -> io::Result<()> {
        self.input.copy_within(self.unseen.clone(), 0);
        self.unseen = 0..self.unseen.len();
        if self.unseen.len() == self.input.len() {
            self.input.resize(2 * self.input.len(), 0);
        }
        let read = self.stream.read(&mut self.input[self.unseen.end..])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unseen.end += read;
        while self.unseen.len() >= 9 {
            let head = &self.input[self.unseen.start..][..9];
            let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            if self.unseen.len() < 9 + len {
                break;
            }
            let (kind, flags, stream) = (head[3], head[4], number(&head[5..]));
            let from = self.unseen.start + 9;
            self.unseen.start += 9 + len;
            let input = std::mem::take(&mut self.input);
            self.see(kind, flags, stream, &input[from..from + len], &mut see)?;
            self.input = input;
        }
        Ok(())
    }

    fn see(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        see: &mut impl FnMut(Event<'_>),
    ) -> io::Result<()> {
        match kind {
            DATA => {
                see(Event::Data(payload));
                self.unacknowledged += payload.len() as u32;
                if self.unacknowledged > WINDOW_STEP {
                    let more = self.unacknowledged.to_be_bytes();
                    self.frame(WINDOW_UPDATE, 0, 0, &more);
                    if flags & END_STREAM == 0 {
                        self.frame(WINDOW_UPDATE, 0, stream, &more);
                    }
                    self.unacknowledged = 0;
                }
            }
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    if u16::from_be_bytes([setting[0], setting[1]]) == MAX_FRAME_SIZE {
                        self.frame_bytes = number(&setting[2..]) as usize;
                    }
                }
                self.frame(SETTINGS, ACK, 0, &[]);
                self.flush()?;
            }
            PING if flags & ACK == 0 => {
                self.frame(PING, ACK, 0, payload);
                self.flush()?;
            }
            WINDOW_UPDATE if stream == 0 => self.window += i64::from(number(payload)),
            WINDOW_UPDATE => see(Event::Window(number(payload))),
            RST_STREAM | GOAWAY => {
                return Err(io::Error::other(format!("frame {kind}: {payload:?}")));
            }
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            see(Event::End(stream));
        }
        Ok(())
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = (payload.len() as u32).to_be_bytes();
        self.output.extend_from_slice(&len[1..]);
        self.output.extend_from_slice(&[kind, flags]);
        self.output.extend_from_slice(&stream.to_be_bytes());
        self.output.extend_from_slice(payload);
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// HPACK, without Huffman's code: POST and http from the table that all know, and four headers for the one to come.
fn first_headers(path: &str) -> Vec<u8> {
    let mut headers = vec![0x83, 0x86];
    let mut add = |name: &[u8], value: &str| {
        headers.extend_from_slice(name);
        headers.push(value.len() as u8);
        headers.extend_from_slice(value.as_bytes());
    };
    add(&[0x44], path);
    add(&[0x41], "localhost");
    add(&[0x5f], "application/grpc");
    add(b"\x40\x02te", "trailers");
    headers
}
