//! An HTTP origin that does what a test tells it, a thread for each connection.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::PATIENCE;

/// What the origin does about a request.
pub enum Answer {
    /// 200 with this body.
    Value(Vec<u8>),
    /// 200 with this body, in chunks.
    Chunks(Vec<u8>),
    /// 200 with this body, which ends with the connection.
    UntilClosed(Vec<u8>),
    /// 200 with this body, its second half once the latch is open.
    Halves(Vec<u8>, Latch),
    /// A status, written as `503 Service Unavailable`, and what is to be said about it.
    Status(&'static str, &'static str),
    /// These bytes, head and all, and then the end of the connection.
    Raw(&'static str),
}

type Script = dyn Fn(&str, usize) -> Answer + Send + Sync;

/// A running origin. It ends with the process of the test.
pub struct Origin {
    addr: SocketAddr,
    requests: Arc<Requests>,
}

#[derive(Default)]
struct Requests {
    by_path: Mutex<HashMap<String, usize>>,
    changed: Condvar,
    last_head: Mutex<String>,
}

impl Origin {
    /// Starts an origin. Its script is told the path of a request and how many there have been for it, this one
    /// included. It may block.
    pub fn start(script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Origin {
        Origin::start_at(Ipv4Addr::LOCALHOST, script)
    }

    /// The same, at that address of this machine.
    pub fn start_at(
        address: Ipv4Addr,
        script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Origin {
        let listener = TcpListener::bind((address, 0)).expect("there is a free port");
        let addr = listener
            .local_addr()
            .expect("a bound socket has an address");
        let requests = Arc::<Requests>::default();
        let script: Arc<Script> = Arc::new(script);
        let counted = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, requests) = (script.clone(), counted.clone());
                // A node that goes away in the middle is nothing unusual.
                thread::spawn(move || drop(serve(stream, &*script, &requests)));
            }
        });
        Origin { addr, requests }
    }

    /// What `--group` takes: `NAME=http://...`.
    pub fn group(&self, name: &str) -> String {
        format!("{name}=http://{}", self.addr)
    }

    /// How many requests there have been for `path`.
    pub fn requests(&self, path: &str) -> usize {
        let by_path = self.requests.by_path.lock().unwrap();
        by_path.get(path).copied().unwrap_or_default()
    }

    /// The lines of the last request.
    pub fn last_head(&self) -> String {
        self.requests.last_head.lock().unwrap().clone()
    }

    /// Waits until there have been `count` requests for `path`.
    pub fn wait_for_requests(&self, path: &str, count: usize) {
        let by_path = self.requests.by_path.lock().unwrap();
        let are_too_few = |by_path: &mut HashMap<String, usize>| {
            by_path.get(path).copied().unwrap_or_default() < count
        };
        let waited = self
            .requests
            .changed
            .wait_timeout_while(by_path, PATIENCE, are_too_few);
        assert!(
            !waited.unwrap().1.timed_out(),
            "no {count} requests for {path}"
        );
    }
}

fn serve(stream: TcpStream, script: &Script, requests: &Requests) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let Some(head) = read_request(&mut reader)? else {
            return Ok(());
        };
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        *requests.last_head.lock().unwrap() = head;
        let number = {
            let mut by_path = requests.by_path.lock().unwrap();
            let number = by_path.entry(path.clone()).or_default();
            *number += 1;
            requests.changed.notify_all();
            *number
        };
        match script(&path, number) {
            Answer::Value(value) => respond(&mut writer, "200 OK", &value)?,
            Answer::Chunks(value) => send_chunks(&mut writer, &value)?,
            Answer::UntilClosed(value) => {
                writer.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                return writer.write_all(&value);
            }
            Answer::Halves(value, latch) => {
                let (first, second) = value.split_at(value.len() / 2);
                write!(
                    writer,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                    value.len()
                )?;
                writer.write_all(first)?;
                latch.wait();
                writer.write_all(second)?;
            }
            Answer::Status(status, words) => respond(&mut writer, status, words.as_bytes())?,
            Answer::Raw(bytes) => return writer.write_all(bytes.as_bytes()),
        }
    }
}

/// The lines of the next request; none at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

fn respond(writer: &mut impl Write, status: &str, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    writer.write_all(&[head.as_bytes(), body].concat())
}

fn send_chunks(writer: &mut impl Write, value: &[u8]) -> io::Result<()> {
    const CHUNK_BYTES: usize = 100_000;
    writer.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for chunk in value.chunks(CHUNK_BYTES) {
        write!(writer, "{:x}\r\n", chunk.len())?;
        writer.write_all(chunk)?;
        writer.write_all(b"\r\n")?;
    }
    writer.write_all(b"0\r\n\r\n")
}

/// Holds threads up until it is opened.
#[derive(Clone, Default)]
pub struct Latch(Arc<(Mutex<bool>, Condvar)>);

impl Latch {
    /// Waits until the latch is open.
    pub fn wait(&self) {
        let (is_open, opened) = &*self.0;
        let guard = is_open.lock().unwrap();
        drop(opened.wait_while(guard, |is_open| !*is_open).unwrap());
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}
