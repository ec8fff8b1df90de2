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
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use corecache::server::{ConnectionLimits, core_arguments};
use support::client::{GROUP, connect, get};
use support::echo::{VALUE_BYTES, value, value_bytes};
use support::h2load::H2load;
use support::{
    SERVER_CORE, Server, Spread, argument, between, leave_server_core, print_head, print_verdict,
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
/// The argument by which this program runs as the echo.
const ECHO: &str = "--echo";

fn main() -> ExitCode {
    if env::args().any(|arg| arg == ECHO) {
        echo();
    }
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let Some(h2load) = H2load::new(folder.path(), KEY, value_bytes()) else {
        eprintln!("front_door needs h2load; install it: apt-get install nghttp2-client");
        return ExitCode::FAILURE;
    };
    print_head(&format!(
        "front door: unary hits of {} bytes, against bare grpcio echoes",
        value_bytes()
    ));
    let pairs = argument("--pairs", 24);
    let blobs = folder.path().join(GROUP);
    fs::create_dir(&blobs).expect("a folder");
    fs::write(blobs.join(KEY), value()).expect("a file");
    let origin = format!("{GROUP}=dir:{}", blobs.display());
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
    let load = Load(h2load);
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

struct Load(H2load);

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
        let calls_a_second = self.0.calls_a_second(server.addr, calls);
        Run {
            calls_a_second,
            cpu: server.cpu() - cpu,
        }
    }
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
