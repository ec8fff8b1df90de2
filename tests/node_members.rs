//! Who is in the cluster: what a node takes from its flags, and what it shows.

mod support;

use support::{Node, corecache, folder, group, http, run};

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
    let output = run(corecache()
        .args([
            "serve",
            "--admin",
            "off",
            "--group",
            &group("blobs", &blobs),
        ])
        .args(args));
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_list_of_peers_has_the_own_address_whether_it_is_given_or_not() {
    let blobs = folder(&[]);
    let blobs = group("blobs", &blobs);
    let start = |args: &[&str]| Node::start([&["--group", &*blobs], args].concat());

    let node = start(&["--peers", "127.0.0.1:1,127.0.0.1:2=50@a"]);
    assert_eq!(figure(&node, "members"), 3.0);
    let log = node.stderr();
    assert!(
        log.contains("joined: 127.0.0.1:1 127.0.0.1:2=50@a"),
        "{log}"
    );
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

    let args = [&args[..], &["--advertise", "nobody.invalid:8800"]].concat();
    let node = Node::start(args);
    support::eventually("the doubt is shown", || {
        figure(&node, &doubt("unresolved")) == 1.0
    });
    let log = node.stderr();
    assert!(log.contains("nobody.invalid:8800 may be wrong"), "{log}");
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
        (
            &["--listen", "0.0.0.0:0", "--insecure", "--peers", "a:1"],
            "--advertise HOST:PORT",
        ),
    ] {
        let refusal = refusal(args);
        assert!(refusal.contains(words), "{args:?}: {refusal}");
    }
}
