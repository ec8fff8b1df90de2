//! Nodes that die, hang, or know of others than the rest does.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use support::client::Client;
use support::cluster::{Cluster, figure, free_addresses, start_member, timed, wait_for_links};
use support::origin::{Answer, Origin};
use support::{Node, corecache, http};

/// What a client with a deadline gives a call: much more than nodes wait for one that is gone.
const DEADLINE: Duration = support::PATIENCE;

fn origin() -> Origin {
    Origin::start(|path, _| Answer::Value(path.as_bytes().to_vec()))
}

/// Clients that ask nodes for keys all the time, each answer checked.
struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Vec<(Instant, Duration)>>>,
}

impl Load {
    /// Asks for keys that begin with `prefix`, a thousand a caller, again and again.
    fn start(cluster: &Cluster, nodes: &[usize], keys: &[String]) -> Load {
        let stop = Arc::<AtomicBool>::default();
        let caller = |number: usize| {
            let client = cluster.client(nodes[number % nodes.len()]);
            let (stop, keys) = (stop.clone(), keys.to_vec());
            thread::spawn(move || {
                let mut calls = Vec::new();
                for key in keys.iter().cycle().skip(number * 17) {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let begun = Instant::now();
                    let got = client.get_within(DEADLINE, "pages", key);
                    let took = begun.elapsed();
                    let got = got.unwrap_or_else(|error| panic!("{key}: {error:?} after {took:?}"));
                    assert_eq!(got, format!("/{key}").into_bytes());
                    calls.push((begun, took));
                }
                calls
            })
        };
        Load {
            callers: (0..8).map(caller).collect(),
            stop,
        }
    }

    /// When the calls began, and what they took.
    fn end(self) -> Vec<(Instant, Duration)> {
        self.stop.store(true, Ordering::SeqCst);
        let callers = self.callers.into_iter();
        callers
            .flat_map(|caller| caller.join().expect("no call failed"))
            .collect()
    }
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("k{number}")).collect()
}

/// Values of others are not kept, so that each call goes over a link. Loads wait for as long as callers do.
const ASK_ALWAYS: [&str; 4] = ["--peer-keep", "0", "--load-wait", "60"];

#[test]
fn a_node_that_is_killed_fails_no_call_to_the_others() {
    let origin = origin();
    let group = origin.group("pages");
    let args = [&["--group", &group], &ASK_ALWAYS[..]].concat();
    let mut cluster = Cluster::start(3, &args);
    let load = Load::start(&cluster, &[0, 1], &keys(3000));
    let watched = |cluster: &Cluster| figure(&cluster.nodes[0], "peers_values_total", "");
    support::eventually("the load goes over the links", || watched(&cluster) > 100);
    let killed = Instant::now();
    cluster.nodes[2].signal("KILL");
    cluster.nodes[2].wait();
    let lost = |node: usize| figure(&cluster.nodes[node], "peers_passed_over_total", "");
    support::eventually("the others stand in", || lost(0) > 50 && lost(1) > 50);
    let calls = load.end();
    let after: Vec<_> = calls.iter().filter(|(begun, _)| *begun > killed).collect();
    assert!(after.len() > 50, "{} calls after the kill", after.len());
    // Whoever owned a key before, one node stands in for it.
    for key in keys(3000) {
        let requests = origin.requests(&format!("/{key}"));
        assert!(requests <= 3, "{requests} loads of {key}");
    }
}

#[test]
fn a_node_that_is_stopped_in_order_fails_no_call_to_the_others() {
    let origin = origin();
    let group = origin.group("pages");
    let args = [&["--group", &group], &ASK_ALWAYS[..]].concat();
    let mut cluster = Cluster::start(3, &args);
    let load = Load::start(&cluster, &[0, 1], &keys(1000));
    let watched = |cluster: &Cluster| figure(&cluster.nodes[0], "peers_values_total", "");
    support::eventually("the load goes over the links", || watched(&cluster) > 100);
    assert!(cluster.nodes[2].terminate().success());
    let lost = || figure(&cluster.nodes[0], "peers_passed_over_total", "");
    support::eventually("the others stand in", || lost() > 50);
    load.end();
}

#[test]
fn a_node_that_hangs_is_gone_around_and_asked_again_when_it_is_back() {
    let origin = origin();
    let group = origin.group("pages");
    // So long that no machine is as slow: who waits for the node is told by the time from who is slow.
    const PATIENCE: Duration = Duration::from_secs(2);
    let patience = PATIENCE.as_secs().to_string();
    let args = ["--group", &group, "--peer-patience", &patience];
    let cluster = Cluster::start(4, &[&args, &ASK_ALWAYS[..]].concat());
    let of_hung = cluster.keys_of(3, "pages", "k", 200);
    let load = Load::start(&cluster, &[0, 1, 2], &of_hung);
    let values = || figure(&cluster.nodes[0], "peers_values_total", "");
    support::eventually("the load goes over the links", || values() > 100);
    cluster.nodes[3].signal("STOP");
    // By then it has been given up.
    let later = Instant::now() + 3 * PATIENCE;
    let window = later..later + Duration::from_secs(3);
    support::eventually("the time and some calls have passed", || {
        Instant::now() > window.end
    });
    cluster.nodes[3].signal("CONT");
    for node in &cluster.nodes[..3] {
        wait_for_links(node, 3);
    }
    let answers = || {
        let peer = cluster.nodes[3].addr.to_string();
        figure(&cluster.nodes[0], "peer_answers_total", &peer)
    };
    let before = answers();
    support::eventually("it is asked again", || answers() > before + 100);
    let calls = load.end();
    let mut late: Vec<_> = calls
        .iter()
        .filter(|(begun, _)| window.contains(begun))
        .map(|(_, took)| *took)
        .collect();
    late.sort_unstable();
    assert!(late.len() > 50, "{} calls", late.len());
    let p99 = late[late.len() * 99 / 100];
    println!(
        "p99 after it was given up: {p99:?}, of {} calls",
        late.len()
    );
    assert!(p99 < PATIENCE / 2, "{p99:?}");
}

/// Its links find out together: not each of them by questions of its own.
#[test]
fn a_node_that_hangs_is_waited_for_once_however_many_links_there_are() {
    let origin = origin();
    let group = origin.group("pages");
    let args = ["--group", &group, "--peer-links", "8"];
    let cluster = Cluster::start(2, &[&args[..], &["--peer-patience", "3"]].concat());
    let client = cluster.client(0);
    let of_hung = cluster.keys_of(1, "pages", "k", 16);
    cluster.nodes[1].signal("STOP");
    let slow = of_hung.iter().filter(|key| {
        let (value, took) = timed(|| client.get("pages", key));
        assert_eq!(value.unwrap(), format!("/{key}").into_bytes());
        took > Duration::from_millis(1500)
    });
    let slow = slow.count();
    assert!(slow <= 2, "{slow} of 16 calls waited");
}

/// A cluster most of which is gone costs what is left of it no more than a bound, and who is back is found.
#[test]
fn very_many_nodes_that_are_gone_are_tried_in_turn() {
    const GONE: u64 = 1000;
    let origin = origin();
    let group = origin.group("pages");
    let own = free_addresses(2);
    let gone = (0..GONE).map(|number| format!("127.9.{}.{}:9", number / 250, number % 250 + 1));
    let own_address = own[0].to_string();
    let peers: Vec<_> = gone.chain([own[1].to_string()]).collect();
    let args = ["--group", &*group, "--peers", &peers.join(",")];
    let node = Node::start_with(corecache(), own[0], args);
    let tried = || figure(&node, "peer_breaker_opened_total", "");
    support::eventually("each of their links was tried", || tried() >= 2 * GONE);
    let (begun, before) = (Instant::now(), tried());
    support::eventually("time passes, and some are tried", || {
        begun.elapsed() > Duration::from_secs(4) && tried() - before > GONE / 4
    });
    let tries = tried() - before;
    let a_second = tries as f64 / begun.elapsed().as_secs_f64();
    println!("{a_second} tries a second");
    assert!(a_second < 250.0, "{tries} tries, {a_second} a second");
    let peers = ["--group", &*group, "--peers", &own_address];
    let back = Node::start_with(corecache(), own[1], peers);
    let links = || {
        figure(
            &node,
            "peer_links",
            &format!("{}\",breaker=\"closed\"", back.addr),
        )
    };
    support::eventually("who is back is linked to", || links() == 2);
}

/// One node knows of the other, which knows of nobody; a third knows of one that never was.
#[test]
fn nodes_that_know_of_different_others_load_where_they_are() {
    let origin = origin();
    let group = origin.group("pages");
    let addresses = free_addresses(4);
    let args = ["--group", &*group];
    let all = start_member(addresses[0], &addresses[..3], &args);
    let alone = start_member(addresses[1], &addresses[1..2], &args);
    let other = start_member(addresses[2], &addresses, &args);
    let nodes = [all, alone, other];
    let linked = |node, peers: u64| figure(node, "peer_links", "breaker=\"closed\"") == 2 * peers;
    support::eventually("those that are there are linked", || {
        linked(&nodes[0], 2) && linked(&nodes[2], 2)
    });
    let clients: Vec<_> = nodes
        .iter()
        .map(|node| Client::connect(node.addr))
        .collect();
    for key in keys(300) {
        for client in &clients {
            let (got, took) = timed(|| client.get_within(DEADLINE, "pages", &key));
            assert_eq!(got.unwrap(), format!("/{key}").into_bytes());
            assert!(took < DEADLINE, "{took:?}");
        }
        let requests = origin.requests(&format!("/{key}"));
        assert!(requests <= 3, "{requests} loads of {key}");
    }
    assert!(figure(&nodes[0], "peers_sent_back_total", "") > 0);
    assert_eq!(figure(&nodes[0], "peer_other_ring", ""), 2);
    assert_eq!(figure(&nodes[1], "peers_asked_total", ""), 0);
    // Whoever runs them is told.
    support::eventually("it names those that see other members", || {
        let (status, page) = http::get(nodes[0].admin, "/readyz");
        let names =
            |node: usize| page.contains(&format!("node {} sees other members", addresses[node]));
        status == 200 && names(1) && names(2)
    });
    support::eventually("its log says so once of each", || {
        nodes[0].stderr().matches("sees other members").count() == 2
    });
}

/// Each of two nodes takes the other for the owner of nearly all keys: neither waits for the other.
#[test]
fn different_views_make_no_circle() {
    let origin = origin();
    let group = origin.group("pages");
    let addresses = free_addresses(2);
    let start = |own: usize| {
        let other = addresses[1 - own];
        let peers = format!("{}=1,{other}=10000", addresses[own]);
        let args = [
            "--peers",
            &peers,
            "--group",
            &group,
            "--peer-patience",
            "20",
        ];
        Node::start_with(corecache(), addresses[own], args)
    };
    let nodes = [start(0), start(1)];
    for node in &nodes {
        wait_for_links(node, 1);
    }
    let clients: Vec<_> = nodes
        .iter()
        .map(|node| Client::connect(node.addr))
        .collect();
    for round in 0..20 {
        let keys = keys(50).into_iter().map(|key| format!("{round}-{key}"));
        let calls: Vec<_> = keys
            .flat_map(|key| {
                let calls = clients.iter().map(|client| client.start_get("pages", &key));
                calls.map(|call| (key.clone(), call)).collect::<Vec<_>>()
            })
            .collect();
        let ((), took) = timed(|| {
            for (key, call) in calls {
                assert_eq!(call.value().unwrap(), format!("/{key}").into_bytes());
            }
        });
        assert!(took < Duration::from_secs(15), "{took:?}");
    }
    for node in &nodes {
        assert!(figure(node, "peers_sent_back_total", "") > 500);
        assert_eq!(figure(node, "peers_passed_over_total", ""), 0);
    }
}

#[test]
fn a_node_whose_others_are_all_gone_loads_by_itself_and_keeps_it_for_a_moment() {
    let origin = origin();
    let addresses = free_addresses(2);
    let node = start_member(
        addresses[0],
        &addresses,
        &["--group", &origin.group("pages")],
    );
    let client = Client::connect(node.addr);
    for key in keys(50) {
        assert_eq!(
            client.get("pages", &key).unwrap(),
            format!("/{key}").into_bytes()
        );
    }
    let peer = addresses[1].to_string();
    assert!(figure(&node, "peer_breaker_opened_total", &peer) > 0);
}
