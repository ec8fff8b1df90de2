//! Several groups in one budget, each with its share.

mod support;

use support::client::Client;
use support::origin::{Answer, Origin};
use support::{Node, at_both_doors, folder, group};

#[test]
fn a_group_keeps_what_it_is_guaranteed_and_does_not_grow_over_its_largest_share() {
    at_both_doors(|door| {
        const BLOB_BYTES: usize = 50_000;
        const MIB: u64 = 1 << 20;
        let blob = |path: &str| format!("{path:0>BLOB_BYTES$}").into_bytes();
        let origin = Origin::start(move |path, _| Answer::Value(blob(path)));
        let groups = [origin.group("kept"), origin.group("flood")];
        let groups = ["--group", &groups[0], "--group", &groups[1]];
        let shares = ["--guarantee", "kept=2MiB", "--largest", "flood=1.5MiB"];
        let node = Node::start([&["--memory", "8MiB"], &groups[..], &shares].concat());
        let client = Client::connect(door.of(&node));
        let counters = |index: usize| {
            client.stats().groups[index]
                .counters
                .clone()
                .unwrap_or_default()
        };
        let (flood, kept) = (0, 1);

        let shares = client.stats().groups;
        assert_eq!(shares[flood].name, "flood");
        assert_eq!(shares[flood].largest_bytes, 3 * MIB / 2);
        assert_eq!(shares[kept].guaranteed_bytes, 2 * MIB);
        assert_eq!(shares[kept].largest_bytes, 8 * MIB);

        for key in 0..20 {
            client.get("kept", format!("{key}")).unwrap();
        }
        support::eventually("what is to be kept is held", || {
            counters(kept).entries == 20
        });
        for key in 0..500 {
            let value = client.get("flood", format!("{key}")).unwrap();
            assert!(value == blob(&format!("/{key}")));
        }
        support::eventually("the flood is within its share", || {
            counters(flood).bytes <= 3 * MIB / 2 && counters(flood).evictions > 400
        });
        assert!(counters(flood).entries > 0);
        assert_eq!(counters(kept).entries, 20);
        assert_eq!(counters(kept).evictions, 0);
    });
}

#[test]
fn a_key_means_something_else_in_another_group() {
    at_both_doors(|door| {
        let (red, blue) = (folder(&[("a", b"red")]), folder(&[("a", b"blue")]));
        let groups = [group("red", &red), group("blue", &blue)];
        let node = Node::start(["--group", &groups[0], "--group", &groups[1]]);
        let client = Client::connect(door.of(&node));
        for _ in 0..2 {
            assert_eq!(client.get("red", "a").unwrap(), b"red");
            assert_eq!(client.get("blue", "a").unwrap(), b"blue");
            support::eventually("both are held", || client.counters().entries == 2);
        }
    });
}

#[test]
fn sizes_are_as_they_are_written() {
    let blobs = folder(&[]);
    let group = group("blobs", &blobs);
    for (written, bytes) in [
        ("0.25GiB", 1 << 28),
        ("64MB", 64_000_000),
        ("32mib", 32 << 20),
        ("33554432", 32 << 20),
    ] {
        let node = Node::start(["--group", &group, "--memory", written]);
        let stats = Client::connect(node.addr).stats();
        assert_eq!(stats.budget_bytes, bytes, "{written}");
        assert_eq!(stats.groups[0].largest_bytes, bytes, "{written}");
    }
}
