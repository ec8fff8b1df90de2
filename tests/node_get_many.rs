//! `GetMany`: each key is answered by itself, in order.

mod support;

use corecache::server::pb::cache::{Answer, GetManyReply};
use grpcio::RpcStatusCode;
use support::client::Client;
use support::{Node, at_both_doors, folder, group};

/// An answer: the value, or the code and the text of the failure.
fn result(answer: &Answer) -> Result<&[u8], (i32, &str)> {
    if answer.has_failure() {
        let failure = answer.failure();
        return Err((failure.code, &failure.message));
    }
    assert!(answer.has_value(), "an answer is one of the two");
    Ok(&answer.value().value)
}

fn code(answer: &Answer) -> i32 {
    result(answer).map_or_else(|(code, _)| code, |_| 0)
}

#[test]
fn good_and_bad_keys_are_answered_in_order() {
    at_both_doors(|door| {
        let blobs = folder(&[("a", b"1"), ("b", b"2"), ("empty", b"")]);
        let node = Node::start(["--group", &group("blobs", &blobs)]);
        let client = Client::connect(door.of(&node));
        let long = vec![b'k'; 4097];
        let keys: [&[u8]; 9] = [
            b"b", b"missing", b"a", b"", b"empty", b"../a", b"a", &long, b"missing",
        ];

        // Cold, and then with some of them held.
        for _ in 0..2 {
            let reply = client.get_many("blobs", &keys).unwrap();
            let codes: Vec<_> = reply.answers.iter().map(code).collect();
            assert_eq!(codes, [0, 5, 0, 3, 0, 3, 0, 3, 5]);
            let value = |index: usize| result(&reply.answers[index]).unwrap();
            assert_eq!(
                [value(0), value(2), value(4), value(6)],
                [&b"2"[..], b"1", b"", b"1"]
            );
            let failure = |index: usize| result(&reply.answers[index]).unwrap_err().1;
            assert!(failure(1).contains("no key \"missing\" in group \"blobs\""));
            assert!(failure(3).contains("empty"));
            assert!(failure(5).contains("../a"));
            assert!(failure(7).contains("4097"));
            support::eventually("what there is is held", || client.counters().entries == 3);
        }
        // A key that is there twice was loaded once.
        let loads_of_values = client.counters().loads - client.counters().not_found;
        assert_eq!(loads_of_values - client.counters().load_failures, 3);
    });
}

#[test]
fn a_call_that_can_not_be_answered_as_a_whole_fails() {
    at_both_doors(|door| {
        let blobs = folder(&[("a", b"1")]);
        let node = Node::start(["--group", &group("blobs", &blobs)]);
        let client = Client::connect(door.of(&node));

        let no_group = client.get_many("pictures", &[b"a"]).unwrap_err();
        no_group.expect(RpcStatusCode::NOT_FOUND, &["no group \"pictures\""]);
        let keys: Vec<&[u8]> = vec![b"a"; 10_001];
        let too_many = client.get_many("blobs", &keys).unwrap_err();
        too_many.expect(RpcStatusCode::INVALID_ARGUMENT, &["10001 keys", "10000"]);

        let most = client.get_many("blobs", &keys[1..]).unwrap();
        assert_eq!(most.answers.len(), 10_000);
        assert!(most.answers.iter().all(|answer| result(answer) == Ok(b"1")));
        assert_eq!(client.get_many("blobs", &[]).unwrap(), GetManyReply::new());
    });
}

#[test]
fn what_does_not_fit_into_the_reply_is_told_so_and_the_rest_is_there() {
    at_both_doors(|door| {
        let large = vec![7; 1_000_000];
        let too_large = vec![8; 5_000_000];
        let blobs = folder(&[
            ("large", &large),
            ("small", b"1"),
            ("too large", &too_large),
        ]);
        let node = Node::start(["--group", &group("blobs", &blobs)]);
        let client = Client::connect(door.of(&node));
        let mut keys: Vec<&[u8]> = vec![b"large"; 6];
        keys.extend([&b"too large"[..], b"small"]);

        let reply = client.get_many("blobs", &keys).unwrap();
        let codes: Vec<_> = reply.answers.iter().map(code).collect();
        let (full, out_of_range) = (8, 11);
        assert_eq!(codes, [0, 0, 0, 0, full, full, out_of_range, 0]);
        assert!(
            reply.answers[..4]
                .iter()
                .all(|answer| result(answer) == Ok(&large[..]))
        );
        let told = result(&reply.answers[4]).unwrap_err().1;
        assert!(told.contains("the reply is full"), "{told}");
        let told = result(&reply.answers[6]).unwrap_err().1;
        assert!(told.contains("5000000"), "{told}");
        assert_eq!(result(&reply.answers[7]), Ok(&b"1"[..]));
    });
}

#[test]
fn a_value_that_no_reply_has_room_for_is_told_so() {
    at_both_doors(|door| {
        let largest = vec![8; (4 << 20) - 5];
        let blobs = folder(&[("largest", &largest), ("small", b"1")]);
        let node = Node::start(["--group", &group("blobs", &blobs)]);
        let client = Client::connect(door.of(&node));
        // Cold, and held: there is a reply to `Get` with room for it.
        for _ in 0..2 {
            let reply = client
                .get_many("blobs", &[b"small", b"largest", b"small"])
                .unwrap();
            let codes: Vec<_> = reply.answers.iter().map(code).collect();
            assert_eq!(codes, [0, 11, 0]);
            let told = result(&reply.answers[1]).unwrap_err().1;
            assert!(told.contains("with Read"), "{told}");
            assert_eq!(client.get("blobs", "largest").unwrap(), largest);
        }
    });
}

/// Keeping every value until the last key is there makes this fail: it took 60 times the budget.
#[test]
fn a_call_for_more_than_a_reply_holds_takes_no_more_memory_than_that() {
    at_both_doors(|door| {
        const KEYS: usize = 200;
        let blobs = folder(&[("0", &vec![7; 4_000_000])]);
        for key in 1..KEYS {
            let link = blobs.path().join(key.to_string());
            std::fs::hard_link(blobs.path().join("0"), link).unwrap();
        }
        let group = group("blobs", &blobs);
        let node = Node::start(["--memory", "32MiB", "--loaders", "4", "--group", &group]);
        let client = Client::connect(door.of(&node));
        let keys: Vec<String> = (0..KEYS).map(|key| key.to_string()).collect();
        let keys: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();

        let reply = client.get_many("blobs", &keys).unwrap();
        let values = reply
            .answers
            .iter()
            .filter(|answer| code(answer) == 0)
            .count();
        let full = reply
            .answers
            .iter()
            .filter(|answer| code(answer) == 8)
            .count();
        assert_eq!((values, full), (1, KEYS - 1));

        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        let peak_kib: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
        // The budget, the loads that run at once, the reply, and the process itself.
        assert!(peak_kib < 200 << 10, "{peak_kib} KiB at the most");
    });
}

#[test]
fn a_cold_call_of_many_keys_does_not_fill_the_queue() {
    at_both_doors(|door| {
        let names: Vec<String> = (0..3000).map(|key| format!("k{key}")).collect();
        let files: Vec<(&str, &[u8])> = names
            .iter()
            .map(|name| (&**name, name.as_bytes()))
            .collect();
        let blobs = folder(&files);
        let node = Node::start(["--group", &group("blobs", &blobs)]);
        let client = Client::connect(door.of(&node));
        let keys: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        let reply = client.get_many("blobs", &keys).unwrap();
        for (key, answer) in keys.iter().zip(&reply.answers) {
            assert_eq!(result(answer), Ok(*key));
        }
    });
}
