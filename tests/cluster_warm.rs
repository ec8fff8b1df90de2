//! `--wait-warm`: a node that has joined says that it is ready when its keys are with it.

mod support;

use std::time::{Duration, Instant};

use corecache::server::pb::health::health_check_response::ServingStatus;
use support::client::Client;
use support::cluster::{figure, free_addresses, placement, start_member};
use support::fleet::{Checker, Fleet, keys, origin, second_loads, warm};
use support::{Node, eventually, http};

fn readyz(node: &Node) -> (u16, String) {
    http::get(node.admin, "/readyz")
}

fn is_ready(node: &Node) -> bool {
    readyz(node).0 == 200
}

fn health(node: &Node) -> ServingStatus {
    let client = Client::connect(node.addr);
    let status = client.health("").unwrap();
    assert_eq!(client.health("corecache.v1.Cache").unwrap(), status);
    status
}

#[test]
fn a_node_that_is_alone_is_ready_at_once() {
    let group = origin().group("pages");
    let own = free_addresses(1);
    let args = ["--group", &group, "--wait-warm", "60"];
    for node in [Node::start(args), start_member(own[0], &own, &args)] {
        assert_eq!(readyz(&node), (200, "ready\n".to_owned()));
        assert_eq!(health(&node), ServingStatus::SERVING);
    }
}

#[test]
fn a_node_that_joins_is_ready_when_its_keys_are_with_it() {
    let (origin, keys) = (origin(), keys(4000));
    let group = origin.group("pages");
    let args = ["--group", &group, "--wait-warm", "60", "--peer-keep", "0"];
    // A machine with other work is not to look like a node that hangs.
    let patient = ["--load-queue", "8192", "--peer-patience", "20"];
    let args = [&args[..], &patient].concat();
    let begun = Instant::now();
    let mut fleet = Fleet::start(3, &args);
    // All are cold: there is nothing to be had from each other.
    for node in &fleet.nodes {
        eventually("a cold node is ready", || is_ready(node));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    warm(&fleet.nodes[0], &keys);
    let load = Checker::start(8, &fleet.addresses(), &keys);

    fleet.start_unknown();
    let joined = &fleet.nodes[3];
    // As long as nobody asks it, it can not be warm.
    let (status, page) = readyz(joined);
    assert_eq!(status, 503, "{page}");
    assert!(
        page.starts_with("warming: ") && page.contains("at the latest"),
        "{page}"
    );
    assert_eq!(health(joined), ServingStatus::NOT_SERVING);
    let told = Instant::now();
    fleet.tell_all();
    eventually("the new node is ready", || is_ready(joined));
    assert!(
        told.elapsed() < Duration::from_secs(50),
        "{:?}",
        told.elapsed()
    );
    assert_eq!(health(joined), ServingStatus::SERVING);
    let held = figure(joined, "group_entries", "");
    let handed_over = figure(joined, "peers_handed_over_total", "");
    load.end_well();

    let placement = placement(&fleet.addresses());
    let own = joined.addr.to_string();
    let owns = |key: &&String| {
        let owner = placement.owner(b"pages", key.as_bytes()).unwrap();
        owner.address == own
    };
    let moved = keys.iter().filter(owns).count();
    println!(
        "{moved} keys moved, {held} held when it was ready after {:?}",
        told.elapsed()
    );
    assert!(held as usize * 10 >= moved * 9, "{held} of {moved} keys");
    assert!(
        handed_over as usize * 10 >= moved * 9,
        "{handed_over} of {moved} keys"
    );
    assert!(second_loads(&origin, &keys) * 50 <= moved);
}

/// The others never come to see what it sees.
#[test]
fn no_node_waits_for_ever() {
    let group = origin().group("pages");
    let addresses = free_addresses(2);
    let _other = start_member(addresses[0], &addresses[..1], &["--group", &group]);
    let begun = Instant::now();
    let args = ["--group", &group, "--wait-warm", "4"];
    let node = start_member(addresses[1], &addresses, &args);
    eventually("the node is ready", || is_ready(&node));
    assert!(
        begun.elapsed() >= Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(health(&node), ServingStatus::SERVING);
    assert!(
        node.stderr().contains("although it is not warm"),
        "{}",
        node.stderr()
    );
}

#[test]
fn a_node_that_is_stopped_before_it_is_warm_drains() {
    let group = origin().group("pages");
    let addresses = free_addresses(2);
    let _other = start_member(addresses[0], &addresses[..1], &["--group", &group]);
    let args = ["--group", &group, "--wait-warm", "60", "--linger", "5"];
    let mut node = start_member(addresses[1], &addresses, &args);
    assert_eq!(readyz(&node).0, 503);
    node.signal("TERM");
    eventually("it drains", || readyz(&node).1 == "draining\n");
    assert!(node.wait().success());
    let log = node.stderr();
    let words = "SIGTERM: taking calls for 5 s more (--linger), then draining for up to 10 s";
    assert!(log.contains(words), "{log}");
}
