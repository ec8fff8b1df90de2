//! What is the express door's own: where it is, what it leaves to the front door, whom it lets in, and how it shares itself out.

mod support;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corecache::server::pb::health::health_check_response::ServingStatus;
use grpcio::RpcStatusCode;
use support::client::{Client, request};
use support::cluster::free_address;
use support::http2::{
    ACK, Connection, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, headers, message,
};
use support::origin::{Answer, Latch, Origin};
use support::{Node, corecache, eventually, folder, group, http, run};

/// A figure of the metrics page, by its name and labels.
fn figure(node: &Node, name: &str) -> u64 {
    let (_, page) = http::get(node.admin, "/metrics");
    let line = page.lines().find_map(|line| {
        let (key, value) = line.rsplit_once(' ')?;
        (key == format!("corecache_{name}")).then(|| value.parse().ok())?
    });
    line.unwrap_or_else(|| panic!("no {name} in {page}"))
}

/// The frames of a `Get`.
fn get(stream: u32, group: &str, key: &[u8]) -> Vec<u8> {
    let head = headers("/corecache.v1.Cache/Get", &[]);
    let body = message(false, &request(group, &[key]));
    [
        frame(HEADERS, END_HEADERS, stream, &head),
        frame(DATA, END_STREAM, stream, &body),
    ]
    .concat()
}

#[test]
fn a_door_that_can_not_be_opened_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let blobs = folder(&[]);
    let group = group("blobs", &blobs);
    let refused = |express: &str| {
        let output = run(corecache()
            .args(["serve", "--group", &group, "--listen", "127.0.0.1:0"])
            .args(["--admin", "off", "--express", express]));
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for (express, words) in [
        (&*taken, [&*taken, "in use", "--express off"]),
        (
            "0.0.0.0:0",
            ["--express 0.0.0.0:0", "--tls-cert", "--insecure"],
        ),
        ("nowhere", ["--express", "HOST:PORT", "nowhere"]),
    ] {
        let told = refused(express);
        for word in words {
            assert!(told.contains(word), "no {word:?} in {told}");
        }
    }
    // Another node's is as taken as any: two nodes do not share a door.
    let node = Node::start(["--group", &group, "--cores", "0,1"]);
    let told = refused(&node.express.to_string());
    assert!(told.contains("in use"), "{told}");
}

#[test]
fn what_it_does_not_have_is_at_the_front_door() {
    let blobs = folder(&[("a", b"1")]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let express = Client::connect(node.express);
    let front = node.addr.to_string();
    for path in [
        "/corecache.v1.Cache/Read",
        "/corecache.v1.Cache/Fetch",
        "/grpc.health.v1.Health/Watch",
        "/corecache.peer.v1.Links/Take",
        "/no.Service/None",
    ] {
        let refusal = express.call(path, Vec::new()).unwrap_err();
        refusal.expect(RpcStatusCode::UNIMPLEMENTED, &[path, &front]);
    }
    assert_eq!(express.get("blobs", "a").unwrap(), b"1");
}

#[test]
fn its_health_is_the_nodes() {
    let blobs = folder(&[]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let client = Client::connect(node.express);
    for service in ["", "corecache.v1.Cache"] {
        assert_eq!(client.health(service).unwrap(), ServingStatus::SERVING);
    }
    let refusal = client.health("teapot").unwrap_err();
    refusal.expect(RpcStatusCode::NOT_FOUND, &["teapot"]);
}

#[test]
fn both_doors_share_one_cache_and_one_limit_of_connections() {
    let origin = Origin::start(|path, _| Answer::Value(path.as_bytes().to_vec()));
    let node = Node::start(["--group", &origin.group("pages"), "--max-connections", "3"]);
    let (front, express) = (Client::connect(node.addr), Client::connect(node.express));
    assert_eq!(express.get("pages", "a").unwrap(), b"/a");
    assert_eq!(front.get("pages", "a").unwrap(), b"/a");
    assert_eq!(origin.requests("/a"), 1);
    assert_eq!(figure(&node, "connections"), 2);
    assert_eq!(figure(&node, "express_connections"), 1);

    let third = Connection::greet(node.express);
    eventually("the third is in", || figure(&node, "connections") == 3);
    for door in [node.addr, node.express] {
        let mut fourth = Connection::open(door);
        assert!(fourth.is_closed_within(support::PATIENCE));
    }
    assert_eq!(figure(&node, "connections_refused_total"), 2);
    drop(third);
    eventually("one has gone", || figure(&node, "connections") == 2);
    let again = Client::connect(node.express);
    assert_eq!(again.get("pages", "a").unwrap(), b"/a");
}

#[test]
fn an_address_has_its_share_of_the_connections() {
    let blobs = folder(&[("a", b"1")]);
    let args = ["--max-address-connections", "2"];
    let node = Node::start([&["--group", &group("blobs", &blobs)], &args[..]].concat());
    let _two = [(); 2].map(|()| Connection::greet(node.express));
    eventually("both are in", || figure(&node, "express_connections") == 2);
    let mut third = Connection::open(node.express);
    assert!(third.is_closed_within(support::PATIENCE));
    assert_eq!(figure(&node, "express_connections_refused_total"), 1);
}

#[test]
fn who_says_nothing_and_who_has_nothing_to_say_is_closed() {
    let blobs = folder(&[("a", b"1")]);
    let group = group("blobs", &blobs);
    let times = ["--handshake-timeout", "2", "--max-idle", "0.3"];
    let node = Node::start([&["--group", &group], &times[..]].concat());
    let mut silent = Connection::open(node.express);
    assert!(silent.is_closed_within(support::PATIENCE));
    let mut idle = Connection::greet(node.express);
    let told = idle.receive_until(|frame| frame.kind == GOAWAY);
    assert!(told.is_some(), "it is told to go");
    assert!(idle.is_closed_within(support::PATIENCE));
    eventually("both are gone", || {
        figure(&node, "express_connections") == 0
    });
}

#[test]
fn a_connection_that_is_too_old_goes_and_its_calls_end_before() {
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |_, _| {
        held.wait();
        Answer::Value(b"late".to_vec())
    });
    let node = Node::start(["--group", &origin.group("pages"), "--max-age", "3"]);
    let mut old = Connection::greet(node.express);
    old.send(&get(1, "pages", b"slow")).unwrap();
    origin.wait_for_requests("/slow", 1);
    assert!(old.receive_until(|frame| frame.kind == GOAWAY).is_some());
    latch.open();
    let end = old.end_of(1).expect("the call is answered");
    assert_eq!(end.kind, HEADERS);
    assert!(old.is_closed_within(support::PATIENCE));
}

/// Who is told why he is closed may not keep the connection for as long as one that is idle.
#[test]
fn who_does_not_close_what_was_closed_is_gone_all_the_same() {
    let blobs = folder(&[]);
    let node = Node::start(["--group", &group("blobs", &blobs), "--max-idle", "off"]);
    let mut settled = Connection::greet(node.express);
    let acknowledged = settled.receive_until(|frame| frame.kind == SETTINGS && frame.flags == ACK);
    acknowledged.expect("both have greeted");
    settled.send(&frame(PING, 0, 0, b"short")).unwrap();
    assert!(
        settled
            .receive_until(|frame| frame.kind == GOAWAY)
            .is_some()
    );
    eventually("it is gone", || figure(&node, "express_connections") == 0);
}

/// The last reply is on its way when the node ends, and a client says while it reads how much more it takes.
#[test]
fn a_reply_arrives_whole_when_the_node_drains() {
    let value = vec![7; 512 << 10];
    let blobs = folder(&[("large", &value)]);
    let mut node = Node::start(["--group", &group("blobs", &blobs), "--drain", "60"]);
    let mut slow = Connection::greet(node.express);
    rustix::net::sockopt::set_socket_recv_buffer_size(&slow.0, 8 << 10).unwrap();
    let window = |stream, more: u32| frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
    slow.send(
        &[
            window(0, 16 << 20),
            get(1, "blobs", b"large"),
            window(1, 16 << 20),
        ]
        .concat(),
    )
    .unwrap();
    eventually("the call has come", || {
        figure(&node, "express_calls_total") == 1
    });
    node.signal("TERM");
    let (mut bytes, mut read) = ([0; 16 << 10], 0);
    loop {
        match slow.0.read(&mut bytes).expect("the reply goes on") {
            0 => break,
            len => read += len,
        }
        let _ = slow.send(&window(0, 1000));
        // As slow as some are: all is written long before all is read.
        thread::sleep(Duration::from_millis(5));
    }
    assert!(read > value.len(), "{read} bytes");
    drop(slow);
    assert_eq!(node.wait().code(), Some(0));
    let log = node.stderr();
    assert!(log.contains("all calls have finished"), "{log}");
}

/// The caller of a call that waits is told from the others of his connection.
#[test]
fn a_call_that_is_reset_gives_its_place_back_at_once() {
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |_, _| {
        held.wait();
        Answer::Value(b"late".to_vec())
    });
    let node = Node::start(["--group", &origin.group("pages")]);
    let mut connection = Connection::greet(node.express);
    for stream in [1, 3, 5] {
        connection.send(&get(stream, "pages", b"slow")).unwrap();
    }
    let waiting = || figure(&node, "calls_waiting");
    eventually("all wait", || waiting() == 3);
    let cancel = 8_u32.to_be_bytes();
    connection.send(&frame(RST_STREAM, 0, 3, &cancel)).unwrap();
    eventually("the place is free", || waiting() == 2);
    latch.open();
    for stream in [1, 5] {
        assert_eq!(connection.end_of(stream).expect("an answer").kind, HEADERS);
    }
    drop(connection);
    eventually("it is gone", || figure(&node, "express_connections") == 0);
}

/// One core, one thread: on it a connection asks for as much as it can, without end, and another one for one key at a time.
#[test]
fn a_deep_pipeline_does_not_starve_a_single_call() {
    let blobs = folder(&[("a", b"1")]);
    let node = Node::start(["--group", &group("blobs", &blobs), "--cores", "0"]);
    let single = Client::connect(node.express);
    assert_eq!(single.get("blobs", "a").unwrap(), b"1");
    let stop = Arc::new(AtomicBool::new(false));
    let flood = flood(node.express, stop.clone());
    let before = figure(&node, "express_calls_total");
    eventually("the flood runs", || {
        figure(&node, "express_calls_total") > before + 10_000
    });
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(single.get("blobs", "a").unwrap(), b"1");
            begun.elapsed()
        })
        .collect();
    stop.store(true, Ordering::Relaxed);
    let answered = flood.join().expect("the flood is answered");
    assert!(answered > 10_000, "{answered}");
    times.sort();
    let median = times[times.len() / 2];
    // A turn of the flood takes some 100 us; a machine with other work gives the test its time now and then.
    assert!(median < Duration::from_millis(200), "{median:?}");
}

/// Keeps hundreds of calls under way, by a thread that sends and one that reads. Returns how many were answered.
fn flood(addr: SocketAddr, stop: Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    const STREAMS: u32 = 500;
    let mut connection = Connection::greet(addr);
    // All the room there can be for replies.
    connection
        .send(&frame(WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes()))
        .unwrap();
    thread::spawn(move || {
        let mut next = 1;
        let mut answered = 0;
        let mut open = 0;
        loop {
            if !stop.load(Ordering::Relaxed) && open <= STREAMS / 2 {
                let mut calls = Vec::new();
                while open < STREAMS {
                    calls.extend(get(next, "blobs", b"a"));
                    next += 2;
                    open += 1;
                }
                connection.send(&calls).unwrap();
            }
            if open == 0 {
                return answered;
            }
            let frame = connection.receive().expect("the door stays open");
            assert_ne!(frame.kind, GOAWAY);
            if frame.kind == HEADERS && frame.flags & END_STREAM != 0 {
                answered += 1;
                open -= 1;
            }
        }
    })
}

#[test]
fn who_does_not_read_is_closed() {
    let value = vec![7; 1 << 20];
    let blobs = folder(&[("large", &value)]);
    let group = group("blobs", &blobs);
    let node = Node::start(["--group", &group, "--read-stall", "3"]);
    let client = Client::connect(node.express);
    assert_eq!(client.get("blobs", "large").unwrap(), value);
    let mut connection = Connection::greet(node.express);
    for stream in (1..100).step_by(2) {
        let window = 0x00ff_ffff_u32.to_be_bytes();
        let _ = connection.send(&get(stream, "blobs", b"large"));
        let _ = connection.send(&frame(WINDOW_UPDATE, 0, 0, &window));
        let _ = connection.send(&frame(WINDOW_UPDATE, 0, stream, &window));
    }
    let abuse = "express_abuses_total{kind=\"slow_reader\"}";
    eventually("it is closed", || figure(&node, abuse) == 1);
    eventually("it is gone", || figure(&node, "express_connections") == 1);
    assert_eq!(client.get("blobs", "large").unwrap(), value);
    let most = node.memory_bytes("VmHWM");
    assert!(most < 200 << 20, "{most} bytes at the most");
}

#[test]
fn what_all_connections_keep_is_bounded() {
    const CONNECTIONS: usize = 40;
    let blobs = folder(&[("a", b"1")]);
    let group = group("blobs", &blobs);
    let limits = ["--core-memory", "4MiB", "--max-request", "1MiB"];
    let node = Node::start([&["--group", &group, "--cores", "0"][..], &limits].concat());
    let client = Client::connect(node.express);
    assert_eq!(client.get("blobs", "a").unwrap(), b"1");
    let before = node.memory_bytes("VmRSS");
    // Requests that never come to their end, as far as the windows that all clients have.
    let head = headers("/corecache.v1.Cache/Get", &[]);
    let announced = [&[0][..], &900_000_u32.to_be_bytes()].concat();
    let body = [announced, vec![b'x'; 60_000]].concat();
    let held: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut connection = Connection::greet(node.express);
            for stream in [1, 3, 5] {
                let _ = connection.send(&frame(HEADERS, END_HEADERS, stream, &head));
                for piece in body.chunks(16_000) {
                    let _ = connection.send(&frame(DATA, 0, stream, piece));
                }
            }
            connection
        })
        .collect();
    let cut = "express_connections_cut_total";
    eventually("some are cut", || figure(&node, cut) > 0);
    assert_eq!(client.get("blobs", "a").unwrap(), b"1");
    let growth = node.memory_bytes("VmHWM") - before;
    assert!(growth < 24 << 20, "{growth} bytes more");
    drop(held);
}

#[test]
fn bytes_that_are_no_http2_end_the_connection_and_no_other() {
    let blobs = folder(&[("a", b"1")]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let client = Client::connect(node.express);
    assert_eq!(client.get("blobs", "a").unwrap(), b"1");
    for bytes in [&b"GET / HTTP/1.1\r\nhost: node\r\n\r\n"[..], &[0xff; 100]] {
        let mut connection = Connection::open(node.express);
        connection.send(bytes).unwrap();
        assert!(connection.is_closed_within(support::PATIENCE));
    }
    assert_eq!(client.get("blobs", "a").unwrap(), b"1");
    assert_eq!(figure(&node, "express_abuses_total{kind=\"protocol\"}"), 2);
}

#[test]
fn without_it_nobody_listens() {
    let blobs = folder(&[("a", b"1")]);
    let listen = free_address();
    let mut node = corecache()
        .args(["serve", "--group", &group("blobs", &blobs)])
        .args(["--listen", &listen.to_string(), "--admin", "off"])
        .args(["--express", "off"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("the front door is open", || {
        TcpStream::connect(listen).is_ok()
    });
    let threads = std::fs::read_dir(format!("/proc/{}/task", node.id())).unwrap();
    let names = threads.filter_map(|thread| {
        let name = std::fs::read_to_string(thread.ok()?.path().join("comm"));
        match name {
            Ok(name) => Some(name),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{error}"),
        }
    });
    let names: Vec<_> = names.collect();
    assert!(names.iter().any(|name| name.starts_with("cq")), "{names:?}");
    assert!(
        !names.iter().any(|name| name.starts_with("io-")),
        "{names:?}"
    );
    node.kill().unwrap();
    node.wait().unwrap();
}
