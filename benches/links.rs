//! What a link between two nodes carries, and what a hit costs that is another node's.
//!
//! First, keys a second. A node in a process of its own, on the servers' core, holds values of 100 bytes. This program is
//! the other node, with one link and one completion queue on the core after it, and has so many questions under way at a
//! time: each goes the way of a miss (flight, ring, link) and its answer ends the flight; nothing is kept. It is compared
//! with h2load's calls a second (8 connections x 32 streams, from the same core) to a bare grpcio echo of the same value
//! on the servers' core, which has the node's channel arguments and allocator. Rounds alternate.
//!
//! Then CPU. Two nodes in processes of their own; a client asks one of them for keys of its own, then for keys of the
//! other, so many calls in flight all the time, each a `Get` of one key, at the front door and at the express door. Compared
//! is the CPU of both nodes a call.
//!
//! What this can't show: a real network, more than one core a node, or values that are kept where they are asked for.
//!
//! `cargo bench --bench links [-- --rounds N] [--window N] [--in-flight N] [--owner-core N]`; without h2load the first part
//! shows no ratio.

mod support;

use std::env;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corecache::cluster::{Member, Placement, Ring, View};
use corecache::group::{GroupConfig, LoadContext, LoadError, Sink, Value};
use corecache::server::{
    AskerAnswer, ConnectionLimits, Cores, LinkConfig, MembersConfig, MembersSource, Node,
    NodeConfig, core_arguments,
};
use crossbeam::channel::{self, Sender};
use grpcio::Client;

use support::client::{GET, GROUP, connect, get, get_request, patience};
use support::cluster::{free_addresses, member};
use support::h2load::H2load;
use support::origin;
use support::{
    SERVER_CORE, Server, Spread, argument, leave_server_core, print_head, print_verdict,
};

/// As in the node's binary.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const RATIO_WANTED: f64 = 5.0;
const CPU_RATIO_WANTED: f64 = 3.0;
const VALUE_BYTES: usize = 100;
const KEYS: usize = 50_000;
/// The argument by which this program runs as the echo.
const ECHO: &str = "--echo";

fn main() {
    if env::args().any(|arg| arg == ECHO) {
        support::echo::serve(|env| core_arguments(&ConnectionLimits::default(), env));
    }
    print_head(&format!(
        "links: values of {VALUE_BYTES} bytes that another node holds"
    ));
    let rounds = argument("--rounds", 8);
    let origin = origin::start(|_| vec![b'x'; VALUE_BYTES]);
    let addresses = free_addresses(2);
    let (own, other) = (addresses[0], addresses[1]);
    let owner = node(other, &addresses, origin, SERVER_CORE, "off");
    let program = env::current_exe().expect("the path of this program");
    let size = VALUE_BYTES.to_string();
    let echo = Server::start(Command::new(program).args([ECHO, support::echo::VALUE_BYTES, &size]));
    let pair = free_addresses(2);
    let owner_core = argument("--owner-core", SERVER_CORE);
    let express = free_addresses(1)[0];
    let nodes = [
        node(pair[0], &pair, origin, SERVER_CORE, &express.to_string()),
        node(pair[1], &pair, origin, owner_core, "off"),
    ];
    leave_server_core();
    keys_a_second(own, &owner, &echo, rounds);
    cpu_a_call("front door", &nodes, nodes[0].addr, rounds);
    cpu_a_call("express door", &nodes, express, rounds);
}

fn members(addresses: &[SocketAddr]) -> Vec<Member> {
    let addresses = addresses.iter();
    addresses
        .map(|address| Member::new(address.to_string()))
        .collect()
}

/// Keys that the node at `owner` owns among these.
fn keys_of(owner: SocketAddr, addresses: &[SocketAddr]) -> Vec<String> {
    let view = View::new(members(addresses)).expect("two nodes");
    let placement = Placement::new(&view);
    let position = view.position(&owner.to_string());
    let keys = (0..).map(|number| format!("key-{number}"));
    let is_its = |key: &String| {
        let mut owner = [0];
        placement.rank(GROUP.as_bytes(), key.as_bytes(), &mut owner);
        position == Some(usize::from(owner[0]))
    };
    keys.filter(is_its).take(KEYS).collect()
}

/// A node of the two, on a core, that keeps nothing of the other.
fn node(
    own: SocketAddr,
    addresses: &[SocketAddr],
    origin: SocketAddr,
    core: usize,
    express: &str,
) -> Server {
    let core = core.to_string();
    let args = ["--cores", &core, "--peer-links", "1", "--peer-keep", "0"];
    let args = args.into_iter().chain(["--express", express]);
    member(own, addresses, origin, &args.collect::<Vec<_>>())
}

fn keys_a_second(own: SocketAddr, owner: &Server, echo: &Server, rounds: usize) {
    let addresses = [own, owner.addr];
    let node = Node::start(asking_node(own, &addresses)).expect("a node");
    let asker = Asker {
        ask: Box::new(node.asker()),
        keys: keys_of(owner.addr, &addresses),
        next: AtomicUsize::new(0),
        left: AtomicUsize::new(0),
    };
    let asker = Arc::new(asker);
    asker.wait_for_link();
    // The owner loads them, every one.
    while asker.next.load(Ordering::Relaxed) < asker.keys.len() {
        asker.fetch(1.0, 256);
    }
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let h2load = H2load::new(folder.path(), "key", VALUE_BYTES);
    let window = argument("--window", 1024);
    let (mut keys, mut calls, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let cpu = owner.cpu();
    for _ in 0..rounds {
        let of_link = asker.fetch(1.0, window);
        keys.push(of_link / 1000.0);
        if let Some(h2load) = &h2load {
            let of_echo = h2load.calls_a_second(echo.addr, 80_000);
            calls.push(of_echo / 1000.0);
            ratios.push(of_link / of_echo);
        }
    }
    println!(
        "link        k keys/s, {window} under way: {:.0}",
        Spread::new(keys)
    );
    let cpu = owner.cpu() - cpu;
    println!(
        "            the owner's core is busy for {:.0} % of that",
        100.0 * cpu.as_secs_f64() / rounds as f64
    );
    if ratios.is_empty() {
        println!("left out    the echo: there is no h2load (apt-get install nghttp2-client)");
        return;
    }
    println!("echo        k calls/s: {:.1}", Spread::new(calls));
    let ratio = Spread::new(ratios);
    println!("link/echo   {ratio:.2}");
    let wanted = format!("a median of {RATIO_WANTED} or more");
    print_verdict(&wanted, ratio.median() >= RATIO_WANTED);
}

/// The node that asks: it is to load nothing itself.
fn asking_node(own: SocketAddr, addresses: &[SocketAddr]) -> NodeConfig {
    let load = |_: &[u8], _: &LoadContext<'_>, _: &mut Sink| {
        Err(LoadError::Other("this node asks the other one".to_owned()))
    };
    let core = (SERVER_CORE + 1).to_string();
    let core: Cores = core.parse().expect("a list of cores");
    NodeConfig {
        listen: own,
        admin: None,
        express: None,
        memory_bytes: 64 << 20,
        groups: vec![GroupConfig::new(GROUP, load)],
        cores: core.where_allowed(),
        shards: None,
        loaders: 1,
        loads_an_origin: None,
        load_rate: None,
        load_queue: 1024,
        read_stall: Duration::from_secs(60),
        load_wait: Duration::from_secs(5),
        limits: ConnectionLimits::default(),
        tls: None,
        links: LinkConfig {
            links: 1,
            keep: Duration::ZERO,
            ..LinkConfig::default()
        },
        members: MembersConfig {
            source: MembersSource::List(members(addresses)),
            ..MembersConfig::default()
        },
    }
}

type Ask = dyn Fn(&str, &[u8], AskerAnswer) + Send + Sync;

struct Asker {
    ask: Box<Ask>,
    keys: Vec<String>,
    next: AtomicUsize,
    left: AtomicUsize,
}

impl Asker {
    /// Until then the node tries to load what is asked for, which fails.
    fn wait_for_link(&self) {
        let (answer, answers) = channel::bounded(1);
        loop {
            let answer = answer.clone();
            let is_there = move |value: Result<Value, String>| {
                answer.send(value.is_ok()).expect("it is waited for");
            };
            (self.ask)(GROUP, self.keys[0].as_bytes(), Box::new(is_there));
            if answers.recv().expect("an answer") {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks for keys for about so many seconds, `window` of them at a time. Returns how many a second were answered.
    fn fetch(self: &Arc<Self>, seconds: f64, window: usize) -> f64 {
        let (done, all_done) = channel::bounded(window);
        let start = Instant::now();
        let until = start + Duration::from_secs_f64(seconds);
        let before = self.next.load(Ordering::Relaxed);
        self.left.store(window, Ordering::SeqCst);
        for _ in 0..window {
            self.ask(until, done.clone());
        }
        drop(done);
        for _ in 0..window {
            all_done.recv().expect("all are answered");
        }
        let asked = self.next.load(Ordering::Relaxed) - before;
        asked.max(1) as f64 / start.elapsed().as_secs_f64()
    }

    /// Asks for the next key, and when it is there for the next one, on the thread that brings it.
    fn ask(self: &Arc<Self>, until: Instant, done: Sender<()>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (asker, key) = (self.clone(), &self.keys[number % self.keys.len()]);
        let answer = move |value: Result<Value, String>| {
            let value = value.expect("the other node holds it");
            assert_eq!(value.bytes().len(), VALUE_BYTES);
            match Instant::now() < until {
                true => asker.ask(until, done),
                false => done.send(()).expect("it is waited for"),
            }
        };
        (self.ask)(GROUP, key.as_bytes(), Box::new(answer));
    }
}

fn cpu_a_call(door: &str, nodes: &[Server; 2], asked_at: SocketAddr, rounds: usize) {
    let addresses = [nodes[0].addr, nodes[1].addr];
    let [front, back] = addresses;
    let in_flight = argument("--in-flight", 64);
    let clients = connect(asked_at, 8);
    let of_front = keys_of(front, &addresses);
    let of_back = keys_of(back, &addresses);
    // Until the nodes are linked, a key of the other is loaded by the one that was asked.
    while get(&connect(back, 1)[0], &of_back[0]).is_err() {
        thread::yield_now();
    }
    for keys in [&of_front, &of_back] {
        run(&clients, keys, in_flight, KEYS);
    }
    let (mut local, mut forwarded, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let cpu = || nodes[0].cpu() + nodes[1].cpu();
    let calls = KEYS;
    let round = |keys| {
        let before = cpu();
        run(&clients, keys, in_flight, calls);
        (cpu() - before).as_secs_f64() / calls as f64 * 1e6
    };
    for _ in 0..rounds {
        let of_local = round(&of_front);
        let of_forwarded = round(&of_back);
        local.push(of_local);
        forwarded.push(of_forwarded);
        ratios.push(of_forwarded / of_local);
    }
    println!(
        "{door}: CPU of both nodes, us a call, {in_flight} in flight\nlocal       {:.1}",
        Spread::new(local)
    );
    println!("forwarded   {:.1}", Spread::new(forwarded));
    let ratio = Spread::new(ratios);
    println!("ratio       {ratio:.2}");
    let wanted = format!("a median of {CPU_RATIO_WANTED} or less");
    print_verdict(&wanted, ratio.median() <= CPU_RATIO_WANTED);
}

/// Makes so many calls, each for the next of the keys, `in_flight` of them at a time.
fn run(clients: &[Client], keys: &[String], in_flight: usize, calls: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let keys: Arc<[String]> = keys.into();
    let (done, all_done) = channel::bounded(in_flight);
    for number in 0..in_flight {
        let client = clients[number % clients.len()].clone();
        let (next, keys, done) = (next.clone(), keys.clone(), done.clone());
        clients[0].spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= calls {
                    break;
                }
                let request = get_request(&keys[number % keys.len()]);
                let call = client.unary_call_async(&GET, &request, patience());
                let value = call.expect("a call can be sent").await;
                assert_eq!(value.expect("a value").value.len(), VALUE_BYTES);
            }
            let _ = done.send(());
        });
    }
    drop(done);
    for _ in 0..in_flight {
        all_done
            .recv_timeout(Duration::from_secs(60))
            .expect("all calls end");
    }
}
