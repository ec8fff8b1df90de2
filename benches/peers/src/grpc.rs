//! Calls of a node: requests encoded beforehand, replies checked by their bytes.

use std::io;
use std::net::SocketAddr;

use crate::drive::Client;
use crate::h2::{Connection, Event, STREAM_WINDOW};
use crate::keys::{KEY_BYTES, VALUE_BYTES, key};

pub const GET: &str = "/corecache.v1.Cache/Get";
const GROUP: &[u8] = b"blobs";
/// In front of each gRPC message: a flag, and the length.
const PREFIX_BYTES: usize = 5;
/// Tag and length; then, each with tag and length, the `Value` and its bytes.
const ANSWER_BYTES: usize = 2 + 2 + 2 + VALUE_BYTES;

/// Makes a gRPC message of an encoded one.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// A `GetRequest`, `GetManyRequest` or `FetchRequest` without an id, as a gRPC message.
pub fn request(keys: &[usize]) -> Vec<u8> {
    let mut message = group_field();
    keys.iter()
        .for_each(|&number| put_key(&mut message, number));
    framed(&message)
}

/// The bytes of the reply to a `Get` of a value of so many.
pub fn value_reply_bytes(value_bytes: usize) -> usize {
    let len_bytes = (value_bytes.ilog2() as usize) / 7 + 1;
    PREFIX_BYTES + 1 + len_bytes + value_bytes
}

/// The bytes of the reply to a `GetMany` of so many keys that are all held.
pub fn reply_bytes(keys: usize) -> usize {
    PREFIX_BYTES + keys * ANSWER_BYTES
}

fn group_field() -> Vec<u8> {
    [&[0x0a, GROUP.len() as u8], GROUP].concat()
}

fn put_key(message: &mut Vec<u8>, number: usize) {
    message.extend_from_slice(&[0x12, KEY_BYTES as u8]);
    message.extend_from_slice(&key(number));
}

/// A connection that makes calls of one method.
pub struct Unary {
    connection: Connection,
    reply_bytes: usize,
    received: usize,
    ended: usize,
}

impl Unary {
    /// For `GetMany` of so many keys.
    pub fn many(addr: SocketAddr, keys: usize) -> io::Result<Self> {
        Self::open(addr, "/corecache.v1.Cache/GetMany", reply_bytes(keys))
    }

    /// For `Get`.
    pub fn get(addr: SocketAddr) -> io::Result<Self> {
        Self::open(addr, GET, value_reply_bytes(VALUE_BYTES))
    }

    fn open(addr: SocketAddr, path: &'static str, reply_bytes: usize) -> io::Result<Self> {
        Ok(Self {
            connection: Connection::open(addr, path)?,
            reply_bytes,
            received: 0,
            ended: 0,
        })
    }
}

impl Client for Unary {
    fn send(&mut self, request: &[u8]) -> bool {
        assert!(
            request.len() as i64 <= STREAM_WINDOW,
            "a request that has to wait"
        );
        if !self.connection.takes(request.len()) {
            return false;
        }
        let stream = self.connection.begin();
        self.connection.send(stream, request, true);
        true
    }

    fn flush(&mut self) -> io::Result<()> {
        self.connection.flush()
    }

    fn receive(&mut self) -> io::Result<usize> {
        let (mut bytes, mut ends) = (0, 0);
        self.connection.receive(|event| match event {
            Event::Data(data) => bytes += data.len(),
            Event::End(_) => ends += 1,
            Event::Window(_) => {}
        })?;
        self.received += bytes;
        self.ended += ends;
        if self.received < self.ended * self.reply_bytes {
            let text = format!("{} replies have {} bytes", self.ended, self.received);
            return Err(io::Error::other(text));
        }
        Ok(ends)
    }
}

/// Asks for keys on one stream, so that `in_flight` of them have no answer, until `total` are answered: as many keys
/// as were answered go into the next message.
pub fn fetch(
    addr: SocketAddr,
    keys: &[usize],
    in_flight: usize,
    first_messages: usize,
    total: usize,
) -> io::Result<()> {
    let mut connection = Connection::open(addr, "/corecache.v1.Cache/Fetch")?;
    let stream = connection.begin();
    let mut window = STREAM_WINDOW;
    let encoded: Vec<u8> = keys.iter().fold(Vec::new(), |mut all, &number| {
        put_key(&mut all, number);
        all
    });
    let group = group_field();
    let mut asked = 0;
    let mut ask = |connection: &mut Connection, count: usize| {
        let count = count.min(total - asked);
        if count == 0 {
            return 0;
        }
        let key_bytes = encoded.len() / keys.len();
        let from = asked % (keys.len() - in_flight) * key_bytes;
        let id = [
            0x18,
            0x80 | (asked & 0x7f) as u8,
            (asked >> 7 & 0x3f) as u8 | 1,
        ];
        let message = [&group, &encoded[from..from + count * key_bytes], &id[..]].concat();
        let message = framed(&message);
        assert!(connection.takes(message.len()), "the node takes no more");
        connection.send(stream, &message, false);
        asked += count;
        message.len() as i64
    };
    for _ in 0..first_messages {
        window -= ask(&mut connection, in_flight / first_messages);
    }
    connection.flush()?;
    let (mut answered, mut replies, mut unread) = (0, 0, Vec::new());
    while answered < total {
        let mut count = 0;
        connection.receive(|event| match event {
            Event::Data(data) => {
                unread.extend_from_slice(data);
                count += take_answers(&mut unread, &mut replies);
            }
            Event::End(_) => panic!("the node has ended the call"),
            Event::Window(more) => window += i64::from(more),
        })?;
        answered += count;
        window -= ask(&mut connection, count);
        assert!(window > 0, "the node takes no more of the stream");
        connection.flush()?;
    }
    Ok(())
}

/// How many answers there are in the replies that are complete; all of them have values.
fn take_answers(unread: &mut Vec<u8>, replies: &mut usize) -> usize {
    let (mut answers, mut from) = (0, 0);
    while unread.len() - from >= PREFIX_BYTES {
        let len = &unread[from + 1..from + PREFIX_BYTES];
        let len = u32::from_be_bytes([len[0], len[1], len[2], len[3]]) as usize;
        let Some(mut message) = unread.get(from + PREFIX_BYTES..from + PREFIX_BYTES + len) else {
            break;
        };
        // Answers have less than 128 bytes: a tag, a length of one byte, the id, and then the value.
        while let [0x0a, len, 0x08, rest @ ..] = message {
            let id_bytes = 1 + rest.iter().take_while(|&&byte| byte >= 0x80).count();
            assert_eq!(rest[id_bytes], 0x12, "an answer without a value");
            assert!(usize::from(*len) > VALUE_BYTES);
            message = &message[2 + usize::from(*len)..];
            answers += 1;
        }
        assert!(message.is_empty(), "a reply with something else in it");
        from += PREFIX_BYTES + len;
        *replies += 1;
    }
    unread.drain(..from);
    answers
}
