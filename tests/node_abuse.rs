//! What no client sends, at the live port: the node lives, its memory stays flat, and others are answered meanwhile.

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use flate2::Compression;
use flate2::write::GzEncoder;
use grpcio::RpcStatusCode;
use support::client::{Client, request};
use support::http2::{
    CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, FRAME_MAX_BYTES, HEADERS, PING,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, greeting, headers, message,
};
use support::{Node, folder, group};

const GET: &str = "/corecache.v1.Cache/Get";
/// What the node's memory may grow by, whatever it is sent.
const GROWTH_MAX_BYTES: u64 = 192 << 20;

/// A node with a key that somebody else asks for all the time.
struct Attacked {
    node: Node,
    memory_before_bytes: u64,
    growth_max_bytes: u64,
    stop: Arc<AtomicBool>,
    /// How many of its calls were answered, and how many were not.
    neighbour: Option<JoinHandle<(usize, usize)>>,
    _blobs: tempfile::TempDir,
}

impl Attacked {
    fn start(args: &[&str]) -> Attacked {
        let blobs = folder(&[("hot", b"value")]);
        let group = group("blobs", &blobs);
        let node = Node::start([&["--group", &group][..], args].concat());
        let stop = Arc::<AtomicBool>::default();
        let client = Client::connect(node.addr);
        // Its allocators have what they need.
        for _ in 0..1000 {
            assert_eq!(client.get("blobs", "hot").unwrap(), b"value");
        }
        let memory_before_bytes = node.memory_bytes("VmRSS");
        let stopped = stop.clone();
        let neighbour = thread::spawn(move || {
            let (mut answered, mut refused) = (0, 0);
            loop {
                // Answered late is answered: a machine with other work takes long for a flood.
                match client.get_within(5 * support::PATIENCE, "blobs", "hot") {
                    Ok(value) if value == b"value" => answered += 1,
                    got => {
                        println!("the neighbour got {got:?}");
                        refused += 1;
                    }
                }
                // After the first call, also where this thread has not run before the attack was over.
                if stopped.load(Ordering::Relaxed) {
                    return (answered, refused);
                }
            }
        });
        Attacked {
            node,
            memory_before_bytes,
            growth_max_bytes: GROWTH_MAX_BYTES,
            stop,
            neighbour: Some(neighbour),
            _blobs: blobs,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.node.addr
    }

    /// The node lives, it has answered all that the neighbour asked, and it has not grown.
    fn end(self) {
        let (answered, refused) = self.end_with_refusals();
        assert!(
            answered > 0 && refused == 0,
            "{answered} answered, {refused} refused"
        );
    }

    /// As `end`, where the neighbour may have been cut off as well; returns how many of its calls were answered, and
    /// how many were not.
    fn end_with_refusals(mut self) -> (usize, usize) {
        let client = Client::connect(self.addr());
        support::eventually("the node answers", || client.get("blobs", "hot").is_ok());
        self.stop.store(true, Ordering::Relaxed);
        let neighbour = self.neighbour.take().expect("it has not ended yet");
        let neighbour = neighbour.join().expect("it has ended");
        let growth = self.node.memory_bytes("VmHWM") - self.memory_before_bytes;
        println!("{} KiB more", growth >> 10);
        assert!(growth < self.growth_max_bytes, "{growth} bytes more");
        assert!(!self.node.has_ended());
        let log = self.node.stderr();
        assert!(!log.contains("panicked"), "{log}");
        neighbour
    }
}

/// A call for the hot key, on a stream.
fn call(stream: u32) -> Vec<u8> {
    let body = message(false, &request("blobs", &[b"hot"]));
    [
        frame(HEADERS, END_HEADERS, stream, &headers(GET, &[])),
        frame(DATA, END_STREAM, stream, &body),
    ]
    .concat()
}

fn random(mut state: u64) -> impl Iterator<Item = u8> {
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
}

#[test]
fn the_frames_of_this_test_are_a_call() {
    let attacked = Attacked::start(&[]);
    let mut connection = Connection::greet(attacked.addr());
    connection.send(&call(1)).unwrap();
    let end = connection.end_of(1).expect("an answer");
    assert_eq!((end.kind, end.flags & END_STREAM), (HEADERS, END_STREAM));
    attacked.end();
}

#[test]
fn random_bytes() {
    let attacked = Attacked::start(&[]);
    for seed in 1..=200 {
        let noise: Vec<u8> = random(seed).take(64 << 10).collect();
        let mut connection = match seed % 2 {
            0 => Connection::open(attacked.addr()),
            _ => Connection::greet(attacked.addr()),
        };
        // Most are cut off before they have sent all.
        let _ = connection.send(&noise);
        connection.finish();
        assert!(connection.is_closed_within(support::PATIENCE));
    }
    attacked.end();
}

#[test]
fn random_frames() {
    let attacked = Attacked::start(&[]);
    for seed in 1..=200 {
        let mut noise = random(seed);
        let mut connection = Connection::greet(attacked.addr());
        for _ in 0..100 {
            let (kind, flags) = (noise.next().unwrap() % 11, noise.next().unwrap());
            let (stream, len) = (noise.next().unwrap() % 8, noise.next().unwrap());
            let payload: Vec<u8> = noise.by_ref().take(len.into()).collect();
            let bytes = frame(kind, flags, stream.into(), &payload);
            if connection.send(&bytes).is_err() {
                break;
            }
        }
        connection.finish();
        assert!(connection.is_closed_within(support::PATIENCE));
    }
    attacked.end();
}

#[test]
fn frames_and_messages_that_are_cut_short() {
    let attacked = Attacked::start(&[]);
    let whole = [greeting(), call(1)].concat();
    for len in 0..whole.len() {
        let mut connection = Connection::open(attacked.addr());
        connection.send(&whole[..len]).unwrap();
        connection.finish();
        assert!(
            connection.is_closed_within(support::PATIENCE),
            "{len} bytes"
        );
    }
    // The stream ends in the middle of its message.
    let mut connection = Connection::greet(attacked.addr());
    let body = message(false, &request("blobs", &[b"hot"]));
    for (call, len) in (0..body.len()).enumerate() {
        let stream = 2 * call as u32 + 1;
        let headers = frame(HEADERS, END_HEADERS, stream, &headers(GET, &[]));
        let data = frame(DATA, END_STREAM, stream, &body[..len]);
        connection.send(&[headers, data].concat()).unwrap();
        assert!(connection.end_of(stream).is_some(), "{len} bytes");
    }
    attacked.end();
}

/// The core looks at the size of a message when all of it is there. What holds it off is its quota.
#[test]
fn messages_of_four_gigabytes() {
    const CONNECTIONS: usize = 16;
    const SENT_BYTES: usize = 32 << 20;
    let attacked = Attacked::start(&["--core-memory", "16MiB"]);
    let body = [&[0, 0xff, 0xff, 0xff, 0xff][..], &vec![b'x'; SENT_BYTES]].concat();
    let connections = (0..CONNECTIONS).map(|_| Connection::greet(attacked.addr()));
    let senders: Vec<_> = connections
        .map(|mut connection| {
            let body = body.clone();
            thread::spawn(move || {
                let headers = frame(HEADERS, END_HEADERS, 1, &headers(GET, &[]));
                // It may be cut off.
                let _ = connection.send(&headers);
                connection.send_body(1, &body)
            })
        })
        .collect();
    let sent: usize = senders
        .into_iter()
        .map(|sender| sender.join().unwrap())
        .sum();
    println!("{} MiB were taken", sent >> 20);
    assert!(sent < CONNECTIONS * SENT_BYTES, "the node takes all");
    // While the quota is used up, the core cuts whom it likes.
    attacked.end_with_refusals();
}

#[test]
fn ten_mebibytes_of_metadata() {
    let attacked = Attacked::start(&[]);
    for in_one in [true, false] {
        let mut connection = Connection::greet(attacked.addr());
        let long = vec![b'v'; if in_one { 10 << 20 } else { 8000 }];
        let pairs = vec![("name", &long[..]); (10 << 20) / long.len()];
        let block = headers(GET, &pairs);
        let mut pieces = block.chunks(FRAME_MAX_BYTES);
        let first = frame(HEADERS, 0, 1, pieces.next().unwrap());
        // It is cut off before it has sent all, or refused.
        let mut is_open = connection.send(&first).is_ok();
        for piece in pieces {
            is_open = is_open && connection.send(&frame(CONTINUATION, 0, 1, piece)).is_ok();
        }
        if is_open {
            let _ = connection.send(&frame(CONTINUATION, END_HEADERS, 1, &[]));
        }
        connection.finish();
        assert!(connection.is_closed_within(support::PATIENCE));
    }
    attacked.end();
}

#[test]
fn messages_that_would_be_huge_when_they_are_decompressed() {
    const SIZE: usize = 1 << 30;
    let zeros = vec![0; 1 << 20];
    let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..SIZE / zeros.len() {
        bomb.write_all(&zeros).unwrap();
    }
    let body = message(true, &bomb.finish().unwrap());
    assert!(body.len() > 1 << 20, "{} bytes", body.len());
    let attacked = Attacked::start(&["--max-request", "64MiB"]);
    for encoding in ["gzip", "deflate", "identity", "none"] {
        let mut connection = Connection::greet(attacked.addr());
        let encoding = [("grpc-encoding", encoding.as_bytes())];
        let headers = frame(HEADERS, END_HEADERS, 1, &headers(GET, &encoding));
        connection.send(&headers).unwrap();
        let wide = (1u32 << 30).to_be_bytes();
        connection.send(&frame(WINDOW_UPDATE, 0, 0, &wide)).unwrap();
        for piece in body.chunks(FRAME_MAX_BYTES) {
            // The node's own windows are not looked at: all that is there is sent.
            if connection.send(&frame(DATA, 0, 1, piece)).is_err() {
                break;
            }
        }
        connection.finish();
        assert!(connection.is_closed_within(support::PATIENCE));
    }
    attacked.end();
}

#[test]
fn methods_that_are_none() {
    let attacked = Attacked::start(&[]);
    let client = Client::connect(attacked.addr());
    for path in [
        "/",
        "/x",
        "/corecache.v1.Cache/Nope",
        "/corecache.v1.Cache/Get/",
    ] {
        for _ in 0..100 {
            let refusal = client.call(path, vec![b'x'; 1000]).unwrap_err();
            refusal.expect(RpcStatusCode::UNIMPLEMENTED, &[]);
        }
    }
    let mut connection = Connection::greet(attacked.addr());
    for stream in (1..200).step_by(2) {
        let noise: Vec<u8> = random(stream)
            .map(|byte| byte % 94 + 33)
            .take(200)
            .collect();
        let path = format!("/{}", String::from_utf8(noise).unwrap());
        let headers = headers(&path, &[]);
        let bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream as u32, &headers);
        connection.send(&bytes).unwrap();
        assert!(connection.end_of(stream as u32).is_some(), "{path}");
    }
    attacked.end();
}

#[test]
fn streams_that_never_close() {
    const STREAMS: u32 = 100;
    let attacked = Attacked::start(&["--max-streams", "100", "--core-memory", "16MiB"]);
    let connections: Vec<_> = (0..10)
        .map(|_| {
            let mut connection = Connection::greet(attacked.addr());
            connection
                .receive_until(|frame| frame.kind == SETTINGS)
                .unwrap();
            for call in 0..STREAMS {
                let headers = frame(HEADERS, END_HEADERS, 2 * call + 1, &headers(GET, &[]));
                connection.send(&headers).unwrap();
            }
            connection
        })
        .collect();
    // Who does not acknowledge the limit does not have it. What is left is the quota.
    let mut deaf = Connection::greet(attacked.addr());
    for call in 0..20_000 {
        let headers = frame(HEADERS, END_HEADERS, 2 * call + 1, &headers(GET, &[]));
        if deaf.send(&headers).is_err() {
            break;
        }
    }
    drop((connections, deaf));
    attacked.end();
}

#[test]
fn streams_that_are_opened_and_reset() {
    const STREAMS: u32 = 100_000;
    // The core reads on while there is something to read, and what it has begun takes its memory until it is handled:
    // without the brake some 15 KB for each of these streams.
    let mut attacked = Attacked::start(&["--memory", "16MiB", "--core-memory", "32MiB"]);
    attacked.growth_max_bytes = 960 << 20;
    let cancel = 8u32.to_be_bytes();
    let mut connection = Connection::greet(attacked.addr());
    // What the node says is read, or it would stop reading in its turn.
    let mut answers = Connection(connection.0.try_clone().unwrap());
    let reader = thread::spawn(move || answers.is_closed_within(support::PATIENCE));
    // It may be cut.
    let mut sent = 0;
    while sent < STREAMS {
        let stream = 2 * sent + 1;
        let bytes = [call(stream), frame(RST_STREAM, 0, stream, &cancel)].concat();
        if connection.send(&bytes).is_err() {
            break;
        }
        sent += 1;
    }
    println!("{sent} streams");
    connection.finish();
    assert!(reader.join().unwrap());
    attacked.end();
}

#[test]
fn pings_and_settings_without_end() {
    let attacked = Attacked::start(&[]);
    for kind in [PING, SETTINGS] {
        let mut connection = Connection::greet(attacked.addr());
        let payload: &[u8] = if kind == PING { &[0; 8] } else { &[] };
        let bytes = frame(kind, 0, 0, payload).repeat(1000);
        // Nobody reads what the node says to them.
        let sent = (0..100).all(|_| connection.send(&bytes).is_ok());
        connection.finish();
        assert!(!sent || connection.is_closed_within(support::PATIENCE));
    }
    attacked.end();
}
