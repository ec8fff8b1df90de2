//! What an idle connection costs: resident memory of a node with 10,000 of them, against a bare grpcio echo; and at its
//! express door.
//!
//! Each connection has greeted, has had one call answered, and is silent from then on. Servers are started anew for
//! each figure, in turn, with the same allocator, one completion queue, and no loaders that were ever busy. What is
//! compared is the growth from the first call on, a connection.
//!
//! What this can't show: what the kernel keeps for a connection, or one with TLS.
//!
//! `cargo bench --bench idle_connections [-- --connections N] [--pairs N]`

mod support;

#[allow(dead_code)]
#[path = "../tests/support/http2.rs"]
mod http2;

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use grpcio::{
    EnvBuilder, GrpcSlice, Marshaller, Method, MethodType, ServerBuilder, ServerCredentials,
    ServiceBuilder,
};
use protobuf::Message;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use http2::{Connection, DATA, END_HEADERS, END_STREAM, HEADERS, frame, headers, message};
use support::client::{GROUP, get_request};
use support::{Server, Spread, argument, print_head, print_verdict};

/// As in the node's binary.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
const WANTED_BYTES: f64 = 2048.0;
/// Of a connection at the express door.
const WANTED_EXPRESS_BYTES: f64 = 8192.0;
const PATH: &str = "/corecache.v1.Cache/Get";
const KEY: &str = "value";
/// The argument by which this program runs as the echo.
const ECHO: &str = "--echo";

fn main() {
    raise_descriptor_limit();
    if env::args().any(|arg| arg == ECHO) {
        echo();
    }
    print_head("idle connections: resident memory of each, against a bare grpcio echo");
    let connections = argument("--connections", 10_000);
    let pairs = argument("--pairs", 5);
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    fs::write(folder.path().join(KEY), [b'x'; 100]).expect("a file");
    let origin = format!("{GROUP}=dir:{}", folder.path().display());
    println!("load        {connections} connections, {pairs} pairs of servers");
    let (mut of_node, mut of_echo, mut of_express) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..pairs {
        let node = Server::node(["--group", &origin, "--cores", "0"]);
        of_node.push(bytes_a_connection(&node, node.addr, connections));
        drop(node);
        let (node, express) = Server::express_node(["--group", &origin, "--cores", "0"]);
        of_express.push(bytes_a_connection(&node, express, connections));
        drop(node);
        let program = env::current_exe().expect("the path of this program");
        let echo = Server::start(Command::new(program).arg(ECHO));
        of_echo.push(bytes_a_connection(&echo, echo.addr, connections));
    }
    println!(
        "node        bytes a connection: {:.0}",
        Spread::new(of_node.iter().copied())
    );
    println!(
        "echo        bytes a connection: {:.0}",
        Spread::new(of_echo.iter().copied())
    );
    let more = of_node.iter().zip(&of_echo).map(|(node, echo)| node - echo);
    let more = Spread::new(more);
    println!("node - echo bytes a connection: {more:.0}");
    print_verdict(
        &format!("a median of {WANTED_BYTES} or less"),
        more.median() <= WANTED_BYTES,
    );
    let of_express = Spread::new(of_express);
    println!("express     bytes a connection: {of_express:.0}");
    print_verdict(
        &format!("a median of {WANTED_EXPRESS_BYTES} or less"),
        of_express.median() <= WANTED_EXPRESS_BYTES,
    );
}

fn bytes_a_connection(server: &Server, addr: SocketAddr, connections: usize) -> f64 {
    // What the first calls set up is no connection's.
    let warm: Vec<_> = (0..100).map(|_| used(addr)).collect();
    let before = server.rss_bytes();
    let held: Vec<_> = (0..connections).map(|_| used(addr)).collect();
    let growth = server.rss_bytes() as f64 - before as f64;
    drop((warm, held));
    growth / connections as f64
}

/// A connection that has had a call answered.
fn used(addr: SocketAddr) -> Connection {
    let mut connection = Connection::greet(addr);
    let request = get_request(KEY).write_to_bytes().expect("a message");
    let call = [
        frame(HEADERS, END_HEADERS, 1, &headers(PATH, &[])),
        frame(DATA, END_STREAM, 1, &message(false, &request)),
    ];
    connection.send(&call.concat()).expect("a call can be sent");
    let end = connection.end_of(1).expect("an answer");
    assert_eq!(end.kind, HEADERS, "the call is answered");
    connection
}

fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).expect("a process may have what it may have");
}

/// `Get` that does not read its request.
const GET: Method<(), ()> = Method {
    ty: MethodType::Unary,
    name: PATH,
    req_mar: Marshaller {
        ser: |_, _| Ok(()),
        de: |_| Ok(()),
    },
    resp_mar: Marshaller {
        ser: |_, slice| {
            *slice = GrpcSlice::from([b'x'; 102].as_slice());
            Ok(())
        },
        de: |_| Ok(()),
    },
};

/// Serves until the process is killed.
fn echo() -> ! {
    let env = Arc::new(EnvBuilder::new().cq_count(1).build());
    let service = ServiceBuilder::new()
        .add_unary_handler(&GET, |ctx, (), sink| {
            let sent = sink.success(());
            ctx.spawn(async move {
                let _ = sent.await;
            });
        })
        .build();
    let mut server = ServerBuilder::new(env)
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
