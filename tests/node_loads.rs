//! How a node loads: a key once, however many ask, and no more at a time than it was told.

mod support;

use std::time::Duration;

use grpcio::RpcStatusCode;
use support::client::Client;
use support::origin::{Answer, Latch, Origin};
use support::{Node, at_both_doors};

#[test]
fn a_thousand_calls_for_a_cold_key_are_one_load() {
    at_both_doors(|door| {
        const CALLS: usize = 1000;
        let latch = Latch::default();
        let held = latch.clone();
        let origin = Origin::start(move |_, _| {
            held.wait();
            Answer::Value(b"value".to_vec())
        });
        let node = Node::start(["--group", &origin.group("pages")]);
        let client = Client::connect(door.of(&node));
        let calls: Vec<_> = (0..CALLS)
            .map(|_| client.start_get("pages", "cold"))
            .collect();

        // The figures are asked for over another connection: this one has no room for a call more.
        let watcher = Client::connect(door.of(&node));
        support::eventually("all calls have arrived", || {
            watcher.counters().misses == CALLS as u64
        });
        latch.open();
        for call in calls {
            assert_eq!(call.value().unwrap(), b"value");
        }
        assert_eq!(origin.requests("/cold"), 1);
        let counters = watcher.counters();
        assert_eq!(counters.loads, 1);
        assert_eq!(counters.joined, CALLS as u64 - 1);
    });
}

#[test]
fn a_full_queue_refuses_loads_and_hits_go_on() {
    at_both_doors(|door| {
        let latch = Latch::default();
        let held = latch.clone();
        let origin = Origin::start(move |path, _| {
            if path != "/warm" {
                held.wait();
            }
            Answer::Value(path.as_bytes().to_vec())
        });
        let group = origin.group("pages");
        let node = Node::start(["--group", &group, "--loaders", "1", "--load-queue", "2"]);
        let client = Client::connect(door.of(&node));
        assert_eq!(client.get("pages", "warm").unwrap(), b"/warm");
        support::eventually("the value is held", || client.counters().entries == 1);

        let running = client.start_get("pages", "running");
        origin.wait_for_requests("/running", 1);
        let queued = ["q1", "q2"].map(|key| client.start_get("pages", key));
        support::eventually("the queue is full", || client.stats().queue_depth == 2);

        let refusal = client.get("pages", "one too many").unwrap_err();
        let words = ["one too many", "2 loads", "try again"];
        refusal.expect(RpcStatusCode::RESOURCE_EXHAUSTED, &words);
        for _ in 0..100 {
            assert_eq!(client.get("pages", "warm").unwrap(), b"/warm");
        }
        // Who asks for what is being loaded already takes no place.
        let joined = client.start_get("pages", "running");
        support::eventually("the call has arrived", || client.counters().joined == 1);

        latch.open();
        for call in [running, joined] {
            assert_eq!(call.value().unwrap(), b"/running");
        }
        for (call, value) in queued.into_iter().zip([b"/q1", b"/q2"]) {
            assert_eq!(call.value().unwrap(), value);
        }
        let value = client.get("pages", "one too many").unwrap();
        assert_eq!(value, b"/one%20too%20many");
    });
}

#[test]
fn a_slow_origin_does_not_hold_up_another() {
    at_both_doors(|door| {
        let latch = Latch::default();
        let held = latch.clone();
        let slow = Origin::start(move |_, _| {
            held.wait();
            Answer::Value(b"slow".to_vec())
        });
        let fast = Origin::start(|_, _| Answer::Value(b"fast".to_vec()));
        let groups = [slow.group("slow"), fast.group("fast")];
        let args = ["--group", &groups[0], "--group", &groups[1]];
        let node = Node::start([&args[..], &["--loaders", "2"]].concat());
        let client = Client::connect(door.of(&node));

        let calls: Vec<_> = (0..8)
            .map(|key| client.start_get("slow", format!("{key}")))
            .collect();
        support::eventually("the slow origin's loads queue", || {
            client.stats().queue_depth == 7
        });
        assert_eq!(client.get("fast", "key").unwrap(), b"fast");
        latch.open();
        for call in calls {
            assert_eq!(call.value().unwrap(), b"slow");
        }
    });
}

/// Without a look at the deadlines each of these calls stays until the load ends.
#[test]
fn callers_whose_time_is_over_do_not_wait_on() {
    at_both_doors(|door| {
        let latch = Latch::default();
        let held = latch.clone();
        let origin = Origin::start(move |_, _| {
            held.wait();
            Answer::Value(b"late".to_vec())
        });
        let node = Node::start(["--group", &origin.group("pages")]);
        let client = Client::connect(door.of(&node));
        let waiting = || {
            let (_, figures) = support::http::get(node.admin, "/metrics");
            let line = figures
                .lines()
                .find_map(|line| line.strip_prefix("corecache_calls_waiting "));
            line.expect("it is told how many wait").to_owned()
        };
        let patient = client.start_get("pages", "slow");
        // It is his load that the others join.
        origin.wait_for_requests("/slow", 1);
        for _ in 0..20 {
            let timeout = Duration::from_millis(20);
            let refusal = client.get_within(timeout, "pages", "slow").unwrap_err();
            refusal.expect(RpcStatusCode::DEADLINE_EXCEEDED, &[]);
        }
        support::eventually("only the patient one waits", || waiting() == "1");
        latch.open();
        assert_eq!(patient.value().unwrap(), b"late");
        assert_eq!(origin.requests("/slow"), 1);
        support::eventually("nobody waits", || waiting() == "0");
    });
}

#[test]
fn who_waits_in_vain_for_the_rate_of_loads_is_told_so() {
    let origin = Origin::start(|path, _| Answer::Value(path.as_bytes().to_vec()));
    let group = origin.group("pages");
    let args = ["--group", &group, "--load-rate", "1", "--load-wait", "0.2"];
    let node = Node::start(args);
    let client = Client::connect(node.addr);
    let keys = (0..20).map(|number| format!("k{number}"));
    let calls: Vec<_> = keys.map(|key| client.start_get("pages", key)).collect();
    let refused = calls.into_iter().filter_map(|call| call.value().err());
    let refused: Vec<_> = refused.collect();
    // What has not been used for a while is one load, so that another one may have begun.
    // So may more on a machine that takes seconds for these calls.
    assert!(refused.len() >= 2, "{} of 20", refused.len());
    for refusal in refused {
        let words = ["waited for its turn among the 1 load a second of all nodes"];
        refusal.expect(RpcStatusCode::RESOURCE_EXHAUSTED, &words);
    }
}
