//! What hits of others feel of those who begin handshakes of TLS at the express door and never end them.
//!
//! Rounds of a second alternate: a quiet one, and one in which 256 connections say hello at once, wait for what the node
//! signs for each, and are replaced by the next 256. One client asks for a hot key all the time, one call after the other,
//! over a connection that it has had before. The node is bound to one core, the load to the next one.
//!
//! `cargo bench --bench handshakes [-- --rounds N]`; needs openssl.

mod support;

#[path = "../tests/support/hello.rs"]
mod hello;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use grpcio::{ChannelBuilder, ChannelCredentialsBuilder, Client, Environment};

use support::client::{GROUP, get};
use support::{
    SERVER_CORE, Server, Spread, argument, give_way, leave_server_core, make_certificate,
    print_head,
};

const KEY: &str = "hot";
const ROUND: Duration = Duration::from_secs(1);
const AT_ONCE: usize = 256;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    print_head("handshakes: hits of others while many begin them at the express door");
    let rounds = argument("--rounds", 20);
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    fs::write(folder.path().join(KEY), [b'x'; 100]).expect("a file");
    let path = |name| folder.path().join(name).display().to_string();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    make_certificate(&cert, &key);
    let origin = format!("{GROUP}=dir:{}", folder.path().display());
    let core = SERVER_CORE.to_string();
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let args = ["--group", &origin, "--cores", &core]
        .into_iter()
        .chain(tls);
    let (_node, express) = Server::express_node(args);
    leave_server_core();
    let client = connect(express, &fs::read(&cert).expect("a certificate"));
    get(&client, KEY).expect("a value");
    round(&client);

    println!("load        {rounds} pairs of rounds of {ROUND:?}, {AT_ONCE} handshakes at once");
    let hello = hello::hello();
    let (mut quiet, mut attacked, mut answered) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        quiet.push(round(&client));
        thread::scope(|scope| {
            let attacker = scope.spawn(|| begin(express, &hello));
            attacked.push(round(&client));
            answered.push(attacker.join().expect("it attacks"));
        });
    }
    let figure = |rounds: &[Round], figure: fn(&Round) -> f64| {
        Spread::new(rounds.iter().map(figure).collect::<Vec<_>>())
    };
    println!("handshakes answered a second: {:.0}", Spread::new(answered));
    for (name, rounds) in [("quiet", &quiet), ("attacked", &attacked)] {
        println!(
            "ms, 99th percentile, {name}: {:.2}",
            figure(rounds, |round| round.p99_ms)
        );
        println!(
            "            50th: {:.2}",
            figure(rounds, |round| round.p50_ms)
        );
        println!(
            "            hits a second: {:.0}",
            figure(rounds, |round| round.hits)
        );
    }
    let ratios = quiet.iter().zip(&attacked);
    let ratios = ratios.map(|(quiet, attacked)| attacked.p99_ms / quiet.p99_ms);
    println!(
        "99th percentile, attacked/quiet: {:.2}",
        Spread::new(ratios)
    );
}

fn connect(addr: SocketAddr, cert: &[u8]) -> Client {
    let credentials = ChannelCredentialsBuilder::new();
    let credentials = credentials.root_cert(cert.to_vec()).build();
    let channel = ChannelBuilder::new(Arc::new(Environment::new(1)));
    let channel = channel.set_credentials(credentials);
    Client::new(channel.connect(&addr.to_string()))
}

struct Round {
    hits: f64,
    p50_ms: f64,
    p99_ms: f64,
}

fn round(client: &Client) -> Round {
    let begun = Instant::now();
    let mut latencies = Vec::new();
    while begun.elapsed() < ROUND {
        let start = Instant::now();
        get(client, KEY).expect("a value");
        latencies.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let hits = latencies.len() as f64 / begun.elapsed().as_secs_f64();
    let latencies = Spread::new(latencies);
    Round {
        hits,
        p50_ms: latencies.median(),
        p99_ms: latencies.quantile(0.99),
    }
}

/// Begins handshakes for a round; how many the node has answered a second.
fn begin(addr: SocketAddr, hello: &[u8]) -> f64 {
    give_way();
    let begun = Instant::now();
    let mut answered = 0;
    while begun.elapsed() < ROUND {
        let connect = |_| {
            let socket = TcpStream::connect(addr).expect("the port is open");
            socket
                .set_read_timeout(Some(PATIENCE))
                .expect("a time limit");
            socket
        };
        let mut sockets: Vec<_> = (0..AT_ONCE).map(connect).collect();
        for socket in &mut sockets {
            socket.write_all(hello).expect("a hello is taken");
        }
        for socket in &mut sockets {
            socket.read_exact(&mut [0]).expect("the node answers");
        }
        answered += AT_ONCE;
    }
    answered as f64 / begun.elapsed().as_secs_f64()
}
