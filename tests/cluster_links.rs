//! What nodes say to each other, and what they do not take from each other.

mod support;

use std::net::SocketAddr;

use corecache::cluster::Ring;
use corecache::server::pb::peer::{Answer, Ask, Hello, Part, Question, Refusal, Reply};
use grpcio::RpcStatusCode;
use support::client::Client;
use support::cluster::{Cluster, figure, free_addresses, placement, start_member, wait_for_links};
use support::fake_peer::{FakeLink, FakePeer, hello, value};
use support::origin::{Answer as OfOrigin, Origin};
use support::{Node, eventually};

fn origin() -> Origin {
    Origin::start(|path, _| OfOrigin::Value(path.as_bytes().to_vec()))
}

fn greeting(hello: Hello) -> Answer {
    let mut answer = Answer::new();
    answer.hello = Some(hello).into();
    answer
}

fn ask(hello: Option<Hello>, questions: Vec<Question>, epoch: u64) -> Ask {
    let mut ask = Ask::new();
    ask.hello = hello.into();
    ask.questions = questions;
    ask.epoch = epoch;
    ask
}

fn question(id: u64, key: &str, hops: u32) -> Question {
    let mut question = Question::new();
    question.id = id;
    question.group = "pages".to_owned();
    question.key = key.to_owned();
    question.left_ms = 10_000;
    question.hops = hops;
    question
}

/// A node that has this peer, and a key that the peer owns. A machine with other work is not to look like a peer that hangs.
fn node_with(peer: SocketAddr, origin: &Origin) -> (Node, String) {
    node_with_patience("20", peer, origin)
}

/// The same, which waits so many seconds for a peer that says nothing.
fn node_with_patience(seconds: &str, peer: SocketAddr, origin: &Origin) -> (Node, String) {
    let own = free_addresses(1)[0];
    let addresses = [own, peer];
    let group = origin.group("pages");
    let args = ["--group", &group, "--peer-patience", seconds];
    let node = start_member(own, &addresses, &args);
    let placement = placement(&addresses);
    let mut keys = (0..).map(|number| format!("k{number}"));
    let is_the_peers = |key: &String| {
        let owner = placement.owner(b"pages", key.as_bytes()).unwrap();
        owner.address == peer.to_string()
    };
    (node, keys.find(is_the_peers).unwrap())
}

#[test]
fn a_caller_of_another_major_version_is_refused_and_of_another_minor_is_not() {
    let origin = origin();
    let node = Node::start(["--group", &origin.group("pages")]);
    let mut link = FakeLink::open(node.addr);
    link.send(ask(Some(hello(2, 0)), Vec::new(), 0));
    let refusal = link.next().unwrap_err();
    refusal.expect(
        RpcStatusCode::FAILED_PRECONDITION,
        &["2.0", "1.1", "major versions"],
    );

    let mut link = FakeLink::open(node.addr);
    link.send(ask(Some(hello(1, 99)), vec![question(7, "key", 0)], 0));
    let mut replies = Vec::new();
    while !replies.iter().any(Reply::has_value) {
        let answer = link.next().unwrap().unwrap();
        replies.extend(answer.replies);
    }
    let expected = value(&question(7, "key", 0), b"/key");
    assert_eq!(replies.last(), Some(&expected));
}

#[test]
fn a_link_begins_with_hello() {
    let origin = origin();
    let node = Node::start(["--group", &origin.group("pages")]);
    let mut link = FakeLink::open(node.addr);
    link.send(ask(None, vec![question(1, "key", 1)], 0));
    let refusal = link.next().unwrap_err();
    refusal.expect(RpcStatusCode::INVALID_ARGUMENT, &["hello"]);
}

/// A peek loads nothing, a question of another ring is sent back, and what is held is answered whatever the ring.
#[test]
fn a_node_answers_what_it_holds_and_loads_for_its_own_ring_alone() {
    let origin = origin();
    let cluster = Cluster::start(
        2,
        &["--group", &origin.group("pages"), "--peer-patience", "20"],
    );
    let addresses = [cluster.nodes[0].addr, cluster.nodes[1].addr];
    let epoch = placement(&addresses).epoch().0;
    let keys = cluster.keys_of(0, "pages", "k", 3);
    let mut link = FakeLink::open(cluster.nodes[0].addr);
    let mut peek = question(1, &keys[0], 1);
    peek.peek = true;
    let questions = vec![peek, question(2, &keys[1], 1)];
    link.send(ask(Some(hello(1, 0)), questions, epoch ^ 1));
    let mut replies = Vec::new();
    while replies.len() < 2 {
        let answer = link.next().unwrap().unwrap();
        assert_eq!(answer.epoch, epoch);
        replies.extend(answer.replies);
    }
    assert_eq!(replies[0].refusal(), Refusal::NOT_HELD);
    assert_eq!(replies[1].refusal(), Refusal::LOAD_IT_YOURSELF);
    assert_eq!(origin.requests(&format!("/{}", keys[1])), 0);

    // Callers have a value a moment before it is held.
    let client = cluster.client(0);
    support::eventually("the value is held", || {
        client.get("pages", &keys[2]).unwrap();
        client.counters().hits > 0
    });
    link.send(ask(None, vec![question(3, &keys[2], 1)], epoch ^ 1));
    let answer = link.next().unwrap().unwrap();
    assert_eq!(answer.epoch, epoch, "each message says it");
    let held = &answer.replies[0];
    assert_eq!(held.value()[2..], *format!("/{}", keys[2]).as_bytes());
}

/// A key that is not the node's own, with the mark of having been passed on: it is not passed on again.
#[test]
fn what_was_passed_on_is_loaded_where_it_is() {
    let origin = origin();
    let cluster = Cluster::start(
        2,
        &["--group", &origin.group("pages"), "--peer-patience", "20"],
    );
    let addresses = [cluster.nodes[0].addr, cluster.nodes[1].addr];
    let epoch = placement(&addresses).epoch().0;
    let key = &cluster.keys_of(1, "pages", "k", 1)[0];
    let mut link = FakeLink::open(cluster.nodes[0].addr);
    link.send(ask(Some(hello(1, 0)), vec![question(1, key, 1)], epoch));
    while !link
        .next()
        .unwrap()
        .unwrap()
        .replies
        .iter()
        .any(Reply::has_value)
    {}
    assert_eq!(cluster.client(0).counters().loads, 1);
    assert_eq!(figure(&cluster.nodes[0], "peers_asked_total", ""), 0);
}

#[test]
fn a_peer_of_another_major_version_is_not_asked_and_of_a_newer_minor_is() {
    let origin = origin();
    let answer = |minor, major| {
        move |ask: &Ask| {
            let mut answer = match ask.hello.is_some() {
                true => greeting(hello(major, minor)),
                false => Answer::new(),
            };
            answer.replies = ask
                .questions
                .iter()
                .map(|q| value(q, b"from afar"))
                .collect();
            Some(answer)
        }
    };
    let newer = FakePeer::start(answer(7, 1));
    let (node, key) = node_with(newer.addr, &origin);
    wait_for_links(&node, 1);
    let got = Client::connect(node.addr).get("pages", &key).unwrap();
    assert_eq!(got, b"from afar");

    let other = FakePeer::start(answer(0, 2));
    let (node, key) = node_with(other.addr, &origin);
    let got = Client::connect(node.addr).get("pages", &key).unwrap();
    assert_eq!(got, format!("/{key}").into_bytes());
    assert_eq!(other.questions(), 0);
    support::eventually("it is said why", || {
        node.stderr().contains("major versions")
    });
    let open = "breaker=\"closed\"";
    assert_eq!(figure(&node, "peer_links", open), 0);
}

#[test]
fn answers_that_are_not_what_was_asked_for_are_refused_and_the_next_way_is_taken() {
    type Spoil = fn(&Question) -> Reply;
    let spoils: [Spoil; 4] = [
        // A value that has changed on its way.
        |question| {
            let mut reply = value(question, b"right");
            reply.set_value(value(question, b"wrong").value().to_vec());
            reply
        },
        // The value of another key.
        |question| {
            let mut other = question.clone();
            other.key += "x";
            value(&other, b"of another key")
        },
        // No frame, though its checksum is right.
        |question| {
            let mut reply = value(question, b"");
            reply.set_value(b"\x0a\x7fshort".to_vec());
            let bytes = [question.key.as_bytes(), b"\x0a\x7fshort"].concat();
            reply.checksum = crc32fast::hash(&bytes);
            reply
        },
        // A failure that is none.
        |question| {
            let mut reply = Reply::new();
            reply.id = question.id;
            reply.mut_failure().code = 77;
            reply
        },
    ];
    let origin = origin();
    for spoil in spoils {
        let peer = FakePeer::start(move |ask| {
            let mut answer = match ask.hello.is_some() {
                true => greeting(hello(1, 0)),
                false => Answer::new(),
            };
            answer.replies = ask.questions.iter().map(spoil).collect();
            Some(answer)
        });
        let (node, key) = node_with(peer.addr, &origin);
        wait_for_links(&node, 1);
        let client = Client::connect(node.addr);
        for round in 0..20 {
            let got = client.get("pages", &key).unwrap();
            assert_eq!(got, format!("/{key}").into_bytes(), "round {round}");
        }
        assert!(peer.questions() > 0);
        assert_eq!(
            figure(&node, "peer_garbage_total", "") as usize,
            peer.questions()
        );
    }
}

/// What is said to be large, and is then not sent as it should be, is loaded by who was asked.
#[test]
fn parts_that_are_not_the_value_that_was_asked_for_are_refused() {
    const VALUE: &[u8] = b"from afar";
    fn parts(question: &Question, value_bytes: u64, sent: &[u8], sealed: &[u8]) -> Vec<Part> {
        let (mut first, mut last) = (Part::new(), Part::new());
        first.value_bytes = value_bytes;
        first.data = sent.to_vec();
        last.checksum = crc32fast::hash(&[question.key.as_bytes(), sealed].concat());
        vec![first, last]
    }
    type Send = fn(&Question) -> Vec<Part>;
    let right: Send = |question| parts(question, 9, VALUE, VALUE);
    let wrong: [Send; 7] = [
        |question| parts(question, 9, b"from afaR", VALUE),
        |question| parts(question, 9, b"from afar.", b"from afar."),
        |question| parts(question, 9, b"from", b"from"),
        |question| parts(question, 10, b"from afar.", b"from afar."),
        |question| parts(question, 9, VALUE, VALUE)[..1].to_vec(),
        |question| parts(question, 9, VALUE, VALUE).into_iter().rev().collect(),
        |_| Vec::new(),
    ];
    let origin = origin();
    let ask = |value_bytes, send: Send| {
        let too_large = move |question: &Question| {
            let mut reply = Reply::new();
            reply.id = question.id;
            reply.set_refusal(Refusal::TOO_LARGE);
            reply.value_bytes = value_bytes;
            reply
        };
        let answer = move |ask: &Ask| {
            let mut answer = match ask.hello.is_some() {
                true => greeting(hello(1, 1)),
                false => Answer::new(),
            };
            answer.replies = ask.questions.iter().map(too_large).collect();
            Some(answer)
        };
        let peer = FakePeer::start_sending(answer, send);
        let (node, key) = node_with(peer.addr, &origin);
        wait_for_links(&node, 1);
        let got = Client::connect(node.addr).get("pages", &key).unwrap();
        let failed = figure(&node, "peers_pulls_failed_total", "");
        (got == VALUE, got == format!("/{key}").into_bytes(), failed)
    };
    assert_eq!(ask(9, right), (true, false, 0));
    for send in wrong {
        assert_eq!(ask(9, send), (false, true, 1));
    }
    // An older node does not say how large it is; and no node has so much room.
    assert_eq!(ask(0, right), (false, true, 0));
    assert_eq!(ask(1 << 40, right), (false, true, 0));
}

/// After some messages of garbage the breaker opens, and the peer is left alone for a while.
#[test]
fn a_peer_that_goes_on_with_garbage_is_not_asked_any_more() {
    let origin = origin();
    let peer = FakePeer::start(|ask| {
        let mut answer = match ask.hello.is_some() {
            true => greeting(hello(1, 0)),
            false => Answer::new(),
        };
        answer.replies = ask.questions.iter().map(|q| value(q, b"x")).collect();
        for reply in &mut answer.replies {
            reply.checksum ^= 1;
        }
        Some(answer)
    });
    let (node, _) = node_with(peer.addr, &origin);
    wait_for_links(&node, 1);
    let client = Client::connect(node.addr);
    for number in 0..200 {
        let key = format!("k{number}");
        assert_eq!(
            client.get("pages", &key).unwrap(),
            format!("/{key}").into_bytes()
        );
    }
    assert!(figure(&node, "peer_breaker_opened_total", "") > 0);
    assert!(peer.questions() < 50, "{} questions", peer.questions());
}

/// A peer that greets and then says nothing: the caller waits for as long as patience goes, no longer.
#[test]
fn a_peer_that_says_nothing_is_not_waited_for() {
    let origin = origin();
    let peer = FakePeer::start(|ask| ask.hello.is_some().then(|| greeting(hello(1, 0))));
    let (node, key) = node_with_patience("2", peer.addr, &origin);
    wait_for_links(&node, 1);
    let client = Client::connect(node.addr);
    let (got, took) = support::cluster::timed(|| client.get("pages", &key));
    assert_eq!(got.unwrap(), format!("/{key}").into_bytes());
    assert!(
        took.as_millis() >= 1900 && took.as_millis() < 20_000,
        "{took:?}"
    );
}

/// What the log of a node says of another one, by level.
#[test]
fn a_node_that_leaves_in_order_is_no_failure_and_one_that_is_killed_is() {
    let origin = origin();
    let args = ["--group", &origin.group("pages"), "--peer-patience", "20"];
    let mut cluster = Cluster::start(2, &args);
    let addresses: Vec<_> = cluster.nodes.iter().map(|node| node.addr).collect();
    let left = addresses[1];
    let says = |cluster: &Cluster, level: &str, words: &str| {
        let log = cluster.nodes[0].stderr();
        let of_level = |line: &&str| line.contains(level) && line.contains(words);
        log.lines().filter(of_level).count()
    };
    let failures = |cluster: &Cluster| says(cluster, "WARN", &format!("node {left} has failed"));
    // Nodes do not start at one moment.
    let before = failures(&cluster);
    assert!(cluster.nodes[1].terminate().success());
    let gone = format!("node {left} has ended its links: it is being shut down");
    let not_back = format!("node {left} is not back yet: ");
    eventually("it is told, and tried again", || {
        says(&cluster, "INFO", &gone) == 1 && says(&cluster, "INFO", &not_back) > 0
    });
    assert_eq!(failures(&cluster), before);

    cluster.nodes[1] = start_member(left, &addresses, &args);
    wait_for_links(&cluster.nodes[0], 1);
    cluster.nodes[1].signal("KILL");
    cluster.nodes[1].wait();
    eventually("it has failed", || failures(&cluster) > before);
    assert_eq!(says(&cluster, "INFO", &gone), 1);
}
