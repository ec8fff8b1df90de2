//! An HTTP origin that fails, truncates, is slow, is down, and recovers: its callers are told, and nothing of it is kept.

mod support;

use grpcio::RpcStatusCode;
use support::client::Client;
use support::cluster::free_address;
use support::origin::{Answer, Latch, Origin};
use support::{Node, folder};

#[test]
fn what_fails_is_not_kept_and_what_recovers_is_served() {
    let origin = Origin::start(|_, number| match number {
        1 => Answer::Status("503 Service Unavailable", "the disk is on fire"),
        2 => Answer::Raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"),
        3 => Answer::Raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"),
        4 => Answer::Raw(""),
        5 => Answer::Status("404 Not Found", ""),
        _ => Answer::Value(b"whole".to_vec()),
    });
    let node = Node::start(["--group", &origin.group("pages")]);
    let client = Client::connect(node.addr);
    let refusal = || client.get("pages", "index").unwrap_err();

    let unavailable = RpcStatusCode::UNAVAILABLE;
    let first = refusal();
    first.expect(unavailable, &["index", "the origin answered 503"]);
    // Its address and its words are for those who run the node.
    let group = origin.group("pages");
    let (_, address) = group.split_once("//").unwrap();
    for word in ["the disk is on fire", address] {
        assert!(!first.text.contains(word), "{first:?}");
        support::eventually("it is logged", || node.stderr().contains(word));
    }
    refusal().expect(unavailable, &["broke off after 5 bytes"]);
    refusal().expect(unavailable, &["broke off after 5 bytes"]);
    refusal().expect(unavailable, &["closed the connection without an answer"]);
    refusal().expect(RpcStatusCode::NOT_FOUND, &["index", "404"]);
    assert_eq!(client.counters().entries, 0);

    assert_eq!(client.get("pages", "index").unwrap(), b"whole");
    support::eventually("the value is held", || client.counters().entries == 1);
    assert_eq!(client.get("pages", "index").unwrap(), b"whole");
    assert_eq!(origin.requests("/index"), 6);
    let counters = client.counters();
    assert_eq!((counters.load_failures, counters.not_found), (4, 1));
}

#[test]
fn an_origin_that_is_down_is_unavailable() {
    let address = free_address();
    let node = Node::start(["--group", &format!("pages=http://{address}")]);
    let client = Client::connect(node.addr);
    let refusal = client.get("pages", "index").unwrap_err();
    refusal.expect(RpcStatusCode::UNAVAILABLE, &["index", "pages", "refused"]);
    let address = address.to_string();
    assert!(!refusal.text.contains(&address), "{refusal:?}");
    support::eventually("it is logged", || node.stderr().contains(&address));
}

#[test]
fn an_origin_that_does_not_let_the_node_in() {
    let origin = Origin::start(|path, _| match path {
        "/401" => Answer::Status("401 Unauthorized", ""),
        _ => Answer::Status("403 Forbidden", ""),
    });
    let node = Node::start(["--group", &origin.group("pages")]);
    let client = Client::connect(node.addr);
    for status in ["401", "403"] {
        let refusal = client.get("pages", status).unwrap_err();
        refusal.expect(
            RpcStatusCode::FAILED_PRECONDITION,
            &["pages", status, "does not let this node in"],
        );
    }
}

#[test]
fn a_password_may_stand_in_a_file() {
    let origin = Origin::start(|_, _| Answer::Value(b"for members".to_vec()));
    let files = folder(&[("password", b"p@s:s\n")]);
    let group = origin.group("pages").replace("http://", "http://m%65@");
    let file = format!("pages={}/password", files.path().display());
    let node = Node::start(["--group", &group, "--origin-password-file", &file]);
    let client = Client::connect(node.addr);
    assert_eq!(client.get("pages", "index").unwrap(), b"for members");
    let head = origin.last_head().to_lowercase();
    // `printf me:p@s:s | base64`
    let expected = "\r\nauthorization: basic bwu6cebzonm=\r\n";
    assert!(head.contains(expected), "{head}");
}

#[test]
fn an_origin_that_is_slow_exceeds_the_deadline() {
    let never = Latch::default();
    let origin = Origin::start(move |path, _| {
        if path == "/slow" {
            never.wait();
        }
        Answer::Value(b"fast".to_vec())
    });
    let node = Node::start(["--group", &origin.group("pages"), "--load-timeout", "0.3"]);
    let client = Client::connect(node.addr);
    let refusal = client.get("pages", "slow").unwrap_err();
    refusal.expect(
        RpcStatusCode::DEADLINE_EXCEEDED,
        &["slow", "did not answer in the time there was"],
    );
    assert_eq!(client.counters().load_failures, 1);
}
