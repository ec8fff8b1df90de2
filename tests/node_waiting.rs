//! Calls that wait for an origin that hangs: they take no places from other groups, and none when their clients have gone.

mod support;

use grpcio::RpcStatusCode;
use support::client::Client;
use support::origin::{Answer, Latch, Origin};
use support::{Node, at_both_doors};

/// A node with a group whose origin hangs and one whose does not.
struct Hanging {
    node: Node,
    latch: Latch,
    _origins: [Origin; 2],
}

impl Hanging {
    fn start() -> Hanging {
        let latch = Latch::default();
        let held = latch.clone();
        let slow = Origin::start(move |_, _| {
            held.wait();
            Answer::Value(b"slow".to_vec())
        });
        let fast = Origin::start(|path, _| Answer::Value(path.as_bytes().to_vec()));
        let groups = [slow.group("slow"), fast.group("fast")];
        let args = ["--group", &groups[0], "--group", &groups[1]];
        let limits = ["--max-streams", "10000", "--load-timeout", "600"];
        Hanging {
            node: Node::start([args, limits].concat()),
            latch,
            _origins: [slow, fast],
        }
    }

    fn figure(&self, name: &str) -> u64 {
        let (_, figures) = support::http::get(self.node.admin, "/metrics");
        let mut lines = figures.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the figure is there").parse().unwrap()
    }
}

#[test]
fn an_origin_that_hangs_leaves_places_to_the_misses_of_others() {
    at_both_doors(|door| {
        let hanging = Hanging::start();
        let client = Client::connect(door.of(&hanging.node));
        let calls: Vec<_> = (0..8200)
            .map(|_| client.start_endless_get("slow", "key"))
            .collect();
        let waiting = "corecache_group_calls_waiting{group=\"slow\"}";
        let refused = "corecache_group_calls_refused_total{group=\"slow\"}";
        support::eventually("all calls have arrived", || {
            hanging.figure(waiting) + hanging.figure(refused) == 8200
        });
        assert_eq!(hanging.figure(waiting), 4096);

        let other = Client::connect(door.of(&hanging.node));
        for key in 0..100 {
            let value = other.get("fast", format!("{key}")).unwrap();
            assert_eq!(value, format!("/{key}").into_bytes());
        }
        let refusal = other.get("slow", "another").unwrap_err();
        let words = [
            "4096 calls wait for keys of group \"slow\"",
            "try again later",
        ];
        refusal.expect(RpcStatusCode::RESOURCE_EXHAUSTED, &words);

        hanging.latch.open();
        let values = calls.into_iter().filter_map(|call| call.value().ok());
        assert_eq!(values.filter(|value| value == b"slow").count(), 4096);
    });
}

#[test]
fn who_has_gone_takes_no_place_any_more() {
    at_both_doors(|door| {
        let hanging = Hanging::start();
        let watcher = Client::connect(door.of(&hanging.node));
        let stays = watcher.start_endless_get("slow", "key");
        let goes = Client::connect(door.of(&hanging.node));
        let calls: Vec<_> = (0..100)
            .map(|_| goes.start_endless_get("slow", "key"))
            .collect();
        let many = goes.start_endless_get_many("slow", &[b"key", b"another"]);
        let waiting = "corecache_calls_waiting";
        support::eventually("all calls have arrived", || hanging.figure(waiting) == 102);

        drop((calls, many, goes));
        support::eventually("only one waits", || hanging.figure(waiting) == 1);
        hanging.latch.open();
        assert_eq!(stays.value().unwrap(), b"slow");
        support::eventually("nobody waits", || hanging.figure(waiting) == 0);
    });
}
