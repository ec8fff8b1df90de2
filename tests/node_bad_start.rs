//! Nodes that can not start: they end at once, with exit code 1 and what is wrong, or 2 and clap's words.

mod support;

use std::net::TcpListener;

use support::{corecache, folder, group, run};

/// Runs `corecache serve` with `args`; returns its exit code and what it wrote to standard error.
fn serve(args: &[&str]) -> (Option<i32>, String) {
    // Another node may be where the express door is otherwise.
    let output = run(corecache().args(["serve", "--express", "off"]).args(args));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), stderr)
}

#[track_caller]
fn assert_refused(code: i32, args: &[&str], words: &[&str]) {
    let (ended, stderr) = serve(args);
    assert_eq!(ended, Some(code), "{args:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: no {word:?} in {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let blobs = folder(&[]);
    let group = group("blobs", &blobs);
    let words = [address.as_str(), "in use"];

    let on_grpc = ["--group", &group, "--listen", &address, "--admin", "off"];
    assert_refused(1, &on_grpc, &words);
    let on_admin = [
        "--group",
        &group,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        &address,
    ];
    assert_refused(1, &on_admin, &[address.as_str(), "in use", "--admin"]);
}

#[test]
fn the_port_of_another_node() {
    let blobs = folder(&[]);
    let group = group("blobs", &blobs);
    let node = support::Node::start(["--group", &group]);
    let (grpc, admin) = (node.addr.to_string(), node.admin.to_string());

    let args = ["--group", &group, "--listen", &grpc, "--admin", "off"];
    assert_refused(1, &args, &[&grpc, "in use"]);
    let args = [
        "--group",
        &group,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        &admin,
    ];
    assert_refused(1, &args, &[&admin, "in use"]);
}

#[test]
fn an_address_that_is_not_here() {
    let blobs = folder(&[]);
    let args = [
        "--group",
        &group("blobs", &blobs),
        "--listen",
        "192.0.2.1:8800",
        "--admin",
        "off",
        "--insecure",
    ];
    assert_refused(1, &args, &["192.0.2.1:8800"]);
}

#[test]
fn beyond_loopback_without_tls() {
    let blobs = folder(&[]);
    let group = group("blobs", &blobs);
    for address in ["0.0.0.0:0", "[::]:0"] {
        let args = ["--group", &group, "--listen", address, "--admin", "off"];
        assert_refused(1, &args, &[address, "--tls-cert", "--insecure"]);
    }
    let args = [
        "--group",
        &group,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "0.0.0.0:0",
    ];
    assert_refused(1, &args, &["--admin 0.0.0.0:0", "--insecure"]);
}

#[test]
fn an_origin_that_is_not_there() {
    let folder = folder(&[("file", b"")]);
    let missing = group("missing", &folder) + "/nowhere";
    assert_refused(1, &["--group", &missing], &["missing", "/nowhere"]);
    let file = group("file", &folder) + "/file";
    assert_refused(1, &["--group", &file], &["--group file", "/file"]);
    let args = ["--group", "blobs=ftp://host/blobs"];
    assert_refused(1, &args, &["ftp://host/blobs", "dir:PATH"]);
}

#[test]
fn a_password_that_is_none() {
    let files = folder(&[
        ("empty", b"\n"),
        ("lines", b"user\npassword\n"),
        ("large", &[b'x'; 5000]),
        ("good", b"secret"),
    ]);
    let refused = |origin: &str, file: &str, words: &[&str]| {
        let path = format!("{}/{file}", files.path().display());
        let (group, file) = (format!("pages={origin}"), format!("pages={path}"));
        let args = ["--group", &group, "--origin-password-file", &file];
        assert_refused(1, &args, words);
        let (_, stderr) = serve(&args);
        assert!(!stderr.contains("secret"), "{stderr}");
    };
    let url = "http://reader@127.0.0.1:1/base";
    let of = |file: &str| {
        format!(
            "--origin-password-file pages={}/{file}: ",
            files.path().display()
        )
    };
    refused(url, "nowhere", &[&of("nowhere"), "No such file"]);
    refused(url, "", &[&of(""), "directory"]);
    refused(url, "empty", &[&of("empty"), "no password in it"]);
    refused(url, "lines", &[&of("lines"), "one line"]);
    refused(url, "large", &[&of("large"), "over 4096 bytes"]);
    let twice = "http://reader:secret@127.0.0.1:1/base";
    refused(twice, "good", &["--group pages", "leave one of them out"]);
    refused(
        "http://127.0.0.1:1/base",
        "good",
        &["http://USER@HOST/BASE"],
    );
    let folder = format!("dir:{}", files.path().display());
    refused(&folder, "good", &[&folder, "which is a folder"]);

    let group = group("blobs", &files);
    let args = ["--group", &group, "--origin-password-file", "pages=x"];
    assert_refused(1, &args, &["a password is given for group \"pages\""]);
    let args = ["--group", &group, "--origin-password-file", "x"];
    assert_refused(2, &args, &["NAME=FILE"]);
}

#[test]
fn groups_that_can_not_be() {
    let blobs = folder(&[]);
    let group = |name| group(name, &blobs);
    let (a, b) = (group("a"), group("b"));
    let refused = |args: &[&str], words: &[&str]| {
        let free = ["--listen", "127.0.0.1:0", "--admin", "off"];
        assert_refused(1, &[args, &free].concat(), words);
    };
    refused(&["--group", &a, "--group", &a], &["\"a\"", "twice"]);
    refused(&["--group", &group("a/b")], &["\"a/b\""]);
    refused(&["--group", &a, "--largest", "c=1MiB"], &["\"c\""]);
    let shares = ["--guarantee", "a=2MiB", "--largest", "a=1MiB"];
    refused(
        &[&["--group", &a], &shares[..]].concat(),
        &["\"a\"", "2097152", "1048576"],
    );
    let both = ["--group", &a, "--group", &b];
    let shares = ["--guarantee", "a=200MiB", "--guarantee", "b=200MiB"];
    refused(&[&both[..], &shares].concat(), &["419430400", "268435456"]);
    refused(&["--group", &a, "--memory", "0"], &["0 bytes"]);
    refused(&["--group", &a, "--memory", "1KiB"], &["1024 bytes"]);
}

#[test]
fn more_than_there_is() {
    let blobs = folder(&[]);
    let group = group("blobs", &blobs);
    let refused = |args: &[&str], words: &[&str]| {
        let free = ["--group", &group, "--listen", "127.0.0.1:0"];
        assert_refused(1, &[&free, args, &["--admin", "off"]].concat(), words);
    };
    refused(
        &["--memory", "1000TiB"],
        &["--memory 1000.0 TiB", "of this"],
    );
    let entry = ["--memory", "16MiB", "--entry-limit", "17MiB"];
    refused(&entry, &["--entry-limit 17.0 MiB", "--memory 16.0 MiB"]);
    let share = ["--memory", "16MiB", "--largest", "blobs=1GiB"];
    refused(&share, &["--largest blobs=1.0 GiB", "--memory 16.0 MiB"]);
    let loads = ["--loaders", "8", "--group-loads", "9"];
    refused(&loads, &["--group-loads 9", "--loaders 8"]);
    let request = ["--core-memory", "32MiB", "--max-request", "33MiB"];
    refused(
        &request,
        &["--max-request 33.0 MiB", "--core-memory 32.0 MiB"],
    );
}

#[test]
fn flags_that_are_none_and_values_that_can_not_be() {
    let blobs = folder(&[]);
    let group = group("blobs", &blobs);
    assert_refused(2, &[], &["--group <NAME=ORIGIN>"]);
    for (flag, value) in [
        ("--bogus", "1"),
        ("--group", "blobs"),
        ("--group", "=dir:."),
        ("--group", "blobs="),
        ("--listen", "8800"),
        ("--listen", "127.0.0.1"),
        ("--admin", "on"),
        ("--memory", "lots"),
        ("--memory", "1e9"),
        ("--memory", "99999999TiB"),
        ("--largest", "blobs"),
        ("--guarantee", "blobs=some"),
        ("--largest", "blobs=63KiB"),
        ("--entry-limit", "none"),
        ("--entry-limit", "0"),
        ("--entry-limit", "1073741825"),
        ("--cores", "3-1"),
        ("--cores", "0-9999"),
        ("--shards", "0"),
        ("--shards", "65537"),
        ("--loaders", "0"),
        ("--loaders", "4097"),
        ("--group-loads", "0"),
        ("--load-queue", "0"),
        ("--load-timeout", "0"),
        ("--load-timeout", "soon"),
        ("--load-wait", "0"),
        ("--load-least", "nan"),
        ("--max-connections", "0"),
        ("--max-connections", "1000001"),
        ("--max-streams", "0"),
        ("--max-request", "8191"),
        ("--max-request", "65MiB"),
        ("--max-metadata", "1023"),
        ("--max-metadata", "2MiB"),
        ("--max-idle", "0"),
        ("--max-idle", "never"),
        ("--max-age", "0"),
        ("--age-grace", "off"),
        ("--handshake-timeout", "0"),
        ("--core-memory", "1000"),
        ("--drain", "nan"),
        ("--tls-cert", "cert.pem"),
        ("--tls-key", "key.pem"),
    ] {
        assert_refused(2, &["--group", &group, flag, value], &[flag]);
    }
}
