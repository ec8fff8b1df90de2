//! A real etcd of one member, on free ports of the loopback.

use std::env;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use corecache::server::pb;
use corecache::server::pb::etcd::request_op::Request;
use corecache::server::pb::etcd::{PutRequest, RequestOp, TxnRequest, TxnResponse};
use grpcio::{CallOption, ChannelBuilder, Client, Environment, MethodType};
use tempfile::TempDir;

use super::cluster::free_address;
use super::{PATIENCE, eventually, folder, run};

/// An etcd in a process of its own. It is killed when this is dropped.
pub struct Etcd {
    /// Where clients call it.
    pub addr: SocketAddr,
    peers: SocketAddr,
    data: TempDir,
    tls: Option<PathBuf>,
    /// What `etcdctl` logs in with.
    login: Option<String>,
    child: Child,
}

/// Whether etcd and its command line are here. If not that is said loudly, and in CI it fails.
pub fn is_here() -> bool {
    let runs = |program: &str, arg: &str| {
        let output = Command::new(program).arg(arg).output();
        output.is_ok_and(|output| output.status.success())
    };
    if runs("etcd", "--version") && runs("etcdctl", "version") {
        return true;
    }
    let words =
        "etcd or etcdctl does not run here; on Debian: apt-get install etcd-server etcd-client";
    if env::var_os("CI").is_some_and(|ci| ci == "true") {
        panic!("{words}");
    }
    // Past the test harness, which would swallow what a passing test prints.
    let _ = writeln!(io::stderr(), "skipped: {words}");
    false
}

impl Etcd {
    /// Starts it with an empty store.
    pub fn start() -> Etcd {
        Etcd::start_with(None)
    }

    /// The same by TLS, for clients that have a certificate too: `ca.pem`, `cert.pem` and `key.pem` of this folder.
    pub fn start_tls(identity: PathBuf) -> Etcd {
        Etcd::start_with(Some(identity))
    }

    fn start_with(tls: Option<PathBuf>) -> Etcd {
        let (addr, peers, data) = (free_address(), free_address(), folder(&[]));
        let child = spawn(addr, peers, &data, tls.as_deref());
        let etcd = Etcd {
            addr,
            peers,
            data,
            tls,
            login: None,
            child,
        };
        etcd.wait();
        etcd
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().expect("etcd can be killed");
        self.child.wait().expect("etcd can be waited for");
    }

    /// Starts it again at the same place, with what it had stored.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.addr, self.peers, &self.data, self.tls.as_deref());
        self.wait();
    }

    /// Stops and goes on: `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        super::send_signal(self.child.id(), name);
    }

    /// From now on `etcdctl` logs in.
    pub fn log_in(&mut self, user: &str, password: &str) {
        self.login = Some(format!("--user={user}:{password}"));
    }

    /// Runs `etcdctl` and returns what it printed.
    pub fn ctl(&self, args: &[&str]) -> String {
        let output = run(self.command().args(args));
        assert!(output.status.success(), "etcdctl {args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("etcdctl prints text")
    }

    /// Writes these values to a key, one after the other. Returns the revision of the last.
    pub fn put_all(&self, key: &str, values: impl IntoIterator<Item = String>) -> i64 {
        let channel = ChannelBuilder::new(Arc::new(Environment::new(1)));
        let client = Client::new(channel.connect(&self.addr.to_string()));
        let txn = pb::method(MethodType::Unary, "/etcdserverpb.KV/Txn");
        let mut revision = 0;
        for value in values {
            let put = PutRequest {
                key: key.into(),
                value: value.into(),
                ..PutRequest::default()
            };
            let request = TxnRequest {
                success: vec![RequestOp {
                    request: Some(Request::RequestPut(put)),
                    ..RequestOp::default()
                }],
                ..TxnRequest::default()
            };
            let options = CallOption::default().timeout(PATIENCE);
            let reply: TxnResponse = client.unary_call(&txn, &request, options).expect("a put");
            revision = reply.header.revision;
        }
        revision
    }

    fn command(&self) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3");
        command.arg(format!("--endpoints={}", self.addr));
        if let Some(identity) = &self.tls {
            let file = |name: &str| identity.join(name).display().to_string();
            command.arg(format!("--cacert={}", file("ca.pem")));
            command.arg(format!("--cert={}", file("cert.pem")));
            command.arg(format!("--key={}", file("key.pem")));
        }
        command.args(&self.login);
        command
    }

    fn wait(&self) {
        eventually("etcd serves", || {
            let output = run(self.command().args(["endpoint", "health"]));
            output.status.success()
        });
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    addr: SocketAddr,
    peers: SocketAddr,
    data: &TempDir,
    tls: Option<&std::path::Path>,
) -> Child {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let clients = format!("{scheme}://{addr}");
    let peers = format!("http://{peers}");
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(data.path())
        .args([
            "--listen-client-urls",
            &clients,
            "--advertise-client-urls",
            &clients,
        ])
        .args(["--listen-peer-urls", &peers])
        .args(["--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("default={peers}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(identity) = tls {
        command
            .arg("--cert-file")
            .arg(identity.join("cert.pem"))
            .arg("--key-file")
            .arg(identity.join("key.pem"))
            .arg("--trusted-ca-file")
            .arg(identity.join("ca.pem"))
            .arg("--client-cert-auth");
    }
    command.spawn().expect("etcd runs")
}
