//! Nodes that find each other by a real etcd, which is killed, restarted and locked.

mod support;

use std::fs;
use std::io::{self, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use support::etcd::{self, Etcd};
use support::{Node, eventually, folder, group, http};
use tempfile::TempDir;

const PREFIX: &str = "/corecache/members/";

/// What the nodes of a test share.
struct Cluster {
    blobs: TempDir,
    etcd: String,
}

impl Cluster {
    fn at(etcd: &Etcd) -> Cluster {
        Cluster {
            blobs: folder(&[]),
            etcd: etcd.addr.to_string(),
        }
    }

    fn node(&self, args: &[&str]) -> Node {
        let group = group("blobs", &self.blobs);
        Node::start([&["--group", &group, "--etcd", &self.etcd], args].concat())
    }
}

/// A figure of the metrics page, by its name and labels.
fn figure(node: &Node, name: &str) -> f64 {
    let (_, page) = http::get(node.admin, "/metrics");
    let line = page.lines().find_map(|line| {
        let (key, value) = line.rsplit_once(' ')?;
        (key == format!("corecache_{name}")).then(|| value.parse().ok())?
    });
    line.unwrap_or_else(|| panic!("no {name} in {page}"))
}

fn members(node: &Node) -> f64 {
    figure(node, "members")
}

fn source_up(node: &Node) -> bool {
    figure(node, "members_source_up{source=\"etcd\"}") == 1.0
}

fn is_taken(node: &Node) -> bool {
    figure(node, "members_own_address_doubt{reason=\"taken\"}") == 1.0
}

/// Waits until the node has written these words to its log.
fn says(node: &Node, words: &str) {
    eventually(words, || node.stderr().contains(words));
}

fn see(nodes: &[&Node], count: f64) {
    eventually(&format!("each node sees {count} members"), || {
        nodes.iter().all(|node| members(node) == count)
    });
}

/// The key of a node, if etcd has it.
fn key(etcd: &Etcd, node: &Node) -> Option<String> {
    let value = etcd.ctl(&[
        "get",
        "--print-value-only",
        &format!("{PREFIX}{}", node.addr),
    ]);
    (!value.is_empty()).then_some(value)
}

/// The lease with which the key of an address ends, in hex as `etcdctl` takes it; none without a key.
fn lease(etcd: &Etcd, address: &str) -> Option<String> {
    let json = etcd.ctl(&["get", "-w", "json", &format!("{PREFIX}{address}")]);
    let (_, rest) = json.split_once("\"lease\":")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    let id: u64 = digits
        .and_then(|digits| digits.parse().ok())
        .expect("a lease");
    Some(format!("{id:x}"))
}

#[test]
fn nodes_find_each_other_and_see_who_leaves() {
    if !etcd::is_here() {
        return;
    }
    let etcd = Etcd::start();
    let cluster = Cluster::at(&etcd);
    // Only what is given back leaves before an hour is over.
    let long = ["--etcd-ttl", "3600"];
    let heavy = [&long[..], &["--weight", "7", "--zone", "z"]].concat();
    let (a, mut b) = (cluster.node(&long), cluster.node(&heavy));
    let mut c = cluster.node(&["--etcd-ttl", "2"]);
    see(&[&a, &b, &c], 3.0);
    let value = key(&etcd, &b).expect("a key");
    for part in [
        "\"weight\":7",
        "\"zone\":\"z\"",
        "\"version\":",
        &b.addr.to_string(),
    ] {
        assert!(value.contains(part), "no {part} in {value}");
    }
    let joined = format!("joined: {}=7@z", b.addr);
    eventually("weight and zone are known", || a.stderr().contains(&joined));

    assert_eq!(b.terminate().code(), Some(0));
    assert_eq!(key(&etcd, &b), None);
    see(&[&a, &c], 2.0);
    // One that can not say so leaves with its lease.
    c.signal("KILL");
    c.wait();
    see(&[&a], 1.0);
    says(&a, &format!("left: {}", c.addr));
}

#[test]
fn the_view_outlives_etcd_and_is_new_when_it_is_back() {
    if !etcd::is_here() {
        return;
    }
    let mut etcd = Etcd::start();
    let cluster = Cluster::at(&etcd);
    // Longer than a node takes to find an etcd that is back, on a machine with other work.
    let (a, mut b) = (
        cluster.node(&["--etcd-ttl", "8"]),
        cluster.node(&["--etcd-ttl", "8"]),
    );
    see(&[&a, &b], 2.0);

    let kept = lease(&etcd, &a.addr.to_string()).expect("it is registered");
    etcd.kill();
    eventually("both nodes say that etcd is down", || {
        !source_up(&a) && !source_up(&b)
    });
    let (status, page) = http::get(a.admin, "/readyz");
    assert_eq!(status, 200);
    assert!(
        page.contains("etcd is down") && page.contains("members: 2"),
        "{page}"
    );
    let age = figure(&a, "members_age_seconds");
    eventually("the view gets older", || {
        figure(&a, "members_age_seconds") > age
    });
    // One that starts now is alone, and says so.
    let late = cluster.node(&[]);
    assert_eq!(members(&late), 1.0);
    says(&late, "the node begins alone");
    assert_eq!(members(&a), 2.0);
    // One that leaves can not say so, and does not wait for it.
    let begin = Instant::now();
    assert_eq!(b.terminate().code(), Some(0));
    assert!(
        begin.elapsed() < Duration::from_secs(30),
        "{:?}",
        begin.elapsed()
    );

    etcd.restart();
    // `b` is gone when its lease is over.
    see(&[&a, &late], 2.0);
    // It was away for longer than the leases last, and has given each its whole time again.
    assert_eq!(lease(&etcd, &a.addr.to_string()), Some(kept));
    eventually("etcd is heard", || source_up(&a) && source_up(&late));
    eventually("the view is no longer in doubt", || {
        http::get(a.admin, "/readyz") == (200, "ready\n".to_owned())
    });
    says(&a, "is heard again");
    says(&a, &format!("left: {}", b.addr));
}

#[test]
fn an_etcd_that_hangs_is_down() {
    if !etcd::is_here() {
        return;
    }
    let etcd = Etcd::start();
    let cluster = Cluster::at(&etcd);
    let (a, b) = (
        cluster.node(&["--etcd-ttl", "3"]),
        cluster.node(&["--etcd-ttl", "3"]),
    );
    see(&[&a, &b], 2.0);
    etcd.signal("STOP");
    eventually("it is down", || !source_up(&a) && !source_up(&b));
    assert_eq!((members(&a), members(&b)), (2.0, 2.0));
    says(&a, "no answer");
    etcd.signal("CONT");
    eventually("it is up", || source_up(&a) && source_up(&b));
    see(&[&a, &b], 2.0);
}

/// What etcd has to tell a node that does not listen is more than it keeps for it (1024 messages), and is compacted.
#[test]
fn what_was_compacted_before_a_node_heard_it_is_not_missed() {
    if !etcd::is_here() {
        return;
    }
    let etcd = Etcd::start();
    let cluster = Cluster::at(&etcd);
    let node = cluster.node(&["--etcd-ttl", "60"]);
    eventually("the node is registered", || key(&etcd, &node).is_some());
    let other =
        |zone: &str| format!("{{\"address\":\"127.0.0.1:9\",\"weight\":1,\"zone\":\"{zone}\"}}");
    let other_key = format!("{PREFIX}127.0.0.1:9");

    node.signal("STOP");
    // More than a connection takes that nobody reads from.
    let large = other("").replace('}', &format!(",\"later\":\"{}\"}}", "x".repeat(200_000)));
    etcd.put_all(&other_key, (0..2).map(|_| large.clone()));
    let last = etcd.put_all(&other_key, (0..1200).map(|n| other(&n.to_string())));
    etcd.ctl(&["compact", "--physical", &last.to_string()]);
    node.signal("CONT");
    says(&node, "the watch fell behind");
    says(&node, "127.0.0.1:9=1@1199");
    see(&[&node], 2.0);
    // And what comes now is heard.
    etcd.ctl(&["del", &other_key]);
    see(&[&node], 1.0);
}

#[test]
fn a_node_whose_lease_or_key_is_lost_registers_again() {
    if !etcd::is_here() {
        return;
    }
    let etcd = Etcd::start();
    let cluster = Cluster::at(&etcd);
    let (a, b) = (cluster.node(&["--etcd-ttl", "2"]), cluster.node(&[]));
    see(&[&a, &b], 2.0);
    eventually("both are registered", || {
        key(&etcd, &a).is_some() && key(&etcd, &b).is_some()
    });

    // A process that the system did not let run.
    a.signal("STOP");
    see(&[&b], 1.0);
    a.signal("CONT");
    see(&[&a, &b], 2.0);
    says(&a, "the lease is over");

    // It is back so soon that neither this test nor the others need have seen it go.
    let lease_of_b = || lease(&etcd, &b.addr.to_string());
    let before = lease_of_b().expect("it is registered");
    etcd.ctl(&["lease", "revoke", &before]);
    eventually("it has another lease", || {
        lease_of_b().is_some_and(|lease| lease != before)
    });
    see(&[&a, &b], 2.0);
    etcd.ctl(&["del", &format!("{PREFIX}{}", b.addr)]);
    eventually("its key is there again", || lease_of_b().is_some());
    see(&[&a, &b], 2.0);
    // What others write there is skipped.
    etcd.ctl(&["put", &format!("{PREFIX}127.0.0.1:9"), "nonsense"]);
    eventually("it is said", || a.stderr().contains("it is no JSON"));
    assert_eq!(members(&a), 2.0);
}

#[test]
fn of_two_nodes_with_one_address_the_second_is_told() {
    if etcd::is_here() {
        // What is left of a short lease is the same whenever it is looked at.
        ["4", "2"].into_iter().for_each(the_second_is_told);
    }
}

fn the_second_is_told(ttl: &str) {
    let etcd = Etcd::start();
    let cluster = Cluster::at(&etcd);
    let address = ["--advertise", "127.0.0.1:9", "--etcd-ttl", ttl];
    let mut first = cluster.node(&[&address[..], &["--zone", "first"]].concat());
    let other = cluster.node(&[]);
    see(&[&first, &other], 2.0);
    let second = cluster.node(&[&address[..], &["--zone", "second"]].concat());
    eventually("the second is told", || is_taken(&second));
    says(&second, "is alive; give each node");
    let (status, page) = http::get(second.admin, "/readyz");
    assert!(
        status == 200 && page.contains("own address may be wrong"),
        "{page}"
    );
    assert!(!is_taken(&first));
    let value = || etcd.ctl(&["get", "--print-value-only", &format!("{PREFIX}127.0.0.1:9")]);
    assert!(value().contains("first"));
    assert_eq!(members(&other), 2.0);

    assert_eq!(first.terminate().code(), Some(0));
    eventually("the second has the address", || {
        value().contains("second") && !is_taken(&second)
    });
    see(&[&second, &other], 2.0);
}

#[test]
fn a_restart_after_a_crash_is_no_change_of_members() {
    if !etcd::is_here() {
        return;
    }
    let etcd = Etcd::start();
    let cluster = Cluster::at(&etcd);
    let other = cluster.node(&[]);
    let ttl = 10;
    let args = ["--advertise", "127.0.0.1:9", "--etcd-ttl", &ttl.to_string()];
    let mut node = cluster.node(&args);
    see(&[&node, &other], 2.0);
    let (changes, before) = (
        figure(&other, "members_changes_total"),
        lease(&etcd, "127.0.0.1:9").expect("it is registered"),
    );
    node.signal("KILL");
    node.wait();
    let node = cluster.node(&args);
    eventually("the key has a lease of the new process", || {
        lease(&etcd, "127.0.0.1:9").is_some_and(|lease| lease != before)
    });
    // Not when the old lease ends either.
    eventually("the old lease is over", || {
        !etcd.ctl(&["lease", "list"]).contains(&before)
    });
    see(&[&node, &other], 2.0);
    assert_eq!(figure(&other, "members_changes_total"), changes);
    assert!(!node.stderr().contains("may be wrong"), "{}", node.stderr());
}

#[test]
fn another_endpoint_is_called_where_one_is_silent() {
    if !etcd::is_here() {
        return;
    }
    let etcd = Etcd::start();
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = "127.0.0.1:1";
    let cluster = Cluster {
        blobs: folder(&[]),
        etcd: format!("{refused},{},{}", silent.local_addr().unwrap(), etcd.addr),
    };
    let nodes: Vec<_> = (0..4).map(|_| cluster.node(&[])).collect();
    see(&nodes.iter().collect::<Vec<_>>(), 4.0);
}

/// A CA, and a certificate of it for 127.0.0.1, for servers and clients. None, loudly, where openssl is missing.
fn identity() -> Option<TempDir> {
    let folder = folder(&[(
        "extensions",
        b"subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n",
    )]);
    let commands = [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=node -keyout key.pem -out cert.csr",
        "x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out cert.pem",
    ];
    for command in commands {
        let made = Command::new("openssl")
            .args(command.split(' '))
            .current_dir(folder.path())
            .output();
        let reason = match made {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => format!("openssl does not run: {error}"),
        };
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "{reason}"
        );
        let _ = writeln!(io::stderr(), "skipped, no certificate: {reason}");
        return None;
    }
    Some(folder)
}

#[test]
fn by_tls_with_certificates_and_a_password() {
    if !etcd::is_here() {
        return;
    }
    let Some(identity) = identity() else { return };
    let file = |name: &str| identity.path().join(name).display().to_string();
    let mut etcd = Etcd::start_tls(identity.path().to_owned());
    for args in [
        &["user", "add", "root:rootpw"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "cache:secret word"],
        &["role", "add", "member"],
        &[
            "role",
            "grant-permission",
            "member",
            "--prefix=true",
            "readwrite",
            PREFIX,
        ],
        &["user", "grant-role", "cache", "member"],
        &["auth", "enable"],
    ] {
        etcd.ctl(args);
    }
    etcd.log_in("root", "rootpw");
    let (ca, cert, key_file) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let tls = [
        "--etcd-ca",
        &ca,
        "--etcd-cert",
        &cert,
        "--etcd-key",
        &key_file,
    ];
    let password = |name: &str, text: &str| {
        let path = identity.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (
        password("right", "secret word\n"),
        password("wrong", "guess"),
    );
    let login = ["--etcd-user", "cache", "--etcd-password-file", &right];
    let cluster = Cluster::at(&etcd);
    let all = [&tls[..], &login].concat();
    let (a, mut b) = (cluster.node(&all), cluster.node(&all));
    see(&[&a, &b], 2.0);
    assert!(!a.stderr().contains("secret word"));

    // etcd forgets who has logged in.
    etcd.restart();
    eventually("both nodes have seen that", || {
        [&a, &b]
            .iter()
            .all(|node| node.stderr().contains("members: etcd: "))
    });
    eventually("and logged in again", || source_up(&a) && source_up(&b));
    assert_eq!(b.terminate().code(), Some(0));
    assert_eq!(key(&etcd, &b), None);
    see(&[&a], 1.0);

    let refused = |args: &[&str], words: &str| {
        let node = cluster.node(args);
        eventually(words, || !source_up(&node) && node.stderr().contains(words));
        let (status, page) = http::get(node.admin, "/readyz");
        assert!(status == 200 && page.contains("etcd is down"), "{page}");
    };
    let guess = ["--etcd-user", "cache", "--etcd-password-file", &wrong];
    refused(&[&tls[..], &guess].concat(), "invalid user ID or password");
    // To etcd a certificate without a login is the user of that name.
    refused(&tls, "permission denied");
    refused(&[&tls[..2], &login].concat(), "login: ");
    refused(&login, "login: ");
}
