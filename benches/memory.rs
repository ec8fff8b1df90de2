//! The most memory that a node has while four times its budget is loaded through it.
//!
//! A node with a budget of 256 MiB gets 1 GiB of values, each asked for once, over gRPC, from 64 callers on 8
//! connections. The values have 1 KiB or 100 KiB at random, and bytes at random, which no kernel could compress; the
//! origin makes them of the key, over HTTP, and the callers compare what they get. There are two runs, each with a node
//! of its own: as many values of one size as of the other, and as many bytes. The figure is the kernel's: the peak of
//! the resident set, with everything that the process had: cache, gRPC core, loaders, allocator, program.
//!
//! What this can't show: memory after days of other sizes (fragmentation grows slowly), or under callers that do not
//! read their answers.
//!
//! `cargo bench --bench memory [-- --mib MIB_TO_LOAD]`

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use support::client::{connect, get, stats};
use support::origin;
use support::{Server, argument, print_head, print_verdict};

const MIB: u64 = 1 << 20;
const BUDGET_MIB: u64 = 256;
const PEAK_WANTED_MIB: u64 = BUDGET_MIB * 5 / 4 + 64;
const SMALL: usize = 1 << 10;
const LARGE: usize = 100 << 10;
const CALLERS: usize = 64;
const CONNECTIONS: usize = 8;

fn main() {
    print_head("memory: the peak of the resident set while 4 budgets are loaded");
    let load_bytes = argument("--mib", 4 * BUDGET_MIB as usize) << 20;
    println!(
        "load        {} MiB over {CONNECTIONS} connections, budget {BUDGET_MIB} MiB",
        load_bytes >> 20
    );
    let by_count = run("by count", &keys(load_bytes, 1, 2));
    // So many small ones to a large one.
    let by_bytes = run("by bytes", &keys(load_bytes, 1, 1 + LARGE / SMALL));
    print_verdict(
        &format!("{PEAK_WANTED_MIB} MiB at the most"),
        by_count.max(by_bytes) <= PEAK_WANTED_MIB * MIB,
    );
}

/// Loads all keys through a fresh node; the peak of its resident set, in bytes.
fn run(name: &str, keys: &[String]) -> u64 {
    let origin = origin::start(value);
    let node = Server::node([
        "--memory",
        &format!("{BUDGET_MIB}MiB"),
        "--group",
        &origin::group_argument(origin),
    ]);
    let clients = connect(node.addr, CONNECTIONS);
    stats(&clients[0]);
    let peak_before = node.peak_rss_bytes();
    let start = Instant::now();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (next, client) = (&next, &clients[caller % CONNECTIONS]);
            scope.spawn(move || {
                while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let loaded = get(client, key).expect("a value");
                    assert!(loaded == value(key), "{key} has another value");
                }
            });
        }
    });
    let took = start.elapsed();
    let peak = node.peak_rss_bytes();
    let stats = stats(&clients[0]);
    assert_eq!(stats.total.loads, keys.len() as u64, "loads");
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    println!(
        "{name:<12}peak {:.1} MiB ({:.1} before); {} loads in {:.0} s",
        mib(peak),
        mib(peak_before),
        stats.total.loads,
        took.as_secs_f64()
    );
    println!(
        "            in the end {} entries, {:.1} MiB of the budget used, {:.1} of it garbage",
        stats.total.entries,
        mib(stats.used_bytes),
        mib(stats.garbage_bytes)
    );
    peak
}

/// Keys for values of so many bytes together, `large` in `of` of them for large ones. The same at each run.
fn keys(load_bytes: usize, large: usize, of: usize) -> Vec<String> {
    let mut random = Random(1);
    let mut keys = Vec::new();
    let mut bytes = 0;
    while bytes < load_bytes {
        let is_large = random.next() % (of as u64) < large as u64;
        let len = if is_large { LARGE } else { SMALL };
        keys.push(format!("{len}-{}", keys.len()));
        bytes += len;
    }
    keys
}

/// The value of a key that [`keys`] has made.
fn value(key: &str) -> Vec<u8> {
    let (len, seed) = key.split_once('-').expect("length and number");
    let mut random = Random(seed.parse().expect("a number"));
    let words = len.parse::<usize>().expect("a length") / 8;
    (0..words)
        .flat_map(|_| random.next().to_le_bytes())
        .collect()
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
