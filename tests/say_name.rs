//! The tutorial's programs, as processes: our server and client against each other, and each of
//! them against stock Go (`tests/go/say_name`), where `go` is installed.

#[path = "support/example.rs"]
mod example;

use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{env, fs, thread};

use example::example;
use futures_executor::block_on;
use grpcio::{ChannelBuilder, Environment};

const TEACHERS: [(&str, i32); 4] = [("Ada", 18), ("", 0), ("王老师", -40), ("O'Hara", i32::MAX)];

/// How long a program may take to stop before the test fails.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A running server. It is killed if the test fails before it stops it.
struct Server {
    process: Option<Child>,
    address: String,
}

impl Server {
    /// Starts a server on a free port, and waits until it says which.
    fn start(program: &Path) -> Server {
        let mut process = Command::new(program)
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = process.stdout.take().unwrap();
        let mut server = Server {
            process: Some(process),
            address: String::new(),
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on ");
        let address = address.unwrap_or_else(|| panic!("{program:?} said {line:?}"));
        server.address = address.trim().to_owned();
        server
    }

    fn stop(mut self, signal: &str) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        let pid = process.id();
        kill(signal, pid);
        let (stopped, status) = mpsc::channel();
        thread::spawn(move || stopped.send(process.wait()));
        let status = status.recv_timeout(STOP_LIMIT).unwrap_or_else(|_| {
            kill("KILL", pid);
            panic!("a server runs on after SIG{signal}");
        });
        status.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

fn kill(signal: &str, pid: u32) {
    let command = format!("kill -{signal} {pid}");
    let status = Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

fn our_server() -> PathBuf {
    example("say_name_server")
}

fn our_client() -> PathBuf {
    example("say_name_client")
}

/// The folder with the Go programs, `server` and `client`, or `None` where Go is not installed.
fn go_programs() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER.get_or_init(build_go_programs).as_deref()
}

fn build_go_programs() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("say_name_go");
    fs::create_dir_all(&folder).unwrap();
    let build = Command::new("go")
        .args(["build", "-buildvcs=false", "-o"])
        .arg(&folder)
        .arg("./...")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go/say_name"))
        .env("CGO_ENABLED", "0")
        .output();
    match build {
        Ok(build) => {
            let stderr = String::from_utf8_lossy(&build.stderr);
            assert!(build.status.success(), "go build failed: {stderr}");
            Some(folder)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("go does not run: {error}"),
    }
}

fn ask(client: &Path, address: &str, name: &str, age: i32) -> Output {
    Command::new(client)
        .args([address, name, &age.to_string()])
        .output()
        .unwrap()
}

/// Lets `client` ask `server` for all teachers.
fn check(server: &Path, client: &Path) {
    let server = Server::start(server);
    for (name, age) in TEACHERS {
        let output = ask(client, &server.address, name, age);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!("age: {age}, name: {name} is Sleeping! helloworld\n")
        );
    }
    assert_eq!(server.stop("TERM").code(), Some(0));
}

fn without_go() {
    eprintln!("`go` is not installed: our client asks our server, and stock Go is left out");
    check(&our_server(), &our_client());
}

#[test]
fn our_client_asks_our_server() {
    check(&our_server(), &our_client());
}

#[test]
fn a_go_client_asks_our_server() {
    match go_programs() {
        Some(go) => check(&our_server(), &go.join("client")),
        None => without_go(),
    }
}

#[test]
fn our_client_asks_a_go_server() {
    match go_programs() {
        Some(go) => check(&go.join("server"), &our_client()),
        None => without_go(),
    }
}

#[test]
fn ctrl_c_stops_the_server_though_a_client_is_connected() {
    let server = Server::start(&our_server());
    let env = Arc::new(Environment::new(1));
    let channel = ChannelBuilder::new(env).connect(&server.address);
    assert!(block_on(
        channel.wait_for_connected(Duration::from_secs(30))
    ));
    assert_eq!(server.stop("INT").code(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_an_error() {
    let server = Server::start(&our_server());
    let second = Command::new(our_server())
        .arg(&server.address)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let stderr = String::from_utf8(second.stderr).unwrap();
    let expected = format!(
        "say_name_server: can not listen on {}: Address already in use",
        server.address
    );
    assert!(stderr.starts_with(&expected), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(server.stop("TERM").code(), Some(0));
}

#[test]
fn arguments_that_are_wrong_are_told() {
    let server = our_server();
    let client = our_client();
    for (program, arguments, words) in [
        (&server, &["nonsense"][..], "\"nonsense\" is no address"),
        (&server, &["127.0.0.1:99999"], "invalid port"),
        (&server, &["127.0.0.1:0", "more"], "[HOST:PORT]"),
        (&client, &["127.0.0.1:1", "Ada", "old"], "\"old\" is no age"),
        (&client, &["a", "b", "1", "more"], "[NAME [AGE]]"),
    ] {
        let output = Command::new(program).args(arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn a_client_that_finds_no_server_says_so() {
    // No test and no ordinary machine has a server on port 1.
    let output = ask(&our_client(), "127.0.0.1:1", "Ada", 18);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("127.0.0.1:1 does not answer"), "{stderr}");
}
