//! What readers cost that stop reading: the resident set of a node over its budget.
//!
//! A node with a budget of 512 MiB serves values of 64 MiB, made over HTTP. A thousand readers on 10 connections begin to
//! read the values that are held, take the first message, and then nothing more: half of them whole chunks, half parts
//! that begin and end within a chunk. Then one that reads on asks for other values, one after the other, so that what is
//! held has to go, as far as it can; and some more readers each begin a value of their own, and stop. That some of these
//! are refused is what is to happen. The figure is the kernel's: the peak of the resident set, with everything that the
//! process had, over the budget.
//!
//! And how fast one reader that reads on gets the bytes, from a value that is held: MiB a second.
//!
//! What this can't show: readers over slow networks, which the kernel's buffers hide from the node for a while.
//!
//! `cargo bench --bench large_values [-- --readers N] [--runs N]`

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use corecache::server::pb;
use corecache::server::pb::cache::{Chunk, ReadRequest};
use futures_executor::block_on;
use futures_util::StreamExt;
use grpcio::{
    CallOption, ChannelBuilder, Client, ClientSStreamReceiver, Environment, Method, MethodType,
};

use support::client::{GROUP, connect, stats};
use support::origin;
use support::{Server, Spread, argument, print_head, print_verdict};

const MIB: u64 = 1 << 20;
const BUDGET_MIB: u64 = 512;
const VALUE_MIB: u64 = 64;
const HELD: usize = 4;
const OTHERS: usize = 16;
const CONNECTIONS: usize = 10;
const OVER_WANTED_MIB: u64 = 128;

const READ: Method<ReadRequest, Chunk> =
    pb::method(MethodType::ServerStreaming, "/corecache.v1.Cache/Read");

fn main() {
    print_head("large values: readers that stop, and one that reads on");
    let readers = argument("--readers", 1000);
    let origin = origin::start(|key| vec![key.len() as u8; (VALUE_MIB * MIB) as usize]);
    let node = Server::node([
        "--memory",
        &format!("{BUDGET_MIB}MiB"),
        "--group",
        &origin::group_argument(origin),
    ]);
    let reading = &connect(node.addr, 1)[0];
    let stopped = connect_slow(node.addr);
    for key in 0..HELD {
        read(reading, &format!("held{key}")).expect("a value");
    }
    print_speed(reading);

    let mut streams: Vec<_> = (0..readers)
        .map(|reader| {
            let client = &stopped[reader % CONNECTIONS];
            let offset = reader as u64 / HELD as u64 % 2;
            start(client, &format!("held{}", reader % HELD), offset)
        })
        .collect();
    for stream in &mut streams {
        let first = block_on(stream.next()).expect("a first message");
        first.expect("the readers are let in");
    }
    print_memory("stopped", &node, reading);
    let served = (0..OTHERS).filter(|key| read(reading, &format!("other{key}")).is_ok());
    println!(
        "others      {} of {OTHERS} other values were served",
        served.count()
    );
    print_memory("beside", &node, reading);
    let more = (0..OTHERS).map(|key| start(&stopped[0], &format!("more{key}"), 0));
    let more: Vec<_> = more
        .filter_map(|mut stream| {
            let first = block_on(stream.next()).expect("an answer");
            first.is_ok().then_some(stream)
        })
        .collect();
    println!(
        "more        {} of {OTHERS} readers of values of their own were let in, and stop",
        more.len()
    );
    let peak = print_memory("in all", &node, reading);
    drop((streams, more));
    while stats(reading).garbage_bytes > 0 {
        thread::sleep(Duration::from_millis(10));
    }
    print_memory("let go", &node, reading);
    print_verdict(
        &format!("{OVER_WANTED_MIB} MiB over the budget at the most"),
        peak <= (BUDGET_MIB + OVER_WANTED_MIB) * MIB,
    );
}

/// Clients whose windows do not grow: they would go on to take what nobody reads, and this process with it.
fn connect_slow(addr: SocketAddr) -> Vec<Client> {
    let env = Arc::new(Environment::new(1));
    let client = |_| {
        let channel = ChannelBuilder::new(env.clone())
            .use_local_subchannel_pool(true)
            .http2_bdp_probe(false);
        Client::new(channel.connect(&addr.to_string()))
    };
    (0..CONNECTIONS).map(client).collect()
}

fn start(client: &Client, key: &str, offset: u64) -> ClientSStreamReceiver<Chunk> {
    let request = ReadRequest {
        group: GROUP.to_owned(),
        key: key.to_owned(),
        offset,
        ..ReadRequest::default()
    };
    let options = CallOption::default().timeout(Duration::from_secs(200));
    let stream = client.server_streaming(&READ, &request, options);
    stream.expect("a call can be sent")
}

/// Reads a value to its end, and keeps nothing of it.
fn read(client: &Client, key: &str) -> grpcio::Result<()> {
    let mut stream = start(client, key, 0);
    let mut bytes = 0;
    while let Some(chunk) = block_on(stream.next()) {
        bytes += chunk?.data.len() as u64;
    }
    assert_eq!(bytes, VALUE_MIB * MIB, "{key}");
    Ok(())
}

fn print_speed(client: &Client) {
    let speeds = (0..argument("--runs", 20)).map(|_| {
        let start = Instant::now();
        read(client, "held0").expect("a value that is held");
        VALUE_MIB as f64 / start.elapsed().as_secs_f64()
    });
    println!("reading on  MiB/s: {:.0}", Spread::new(speeds));
}

/// Prints the peak of the resident set, and returns it.
fn print_memory(name: &str, node: &Server, client: &Client) -> u64 {
    let peak = node.peak_rss_bytes();
    let stats = stats(client);
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    println!(
        "{name:<12}peak {:.1} MiB, {:.1} over the budget; {:.1} MiB of it used, {:.1} of that garbage",
        mib(peak),
        mib(peak) - BUDGET_MIB as f64,
        mib(stats.used_bytes),
        mib(stats.garbage_bytes)
    );
    peak
}
