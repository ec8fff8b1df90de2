//! Very many calls at once by one client, and very many clients one after the other.

mod support;

use std::fs;
use std::thread;
use std::time::Duration;

use corecache::client::Client;
use support::cluster::Cluster;
use support::origin::{Answer, Origin};
use support::{Node, folder, group};

/// More than a node takes at a time from one connection, which are 1024.
const CALLERS: usize = 1500;
/// Clients that are made and dropped.
const CLIENTS: usize = 100;

#[test]
fn who_waits_behind_others_of_the_client_does_not_take_the_node_for_gone() {
    let origin = Origin::start(|path, _| {
        thread::sleep(Duration::from_secs(3));
        Answer::Value(path.as_bytes().to_vec())
    });
    let cluster = Cluster::start(2, &["--group", &origin.group("pages")]);
    let key = &cluster.keys_of(0, "pages", "k", 1)[0];
    let client = Client::builder().node(cluster.nodes[0].addr.to_string());
    let client = client.deadline(support::PATIENCE).build().unwrap();
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| assert_eq!(client.get("pages", key), Ok(format!("/{key}").into())));
        }
    });
}

fn count(folder: &str) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn clients_leave_nothing_behind() {
    let blobs = folder(&[("a", b"1")]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let origin = Origin::start(|_, _| {
        thread::sleep(Duration::from_millis(300));
        Answer::Status("404 Not Found", "no")
    });
    let slow = Node::start(["--group", &origin.group("pages")]);
    let both = [node.addr.to_string(), slow.addr.to_string()];
    let round = || {
        let client = Client::builder()
            .nodes(&both)
            .deadline(Duration::from_millis(200));
        let client = client.build().unwrap();
        for _ in 0..10 {
            let _ = client.get("blobs", "a");
        }
        // In the middle of calls that go on.
        let _ = client
            .with_deadline(Duration::from_millis(5))
            .get("pages", "k");
        let _ = client
            .with_deadline(Duration::from_millis(5))
            .get_many("pages", &["k", "l"]);
    };
    round();
    let held = || (count("/proc/self/task"), count("/proc/self/fd"));
    let before = held();
    for _ in 0..CLIENTS {
        round();
    }
    // The other test of this process has some as well, and so has the gRPC core for all.
    let few = CLIENTS / 4;
    support::eventually("threads and sockets are back", || {
        let now = held();
        now.0 < before.0 + few && now.1 < before.1 + few
    });
}
