//! `Fetch`: a stream of keys, each answered by its id as soon as its value is there.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use grpcio::RpcStatusCode;
use support::client::{Client, Fetch, Fetched, fetch_request};
use support::origin::{Answer, Latch, Origin};
use support::{Node, folder, group};

/// Codes of failures.
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const OUT_OF_RANGE: i32 = 11;

fn code(answer: &Fetched) -> i32 {
    answer.as_ref().map_or_else(|(code, _)| *code, |_| 0)
}

fn codes(answers: &BTreeMap<u64, Fetched>) -> Vec<i32> {
    answers.values().map(code).collect()
}

fn value(answers: &BTreeMap<u64, Fetched>, id: u64) -> &[u8] {
    answers[&id].as_ref().expect("a value")
}

/// An origin that answers with the path, once the latch is open if that begins with `/slow`.
fn slow_origin() -> (Origin, Latch) {
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |path, _| {
        if path.starts_with("/slow") {
            held.wait();
        }
        Answer::Value(path.as_bytes().to_vec())
    });
    (origin, latch)
}

/// Ends the client's side, and expects the node to end the call well.
fn finish(mut stream: Fetch) {
    stream.close();
    let end = stream.next().expect("the call ends well");
    assert_eq!(end, None);
}

#[test]
fn keys_are_answered_by_their_ids() {
    let blobs = folder(&[("a", b"1"), ("b", b"2"), ("empty", b"")]);
    let others = folder(&[("a", b"another")]);
    let node = Node::start([
        "--group",
        &group("blobs", &blobs),
        "--group",
        &group("others", &others),
    ]);
    let client = Client::connect(node.addr);
    let mut stream = client.fetch();
    let long = vec![b'k'; 4097];
    let keys: [&[u8]; 8] = [b"b", b"missing", b"a", b"", b"empty", b"../a", &long, b"a"];

    // Cold, and then with some of them held.
    for round in 0..2 {
        let first_id = round * 1000;
        stream.ask("blobs", first_id, &keys);
        let answers = stream.answers(keys.len());
        let ids: Vec<_> = answers.keys().copied().collect();
        assert_eq!(ids, (first_id..first_id + 8).collect::<Vec<_>>());
        let (none, bad) = (NOT_FOUND, INVALID_ARGUMENT);
        assert_eq!(codes(&answers), [0, none, 0, bad, 0, bad, bad, 0]);
        let value = |index| value(&answers, first_id + index);
        assert_eq!(
            [value(0), value(2), value(4), value(7)],
            [&b"2"[..], b"1", b"", b"1"]
        );
        let said = |index| answers[&(first_id + index)].clone().unwrap_err().1;
        assert!(said(1).contains("no key \"missing\" in group \"blobs\""));
        assert!(said(3).contains("empty"));
        assert!(said(6).contains("4097"));
        support::eventually("what there is is held", || client.counters().entries == 3);
    }

    // The ids are the client's: they may go on after the last one there is, and be used again.
    for _ in 0..2 {
        stream.ask("blobs", u64::MAX, &[b"a", b"b"]);
        let answers = stream.answers(2);
        assert_eq!(
            (value(&answers, u64::MAX), value(&answers, 0)),
            (&b"1"[..], &b"2"[..])
        );
    }
    stream.ask("blobs", 1, &[b"a"]);
    stream.ask("others", 2, &[b"a"]);
    let answers = stream.answers(2);
    assert_eq!(
        (value(&answers, 1), value(&answers, 2)),
        (&b"1"[..], &b"another"[..])
    );
    stream.ask("blobs", 0, &[]);
    finish(stream);
}

#[test]
fn a_slow_load_holds_up_nobody() {
    let (origin, latch) = slow_origin();
    let (fast, _) = slow_origin();
    let node = Node::start([
        "--group",
        &origin.group("pages"),
        "--group",
        &fast.group("fast"),
    ]);
    let client = Client::connect(node.addr);
    let mut stream = client.fetch();

    stream.ask("pages", 0, &[b"slow", b"quick", b"slow"]);
    assert_eq!(value(&stream.answers(1), 1), b"/quick");
    stream.ask("pages", 10, &[b"quick", b"another", b"slow"]);
    let answers = stream.answers(2);
    assert_eq!(
        (value(&answers, 10), value(&answers, 11)),
        (&b"/quick"[..], &b"/another"[..])
    );

    // More loads of one origin than a stream, or the node, has at a time: the other origin does not wait for them.
    let slow: Vec<String> = (0..200).map(|key| format!("slow/{key}")).collect();
    let slow: Vec<&[u8]> = slow.iter().map(String::as_bytes).collect();
    stream.ask("pages", 1000, &slow);
    stream.ask("fast", 20, &[b"a", b"b"]);
    let answers = stream.answers(2);
    assert_eq!(
        (value(&answers, 20), value(&answers, 21)),
        (&b"/a"[..], &b"/b"[..])
    );

    latch.open();
    let answers = stream.answers(203);
    for id in [0, 2, 12] {
        assert_eq!(value(&answers, id), b"/slow");
    }
    for (key, id) in slow.iter().zip(1000..) {
        assert_eq!(value(&answers, id), [b"/", *key].concat());
    }
    // All who asked for it share one load.
    origin.wait_for_requests("/slow", 1);
    assert_eq!(client.counters().loads, 205);
    finish(stream);
}

#[test]
fn an_unknown_group_fails_its_keys_and_the_call_goes_on() {
    let blobs = folder(&[("a", b"1")]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let client = Client::connect(node.addr);
    let mut stream = client.fetch();
    let keys: Vec<&[u8]> = vec![b"a"; 10_000];
    stream.ask(&"pictures".repeat(100), 0, &keys);
    let answers = stream.answers(10_000);
    assert!(answers.values().all(|answer| code(answer) == NOT_FOUND));
    stream.ask("pictures", 0, &[b"a"]);
    let (code, text) = stream.answers(1)[&0].clone().unwrap_err();
    assert_eq!(code, NOT_FOUND);
    assert!(
        text.contains("no group \"pictures\"") && text.contains("blobs"),
        "{text}"
    );
    stream.ask("blobs", 7, &[b"a"]);
    assert_eq!(value(&stream.answers(1), 7), b"1");
    finish(stream);
}

#[test]
fn what_is_no_request_ends_the_call() {
    let blobs = folder(&[("a", b"1")]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let client = Client::connect(node.addr);

    let mut stream = client.fetch();
    stream.asking.send_in_vain(vec![0x0a, 5, b'b']);
    let refusal = stream.next().unwrap_err();
    refusal.expect(RpcStatusCode::INVALID_ARGUMENT, &["FetchRequest"]);

    let mut stream = client.fetch();
    let keys: Vec<&[u8]> = vec![b"a"; 10_001];
    stream.asking.send_in_vain(fetch_request("blobs", 0, &keys));
    let refusal = stream.next().unwrap_err();
    refusal.expect(RpcStatusCode::INVALID_ARGUMENT, &["10001 keys", "10000"]);

    let mut stream = client.fetch();
    stream.ask("blobs", 0, &keys[1..]);
    let answers = stream.answers(10_000);
    assert!(answers.values().all(|answer| *answer == Ok(b"1".to_vec())));
    finish(stream);
    finish(client.fetch());
}

#[test]
fn who_has_no_more_keys_gets_the_answers_that_are_still_to_come() {
    let (origin, latch) = slow_origin();
    let node = Node::start(["--group", &origin.group("pages")]);
    let client = Client::connect(node.addr);
    let mut stream = client.fetch();
    stream.ask("pages", 5, &[b"slow"]);
    origin.wait_for_requests("/slow", 1);
    stream.close();
    latch.open();
    assert_eq!(value(&stream.answers(1), 5), b"/slow");
    assert_eq!(stream.next().unwrap(), None);
}

#[test]
fn large_values_go_in_as_many_replies_as_they_take() {
    const KEYS: usize = 40;
    let large = vec![7; 1_000_000];
    let largest = vec![8; (4 << 20) - 5];
    let names: Vec<String> = (0..KEYS).map(|key| key.to_string()).collect();
    let mut files: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &*large)).collect();
    files.push(("largest", &largest));
    let blobs = folder(&files);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let client = Client::connect(node.addr);
    let mut keys: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    keys.push(b"largest");

    let mut stream = client.fetch();
    // Cold, and held.
    for first_id in [0, 100] {
        stream.ask("blobs", first_id, &keys);
        let answers = stream.answers(keys.len());
        for id in first_id..first_id + KEYS as u64 {
            assert_eq!(value(&answers, id), large);
        }
        // With its id, and its place in a reply, it has some bytes too many.
        let (code, text) = answers[&(first_id + KEYS as u64)].clone().unwrap_err();
        assert_eq!(code, OUT_OF_RANGE);
        assert!(text.contains("with Read"), "{text}");
    }
    assert_eq!(client.get("blobs", "largest").unwrap(), largest);
    finish(stream);
}

/// Looking up, or loading, whatever is asked for makes this fail: the replies have 800 MB.
#[test]
fn who_does_not_read_costs_no_more_than_some_replies() {
    const STREAMS: usize = 4;
    const REQUESTS: u64 = 20;
    const KEYS: u64 = 40;
    let large = vec![7; 250_000];
    let names: Vec<String> = (0..KEYS).map(|key| key.to_string()).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &*large)).collect();
    let blobs = folder(&files);
    let node = Node::start(["--memory", "32MiB", "--group", &group("blobs", &blobs)]);
    let client = Client::connect(node.addr);
    let keys: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    let mut streams: Vec<Fetch> = (0..STREAMS).map(|_| client.fetch()).collect();
    for stream in &mut streams {
        for request in 0..REQUESTS {
            stream.ask("blobs", request * KEYS, &keys);
        }
        stream.close();
    }
    // Others are served meanwhile.
    let other = Client::connect(node.addr);
    for key in &keys {
        assert_eq!(other.get("blobs", key).unwrap(), large);
    }
    for stream in &mut streams {
        let mut answered = 0;
        while let Some(answers) = stream.next().expect("the call ends well") {
            answered += answers.len() as u64;
            assert!(answers.values().all(|answer| answer.as_ref() == Ok(&large)));
        }
        assert_eq!(answered, REQUESTS * KEYS);
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak_kib: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 200 << 10, "{peak_kib} KiB at the most");
}

#[test]
fn more_keys_than_may_be_without_an_answer_wait_their_turn() {
    const REQUESTS: u64 = 5;
    const KEYS: u64 = 10_000;
    let blobs = folder(&[("a", b"1")]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let client = Client::connect(node.addr);
    let names: Vec<String> = (0..KEYS).map(|key| format!("none-{key}")).collect();
    let keys: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    std::thread::scope(|scope| {
        let Fetch {
            mut asking,
            mut reading,
        } = client.fetch();
        scope.spawn(move || {
            for request in 0..REQUESTS {
                asking.ask("blobs", request * KEYS, &keys);
            }
            asking.close();
        });
        let answers = reading.answers((REQUESTS * KEYS) as usize);
        assert!(answers.values().all(|answer| code(answer) == NOT_FOUND));
        assert_eq!(reading.next().unwrap(), None);
    });
}

#[test]
fn a_caller_whose_time_is_over_or_that_goes_away_leaves_nothing_behind() {
    let (origin, latch) = slow_origin();
    let mut node = Node::start(["--group", &origin.group("pages"), "--drain", "3600"]);
    let client = Client::connect(node.addr);
    let mut hasty = client.fetch_within(Duration::from_secs(2));
    // Its time may be over before it is sent, on a machine with other work.
    hasty
        .asking
        .send_in_vain(fetch_request("pages", 0, &[b"slow/1"]));
    let refusal = hasty.next().unwrap_err();
    refusal.expect(RpcStatusCode::DEADLINE_EXCEEDED, &[]);

    let mut gone = client.fetch();
    gone.ask("pages", 0, &[b"slow/2"]);
    origin.wait_for_requests("/slow/2", 1);
    drop(gone);
    // Were one of the calls open still, the node would not end: its loads have not.
    assert_eq!(node.terminate().code(), Some(0));
    drop(latch);
}

#[test]
fn a_node_that_drains_answers_what_was_asked_and_ends_the_call() {
    let (origin, latch) = slow_origin();
    let mut node = Node::start(["--group", &origin.group("pages"), "--drain", "3600"]);
    let client = Client::connect(node.addr);
    let (mut idle, mut busy, mut done) = (client.fetch(), client.fetch(), client.fetch());
    idle.ask("pages", 0, &[b"quick"]);
    assert_eq!(value(&idle.answers(1), 0), b"/quick");
    done.ask("pages", 0, &[b"slow"]);
    done.close();
    busy.ask("pages", 0, &[b"slow", b"quick"]);
    assert_eq!(value(&busy.answers(1), 1), b"/quick");
    origin.wait_for_requests("/slow", 1);

    node.signal("TERM");
    assert_eq!(idle.next().unwrap(), None);
    assert!(!node.has_ended());
    latch.open();
    assert_eq!(value(&busy.answers(1), 0), b"/slow");
    assert_eq!(busy.next().unwrap(), None);
    assert_eq!(value(&done.answers(1), 0), b"/slow");
    assert_eq!(done.next().unwrap(), None);
    assert_eq!(node.wait().code(), Some(0));
    let log = node.stderr();
    assert!(log.contains("all calls have finished"), "{log}");
}

/// Without an end of their calls, and a part that is not theirs, these take all that replies may have.
#[test]
fn streams_that_nobody_reads_end_and_keep_no_room_from_others() {
    const STREAMS: usize = 16;
    let large = vec![7; 3 << 20];
    let blobs = folder(&[("0", &large), ("1", &large), ("2", &large)]);
    // Long enough for what is looked at before they are ended.
    let args = ["--memory", "64MiB", "--read-stall", "10"];
    let node = Node::start([&["--group", &group("blobs", &blobs)], &args[..]].concat());
    let figure = |name: &str| {
        let (_, figures) = support::http::get(node.admin, "/metrics");
        let mut lines = figures.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the figure is there").parse::<u64>().unwrap()
    };
    let keys: [&[u8]; 3] = [b"0", b"1", b"2"];
    let client = Client::connect(node.addr);
    for key in keys {
        client.get("blobs", key).unwrap();
    }
    support::eventually("all are held", || client.counters().entries == 3);

    let clients: Vec<_> = (0..STREAMS)
        .map(|_| Client::connect_narrow(node.addr))
        .collect();
    let _unread: Vec<Fetch> = clients
        .iter()
        .map(|client| {
            let mut stream = client.fetch();
            stream.ask("blobs", 0, &keys);
            stream
        })
        .collect();
    support::eventually("streams have what they may", || {
        figure("corecache_outgoing_bytes") >= 9 << 20
    });
    let mut served = 0;
    while served < 20 {
        let reply = client.get_many("blobs", &[b"0"]).unwrap();
        assert!(reply.answers[0].value().value == large);
        if figure("corecache_calls_stalled_total") > 0 {
            break;
        }
        served += 1;
    }
    assert!(served > 0, "it was too late");
    support::eventually("streams are ended", || {
        figure("corecache_calls_stalled_total") >= 1
    });
    support::eventually("nothing is on its way", || {
        figure("corecache_outgoing_bytes") < 3 << 20
    });
    let mut stream = client.fetch();
    stream.ask("blobs", 0, &keys);
    let answers = stream.answers(keys.len());
    assert!((0..3).all(|id| value(&answers, id) == large));
    finish(stream);
}
