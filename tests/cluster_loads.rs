//! One load in the whole cluster, whoever is asked.

mod support;

use std::thread;
use std::time::Duration;

use grpcio::RpcStatusCode;
use support::client::Client;
use support::cluster::{Cluster, figure, free_addresses, start_member, wait_for_links};
use support::origin::{Answer, Latch, Origin};

/// A machine with other work is not to look like a node that hangs.
const PATIENT: [&str; 2] = ["--peer-patience", "20"];

#[test]
fn three_nodes_with_500_callers_each_for_a_cold_key_are_one_load() {
    const CALLS: usize = 500;
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |_, _| {
        held.wait();
        Answer::Value(b"value".to_vec())
    });
    let cluster = Cluster::start(
        3,
        &["--group", &origin.group("pages"), PATIENT[0], PATIENT[1]],
    );
    let clients: Vec<_> = (0..3).map(|node| cluster.client(node)).collect();
    let calls: Vec<_> = (0..CALLS)
        .flat_map(|_| {
            clients
                .iter()
                .map(|client| client.start_get("pages", "cold"))
        })
        .collect();
    for node in 0..3 {
        let watcher = cluster.client(node);
        support::eventually("all calls have arrived", || {
            watcher.counters().misses >= CALLS as u64
        });
    }
    latch.open();
    for call in calls {
        assert_eq!(call.value().unwrap(), b"value");
    }
    assert_eq!(origin.requests("/cold"), 1);
    let owner = cluster.ranks("pages", "cold")[0];
    for (number, node) in cluster.nodes.iter().enumerate() {
        let is_asker = u64::from(number != owner);
        assert_eq!(figure(node, "peers_asked_total", ""), is_asker);
        assert_eq!(cluster.client(number).counters().loads, 1 - is_asker);
    }
}

#[test]
fn a_load_that_takes_longer_than_a_silent_node_is_waited_for() {
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |_, _| {
        held.wait();
        Answer::Value(b"value".to_vec())
    });
    let args = ["--group", &origin.group("pages"), "--peer-patience", "4"];
    let cluster = Cluster::start(2, &args);
    let ranks = cluster.ranks("pages", "slow");
    let client = cluster.client(ranks[1]);
    let call = client.start_get("pages", "slow");
    origin.wait_for_requests("/slow", 1);
    // More than the patience, which a node that says that it is loading does not use up.
    thread::sleep(Duration::from_secs(9));
    latch.open();
    assert_eq!(call.value().unwrap(), b"value");
    assert_eq!(origin.requests("/slow"), 1);
    assert_eq!(
        figure(&cluster.nodes[ranks[1]], "peers_passed_over_total", ""),
        0
    );
}

#[test]
fn what_the_origin_says_is_passed_on_and_nobody_else_is_asked() {
    let origin = Origin::start(|path, _| match path {
        "/missing" => Answer::Status("404 Not Found", "no such page"),
        "/secret" => Answer::Status("403 Forbidden", "not for you"),
        _ => Answer::Status("503 Service Unavailable", "closed today"),
    });
    let cluster = Cluster::start(
        3,
        &["--group", &origin.group("pages"), PATIENT[0], PATIENT[1]],
    );
    for (key, code) in [
        ("missing", RpcStatusCode::NOT_FOUND),
        ("secret", RpcStatusCode::FAILED_PRECONDITION),
        ("broken", RpcStatusCode::UNAVAILABLE),
    ] {
        let owner = cluster.ranks("pages", key)[0];
        let at_owner = cluster.client(owner).get("pages", key).unwrap_err();
        let before = origin.requests(&format!("/{key}"));
        let elsewhere = cluster
            .client((owner + 1) % 3)
            .get("pages", key)
            .unwrap_err();
        elsewhere.expect(code, &[key]);
        assert_eq!(elsewhere.text, at_owner.text, "the same words");
        let path = format!("/{key}");
        assert_eq!(
            origin.requests(&path),
            2 * before,
            "one node has loaded, as before"
        );
    }
    for node in &cluster.nodes {
        assert_eq!(figure(node, "peers_passed_over_total", ""), 0);
        assert_eq!(figure(node, "peers_alone_total", ""), 0);
    }
}

#[test]
fn many_keys_a_call_go_over_the_links_too() {
    let origin = Origin::start(|path, _| Answer::Value(path.as_bytes().to_vec()));
    let cluster = Cluster::start(
        3,
        &["--group", &origin.group("pages"), PATIENT[0], PATIENT[1]],
    );
    let keys: Vec<String> = (0..300).map(|number| format!("k{number}")).collect();
    let bytes: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();

    let reply = cluster.client(0).get_many("pages", &bytes).unwrap();
    for (key, answer) in keys.iter().zip(&reply.answers) {
        assert_eq!(answer.value().value, format!("/{key}").into_bytes());
    }
    let client = cluster.client(1);
    let mut fetch = client.fetch();
    fetch.ask("pages", 0, &bytes);
    fetch.close();
    for (id, fetched) in fetch.answers(keys.len()) {
        assert_eq!(
            fetched.unwrap(),
            format!("/{}", keys[id as usize]).into_bytes()
        );
    }
    for key in &keys {
        let value = cluster.client(2).get("pages", key).unwrap();
        assert_eq!(value, format!("/{key}").into_bytes());
        assert_eq!(origin.requests(&format!("/{key}")), 1, "{key}");
    }
    for node in &cluster.nodes {
        assert_eq!(figure(node, "peer_other_ring", ""), 0);
    }
}

/// The owner was told of the first caller's time alone.
#[test]
fn who_joins_with_more_time_gets_the_value_that_the_first_did_not_wait_for() {
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |_, _| {
        held.wait();
        Answer::Value(b"value".to_vec())
    });
    let group = origin.group("pages");
    let args = [&["--group", &*group, "--load-least", "0"], &PATIENT[..]].concat();
    let cluster = Cluster::start(2, &args);
    let client = cluster.client(cluster.ranks("pages", "slow")[1]);
    let patient = thread::scope(|scope| {
        let hasty = scope.spawn(|| {
            let timeout = Duration::from_secs(3);
            client.get_within(timeout, "pages", "slow")
        });
        origin.wait_for_requests("/slow", 1);
        let patient = client.start_get("pages", "slow");
        let refusal = hasty.join().unwrap().unwrap_err();
        refusal.expect(RpcStatusCode::DEADLINE_EXCEEDED, &[]);
        patient
    });
    latch.open();
    assert_eq!(patient.value().unwrap(), b"value");
}

/// Groups are added to a cluster a node after the other.
#[test]
fn a_group_that_the_owner_does_not_have_is_loaded_where_it_is_asked_for() {
    let origin = Origin::start(|path, _| Answer::Value(path.as_bytes().to_vec()));
    let addresses = free_addresses(2);
    let (old, new) = (origin.group("pages"), origin.group("news"));
    let node = start_member(
        addresses[0],
        &addresses,
        &["--group", &old, "--group", &new],
    );
    let _other = start_member(addresses[1], &addresses, &["--group", &old]);
    wait_for_links(&node, 1);
    let client = Client::connect(node.addr);
    for number in 0..50 {
        let value = client.get("news", format!("k{number}")).unwrap();
        assert_eq!(value, format!("/k{number}").into_bytes());
    }
    assert!(figure(&node, "peers_sent_back_total", "") > 0);
}

/// The longest keys there are, and nodes that take no larger messages than they have to.
#[test]
fn long_keys_go_over_the_links_to_nodes_that_take_short_messages() {
    let origin = Origin::start(|_, _| Answer::Value(b"value".to_vec()));
    let group = origin.group("pages");
    let args = [&["--group", &*group, "--max-request", "8KiB"], &PATIENT[..]].concat();
    let cluster = Cluster::start(2, &args);
    let client = cluster.client(0);
    let key = |number: usize| format!("{number:04096}");
    let calls: Vec<_> = (0..100)
        .map(|number| client.start_get("pages", key(number)))
        .collect();
    for call in calls {
        assert_eq!(call.value().unwrap(), b"value");
    }
    let node = &cluster.nodes[0];
    assert!(figure(node, "peers_values_total", "") > 10);
    // Nodes do not start at one moment; but nothing else has failed.
    let log = node.stderr();
    let refused = log.matches("Connection refused").count();
    assert_eq!(log.matches("has failed").count(), refused, "{log}");
}
