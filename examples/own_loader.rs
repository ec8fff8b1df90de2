//! A node whose values come from a function of its own, in place of `dir:` or `http:`.
//!
//! ```sh
//! cargo run --release --example own_loader                      # on 127.0.0.1:8800
//! cargo run --release --example own_loader 127.0.0.1:0 1024 0   # a free port, 1024 MiB, on core 0
//! cargo run --release --example own_loader 127.0.0.1:0 64 0 1048576   # the same with values of 1 MiB
//! ```

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;
use std::{env, process, thread};

use corecache::group::{GroupConfig, LoadContext, LoadError, Sink};
use corecache::server::{
    ConnectionLimits, Cores, LinkConfig, MembersConfig, Node, NodeConfig, StartError,
    VALUE_LIMIT_BYTES,
};

const USAGE: &str = "write own_loader [IP:PORT [MIB [CORES [VALUE_BYTES [EXPRESS_IP:PORT]]]]]";

/// As in the node's binary.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The value of a key: the key again and again. This runs on a thread that may block.
fn load(key: &[u8], value_bytes: usize, sink: &mut Sink) -> Result<(), LoadError> {
    if key == b"missing" {
        return Err(LoadError::NotFound("nobody has written it yet".into()));
    }
    let value: Vec<u8> = key.iter().copied().cycle().take(value_bytes).collect();
    sink.append(&value)
}

/// The argument at this place, if it is given: `what` is it to be?
fn argument<T: FromStr<Err: Display>>(at: usize, what: &str) -> Result<Option<T>, String> {
    let Some(text) = env::args().nth(at) else {
        return Ok(None);
    };
    let no = |error| format!("{text:?} is no {what}: {error}; {USAGE}");
    text.parse().map(Some).map_err(no)
}

/// Starts the node that the arguments ask for.
fn start() -> Result<Node, String> {
    if env::args().len() > 6 {
        return Err(format!("too many arguments; {USAGE}"));
    }
    let listen = argument(1, "address to listen on")?;
    let memory_mib = argument(2, "number of MiB")?.unwrap_or(64usize);
    let cores = argument(3, "list of cores")?;
    let value_bytes = argument(4, "number of bytes")?.unwrap_or(100);
    let express = argument(5, "address for the express door")?;
    let loader =
        move |key: &[u8], _ctx: &LoadContext<'_>, sink: &mut Sink| load(key, value_bytes, sink);
    let group = GroupConfig::new("blobs", loader)
        .origin("a function")
        .entry_limit_bytes(VALUE_LIMIT_BYTES);
    let started = Node::start(NodeConfig {
        listen: listen.unwrap_or_else(|| ([127, 0, 0, 1], 8800).into()),
        admin: None,
        express,
        memory_bytes: memory_mib.saturating_mul(1 << 20),
        groups: vec![group],
        cores: cores.unwrap_or_else(Cores::available),
        shards: None,
        loaders: 4,
        loads_an_origin: None,
        load_rate: None,
        load_queue: 1024,
        load_wait: Duration::from_secs(5),
        read_stall: Duration::from_secs(60),
        limits: ConnectionLimits::default(),
        tls: None,
        links: LinkConfig::default(),
        members: MembersConfig::default(),
    });
    started.map_err(|error| match error {
        // Its own words name flags of `corecache serve`.
        StartError::Listen(address, why) => {
            format!("can not listen on {address}: {why}; stop who does, or give another one")
        }
        StartError::Express(address, why) => {
            format!("can not listen on {address}: {why}; stop who does, or give another one")
        }
        error => error.to_string(),
    })
}

fn main() {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info,grpcio=off"))
        .init();
    let node = start().unwrap_or_else(|error| {
        eprintln!("own_loader: {error}");
        process::exit(1);
    });
    println!("listening on {}", node.listen());
    if let Some(express) = node.express() {
        println!("express on {express}");
    }
    loop {
        thread::park();
    }
}
