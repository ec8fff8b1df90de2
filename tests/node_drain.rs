//! How a node ends: it says so, takes no more, finishes what it has begun, and exits with 0.

mod support;

use std::sync::{Arc, mpsc};
use std::thread;

use corecache::server::pb::health::health_check_response::ServingStatus;
use grpcio::RpcStatusCode;
use support::client::Client;
use support::origin::{Answer, Latch, Origin};
use support::{Door, Node, at_both_doors, folder, group, http};

/// An origin that answers when the latch is open.
fn held_origin() -> (Origin, Latch) {
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |_, _| {
        held.wait();
        Answer::Value(b"late".to_vec())
    });
    (origin, latch)
}

#[test]
fn sigterm_lets_calls_in_flight_finish() {
    at_both_doors(|door| drains_on("TERM", door));
}

#[test]
fn sigint_lets_calls_in_flight_finish() {
    at_both_doors(|door| drains_on("INT", door));
}

fn drains_on(signal: &str, door: Door) {
    let (origin, latch) = held_origin();
    let mut node = Node::start(["--group", &origin.group("pages"), "--drain", "60"]);
    let client = Client::connect(door.of(&node));
    for service in ["", "corecache.v1.Cache"] {
        assert_eq!(client.health(service).unwrap(), ServingStatus::SERVING);
    }
    let watcher = Client::connect(node.addr);
    let mut watch = watcher.watch_health("corecache.v1.Cache");
    assert_eq!(watch.next(), Some(ServingStatus::SERVING));
    assert_eq!(http::get(node.admin, "/readyz").0, 200);
    let call = client.start_get("pages", "slow");
    origin.wait_for_requests("/slow", 1);

    node.signal(signal);
    assert_eq!(watch.next(), Some(ServingStatus::NOT_SERVING));
    assert_eq!(watch.next(), None);
    let not_ready = (503, "draining\n".to_owned());
    assert_eq!(http::get(node.admin, "/readyz"), not_ready);
    assert_eq!(http::get(node.admin, "/healthz").0, 200);

    assert!(!node.has_ended());
    latch.open();
    assert_eq!(call.value().unwrap(), b"late");
    assert_eq!(node.wait().code(), Some(0));
    let log = node.stderr();
    assert!(
        log.contains(&format!("SIG{signal}: draining for up to 60 s")),
        "{log}"
    );
    assert!(log.contains("all calls have finished"), "{log}");
}

#[test]
fn when_the_drain_time_is_over_calls_are_cut() {
    at_both_doors(are_cut_when_the_drain_time_is_over);
}

fn are_cut_when_the_drain_time_is_over(door: Door) {
    let (origin, _never) = held_origin();
    let mut node = Node::start(["--group", &origin.group("pages"), "--drain", "0.2"]);
    let client = Client::connect(door.of(&node));
    let call = client.start_get("pages", "slow");
    origin.wait_for_requests("/slow", 1);

    assert_eq!(node.terminate().code(), Some(0));
    let refusal = call.value().unwrap_err();
    refusal.expect(RpcStatusCode::UNAVAILABLE, &[]);
    assert!(
        node.stderr().contains("the drain time is over"),
        "{}",
        node.stderr()
    );
}

#[test]
fn a_second_signal_ends_the_node_at_once() {
    let (origin, _never) = held_origin();
    let mut node = Node::start(["--group", &origin.group("pages"), "--drain", "3600"]);
    let client = Client::connect(node.addr);
    let call = client.start_get("pages", "slow");
    origin.wait_for_requests("/slow", 1);

    node.signal("TERM");
    // One that comes at the heels of the first is taken for the same.
    support::eventually("another signal ends the node", || {
        node.signal("INT");
        node.has_ended()
    });
    assert_eq!(node.wait().code(), Some(1));
    assert!(
        node.stderr().contains("a second signal"),
        "{}",
        node.stderr()
    );
    call.value()
        .unwrap_err()
        .expect(RpcStatusCode::UNAVAILABLE, &[]);
}

#[test]
fn a_signal_that_comes_twice_at_once_is_one() {
    let (origin, latch) = held_origin();
    let mut node = Node::start(["--group", &origin.group("pages"), "--drain", "60"]);
    let client = Client::connect(node.addr);
    let mut watch = client.watch_health("");
    assert_eq!(watch.next(), Some(ServingStatus::SERVING));
    let call = client.start_get("pages", "slow");
    origin.wait_for_requests("/slow", 1);

    // As `timeout` does: to the process, and to its group.
    node.signal_twice("TERM");
    assert_eq!(watch.next(), Some(ServingStatus::NOT_SERVING));
    latch.open();
    assert_eq!(call.value().unwrap(), b"late");
    assert_eq!(node.wait().code(), Some(0));
}

/// A caller that always waits for its answer loses no call: whatever it sent is answered, or, once the node is gone,
/// finds no connection. How soon a caller sends its next call is up to the machine, so a few nodes are tried.
#[test]
fn no_call_is_lost_under_load() {
    const NODES: usize = 3;
    let blobs = folder(&[("hot", b"value")]);
    let group = group("blobs", &blobs);
    at_both_doors(|door| {
        let mut lost = (0..NODES).map(|_| calls_lost_under_load(&group, door));
        assert!(
            lost.any(|calls| calls == 0),
            "each of {NODES} nodes lost calls"
        );
    });
}

/// Ends a node under load. Returns how many calls ended otherwise than by an answer or for want of a node.
fn calls_lost_under_load(group: &str, door: Door) -> usize {
    const CONNECTIONS: usize = 4;
    const CALLERS: usize = 64;
    const WARM: usize = 100;
    let mut node = Node::start(["--group", group, "--drain", "60"]);
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| Arc::new(Client::connect(door.of(&node))))
        .collect();
    let (warm, warmed) = mpsc::channel();
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let (client, warm) = (clients[number % CONNECTIONS].clone(), warm.clone());
            thread::spawn(move || call_until_refused(&client, WARM, &warm))
        })
        .collect();
    assert_eq!(warmed.iter().take(CALLERS).count(), CALLERS);

    assert_eq!(node.terminate().code(), Some(0));
    let log = node.stderr();
    assert!(log.contains("all calls have finished"), "{log}");
    let refusals = callers.into_iter().map(|caller| caller.join().unwrap());
    refusals
        .filter(|&code| code != RpcStatusCode::UNAVAILABLE)
        .count()
}

/// Calls again and again, and tells when it has had `warm` answers. Returns the code that it is refused with.
fn call_until_refused(client: &Client, warm: usize, warmed: &mpsc::Sender<()>) -> RpcStatusCode {
    for answered in 1.. {
        match client.get("blobs", "hot") {
            Ok(value) => assert_eq!(value, b"value"),
            Err(refusal) => return refusal.code,
        }
        if answered == warm {
            warmed.send(()).expect("the test waits for this");
        }
    }
    unreachable!("a caller calls until it is refused")
}
