//! The client at the two doors of a node: which it asks, and what it does when one is not there.

mod support;

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use corecache::client::{Client, ClientError};
use support::cluster::{Cluster, figure};
use support::net::{Gate, slow_way};
use support::origin::{Answer, Origin};
use support::{Node, folder, group};

#[test]
fn values_come_by_the_express_door_once_it_was_found() {
    let origin = Origin::start(|path, _| match path {
        "/missing" => Answer::Status("404 Not Found", "no such page"),
        "/large" => Answer::Value(vec![7; 5 << 20]),
        _ => Answer::Value(path.as_bytes().to_vec()),
    });
    let cluster = Cluster::start(2, &["--group", &origin.group("pages")]);
    let client = Client::builder().node(cluster.nodes[0].addr.to_string());
    let client = client.build().unwrap();
    let keys: Vec<_> = (0..40).map(|number| format!("k{number}")).collect();
    let by_express = |node: &Node| figure(node, "express_calls_total", "");
    support::eventually("both nodes are asked at their express doors", || {
        for (key, value) in keys.iter().zip(client.get_many("pages", &keys)) {
            assert_eq!(value.unwrap(), format!("/{key}").into_bytes());
        }
        cluster.nodes.iter().all(|node| by_express(node) > 10)
    });
    let before: Vec<_> = cluster.nodes.iter().map(by_express).collect();
    for key in &keys {
        let value = client.get("pages", key).unwrap();
        assert_eq!(value, format!("/{key}").into_bytes());
    }
    assert!(matches!(
        client.get("pages", "missing"),
        Err(ClientError::NotFound { .. })
    ));
    assert_eq!(client.get("pages", "large").unwrap(), vec![7; 5 << 20]);
    let after = cluster.nodes.iter().map(by_express).sum::<u64>();
    assert_eq!(after - before.iter().sum::<u64>(), 42);
    for node in &cluster.nodes {
        assert_eq!(figure(node, "peers_asked_total", ""), 0);
    }
    assert_eq!(client.stats().retries, 0);
}

#[test]
fn an_express_door_that_is_closed_to_the_client_is_left_alone() {
    let blobs = folder(&[("a", b"1")]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    // At this address of the loopback there is a way to the front door, and none to the other.
    let way = TcpListener::bind("127.0.0.9:0").unwrap();
    let front = way.local_addr().unwrap();
    slow_way(way, node.addr, Duration::ZERO);
    let client = Client::builder().node(front.to_string()).build().unwrap();
    for _ in 0..200 {
        assert_eq!(client.get("blobs", "a").unwrap(), b"1");
    }
    assert_eq!(figure(&node, "express_calls_total", ""), 0);
    assert_eq!(client.stats().retries, 0);
}

/// A node behind gates, one for each door, and a client that has found its express door.
struct Gated {
    node: Node,
    express: Gate,
    client: Client,
    _blobs: tempfile::TempDir,
}

impl Gated {
    fn start() -> Gated {
        let blobs = folder(&[("a", b"1"), ("b", b"2")]);
        let node = Node::start(["--group", &group("blobs", &blobs)]);
        // The port of the express door has to be the node's own, so the host is another one.
        let express = TcpListener::bind(("127.0.0.9", node.express.port())).unwrap();
        let front = TcpListener::bind("127.0.0.9:0").unwrap();
        let address = front.local_addr().unwrap().to_string();
        slow_way(front, node.addr, Duration::ZERO);
        let gated = Gated {
            express: Gate::new(express, node.express),
            client: Client::builder().node(address).build().unwrap(),
            node,
            _blobs: blobs,
        };
        support::eventually("values come by the express door", || {
            gated.ask();
            gated.by_express() > 0
        });
        gated
    }

    fn ask(&self) {
        ask(&self.client);
    }

    fn by_express(&self) -> u64 {
        figure(&self.node, "express_calls_total", "")
    }
}

fn ask(client: &Client) {
    assert_eq!(client.get("blobs", "a").unwrap(), b"1");
    let many = client.get_many("blobs", &["a", "b"]);
    assert_eq!(many, [Ok(b"1".to_vec()), Ok(b"2".to_vec())]);
}

#[test]
fn an_express_door_that_ends_or_falls_silent_costs_no_call() {
    for close in [Gate::cut, Gate::fall_silent] {
        let gated = Gated::start();
        close(&gated.express);
        // Who finds out is not the only one who had asked there.
        thread::scope(|scope| {
            for _ in 0..8 {
                let client = &gated.client;
                scope.spawn(move || ask(client));
            }
        });
        gated.ask();
        assert_eq!(gated.client.stats().retries, 0);
    }
}

#[test]
fn many_keys_are_asked_for_at_the_front_door_when_the_other_is_silent() {
    let gated = Gated::start();
    gated.express.fall_silent();
    let many = gated.client.get_many("blobs", &["a", "b"]);
    assert_eq!(many, [Ok(b"1".to_vec()), Ok(b"2".to_vec())]);
}

#[test]
fn another_node_at_the_express_port_is_not_asked() {
    let blobs = folder(&[("a", b"1")]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let other_blobs = folder(&[("a", b"2")]);
    let other = Node::start(["--group", &group("blobs", &other_blobs)]);
    let front = TcpListener::bind("127.0.0.9:0").unwrap();
    let address = front.local_addr().unwrap().to_string();
    slow_way(front, node.addr, Duration::ZERO);
    let express = TcpListener::bind(("127.0.0.9", node.express.port())).unwrap();
    let _gate = Gate::new(express, other.express);
    let client = Client::builder().node(address).build().unwrap();
    support::eventually("the other node is asked who it is", || {
        assert_eq!(client.get("blobs", "a").unwrap(), b"1");
        figure(&other, "express_calls_total", "") > 0
    });
    for _ in 0..100 {
        assert_eq!(client.get("blobs", "a").unwrap(), b"1");
    }
    assert_eq!(figure(&other, "express_calls_total", ""), 1);
}
