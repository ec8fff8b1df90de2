//! Calls with one reply, whose callers do not read it: they hold what the node has put aside for it, until they are cut.

mod support;

use std::collections::HashSet;

use grpcio::RpcStatusCode;
use support::client::{Client, request};
use support::http2::{
    Connection, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame, headers, message,
};
use support::{Node, eventually, folder, group, http};

const MIB: usize = 1 << 20;

/// Replies of this node have 16 MiB.
fn start(blobs: &tempfile::TempDir, read_stall_seconds: &str) -> Node {
    let args = ["--memory", "64MiB", "--read-stall", read_stall_seconds];
    Node::start([&["--group", &group("blobs", blobs)], &args[..]].concat())
}

fn figure(node: &Node, name: &str) -> u64 {
    let (_, figures) = http::get(node.admin, "/metrics");
    let mut lines = figures.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("the figure is there").parse().unwrap()
}

/// Makes a call without a deadline, on a connection that never makes room for more than the first 64 KiB.
fn ask(connection: &mut Connection, stream: u32, method: &str, keys: &[&[u8]]) {
    let path = format!("/corecache.v1.Cache/{method}");
    let body = message(false, &request("blobs", keys));
    let call = [
        frame(HEADERS, END_HEADERS, stream, &headers(&path, &[])),
        frame(DATA, END_STREAM, stream, &body),
    ];
    connection.send(&call.concat()).unwrap();
}

/// Waits until the node has ended so many calls, in any order.
fn await_ends(connection: &mut Connection, calls: usize) {
    let mut ended = HashSet::new();
    while ended.len() < calls {
        let end = connection.receive_until(|frame| {
            frame.kind == RST_STREAM || frame.kind == HEADERS && frame.flags & END_STREAM != 0
        });
        ended.insert(end.expect("the connection stays").stream);
    }
}

#[test]
fn replies_to_many_keys_that_nobody_reads_give_their_room_back() {
    let large = vec![7; 3 * MIB];
    let blobs = folder(&[("large", &large)]);
    // Long enough for what is looked at before they are cut.
    let node = start(&blobs, "10");
    let client = Client::connect(node.addr);
    let mut deaf = Connection::greet(node.addr);
    for call in 0..5 {
        ask(&mut deaf, 2 * call + 1, "GetMany", &[b"large"]);
    }
    // Another call before all of them have their room could take that of the last.
    eventually("all replies hold their room", || {
        figure(&node, "corecache_outgoing_bytes") > 15 * MIB as u64
    });
    let refusal = client.get_many("blobs", &[b"large"]).unwrap_err();
    assert_eq!(refusal.code, RpcStatusCode::RESOURCE_EXHAUSTED);
    await_ends(&mut deaf, 5);
    assert_eq!(figure(&node, "corecache_calls_stalled_total"), 5);
    eventually("the room is free", || {
        figure(&node, "corecache_outgoing_bytes") == 0
    });
    let reply = client.get_many("blobs", &[b"large"]).unwrap();
    assert!(reply.answers[0].value().value == large);
}

/// Each of these calls holds another value, and the cache has no room for a new one beside them.
#[test]
fn values_that_nobody_reads_are_let_go() {
    const CALLS: u32 = 24;
    let large = vec![7; 3 * MIB];
    let names: Vec<_> = (0..=CALLS).map(|number| number.to_string()).collect();
    let files: Vec<_> = names.iter().map(|name| (&**name, &large[..])).collect();
    let blobs = folder(&files);
    // Longer than it takes until the first values have to go, or nobody holds them any more then.
    let node = start(&blobs, "10");
    let mut deaf = Connection::greet(node.addr);
    for call in 0..CALLS {
        let key = call.to_string();
        ask(&mut deaf, 2 * call + 1, "Get", &[key.as_bytes()]);
    }
    eventually("values are held that the cache does not have", || {
        figure(&node, "corecache_garbage_bytes") > 0
    });
    // Those that come when too much is held are refused.
    await_ends(&mut deaf, CALLS as usize);
    assert!(figure(&node, "corecache_calls_stalled_total") > 0);
    eventually("they are let go", || {
        figure(&node, "corecache_garbage_bytes") == 0
    });
    let client = Client::connect(node.addr);
    assert!(client.get("blobs", CALLS.to_string()).unwrap() == large);
}
