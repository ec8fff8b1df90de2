//! A stock tonic client that makes the calls of a list, and says how each ended: both_doors ADDR AT_ONCE < CALLS
//!
//! Calls and their ends are the lines of `tests/go/both_doors`. A deadline with an `@` behind it is told to the server, and
//! not kept by the client.

mod raw;

use std::collections::VecDeque;
use std::env;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

struct Call {
    deadline: Duration,
    /// Tonic does not know of the deadline, and leaves it to the server.
    is_servers: bool,
    is_gzip: bool,
    path: PathAndQuery,
    request: Bytes,
}

impl Call {
    /// None where the line is not a call.
    fn parse(line: &str) -> Option<Call> {
        let mut words = line.split(' ');
        let deadline = words.next()?;
        let is_servers = deadline.ends_with('@');
        let deadline_ms = deadline.trim_end_matches('@').parse().ok()?;
        let is_gzip = match words.next()? {
            "-" => false,
            "gzip" => true,
            _ => return None,
        };
        Some(Call {
            deadline: Duration::from_millis(deadline_ms),
            is_servers,
            is_gzip,
            path: words.next()?.parse().ok()?,
            request: from_hex(words.next()?)?.into(),
        })
    }

    async fn make(self, channel: Channel) -> Result<Bytes, Status> {
        let mut client = Grpc::new(channel).max_decoding_message_size(usize::MAX);
        if self.is_gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let mut request = Request::new(self.request);
        if self.is_servers {
            // Tonic goes by this too where it can read it, and takes no more than eight digits.
            let timeout = format!("{:09}m", self.deadline.as_millis());
            let timeout = timeout.parse().expect("it is plain text");
            request.metadata_mut().insert("grpc-timeout", timeout);
        } else {
            request.set_timeout(self.deadline);
        }
        let ready = client.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let reply = client.unary(request, self.path, raw::Raw).await?;
        Ok(reply.into_inner())
    }
}

/// What is printed of the end of a call.
fn say(end: Result<Bytes, Status>) -> String {
    match end {
        Ok(reply) => format!("OK||{}", to_hex(&reply)),
        Err(status) => {
            let code = match (status.code(), status.message()) {
                // What tonic says when it is its own clock by which the time is over.
                (Code::Cancelled, "Timeout expired") => Code::DeadlineExceeded,
                (code, _) => code,
            };
            format!("{code:?}|{}|", to_hex(status.message().as_bytes()))
        }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = |at| text.get(at..at + 2);
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits(at)?, 16).ok())
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    bytes
        .iter()
        .for_each(|byte| write!(text, "{byte:02x}").expect("a string takes it"));
    text
}

async fn make_all(addr: &str, at_once: usize) {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("an address");
    let channel = endpoint.connect().await.expect("a server is there");
    let mut open = VecDeque::new();
    for line in io::stdin().lines() {
        let line = line.expect("calls can be read");
        let call = Call::parse(&line).unwrap_or_else(|| panic!("not a call: {line}"));
        if open.len() == at_once {
            say_next(&mut open).await;
        }
        let channel = channel.clone();
        open.push_back(tokio::spawn(call.make(channel)));
    }
    while !open.is_empty() {
        say_next(&mut open).await;
    }
}

type Open = VecDeque<tokio::task::JoinHandle<Result<Bytes, Status>>>;

async fn say_next(open: &mut Open) {
    if let Some(call) = open.pop_front() {
        println!("{}", say(call.await.expect("a call does not panic")));
    }
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let (addr, at_once) = match &args[..] {
        [addr, at_once] => (addr, at_once.parse().expect("a number of calls")),
        _ => panic!("usage: both_doors ADDR AT_ONCE < CALLS"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .expect("a runtime")
        .block_on(make_all(addr, at_once));
}
