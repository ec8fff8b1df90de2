//! Misses whose callers have little time, and queues that do not empty: whom a node loads for, and for how long.

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grpcio::RpcStatusCode;
use support::client::{Client, request};
use support::http2::{
    ACK, Connection, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, WINDOW_UPDATE,
    frame, headers, message,
};
use support::origin::{Answer, Latch, Origin};
use support::{Door, Node, at_both_doors, eventually, folder, group, http};

/// What a hasty caller has. The call is to be where the test wants it by then, also on a machine with other work.
const SOON: Duration = Duration::from_secs(3);

/// A client that is connected, so that its first call has all of its time.
fn client_of(node: &Node, door: Door) -> Client {
    let client = Client::connect(door.of(node));
    client.counters();
    client
}

/// A deadline is over for the caller a moment before it is for the node. Here another one passes, of a call for a key that is
/// being loaded.
fn let_deadlines_pass(client: &Client, loading: &str) {
    let call = client.get_within(Duration::from_millis(500), "pages", loading);
    let refusal = call.unwrap_err();
    refusal.expect(RpcStatusCode::DEADLINE_EXCEEDED, &[]);
}

/// An origin that answers each key with itself, once the latch is open.
fn held_origin() -> (Origin, Latch) {
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |path, _| {
        held.wait();
        Answer::Value(path.as_bytes().to_vec())
    });
    (origin, latch)
}

fn metric(node: &Node, name: &str) -> f64 {
    let (_, figures) = http::get(node.admin, "/metrics");
    let line = figures.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.unwrap_or_else(|| panic!("no {name} in {figures}"));
    figure.trim().parse().expect("a figure is a number")
}

#[test]
fn the_origin_is_not_asked_any_longer_than_the_callers_wait() {
    at_both_doors(|door| {
        let (origin, _latch) = held_origin();
        let group = origin.group("pages");
        let times = ["--load-timeout", "600", "--load-least", "0"];
        let node = Node::start([&["--group", &group][..], &times].concat());
        let client = client_of(&node, door);
        let refusal = client.get_within(SOON, "pages", "slow").unwrap_err();
        refusal.expect(RpcStatusCode::DEADLINE_EXCEEDED, &[]);
        assert_eq!(origin.requests("/slow"), 1);
        eventually("the load has ended", || {
            client.counters().load_failures == 1
        });
    });
}

#[test]
fn a_load_that_has_begun_brings_its_value_for_those_who_ask_next() {
    at_both_doors(|door| {
        let (origin, latch) = held_origin();
        let group = origin.group("pages");
        let node = Node::start([
            "--group",
            &group,
            "--load-least",
            "600",
            "--load-timeout",
            "600",
        ]);
        let client = client_of(&node, door);
        let refusal = client.get_within(SOON, "pages", "slow").unwrap_err();
        refusal.expect(RpcStatusCode::DEADLINE_EXCEEDED, &[]);
        latch.open();
        eventually("the value is held", || client.counters().entries == 1);
        assert_eq!(client.get("pages", "slow").unwrap(), b"/slow");
        assert_eq!(origin.requests("/slow"), 1);
    });
}

#[test]
fn who_joins_a_load_of_a_hasty_caller_waits_as_long_as_he_likes() {
    at_both_doors(|door| {
        let latch = Latch::default();
        let held = latch.clone();
        let origin = Origin::start(move |_, number| {
            if number == 1 {
                held.wait();
            }
            Answer::Value(b"value".to_vec())
        });
        let group = origin.group("pages");
        let node = Node::start(["--group", &group, "--load-least", "0"]);
        let client = client_of(&node, door);
        let hasty = std::thread::spawn({
            let client = client_of(&node, door);
            move || client.get_within(SOON, "pages", "key")
        });
        origin.wait_for_requests("/key", 1);
        let patient = client.start_get("pages", "key");
        let refusal = hasty.join().unwrap().unwrap_err();
        refusal.expect(RpcStatusCode::DEADLINE_EXCEEDED, &[]);
        assert_eq!(patient.value().unwrap(), b"value");
        assert_eq!(origin.requests("/key"), 2);
        latch.open();
    });
}

#[test]
fn a_load_that_nobody_waits_for_any_more_is_not_begun() {
    at_both_doors(|door| {
        let (origin, latch) = held_origin();
        let node = Node::start(["--group", &origin.group("pages"), "--loaders", "1"]);
        let client = client_of(&node, door);
        let running = client.start_get("pages", "running");
        origin.wait_for_requests("/running", 1);
        for call in ["a", "b"].map(|key| client.start_get_within(SOON, "pages", key)) {
            let refusal = call.value().unwrap_err();
            refusal.expect(RpcStatusCode::DEADLINE_EXCEEDED, &[]);
        }
        let_deadlines_pass(&client, "running");
        // Who asks for the key again makes it wanted again.
        let again = client.start_get("pages", "b");
        eventually("the call has arrived", || client.counters().joined == 2);
        latch.open();
        assert_eq!(running.value().unwrap(), b"/running");
        assert_eq!(again.value().unwrap(), b"/b");
        eventually("the other is dropped", || client.counters().given_up == 1);
        assert_eq!((origin.requests("/a"), origin.requests("/b")), (0, 1));
        assert_eq!(
            metric(
                &node,
                "corecache_group_loads_given_up_total{group=\"pages\"}"
            ),
            1.0
        );
    });
}

#[test]
fn keys_of_a_call_that_is_over_are_not_asked_for() {
    at_both_doors(|door| {
        const KEYS: usize = 500;
        let (origin, latch) = held_origin();
        let node = Node::start(["--group", &origin.group("pages"), "--loaders", "1"]);
        let client = client_of(&node, door);
        let keys: Vec<_> = (0..KEYS).map(|key| key.to_string().into_bytes()).collect();
        let keys: Vec<_> = keys.iter().map(Vec::as_slice).collect();
        let refusal = client.get_many_within(SOON, "pages", &keys).unwrap_err();
        refusal.expect(RpcStatusCode::DEADLINE_EXCEEDED, &[]);
        origin.wait_for_requests("/0", 1);
        let_deadlines_pass(&client, "0");
        latch.open();
        // 64 keys of a call are on their way at a time. One was begun, and the others of these are dropped.
        eventually("nothing is left to do", || {
            let counters = client.counters();
            counters.loads == 1 && counters.given_up == 63
        });
        assert_eq!(client.get("pages", "499").unwrap(), b"/499");
        assert_eq!(client.counters().loads, 2);
    });
}

#[test]
fn what_waits_too_long_is_refused_though_the_origin_hangs_and_then_the_newest_is_served_first() {
    at_both_doors(|door| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let (latch, seen) = (Latch::default(), order.clone());
        let held = latch.clone();
        let origin = Origin::start(move |path, _| {
            seen.lock().unwrap().push(path.to_owned());
            held.wait();
            Answer::Value(path.as_bytes().to_vec())
        });
        let group = origin.group("pages");
        let node = Node::start(["--group", &group, "--loaders", "1", "--load-wait", "6"]);
        let client = client_of(&node, door);
        let running = client.start_get("pages", "running");
        origin.wait_for_requests("/running", 1);
        let queue = |key, depth| {
            let call = client.start_get("pages", key);
            eventually("the load is queued", || client.stats().queue_depth == depth);
            call
        };
        let old = [queue("a", 1), queue("b", 2)];
        let standing = "corecache_group_queue_standing_seconds{group=\"pages\"}";
        for call in old {
            let words = ["has waited for a loader for ", "loads of the group wait"];
            let refusal = call.value().unwrap_err();
            refusal.expect(RpcStatusCode::RESOURCE_EXHAUSTED, &words);
        }

        let new = [queue("c", 1), queue("d", 2)];
        eventually("the oldest has waited for half of the time", || {
            metric(&node, standing) > 3.1
        });
        latch.open();
        assert_eq!(running.value().unwrap(), b"/running");
        for (call, value) in new.into_iter().zip(["/c", "/d"]) {
            assert_eq!(call.value().unwrap(), value.as_bytes());
        }
        assert_eq!(*order.lock().unwrap(), ["/running", "/d", "/c"]);
        assert_eq!(client.counters().shed, 2);
        assert_eq!(metric(&node, standing), 0.0);
    });
}

#[test]
fn groups_of_one_host_share_its_limit() {
    at_both_doors(|door| {
        let (slow, latch) = held_origin();
        let fast = Origin::start(|_, _| Answer::Value(b"fast".to_vec()));
        let (x, y, z) = (slow.group("x"), slow.group("y") + "/y", fast.group("z"));
        // Of four loaders three may be at one host.
        let args = [
            "--group",
            &x,
            "--group",
            &y,
            "--group",
            &z,
            "--loaders",
            "4",
        ];
        let node = Node::start(args);
        let client = client_of(&node, door);
        let calls: Vec<_> = (0..8)
            .map(|key| client.start_get(["x", "y"][key % 2], key.to_string()))
            .collect();
        eventually("the slow host has as many as it may", || {
            client.stats().queue_depth == 5
        });
        assert_eq!(client.get("z", "key").unwrap(), b"fast");
        latch.open();
        for call in calls {
            call.value().unwrap();
        }
    });
}

/// How a node ended the only call of a connection.
struct Ends {
    /// Heads with END_STREAM.
    trailers: usize,
    resets: Vec<Vec<u8>>,
    text: String,
}

/// Makes a call that has half a second, and that is never cancelled, and reads what comes until its end and all that the node
/// sends with it. `is_whole`: the caller has nothing more to say.
fn ends_of_hasty(addr: SocketAddr, path: &str, body: Option<&[u8]>, is_whole: bool) -> Ends {
    let mut connection = Connection::greet(addr);
    let headers = headers(path, &[("grpc-timeout", b"500m")]);
    let mut call = frame(HEADERS, END_HEADERS, 1, &headers);
    if let Some(body) = body {
        let flags = if is_whole { END_STREAM } else { 0 };
        call.extend(frame(DATA, flags, 1, &message(false, body)));
    }
    connection.send(&call).unwrap();
    let mut ends = Ends {
        trailers: 0,
        resets: Vec::new(),
        text: String::new(),
    };
    let mut pings = 0;
    loop {
        let told = connection.receive().expect("the connection stays");
        match told.kind {
            HEADERS if told.flags & END_STREAM != 0 => {
                ends.trailers += 1;
                ends.text += &String::from_utf8_lossy(&told.payload);
            }
            RST_STREAM => ends.resets.push(told.payload),
            PING if told.flags & ACK != 0 && pings == 2 => return ends,
            PING if told.flags & ACK != 0 => {}
            _ => continue,
        }
        // What is sent with the end comes before the answers to these.
        if pings < 2 && ends.trailers > 0 {
            connection.send(&frame(PING, 0, 0, &[0; 8])).unwrap();
            pings += 1;
        }
    }
}

#[test]
fn a_call_that_nobody_cancels_is_ended_when_its_time_is_over_and_once() {
    const LOADING: &str = "the deadline passed while the key was being loaded";
    const ENDLESS: &str = "the deadline passed before the call had come to its end";
    let (origin, _latch) = held_origin();
    let group = origin.group("pages");
    // The origin may take longer than anybody waits.
    let times = ["--load-least", "600", "--load-timeout", "600"];
    let node = Node::start([&["--group", &*group][..], &times].concat());
    let key = request("pages", &[b"slow"]);
    let cache = |method| format!("/corecache.v1.Cache/{method}");
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let calls = [
        (cache("Get"), Some(&key[..]), true, LOADING),
        (cache("Get"), Some(&key), false, LOADING),
        (cache("GetMany"), Some(&key), true, LOADING),
        (cache("Read"), Some(&key), true, LOADING),
        (cache("Fetch"), None, false, ENDLESS),
        (cache("Fetch"), Some(&key), false, ENDLESS),
        (cache("Fetch"), Some(&key), true, ENDLESS),
        (
            "/grpc.health.v1.Health/Watch".to_owned(),
            Some(b""),
            true,
            ENDLESS,
        ),
        (reflection.to_owned(), None, false, ENDLESS),
        (
            "/corecache.peer.v1.Peer/Link".to_owned(),
            None,
            false,
            ENDLESS,
        ),
    ];
    for (path, body, is_whole, words) in calls {
        let ends = ends_of_hasty(node.addr, &path, body, is_whole);
        let shown = format!("{path}, {body:?}, {is_whole}: {}", ends.text);
        assert!(ends.text.contains(words), "{shown}");
        assert!(ends.text.contains("grpc-status\u{1}4"), "{shown}");
        assert_eq!(ends.trailers, 1, "{shown}");
        // Who may still say something is told that it would not be heard (RFC 9113, 8.1).
        let no_error = vec![vec![0; 4]; usize::from(!is_whole)];
        assert_eq!(ends.resets, no_error, "{shown}");
    }
    eventually("nobody waits", || {
        metric(&node, "corecache_calls_waiting ") == 0.0
    });
}

/// A value is on its way, and its reader slow: he is told at the next message, and what he does not take is let go as ever.
#[test]
fn a_value_is_not_sent_any_further_when_the_time_is_over() {
    let large = vec![7; 8 << 20];
    let blobs = folder(&[("large", &large)]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let mut connection = Connection::greet(node.addr);
    let headers = headers(
        "/corecache.v1.Cache/Read",
        &[("grpc-timeout", &b"500m"[..])],
    );
    let body = message(false, &request("blobs", &[b"large"]));
    let call = [
        frame(HEADERS, END_HEADERS, 1, &headers),
        frame(DATA, END_STREAM, 1, &body),
    ];
    connection.send(&call.concat()).unwrap();
    // No more is taken than the first window has room for, until the time is over at the node, as it is for this call.
    let other = ends_of_hasty(node.addr, "/corecache.v1.Cache/Fetch", None, false);
    assert_eq!(other.trailers, 1);
    let more = (64_u32 << 20).to_be_bytes();
    for stream in [0, 1] {
        let update = frame(WINDOW_UPDATE, 0, stream, &more);
        connection.send(&update).unwrap();
    }
    let mut data_bytes = 0;
    let end = loop {
        let told = connection.receive().expect("the connection stays");
        match told.kind {
            DATA => data_bytes += told.payload.len(),
            HEADERS if told.flags & END_STREAM != 0 => break told,
            RST_STREAM => panic!("it is told why"),
            _ => {}
        }
    };
    let text = String::from_utf8_lossy(&end.payload);
    assert!(text.contains("grpc-status\u{1}4"), "{text}");
    assert!(data_bytes < large.len() / 2, "{data_bytes} bytes");
}
