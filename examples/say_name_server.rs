//! A complete gRPC server: one service with one method, served until it is told to stop.
//!
//! ```sh
//! cargo run --release --example say_name_server            # on 127.0.0.1:8800
//! cargo run --release --example say_name_server 127.0.0.1:0  # on a port that is free
//! ```

use std::net::{TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::{env, process};

use grpcio::{
    ChannelBuilder, Environment, Marshaller, Method, MethodType, RpcContext, Server, ServerBuilder,
    ServerCredentials, Service, ServiceBuilder, UnarySink, pb_de, pb_ser,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

// build.rs generates `Teacher` from proto/say_name.proto.
include!(concat!(env!("OUT_DIR"), "/say_name/mod.rs"));
use say_name::Teacher;

/// `rpc SayHello(Teacher) returns (Teacher)` of service `SayName` in package `pb`.
const SAY_HELLO: Method<Teacher, Teacher> = Method {
    ty: MethodType::Unary,
    name: "/pb.SayName/SayHello",
    req_mar: TEACHER,
    resp_mar: TEACHER,
};

/// How a teacher is encoded and decoded: as protobuf.
const TEACHER: Marshaller<Teacher> = Marshaller {
    ser: pb_ser,
    de: pb_de,
};

/// Answers one call. This runs on the thread that received it, so it must not block.
fn say_hello(ctx: RpcContext, mut teacher: Teacher, sink: UnarySink<Teacher>) {
    teacher.name.push_str(" is Sleeping! helloworld");
    let reply = sink.success(teacher);
    ctx.spawn(async move {
        if let Err(error) = reply.await {
            eprintln!("the caller has gone: {error}");
        }
    });
}

/// What a server registers: the methods that it has, each with the function that answers it.
fn say_name_service() -> Service {
    ServiceBuilder::new()
        .add_unary_handler(&SAY_HELLO, say_hello)
        .build()
}

/// Starts a server with one I/O thread on `address`, and returns it with the port it listens on.
fn start(address: &str) -> grpcio::Result<(Server, u16)> {
    let env = Arc::new(Environment::new(1));
    // With SO_REUSEPORT, a second server would quietly get half of the calls.
    let args = ChannelBuilder::new(env.clone())
        .reuse_port(false)
        .build_args();
    let mut server = ServerBuilder::new(env)
        .channel_args(args)
        .register_service(say_name_service())
        .build()?;
    let port = server.add_listening_port(address, ServerCredentials::insecure())?;
    server.start();
    Ok((server, port))
}

/// What the system says against listening there. The gRPC core only says that it can not.
fn why_not(address: &str) -> String {
    match TcpListener::bind(address) {
        Err(error) => error.to_string(),
        Ok(_) => "the gRPC core does not say why".to_owned(),
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let address = match arguments {
        [] => "127.0.0.1:8800",
        [address] => address,
        _ => return Err("more than one address; write say_name_server [HOST:PORT]".to_owned()),
    };
    let no_address = |error| format!("{address:?} is no address: {error}; write HOST:PORT");
    address.to_socket_addrs().map_err(no_address)?;
    let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
    // From here on, these signals do not end the process: they wait in `stop`.
    let mut stop = Signals::new([SIGINT, SIGTERM]).map_err(|error| error.to_string())?;
    let (mut server, port) = start(address).map_err(|error| {
        let why = match error {
            grpcio::Error::BindFail(_) => why_not(address),
            error => error.to_string(),
        };
        format!("can not listen on {address}: {why}; stop who does, or give another HOST:PORT")
    })?;
    println!("listening on {host}:{port}");

    stop.forever().next();
    // New calls are refused from now on; those that are under way are answered first.
    futures_executor::block_on(server.shutdown()).map_err(|error| error.to_string())
}

fn main() {
    // What the gRPC core has to say is shown with RUST_LOG=grpcio=debug.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn,grpcio=off"))
        .init();
    grpcio::redirect_log();
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let Err(error) = run(&arguments) {
        eprintln!("say_name_server: {error}");
        process::exit(1);
    }
}
