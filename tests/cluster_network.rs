//! Nodes on hosts of their own, between which packets are lost; and one at the end of a long way.
//!
//! Each answer is checked: that it is the key's value, and that it came in time. The last test plants a wrong value and
//! shows that the check finds it.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use support::cluster::{figure, free_addresses, placement, wait_for_links};
use support::fleet::{Call, Checker, keys, origin, origin_at, second_loads, warm};
use support::net::{Network, slow_way};
use support::origin::{Answer, Origin};
use support::{Node, corecache, eventually};

/// How long a node that says nothing is waited for. So long that no machine is as slow, however much other work it has: who
/// waits for a node that is gone is told by the time from who is slow.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a network fails in a test, once callers have noticed. In the second half all links know of it.
const FAILS_FOR: Duration = Duration::from_secs(6);

fn addresses(nodes: &[Node]) -> Vec<SocketAddr> {
    nodes.iter().map(|node| node.addr).collect()
}

fn passed_over(nodes: &[Node]) -> u64 {
    let passed_over = |node| figure(node, "peers_passed_over_total", "");
    nodes.iter().map(passed_over).sum()
}

/// The time that 99 of 100 calls took that began in the second half of a failure.
fn p99(calls: &[Call], from: Instant, until: Instant) -> Duration {
    let late = calls
        .iter()
        .filter(|call| (from..until).contains(&call.begun));
    let mut took: Vec<_> = late.map(|call| call.took).collect();
    took.sort_unstable();
    assert!(took.len() > 50, "{} calls", took.len());
    took[took.len() * 99 / 100]
}

/// Three nodes that are asked for keys all the time, while `fail` makes their network fail, and after it has healed.
fn through(patience: Duration, fail: impl Fn(&Network)) -> Option<Duration> {
    let network = Network::new(3)?;
    let (origin, keys) = (origin_at(network.here()), keys(2000));
    let group = origin.group("pages");
    let patience = patience.as_secs_f64().to_string();
    let args = ["--group", &group, "--peer-keep", "0", "--load-wait", "60"];
    let nodes = network.start_nodes(&[&args[..], &["--peer-patience", &patience]].concat());
    for node in &nodes {
        wait_for_links(node, 2);
    }
    let load = Checker::start(6, &addresses(&nodes), &keys);
    let values = || figure(&nodes[0], "peers_values_total", "");
    eventually("the load goes over the links", || values() > 200);
    let before = passed_over(&nodes);
    fail(&network);
    eventually("it is noticed", || passed_over(&nodes) > before + 20);
    let noticed = Instant::now();
    eventually("it has failed for long enough", || {
        noticed.elapsed() > FAILS_FOR
    });
    let healed = Instant::now();
    network.heal();
    for node in &nodes {
        wait_for_links(node, 2);
    }
    let again = values();
    eventually("all are asked again", || values() > again + 200);
    let calls = load.end_well();
    for key in &keys {
        let loads = origin.requests(&format!("/{key}"));
        // Each side of a partition may load it, and who turns to the next in rank.
        assert!(loads <= 3, "{loads} loads of {key}");
    }
    Some(p99(&calls, noticed + FAILS_FOR / 2, healed))
}

#[test]
fn a_node_that_is_cut_off_both_ways_is_gone_around_and_serves_by_itself() {
    let p99 = through(PATIENCE, |network| {
        for other in 0..2 {
            network.deafen(2, other);
            network.deafen(other, 2);
        }
    });
    println!("cut off both ways: p99 {p99:?}");
    assert!(p99.is_none_or(|p99| p99 < PATIENCE / 2), "{p99:?}");
}

/// It is heard, but hears nothing: it does not know that it is alone.
#[test]
fn a_node_that_hears_nobody_is_gone_around() {
    let p99 = through(PATIENCE, |network| {
        for other in 0..2 {
            network.deafen(2, other);
        }
    });
    println!("cut off one way: p99 {p99:?}");
    assert!(p99.is_none_or(|p99| p99 < PATIENCE / 2), "{p99:?}");
}

#[test]
fn no_call_fails_where_packets_are_lost() {
    // Packets are sent again: a node is silent for no longer than that.
    let p99 = through(Duration::from_millis(500), |network| {
        for (at, from) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
            network.lose(at, from, 10);
        }
    });
    println!("one packet in ten lost: p99 {p99:?}");
}

/// One of three is at the end of a way of 400 ms: slow is not dead, and nobody loads in its place.
#[test]
fn a_node_that_is_far_away_is_waited_for() {
    const DELAY: Duration = Duration::from_millis(400);
    let origin = origin();
    let way = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = free_addresses(1)[0];
    let shown = way.local_addr().unwrap();
    slow_way(way, far, DELAY);
    let mut members = free_addresses(2);
    members.push(shown);
    let peers: Vec<_> = members.iter().map(SocketAddr::to_string).collect();
    let peers = peers.join(",");
    let advertise = shown.to_string();
    let group = origin.group("pages");
    let start = |listen, more: &[&str]| {
        let args = ["--peers", &peers, "--group", &group, "--peer-keep", "0"];
        let patient = ["--peer-patience", "2"];
        Node::start_with(corecache(), listen, [&args[..], &patient, more].concat())
    };
    let nodes = [
        start(members[0], &[]),
        start(members[1], &[]),
        start(far, &["--advertise", &advertise]),
    ];
    for node in &nodes[..2] {
        wait_for_links(node, 2);
    }
    let placement = placement(&members);
    let is_far = |key: &String| {
        let owner = placement.owner(b"pages", key.as_bytes()).unwrap();
        owner.address == advertise
    };
    let keys: Vec<_> = keys(600).into_iter().filter(is_far).collect();
    let load = Checker::start(8, &addresses(&nodes[..2]), &keys);
    let values = || figure(&nodes[0], "peers_values_total", "");
    eventually("it is asked", || values() > 30);
    let calls = load.end_well();
    let least = calls.iter().map(|call| call.took).min().unwrap();
    assert!(least >= 2 * DELAY, "{least:?}");
    assert_eq!(second_loads(&origin, &keys), 0);
    assert_eq!(passed_over(&nodes), 0);
}

/// The planted bug: one key gets the value of another one, once. Whichever of the nodes is asked, the check finds it.
#[test]
fn the_check_finds_a_wrong_value() {
    let origin = Origin::start(|path, number| {
        let is_wrong = path == "/k77" && number == 1;
        let value = if is_wrong { "/k78" } else { path };
        Answer::Value(value.as_bytes().to_vec())
    });
    let cluster = support::cluster::Cluster::start(3, &["--group", &origin.group("pages")]);
    let load = Checker::start(3, &addresses(&cluster.nodes), &keys(100));
    let requests = || origin.requests("/k99");
    eventually("all keys have been asked for", || requests() > 0);
    warm(&cluster.nodes[0], &keys(50));
    let (_, faults) = load.end();
    assert!(!faults.is_empty(), "it was not found");
    for fault in &faults {
        assert!(fault.contains("k77: \"/k78\""), "{fault}");
    }
}
