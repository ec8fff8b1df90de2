//! HTTP/2 as it is on the wire, for what no client would send.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net::{self, AddressFamily, SocketType};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags of frames.
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const FRAME_MAX_BYTES: usize = 16 << 10;

/// A frame that was received.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// An encoded frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a frame has no more");
    let mut frame = len.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What a client begins with.
pub fn greeting() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// The headers of a call, as literals that nobody remembers, with `more` behind them.
pub fn headers(path: &str, more: &[(&str, &[u8])]) -> Vec<u8> {
    let usual: [(&str, &[u8]); 6] = [
        (":method", b"POST"),
        (":scheme", b"http"),
        (":path", path.as_bytes()),
        (":authority", b"node"),
        ("content-type", b"application/grpc"),
        ("te", b"trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in usual.iter().chain(more) {
        block.push(0);
        put_string(&mut block, name.as_bytes());
        put_string(&mut block, value);
    }
    block
}

/// RFC 7541, 5.2: a length with a prefix of seven bits, and no Huffman code.
fn put_string(block: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        len @ ..127 => block.push(len as u8),
        len => {
            block.push(127);
            let mut rest = len - 127;
            while rest >= 128 {
                block.push(rest as u8 | 128);
                rest >>= 7;
            }
            block.push(rest as u8);
        }
    }
    block.extend(bytes);
}

/// A gRPC message behind its prefix.
pub fn message(compressed: bool, bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).expect("a message has no more");
    let prefix = [&[u8::from(compressed)][..], &len.to_be_bytes()].concat();
    [&prefix, bytes].concat()
}

/// A connection to a node.
pub struct Connection(pub TcpStream);

impl Connection {
    /// Connects, and says nothing.
    pub fn open(addr: SocketAddr) -> Connection {
        Connection::over(TcpStream::connect(addr).expect("the port is open"))
    }

    fn over(stream: TcpStream) -> Connection {
        stream
            .set_read_timeout(Some(super::PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(super::PATIENCE)))
            .and_then(|()| stream.set_nodelay(true))
            .expect("time limits can be set");
        Connection(stream)
    }

    /// Connects, and begins with HTTP/2.
    pub fn greet(addr: SocketAddr) -> Connection {
        let mut connection = Connection::open(addr);
        connection.send(&greeting()).expect("a greeting is taken");
        connection
    }

    /// The same from another address of this machine. The node may close it at once.
    pub fn greet_from(local: Ipv4Addr, addr: SocketAddr) -> Connection {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None);
        let socket = socket.expect("a socket can be made");
        net::bind(&socket, &SocketAddr::from((local, 0)))
            .and_then(|()| net::connect(&socket, &addr))
            .expect("the port is open");
        let mut connection = Connection::over(socket.into());
        let _ = connection.send(&greeting());
        connection
    }

    /// Sends bytes, whatever they are. The node may have closed the connection.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Sends the body of a stream as fast as the node's windows let it, until all is sent, or the node has ended the
    /// stream, or it has asked for no more for a while. Returns what was sent.
    pub fn send_body(&mut self, stream: u32, body: &[u8]) -> usize {
        const QUIET: Duration = Duration::from_secs(6);
        self.0
            .set_read_timeout(Some(QUIET))
            .expect("a time limit can be set");
        let (mut of_connection, mut of_stream) = (65_535, 65_535);
        let mut sent = 0;
        while sent < body.len() {
            let window = of_connection.min(of_stream).min(FRAME_MAX_BYTES);
            let piece = &body[sent..][..window.min(body.len() - sent)];
            if !piece.is_empty() {
                if self.send(&frame(DATA, 0, stream, piece)).is_err() {
                    break;
                }
                sent += piece.len();
                of_connection -= piece.len();
                of_stream -= piece.len();
                continue;
            }
            let Some(told) = self.receive() else { break };
            let is_end = told.kind == GOAWAY || told.kind == RST_STREAM;
            if is_end || told.kind == HEADERS && told.flags & END_STREAM != 0 {
                break;
            }
            if told.kind == WINDOW_UPDATE {
                let more = told.payload.first_chunk().expect("a number");
                let more = u32::from_be_bytes(*more) as usize;
                match told.stream {
                    0 => of_connection += more,
                    _ => of_stream += more,
                }
            }
        }
        sent
    }

    /// Sends nothing more.
    pub fn finish(&self) {
        // It may be closed already.
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// The next frame; none at the end of the connection. Settings and pings are acknowledged.
    pub fn receive(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; len as usize];
        self.0.read_exact(&mut payload).ok()?;
        let (kind, flags) = (head[3], head[4]);
        if flags & ACK == 0 && (kind == SETTINGS || kind == PING) {
            let told: &[u8] = if kind == PING { &payload } else { &[] };
            // What it says is of use even if the answer does not arrive.
            let _ = self.send(&frame(kind, ACK, 0, told));
        }
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([head[5] & 127, head[6], head[7], head[8]]),
            payload,
        })
    }

    /// Reads until a frame that is wanted, or the end of the connection.
    pub fn receive_until(&mut self, is_wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.receive()?;
            if is_wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Reads until the node has ended this stream, or the connection; the last frame of it, if there was one.
    pub fn end_of(&mut self, stream: u32) -> Option<Frame> {
        self.receive_until(|frame| {
            let ends = frame.flags & END_STREAM != 0 && matches!(frame.kind, DATA | HEADERS);
            frame.stream == stream && (ends || frame.kind == RST_STREAM)
        })
    }

    /// Reads until the node has closed the connection. False if it has not after so long.
    pub fn is_closed_within(&mut self, patience: Duration) -> bool {
        self.0
            .set_read_timeout(Some(patience))
            .expect("a time limit can be set");
        let mut bytes = [0; 4096];
        loop {
            match self.0.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => {
                    use io::ErrorKind::{TimedOut, WouldBlock};
                    return !matches!(error.kind(), TimedOut | WouldBlock);
                }
            }
        }
    }
}
