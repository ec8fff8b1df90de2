//! TLS at the gRPC port, with a certificate that openssl makes for the test.

mod support;

use std::env;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use corecache::server::pb;
use corecache::server::pb::cache::{GetManyReply, GetManyRequest};
use grpcio::{
    CallOption, ChannelBuilder, ChannelCredentialsBuilder, Client, Environment, MethodType,
};
use support::cluster::{Cluster, figure};
use support::http2::Connection;
use support::{Node, corecache, folder, group, run};
use tempfile::TempDir;

/// A folder with a certificate for 127.0.0.1 and its key. None, loudly, where openssl is missing; in CI that fails.
fn identity() -> Option<TempDir> {
    let folder = folder(&[]);
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args(["-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder.path())
        .output();
    let reason = match made {
        Ok(output) if output.status.success() => return Some(folder),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => format!("openssl does not run: {error}"),
    };
    if env::var_os("CI").is_some_and(|ci| ci == "true") {
        panic!("{reason}");
    }
    // Past the test harness, which would swallow what a passing test prints.
    let _ = writeln!(io::stderr(), "skipped, no certificate: {reason}");
    None
}

/// Asks one node, over TLS.
fn get_many(node: &str, ca: &Path, keys: &[String]) -> GetManyReply {
    try_get_many(node, ca, keys).expect("the node answers")
}

fn try_get_many(node: &str, ca: &Path, keys: &[String]) -> grpcio::Result<GetManyReply> {
    call(&client(node, ca), keys)
}

fn client(node: &str, ca: &Path) -> Client {
    let credentials = ChannelCredentialsBuilder::new()
        .root_cert(std::fs::read(ca).unwrap())
        .build();
    let channel = ChannelBuilder::new(Arc::new(Environment::new(1))).set_credentials(credentials);
    Client::new(channel.connect(node))
}

fn call(client: &Client, keys: &[String]) -> grpcio::Result<GetManyReply> {
    let method = pb::method(MethodType::Unary, "/corecache.v1.Cache/GetMany");
    let mut request = GetManyRequest::new();
    request.group = "blobs".to_owned();
    request.keys = keys.to_vec();
    let options = CallOption::default().timeout(support::PATIENCE);
    client.unary_call(&method, &request, options)
}

fn files(identity: &TempDir) -> (PathBuf, PathBuf) {
    let file = |name| identity.path().join(name);
    (file("cert.pem"), file("key.pem"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

#[test]
fn a_client_that_trusts_the_certificate_is_served() {
    let Some(identity) = identity() else { return };
    let (cert, key) = files(&identity);
    let blobs = folder(&[("a", b"secret")]);
    let group = group("blobs", &blobs);
    let tls = ["--tls-cert", text(&cert), "--tls-key", text(&key)];
    let mut node = Node::start([&["--group", &group], &tls[..]].concat());
    let get = |args: &[&str]| {
        let address = node.addr.to_string();
        run(corecache()
            .args(["get", "blobs", "a", "--node", &address])
            .args(args))
    };

    let trusting = get(&["--ca", text(&cert)]);
    assert!(trusting.status.success(), "{trusting:?}");
    assert_eq!(trusting.stdout, b"secret");

    let plain = get(&["--timeout", "20"]);
    assert_eq!(plain.status.code(), Some(1), "{plain:?}");
    assert_eq!(plain.stdout, b"");
    let Some(other) = self::identity() else {
        return;
    };
    let distrusting = get(&["--timeout", "20", "--ca", text(&files(&other).0)]);
    assert_eq!(distrusting.status.code(), Some(1), "{distrusting:?}");
    assert_eq!(distrusting.stdout, b"");
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn the_express_door_has_the_same_tls() {
    let Some(identity) = identity() else { return };
    let (cert, key) = files(&identity);
    // More than any buffer on the way holds.
    let large: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
    let blobs = folder(&[("small", b"secret"), ("large", &large)]);
    let group = group("blobs", &blobs);
    let tls = ["--tls-cert", text(&cert), "--tls-key", text(&key)];
    let mut node = Node::start([&["--group", &group], &tls[..]].concat());
    let keys = ["small", "large"].map(str::to_owned);
    for _ in 0..2 {
        let got = get_many(&node.express.to_string(), &cert, &keys);
        assert_eq!(got.answers[0].value().value, b"secret");
        assert!(got.answers[1].value().value == large);
    }
    let mut plain = Connection::greet(node.express);
    assert!(plain.is_closed_within(support::PATIENCE));
    assert_eq!(node.terminate().code(), Some(0));
}

/// Files that are renewed, one after the other, as certbot and Kubernetes do it, and once by halves.
#[test]
fn renewed_certificates_are_shown_without_a_restart() {
    let (Some(identity), Some(renewed)) = (identity(), identity()) else {
        return;
    };
    let (cert, key) = files(&identity);
    let old_ca = identity.path().join("old.pem");
    std::fs::copy(&cert, &old_ca).unwrap();
    let (new_cert, new_key) = files(&renewed);
    let blobs = folder(&[("a", b"secret")]);
    let group = group("blobs", &blobs);
    let tls = ["--tls-cert", text(&cert), "--tls-key", text(&key)];
    let mut node = Node::start([&["--group", &group], &tls[..]].concat());
    let get = |door: SocketAddr, ca: &Path| {
        try_get_many(&door.to_string(), ca, &["a".to_owned()]).is_ok()
    };
    let doors = [node.addr, node.express];
    assert!(doors.iter().all(|door| get(*door, &old_ca)));
    std::fs::copy(&new_cert, &cert).unwrap();
    support::eventually("the halves do not fit", || {
        node.stderr().contains("what was there before is shown")
    });
    assert!(doors.iter().all(|door| get(*door, &old_ca)), "it serves on");
    std::fs::copy(&new_key, &key).unwrap();
    support::eventually("both are there", || {
        node.stderr().contains("is shown from now on")
    });
    for door in doors {
        assert!(get(door, &new_cert), "the new one is shown at {door}");
        assert!(
            !get(door, &old_ca),
            "the old one is shown no more at {door}"
        );
    }
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn nodes_with_tls_ask_each_other_over_tls() {
    let Some(identity) = identity() else { return };
    let (cert, key) = files(&identity);
    let blobs = folder(&[]);
    let names: Vec<_> = (0..40).map(|number| format!("k{number}")).collect();
    for name in &names {
        std::fs::write(blobs.path().join(name), name).unwrap();
    }
    let group = group("blobs", &blobs);
    let tls = ["--tls-cert", text(&cert), "--tls-key", text(&key)];
    let args = [&["--group", &group], &tls[..]].concat();
    let refused = run(corecache()
        .args(["serve", "--peers", "127.0.0.1:1", "--admin", "off"])
        .args(["--listen", "127.0.0.1:0"])
        .args(&args));
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && words.contains("--peer-ca"),
        "{words}"
    );

    let cluster = Cluster::start(2, &[&args[..], &["--peer-ca", text(&cert)]].concat());
    let address = cluster.nodes[0].addr.to_string();
    // The client of the command line would ask the owners itself.
    let got = get_many(&address, &cert, &names);
    for (name, answer) in names.iter().zip(&got.answers) {
        assert_eq!(answer.value().value, name.as_bytes());
    }
    let values = figure(&cluster.nodes[0], "peers_values_total", "");
    assert!(
        (5..40).contains(&values),
        "{values} came from the other node"
    );
    for name in &names[..4] {
        let got = run(corecache()
            .args(["get", "blobs", name, "--node", &address])
            .args(["--ca", text(&cert)]));
        assert_eq!(got.stdout, name.as_bytes(), "{got:?}");
    }
    let asked = figure(&cluster.nodes[0], "peers_values_total", "");
    assert_eq!(asked, values, "the client asks the owners");
}

#[test]
fn with_tls_a_node_may_listen_beyond_loopback() {
    let Some(identity) = identity() else { return };
    let (cert, key) = files(&identity);
    let blobs = folder(&[]);
    let output = run(corecache()
        .args(["serve", "--group", &group("blobs", &blobs)])
        // An address of nobody's machine: it is refused by the system, not by the node.
        .args(["--listen", "192.0.2.1:0", "--admin", "off"])
        .args(["--tls-cert", text(&cert), "--tls-key", text(&key)]));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("can not listen on 192.0.2.1:0"), "{stderr}");
    assert!(!stderr.contains("--insecure"), "{stderr}");
}

#[test]
fn a_certificate_or_key_that_can_not_be_used_is_told() {
    let (Some(identity), Some(other)) = (identity(), identity()) else {
        return;
    };
    let (cert, key) = files(&identity);
    let (_, other_key) = files(&other);
    let blobs = folder(&[("text", b"no certificate")]);
    let no_pem = blobs.path().join("text");
    let missing = blobs.path().join("missing.pem");
    let group = group("blobs", &blobs);
    let serve = |cert: &Path, key: &Path| {
        let output = run(corecache()
            .args(["serve", "--group", &group])
            .args(["--listen", "127.0.0.1:0", "--admin", "off"])
            .args(["--tls-cert", text(cert), "--tls-key", text(key)]));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (cert, key) in [
        (&no_pem, &key),
        (&cert, &no_pem),
        (&key, &cert),
        (&cert, &other_key),
    ] {
        let stderr = serve(cert, key);
        assert!(
            stderr.contains("certificate chain and private key"),
            "{stderr}"
        );
    }
    let stderr = serve(&missing, &key);
    assert!(
        stderr.contains("--tls-cert") && stderr.contains("missing.pem"),
        "{stderr}"
    );
    let stderr = serve(&cert, &missing);
    assert!(
        stderr.contains("--tls-key") && stderr.contains("missing.pem"),
        "{stderr}"
    );
}

#[test]
fn a_file_without_certificates_can_not_be_trusted() {
    let key = b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n";
    let folder = folder(&[("text", b"no certificate"), ("key", key)]);
    for file in ["text", "key"] {
        let file = folder.path().join(file);
        let output = run(corecache()
            .args(["get", "blobs", "a", "--node", "127.0.0.1:1"])
            .args(["--ca", text(&file)]));
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.contains("--ca") && stderr.contains("no certificate in it"),
            "{stderr}"
        );
    }
}

#[test]
fn who_speaks_tls_to_who_does_not_is_told_what_to_do() {
    let Some(identity) = identity() else { return };
    let (certificate, key) = files(&identity);
    let blobs = folder(&[("a", b"1")]);
    let group = group("blobs", &blobs);
    let plain = Node::start(["--group", &group]);
    let tls = ["--tls-cert", text(&certificate), "--tls-key", text(&key)];
    let secure = Node::start([&["--group", &group][..], &tls].concat());
    let fails = |node: &Node, args: &[&str], words: &str| {
        let output = run(corecache()
            .args(["get", "blobs", "a", "--node", &node.addr.to_string()])
            .args(args));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    };
    fails(&secure, &[], "give --ca FILE");
    fails(&plain, &["--ca", text(&certificate)], "leave --ca out");
}

/// One core, one thread: on it hundreds begin a handshake at once, each of which is the work of many calls, beside a client that has
/// its connection.
#[test]
fn handshakes_of_many_do_not_keep_a_call_from_its_turn() {
    const AT_ONCE: usize = 300;
    const CALLS_BEFORE_THE_LAST: usize = 20;
    let Some(identity) = identity() else { return };
    let (cert, key) = files(&identity);
    let blobs = folder(&[("a", b"secret")]);
    let group = group("blobs", &blobs);
    let tls = ["--tls-cert", text(&cert), "--tls-key", text(&key)];
    let args = ["--group", &group, "--cores", "0"];
    let node = Node::start([&args[..], &tls].concat());
    let express = node.express.to_string();
    let client = client(&express, &cert);
    let keys = ["a".to_owned()];
    call(&client, &keys).expect("the node answers");
    let hello = support::hello::hello();
    let mut begun: Vec<_> = (0..AT_ONCE)
        .map(|_| Connection::open(node.express))
        .collect();
    for connection in &mut begun {
        connection.send(&hello).expect("a hello is taken");
    }
    let last = thread::spawn(move || {
        for connection in &mut begun {
            let answered = connection.0.read_exact(&mut [0]);
            answered.expect("each hello is answered");
        }
    });
    let mut calls = 0;
    while !last.is_finished() {
        let got = call(&client, &keys).expect("the node answers");
        assert_eq!(got.answers[0].value().value, b"secret");
        calls += 1;
    }
    last.join().expect("all are answered");
    assert!(calls > CALLS_BEFORE_THE_LAST, "{calls} calls meanwhile");
}

/// Who says hello and has gone costs no signature, and whoever has said nothing is closed.
#[test]
fn a_handshake_that_does_not_come_to_its_end_is_closed_in_time() {
    let Some(identity) = identity() else { return };
    let (cert, key) = files(&identity);
    let blobs = folder(&[("a", b"secret")]);
    let group = group("blobs", &blobs);
    let tls = ["--tls-cert", text(&cert), "--tls-key", text(&key)];
    let args = ["--group", &group, "--handshake-timeout", "0.5"];
    let node = Node::start([&args[..], &tls].concat());
    let hello = support::hello::hello();
    // Nothing, a half, and all that it takes to be answered.
    for said in [&[][..], &hello[..hello.len() / 2], &hello] {
        let mut connection = Connection::open(node.express);
        connection.send(said).expect("a hello is taken");
        assert!(connection.is_closed_within(support::PATIENCE));
    }
    let mut gone = Connection::open(node.express);
    gone.send(&hello[..hello.len() / 2])
        .expect("a hello is taken");
    gone.finish();
    assert!(gone.is_closed_within(support::PATIENCE));
    let got = get_many(&node.express.to_string(), &cert, &["a".to_owned()]);
    assert_eq!(got.answers[0].value().value, b"secret");
}

/// A hello may have up to 64 KiB: what has come of it counts as requests do.
#[test]
fn what_handshakes_keep_is_bounded() {
    const CONNECTIONS: usize = 120;
    let Some(identity) = identity() else { return };
    let (cert, key) = files(&identity);
    let blobs = folder(&[("a", b"secret")]);
    let group = group("blobs", &blobs);
    let tls = ["--tls-cert", text(&cert), "--tls-key", text(&key)];
    let limits = ["--core-memory", "4MiB", "--max-request", "1MiB"];
    let args = ["--group", &group, "--cores", "0"];
    let node = Node::start([&args[..], &tls, &limits].concat());
    let client = client(&node.express.to_string(), &cert);
    let keys = ["a".to_owned()];
    call(&client, &keys).expect("the node answers");
    let before = node.memory_bytes("VmRSS");
    // The head of a hello of 65,000 bytes, which comes in records of 4096, and never to its end.
    let mut hello = vec![1, 0, 0xfd, 0xe8];
    hello.resize(56 << 10, 0);
    let record = |part: &[u8]| [&[22, 3, 1, 16, 0], part].concat();
    let records: Vec<u8> = hello.chunks(4096).flat_map(record).collect();
    let held: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut connection = Connection::open(node.express);
            connection.send(&records).expect("a hello is taken");
            connection
        })
        .collect();
    support::eventually("some are cut", || {
        let (_, page) = support::http::get(node.admin, "/metrics");
        let cut = "corecache_express_connections_cut_total ";
        let line = page.lines().find_map(|line| line.strip_prefix(cut));
        line.expect("the figure is there") != "0"
    });
    call(&client, &keys).expect("the others are not cut");
    let growth = node.memory_bytes("VmHWM") - before;
    assert!(growth < 24 << 20, "{growth} bytes more");
    drop(held);
}
