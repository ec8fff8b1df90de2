//! What hits of others feel of a connection that sends what no client would.
//!
//! Rounds of a second alternate: a quiet one, and one in which one connection attacks as fast as it can. One client asks
//! for a hot key all the time, one call after the other. Compared are the 99th percentiles of its latency; beside them
//! stands what the node's memory grew by, and how many of the client's calls failed. The node has all cores, as have the
//! attacker and the client; the attacker comes last where they compete for one, as it would not be on this machine.
//!
//! `cargo bench --bench abuse [-- --rounds N] [--only ATTACK] [--door front|express]`

mod support;

#[allow(dead_code)]
#[path = "../tests/support/http2.rs"]
mod http2;

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use grpcio::Client;
use protobuf::Message;

use http2::{
    Connection, DATA, END_HEADERS, END_STREAM, FRAME_MAX_BYTES, HEADERS, PING, RST_STREAM, frame,
    headers, message,
};
use support::client::{GROUP, connect, get, get_request};
use support::{Server, Spread, argument, give_way, print_head};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
const ROUND: Duration = Duration::from_secs(1);
const PATH: &str = "/corecache.v1.Cache/Get";
const KEY: &str = "hot";

/// Makes the next bytes to send, of the number of this piece.
type Attack = fn(u32) -> Vec<u8>;

/// Each: its name, whether what the node answers is read, and what is sent.
const ATTACKS: [(&str, bool, Attack); 5] = [
    ("hits", true, call),
    ("resets", true, |number| {
        let reset = frame(RST_STREAM, 0, 2 * number + 1, &8u32.to_be_bytes());
        [call(number), reset].concat()
    }),
    ("open", true, |number| open_stream(number)),
    ("pings", false, |_| frame(PING, 0, 0, &[0; 8]).repeat(100)),
    ("metadata", true, |number| {
        let long = [b'v'; FRAME_MAX_BYTES / 2];
        let block = headers(PATH, &[("name", &long), ("other", &long[..4000])]);
        frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &block)
    }),
];

fn call(number: u32) -> Vec<u8> {
    let request = get_request(KEY).write_to_bytes().expect("a message");
    let body = message(false, &request);
    let data = frame(DATA, END_STREAM, 2 * number + 1, &body);
    [open_stream(number), data].concat()
}

fn open_stream(number: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 2 * number + 1, &headers(PATH, &[]))
}

fn main() {
    print_head("abuse: hits of others while one connection sends what no client would");
    let rounds = argument("--rounds", 5);
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    fs::write(folder.path().join(KEY), [b'x'; 100]).expect("a file");
    let origin = format!("{GROUP}=dir:{}", folder.path().display());
    println!("load        {rounds} pairs of rounds of {ROUND:?} for each attack");
    let wanted = |option: &str, name: &str| {
        let only = env::args().skip_while(|arg| arg != option).nth(1);
        only.is_none_or(|only| only == name)
    };
    for door in ["front", "express"]
        .into_iter()
        .filter(|door| wanted("--door", door))
    {
        println!("\ndoor        {door}");
        for attack in ATTACKS.iter().filter(|attack| wanted("--only", attack.0)) {
            let (node, express) = Server::express_node(["--group", &origin]);
            let addr = if door == "front" { node.addr } else { express };
            measure(&node, addr, rounds, *attack);
        }
    }
}

/// Lets quiet rounds and those of an attack take turns.
fn measure(node: &Server, addr: SocketAddr, rounds: usize, attack: (&str, bool, Attack)) {
    let (name, is_read, attack) = attack;
    let client = &connect(addr, 1)[0];
    get(client, KEY).expect("a value");
    let mut failed = 0;
    round(client, &mut failed);
    let before = node.peak_rss_bytes();
    let (mut quiet, mut attacked, mut sent) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        quiet.push(round(client, &mut failed));
        thread::scope(|scope| {
            let attacker = scope.spawn(|| send(addr, is_read, attack));
            attacked.push(round(client, &mut failed));
            sent += attacker.join().expect("it attacks");
        });
    }
    let growth = (node.peak_rss_bytes() - before) >> 20;
    let ratios = quiet
        .iter()
        .zip(&attacked)
        .map(|(quiet, attacked)| attacked / quiet);
    println!(
        "{name:<12}{sent} pieces were sent; the node grew by {growth} MiB at the most; {failed} hits failed"
    );
    println!(
        "            us, 99th percentile, quiet: {:.0}",
        Spread::new(quiet.iter().copied())
    );
    println!(
        "            us, 99th percentile, attacked: {:.0}",
        Spread::new(attacked.iter().copied())
    );
    println!("            attacked/quiet: {:.2}", Spread::new(ratios));
}

/// The 99th percentile of a second of hits, in microseconds. A call that fails has its time too.
fn round(client: &Client, failed: &mut usize) -> f64 {
    let end = Instant::now() + ROUND;
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        *failed += usize::from(get(client, KEY).is_err());
        latencies.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Spread::new(latencies).quantile(0.99)
}

/// Attacks for a round, over one connection after the other as the node cuts them; how many pieces were sent.
fn send(addr: SocketAddr, is_read: bool, attack: Attack) -> usize {
    give_way();
    let end = Instant::now() + ROUND;
    let mut sent = 0;
    while Instant::now() < end {
        let mut connection = Connection::greet(addr);
        let write_timeout = Some(Duration::from_millis(100));
        connection
            .0
            .set_write_timeout(write_timeout)
            .expect("a time limit");
        let mut answers = Connection(connection.0.try_clone().expect("a descriptor"));
        let reader = thread::spawn(move || while is_read && answers.receive().is_some() {});
        let mut number = 0;
        while Instant::now() < end && connection.send(&attack(number)).is_ok() {
            number += 1;
        }
        sent += number as usize;
        let _ = connection.0.shutdown(std::net::Shutdown::Both);
        reader.join().expect("it reads");
    }
    sent
}
