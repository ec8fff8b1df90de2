//! The limits of connections, each as its flag sets it.

mod support;

use std::net::SocketAddr;

use grpcio::RpcStatusCode;
use support::client::{Client, request};
use support::http2::{
    Connection, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, headers, message,
};
use support::{Door, Node, PATIENCE, at_both_doors, eventually, folder, group, http};
use tempfile::TempDir;

const GET: &str = "/corecache.v1.Cache/Get";

fn node(args: &[&str]) -> (Node, TempDir) {
    let blobs = folder(&[("a", b"value")]);
    let group = group("blobs", &blobs);
    (
        Node::start([&["--group", &group][..], args].concat()),
        blobs,
    )
}

fn metric(node: &Node, name: &str) -> u64 {
    let (_, figures) = http::get(node.admin, "/metrics");
    let line = figures.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.unwrap_or_else(|| panic!("no {name} in {figures}"));
    figure.trim().parse().expect("a figure is a number")
}

fn open_headers(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &headers(GET, &[]))
}

/// Waits until the node has taken the connection.
fn greet(door: SocketAddr) -> Connection {
    let mut connection = Connection::greet(door);
    let settings = connection.receive_until(|frame| frame.kind == SETTINGS);
    assert!(settings.is_some(), "the node greets too");
    connection
}

#[test]
fn one_connection_too_many_is_closed_until_another_has_gone() {
    at_both_doors(|door| {
        let (node, _blobs) = node(&["--max-connections", "3"]);
        let mut held: Vec<_> = (0..3).map(|_| greet(door.of(&node))).collect();
        for _ in 0..20 {
            let mut refused = Connection::open(door.of(&node));
            assert!(refused.is_closed_within(PATIENCE));
        }
        assert_eq!(metric(&node, "corecache_connections "), 3);
        assert_eq!(metric(&node, "corecache_connections_refused_total "), 20);
        held.pop();
        eventually("one has gone", || {
            metric(&node, "corecache_connections ") == 2
        });
        // A client tries again by itself.
        let client = Client::connect(door.of(&node));
        assert_eq!(client.get("blobs", "a").unwrap(), b"value");
    });
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    at_both_doors(|door| {
        let (node, _blobs) = node(&["--handshake-timeout", "0.2"]);
        let mut silent = Connection::open(door.of(&node));
        assert!(silent.is_closed_within(PATIENCE));
        let mut slow = Connection::open(door.of(&node));
        slow.send(b"PRI * HTTP/2.0\r\n").unwrap();
        assert!(slow.is_closed_within(PATIENCE));
        // Who is held up may be too slow as well, and tries again.
        let client = Client::connect(door.of(&node));
        eventually("another one is served", || {
            client.get("blobs", "a").is_ok_and(|got| got == b"value")
        });
    });
}

#[test]
fn an_idle_connection_is_closed_in_good_order() {
    at_both_doors(|door| {
        let (node, _blobs) = node(&["--max-idle", "0.3"]);
        let mut idle = greet(door.of(&node));
        let goaway = idle.receive_until(|frame| frame.kind == GOAWAY);
        assert!(goaway.is_some(), "a word before the end");
        assert!(idle.is_closed_within(PATIENCE));
    });
}

#[test]
fn a_connection_that_is_too_old_ends_after_its_grace() {
    at_both_doors(|door| {
        let (short, _blobs) = node(&["--max-age", "2", "--age-grace", "0.3"]);
        let mut old = greet(door.of(&short));
        // A call that never ends does not keep it.
        old.send(&open_headers(1)).unwrap();
        let goaway = old.receive_until(|frame| frame.kind == GOAWAY);
        assert!(goaway.is_some(), "a word before the end");
        while old.receive().is_some() {}

        // Clients that ask all the time notice nothing, as long as their calls end within the grace.
        let (node, _blobs) = node(&["--max-age", "0.3", "--age-grace", "30"]);
        let client = Client::connect(door.of(&node));
        eventually("several connections have been used", || {
            assert_eq!(client.get("blobs", "a").unwrap(), b"value");
            metric(&node, "corecache_uptime_seconds ") >= 2
        });
    });
}

#[test]
fn streams_have_their_number() {
    at_both_doors(|door| {
        let (node, _blobs) = node(&["--max-streams", "7"]);
        let mut connection = Connection::greet(door.of(&node));
        let settings = connection
            .receive_until(|frame| frame.kind == SETTINGS)
            .unwrap();
        let told = settings
            .payload
            .chunks(6)
            .find(|setting| setting[..2] == [0, 3]);
        assert_eq!(told.expect("it is told")[2..], 7u32.to_be_bytes());
        // The acknowledgement has been sent, so what it says holds.
        for stream in (1..15).step_by(2) {
            connection.send(&open_headers(stream)).unwrap();
        }
        let ping = frame(PING, 0, 0, &[7; 8]);
        connection.send(&ping).unwrap();
        let told =
            connection.receive_until(|frame| !matches!(frame.kind, SETTINGS | WINDOW_UPDATE));
        assert_eq!(
            told.map(|frame| frame.kind),
            Some(PING),
            "seven may be open"
        );
        connection.send(&open_headers(15)).unwrap();
        match door {
            Door::Front => assert!(
                connection.is_closed_within(PATIENCE),
                "who knows, and opens more, is cut off"
            ),
            Door::Express => {
                let told = connection.receive_until(|frame| frame.kind == RST_STREAM);
                let told = told.expect("it is refused");
                let refused_stream = 7_u32.to_be_bytes();
                assert_eq!((told.stream, &told.payload[..]), (15, &refused_stream[..]));
            }
        }
    });
}

#[test]
fn requests_have_their_size() {
    at_both_doors(|door| {
        let (node, _blobs) = node(&["--max-request", "8KiB"]);
        let client = Client::connect(door.of(&node));
        let keys = vec![&[b'k'; 100][..]; 100];
        let refusal = client.get_many("blobs", &keys).unwrap_err();
        refusal.expect(RpcStatusCode::RESOURCE_EXHAUSTED, &["8192"]);
        assert!(client.get_many("blobs", &keys[..50]).is_ok());
    });
}

#[test]
fn metadata_has_its_size() {
    at_both_doors(|door| {
        let (node, _blobs) = node(&["--max-metadata", "2KiB"]);
        let mut connection = greet(door.of(&node));
        let body = message(false, &request("blobs", &[b"a"]));
        let mut ends_with_data = |stream, bytes| {
            let long = vec![b'v'; bytes];
            let headers = headers(GET, &[("name", &long)]);
            let headers = frame(HEADERS, END_HEADERS, stream, &headers);
            let data = frame(DATA, END_STREAM, stream, &body);
            connection.send(&[headers, data].concat()).unwrap();
            let first = connection.receive_until(|frame| {
                let says = matches!(frame.kind, DATA | RST_STREAM) || frame.flags & END_STREAM != 0;
                says && frame.stream == stream
            });
            first.expect("an answer").kind == DATA
        };
        assert!(ends_with_data(1, 1000));
        assert!(!ends_with_data(3, 2000));
        assert!(ends_with_data(5, 1000));
    });
}

#[test]
fn a_compressed_request_is_not_taken() {
    let (node, _blobs) = node(&[]);
    let mut connection = greet(node.addr);
    let gzip = [("grpc-encoding", &b"gzip"[..])];
    let headers = frame(HEADERS, END_HEADERS, 1, &headers(GET, &gzip));
    connection.send(&headers).unwrap();
    let end = connection.end_of(1).expect("an answer");
    let text = String::from_utf8_lossy(&end.payload);
    assert!(
        text.contains("grpc-status") && text.contains("12"),
        "{text}"
    );
}

/// What calls have sent and what they wait for counts. Over it calls are cancelled, not the node.
#[test]
fn the_core_has_its_memory() {
    const CONNECTIONS: usize = 32;
    const BYTES: usize = 3 << 20;
    let growth = |core_memory: &str| {
        let (node, _blobs) = node(&["--core-memory", core_memory]);
        let client = Client::connect(node.addr);
        assert_eq!(client.get("blobs", "a").unwrap(), b"value");
        let before = node.memory_bytes("VmRSS");
        // Requests of which the last byte is missing: they can only be kept, or cancelled.
        let announced = [&[0][..], &(BYTES as u32 + 1).to_be_bytes()].concat();
        let body = [&announced[..], &vec![b'x'; BYTES]].concat();
        let connections: Vec<_> = (0..CONNECTIONS).map(|_| greet(node.addr)).collect();
        let senders: Vec<_> = connections
            .into_iter()
            .map(|mut connection| {
                let body = body.clone();
                std::thread::spawn(move || {
                    let _ = connection.send(&open_headers(1));
                    connection.send_body(1, &body);
                    connection
                })
            })
            .collect();
        let held: Vec<_> = senders
            .into_iter()
            .map(|sender| sender.join().unwrap())
            .collect();
        let growth = node.memory_bytes("VmHWM") - before;
        eprintln!("core memory {core_memory}: {} KiB more", growth >> 10);
        drop(held);
        eventually("the node answers", || client.get("blobs", "a").is_ok());
        growth
    };
    let (free, bounded) = (growth("1GiB"), growth("16MiB"));
    assert!(free > (CONNECTIONS * BYTES) as u64 * 3 / 4, "{free} bytes");
    assert!(bounded < free / 2, "{bounded} of {free} bytes");
}

#[test]
fn descriptors_for_the_rest_of_the_node_are_kept() {
    let blobs = folder(&[("a", b"value")]);
    let node = Node::start_limited("ulimit -n 700", ["--group", &group("blobs", &blobs)]);
    let log = node.stderr();
    assert!(
        log.contains("124 connections may be open instead of 16384") && log.contains("ulimit"),
        "{log}"
    );
    let client = Client::connect(node.addr);
    assert_eq!(client.get("blobs", "a").unwrap(), b"value");
    let held: Vec<_> = (0..200).map(|_| Connection::open(node.addr)).collect();
    eventually("the others are refused", || {
        metric(&node, "corecache_connections_refused_total ") >= 76
    });
    assert_eq!(client.get("blobs", "a").unwrap(), b"value");
    drop(held);
}
