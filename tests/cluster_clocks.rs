//! Nodes whose wall clocks are hours apart: no time of day is asked for or told, only how long.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use grpcio::RpcStatusCode;
use support::client::Client;
use support::clock::WrongClock;
use support::cluster::{figure, free_addresses, placement, timed, wait_for_links};
use support::fleet::{Checker, keys, second_loads, value_of, warm};
use support::origin::{Answer, Latch, Origin};
use support::{Node, corecache, eventually};

const HOUR: i64 = 3600;

/// A node with these peers, itself among them, by that clock.
fn start(own: SocketAddr, addresses: &[SocketAddr], clock: &WrongClock, args: &[&str]) -> Node {
    let peers: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    let peers = peers.join(",");
    let mut command = corecache();
    clock.set(&mut command);
    let before = clock.hour();
    let node = Node::start_with(command, own, [&["--peers", &peers], args].concat());
    // The log begins with the time, as the node sees it.
    let log = node.stderr();
    let shown = |hour: &String| log.starts_with(&format!("[{hour}:"));
    assert!(shown(&before) || shown(&clock.hour()), "{before}: {log}");
    node
}

#[test]
fn nodes_whose_clocks_are_an_hour_apart_are_one_cache() {
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |path, _| {
        if path.starts_with("/slow") {
            held.wait();
        }
        Answer::Value(path.as_bytes().to_vec())
    });
    let group = origin.group("pages");
    let addresses = free_addresses(3);
    let clocks = [-HOUR, 0, HOUR].map(WrongClock::by);
    // So that each call goes over a link, and a machine with other work does not look like a node that hangs.
    let args = ["--group", &group, "--peer-keep", "0", "--load-least", "0"];
    let args = [
        &args[..],
        &["--peer-patience", "20", "--load-queue", "8192"],
    ]
    .concat();
    let start = |number: usize| start(addresses[number], &addresses, &clocks[number], &args);
    let nodes: Vec<_> = (0..3).map(start).collect();
    for node in &nodes {
        wait_for_links(node, 2);
    }
    let keys = keys(1000);
    warm(&nodes[0], &keys);
    let load = Checker::start(6, &addresses, &keys);
    for node in &nodes {
        eventually("each asks the others", || {
            figure(node, "peers_values_total", "") > 100
        });
    }
    load.end_well();
    assert_eq!(second_loads(&origin, &keys), 0);

    // A caller's time is over when it is, whoever is asked and whoever loads.
    let placement = placement(&addresses);
    for (asked, node) in nodes.iter().enumerate() {
        for address in &addresses {
            let mut slow = (0..).map(|number| format!("slow-{asked}-{number}"));
            let owns = |key: &String| {
                let member = placement.owner(b"pages", key.as_bytes()).unwrap();
                member.address == address.to_string()
            };
            let key = slow.find(owns).unwrap();
            let client = Client::connect(node.addr);
            let time = Duration::from_secs(1);
            let (got, took) = timed(|| client.get_within(time, "pages", &key));
            got.unwrap_err()
                .expect(RpcStatusCode::DEADLINE_EXCEEDED, &[]);
            assert!(took >= time && took < 30 * time, "{took:?}");
        }
    }
    latch.open();
    for node in &nodes {
        assert_eq!(figure(node, "peers_passed_over_total", ""), 0);
        assert_eq!(figure(node, "peers_alone_total", ""), 0);
        assert_eq!(figure(node, "peers_sent_back_total", ""), 0);
    }
}

#[test]
fn a_node_whose_clock_is_ahead_has_its_keys_from_the_others_and_may_die() {
    let origin = support::fleet::origin();
    let group = origin.group("pages");
    let addresses = free_addresses(3);
    let file = tempfile::tempdir().unwrap();
    let list = file.path().join("members");
    let tell = |known: &[SocketAddr]| {
        let lines: String = known.iter().map(|address| format!("{address}\n")).collect();
        let new = file.path().join("new");
        std::fs::write(&new, lines)
            .and_then(|()| std::fs::rename(new, &list))
            .unwrap();
    };
    let path = list.display().to_string();
    let args = ["--peers-file", &path, "--group", &group, "--peer-keep", "0"];
    let args = [&args[..], &["--peer-patience", "20"]].concat();
    let start = |number: usize, seconds: i64| {
        let mut command = corecache();
        let clock = WrongClock::by(seconds);
        clock.set(&mut command);
        Node::start_with(command, addresses[number], &args)
    };
    tell(&addresses[..2]);
    let nodes = [start(0, 0), start(1, -HOUR)];
    for node in &nodes {
        wait_for_links(node, 1);
    }
    let keys = keys(600);
    warm(&nodes[0], &keys);
    let load = Checker::start(4, &addresses[..2], &keys);
    let mut ahead = start(2, HOUR);
    tell(&addresses);
    let placement = placement(&addresses);
    let owns = |key: &&String| {
        let member = placement.owner(b"pages", key.as_bytes()).unwrap();
        member.address == addresses[2].to_string()
    };
    let moved = keys.iter().filter(owns).count() as u64;
    eventually("it has its keys", || {
        figure(&ahead, "group_entries", "") >= moved
    });
    assert_eq!(second_loads(&origin, &keys), 0);
    ahead.signal("KILL");
    ahead.wait();
    let passed_over = || figure(&nodes[0], "peers_passed_over_total", "");
    eventually("the others stand in", || passed_over() > 50);
    load.end_well();
    assert_eq!(
        Client::connect(addresses[0])
            .get("pages", &keys[0])
            .unwrap(),
        value_of(&keys[0])
    );
}
