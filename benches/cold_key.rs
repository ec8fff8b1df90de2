//! A cold key that a thousand callers want at once, from an origin that takes 200 ms.
//!
//! The calls are made from one process over 8 connections, with nobody waiting for anybody, and for one fresh key
//! after the other. Measured is the time from the start of the first call to the answer of the last. The origin counts
//! its requests: each key is to be loaded exactly once.
//!
//! What this can't show: callers on many machines, or what one load costs among many others (see `busy_loaders`). The
//! client's own work, on a core of its own where there is one, is within the figure.
//!
//! `cargo bench --bench cold_key [-- --keys N]`

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use grpcio::Client;

use support::client::{GET, connect, get, get_request, patience, stats};
use support::origin;
use support::{
    SERVER_CORE, Server, Spread, argument, leave_server_core, print_head, print_verdict,
};

const CALLERS: usize = 1000;
const CONNECTIONS: usize = 8;
const ORIGIN_TAKES: Duration = Duration::from_millis(200);
const WANTED: Duration = Duration::from_millis(500);

fn main() {
    print_head("cold key: 1000 calls at once for a key that is not held");
    let keys = argument("--keys", 20);
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = loads.clone();
    let origin = origin::start(move |key| {
        counted.fetch_add(1, Ordering::Relaxed);
        thread::sleep(ORIGIN_TAKES);
        key.as_bytes().to_vec()
    });
    let group = origin::group_argument(origin);
    let node = Server::node(["--group", &group, "--cores", &SERVER_CORE.to_string()]);
    leave_server_core();

    let clients = connect(node.addr, CONNECTIONS);
    for client in &clients {
        get(client, "connected").expect("a value");
    }
    let runs = (0..keys).map(|key| {
        let loads_before = loads.load(Ordering::Relaxed);
        let run = run(&clients, &format!("cold-{key}"));
        assert_eq!(loads.load(Ordering::Relaxed), loads_before + 1, "loads");
        run
    });
    let runs: Vec<_> = runs.collect();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let called = Spread::new(runs.iter().map(|run| ms(run.all_called)));
    let answered = Spread::new(runs.iter().map(|run| ms(run.all_answered)));
    let joined = Spread::new(runs.iter().map(|run| run.joined as f64));
    println!(
        "load        {keys} keys, {CALLERS} calls for each, {CONNECTIONS} connections; \
         the origin takes {ORIGIN_TAKES:?}"
    );
    println!("called      ms until the last call was made: {called}");
    println!("joined      calls that joined the load of another: {joined:.0}");
    println!("answered    ms until the last answer was there: {answered}");
    println!("loads       1 for each key");
    print_verdict(
        &format!("the last answer after {WANTED:?} at the most, and 1 load for each key"),
        answered.quantile(1.0) <= ms(WANTED),
    );
}

struct Run {
    all_called: Duration,
    all_answered: Duration,
    joined: u64,
}

fn run(clients: &[Client], key: &str) -> Run {
    let request = get_request(key);
    let joined_before = stats(&clients[0]).total.joined;
    let start = Instant::now();
    let calls: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let client = &clients[caller % clients.len()];
            client.unary_call_async(&GET, &request, patience())
        })
        .collect();
    let all_called = start.elapsed();
    for call in calls {
        let value = block_on(call.expect("a call")).expect("a value");
        assert_eq!(value.value, key.as_bytes());
    }
    Run {
        all_called,
        all_answered: start.elapsed(),
        joined: stats(&clients[0]).total.joined - joined_before,
    }
}
