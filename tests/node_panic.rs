//! A loader that panics: its callers get INTERNAL at both doors, and the node goes on. No command makes one, so the node is embedded.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use corecache::group::{GroupConfig, LoadContext, LoadError, Sink};
use corecache::server::{ConnectionLimits, Cores, LinkConfig, MembersConfig, Node, NodeConfig};
use grpcio::RpcStatusCode;
use support::PATIENCE;
use support::client::Client;
use support::origin::Latch;

fn start(load: impl Fn(&[u8], &mut Sink) -> Result<(), LoadError> + Send + Sync + 'static) -> Node {
    let load = move |key: &[u8], _: &LoadContext<'_>, sink: &mut Sink| load(key, sink);
    let config = NodeConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        admin: None,
        express: Some(([127, 0, 0, 1], 0).into()),
        memory_bytes: 16 << 20,
        groups: vec![GroupConfig::new("pages", load)],
        cores: Cores::available(),
        shards: None,
        loaders: 2,
        loads_an_origin: Some(2),
        load_rate: None,
        load_queue: 16,
        read_stall: Duration::from_secs(60),
        load_wait: Duration::from_secs(5),
        limits: ConnectionLimits::default(),
        tls: None,
        links: LinkConfig::default(),
        members: MembersConfig::default(),
    };
    Node::start(config).expect("a node starts")
}

/// Runs a test at the front door, and at the express door of another node.
fn at_each_door(test: impl Fn(fn(&Node) -> Option<SocketAddr>)) {
    test(|node| Some(node.listen()));
    test(Node::express);
}

#[test]
fn a_loader_that_panics_fails_its_callers_alone() {
    at_each_door(fails_its_callers_alone);
}

fn fails_its_callers_alone(door: fn(&Node) -> Option<SocketAddr>) {
    let latch = Latch::default();
    let held = latch.clone();
    let node = start(move |key, sink| {
        if key == b"bomb" {
            held.wait();
            panic!("boom");
        }
        sink.append(key)
    });
    let client = Client::connect(door(&node).expect("it is open"));
    let calls: Vec<_> = (0..5).map(|_| client.start_get("pages", "bomb")).collect();
    support::eventually("all calls have arrived", || client.counters().misses == 5);
    latch.open();
    for call in calls {
        let refusal = call.value().unwrap_err();
        refusal.expect(RpcStatusCode::INTERNAL, &["bomb", "pages"]);
    }
    // More often than there are loaders: none of them has ended.
    for _ in 0..10 {
        let refusal = client.get("pages", "bomb").unwrap_err();
        refusal.expect(RpcStatusCode::INTERNAL, &["bomb"]);
        assert_eq!(client.get("pages", "fine").unwrap(), b"fine");
    }
    let reply = client.get_many("pages", &[b"good", b"bomb"]).unwrap();
    assert_eq!(reply.answers[0].value().value, b"good");
    assert_eq!(reply.answers[1].failure().code, 13);
    assert!(node.drain(PATIENCE), "all calls have finished");
}

#[test]
fn each_error_of_a_loader_has_its_code() {
    at_each_door(has_its_code);
}

fn has_its_code(door: fn(&Node) -> Option<SocketAddr>) {
    let node = start(|key, _| {
        let words = "in the loader's words".to_owned();
        Err(match key {
            b"not found" => LoadError::NotFound(words),
            b"invalid key" => LoadError::InvalidKey(words),
            b"timed out" => LoadError::TimedOut(words),
            b"unavailable" => LoadError::Unavailable(words),
            b"refused" => LoadError::Refused(words),
            b"too large" => LoadError::TooLarge(words),
            b"busy" => LoadError::Busy(words),
            _ => LoadError::Other(words),
        })
    });
    let client = Client::connect(door(&node).expect("it is open"));
    for (key, code) in [
        ("not found", RpcStatusCode::NOT_FOUND),
        ("invalid key", RpcStatusCode::INVALID_ARGUMENT),
        ("timed out", RpcStatusCode::DEADLINE_EXCEEDED),
        ("unavailable", RpcStatusCode::UNAVAILABLE),
        ("too large", RpcStatusCode::OUT_OF_RANGE),
        ("busy", RpcStatusCode::RESOURCE_EXHAUSTED),
        ("refused", RpcStatusCode::FAILED_PRECONDITION),
        ("other", RpcStatusCode::INTERNAL),
    ] {
        let refusal = client.get("pages", key).unwrap_err();
        refusal.expect(code, &[key, "pages", "in the loader's words"]);
    }
    assert!(node.drain(Duration::from_secs(60)));
}
