//! What TLS costs at the express door: hits of a node with it, and of one without.
//!
//! Both are bound to one core, h2load to the next one (8 connections x 32 streams). Rounds alternate. Connections are made
//! before a round's calls, and last as long as it: what is compared is records, not handshakes.
//!
//! `cargo bench --bench express_tls [-- --pairs N]`; needs h2load and openssl.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use support::client::GROUP;
use support::h2load::H2load;
use support::{
    SERVER_CORE, Server, Spread, argument, leave_server_core, make_certificate, print_head,
};

const KEY: &str = "value";
const VALUE_BYTES: usize = 100;
/// How long a round is to take.
const ROUND_S: f64 = 1.0;

/// A node, and how it is loaded.
struct Side {
    node: Server,
    express: SocketAddr,
    load: H2load,
}

struct Round {
    calls_a_second: f64,
    cpu_us: f64,
}

impl Side {
    fn start(folder: &Path, load: H2load, args: &[&str]) -> Self {
        let origin = format!("{GROUP}=dir:{}", folder.display());
        let core = SERVER_CORE.to_string();
        let usual = ["--group", &origin, "--cores", &core];
        let (node, express) = Server::express_node(usual.into_iter().chain(args.iter().copied()));
        Self {
            node,
            express,
            load,
        }
    }

    fn calls_a_round(&self) -> usize {
        self.round(1_000);
        (self.round(50_000).calls_a_second * ROUND_S) as usize
    }

    fn round(&self, calls: usize) -> Round {
        let cpu = self.node.cpu();
        let calls_a_second = self.load.calls_a_second(self.express, calls);
        let cpu = self.node.cpu() - cpu;
        Round {
            calls_a_second,
            cpu_us: cpu.as_secs_f64() / calls as f64 * 1e6,
        }
    }
}

fn main() -> ExitCode {
    print_head("express door: hits with TLS, and without");
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let folder = folder.path();
    fs::write(folder.join(KEY), [b'x'; VALUE_BYTES]).expect("a file");
    let load = || H2load::new(folder, KEY, VALUE_BYTES);
    let (Some(plain), Some(secret)) = (load(), load()) else {
        eprintln!("h2load is not installed (Debian: nghttp2-client)");
        return ExitCode::FAILURE;
    };
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name).display().to_string());
    make_certificate(&cert, &key);
    let plain = Side::start(folder, plain, &[]);
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let secret = Side::start(folder, secret.over_tls(), &tls);
    leave_server_core();

    let pairs = argument("--pairs", 20);
    let (of_plain, of_secret) = (plain.calls_a_round(), secret.calls_a_round());
    println!("load        h2load, 8 connections x 32 streams; {pairs} pairs of rounds");
    let rounds: Vec<_> = (0..pairs)
        .map(|_| (secret.round(of_secret), plain.round(of_plain)))
        .collect();
    let print = |name: &str, figure: fn(&Round) -> f64| {
        let secret = Spread::new(rounds.iter().map(|(secret, _)| figure(secret)));
        let plain = Spread::new(rounds.iter().map(|(_, plain)| figure(plain)));
        let ratios = rounds
            .iter()
            .map(|(secret, plain)| figure(secret) / figure(plain));
        println!("{name}, with TLS: {secret:.2}");
        println!("            without: {plain:.2}");
        println!("            with/without: {:.3}", Spread::new(ratios));
    };
    print("k calls/s", |round| round.calls_a_second / 1000.0);
    print("CPU us a hit", |round| round.cpu_us);
    ExitCode::SUCCESS
}
