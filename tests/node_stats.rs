//! What a node tells of itself is what it has done: by `Stats`, by `corecache stats`, and by `/metrics`.

mod support;

use corecache::server::pb::cache::Counters;
use serde_json::Value;
use support::client::Client;
use support::{Node, corecache, folder, group, http, run};

/// Calls whose figures are known: two values, three hits, two keys that are not there and two that can not be.
fn exercise(client: &Client) {
    for key in ["a", "b"] {
        client.get("blobs", key).unwrap();
    }
    support::eventually("the values are held", || client.counters().entries == 2);
    for key in ["a", "a", "b"] {
        client.get("blobs", key).unwrap();
    }
    for key in ["missing", "missing", "../a", ".", ""] {
        client.get("blobs", key).unwrap_err();
    }
}

fn assert_exercised(counters: &Counters) {
    let expected = Counters {
        entries: 2,
        hits: 3,
        misses: 6,
        loads: 6,
        not_found: 2,
        load_failures: 2,
        // What depends on the machine; that there is some is seen below.
        bytes: counters.bytes,
        load_ns: counters.load_ns,
        ..Counters::new()
    };
    assert_eq!(counters, &expected);
    assert!(counters.bytes > 5 && counters.load_ns > 0);
}

#[test]
fn all_ways_to_ask_tell_the_same() {
    let blobs = folder(&[("a", b"12"), ("b", b"345")]);
    let groups = [group("blobs", &blobs), group("idle", &blobs)];
    let node = Node::start([
        "--group", &groups[0], "--group", &groups[1], "--shards", "3",
    ]);
    let client = Client::connect(node.addr);
    exercise(&client);

    let stats = client.stats();
    assert_eq!(stats.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(stats.shards, 3);
    assert_eq!(stats.budget_bytes, 256 << 20);
    assert!((1..stats.budget_bytes).contains(&stats.used_bytes));
    let names: Vec<_> = stats
        .groups
        .iter()
        .map(|group| group.name.as_str())
        .collect();
    assert_eq!(names, ["blobs", "idle"]);
    assert_eq!(stats.groups[0].origin, groups[0]["blobs=".len()..]);
    assert_exercised(&stats.groups[0].counters);
    assert_exercised(&stats.total);
    assert_eq!(*stats.groups[1].counters, Counters::new());

    assert_json_tells(&node, &stats.total);
    assert_table_tells(&node, &stats.total);
    assert_metrics_tell(&node, &stats.total);
}

fn assert_json_tells(node: &Node, counters: &Counters) {
    let stats: Value = serde_json::from_str(&shown(node, &["--json"])).unwrap();
    for total in [&stats["total"], &stats["groups"][0]["counters"]] {
        assert_eq!(total["hits"], counters.hits);
        assert_eq!(total["misses"], counters.misses);
        assert_eq!(total["joined"], counters.joined);
        assert_eq!(total["loads"], counters.loads);
        assert_eq!(total["not_found"], counters.not_found);
        assert_eq!(total["load_failures"], counters.load_failures);
        assert_eq!(total["load_ns"], counters.load_ns);
        assert_eq!(total["evictions"], counters.evictions);
        assert_eq!(total["refused"], counters.refused);
        assert_eq!(total["shed"], counters.shed);
        assert_eq!(total["given_up"], counters.given_up);
        assert_eq!(total["entries"], counters.entries);
        assert_eq!(total["bytes"], counters.bytes);
    }
    assert_eq!(stats["shards"], 3);
    assert_eq!(stats["budget_bytes"], 256 << 20);
    assert_eq!(stats["groups"][1]["name"], "idle");
}

fn assert_table_tells(node: &Node, counters: &Counters) {
    let table = shown(node, &[]);
    let row = |name: &str| -> Vec<String> {
        let line = table.lines().find(|line| line.starts_with(name));
        let words = line.expect("a row for the group").split_whitespace();
        words.map(str::to_owned).collect()
    };
    let size = format!("{} B", counters.bytes);
    let expected = format!("blobs 2 {size} 3 6 33.3 0 6 2 2 0");
    assert_eq!(row("blobs").join(" "), expected, "{table}");
    assert_eq!(
        row("idle").join(" "),
        "idle 0 0 B 0 0 - 0 0 0 0 0",
        "{table}"
    );
    assert!(
        table.contains("256.0 MiB") && table.contains("3 shards"),
        "{table}"
    );
}

fn assert_metrics_tell(node: &Node, counters: &Counters) {
    let (status, metrics) = http::get(node.admin, "/metrics");
    assert_eq!(status, 200);
    let text = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}"))
            .trim()
    };
    let figure = |name: &str| -> u64 { text(name).parse().expect("a figure is a number") };
    let of_blobs = |name: &str| figure(&format!("corecache_group_{name}{{group=\"blobs\"}}"));
    assert_eq!(of_blobs("hits_total"), counters.hits);
    assert_eq!(of_blobs("misses_total"), counters.misses);
    assert_eq!(of_blobs("joined_total"), counters.joined);
    assert_eq!(of_blobs("loads_total"), counters.loads);
    assert_eq!(of_blobs("not_found_total"), counters.not_found);
    assert_eq!(of_blobs("load_failures_total"), counters.load_failures);
    let seconds = text("corecache_group_load_seconds_total{group=\"blobs\"}");
    assert_eq!(seconds.parse(), Ok(counters.load_ns as f64 / 1e9));
    assert_eq!(of_blobs("evictions_total"), counters.evictions);
    assert_eq!(of_blobs("refused_total"), counters.refused);
    assert_eq!(of_blobs("loads_shed_total"), counters.shed);
    assert_eq!(of_blobs("loads_given_up_total"), counters.given_up);
    assert_eq!(figure("corecache_connections_cut_total"), 0);
    assert_eq!(of_blobs("entries"), counters.entries);
    assert_eq!(of_blobs("entry_bytes"), counters.bytes);
    assert_eq!(figure("corecache_group_hits_total{group=\"idle\"}"), 0);
    assert_eq!(figure("corecache_budget_bytes"), 256 << 20);
    assert_eq!(figure("corecache_shards"), 3);
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
}

/// What `corecache stats` prints.
fn shown(node: &Node, args: &[&str]) -> String {
    let address = node.addr.to_string();
    let output = run(corecache().args(["stats", "--node", &address]).args(args));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
