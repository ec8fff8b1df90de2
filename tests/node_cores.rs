//! Cores and shards: a node works whatever it is told and whatever the machine has, with one warning at the most.

mod support;

use support::client::Client;
use support::{Node, folder, group};

/// Runs a node with `args` through some keys, and returns the warnings of its log.
fn warnings(args: &[&str], shards: u32) -> Vec<String> {
    let blobs = folder(&[("a", b"1"), ("b", b"2"), ("c", b"3")]);
    let group = group("blobs", &blobs);
    let mut node = Node::start([&["--group", &group], args].concat());
    let client = Client::connect(node.addr);
    for _ in 0..2 {
        for (key, value) in [("a", b"1"), ("b", b"2"), ("c", b"3")] {
            assert_eq!(client.get("blobs", key).unwrap(), value);
        }
    }
    assert_eq!(client.stats().shards, shards);
    drop(client);
    assert_eq!(node.terminate().code(), Some(0));
    let log = node.stderr();
    let warnings = log.lines().filter(|line| line.contains("WARN"));
    warnings.map(str::to_owned).collect()
}

#[test]
fn more_shards_than_cores() {
    let shards = std::thread::available_parallelism().unwrap().get() * 4 + 1;
    let warnings = warnings(&["--shards", &shards.to_string()], shards as u32);
    // One where the time of this process is limited to less than its cores.
    assert!(warnings.len() <= 1, "{warnings:?}");
}

#[test]
fn cores_that_do_not_exist() {
    // No machine that this runs on has these.
    let warnings = warnings(&["--cores", "1021-1023", "--shards", "7"], 7);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("cores 1021-1023"), "{warnings:?}");
}

#[test]
fn a_shard_for_each_core() {
    let warnings = warnings(&["--cores", "0,1021,1022"], 3);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("cores 1021-1022"), "{warnings:?}");
}
