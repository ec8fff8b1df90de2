//! What a node tells systemd, whose part a datagram socket plays.

mod support;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::Duration;

use support::client::Client;
use support::origin::{Answer, Latch, Origin};
use support::{Node, PATIENCE, corecache, folder, group};

const LOOPBACK: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// The socket at which systemd listens to its services.
struct Systemd {
    socket: UnixDatagram,
}

impl Systemd {
    fn new(socket: UnixDatagram) -> Systemd {
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a time limit");
        Systemd { socket }
    }

    /// The next message, which is made of lines `NAME=VALUE`.
    fn next(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let len = self
            .socket
            .recv(&mut message)
            .expect("the node says something");
        let text = str::from_utf8(&message[..len]).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    /// The next message that is not a sign of life.
    fn next_change(&self) -> Vec<String> {
        loop {
            let message = self.next();
            if message != ["WATCHDOG=1"] {
                return message;
            }
        }
    }
}

/// The command of a node whose unit has `Type=notify`.
fn notifying(socket: &str) -> Command {
    let mut command = corecache();
    command.env("NOTIFY_SOCKET", socket);
    command
}

#[test]
fn a_node_tells_when_it_serves_and_when_it_stops() {
    let home = folder(&[]);
    let path = home.path().join("notify");
    let systemd = Systemd::new(UnixDatagram::bind(&path).expect("a socket"));
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |_, _| {
        held.wait();
        Answer::Value(b"late".to_vec())
    });
    let command = notifying(path.to_str().expect("a path that is text"));
    let args = [
        "--group",
        &origin.group("pages"),
        "--drain",
        "20",
        "--linger",
        "0.5",
    ];
    let mut node = Node::start_with(command, LOOPBACK, args);
    let serving = format!("STATUS=serving on {}", node.addr);
    assert_eq!(systemd.next(), ["READY=1", &serving]);

    let client = Client::connect(node.addr);
    let call = client.start_get("pages", "slow");
    origin.wait_for_requests("/slow", 1);
    node.signal("TERM");
    let stopping = [
        "STOPPING=1",
        "STATUS=draining for up to 20.5 s",
        "EXTEND_TIMEOUT_USEC=30500000",
    ];
    assert_eq!(systemd.next(), stopping);
    assert!(!node.has_ended());
    latch.open();
    assert_eq!(call.value().unwrap(), b"late");
    assert_eq!(node.wait().code(), Some(0));
}

#[test]
fn a_node_gives_signs_of_life_to_a_watchdog() {
    let name = format!("corecache-test-{}", std::process::id());
    let abstract_name = SocketAddr::from_abstract_name(&name).expect("an abstract name");
    let socket = UnixDatagram::bind_addr(&abstract_name).expect("a socket");
    let systemd = Systemd::new(socket);
    let blobs = folder(&[("hot", b"value")]);
    let mut command = notifying(&format!("@{name}"));
    command.env("WATCHDOG_USEC", "300000");
    // Before the first can be sent: they wait in the socket for a test that is late.
    let begin = std::time::Instant::now();
    let mut node = Node::start_with(command, LOOPBACK, ["--group", &group("blobs", &blobs)]);
    assert_eq!(systemd.next()[0], "READY=1");
    for _ in 0..5 {
        assert_eq!(systemd.next(), ["WATCHDOG=1"]);
    }
    // One at once, and then one each 100 ms; systemd would have waited for 300 ms each time.
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_millis(390),
        "5 signs of life in {took:?}"
    );
    node.signal("TERM");
    assert_eq!(systemd.next_change()[0], "STOPPING=1");
    assert_eq!(node.wait().code(), Some(0));
}

/// A watchdog that is meant for another process is none, as for a shell that starts a node.
#[test]
fn a_node_leaves_the_watchdog_of_others_alone() {
    let home = folder(&[("hot", b"value")]);
    let path = home.path().join("notify");
    let systemd = Systemd::new(UnixDatagram::bind(&path).expect("a socket"));
    let mut command = notifying(path.to_str().expect("a path that is text"));
    command
        .env("WATCHDOG_USEC", "1000")
        .env("WATCHDOG_PID", "1");
    let mut node = Node::start_with(command, LOOPBACK, ["--group", &group("blobs", &home)]);
    assert_eq!(systemd.next()[0], "READY=1");
    node.signal("TERM");
    assert_eq!(systemd.next()[0], "STOPPING=1");
    assert_eq!(node.wait().code(), Some(0));
}

#[test]
fn a_node_whose_systemd_does_not_listen_serves_all_the_same() {
    let blobs = folder(&[("hot", b"value")]);
    let command = notifying("/nowhere/at/all");
    let mut node = Node::start_with(command, LOOPBACK, ["--group", &group("blobs", &blobs)]);
    assert_eq!(
        Client::connect(node.addr).get("blobs", "hot").unwrap(),
        b"value"
    );
    assert_eq!(node.terminate().code(), Some(0));
    let log = node.stderr();
    assert!(log.contains("systemd can not be told"), "{log}");
}
