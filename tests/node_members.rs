//! Who is in the cluster: what a node takes from its flags, and what it shows.

mod support;

use std::fs;
use std::net::SocketAddr;

use support::cluster::free_address;
use support::dns::{Name, NameServer};
use support::{Node, corecache, eventually, folder, group, http, run};

/// A figure of the metrics page, by its name and labels.
fn figure(node: &Node, name: &str) -> f64 {
    let (_, page) = http::get(node.admin, "/metrics");
    let line = page.lines().find_map(|line| {
        let (key, value) = line.rsplit_once(' ')?;
        (key == format!("corecache_{name}")).then(|| value.parse().ok())?
    });
    line.unwrap_or_else(|| panic!("no {name} in {page}"))
}

/// What a node says that does not start with these flags.
fn refusal(args: &[&str]) -> String {
    let blobs = folder(&[]);
    let mut command = corecache();
    command.args(["serve", "--admin", "off", "--express", "off"]);
    command
        .args(["--group", &group("blobs", &blobs)])
        .args(args);
    // Where it would listen otherwise another node may be.
    if !args.contains(&"--listen") {
        command.args(["--listen", &free_address().to_string()]);
    }
    let output = run(&mut command);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ends a node. Returns where it listened.
fn listen_again(mut node: Node) -> SocketAddr {
    assert_eq!(node.terminate().code(), Some(0));
    node.addr
}

#[test]
fn a_list_of_peers_has_the_own_address_whether_it_is_given_or_not() {
    let blobs = folder(&[]);
    let blobs = group("blobs", &blobs);
    let start = |args: &[&str]| Node::start([&["--group", &*blobs], args].concat());

    let node = start(&["--peers", "127.0.0.1:1,127.0.0.1:2=50@a"]);
    assert_eq!(figure(&node, "members"), 3.0);
    says(&node, "joined: 127.0.0.1:1 127.0.0.1:2=50@a");
    assert_eq!(figure(&node, "members_source_up{source=\"list\"}"), 1.0);
    assert_eq!(
        http::get(node.admin, "/readyz"),
        (200, "ready\n".to_owned())
    );

    let peers = "127.0.0.1:1,127.0.0.1:2";
    let node = start(&["--peers", peers, "--advertise", "127.0.0.1:2"]);
    assert_eq!(figure(&node, "members"), 2.0);
    let node = start(&[]);
    assert_eq!(figure(&node, "members"), 1.0);
    assert_eq!(figure(&node, "members_source_up{source=\"none\"}"), 1.0);
}

#[test]
fn an_option_of_another_source_is_refused() {
    let options: [(&str, &[&str]); 6] = [
        ("--peers-dns", &["--dns-every", "1"]),
        ("--etcd", &["--etcd-prefix", "/a/"]),
        ("--etcd", &["--etcd-ttl", "5"]),
        ("--etcd", &["--etcd-ca", "ca.pem"]),
        (
            "--etcd",
            &["--etcd-user", "a", "--etcd-password-file", "password"],
        ),
        (
            "--etcd",
            &[
                "--etcd-cert",
                "a.pem",
                "--etcd-key",
                "key.pem",
                "--etcd-ca",
                "ca.pem",
            ],
        ),
    ];
    let sources = [
        ("--peers", "127.0.0.1:1"),
        ("--peers-file", "peers"),
        ("--peers-dns", "localhost:1"),
        ("--etcd", "127.0.0.1:1"),
    ];
    for (of, option) in options {
        for (source, members) in sources.iter().filter(|(source, _)| *source != of) {
            let args = [&[*source, *members], option].concat();
            let words = refusal(&args);
            assert!(
                words.contains(&format!("is an option of {of}, ")),
                "{words}"
            );
            assert!(
                words.contains(&format!("{of} in place of {source}")),
                "{words}"
            );
        }
        let words = refusal(option);
        assert!(
            words.contains(&format!("option of {of}, which is not given")),
            "{words}"
        );
    }
}

#[test]
fn an_own_address_that_can_not_be_right_is_told() {
    let blobs = folder(&[]);
    let blobs = group("blobs", &blobs);
    let args = ["--group", &blobs, "--peers", "192.0.2.1:1"];
    let node = Node::start(args);
    let doubt = |reason| format!("members_own_address_doubt{{reason=\"{reason}\"}}");
    assert_eq!(figure(&node, &doubt("loopback")), 1.0);
    assert_eq!(figure(&node, &doubt("unresolved")), 0.0);
    let (status, page) = http::get(node.admin, "/readyz");
    assert_eq!(status, 200);
    assert!(page.contains("192.0.2.1:1 is not"), "{page}");

    // The list has it by a name, and another one than that of its address.
    let listen = free_address();
    let name = format!("localhost:{}", listen.port());
    let peers = format!("{name},192.0.2.1:1");
    let list = ["--group", &*blobs, "--peers", &peers];
    let node = Node::start_with(corecache(), listen, list);
    eventually("the node is told", || figure(&node, &doubt("alias")) == 1.0);
    says(&node, &format!("have this node as {name}"));
    let list = [&list[..], &["--advertise", &name]].concat();
    let node = Node::start_with(corecache(), listen_again(node), list);
    assert_eq!(figure(&node, "members"), 2.0);
    assert_eq!(figure(&node, &doubt("alias")), 0.0);

    let args = [&args[..], &["--advertise", "nobody.invalid:8800"]].concat();
    let node = Node::start(args);
    eventually("the doubt is shown", || {
        figure(&node, &doubt("unresolved")) == 1.0
    });
    says(&node, "nobody.invalid:8800 may be wrong");
}

/// Waits until the node has written these words to its log.
fn says(node: &Node, words: &str) {
    eventually(words, || node.stderr().contains(words));
}

fn see(node: &Node, count: f64) {
    let what = format!("{count} members");
    eventually(&what, || figure(node, "members") == count);
}

#[test]
fn a_file_of_peers_is_read_again_when_it_changes() {
    let home = folder(&[("peers", b"# ours\n127.0.0.1:1\n127.0.0.1:2=50@a # small\n")]);
    let path = home.path().join("peers");
    let other = home.path().join("other");
    let group = group("blobs", &home);
    let node = Node::start(["--group", &*group, "--peers-file", path.to_str().unwrap()]);
    let up = "members_source_up{source=\"file\"}";
    assert_eq!(figure(&node, "members"), 3.0);
    says(&node, "joined: 127.0.0.1:1 127.0.0.1:2=50@a");

    // By one that takes its place.
    fs::write(&other, "127.0.0.1:1\n").unwrap();
    fs::rename(&other, &path).unwrap();
    see(&node, 2.0);
    says(&node, "left: 127.0.0.1:2=50@a");
    // In place.
    fs::write(&path, "127.0.0.1:1=7\n127.0.0.1:3\n127.0.0.1:4\n").unwrap();
    see(&node, 4.0);
    says(&node, "changed: 127.0.0.1:1=7");

    // Damaged, emptied, gone: the last view stays.
    for (content, words) in [("127.0.0.1:1\nnonsense\n", "line 2"), ("", "no member")] {
        fs::write(&path, content).unwrap();
        eventually(words, || {
            let (status, page) = http::get(node.admin, "/readyz");
            status == 200 && page.contains("file is down") && page.contains(words)
        });
        assert_eq!(figure(&node, "members"), 4.0);
    }
    let told = || node.stderr().matches("no member is in it").count();
    says(&node, "no member is in it");
    let before = told();
    fs::remove_file(&path).unwrap();
    says(&node, "No such file");
    // At once: who writes in place may be held up while it is empty.
    fs::write(&other, "127.0.0.1:1\n").unwrap();
    fs::rename(&other, &path).unwrap();
    see(&node, 2.0);
    says(&node, "file is heard again");
    assert_eq!(told(), before, "not of the file that came after it");
    fs::rename(&path, &other).unwrap();
    eventually("it is gone", || figure(&node, up) == 0.0);
    assert_eq!(figure(&node, "members"), 2.0);
    fs::rename(&other, &path).unwrap();
    eventually("it is back", || figure(&node, up) == 1.0);
}

#[test]
fn the_addresses_of_a_name_are_the_members() {
    let name = |addresses: &[&str]| {
        Name::Has(
            addresses
                .iter()
                .map(|address| address.parse().unwrap())
                .collect(),
        )
    };
    let both = name(&["127.0.0.1", "127.0.0.2", "fd00::1", "fd00::2"]);
    let Some(server) = NameServer::start(both) else {
        return;
    };
    let blobs = folder(&[]);
    // The port of all nodes, on addresses of their own.
    let listen = free_address();
    let port = listen.port();
    let dns = format!("cache.example:{port}");
    let group = group("blobs", &blobs);
    let args = [
        "--group",
        &*group,
        "--peers-dns",
        &dns,
        "--dns-every",
        "0.05",
    ];
    let mut node = Node::start_with(server.node(), listen, args);
    let unlisted = "members_own_address_doubt{reason=\"unlisted\"}";
    let up = "members_source_up{source=\"dns\"}";
    assert_eq!(figure(&node, "members"), 2.0);
    assert_eq!((figure(&node, up), figure(&node, unlisted)), (1.0, 0.0));
    says(&node, &format!("joined: 127.0.0.2:{port}"));
    server.say(name(&["127.0.0.3", "127.0.0.2", "127.0.0.1"]));
    see(&node, 3.0);

    for broken in [Name::Missing, name(&[]), Name::Silent] {
        server.say(broken);
        eventually("it is down", || figure(&node, up) == 0.0);
        assert_eq!(figure(&node, "members"), 3.0);
        let (status, page) = http::get(node.admin, "/readyz");
        assert!(status == 200 && page.contains("dns is down"), "{page}");
        server.say(name(&["127.0.0.3", "127.0.0.2", "127.0.0.1"]));
        eventually("it is heard again", || figure(&node, up) == 1.0);
    }

    server.say(name(&["127.0.0.2"]));
    eventually("the own address is doubted", || {
        figure(&node, unlisted) == 1.0
    });
    see(&node, 2.0);
    says(&node, "the other nodes do not know this one");
    server.say(name(&["127.0.0.1", "127.0.0.2"]));
    eventually("it is not any more", || figure(&node, unlisted) == 0.0);
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn flags_that_make_no_member_are_refused() {
    for (args, words) in [
        (&["--peers", "a"][..], "no port"),
        (&["--peers", "a:1,a:1"], "member \"a:1\" is there twice"),
        (
            &["--peers", "a:1", "--advertise", "0.0.0.0:1"],
            "nobody's address",
        ),
        (
            &["--peers", "a:1", "--advertise", "b:1=7"],
            "--weight and --zone",
        ),
        (&["--peers", "a:1", "--weight", "0"], "--weight"),
        (&["--peers", "a:1", "--zone", "b c"], "letters, digits"),
        (&["--advertise", "a:1"], "--peers"),
        (&["--etcd-ttl", "5"], "option of --etcd"),
        (
            &["--peers", "a:1", "--peers-file", "b"],
            "cannot be used with",
        ),
        (
            &["--peers-file", "/nowhere/peers"],
            "--peers-file /nowhere/peers: No such file",
        ),
        (&["--peers-dns", "a"], "no port"),
        (
            &["--peers-dns", "a:1", "--weight", "2"],
            "cannot be used with",
        ),
        (
            &["--listen", "127.0.0.1:0", "--peers-dns", "a:1"],
            "say with --advertise IP:1",
        ),
        (
            &["--peers-dns", "a:1", "--advertise", "b:1"],
            "say with --advertise IP:1",
        ),
        (&["--etcd", "a"], "no port"),
        (&["--etcd", "https://a:1"], "--etcd-ca"),
        (
            &["--etcd", "a:1", "--etcd-user", "b"],
            "--etcd-password-file",
        ),
        (
            &["--etcd", "a:1", "--etcd-ca", "/nowhere/ca"],
            "--etcd-ca /nowhere/ca: No such file",
        ),
        (&["--etcd", "a:1", "--etcd-ttl", "1"], "--etcd-ttl"),
        (
            &["--listen", "0.0.0.0:0", "--insecure", "--peers", "a:1"],
            "--advertise HOST:PORT",
        ),
    ] {
        let refusal = refusal(args);
        assert!(refusal.contains(words), "{args:?}: {refusal}");
    }
}
