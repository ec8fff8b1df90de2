//! Values that are too large for a link: one load in the whole cluster for them too.

mod support;

use std::thread;

use support::PATIENCE;
use support::client::Client;
use support::cluster::{Cluster, figure};
use support::fleet::{self, Fleet};
use support::origin::{Answer, Origin};

const MIB: usize = 1 << 20;
/// A machine with other work is not to look like a node that hangs.
const PATIENT: [&str; 2] = ["--peer-patience", "20"];

/// Bytes of which no two parts are alike, another value for each key.
fn value(key: &str, len: usize) -> Vec<u8> {
    let salt = key
        .bytes()
        .fold(7_u32, |salt, byte| salt.wrapping_mul(31) ^ u32::from(byte));
    let word = |at: usize| (at as u32 ^ salt).wrapping_mul(0x9e37_79b9).to_be_bytes();
    let mut value: Vec<u8> = (0..len.div_ceil(4)).flat_map(word).collect();
    value.truncate(len);
    value
}

/// An origin whose values all have so many bytes.
fn origin(len: usize) -> Origin {
    Origin::start(move |path, _| Answer::Value(value(&path[1..], len)))
}

fn read(client: &Client, key: &str) -> Vec<u8> {
    let (bytes, read) = client.read("pages", key, 0, 0).unwrap();
    assert_eq!(bytes as usize, read.len());
    read
}

fn all(cluster: &Cluster, name: &str) -> u64 {
    let nodes = cluster.nodes.iter();
    nodes.map(|node| figure(node, name, "")).sum()
}

#[test]
fn a_value_that_all_nodes_are_asked_for_is_loaded_once() {
    const BYTES: usize = 64 * MIB;
    let origin = origin(BYTES);
    let group = origin.group("pages");
    let args = [&["--group", &*group, "--memory", "512MiB"], &PATIENT[..]].concat();
    let cluster = Cluster::start(3, &args);
    let expected = value("large", BYTES);
    thread::scope(|scope| {
        for number in 0..9 {
            let (client, expected) = (cluster.client(number % 3), &expected);
            scope.spawn(move || assert!(read(&client, "large") == *expected));
        }
    });
    assert_eq!(origin.requests("/large"), 1);
    assert_eq!(
        all(&cluster, "peers_pulled_total"),
        all(&cluster, "peers_values_total")
    );
    assert!(all(&cluster, "peers_pulled_total") >= 2);
    let others = [
        "pulls_failed",
        "sent_back",
        "passed_over",
        "alone",
        "roomless",
    ];
    for other in others {
        assert_eq!(all(&cluster, &format!("peers_{other}_total")), 0, "{other}");
    }
    // A question of another node is one read, and what is pulled then is no other; nor is a peek.
    let reads = cluster.nodes.iter().map(|node| {
        let counters = Client::connect(node.addr).counters();
        counters.hits + counters.misses
    });
    let asked = all(&cluster, "peers_asked_total");
    assert_eq!(reads.sum::<u64>(), 9 + asked);
    // A part of it, and all of it again: from the owner, or from where it has been kept meanwhile.
    let client = cluster.client((cluster.ranks("pages", "large")[0] + 1) % 3);
    let (_, part) = client.read("pages", "large", MIB as u64 - 1, 2).unwrap();
    assert_eq!(part, expected[MIB - 1..=MIB]);
    assert!(read(&client, "large") == expected);
    assert_eq!(origin.requests("/large"), 1);
}

/// All lengths at which something else happens: in one piece or in chunks, over a link or beside it.
#[test]
fn values_about_the_largest_that_goes_over_a_link_are_loaded_once() {
    let lens = [
        4 * MIB - 1100,
        4 * MIB - 1000,
        4 * MIB - 5,
        4 * MIB - 4,
        4 * MIB,
        5 * MIB,
    ];
    let origin = Origin::start(|path, _| Answer::Value(value(path, path[1..].parse().unwrap())));
    let group = origin.group("pages");
    let args = [&["--group", &*group], &PATIENT[..]].concat();
    let cluster = Cluster::start(2, &args);
    for len in lens {
        let key = len.to_string();
        for node in 0..2 {
            let path = format!("/{key}");
            assert!(
                read(&cluster.client(node), &key) == value(&path, len),
                "{len}"
            );
            assert_eq!(origin.requests(&path), 1, "{len}");
        }
    }
}

#[test]
fn who_reads_has_the_value_although_its_owner_is_killed_in_the_middle() {
    const BYTES: usize = 64 * MIB;
    let origin = origin(BYTES);
    let group = origin.group("pages");
    let args = [&["--group", &*group, "--memory", "512MiB"], &PATIENT[..]].concat();
    let mut cluster = Cluster::start(3, &args);
    let keys = cluster.keys_of(2, "pages", "k", 100);
    let was_killed = keys.iter().any(|key| {
        read(&cluster.client(2), key);
        let asker = &cluster.nodes[0];
        let pulled = || figure(asker, "peers_pulled_total", "");
        let before = pulled();
        let clients = [cluster.client(0), cluster.client(0), cluster.client(1)];
        let readers = clients.map(|client| {
            let key = key.clone();
            thread::spawn(move || read(&client, &key) == value(&key, BYTES))
        });
        let has_begun = || figure(asker, "loading_bytes", "") > 0 || pulled() > before;
        support::eventually("it is on its way", has_begun);
        cluster.nodes[2].signal("STOP");
        let was_killed = pulled() == before;
        cluster.nodes[2].signal(if was_killed { "KILL" } else { "CONT" });
        for reader in readers {
            assert!(reader.join().unwrap(), "another value");
        }
        // The next in rank has loaded it, and who asked that one while it was itself waiting.
        let loads = origin.requests(&format!("/{key}"));
        assert!(loads <= if was_killed { 3 } else { 1 }, "{loads} loads");
        was_killed
    });
    assert!(was_killed, "never in the middle");
    cluster.nodes[2].wait();
    let failed = |node: usize| figure(&cluster.nodes[node], "peers_pulls_failed_total", "");
    assert!(failed(0) >= 1);
}

/// Reads by a client that is told of one other node, and sends the owner a signal when it has begun to answer.
fn read_over(signal: &str, (offset, length): (u64, u64)) {
    const BYTES: usize = 64 * MIB;
    let origin = origin(BYTES);
    let group = origin.group("pages");
    let args = ["--group", &*group, "--memory", "512MiB"];
    let cluster = Cluster::start(3, &args);
    let key = &cluster.keys_of(2, "pages", "k", 1)[0];
    let client = cluster_client(&cluster);
    let (mut read, mut is_lost) = (Vec::new(), false);
    let outcome = client.read("pages", key, offset, length, |chunk| {
        read.extend_from_slice(chunk);
        if !is_lost && read.len() > MIB {
            cluster.nodes[2].signal(signal);
            is_lost = true;
        }
        true
    });
    assert_eq!(outcome, Ok(()));
    let from = offset as usize;
    let to = if length == 0 {
        BYTES
    } else {
        from + length as usize
    };
    assert!(read == value(key, BYTES)[from..to], "{} bytes", read.len());
    assert_eq!(client.stats().retries, 1);
}

fn cluster_client(cluster: &Cluster) -> corecache::Client {
    let builder = corecache::Client::builder().node(cluster.nodes[0].addr.to_string());
    builder.deadline(PATIENCE).build().unwrap()
}

#[test]
fn a_reader_goes_on_at_the_next_node_when_its_own_is_killed() {
    read_over("KILL", (0, 0));
    read_over("KILL", (5 * MIB as u64 + 7, 50 * MIB as u64 + 1));
}

#[test]
fn a_reader_goes_on_at_the_next_node_when_its_own_hangs() {
    read_over("STOP", (0, 0));
}

/// An origin that does not keep to it that values do not change.
#[test]
fn a_reader_is_told_that_the_value_has_changed_meanwhile() {
    for (then, words) in [
        (63, "it has 66060288 bytes here"),
        (1, "which has 1048576 bytes"),
    ] {
        let origin = Origin::start(move |path, number| {
            let len = if number == 1 { 64 } else { then };
            Answer::Value(value(&path[1..], len * MIB))
        });
        let group = origin.group("pages");
        let args = ["--group", &*group, "--memory", "512MiB"];
        let cluster = Cluster::start(3, &args);
        let key = &cluster.keys_of(2, "pages", "k", 1)[0];
        let client = cluster_client(&cluster);
        let mut taken = 0;
        let outcome = client.read("pages", key, 0, 0, |chunk| {
            taken += chunk.len();
            if taken > MIB {
                cluster.nodes[2].signal("KILL");
            }
            true
        });
        match outcome.unwrap_err() {
            corecache::client::ClientError::Failed { code, message, .. } => {
                assert_eq!(code, "ABORTED");
                assert!(message.contains(words), "{message}");
                assert!(
                    message.contains("it had 67108864 bytes at node"),
                    "{message}"
                );
            }
            other => panic!("{other}"),
        }
    }
}

/// What may not be kept is loaded once for each node that asks, and not once more to be sent.
#[test]
fn a_value_that_is_not_kept_is_there_until_it_is_read() {
    const BYTES: usize = 5 * MIB;
    let origin = Origin::start(|path, _| Answer::UntilClosed(value(&path[1..], BYTES)));
    let group = origin.group("pages");
    let args = [&["--group", &*group], &PATIENT[..]].concat();
    let cluster = Cluster::start(2, &args);
    let ranks = cluster.ranks("pages", "fleeting");
    let client = cluster.client(ranks[1]);
    assert!(read(&client, "fleeting") == value("fleeting", BYTES));
    assert_eq!(origin.requests("/fleeting"), 1);
    assert_eq!(cluster.client(ranks[0]).counters().entries, 0);
    let owner = &cluster.nodes[ranks[0]];
    support::eventually("it is let go of", || {
        figure(owner, "loading_bytes", "") == 0
    });
}

/// What is read slowly, and is not kept, takes room from those that come next: they wait for it.
#[test]
fn a_value_waits_for_room_and_is_not_loaded_again() {
    const BYTES: usize = 6 * MIB;
    let origin = origin(BYTES);
    let group = origin.group("pages");
    let args = [
        "--group",
        &*group,
        "--memory",
        "64MiB",
        "--entry-limit",
        "8MiB",
    ];
    let args = [&args, &PATIENT[..]].concat();
    let cluster = Cluster::start(2, &args);
    let keys = cluster.keys_of(0, "pages", "k", 3);
    for key in &keys {
        read(&cluster.client(0), key);
    }
    let asker = &cluster.nodes[1];
    // Two of them are a quarter of the memory, nearly.
    let narrow = Client::connect_narrow(asker.addr);
    let mut slow: Vec<_> = keys[..2]
        .iter()
        .map(|key| {
            let mut reader = narrow.start_read(PATIENCE, "pages", key, 0, 0);
            let first = reader.next().unwrap().expect("a first chunk");
            (reader, first.data)
        })
        .collect();
    let charged = figure(asker, "loading_bytes", "") as usize;
    assert!((2 * BYTES..=16 * MIB).contains(&charged), "{charged}");
    let client = cluster.client(1);
    let third = {
        let key = keys[2].clone();
        thread::spawn(move || read(&client, &key) == value(&key, BYTES))
    };
    let waiting = || figure(asker, "peers_pulls_waiting", "");
    support::eventually("the third one waits", || waiting() == 1);
    let (mut reader, mut data) = slow.remove(0);
    while let Some(chunk) = reader.next().unwrap() {
        data.extend(chunk.data);
    }
    assert!(data == value(&keys[0], BYTES));
    assert!(third.join().unwrap(), "another value");
    assert_eq!(waiting(), 0);
    for key in &keys {
        assert_eq!(origin.requests(&format!("/{key}")), 1, "{key}");
    }
}

#[test]
fn large_values_are_handed_over_when_a_node_joins() {
    const BYTES: usize = 5 * MIB;
    let origin = origin(BYTES);
    let group = origin.group("pages");
    let args = [&["--group", &*group], &PATIENT[..]].concat();
    let mut fleet = Fleet::start(2, &args);
    let keys = fleet::keys(12);
    let first = Client::connect(fleet.nodes[0].addr);
    for key in &keys {
        read(&first, key);
    }
    fleet.join();
    let new = Client::connect(fleet.nodes[2].addr);
    for key in &keys {
        assert!(read(&new, key) == value(key, BYTES), "{key}");
    }
    assert_eq!(fleet::second_loads(&origin, &keys), 0);
    assert!(figure(&fleet.nodes[2], "peers_handed_over_total", "") > 0);
}
