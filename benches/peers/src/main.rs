//! The node against other servers: many keys a call, or large values, on one core for the server and one for the load.
//!
//! Servers run throughout, each in a process of its own bound to the same core. What loads them is bound to another
//! one, and takes turns: A B A B. Every reply is counted by its bytes. Where the load's core is busy all the time and
//! the server's is not, the figure is the load's, and said to be so.

mod drive;
mod echo;
mod grpc;
mod h2;
mod keys;
mod open_loop;
mod pajamax;
mod process;
mod redis;
mod rounds;
mod spread;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, thread};

use drive::Shape;
use keys::{KEYS, VALUE_BYTES};
use process::{Server, free_address};
use rounds::{Contender, Goal, compare, compare_cpu};

const USAGE: &str = "\
usage: corecache-peers [MODE] [--pairs N] [--node PATH]

modes, all of them where none is given:
  get-many    GetMany of 64 keys of 100 bytes, over h2load, against a bare tonic echo
  fetch       Fetch with 256 keys in flight, against the same
  large       Get of 1 MiB, over h2load, against a bare tonic echo of 1 MiB
  express     the express door: Get, 8 x 32 and 64 x 1 by h2load, against the bare tonic echo; GetMany of 64 against
              Redis' MGET of 64, 2^20 keys, Zipf 0.99
  pajamax     the express door: Get, 8 x 32 by h2load, against a bare pajamax echo
  open-loop   the express door: Get at half of the bare tonic echo's peak rate, sent whether replies come or not,
              against the same echo
  links       the express door: what one connection carries, as GetMany of 64 and as Get
  best-batch  GetMany at its best batch, against Redis' MGET at its best; 2^20 keys, Zipf 0.99

--pairs N     rounds of each; 24 where it is not given
--node PATH   the node: target/release/examples/own_loader where it is not given
--other PATH  another build of it: Get at the express door against this one, and nothing else

needs h2load (Debian: nghttp2-client) and redis-server";

const MODES: [&str; 8] = [
    "get-many",
    "fetch",
    "large",
    "express",
    "pajamax",
    "open-loop",
    "links",
    "best-batch",
];

/// The argument by which this program runs as the echo; the next one is how many bytes it answers with.
const ECHO: &str = "--echo";
/// The same for pajamax; after it comes the address, which it does not print.
const PAJAMAX: &str = "--pajamax";
const LARGE_BYTES: usize = 1 << 20;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let (mut modes, mut pairs) = (Vec::new(), 24);
    let mut node = PathBuf::from("target/release/examples/own_loader");
    let mut other = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            ECHO => match arguments.next().and_then(|bytes| bytes.parse().ok()) {
                Some(value_bytes) => echo::serve(value_bytes),
                None => return usage(),
            },
            PAJAMAX => match arguments.next().and_then(|addr| addr.parse().ok()) {
                Some(addr) => pajamax::serve(addr, VALUE_BYTES),
                None => return usage(),
            },
            mode if MODES.contains(&mode) => modes.push(argument),
            "--pairs" => match arguments.next().and_then(|number| number.parse().ok()) {
                Some(number) if (1..=1000).contains(&number) => pairs = number,
                _ => return usage(),
            },
            "--node" => match arguments.next() {
                Some(path) => node = path.into(),
                None => return usage(),
            },
            "--other" => match arguments.next() {
                Some(path) => other = Some(PathBuf::from(path)),
                None => return usage(),
            },
            _ => return usage(),
        }
    }
    let is_on = |mode: &str| modes.is_empty() || modes.iter().any(|wanted| wanted == mode);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{cores} cores; {pairs} pairs; median (quartiles); run it on a machine that does nothing else"
    );
    if let Some(other) = other {
        builds(&node, &other, pairs);
        return ExitCode::SUCCESS;
    }
    if is_on("large") {
        let node = start_node(&node, "64", LARGE_BYTES);
        large(&node, &start_echo(LARGE_BYTES), pairs);
    }
    if modes.iter().any(|mode| mode == "large") && modes.len() == 1 {
        return ExitCode::SUCCESS;
    }
    let mut node = start_node(&node, "1024", VALUE_BYTES);
    let express = node.express();
    let echo = start_echo(VALUE_BYTES);
    fill(&node);
    if is_on("get-many") {
        get_many(&node, &echo, pairs);
    }
    if is_on("fetch") {
        fetch(&node, &echo, pairs);
    }
    if is_on("express") {
        unary_express(&node, express, &echo, pairs);
    }
    if is_on("pajamax") {
        cpu_over_pajamax(&node, express, pairs);
    }
    if is_on("open-loop") {
        open_loop(express, &echo, pairs);
    }
    drop(echo);
    if is_on("links") {
        one_connection(&node, express, pairs);
    }
    if is_on("express") {
        many_express(&node, express, pairs);
    }
    if is_on("best-batch") {
        best_batch(&node, pairs);
    }
    ExitCode::SUCCESS
}

fn start_node(program: &Path, memory_mib: &str, value_bytes: usize) -> Server {
    let (anywhere, core) = ("127.0.0.1:0", "0");
    let value_bytes = value_bytes.to_string();
    Server::start(Command::new(program).args([anywhere, memory_mib, core, &value_bytes, anywhere]))
}

fn start_echo(value_bytes: usize) -> Server {
    let this = env::current_exe().expect("the path of this program");
    Server::start(Command::new(this).args([ECHO, &value_bytes.to_string()]))
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Has the node load all keys.
fn fill(node: &Server) {
    const BATCH: usize = 2048;
    let numbers: Vec<usize> = (0..KEYS).collect();
    let requests: Vec<_> = numbers.chunks(BATCH).map(grpc::request).collect();
    let shape = Shape {
        connections: 1,
        depth: 2,
    };
    drive::drive(
        shape,
        || grpc::Unary::many(node.addr, BATCH),
        &requests,
        requests.len(),
    );
}

/// 8 connections of 32 streams.
const WIDE: Shape = Shape {
    connections: 8,
    depth: 32,
};
const LONE: Shape = Shape {
    connections: 64,
    depth: 1,
};

/// So many calls by h2load.
fn h2load(
    addr: SocketAddr,
    shape: Shape,
    method: &str,
    keys: usize,
    reply_bytes: usize,
    calls: usize,
) {
    let path = env::temp_dir().join(format!("corecache-peers-{}-{keys}", std::process::id()));
    fs::write(&path, grpc::request(&(0..keys).collect::<Vec<_>>())).expect("a temporary file");
    let output = Command::new("h2load")
        .args(["-t", "1", "-w", "30", "-W", "30"])
        .args(["-c", &shape.connections.to_string()])
        .args(["-m", &shape.depth.to_string()])
        .args(["-n", &calls.to_string()])
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
        .arg("-d")
        .arg(&path)
        .arg(format!("http://{addr}/corecache.v1.Cache/{method}"))
        .output();
    let _ = fs::remove_file(&path);
    let output = output.expect("h2load runs; it is in Debian's nghttp2-client");
    let text = String::from_utf8_lossy(&output.stdout);
    let succeeded = text.contains(&format!(" {calls} succeeded, 0 failed, 0 errored"));
    let replied = text.contains(&format!("({}) data", calls * reply_bytes));
    assert!(succeeded && replied, "not all calls were answered:\n{text}");
}

fn get_many(node: &Server, echo: &Server, pairs: usize) {
    const BATCH: usize = 64;
    println!("\nget-many: GetMany of {BATCH} keys, 8 connections x 32 calls, by h2load");
    let of_node = Contender {
        name: "node, keys".into(),
        server: node,
        a_call: BATCH,
        run: Box::new(|calls| {
            let reply_bytes = grpc::reply_bytes(BATCH);
            h2load(node.addr, WIDE, "GetMany", BATCH, reply_bytes, calls);
        }),
    };
    compare(&of_node, &of_echo(echo), pairs, 8.0, 15.0);
}

fn of_echo(echo: &Server) -> Contender<'_> {
    of_get("tonic echo, calls", echo, echo.addr, WIDE, VALUE_BYTES)
}

fn of_get<'a>(
    name: &str,
    server: &'a Server,
    addr: SocketAddr,
    shape: Shape,
    value_bytes: usize,
) -> Contender<'a> {
    let reply_bytes = grpc::value_reply_bytes(value_bytes);
    Contender {
        name: name.into(),
        server,
        a_call: 1,
        run: Box::new(move |calls| h2load(addr, shape, "Get", 1, reply_bytes, calls)),
    }
}

fn large(node: &Server, echo: &Server, pairs: usize) {
    println!("\nlarge: Get of {LARGE_BYTES} bytes, 8 connections x 32 calls, by h2load");
    let of_node = of_get("node, calls", node, node.addr, WIDE, LARGE_BYTES);
    let of_echo = of_get("tonic echo, calls", echo, echo.addr, WIDE, LARGE_BYTES);
    compare(&of_node, &of_echo, pairs, 2.0, 3.0);
}

fn fetch(node: &Server, echo: &Server, pairs: usize) {
    const IN_FLIGHT: usize = 256;
    /// Messages that they are asked in at first; later ones have as many keys as were answered together.
    const MESSAGES: usize = 8;
    println!(
        "\nfetch: one stream, {IN_FLIGHT} keys without an answer; echo: 8 connections x 32 calls"
    );
    let keys = keys::zipf(1 << 18);
    let of_node = Contender {
        name: "node, keys".into(),
        server: node,
        a_call: 1,
        run: Box::new(|total| {
            let fetched = grpc::fetch(node.addr, &keys, IN_FLIGHT, MESSAGES, total);
            fetched.expect("all keys are answered");
        }),
    };
    compare(&of_node, &of_echo(echo), pairs, 1.5, 4.0);
}

fn unary_express(node: &Server, express: SocketAddr, echo: &Server, pairs: usize) {
    for (shape, wanted, aim) in [(WIDE, 2.0, 2.8), (LONE, 1.05, 1.2)] {
        let Shape { connections, depth } = shape;
        println!("\nexpress: Get, {connections} connections x {depth} calls, by h2load");
        let of_node = of_get("express, calls", node, express, shape, VALUE_BYTES);
        let of_echo = of_get("tonic echo, calls", echo, echo.addr, shape, VALUE_BYTES);
        compare(&of_node, &of_echo, pairs, wanted, aim);
    }
}

fn many_express(node: &Server, express: SocketAddr, pairs: usize) {
    const BATCH: usize = 64;
    println!("\nexpress: GetMany of {BATCH}, 2^20 keys, Zipf 0.99, 100 bytes");
    let redis = Server::redis();
    redis::fill(redis.addr).expect("Redis takes all keys");
    let draws = keys::zipf(1 << 20);
    let of_node = by_batches(node, express, &draws, BATCH);
    let of_redis = redis_by_batches(&redis, &draws, BATCH);
    compare(&of_node, &of_redis, pairs, 1.0, 1.5);
}

fn cpu_over_pajamax(node: &Server, express: SocketAddr, pairs: usize) {
    println!("\npajamax: Get, 8 connections x 32 calls, by h2load");
    let addr = free_address();
    let this = env::current_exe().expect("the path of this program");
    let mut command = Command::new(this);
    let pajamax = Server::start_at(addr, command.args([PAJAMAX, &addr.to_string()]));
    let of_node = of_get("express, calls", node, express, WIDE, VALUE_BYTES);
    let of_pajamax = of_get("pajamax echo, calls", &pajamax, addr, WIDE, VALUE_BYTES);
    let goal = Goal::AtMost {
        wanted: 2.5,
        aim: 1.3,
    };
    compare_cpu(&of_node, &of_pajamax, pairs, Some(goal));
}

fn open_loop(express: SocketAddr, echo: &Server, pairs: usize) {
    let goal = Goal::AtMost {
        wanted: 1.0,
        aim: 0.7,
    };
    for shape in [WIDE, LONE] {
        let Shape { connections, depth } = shape;
        let of_echo = of_get("", echo, echo.addr, shape, VALUE_BYTES);
        let calls = of_echo.calls_a_round();
        let peaks = (0..5).map(|_| of_echo.round(calls).a_second);
        let rate = spread::Spread::of(peaks).median() / 2.0;
        println!(
            "\nopen-loop: Get, {connections} connections, {:.1} thousand calls a second: half of what the echo does by \
             h2load with {connections} x {depth}",
            rate / 1e3
        );
        let servers = [("express", express), ("tonic echo", echo.addr)];
        open_loop::compare(servers, connections, rate, pairs, goal);
    }
}

/// What one link between nodes would be, were it a connection to the express door.
fn one_connection(node: &Server, express: SocketAddr, pairs: usize) {
    const BATCH: usize = 64;
    println!("\nlinks: one connection to the express door, Zipf 0.99 over 2^20 keys");
    let draws = keys::zipf(1 << 18);
    let requests =
        |keys: usize| -> Vec<_> { draws.chunks_exact(keys).map(grpc::request).collect() };
    let (of_many, of_one) = (&requests(BATCH), &requests(1));
    let shape = |depth| Shape {
        connections: 1,
        depth,
    };
    let many = Contender {
        name: format!("GetMany, 16 x {BATCH}"),
        server: node,
        a_call: BATCH,
        run: Box::new(move |calls| {
            let open = || grpc::Unary::many(express, BATCH);
            drive::drive(shape(16), open, of_many, calls);
        }),
    };
    let one = |depth| Contender {
        name: format!("Get, {depth}"),
        server: node,
        a_call: 1,
        run: Box::new(move |calls| {
            let open = || grpc::Unary::get(express);
            drive::drive(shape(depth), open, of_one, calls);
        }),
    };
    compare_cpu(&many, &one(256), pairs, None);
    compare_cpu(&one(1), &one(64), pairs, None);
}

/// Two builds of the node.
fn builds(node: &Path, other: &Path, pairs: usize) {
    let [(node, express), (other, other_express)] = [node, other].map(|program| {
        let mut node = start_node(program, "1024", VALUE_BYTES);
        let express = node.express();
        fill(&node);
        (node, express)
    });
    for shape in [WIDE, LONE] {
        let Shape { connections, depth } = shape;
        println!("\nbuilds: Get, {connections} connections x {depth} calls, by h2load");
        let of_node = of_get("node, calls", &node, express, shape, VALUE_BYTES);
        let of_other = of_get("other, calls", &other, other_express, shape, VALUE_BYTES);
        compare_cpu(&of_node, &of_other, pairs, None);
    }
}

const BATCHES_UNDER_WAY: Shape = Shape {
    connections: 4,
    depth: 4,
};

fn by_batches<'a>(
    node: &'a Server,
    addr: SocketAddr,
    draws: &[usize],
    batch: usize,
) -> Contender<'a> {
    let requests: Vec<_> = draws.chunks_exact(batch).map(grpc::request).collect();
    Contender {
        name: format!("node, by {batch}"),
        server: node,
        a_call: batch,
        run: Box::new(move |calls| {
            let open = || grpc::Unary::many(addr, batch);
            drive::drive(BATCHES_UNDER_WAY, open, &requests, calls);
        }),
    }
}

fn redis_by_batches<'a>(redis: &'a Server, draws: &[usize], batch: usize) -> Contender<'a> {
    let requests: Vec<_> = draws.chunks_exact(batch).map(redis::mget).collect();
    let addr = redis.addr;
    Contender {
        name: format!("Redis, by {batch}"),
        server: redis,
        a_call: batch,
        run: Box::new(move |calls| {
            let open = || redis::Redis::open(addr, redis::reply_bytes(batch));
            drive::drive(BATCHES_UNDER_WAY, open, &requests, calls);
        }),
    }
}

fn best_batch(node: &Server, pairs: usize) {
    const BATCHES: [usize; 6] = [16, 64, 128, 256, 512, 2048];
    println!("\nbest-batch: 2^20 keys, Zipf 0.99, 100 bytes");
    let redis = Server::redis();
    redis::fill(redis.addr).expect("Redis takes all keys");
    let draws = keys::zipf(1 << 20);
    let of_node = |batch: usize| by_batches(node, node.addr, &draws, batch);
    let of_redis = |batch: usize| redis_by_batches(&redis, &draws, batch);
    let node_batch = best_of(BATCHES, of_node);
    let redis_batch = best_of(BATCHES, of_redis);
    compare(
        &of_node(node_batch),
        &of_redis(redis_batch),
        pairs,
        0.4,
        1.0,
    );
}

/// The batch that gets most keys a second.
fn best_of<'a, const N: usize>(
    batches: [usize; N],
    contender: impl Fn(usize) -> Contender<'a>,
) -> usize {
    const ROUNDS: usize = 3;
    let speeds = batches.map(|batch| {
        let contender = contender(batch);
        let calls = contender.calls_a_round();
        let rounds = (0..ROUNDS).map(|_| contender.round(calls).a_second);
        let speed = spread::Spread::of(rounds).median();
        println!(
            "{:<19} {:.0} thousand a second",
            contender.name,
            speed / 1e3
        );
        speed
    });
    let best = (0..N).max_by(|&a, &b| speeds[a].total_cmp(&speeds[b]));
    batches[best.unwrap_or(0)]
}
