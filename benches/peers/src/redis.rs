//! Redis by its own protocol: `MGET`s in a pipeline, replies checked by their bytes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::drive::Client;
use crate::keys::{KEY_BYTES, KEYS, VALUE_BYTES, key};

pub struct Redis {
    stream: TcpStream,
    output: Vec<u8>,
    input: Vec<u8>,
    reply_bytes: usize,
    received: usize,
    ended: usize,
}

impl Redis {
    pub fn open(addr: SocketAddr, reply_bytes: usize) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        // A reply that is shorter than it should be is waited for in vain.
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self {
            stream,
            output: Vec::new(),
            input: vec![0; 1 << 20],
            reply_bytes,
            received: 0,
            ended: 0,
        })
    }
}

impl Client for Redis {
    fn send(&mut self, request: &[u8]) -> bool {
        self.output.extend_from_slice(request);
        true
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        let read = self.stream.read(&mut self.input)?;
        if read == 0 || self.input[0] == b'-' && self.received.is_multiple_of(self.reply_bytes) {
            let text = String::from_utf8_lossy(&self.input[..read.min(100)]);
            return Err(io::Error::other(format!("Redis said: {text}")));
        }
        self.received += read;
        let ended = self.received / self.reply_bytes - self.ended;
        self.ended += ended;
        Ok(ended)
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend(format!("${}\r\n", word.len()).into_bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    command
}

pub fn mget(keys: &[usize]) -> Vec<u8> {
    let keys: Vec<[u8; KEY_BYTES]> = keys.iter().map(|&number| key(number)).collect();
    let mut words: Vec<&[u8]> = vec![b"MGET"];
    words.extend(keys.iter().map(|key| &key[..]));
    command(&words)
}

/// The bytes of the reply to an `MGET` of so many keys that are all held.
pub fn reply_bytes(keys: usize) -> usize {
    let value = format!("${VALUE_BYTES}\r\n").len() + VALUE_BYTES + 2;
    format!("*{keys}\r\n").len() + keys * value
}

/// Stores all keys.
pub fn fill(addr: SocketAddr) -> io::Result<()> {
    const BATCH: usize = 1024;
    let value = [b'x'; VALUE_BYTES];
    let mut redis = Redis::open(addr, b"+OK\r\n".len())?;
    for from in (0..KEYS).step_by(BATCH) {
        let keys: Vec<_> = (from..from + BATCH).map(key).collect();
        let mut words: Vec<&[u8]> = vec![b"MSET"];
        words.extend(keys.iter().flat_map(|key| [&key[..], &value[..]]));
        redis.send(&command(&words));
        redis.flush()?;
        while redis.receive()? == 0 {}
    }
    Ok(())
}
