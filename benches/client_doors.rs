//! What a hit costs a node and `corecache::Client`, by the express door and by the front door.
//!
//! Two nodes in processes of their own, on the servers' core, with the same values of 100 bytes; one of them has no express
//! door. A client on the core after it asks them in turn, so many threads with one call after the other. Compared is the
//! CPU of node and client by the keys that were answered.
//!
//! What this can't show: a real network, and more than one core a node.
//!
//! `cargo bench --bench client_doors [-- --rounds N] [--ms MILLISECONDS]`

mod support;

use std::thread;
use std::time::{Duration, Instant};

use corecache::client::Client;

use support::client::GROUP;
use support::{Server, Spread, argument, leave_server_core, origin, own_cpu, print_head};

const VALUE_BYTES: usize = 100;
const KEYS: usize = 4096;
/// Threads, and keys a call: one is a `get`, more a `get_many`.
const LOADS: [(usize, usize); 4] = [(1, 1), (16, 1), (64, 1), (4, 64)];

struct Side {
    node: Server,
    client: Client,
    keys: Vec<String>,
}

/// Microseconds a key.
struct Cost {
    node: f64,
    client: f64,
}

fn main() {
    print_head("client: a hit by the express door, and by the front door");
    let origin = origin::start(|_| vec![b'x'; VALUE_BYTES]);
    let group = origin::group_argument(origin);
    let core = support::SERVER_CORE.to_string();
    let args = ["--group", &group, "--cores", &core];
    let (express, _) = Server::express_node(args);
    let front = Server::node(args);
    leave_server_core();
    let (express, front) = (Side::new(express), Side::new(front));
    let rounds = argument("--rounds", 10);
    for (threads, batch) in LOADS {
        let (mut of_node, mut of_client) = (Vec::new(), Vec::new());
        let (mut nodes, mut clients) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let by_express = express.cost(threads, batch);
            let by_front = front.cost(threads, batch);
            of_node.push(by_express.node / by_front.node);
            of_client.push(by_express.client / by_front.client);
            nodes.push(by_express.node);
            clients.push(by_express.client);
        }
        println!("{threads} threads, {batch} keys a call");
        println!("  node      {:.2} us a key", Spread::new(nodes));
        println!(
            "            {:.2} of the front door's",
            Spread::new(of_node)
        );
        println!("  client    {:.2} us a key", Spread::new(clients));
        println!(
            "            {:.2} of the front door's",
            Spread::new(of_client)
        );
    }
}

impl Side {
    fn new(node: Server) -> Self {
        let client = Client::builder().node(node.addr.to_string()).build();
        let side = Self {
            node,
            client: client.expect("a client"),
            keys: (0..KEYS).map(|number| format!("key-{number}")).collect(),
        };
        // Loaded, and the client has found its door.
        side.ask(4, 64, Duration::from_secs(1));
        side
    }

    fn cost(&self, threads: usize, batch: usize) -> Cost {
        let span = Duration::from_millis(argument("--ms", 700) as u64);
        let before = (self.node.cpu(), own_cpu());
        let keys = self.ask(threads, batch, span) as f64;
        let a_key = |cpu: Duration| cpu.as_secs_f64() * 1e6 / keys;
        Cost {
            node: a_key(self.node.cpu() - before.0),
            client: a_key(own_cpu() - before.1),
        }
    }

    /// Returns how many keys were answered.
    fn ask(&self, threads: usize, batch: usize, span: Duration) -> usize {
        let until = Instant::now() + span;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|thread| scope.spawn(move || self.ask_by_one(thread, batch, until)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        })
    }

    fn ask_by_one(&self, thread: usize, batch: usize, until: Instant) -> usize {
        let mut count = 0;
        let mut batches = self.keys.chunks(batch).cycle().skip(thread * 7);
        while Instant::now() < until {
            let keys = batches.next().expect("it goes on for ever");
            match keys {
                [key] => drop(self.client.get(GROUP, key).expect("a value")),
                keys => {
                    for value in self.client.get_many(GROUP, keys) {
                        assert_eq!(value.expect("a value").len(), VALUE_BYTES);
                    }
                }
            }
            count += keys.len();
        }
        count
    }
}
