//! What the tests of the server share: a node in a process of its own.

// Each test is a crate of its own, and uses its part of this.
#![allow(dead_code)]

pub mod client;
pub mod clock;
pub mod cluster;
pub mod dns;
pub mod etcd;
pub mod fake_peer;
pub mod fleet;
pub mod go;
#[cfg(feature = "tls")]
pub mod hello;
pub mod http;
pub mod http2;
pub mod net;
pub mod origin;
pub mod python;
pub mod served;
pub mod tonic;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The command line of this build.
pub fn corecache() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corecache"));
    command.stdin(Stdio::null());
    command
}

/// Runs `command`, which is expected to end by itself, and returns what it printed.
pub fn run(command: &mut Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let pid = child.id();
    let (done, output) = mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    match output.recv_timeout(PATIENCE) {
        Ok(output) => output.expect("the output can be read"),
        Err(_) => {
            send_signal(pid, "KILL");
            panic!("{command:?} did not end in {PATIENCE:?}");
        }
    }
}

/// Looks again and again until `is_so`.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        thread::yield_now();
    }
}

/// A temporary folder with these files, by path and content. They were last modified long ago: a fresh file is waited
/// for, lest it is still being written.
pub fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (path, content) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a file is in a folder"))
            .and_then(|()| write_old(&path, content))
            .expect("a temporary file can be written");
    }
    folder
}

fn write_old(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.set_modified(SystemTime::now() - Duration::from_secs(3600))
}

/// The argument of `--group` for a folder.
pub fn group(name: &str, folder: &tempfile::TempDir) -> String {
    format!("{name}=dir:{}", folder.path().display())
}

/// Sends a signal by its name: `TERM`, `INT`. After `STOP` no thread runs any more.
fn send_signal(pid: u32, name: &str) {
    // The shell has a `kill` of its own, where the program may not be installed.
    let sent = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()])
        .status()
        .expect("sh runs");
    assert!(sent.success(), "SIG{name} can not be sent");
    if name == "STOP" {
        // One thread takes it, when it has a processor, and stops the others.
        eventually("the process stands still", || is_stopped(pid));
    }
}

/// Whether no thread of a process runs, or will before it is continued; so too if there is none.
fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // After the name, which may have anything in it.
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        state.is_empty() || state.starts_with(['T', 'Z', 'X'])
    })
}

/// Where unary calls come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Front,
    Express,
}

impl Door {
    pub fn of(self, node: &Node) -> SocketAddr {
        match self {
            Door::Front => node.addr,
            Door::Express => node.express,
        }
    }
}

/// Runs a test at each door: both are to give the same values, codes and messages.
pub fn at_both_doors(test: impl Fn(Door)) {
    for door in [Door::Front, Door::Express] {
        // Shown of a test that fails.
        println!("at the door {door:?}");
        test(door);
    }
}

/// A running node. It is killed when this is dropped, and a test that fails shows its log.
pub struct Node {
    /// Where it serves gRPC.
    pub addr: SocketAddr,
    /// Where it serves its admin pages.
    pub admin: SocketAddr,
    /// Where it serves the express door.
    pub express: SocketAddr,
    child: Child,
    /// Ends when the node closes its standard output, that is when it exits.
    stdout: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    stderr_reader: Option<JoinHandle<()>>,
}

/// Loopback, at any free port.
fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl Node {
    /// Starts `corecache serve` with `args` on free ports, and returns when it listens on all of them.
    pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Node {
        Node::start_with(corecache(), anywhere(), args)
    }

    /// The same, in a shell that has run `limit` before.
    pub fn start_limited<S: AsRef<OsStr>>(limit: &str, args: impl IntoIterator<Item = S>) -> Node {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")])
            .arg(corecache().get_program())
            .stdin(Stdio::null());
        Node::start_with(shell, anywhere(), args)
    }

    /// As `start`, by a command that is made ready, and serving gRPC at `listen`, with its other ports beside that.
    pub fn start_with<S: AsRef<OsStr>>(
        mut command: Command,
        listen: SocketAddr,
        args: impl IntoIterator<Item = S>,
    ) -> Node {
        let mut child = command
            .args(["serve", "--admin", &format!("{}:0", listen.ip())])
            .args(["--express", &format!("{}:0", listen.ip())])
            .args(["--listen", &listen.to_string()])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the node's binary runs");
        let (sender, stdout) = mpsc::channel();
        let output = child.stdout.take().expect("standard output is piped");
        thread::spawn(move || {
            for_each_line(output, |line| {
                let _ = sender.send(line);
            });
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let log = Arc::clone(&stderr);
        let output = child.stderr.take().expect("standard error is piped");
        let stderr_reader = thread::spawn(move || {
            for_each_line(output, |line| *log.lock().unwrap() += &(line + "\n"));
        });
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Node {
            addr: unknown,
            admin: unknown,
            express: unknown,
            child,
            stdout,
            stderr,
            stderr_reader: Some(stderr_reader),
        };
        node.read_addresses();
        node
    }

    fn read_addresses(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while [self.addr, self.admin, self.express]
            .iter()
            .any(|at| at.port() == 0)
        {
            let Ok(line) = self.next_line(deadline) else {
                panic!("the node ended, or took {PATIENCE:?}, before it said where it listens");
            };
            let address = |text: &str| text.parse().expect("an address and a port");
            if let Some(text) = line.strip_prefix("listening on ") {
                self.addr = address(text);
            } else if let Some(text) = line.strip_prefix("admin on ") {
                self.admin = address(text);
            } else if let Some(text) = line.strip_prefix("express on ") {
                self.express = address(text);
            }
        }
    }

    fn next_line(&self, deadline: Instant) -> Result<String, RecvTimeoutError> {
        let patience = deadline.saturating_duration_since(Instant::now());
        self.stdout.recv_timeout(patience)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, in bytes: what it is now, or what it was at the most (`VmRSS`, `VmHWM`).
    pub fn memory_bytes(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(path).expect("the node runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| {
            line.trim_matches([':', ' ', '\t', 'k', 'B'])
                .parse::<u64>()
                .ok()
        });
        kib.expect("a figure of memory") << 10
    }

    /// What the node has written to its standard error so far; all of it, once it has ended.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Sends a signal by its name: `TERM`, `INT`.
    pub fn signal(&self, name: &str) {
        send_signal(self.pid(), name);
    }

    /// Sends a signal, and at once another one.
    pub fn signal_twice(&self, name: &str) {
        let kills = "kill -s \"$0\" \"$1\"; kill -s \"$0\" \"$1\"";
        let sent = Command::new("sh")
            .args(["-c", kills, name, &self.pid().to_string()])
            .status()
            .expect("sh runs");
        assert!(sent.success(), "SIG{name} can not be sent twice");
    }

    /// Whether the node has ended.
    pub fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait();
        status.expect("the node can be waited for").is_some()
    }

    /// Waits until the node has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next_line(deadline) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break self.reap(),
                Err(RecvTimeoutError::Timeout) => panic!("the node did not end in {PATIENCE:?}"),
            }
        }
    }

    /// Sends SIGTERM and waits until the node has ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    fn reap(&mut self) -> ExitStatus {
        let status = self.child.wait().expect("the node can be waited for");
        if let Some(reader) = self.stderr_reader.take() {
            reader.join().expect("standard error was read to its end");
        }
        status
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let status = self.reap();
        if thread::panicking() {
            eprintln!("the node ended ({status}); its log:\n{}", self.stderr());
        }
    }
}

fn for_each_line(output: impl Read, mut take: impl FnMut(String)) {
    for line in BufReader::new(output).split(b'\n') {
        let Ok(line) = line else { return };
        take(String::from_utf8_lossy(&line).into_owned());
    }
}
