//! What the front door costs: unary hits of a node, against a bare grpcio echo.
//!
//! Both servers run throughout, each in a process of its own with one completion queue bound to the same core, with
//! the same channel arguments and the same allocator. The same h2load command, from another core, drives one and then
//! the other: 8 connections x 32 streams, pair by pair, so that what changes on the machine meets both. The node looks
//! a value of 100 bytes up, a hit each time; the echo takes no look at the request, and sends the same encoded reply
//! from a slice that is made once. Every reply of every run is counted by its bytes. The ratio of calls a second is
//! what is left of grpcio's speed.
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
use std::process::{Command, ExitCode};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use corecache::engine::pin_to_core;
use corecache::server::UNARY_LIMIT_BYTES;
use corecache::server::pb::cache::Value;
use grpcio::{
    ChannelBuilder, EnvBuilder, GrpcSlice, Marshaller, Method, MethodType, ServerBuilder,
    ServerCredentials, ServiceBuilder,
};
use protobuf::Message;

use support::client::{GROUP, connect, get, get_request};
use support::{
    SERVER_CORE, Server, Spread, argument, leave_server_core, print_head, print_verdict,
};

/// As in the node's binary.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const RATIO_WANTED: f64 = 0.85;
/// The same for large values.
const LARGE_RATIO_WANTED: f64 = 0.92;
const LARGE_BYTES: usize = 64 << 10;
const KEY: &str = "value";
/// In front of each gRPC message: a flag, and the length.
const MESSAGE_PREFIX_BYTES: usize = 5;
/// The argument by which this program runs as the echo.
const ECHO: &str = "--echo";
const VALUE_BYTES: &str = "--value-bytes";

fn main() -> ExitCode {
    if env::args().any(|arg| arg == ECHO) {
        echo();
    }
    if Command::new("h2load").arg("--version").output().is_err() {
        eprintln!("front_door needs h2load; install it: apt-get install nghttp2-client");
        return ExitCode::FAILURE;
    }
    print_head(&format!(
        "front door: unary hits of {} bytes, against a bare grpcio echo",
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
    leave_server_core();

    for server in [&node, &echo] {
        let client = &connect(server.addr, 1)[0];
        let value = get(client, KEY).expect("a value: the call ends with status 0");
        assert!(value == self::value(), "{} bytes", value.len());
    }
    let load = Load { request };
    let calls = load.calls_in(&echo, argument("--calls-ms", 1000));
    load.run(&node, calls);

    println!("load        h2load, 8 connections x 32 streams; {pairs} pairs of {calls} calls");
    let runs: Vec<_> = (0..pairs)
        .map(|_| (load.run(&node, calls), load.run(&echo, calls)))
        .collect();
    let (of_node, of_echo): (Vec<Run>, Vec<Run>) = runs.into_iter().unzip();
    print_runs("node", &of_node, calls);
    print_runs("echo", &of_echo, calls);
    let ratios = of_node.iter().zip(&of_echo);
    let ratio = Spread::new(ratios.map(|(node, echo)| node.calls_a_second / echo.calls_a_second));
    println!("node/echo   {ratio:.3}");
    let wanted = if value_bytes() > LARGE_BYTES {
        LARGE_RATIO_WANTED
    } else {
        RATIO_WANTED
    };
    print_verdict(
        &format!("a median of {wanted} or more"),
        ratio.median() >= wanted,
    );
    ExitCode::SUCCESS
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

fn value_bytes() -> usize {
    argument(VALUE_BYTES, 100)
}

fn value() -> Vec<u8> {
    vec![b'x'; value_bytes()]
}

fn reply() -> Vec<u8> {
    let value = Value {
        value: value(),
        ..Value::default()
    };
    value.write_to_bytes().expect("a message")
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

/// What the echo answers, made once.
static REPLY: OnceLock<GrpcSlice> = OnceLock::new();

/// `Get` that neither reads its request nor makes its reply.
const GET: Method<(), ()> = Method {
    ty: MethodType::Unary,
    name: "/corecache.v1.Cache/Get",
    req_mar: Marshaller {
        ser: |_, _| Ok(()),
        de: |_| Ok(()),
    },
    resp_mar: Marshaller {
        ser: |_, slice| {
            *slice = REPLY.get_or_init(|| reply().into()).clone();
            Ok(())
        },
        de: |_| Ok(()),
    },
};

/// Serves until the process is killed.
fn echo() -> ! {
    let bind = || {
        if let Err(error) = pin_to_core(SERVER_CORE) {
            eprintln!("the echo is not bound to core {SERVER_CORE}: {error}");
        }
    };
    let env = Arc::new(EnvBuilder::new().cq_count(1).after_start(bind).build());
    // As the node's.
    let arguments = ChannelBuilder::new(env.clone())
        .reuse_port(false)
        .max_concurrent_stream(1024)
        .max_receive_message_len(4 << 20)
        .max_send_message_len(UNARY_LIMIT_BYTES as i32)
        .build_args();
    let service = ServiceBuilder::new()
        .add_unary_handler(&GET, |ctx, (), sink| {
            let sent = sink.success(());
            ctx.spawn(async move {
                let _ = sent.await;
            });
        })
        .build();
    let mut server = ServerBuilder::new(env)
        .channel_args(arguments)
        .register_service(service)
        .build()
        .expect("a server");
    let port = server.add_listening_port("127.0.0.1:0", ServerCredentials::insecure());
    server.start();
    println!("listening on 127.0.0.1:{}", port.expect("a free port"));
    loop {
        thread::park();
    }
}
