//! A node whose values come from a function of its own, in place of `dir:` or `http:`.
//!
//! ```sh
//! cargo run --release --example own_loader                      # on 127.0.0.1:8800
//! cargo run --release --example own_loader 127.0.0.1:0 1024 0   # a free port, 1024 MiB, on core 0
//! cargo run --release --example own_loader 127.0.0.1:0 64 0 1048576   # the same with values of 1 MiB
//! ```

use std::env;
use std::error::Error;
use std::thread;
use std::time::Duration;

use corecache::group::{GroupConfig, LoadContext, LoadError, Sink};
use corecache::server::{
    ConnectionLimits, Cores, LinkConfig, MembersConfig, Node, NodeConfig, VALUE_LIMIT_BYTES,
};

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

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let argument = |index: usize, default: &'static str| {
        arguments
            .get(index)
            .map_or(default, String::as_str)
            .to_owned()
    };
    let listen = argument(0, "127.0.0.1:8800").parse()?;
    let memory_mib: usize = argument(1, "64").parse()?;
    let cores = match arguments.get(2) {
        Some(list) => list.parse::<Cores>()?,
        None => Cores::available(),
    };
    let value_bytes: usize = argument(3, "100").parse()?;
    let express = match arguments.get(4) {
        Some(address) => Some(address.parse()?),
        None => None,
    };
    let loader =
        move |key: &[u8], _ctx: &LoadContext<'_>, sink: &mut Sink| load(key, value_bytes, sink);
    let group = GroupConfig::new("blobs", loader)
        .origin("a function")
        .entry_limit_bytes(VALUE_LIMIT_BYTES);
    let node = Node::start(NodeConfig {
        listen,
        admin: None,
        express,
        memory_bytes: memory_mib << 20,
        groups: vec![group],
        cores,
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
    })?;
    println!("listening on {}", node.listen());
    if let Some(express) = node.express() {
        println!("express on {express}");
    }
    loop {
        thread::park();
    }
}
