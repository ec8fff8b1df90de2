//! Nodes are restarted one by one under two stock clients that know them all: no call fails.

mod support;

use std::io;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use support::client::Client;
use support::{Node, corecache, eventually, folder, go, python};

const NODES: usize = 3;
/// How often each node is restarted.
const ROUNDS: usize = 2;
const GO_PROGRAM: &str = "rolling_restart";
const PYTHON_PROGRAM: &str = "tests/python/rolling_restart.py";

/// Callers that wait for nothing but their answers. The clients turn to other nodes when one says goodbye (GOAWAY), and
/// send again what it did not take. A call that crosses the goodbye is cancelled by the gRPC core: that one is for the
/// retry policy. How few they are without one, `node_drain` tests.
#[test]
fn callers_that_retry_lose_no_call() {
    let clients = Clients {
        config: r#"{
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [{
                "name": [{"service": "corecache.v1.Cache"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]
                }
            }]
        }"#,
        callers: 16,
        pause_ms: 0,
    };
    restart_under(&clients, Ipv4Addr::new(127, 0, 1, 1), &["--drain", "60"]);
}

/// Callers that call when they please. Their clients watch the nodes' health, and a node lingers until they have turned
/// away from it.
#[test]
fn callers_that_watch_health_lose_no_call() {
    let clients = Clients {
        config: r#"{
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": "corecache.v1.Cache"}
        }"#,
        callers: 64,
        pause_ms: 5,
    };
    let args = ["--drain", "60", "--linger", "3"];
    restart_under(&clients, Ipv4Addr::new(127, 0, 1, 2), &args);
}

/// How the clients are run.
struct Clients {
    config: &'static str,
    callers: usize,
    /// On average, between an answer and the next call.
    pause_ms: usize,
}

impl Clients {
    /// Starts a client that calls for the group `name`.
    fn start(&self, name: &'static str, program: &mut Command, nodes: &[Node]) -> RunningClient {
        program
            .args([
                self.config,
                &self.callers.to_string(),
                &self.pause_ms.to_string(),
            ])
            .arg(name)
            .args(nodes.iter().map(|node| node.addr.to_string()));
        RunningClient::start(name, program)
    }
}

/// Restarts each of some nodes on its port, while clients call them. All listen at `ip`, which no client connects from:
/// their ports stay free while they are down.
fn restart_under(clients: &Clients, ip: Ipv4Addr, args: &[&str]) {
    let blobs = folder(&[("hot", b"value")]);
    let group = |name: &str| ["--group".to_owned(), support::group(name, &blobs)];
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let args = [args, group("go").into(), group("python").into()].concat();
    let start = |addr| Node::start_with(corecache(), addr, &args);
    let mut nodes: Vec<Node> = (0..NODES)
        .map(|_| start(SocketAddr::new(IpAddr::V4(ip), 0)))
        .collect();

    let go =
        go::build(GO_PROGRAM).map(|go: PathBuf| clients.start("go", &mut Command::new(go), &nodes));
    let python = python::interpreter()
        .map(|python| clients.start("python", Command::new(python).arg(PYTHON_PROGRAM), &nodes));
    let mut running: Vec<RunningClient> = go.into_iter().chain(python).collect();
    running
        .iter_mut()
        .for_each(RunningClient::wait_until_calling);
    for _ in 0..ROUNDS {
        for node in &mut nodes {
            wait_until_called(node, &running);
            assert_eq!(node.terminate().code(), Some(0));
            let log = node.stderr();
            assert!(log.contains("all calls have finished"), "{log}");
            *node = start(node.addr);
        }
    }
    for client in running {
        client.stop();
    }
}

/// Waits until each client uses the node.
fn wait_until_called(node: &Node, clients: &[RunningClient]) {
    let admin = Client::connect(node.addr);
    eventually("the clients call the node", || {
        let stats = admin.stats();
        clients.iter().all(|client| {
            let group = stats.groups.iter().find(|group| group.name == client.name);
            group.is_some_and(|group| group.counters.hits > 0)
        })
    });
}

/// A client in a process of its own, which ends when its standard input does.
struct RunningClient {
    name: &'static str,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl RunningClient {
    fn start(name: &'static str, program: &mut Command) -> RunningClient {
        let mut child = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the client runs");
        let output = child.stdout.take().expect("standard output is piped");
        RunningClient {
            name,
            child,
            output: BufReader::new(output),
        }
    }

    fn wait_until_calling(&mut self) {
        assert_eq!(self.next_line(), "calling\n", "the {} client", self.name);
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("text");
        line
    }

    /// Ends the client, whose calls must all have been answered.
    fn stop(mut self) {
        drop(self.child.stdin.take());
        let report = self.next_line();
        // Past the test harness, which would swallow it: how many calls there were says what the test is worth.
        let _ = write!(io::stderr(), "{}: {report}", self.name);
        assert!(report.ends_with(" answered, 0 failed\n"), "{report}");
    }
}

impl Drop for RunningClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
