//! The client of a cluster, and the commands that ask one.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use corecache::client::{Client, ClientError, ClientStats};
use corecache::cluster::{Movement, SLOTS};
use support::cluster::{
    Cluster, figure, free_addresses, placement, start_member, timed, wait_for_links,
};
use support::origin::{Answer, Origin};
use support::{Node, corecache, folder, group, run};

fn origin() -> Origin {
    Origin::start(|path, _| match path {
        "/missing" => Answer::Status("404 Not Found", "no such page"),
        "/broken" => Answer::Status("503 Service Unavailable", "closed today"),
        "/large" => Answer::Value(vec![7; 5 << 20]),
        _ => Answer::Value(path.as_bytes().to_vec()),
    })
}

fn client(nodes: &[&Node]) -> Client {
    Client::builder()
        .nodes(nodes.iter().map(|node| node.addr.to_string()))
        .deadline(support::PATIENCE)
        .build()
        .unwrap()
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("k{number}")).collect()
}

/// Keys that other nodes were asked for, by all nodes.
fn forwarded(cluster: &Cluster) -> u64 {
    let of = |node: &Node| figure(node, "peers_asked_total", "");
    cluster.nodes.iter().map(of).sum()
}

fn loads(cluster: &Cluster, node: usize) -> u64 {
    cluster.client(node).counters().loads
}

#[test]
fn a_key_is_asked_for_where_it_is_owned() {
    let origin = origin();
    let cluster = Cluster::start(3, &["--group", &origin.group("pages")]);
    // For longer than any clock can tell.
    let client = client(&[&cluster.nodes[0]]).with_deadline(Duration::MAX);
    let keys = keys(90);
    for key in &keys {
        let value = client.get("pages", key).unwrap();
        assert_eq!(value, format!("/{key}").into_bytes());
    }
    assert_eq!(forwarded(&cluster), 0);
    for node in 0..3 {
        let owned = |key: &&String| cluster.ranks("pages", key)[0] == node;
        let owned = keys.iter().filter(owned).count() as u64;
        assert!(owned > 10, "{owned}");
        assert_eq!(loads(&cluster, node), owned);
    }
    assert_eq!(client.view().members().len(), 3);
    let stats = ClientStats {
        calls: 90,
        retries: 0,
    };
    assert_eq!(client.stats(), stats);
}

#[test]
fn many_keys_are_split_by_their_owners_and_answered_in_order() {
    let origin = origin();
    let cluster = Cluster::start(3, &["--group", &origin.group("pages")]);
    let mut keys = keys(3000);
    // They are held, so that no node is silent for long, on a machine with other work: its keys would be asked of others.
    let first = client(&[&cluster.nodes[1]]);
    for keys in keys.chunks(100) {
        assert!(first.get_many("pages", keys).iter().all(Result::is_ok));
    }
    let forwarded_before = forwarded(&cluster);
    let client = client(&[&cluster.nodes[1]]);
    keys[7] = "missing".to_owned();
    keys[8] = "large".to_owned();
    keys[9] = String::new();
    let answers = client.get_many("pages", &keys);
    assert_eq!(answers.len(), keys.len());
    for (place, (key, answer)) in keys.iter().zip(&answers).enumerate() {
        match (place, answer) {
            (7, Err(error @ ClientError::NotFound { .. })) => {
                assert_eq!((error.group(), error.key()), ("pages", &b"missing"[..]));
            }
            (8, Ok(value)) => assert_eq!(*value, vec![7; 5 << 20]),
            (9, Err(ClientError::Failed { code, .. })) => assert_eq!(code, "INVALID_ARGUMENT"),
            (_, answer) => assert_eq!(*answer, Ok(format!("/{key}").into_bytes())),
        }
    }
    assert_eq!(forwarded(&cluster), forwarded_before);
    let all: u64 = (0..3).map(|node| loads(&cluster, node)).sum();
    assert_eq!(all, 3000 + 2);
    // Three nodes, a thousand keys a message at the most: six messages, and one for the large value alone.
    assert!(client.stats().calls <= 9, "{:?}", client.stats());
    assert!(client.get_many::<&str>("pages", &[]).is_empty());
}

#[test]
fn a_node_that_comes_back_to_other_members_is_asked_again() {
    let origin = origin();
    let group = origin.group("pages");
    let list = tempfile::tempdir().unwrap();
    let path = list.path().join("peers");
    let addresses = free_addresses(3);
    let write = |weight: u32| {
        let lines = addresses.iter().map(|node| format!("{node}={weight}\n"));
        let new = list.path().join("new");
        std::fs::write(&new, lines.collect::<String>()).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    write(100);
    let file = path.to_str().unwrap();
    let start = |own| Node::start_with(corecache(), own, ["--peers-file", file, "--group", &group]);
    let mut nodes: Vec<_> = addresses.iter().map(|&own| start(own)).collect();
    nodes.iter().for_each(|node| wait_for_links(node, 2));
    let client = Arc::new(client(&[&nodes[0], &nodes[1]]));
    // In a thread of its own: a client that waits for itself would wait for ever.
    let ask = || {
        let (client, (done, all_done)) = (client.clone(), mpsc::channel());
        thread::spawn(move || {
            for key in keys(60) {
                let value = client.get("pages", &key).unwrap();
                assert_eq!(value, format!("/{key}").into_bytes());
            }
            done.send(())
        });
        let ended = all_done.recv_timeout(3 * support::PATIENCE);
        ended.expect("all keys are answered");
    };
    ask();
    // Its keys go elsewhere, and the client looks after it; what it says when it is back is news.
    drop(nodes.pop());
    ask();
    write(200);
    nodes.push(start(addresses[2]));
    support::eventually("the node that is back is asked", || {
        ask();
        support::client::Client::connect(nodes[2].addr)
            .counters()
            .hits
            > 0
    });
}

#[test]
fn a_reply_that_is_full_is_asked_for_again() {
    let origin = Origin::start(|_, _| Answer::Value(vec![1; 300 << 10]));
    let cluster = Cluster::start(2, &["--group", &origin.group("pages")]);
    let client = client(&[&cluster.nodes[0]]);
    let keys = keys(60);
    for answer in client.get_many("pages", &keys) {
        assert_eq!(answer.unwrap(), vec![1; 300 << 10]);
    }
    assert_eq!(client.stats().retries, 0);
}

#[test]
fn what_the_origin_says_is_not_asked_for_again() {
    let origin = origin();
    let cluster = Cluster::start(3, &["--group", &origin.group("pages")]);
    let client = client(&[&cluster.nodes[0], &cluster.nodes[1]]);
    let owner = cluster.ranks("pages", "broken")[0];
    let refused = cluster.client(owner).get("pages", "broken").unwrap_err();
    let before = origin.requests("/broken");
    match client.get("pages", "broken").unwrap_err() {
        ClientError::Failed { code, message, .. } => {
            assert_eq!((code.as_str(), message), ("UNAVAILABLE", refused.text));
        }
        other => panic!("{other}"),
    }
    assert_eq!(origin.requests("/broken"), 2 * before);
    assert_eq!(client.stats().retries, 0);
}

#[test]
fn a_node_that_is_alone_or_gone_is_told_apart() {
    let blobs = folder(&[("a", b"1")]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let alone = client(&[&node]);
    assert_eq!(alone.get("blobs", "a").unwrap(), b"1");
    assert!(alone.view().members().is_empty());
    let gone = free_addresses(1)[0].to_string();
    // One of two is enough.
    let both = Client::builder().nodes([gone.clone(), node.addr.to_string()]);
    let both = both.build().unwrap();
    for _ in 0..20 {
        assert_eq!(both.get("blobs", "a").unwrap(), b"1");
    }
    assert!(both.stats().retries <= 1, "{:?}", both.stats());
    let none = Client::builder().node(&gone).build().unwrap();
    match none.get("blobs", "a").unwrap_err() {
        ClientError::Unreachable { node, group, .. } => {
            assert_eq!((node, group), (gone, "blobs".to_owned()));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_node_that_joins_is_found() {
    let origin = origin();
    let group = origin.group("pages");
    let list = tempfile::tempdir().unwrap();
    let path = list.path().join("peers");
    let addresses = free_addresses(3);
    let write = |nodes: &[SocketAddr]| {
        let lines: Vec<_> = nodes.iter().map(|node| format!("{node}\n")).collect();
        std::fs::write(&path, lines.concat()).unwrap();
    };
    write(&addresses[..2]);
    let file = path.to_str().unwrap();
    let start = |own| Node::start_with(corecache(), own, ["--peers-file", file, "--group", &group]);
    let mut nodes = vec![start(addresses[0]), start(addresses[1])];
    let client = Client::builder()
        .node(addresses[0].to_string())
        .refresh(Duration::from_millis(100))
        .build()
        .unwrap();
    assert_eq!(client.view().members().len(), 2);
    write(&addresses);
    nodes.push(start(addresses[2]));
    nodes.iter().for_each(|node| wait_for_links(node, 2));
    support::eventually("the client knows of three", || {
        client.view().members().len() == 3
    });
    for key in keys(60) {
        client.get("pages", &key).unwrap();
    }
    let asked = nodes
        .iter()
        .map(|node| figure(node, "peers_asked_total", ""));
    assert_eq!(asked.sum::<u64>(), 0);
}

/// Callers that ask all the time, each answer checked.
struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Vec<(Instant, Duration)>>>,
}

impl Load {
    fn start(client: &Client, keys: &[String]) -> Load {
        let stop = Arc::<AtomicBool>::default();
        let caller = |number: usize| {
            let (stop, keys, client) = (stop.clone(), keys.to_vec(), client.clone());
            thread::spawn(move || {
                let mut calls = Vec::new();
                let mut keys = keys.iter().cycle().skip(number * 17);
                while !stop.load(Ordering::SeqCst) {
                    let key = keys.next().unwrap();
                    let begun = Instant::now();
                    let value = client.get("pages", key);
                    calls.push((begun, begun.elapsed()));
                    assert_eq!(value, Ok(format!("/{key}").into_bytes()));
                    if calls.len() % 16 == 0 {
                        let some: Vec<_> = keys.by_ref().take(64).collect();
                        for (key, value) in some.iter().zip(client.get_many("pages", &some)) {
                            assert_eq!(value, Ok(format!("/{key}").into_bytes()));
                        }
                    }
                }
                calls
            })
        };
        Load {
            callers: (0..8).map(caller).collect(),
            stop,
        }
    }

    /// When the calls of `get` began, and what they took.
    fn end(self) -> Vec<(Instant, Duration)> {
        self.stop.store(true, Ordering::SeqCst);
        let callers = self.callers.into_iter();
        let calls = callers.flat_map(|caller| caller.join().expect("no call failed"));
        calls.collect()
    }
}

/// The time that 99 of 100 calls take.
fn p99(mut calls: Vec<Duration>) -> Duration {
    calls.sort_unstable();
    calls[calls.len() * 99 / 100]
}

/// A client that was told of two nodes, under load, when another one is sent `signal`. Returns what calls took that began
/// before, and that began later than `after` from then on.
fn under_load(signal: &str, after: Duration) -> (Client, Vec<Duration>, Vec<Duration>) {
    let origin = origin();
    let cluster = Cluster::start(4, &["--group", &origin.group("pages")]);
    let client = Client::builder()
        .nodes([0, 1].map(|node| cluster.nodes[node].addr.to_string()))
        .deadline(Duration::from_secs(10))
        .build()
        .unwrap();
    let load = Load::start(&client, &keys(2000));
    let begun = Instant::now();
    support::eventually("the load is there", || {
        client.stats().calls > 500 && begun.elapsed() > Duration::from_secs(1)
    });
    cluster.nodes[3].signal(signal);
    let sent = Instant::now();
    support::eventually("time passes under load", || {
        sent.elapsed() > after + Duration::from_secs(2)
    });
    let calls = load.end();
    let took = |is_in: &dyn Fn(Instant) -> bool| {
        let calls = calls.iter().filter(|(begun, _)| is_in(*begun));
        calls.map(|(_, took)| *took).collect()
    };
    let before = took(&|begun| begun < sent);
    (client, before, took(&|begun| begun > sent + after))
}

fn within_budget(client: &Client) {
    let ClientStats { calls, retries } = client.stats();
    println!("{retries} retries of {calls} calls");
    assert!(retries >= 1, "the node was asked when it died");
    assert!(retries * 10 <= calls, "{retries} retries of {calls} calls");
}

#[test]
fn a_node_that_is_killed_under_load_fails_no_call() {
    let (client, _, calls) = under_load("KILL", Duration::ZERO);
    assert!(calls.len() > 50, "{} calls", calls.len());
    within_budget(&client);
}

#[test]
fn a_node_that_hangs_under_load_fails_no_call_and_is_gone_around() {
    let (client, before, calls) = under_load("STOP", Duration::from_secs(4));
    assert!(calls.len() > 50, "{} calls", calls.len());
    within_budget(&client);
    println!("{} calls, 4 s later", calls.len());
    let (before, later) = (p99(before), p99(calls));
    println!("p99 {before:?} before, {later:?} then");
    // Who waits for the node does so for 500 ms. A machine with other work was slow before, too.
    let most = (3 * before).max(Duration::from_millis(200));
    assert!(later < most, "p99 {before:?} before, {later:?} then");
}

#[test]
fn whatever_is_asked_goes_around_a_node_that_hangs() {
    let origin = origin();
    let cluster = Cluster::start(3, &["--group", &origin.group("pages")]);
    let [first, hung] = [0, 2].map(|node| cluster.nodes[node].addr.to_string());
    let keys = cluster.keys_of(2, "pages", "k", 3);
    let client = client(&[&cluster.nodes[0]]);
    assert_eq!(client.view().members().len(), 3);
    cluster.nodes[2].signal("STOP");
    let mut value = Vec::new();
    let (read, took) = timed(|| {
        client.read("pages", &keys[0], 0, 0, |chunk| {
            value.extend_from_slice(chunk);
            true
        })
    });
    assert_eq!(
        (read, value),
        (Ok(()), format!("/{}", keys[0]).into_bytes())
    );
    // Much less than it takes until the connection is given up.
    assert!(took < Duration::from_secs(30), "{took:?}");
    let nodes = format!("{hung},{first}");
    let args = ["--timeout", "30", "--node", &nodes];
    let got = printed(&[&["get", "pages", &keys[1]], &args[..]].concat());
    assert_eq!(got, format!("/{}", keys[1]));
    let explained = json(&[&["explain", "pages", &keys[1]], &args[..]].concat());
    assert_eq!(explained["ranks"][0]["node"], hung.as_str());
    let says_nothing = |of: &serde_json::Value| {
        let error = of["error"].as_str().expect("it is not there");
        assert!(error.contains("says nothing"), "{error}");
    };
    says_nothing(&explained["ranks"][0]);
    assert_eq!(explained["ranks"][2]["held"], false);
    // Nor for as long as a call may take that is answered: there is a walk to wait for.
    let args = ["--timeout", "3600", "--node", &first];
    let plan = json(&[&["plan", "--remove", &first], &args[..]].concat());
    let nodes = plan["nodes"].as_array().unwrap();
    let of_hung = nodes.iter().find(|node| node["node"] == hung.as_str());
    says_nothing(of_hung.unwrap());
    assert!(printed(&[&["top-keys"], &args[..]].concat()).contains("2 nodes"));
}

#[test]
fn the_only_node_is_waited_for_as_long_as_the_call_may_take() {
    const HANGS: Duration = Duration::from_secs(3);
    let origin = origin();
    let mut cluster = Cluster::start(2, &["--group", &origin.group("pages")]);
    let client = client(&[&cluster.nodes[0]]);
    let keys = keys(20);
    let read = || {
        let mut value = Vec::new();
        let take = |chunk: &[u8]| {
            value.extend_from_slice(chunk);
            true
        };
        client.read("pages", &keys[1], 0, 0, take).map(|()| value)
    };
    let values: Vec<_> = keys
        .iter()
        .map(|key| Ok(format!("/{key}").into_bytes()))
        .collect();
    // Values come by the express door then.
    support::eventually("both nodes are known, and all their doors", || {
        assert_eq!(client.get_many("pages", &keys), values);
        let by_express = |node: &Node| figure(node, "express_calls_total", "") > 0;
        cluster.nodes.iter().all(by_express)
    });
    cluster.nodes[1].signal("KILL");
    cluster.nodes[1].wait();
    // The client knows it from now on.
    assert_eq!(client.get_many("pages", &keys), values);
    let retries = client.stats().retries;
    let hung = &cluster.nodes[0];
    hung.signal("STOP");
    thread::scope(|scope| {
        let one = scope.spawn(|| timed(|| client.get("pages", &keys[0])));
        let part = scope.spawn(|| timed(read));
        let many = scope.spawn(|| timed(|| client.get_many("pages", &keys)));
        let late = client.with_deadline(Duration::from_secs(1));
        let late = late.get("pages", &keys[0]).unwrap_err();
        assert!(late.to_string().contains("says nothing"), "{late}");
        thread::sleep(HANGS);
        hung.signal("CONT");
        let (one, part) = (one.join().unwrap(), part.join().unwrap());
        let (many, took) = many.join().unwrap();
        assert_eq!((&one.0, &part.0), (&values[0], &values[1]));
        assert_eq!(many, values);
        assert!([one.1, part.1, took].iter().all(|took| *took >= HANGS));
    });
    assert_eq!(client.stats().retries, retries);
}

#[test]
fn a_node_that_hangs_is_found_by_calls_that_have_no_time_to_ask() {
    let origin = origin();
    let cluster = Cluster::start(2, &["--group", &origin.group("pages")]);
    // Nothing but the calls themselves tells it of the node.
    let patient = Client::builder()
        .node(cluster.nodes[0].addr.to_string())
        .refresh(Duration::from_secs(3600))
        .build()
        .unwrap();
    let key = &cluster.keys_of(1, "pages", "k", 1)[0];
    assert_eq!(patient.view().members().len(), 2);
    cluster.nodes[1].signal("STOP");
    // Too little to ask a silent node whether it is there, on a machine that is not too busy.
    let hasty = patient.with_deadline(Duration::from_millis(10));
    hasty.get("pages", key).unwrap_err();
    support::eventually("the other node is asked", || {
        hasty.get("pages", key).is_ok()
    });
}

#[test]
fn a_node_that_is_back_is_asked_again() {
    let origin = origin();
    let group = origin.group("pages");
    let mut cluster = Cluster::start(2, &["--group", &group]);
    let client = client(&[&cluster.nodes[0]]);
    let of_second = cluster.keys_of(1, "pages", "k", 20);
    client.get("pages", &of_second[0]).unwrap();
    let addresses: Vec<_> = cluster.nodes.iter().map(|node| node.addr).collect();
    cluster.nodes[1].signal("KILL");
    cluster.nodes[1].wait();
    for key in &of_second {
        client.get("pages", key).unwrap();
    }
    assert!(client.stats().retries <= 1, "{:?}", client.stats());
    cluster.nodes[1] = start_member(addresses[1], &addresses, &["--group", &group]);
    let reads = |node: usize| {
        let counters = cluster.client(node).counters();
        counters.hits + counters.misses
    };
    let mut turn = of_second.iter().cycle();
    support::eventually("it is asked again, and not by the other node", || {
        let (before, forwarded_before) = (reads(1), forwarded(&cluster));
        client.get("pages", turn.next().unwrap()).unwrap();
        reads(1) == before + 1 && forwarded(&cluster) == forwarded_before
    });
}

/// What a command prints.
fn printed(args: &[&str]) -> String {
    let output = run(corecache().args(args));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&printed(&[args, &["--json"]].concat())).expect("it is JSON")
}

#[test]
fn get_takes_several_nodes_and_asks_the_owner() {
    let origin = origin();
    let cluster = Cluster::start(3, &["--group", &origin.group("pages")]);
    let gone = free_addresses(1)[0].to_string();
    let nodes = format!("{gone},{}", cluster.nodes[2].addr);
    for key in keys(6) {
        let value = printed(&["get", "pages", &key, "--node", &nodes]);
        assert_eq!(value, format!("/{key}"));
    }
    assert_eq!(forwarded(&cluster), 0);
    let second = cluster.nodes[0].addr.to_string();
    let args = ["get", "pages", "k7", "--node", &gone, "--node", &second];
    assert_eq!(printed(&args), "/k7");
}

#[test]
fn a_key_is_explained() {
    let origin = origin();
    let mut cluster = Cluster::start(3, &["--group", &origin.group("pages")]);
    let ranks = cluster.ranks("pages", "a");
    let address = |rank: usize| cluster.nodes[ranks[rank]].addr.to_string();
    let (owner, last) = (address(0), address(2));
    let args = ["explain", "pages", "a", "--node", &last];
    let before = json(&args);
    let asked: Vec<_> = (0..3).map(address).collect();
    for (rank, expected) in before["ranks"].as_array().unwrap().iter().zip(&asked) {
        assert_eq!(rank["node"], expected.as_str());
        assert_eq!(rank["held"], false);
        assert_eq!(rank["epoch"], before["epoch"]);
    }
    assert_eq!(origin.requests("/a"), 0, "nothing is loaded");
    cluster.client(ranks[0]).get("pages", "a").unwrap();
    let counters = cluster.client(ranks[0]).counters();
    let after = json(&args);
    assert_eq!(after["ranks"][0]["held"], true);
    assert_eq!(after["ranks"][0]["value_bytes"], 2);
    assert_eq!(
        after["ranks"][0]["expires_in_seconds"],
        serde_json::Value::Null
    );
    assert_eq!(after["ranks"][1]["held"], false);
    assert_eq!(after["ranks"][0]["last_load"]["code"], "OK");
    assert_eq!(after["ranks"][1]["last_load"], serde_json::Value::Null);
    // It is not counted as a read.
    let now = cluster.client(ranks[0]).counters();
    assert_eq!((now.hits, now.misses), (counters.hits, counters.misses));
    let missing = cluster.ranks("pages", "missing")[0];
    cluster.client(missing).get("pages", "missing").unwrap_err();
    let missing = json(&["explain", "pages", "missing", "--node", &last]);
    assert_eq!(missing["ranks"][0]["held"], false);
    assert_eq!(missing["ranks"][0]["last_load"]["code"], "NOT_FOUND");
    let table = printed(&args);
    assert!(
        table.contains(&format!("   1  {owner}  2 B in an entry of ")),
        "{table}"
    );
    let killed = &mut cluster.nodes[ranks[1]];
    killed.signal("KILL");
    killed.wait();
    let table = printed(&args);
    assert!(table.contains("not known: UNAVAILABLE"), "{table}");
}

#[test]
fn what_no_node_explains_is_an_error() {
    let origin = origin();
    let mut cluster = Cluster::start(2, &["--group", &origin.group("pages")]);
    let node = cluster.nodes[0].addr.to_string();
    let refused = |group: &str, key: &str, words: &str| {
        let output = run(corecache().args(["explain", group, key, "--node", &node]));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(output.stdout.is_empty(), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    };
    let no_group = "NOT_FOUND: no group \"books\" on this node; its groups are: pages";
    refused("books", "a", no_group);
    refused("pages", "", "INVALID_ARGUMENT");
    let gone = free_addresses(1)[0].to_string();
    let output = run(corecache().args(["explain", "pages", "a", "--node", &gone]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("Connection refused"), "{stderr}");
    // Not that another one says nothing.
    cluster.nodes[1].signal("KILL");
    cluster.nodes[1].wait();
    refused("books", "a", no_group);
}

#[test]
fn a_plan_counts_what_would_move() {
    let origin = origin();
    let cluster = Cluster::start(3, &["--group", &origin.group("pages")]);
    let keys = keys(600);
    let client = client(&[&cluster.nodes[0]]);
    for answer in client.get_many("pages", &keys) {
        answer.unwrap();
    }
    let first = cluster.nodes[0].addr.to_string();
    let three: Vec<_> = cluster.nodes.iter().map(|node| node.addr).collect();
    let joins = free_addresses(1)[0];
    let four: Vec<_> = three.iter().copied().chain([joins]).collect();
    let joining = joins.to_string();
    let added = json(&["plan", "--add", &joining, "--node", &first]);
    let (now, then) = (placement(&three), placement(&four));
    let movement = Movement::between(&now, &then);
    assert_eq!(added["slots_moved"], movement.moved);
    assert_eq!(
        (
            added["members_now"].as_u64(),
            added["members_then"].as_u64()
        ),
        (Some(3), Some(4))
    );
    let moves = |key: &&String| then.owner(b"pages", key.as_bytes()).unwrap().address == joining;
    let moving = keys.iter().filter(moves).count();
    assert!(moving > 60, "{moving}");
    let loads = &added["loads_at_most"][0];
    assert_eq!(
        (&loads["group"], &loads["keys"]),
        (&"pages".into(), &moving.into())
    );

    let removed = json(&["plan", "--remove", &first, "--node", &first]);
    let share = now.shares()[now.view().position(&first).unwrap()];
    assert_eq!(removed["slots_moved"], share);
    let owned = keys
        .iter()
        .filter(|key| cluster.ranks("pages", key)[0] == 0);
    let owned = owned.count();
    assert_eq!(removed["loads_at_most"][0]["keys"], owned);
    for node in removed["nodes"].as_array().unwrap() {
        let group = &node["groups"][0];
        let is_it = node["node"] == first.as_str();
        assert_eq!(group["moving"]["entries"], if is_it { owned } else { 0 });
    }
    let table = printed(&["plan", "--remove", &first, "--node", &first]);
    assert!(
        table.contains(&format!("{share} of {SLOTS} slots move")),
        "{table}"
    );
    assert!(table.contains(&format!("{owned} keys")), "{table}");

    let refused = |args: &[&str], words: &str| {
        let output = run(corecache().args(["plan", "--node", &first]).args(args));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && stderr.contains(words),
            "{stderr}"
        );
    };
    refused(&["--remove", &joining], "is no member of the cluster");
    refused(&[], "<--add <NODE,...>|--remove <NODE,...>>");
    let again = format!("{first}=200");
    refused(
        &["--add", &again, "--remove", &first],
        "added and removed at once",
    );
    let all: Vec<_> = three.iter().map(SocketAddr::to_string).collect();
    refused(&["--remove", &all.join(",")], "removes all members");
}
