//! The examples that need a cluster, or are a node, as processes. (Those of the tutorial are in `say_name`.)

#[path = "support/example.rs"]
mod example;
mod support;

use std::net::TcpListener;
use std::process::{Command, Output};

use example::example;
use support::cluster::{Cluster, figure};
use support::origin::{Answer, Origin};
use support::run;

/// What it prints, and its exit code.
fn told(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        text(&output.stdout),
        text(&output.stderr),
        output.status.code(),
    )
}

#[test]
fn a_cluster_is_asked_for_one_key_and_for_many() {
    let origin = Origin::start(|path, _| match path {
        "/missing" => Answer::Status("404 Not Found", "no such page"),
        _ => Answer::Value(path.as_bytes().to_vec()),
    });
    let args = ["--group", &origin.group("pages"), "--peer-patience", "20"];
    let cluster = Cluster::start(2, &args);
    let node = cluster.nodes[0].addr.to_string();
    let ask = |args: &[&str]| told(&run(Command::new(example("ask_cluster")).args(args)));
    let (stdout, stderr, code) = ask(&[&node, "pages", "a", "bcd", "missing", "ef"]);
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(
        lines[..3],
        ["a alone: 2 bytes", "a: 2 bytes", "bcd: 4 bytes"]
    );
    assert!(
        lines[3].starts_with("missing: ") && lines[3].contains("NOT_FOUND"),
        "{stdout}"
    );
    assert_eq!(lines[4..], ["ef: 3 bytes"]);
    // Each key went to its owner.
    for node in &cluster.nodes {
        assert_eq!(figure(node, "peers_asked_total", ""), 0);
    }

    let (stdout, ..) = ask(&[&node, "books", "a"]);
    let no_group = "a alone: no group \"books\"";
    assert!(stdout.starts_with(no_group), "{stdout}");
    for (args, words) in [
        (&["127.0.0.1:1", "pages", "a"][..], "127.0.0.1:1"),
        (&["127.0.0.1:1", "pages"], "write ask_cluster ["),
    ] {
        let (stdout, stderr, code) = ask(args);
        assert_eq!((code, &*stdout), (Some(1), ""), "{stderr}");
        assert!(
            stderr.starts_with("ask_cluster: ") && stderr.contains(words),
            "{stderr}"
        );
    }
}

#[test]
fn what_a_node_of_ones_own_can_not_have_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    let in_use = format!("own_loader: can not listen on {taken}: Address already in use");
    for (args, words) in [
        (&[&*taken][..], &*in_use),
        (&[free, "64", "0", "1", &taken], &in_use),
        (&["nonsense"], "\"nonsense\" is no address"),
        (&[free, "much"], "\"much\" is no number of MiB"),
        (&[free, "0"], "a budget of 0 bytes is too small"),
        (&[free, "1", "x"], "\"x\" is no list of cores"),
        (&[free, "1", "0", "x"], "\"x\" is no number of bytes"),
        (&[free, "1", "0", "1", "x"], "\"x\" is no address"),
        (&[free, "1", "0", "1", free, "x"], "write own_loader ["),
    ] {
        let output = run(Command::new(example("own_loader")).args(args));
        let (stdout, stderr, code) = told(&output);
        assert_eq!((code, &*stdout), (Some(1), ""), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
        assert!(!stderr.contains("Error"), "{args:?}: {stderr}");
    }
}
