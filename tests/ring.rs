//! `corecache ring`, as a process: who owns a key, and what a change of members moves.

use std::process::{Command, Output};

use serde_json::Value;

const PEERS: &str = "a:8800,b:8800,c:8800=200@eu";

fn ring(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corecache"));
    command.arg("ring").args(arguments);
    command.output().expect("the program runs")
}

fn stdout(arguments: &[&str]) -> String {
    let output = ring(arguments);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn stderr(arguments: &[&str]) -> String {
    let output = ring(arguments);
    assert!(!output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

fn json(arguments: &[&str]) -> Vec<Value> {
    let text = stdout(&[arguments, &["--json"]].concat());
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("lines of JSON")
}

#[test]
fn it_says_who_owns_a_key_and_why() {
    let text = stdout(&["blobs", "hello.txt", "a", "--peers", PEERS]);
    assert_eq!(
        text,
        r#"3 members, 1048576 slots, epoch 530b5335eff40e54, checksum 3008522bcf143e99

key "hello.txt" of group "blobs": slot 959381
rank  member     weight       draw           bid  zone
   1  b:8800        100   0.022254   3.246812e-4
   2  c:8800        200   0.431794   4.077576e-3  eu
   3  a:8800        100   0.575712   1.236885e-2

key "a" of group "blobs": slot 260705
rank  member     weight       draw           bid  zone
   1  c:8800        200   0.048741   3.604467e-4  eu
   2  b:8800        100   0.194301   3.116871e-3
   3  a:8800        100   0.457124   8.813058e-3
"#
    );
}

#[test]
fn the_order_of_the_peers_and_their_spelling_are_nothing() {
    let arguments = |peers| ["blobs", "hello.txt", "--peers", peers];
    let one = stdout(&arguments(PEERS));
    assert_eq!(one, stdout(&arguments("C:08800=200@eu,B.:8800=100,a:8800")));
    let each = ["--peers", "b:8800", "--peers", "c:8800=200@eu"];
    let each = [&["blobs", "hello.txt", "--peers", "a:8800"], &each[..]].concat();
    assert_eq!(one, stdout(&each));
    assert_ne!(one, stdout(&arguments("a:8800,b:8800,c:8800=201@eu")));
}

#[test]
fn json_has_a_line_for_each_key() {
    let lines = json(&[
        "blobs",
        "hello.txt",
        "x \"y\"",
        "--peers",
        PEERS,
        "--ranks",
        "2",
    ]);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["slot"], 959_381);
    assert_eq!(lines[0]["epoch"], "530b5335eff40e54");
    assert_eq!(lines[0]["ranks"].as_array().map(Vec::len), Some(2));
    assert_eq!(lines[0]["ranks"][0]["member"], "b:8800");
    assert_eq!(lines[0]["ranks"][1]["weight"], 200);
    assert_eq!(lines[0]["ranks"][1]["zone"], "eu");
    assert!(lines[0]["ranks"][0]["bid"].as_f64() < lines[0]["ranks"][1]["bid"].as_f64());
    assert_eq!(lines[1]["key"], "x \"y\"");
}

#[test]
fn a_simulation_shows_balance_and_movement() {
    let text = stdout(&["--simulate", "100"]);
    assert!(
        text.starts_with("100 nodes of one weight, 1048576 slots, 10485.8 a node\n"),
        "{text}"
    );
    for part in ["busiest node over mean 1.0", "\n   joins ", "\n  leaves "] {
        assert!(text.contains(part), "{text}");
    }
    let [figures] = &json(&["--simulate", "100"])[..] else {
        panic!("more than a line");
    };
    let most = figures["busiest_over_mean"].as_f64().expect("a figure");
    let least = figures["idlest_over_mean"].as_f64().expect("a figure");
    assert!(
        (1.0..=1.04).contains(&most) && (0.96..=1.0).contains(&least),
        "{figures}"
    );
    for change in figures["changes"].as_array().expect("changes") {
        assert_eq!(change["slots_moved"], change["slots_needed"], "{figures}");
        assert_eq!(change["moved_over_needed"], 1.0);
        let moved = change["slots_moved"].as_u64().expect("a figure");
        assert!((9_500..=11_500).contains(&moved), "{figures}");
    }
}

#[test]
fn two_nodes_can_be_simulated() {
    let [figures] = &json(&["--simulate", "2"])[..] else {
        panic!("more than a line");
    };
    assert_eq!(figures["changes"][1]["moved_over_needed"], 1.0);
}

#[test]
fn what_makes_no_ring_is_refused() {
    for (arguments, part) in [
        (&["g", "k", "--peers", "a"][..], "no port; write host:port"),
        (
            &["g", "k", "--peers", "a:1,,b:1"],
            "no port; write host:port",
        ),
        (&["g", "k", "--peers", "a:1@z=2"], "host:port=weight@zone"),
        (
            &["g", "k", "--peers", "a:1,A:1=7"],
            "member \"a:1\" is there twice",
        ),
        (&["g", "k", "--peers", "a:1", "--ranks", "0"], "at least 1"),
        (&["g", "k"], "--peers <MEMBER>"),
        (&["g", "--peers", "a:1"], "<KEY>"),
        (
            &["g", "", "--peers", "a:1"],
            "a value is required for '[KEY]",
        ),
        (&["--simulate", "1"], "from 2 to 4095"),
        (&["--simulate", "4096"], "from 2 to 4095"),
        (&["g", "k", "--simulate", "3"], "cannot be used with"),
    ] {
        let text = stderr(arguments);
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}
