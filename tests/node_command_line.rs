//! The command line, as a user or a script sees it.

mod support;

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::process::{Output, Stdio};

use support::cluster::free_address;
use support::{Node, corecache, folder, group, run};

fn get(node: SocketAddr, args: &[&str]) -> Output {
    let address = node.to_string();
    run(corecache().args(["get", "--node", &address]).args(args))
}

#[test]
fn get_writes_the_value_as_it_is() {
    let value: Vec<u8> = (0..100_000u32).map(|i| i.to_le_bytes()[0]).collect();
    let blobs = folder(&[("sub/a b", &value), ("empty", b"")]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);

    let output = get(node.addr, &["blobs", "sub/a b"]);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout == value && output.stderr.is_empty());
    let output = get(node.addr, &["blobs", "empty"]);
    assert!(output.status.success() && output.stdout.is_empty());

    let file = blobs.path().join("copy");
    let output = get(
        node.addr,
        &["blobs", "sub/a b", "-o", file.to_str().unwrap()],
    );
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty() && fs::read(&file).unwrap() == value);
}

#[test]
fn get_writes_large_values_and_parts_of_them() {
    let value: Vec<u8> = (0..6_000_000u32).map(|i| (i / 3) as u8).collect();
    let blobs = folder(&[("large", &value)]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);

    let output = get(node.addr, &["blobs", "large"]);
    assert!(output.status.success() && output.stdout == value);
    let part = ["blobs", "large", "--offset", "1MiB", "--length", "2000000"];
    let output = get(node.addr, &part);
    assert!(output.status.success() && output.stdout == value[1 << 20..][..2_000_000]);

    let file = blobs.path().join("copy");
    let path = file.to_str().unwrap();
    fs::write(&file, "what was there").unwrap();
    let beyond = ["blobs", "large", "--offset", "6000001", "-o", path];
    let output = get(node.addr, &beyond);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("OUT_OF_RANGE") && stderr.contains("6000001"),
        "{stderr}"
    );
    assert_eq!(fs::read(&file).unwrap(), b"what was there");
    let output = get(node.addr, &["blobs", "large", "-o", path]);
    assert!(output.status.success() && fs::read(&file).unwrap() == value);
}

#[test]
fn a_value_that_breaks_off_is_an_error() {
    let value = vec![7; 60 << 20];
    let blobs = folder(&[("large", &value)]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    // A pipe holds the command up as long as nobody reads it.
    let mut child = corecache()
        .args(["get", "blobs", "large", "--node", &node.addr.to_string()])
        .args(["-o", "/dev/stdout"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    drop(node);
    let output = child.wait_with_output().unwrap();
    assert!(output.stdout.len() < value.len() - 1);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let words = ["UNAVAILABLE", "/dev/stdout has what came before"];
    assert!(words.iter().all(|word| stderr.contains(word)), "{stderr}");
}

#[test]
fn get_fails_in_words() {
    let blobs = folder(&[("a", b"1")]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let file = blobs.path().join("copy");
    let fails = |output: Output, words: &[&str]| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(output.stdout, b"");
        for word in words {
            assert!(stderr.contains(word), "no {word:?} in {stderr}");
        }
    };
    let address = node.addr.to_string();

    let missing = get(
        node.addr,
        &["blobs", "missing", "-o", file.to_str().unwrap()],
    );
    fails(missing, &[&address, "NOT_FOUND", "no key \"missing\""]);
    assert!(!file.exists());
    let unknown = get(node.addr, &["pictures", "a"]);
    fails(unknown, &[&address, "NOT_FOUND", "no group \"pictures\""]);
    let nowhere = get(node.addr, &["blobs", "a", "-o", "/nowhere/copy"]);
    fails(nowhere, &["/nowhere/copy"]);
    let down = free_address();
    let words = [&*down.to_string(), "UNAVAILABLE", "refused"];
    fails(get(down, &["blobs", "a"]), &words);
    let stats = run(corecache().args(["stats", "--node", &down.to_string()]));
    fails(stats, &words);

    // A port that takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = get(
        silent.local_addr().unwrap(),
        &["blobs", "a", "--timeout", "2"],
    );
    fails(
        silent,
        &["UNAVAILABLE", "the node says nothing", " s and more"],
    );
}

#[test]
fn a_node_without_a_port_is_refused() {
    for command in [&["get", "blobs", "a"][..], &["stats"]] {
        for node in ["127.0.0.1", "localhost:", "127.0.0.1:0", ""] {
            let output = run(corecache().args(command).args(["--node", node]));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{node:?}: {stderr}");
            assert!(
                stderr.contains("--node") && stderr.contains("HOST:PORT"),
                "{stderr}"
            );
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let blobs = folder(&[("large", &vec![7; 1 << 20])]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let mut child = corecache()
        .args(["get", "blobs", "large", "--node", &node.addr.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn a_node_serves_when_nobody_reads_its_output() {
    let blobs = folder(&[("a", b"1")]);
    let address = free_address();
    let mut child = corecache()
        .args(["serve", "--group", &group("blobs", &blobs)])
        .args([
            "--listen",
            &address.to_string(),
            "--admin",
            "off",
            "--express",
            "off",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut last = None;
    support::eventually("the node serves", || {
        let ended = child.try_wait().unwrap();
        assert_eq!(ended, None, "the node has ended");
        let output = get(address, &["blobs", "a"]);
        let is_served = output.status.success();
        last = Some(output);
        is_served
    });
    assert_eq!(last.unwrap().stdout, b"1");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn help_tells_each_flag() {
    for command in ["serve", "get", "explain", "plan", "stats"] {
        let output = run(corecache().args([command, "--help"]));
        assert!(output.status.success());
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("Usage: corecache"), "{help}");
        assert!(output.stderr.is_empty());
    }
    for (more, less) in [
        (&["help", "--help"][..], &["help"][..]),
        (&["help", "get", "-h"], &["get", "--help"]),
    ] {
        let [more, less] = [more, less].map(|args| run(corecache().args(args)));
        assert!(more.status.success(), "{more:?}");
        assert_eq!(more.stdout, less.stdout);
    }
    let output = run(&mut corecache());
    assert_eq!(output.status.code(), Some(2));
    let output = run(corecache().arg("--version"));
    let version = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        version.trim(),
        concat!("corecache ", env!("CARGO_PKG_VERSION"))
    );
}
