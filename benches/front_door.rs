//! What the front door costs: unary hits of a node, against two bare grpcio echoes.
//!
//! The servers run throughout, each in a process of its own with one completion queue bound to the same core. One echo
//! has the node's channel arguments and its allocator; the other is grpcio as it comes, with neither. The same h2load
//! command, from another core, drives one after the other: 8 connections x 32 streams, round by round, so that what
//! changes on the machine meets all. The node looks a value of 100 bytes up, a hit each time; the echoes take no look at
//! the request, and send the same encoded reply from a slice that is made once. Every reply of every run is counted by
//! its bytes. The first ratio of calls a second is what is left of grpcio's speed; the second is what arguments and
//! allocator make of it.
//!
//! What this can't show: latency under a load that leaves room (see `busy_loaders`), more than one core, or how fast
//! a server could be that is not built on grpcio.
//!
//! `cargo bench --bench front_door [-- --pairs N] [--calls-ms MS] [--value-bytes N]`; needs h2load. With values over
//! 64 KiB the load's windows are opened wide, so that they do not hold up the servers.

mod support;

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use corecache::server::{ConnectionLimits, core_arguments};
use protobuf::Message;

use support::client::{GROUP, connect, get, get_request};
use support::echo::{VALUE_BYTES, reply, value, value_bytes};
use support::{
    SERVER_CORE, Server, Spread, argument, leave_server_core, print_head, print_verdict,
};

/// As in the node's binary.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Calls a second over those of the echo with the same arguments and allocator.
const RATIO_WANTED: f64 = 0.92;
/// The same over those of the echo as it comes.
const BARE_RATIO_WANTED: f64 = 1.0;
/// CPU a call over that of the echo with the same arguments and allocator.
const CPU_RATIO_WANTED: f64 = 1.1;
const LARGE_BYTES: usize = 64 << 10;
const KEY: &str = "value";
/// In front of each gRPC message: a flag, and the length.
const MESSAGE_PREFIX_BYTES: usize = 5;
/// The argument by which this program runs as the echo.
const ECHO: &str = "--echo";

fn main() -> ExitCode {
    if env::args().any(|arg| arg == ECHO) {
        echo();
    }
    if Command::new("h2load").arg("--version").output().is_err() {
        eprintln!("front_door needs h2load; install it: apt-get install nghttp2-client");
        return ExitCode::FAILURE;
    }
    print_head(&format!(
        "front door: unary hits of {} bytes, against bare grpcio echoes",
        value_bytes()
    ));
    let pairs = argument("--pairs", 24);
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    fs::write(folder.path().join(KEY), value()).expect("a file");
    let request = request_file(folder.path());
    let origin = format!("{GROUP}=dir:{}", folder.path().display());
    let core = SERVER_CORE.to_string();
    let node = Server::node(["--group", &origin, "--cores", &core]);
    let echo = env::current_exe().expect("the path of this program");
    let size = value_bytes().to_string();
    let echo = Server::start(Command::new(echo).args([ECHO, VALUE_BYTES, &size]));
    let bare = Server::start(Command::new(build_bare_echo()).args([VALUE_BYTES, &size]));
    leave_server_core();

    for server in [&node, &echo, &bare] {
        let client = &connect(server.addr, 1)[0];
        let value = get(client, KEY).expect("a value: the call ends with status 0");
        assert!(value == support::echo::value(), "{} bytes", value.len());
    }
    let load = Load { request };
    let calls = load.calls_in(&echo, argument("--calls-ms", 1000));
    for server in [&node, &bare] {
        load.run(server, calls);
    }

    println!("load        h2load, 8 connections x 32 streams; {pairs} rounds of {calls} calls");
    let (mut of_node, mut of_echo, mut of_bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..pairs {
        of_node.push(load.run(&node, calls));
        of_echo.push(load.run(&echo, calls));
        of_bare.push(load.run(&bare, calls));
    }
    print_runs("node", &of_node, calls);
    print_runs("echo", &of_echo, calls);
    print_runs("bare", &of_bare, calls);
    let speed = |run: &Run| run.calls_a_second;
    let cpu = |run: &Run| run.cpu.as_secs_f64();

    let ratio = print_ratio("node/echo", &of_node, &of_echo, speed);
    let wanted = format!("a median of {RATIO_WANTED} or more");
    print_verdict(&wanted, ratio >= RATIO_WANTED);
    let ratio = print_ratio("node/bare", &of_node, &of_bare, speed);
    let wanted = format!("a median of {BARE_RATIO_WANTED} or more");
    print_verdict(&wanted, ratio >= BARE_RATIO_WANTED);
    let ratio = print_ratio("CPU a call", &of_node, &of_echo, cpu);
    let wanted = format!("a median of node/echo of {CPU_RATIO_WANTED} or less");
    print_verdict(&wanted, ratio <= CPU_RATIO_WANTED);
    ExitCode::SUCCESS
}

/// Prints how a figure of the runs is spread, over that of the other runs of the same rounds. Returns the median.
fn print_ratio(name: &str, runs: &[Run], others: &[Run], figure: impl Fn(&Run) -> f64) -> f64 {
    let rounds = runs.iter().zip(others);
    let ratio = Spread::new(rounds.map(|(run, other)| figure(run) / figure(other)));
    println!("{name:<11} {ratio:.3}");
    ratio.median()
}

fn print_runs(name: &str, runs: &[Run], calls: usize) {
    let speed = Spread::new(runs.iter().map(|run| run.calls_a_second / 1000.0));
    let cpu: f64 = runs.iter().map(|run| run.cpu.as_secs_f64()).sum();
    let wall: f64 = runs
        .iter()
        .map(|run| calls as f64 / run.calls_a_second)
        .sum();
    println!("{name}        k calls/s: {speed:.1}");
    println!(
        "            CPU {:.1} us a call; its core is busy for {:.0} % of the time",
        cpu / (calls * runs.len()) as f64 * 1e6,
        100.0 * cpu / wall
    );
}

/// Writes the body of the request, as gRPC frames it.
fn request_file(folder: &Path) -> PathBuf {
    let message = get_request(KEY).write_to_bytes().expect("a message");
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    let path = folder.join("request");
    fs::write(&path, body).expect("a file");
    path
}

struct Load {
    request: PathBuf,
}

struct Run {
    calls_a_second: f64,
    cpu: Duration,
}

impl Load {
    /// How many calls `server` answers in about so many milliseconds.
    fn calls_in(&self, server: &Server, ms: usize) -> usize {
        let calls = (30_000 * LARGE_BYTES / value_bytes().max(LARGE_BYTES)).max(100);
        self.run(server, calls / 3);
        let run = self.run(server, calls);
        (run.calls_a_second * ms as f64 / 1000.0) as usize
    }

    /// Makes so many calls, all of which are answered with the value.
    fn run(&self, server: &Server, calls: usize) -> Run {
        let cpu = server.cpu();
        let output = self.command(server.addr, calls).output();
        let cpu = server.cpu() - cpu;
        let output = output.expect("h2load runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let check = || -> Option<f64> {
            let bytes: usize = between(&text, "(space savings", " data")?
                .rsplit_once('(')
                .and_then(|(_, bytes)| bytes.strip_suffix(')')?.parse().ok())?;
            let replied = bytes == calls * (MESSAGE_PREFIX_BYTES + reply().len());
            let succeeded = text.contains(&format!(" {calls} succeeded, 0 failed, 0 errored"));
            let speed = between(&text, "s, ", " req/s")?.parse().ok();
            speed.filter(|_| replied && succeeded)
        };
        Run {
            calls_a_second: check().unwrap_or_else(|| panic!("not all calls succeeded:\n{text}")),
            cpu,
        }
    }

    fn command(&self, addr: SocketAddr, calls: usize) -> Command {
        let mut command = Command::new("h2load");
        command
            .args(["-t", "1", "-c", "8", "-m", "32"])
            .args(["-n", &calls.to_string()])
            .args(["-H", "content-type: application/grpc"])
            .args(["-H", "te: trailers"])
            .args(if value_bytes() > LARGE_BYTES {
                &["-w", "30", "-W", "30"][..]
            } else {
                &[]
            })
            .arg("-d")
            .arg(&self.request)
            .arg(format!("http://{addr}/corecache.v1.Cache/Get"));
        command
    }
}

/// What stands between the first `start` and the first `end` after it.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(found, _)| found)
}

/// The echo with the node's arguments, and its allocator.
fn echo() -> ! {
    support::echo::serve(|env| core_arguments(&ConnectionLimits::default(), env))
}

/// Builds the echo as it comes, a benchmark of its own, and returns where it is.
fn build_bare_echo() -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or("cargo".into());
    let build = Command::new(cargo)
        .args(["bench", "--no-run", "--bench", "bare_echo"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    let messages = String::from_utf8_lossy(&build.stdout);
    // It builds the node's binary as well.
    let mut of_echo = messages
        .lines()
        .filter(|line| line.contains("\"name\":\"bare_echo\""));
    let path = of_echo.find_map(|line| between(line, "\"executable\":\"", "\""));
    path.unwrap_or_else(|| panic!("cargo has built no echo:\n{messages}"))
        .into()
}
