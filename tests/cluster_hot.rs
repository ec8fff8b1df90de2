//! Hot keys: the nodes measure them, keep those of others for a time, and tell which they are.

mod support;

use corecache::client::Client;
use corecache::server::pb::cache::Counters;
use serde_json::Value;
use support::cluster::{Cluster, figure};
use support::fleet::origin;
use support::origin::{Answer, Origin};
use support::{PATIENCE, corecache, eventually, run};

/// What all nodes have: a machine with other work is not to look like a node that hangs.
const PATIENT: [&str; 2] = ["--peer-patience", "20"];

/// A cluster of so many nodes, each with `args`.
fn start(nodes: usize, args: &[&str]) -> Cluster {
    Cluster::start(nodes, &[args, &PATIENT].concat())
}

/// What `top-keys` shows, a line for each key.
fn top_keys(args: &[&str]) -> Vec<Value> {
    let output = run(corecache().args([&["top-keys", "--json"], args].concat()));
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// Asks until `is_so`, for each key so many times a call: a machine with other work makes few calls a second.
fn ask_until(
    cluster: &Cluster,
    node: usize,
    (keys, times): (&[String], usize),
    is_so: impl Fn() -> bool,
) {
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let keys = keys.repeat(times);
    let client = cluster.client(node);
    eventually("it is so while keys are asked for", || {
        for _ in 0..5 {
            let reply = client.get_many("pages", &keys).unwrap();
            assert!(reply.answers.iter().all(|answer| answer.has_value()));
        }
        is_so()
    });
}

#[test]
fn a_hot_key_of_another_node_is_kept_and_answered_without_it() {
    let origin = origin();
    let args = ["--group", &origin.group("pages"), "--peer-keep", "600"];
    let cluster = start(2, &args);
    let key = &cluster.keys_of(0, "pages", "k", 1);
    let asker = &cluster.nodes[1];
    let asked = || figure(asker, "peers_asked_total", "");
    let client = cluster.client(1);
    for _ in 0..20 {
        client.get("pages", &key[0]).unwrap();
    }
    assert_eq!(asked(), 20, "what is not hot is not kept");
    let kept = || figure(asker, "peers_kept_total", "");
    ask_until(&cluster, 1, (key, 200), || kept() > 0);
    let held = client.counters();
    assert_eq!((held.entries, held.loads), (1, 0), "kept, and not loaded");
    let before = asked();
    for _ in 0..100 {
        client.get("pages", &key[0]).unwrap();
    }
    assert_eq!(asked(), before, "the owner is not asked");
    assert!(figure(asker, "peers_kept_bytes", "") > 0);
    assert_eq!(origin.requests(&format!("/{}", key[0])), 1);

    let first = cluster.nodes[0].addr.to_string();
    eventually("both nodes are asked for it", || {
        let shown = top_keys(&["pages", "--node", &first]);
        shown.first().is_some_and(|top| {
            top["key"] == key[0].as_str()
                && top["group"] == "pages"
                && top["hot"] == true
                && top["rate"].as_f64().unwrap() >= 100.0
        })
    });
    let table = run(corecache().args(["top-keys", "--node", &first]));
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("2 nodes") && table.contains(&key[0]),
        "{table}"
    );
}

/// A key that is hot at its owner is kept by a node that is asked for it now and then: the answer says so.
#[test]
fn who_owns_a_hot_key_says_so() {
    let origin = origin();
    let args = ["--group", &origin.group("pages"), "--peer-keep", "600"];
    let cluster = start(2, &args);
    let key = &cluster.keys_of(0, "pages", "k", 1);
    let first = cluster.nodes[0].addr.to_string();
    let is_hot = || {
        top_keys(&["--node", &first])
            .first()
            .is_some_and(|top| top["hot"] == true)
    };
    ask_until(&cluster, 0, (key, 200), is_hot);
    let client = cluster.client(1);
    client.get("pages", &key[0]).unwrap();
    assert_eq!(figure(&cluster.nodes[1], "peers_kept_total", ""), 1);
    client.get("pages", &key[0]).unwrap();
    assert_eq!(figure(&cluster.nodes[1], "peers_asked_total", ""), 1);
}

/// Hits of each node while `ask` runs.
fn hits(cluster: &Cluster, ask: impl FnOnce()) -> Vec<u64> {
    counted(cluster, |counters| counters.hits, ask)
}

/// What each node counts while `ask` runs.
fn counted(cluster: &Cluster, of: fn(&Counters) -> u64, ask: impl FnOnce()) -> Vec<u64> {
    let count = || {
        let nodes = 0..cluster.nodes.len();
        let counts = nodes.map(|node| of(&cluster.client(node).counters()));
        counts.collect::<Vec<_>>()
    };
    let before = count();
    ask();
    let after = count().into_iter().zip(before);
    after.map(|(after, before)| after - before).collect()
}

#[test]
fn a_client_spreads_a_hot_key_over_the_nodes() {
    const CALLS: u64 = 600;
    let origin = origin();
    // Few calls a second make it hot: a client that waits for each makes no more on a machine with other work.
    let args = ["--group", &origin.group("pages"), "--peer-keep", "600"];
    let cluster = start(3, &[&args[..], &["--hot-rate", "10"]].concat());
    let client = Client::builder()
        .node(cluster.nodes[0].addr.to_string())
        .build()
        .unwrap();
    let owner = cluster.ranks("pages", "k")[0];
    let get = || {
        for _ in 0..CALLS {
            assert_eq!(client.get("pages", "k").unwrap(), b"/k");
        }
    };
    let get_many = || {
        for _ in 0..CALLS / 30 {
            let values = client.get_many("pages", &["k"; 30]);
            assert!(values.into_iter().all(|value| value.unwrap() == b"/k"));
        }
    };
    let first = hits(&cluster, || drop(client.get("pages", "k").unwrap()));
    assert!(first.iter().sum::<u64>() <= 1, "{first:?}");
    let read = || {
        for _ in 0..CALLS {
            let take = |chunk: &[u8]| chunk == b"/k";
            client.read("pages", "k", 0, 0, take).unwrap();
        }
    };
    for ask in [&get as &dyn Fn(), &get_many, &read] {
        eventually("each node has its part", || {
            let hits = hits(&cluster, ask);
            hits.iter()
                .all(|hits| hits.abs_diff(CALLS / 3) < CALLS / 20)
        });
    }
    assert_eq!(origin.requests("/k"), 1, "the others had it from its owner");
    // Each once: a key that is asked for again may be hot by then.
    let cold = cluster.keys_of(owner, "pages", "cold", 50);
    let reads = counted(
        &cluster,
        |counters| counters.hits + counters.misses,
        || {
            for key in &cold {
                client.get("pages", key).unwrap();
            }
        },
    );
    assert_eq!(reads[owner], 50);
    let others = (0..3).filter(|node| *node != owner).map(|node| reads[node]);
    assert_eq!(
        others.sum::<u64>(),
        0,
        "what is not hot is asked of its owner"
    );
}

#[test]
fn streams_say_which_keys_are_hot() {
    const KEYS: u64 = 640;
    let origin = origin();
    let args = ["--group", &origin.group("pages"), "--hot-rate", "1"];
    let cluster = start(2, &args);
    let client = cluster.client(0);
    let mut fetch = client.fetch();
    let mut first_id = 0;
    eventually("a key of a fetch is hot", || {
        first_id += KEYS;
        fetch.ask("pages", first_id, &[&b"k"[..]; KEYS as usize]);
        let answers = fetch.answers(KEYS as usize);
        assert!(answers.into_values().all(|answer| answer.unwrap() == b"/k"));
        !fetch.reading.hot.is_empty()
    });
    let asked = first_id..first_id + KEYS;
    let hot = &fetch.reading.hot;
    assert!(
        hot.iter().all(|id| asked.contains(id)),
        "{hot:?} of {asked:?}"
    );
    eventually("the key of a read is hot", || {
        let mut read = client.start_read(PATIENCE, "pages", "k", 0, 0);
        let first = read.next().unwrap().expect("there is one chunk at least");
        assert_eq!((&*first.data, first.value_bytes), (&b"/k"[..], 2));
        first.heat > 0
    });
}

/// One that is alone has nobody to share a key with: its replies are what they always were.
#[test]
fn a_node_alone_marks_nothing() {
    let origin = origin();
    let node = support::Node::start(["--group", &origin.group("pages"), "--hot-rate", "1"]);
    let client = support::client::Client::connect(node.addr);
    let is_hot = || {
        let shown = top_keys(&["--node", &node.addr.to_string()]);
        shown.first().is_some_and(|top| top["hot"] == true)
    };
    eventually("the key is hot", || {
        for _ in 0..1000 {
            let request = b"\x0a\x05pages\x12\x01k".to_vec();
            let reply = client.call("/corecache.v1.Cache/Get", request).unwrap();
            assert_eq!(reply, b"\x0a\x02/k");
        }
        let many = client.get_many("pages", &[&b"k"[..]; 1000]).unwrap();
        assert!(many.hot_keys.is_empty());
        is_hot()
    });
}

/// Hot values of 1000 bytes, more of them than the share has room for.
#[test]
fn what_is_kept_stays_within_its_share_of_the_memory() {
    let origin = Origin::start(|_, _| Answer::Value(vec![b'x'; 1000]));
    let group = origin.group("pages");
    for (share, most) in [("0", 0), ("1", (16 << 20) / 100)] {
        let args = ["--group", &group, "--memory", "16MiB", "--hot-share", share];
        let args = [&args[..], &["--hot-rate", "1", "--peer-keep", "600"]].concat();
        let cluster = start(2, &args);
        let keys = cluster.keys_of(0, "pages", "k", 400);
        let owner = cluster.nodes[0].addr.to_string();
        let count_hot = || {
            let shown = top_keys(&["--node", &owner, "--count", "1000"]);
            shown.iter().filter(|top| top["hot"] == true).count()
        };
        ask_until(&cluster, 1, (&keys, 8), || count_hot() >= 200);
        ask_until(&cluster, 1, (&keys, 8), || true);
        let kept_bytes = figure(&cluster.nodes[1], "peers_kept_bytes", "");
        assert!(kept_bytes <= most, "{kept_bytes} of {most}");
        assert!(kept_bytes >= most / 10 * 9, "{kept_bytes} of {most}");
        let held = cluster.client(1).counters().bytes;
        assert!(held <= most, "{held} of {most}");
    }
}

#[test]
fn top_keys_of_a_group_that_is_not_there_and_of_no_node() {
    let origin = origin();
    let cluster = start(2, &["--group", &origin.group("pages")]);
    let first = cluster.nodes[0].addr.to_string();
    assert_eq!(top_keys(&["--node", &first]).len(), 0);
    let refused = run(corecache().args(["top-keys", "books", "--node", &first]));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("books"),
        "{words}"
    );
    let nobody = run(corecache().args(["top-keys", "--node", "127.0.0.1:1", "--timeout", "1"]));
    assert!(!nobody.status.success());
}
