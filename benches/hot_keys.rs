//! How evenly the nodes of a cluster share the hits where some keys are asked for far more often than others.
//!
//! Four nodes in processes of their own, a client with two threads that asks for many keys a call: Zipf 1.2 over a million
//! keys, drawn anew for each call. After ten seconds the hits of each node are counted for some seconds; compared are those
//! of the busiest with the mean. The same is done with nodes that take no key for hot. Each round has nodes with other
//! addresses, and so other owners for the hottest keys.
//!
//! What this can't show: machines of their own. Here four nodes share the cores with the client, and the origin.
//!
//! `cargo bench --bench hot_keys [-- --rounds N] [--batch KEYS] [--warm SECONDS] [--seconds SECONDS]`

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corecache::client::Client;

use support::client::{GROUP, connect, stats};
use support::cluster::{free_addresses, member};
use support::origin;
use support::{Server, Spread, argument, print_head, print_verdict};

const RATIO_WANTED: f64 = 1.3;
const NODES: usize = 4;
const KEYS: usize = 1_000_000;
const EXPONENT: f64 = 1.2;
const THREADS: u64 = 2;
const VALUE_BYTES: usize = 100;
/// A rate that no key has.
const NEVER: &str = "4000000000";

fn main() {
    print_head(
        "hot keys: hits of the busiest of four nodes over the mean, Zipf 1.2 over a million keys",
    );
    let rounds = argument("--rounds", 3);
    let origin = origin::start(|_| vec![b'x'; VALUE_BYTES]);
    let zipf = Zipf::new();
    let (mut spread, mut unspread) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (hot_rate, ratios) in [("100", &mut spread), (NEVER, &mut unspread)] {
            let addresses = free_addresses(NODES);
            let nodes: Vec<_> = addresses
                .iter()
                .map(|&own| {
                    member(
                        own,
                        &addresses,
                        origin,
                        &["--express", "off", "--hot-rate", hot_rate],
                    )
                })
                .collect();
            ratios.push(busiest_over_mean(&nodes, &zipf));
        }
    }
    println!(
        "hot keys spread     busiest/mean {:.3}",
        Spread::new(spread.iter().copied())
    );
    println!(
        "nothing taken for hot  busiest/mean {:.3}",
        Spread::new(unspread)
    );
    let spread = Spread::new(spread);
    print_verdict(
        &format!("a median of {RATIO_WANTED} or less"),
        spread.median() <= RATIO_WANTED,
    );
}

fn busiest_over_mean(nodes: &[Server], zipf: &Zipf) -> f64 {
    let client = Client::builder().node(nodes[0].addr.to_string()).build();
    let client = client.expect("a client");
    let (is_over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let stubs: Vec<_> = nodes.iter().map(|node| connect(node.addr, 1)).collect();
    let hits = || {
        stubs
            .iter()
            .map(|stub| stats(&stub[0]).total.hits)
            .collect::<Vec<_>>()
    };
    let seconds = |name, default| Duration::from_secs(argument(name, default) as u64);
    thread::scope(|scope| {
        for seed in 1..=THREADS {
            let (client, is_over, asked) = (&client, &is_over, &asked);
            scope.spawn(move || {
                let mut random = Random(seed);
                let batch = argument("--batch", 64);
                while !is_over.load(Ordering::Relaxed) {
                    let keys: Vec<_> = (0..batch).map(|_| zipf.key(&mut random)).collect();
                    for value in client.get_many(GROUP, &keys) {
                        assert_eq!(value.expect("a value").len(), VALUE_BYTES);
                    }
                    asked.fetch_add(batch as u64, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(seconds("--warm", 10));
        let (before, asked_before, begun) = (hits(), asked.load(Ordering::Relaxed), Instant::now());
        thread::sleep(seconds("--seconds", 5));
        let (after, took) = (hits(), begun.elapsed());
        let rate = (asked.load(Ordering::Relaxed) - asked_before) as f64 / took.as_secs_f64();
        is_over.store(true, Ordering::Relaxed);
        let hits: Vec<_> = after
            .iter()
            .zip(before)
            .map(|(after, before)| after - before)
            .collect();
        let (all, most) = (hits.iter().sum::<u64>(), hits.iter().max().expect("a node"));
        let ratio = *most as f64 * NODES as f64 / all as f64;
        println!("{:.0} keys a second; hits {hits:?}: {ratio:.3}", rate);
        ratio
    })
}

struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new() -> Self {
        let mut sum = 0.0;
        let sums = (1..=KEYS).map(|rank| {
            sum += (rank as f64).powf(-EXPONENT);
            sum
        });
        Self {
            sums: sums.collect(),
        }
    }

    fn key(&self, random: &mut Random) -> String {
        let at = random.next() * self.sums[KEYS - 1];
        format!("key-{}", self.sums.partition_point(|&sum| sum <= at))
    }
}

/// Numbers from 0 to 1 (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
