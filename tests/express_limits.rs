//! The limits of the express door, exceeded over real connections: what is told, what is counted, and that others feel nothing of it.

mod support;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use grpcio::RpcStatusCode;
use support::client::{Client, request};
use support::http2::{
    ACK, CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, FRAME_MAX_BYTES, GOAWAY, HEADERS,
    PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, headers, message,
};
use support::origin::{Answer, Latch, Origin};
use support::{Node, PATIENCE, eventually, folder, group, http};

const GET: &str = "/corecache.v1.Cache/Get";
const GET_MANY: &str = "/corecache.v1.Cache/GetMany";
/// Codes of HTTP/2.
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A node with one thread, on which a client asks for a key all the time.
struct Shared {
    node: Node,
    stop: Arc<AtomicBool>,
    neighbour: JoinHandle<()>,
    _blobs: tempfile::TempDir,
}

impl Shared {
    fn start(args: &[&str]) -> Shared {
        let small = [7; 3000];
        let blobs = folder(&[("hot", b"value"), ("small", &small)]);
        let group = group("blobs", &blobs);
        let node = Node::start([&["--group", &group, "--cores", "0"][..], args].concat());
        let client = Client::connect(node.express);
        assert_eq!(client.get("blobs", "hot").unwrap(), b"value");
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let neighbour = thread::spawn(move || {
            // Once in any case, however late it begins.
            loop {
                assert_eq!(client.get("blobs", "hot").unwrap(), b"value");
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Shared {
            node,
            stop,
            neighbour,
            _blobs: blobs,
        }
    }

    fn figure(&self, name: &str) -> u64 {
        let (_, page) = http::get(self.node.admin, "/metrics");
        let name = format!("corecache_{name}");
        let value = page.lines().find_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            (key == name).then(|| value.parse().ok())?
        });
        value.unwrap_or_else(|| panic!("no {name} in {page}"))
    }

    fn abuses(&self, kind: &str) -> u64 {
        self.figure(&format!("express_abuses_total{{kind=\"{kind}\"}}"))
    }

    /// All that the neighbour has asked was answered, over the connection that it had at the beginning.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.neighbour.join().expect("the neighbour is answered");
    }
}

fn open_headers(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &headers(GET, &[]))
}

fn call(stream: u32, path: &str, keys: &[&[u8]]) -> Vec<u8> {
    let body = message(false, &request("blobs", keys));
    [
        frame(HEADERS, END_HEADERS, stream, &headers(path, &[])),
        frame(DATA, END_STREAM, stream, &body),
    ]
    .concat()
}

/// The code that a connection or a stream is ended with.
fn code_of(told: &support::http2::Frame) -> u32 {
    let at = if told.kind == GOAWAY { 4 } else { 0 };
    let code = told.payload[at..].first_chunk().expect("a code");
    u32::from_be_bytes(*code)
}

/// Reads until the node says why it ends the connection.
fn end_of(connection: &mut Connection) -> u32 {
    let told = connection.receive_until(|frame| frame.kind == GOAWAY);
    let code = code_of(&told.expect("a word before the end"));
    assert!(connection.is_closed_within(PATIENCE));
    code
}

/// What a flood is counted as, what it begins with, and what is sent again and again, by its number.
type Flood = (&'static str, Vec<u8>, fn(u32) -> Vec<u8>);

#[test]
fn each_flood_ends_its_connection_and_no_other() {
    let begun_block = frame(HEADERS, 0, 1, &headers(GET, &[]));
    let floods: [Flood; 8] = [
        ("rapid_reset", Vec::new(), |number| {
            let stream = 2 * number + 1;
            let reset = frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
            [open_headers(stream), reset].concat()
        }),
        ("continuation", begun_block.clone(), |_| {
            frame(CONTINUATION, 0, 1, &[])
        }),
        ("header_bytes", begun_block, |_| {
            frame(CONTINUATION, 0, 1, &[b'x'; FRAME_MAX_BYTES])
        }),
        ("settings", Vec::new(), |_| frame(SETTINGS, 0, 0, &[])),
        ("ping", Vec::new(), |_| frame(PING, 0, 0, &[0; 8])),
        ("empty_data", open_headers(1), |_| frame(DATA, 0, 1, &[])),
        ("window_update", Vec::new(), |_| {
            frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())
        }),
        ("idle_frames", Vec::new(), |_| {
            frame(PRIORITY, 0, 1, &[0; 5])
        }),
    ];
    let shared = Shared::start(&["--max-streams", "100"]);
    for (kind, first, part) in floods {
        let times = if kind == "header_bytes" { 20 } else { 8000 };
        let flood: Vec<_> = (0..times).flat_map(part).collect();
        let mut connection = Connection::greet(shared.node.express);
        connection.send(&first).unwrap();
        // It may be closed before all is sent.
        let _ = connection.send(&flood);
        assert_eq!(end_of(&mut connection), ENHANCE_YOUR_CALM, "{kind}");
        assert_eq!(shared.abuses(kind), 1, "{kind}");
    }
    shared.end();
}

#[test]
fn streams_over_their_number_are_refused_and_who_goes_on_is_closed() {
    const STREAMS: u32 = 7;
    let shared = Shared::start(&["--max-streams", "7"]);
    let mut connection = Connection::greet(shared.node.express);
    for number in 0..=STREAMS {
        connection.send(&open_headers(2 * number + 1)).unwrap();
    }
    let told = connection.receive_until(|frame| frame.kind == RST_STREAM);
    let told = told.expect("one is refused");
    assert_eq!(
        (told.stream, code_of(&told)),
        (2 * STREAMS + 1, REFUSED_STREAM)
    );
    assert_eq!(shared.abuses("streams"), 1);
    for number in STREAMS + 1..4000 {
        let _ = connection.send(&open_headers(2 * number + 1));
    }
    assert_eq!(end_of(&mut connection), ENHANCE_YOUR_CALM);
    assert!(shared.abuses("streams") > 1);
    assert_eq!(shared.abuses("rapid_reset"), 1);
    shared.end();
}

/// It is told the number, and waits with what is over it.
#[test]
fn a_stock_client_may_have_more_calls_than_streams() {
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |_, _| {
        held.wait();
        Answer::Value(b"late".to_vec())
    });
    let slow = origin.group("slow");
    let shared = Shared::start(&["--group", &slow, "--max-streams", "7"]);
    let client = Client::connect(shared.node.express);
    let calls: Vec<_> = (0..50).map(|_| client.start_get("slow", "key")).collect();
    eventually("as many wait as may", || {
        shared.figure("calls_waiting") == 7
    });
    latch.open();
    for call in calls {
        assert_eq!(call.value().unwrap(), b"late");
    }
    assert_eq!(shared.abuses("streams"), 0);
    shared.end();
}

/// The call alone is refused: its client goes on over the same connection.
#[test]
fn metadata_and_messages_have_their_size() {
    let limits = ["--max-metadata", "2KiB", "--max-request", "8KiB"];
    let shared = Shared::start(&limits);
    let client = Client::connect(shared.node.express);
    let long = "v".repeat(3000);
    let refusal = client.get_saying(&long, "blobs", "hot").unwrap_err();
    refusal.expect(RpcStatusCode::RESOURCE_EXHAUSTED, &["metadata", "2048"]);
    assert_eq!(
        client.get_saying("short", "blobs", "hot").unwrap(),
        b"value"
    );
    let keys = vec![&[b'k'; 100][..]; 100];
    let refusal = client.get_many("blobs", &keys).unwrap_err();
    refusal.expect(RpcStatusCode::RESOURCE_EXHAUSTED, &["request", "8192"]);
    assert!(client.get_many("blobs", &keys[..50]).is_ok());
    assert_eq!(shared.figure("express_connections"), 2);
    for kind in ["header_bytes", "message_bytes"] {
        assert_eq!(shared.abuses(kind), 1, "{kind}");
    }
    shared.end();
}

#[test]
fn who_is_in_feels_nothing_of_those_who_are_not_let_in() {
    let limits = ["--max-connections", "3", "--max-address-connections", "2"];
    let shared = Shared::start(&limits);
    let door = shared.node.express;
    // With the neighbour they are two.
    let _second = Connection::greet(door);
    eventually("both are in", || shared.figure("express_connections") == 2);
    for _ in 0..20 {
        let mut third = Connection::open(door);
        assert!(third.is_closed_within(PATIENCE));
    }
    assert_eq!(shared.figure("express_connections_refused_total"), 20);
    let mut other = Connection::greet_from(Ipv4Addr::new(127, 0, 0, 2), door);
    other.send(&call(1, GET, &[b"hot"])).unwrap();
    assert_eq!(other.end_of(1).expect("an answer").kind, HEADERS);
    // Now there are as many as may be in all.
    let mut another = Connection::greet_from(Ipv4Addr::new(127, 0, 0, 3), door);
    assert!(another.is_closed_within(PATIENCE));
    assert_eq!(shared.figure("connections_refused_total"), 1);
    shared.end();
}

/// Threads share what connections may keep, and there may be more of them than it has room for requests.
#[test]
fn a_request_that_is_taken_has_room_at_any_thread() {
    let limits = ["--max-request", "4MiB", "--core-memory", "4MiB"];
    let blobs = folder(&[]);
    let group = group("blobs", &blobs);
    let node = Node::start([&["--group", &group, "--cores", "0-7"][..], &limits].concat());
    let client = Client::connect(node.express);
    let keys = vec![&[b'k'; 4000][..]; 1000];
    let reply = client.get_many("blobs", &keys).expect("it is taken");
    assert_eq!(reply.answers.len(), keys.len());
}

/// How many calls may be open says nothing of how often one may be given up.
#[test]
fn who_may_have_few_calls_may_give_up_many() {
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |_, _| {
        held.wait();
        Answer::Value(b"late".to_vec())
    });
    let group = origin.group("blobs");
    let node = Node::start(["--group", &group, "--max-streams", "2"]);
    let mut connection = Connection::greet(node.express);
    for number in 0..100 {
        let stream = 2 * number + 1;
        let reset = frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
        let given_up = [call(stream, GET, &[b"key"]), reset].concat();
        connection.send(&given_up).unwrap();
    }
    latch.open();
    connection.send(&call(201, GET, &[b"key"])).unwrap();
    assert_eq!(connection.end_of(201).expect("an answer").kind, HEADERS);
}

#[test]
fn a_client_that_compresses_is_told_not_to() {
    let shared = Shared::start(&[]);
    let client = Client::connect_compressing(shared.node.express);
    let refusal = client.get("blobs", [b'k'; 4000]).unwrap_err();
    refusal.expect(RpcStatusCode::UNIMPLEMENTED, &["compressed", "identity"]);
    shared.end();
}

/// Each has less than it may keep by itself, and none is there for so long that it would be closed.
#[test]
fn replies_that_nobody_reads_count_for_all_connections_together() {
    let limits = ["--core-memory", "4MiB", "--max-request", "1MiB"];
    let shared = Shared::start(&limits);
    let before = shared.node.memory_bytes("VmRSS");
    let calls = (0..500).flat_map(|number| call(2 * number + 1, GET, &[b"small"]));
    let calls: Vec<_> = calls.collect();
    let deaf: Vec<_> = (0..10)
        .map(|_| {
            let mut connection = Connection::greet(shared.node.express);
            // Who has most may be cut already.
            let _ = connection.send(&calls);
            connection
        })
        .collect();
    eventually("some are cut", || {
        shared.figure("express_connections_cut_total") > 0
    });
    let growth = shared.node.memory_bytes("VmHWM") - before;
    assert!(growth < 24 << 20, "{growth} bytes more");
    drop(deaf);
    shared.end();
}

/// They have a room of their own, which all callers share.
#[test]
fn replies_to_many_keys_that_nobody_reads_give_their_room_back() {
    const DEAF: u64 = 5;
    let shared = Shared::start(&["--memory", "64MiB", "--read-stall", "3"]);
    let keys = vec![&b"small"[..]; 1000];
    let deaf: Vec<_> = (0..DEAF)
        .map(|_| {
            let mut connection = Connection::greet(shared.node.express);
            connection.send(&call(1, GET_MANY, &keys)).unwrap();
            connection
        })
        .collect();
    eventually("all replies hold their room", || {
        shared.figure("outgoing_bytes") > 14 << 20
    });
    let client = Client::connect(shared.node.express);
    let refusal = client.get_many("blobs", &keys).unwrap_err();
    refusal.expect(RpcStatusCode::RESOURCE_EXHAUSTED, &["read them first"]);
    eventually("they are closed", || shared.abuses("slow_reader") == DEAF);
    eventually("the room is free", || shared.figure("outgoing_bytes") == 0);
    assert!(client.get_many("blobs", &keys).is_ok());
    drop(deaf);
    shared.end();
}

/// So long that the test does not wait for it, and cut by as much as the room for replies is taken.
#[test]
fn who_does_not_read_has_less_time_where_room_is_short() {
    let small = [7; 3000];
    let blobs = folder(&[("small", &small)]);
    let group = group("blobs", &blobs);
    let limits = ["--memory", "64MiB", "--read-stall", "120"];
    let node = Node::start([&["--group", &group][..], &limits].concat());
    let keys = vec![&b"small"[..]; 1000];
    let client = Client::connect(node.express);
    assert!(client.get_many("blobs", &keys).is_ok());
    let mut deaf = Vec::new();
    eventually("there is no room", || {
        let has_room = client.get_many("blobs", &keys).is_ok();
        if has_room {
            let mut connection = Connection::greet(node.express);
            let acknowledged = frame(SETTINGS, ACK, 0, &[]);
            let asked = [acknowledged, call(1, GET_MANY, &keys)].concat();
            connection.send(&asked).unwrap();
            // Of its reply no more is taken than that it has begun.
            while connection.receive().expect("a reply").kind != HEADERS {}
            deaf.push(connection);
        }
        !has_room
    });
    eventually("one has to go", || client.get_many("blobs", &keys).is_ok());
    drop(deaf);
}
