//! What hits feel of loaders that are all busy, with their queue full.
//!
//! A round is a second of hits at a fixed rate, whether answers come or not; the latency of a call runs from its start
//! to its end at the client. Rounds alternate. In a quiet one there is nothing but the hits. For a busy one, more keys
//! are asked for than the node has loaders and places in its queue, from an origin that takes half a second to one and a
//! half for each; and all through the round a miss follows every tenth hit, to be refused unless a loader has just become
//! free. After the round the origin answers at once, until nothing is left of it. Compared are the 99th percentiles of a
//! quiet round and of the busy one after it: ten milliseconds of a second decide, so the machine has to be quiet.
//!
//! Then the same at the limit of the node's core: h2load asks for hits as fast as they are answered, in pairs of runs of
//! about a second, one without anything else, one beside five times the misses that the loaders can bear. A load takes
//! 100 ms on the mean there, so that 32 loaders bear 320 a second. Compared are the hits a second.
//!
//! What this can't show: loads that take their time by computing on the node. The client shares its core, if it has
//! one of its own, with the origin, which comes last there.
//!
//! `cargo bench --bench busy_loaders [-- --rounds N] [--rate HITS_A_SECOND] [--load-ms MS]`; without h2load the second
//! part is left out.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, Sender};
use grpcio::{Client, RpcStatusCode};
use parking_lot::{Condvar, Mutex};

use support::client::{GET, connect, get, get_request, patience, stats};
use support::h2load::H2load;
use support::origin;
use support::{
    SERVER_CORE, Server, Spread, argument, leave_server_core, print_head, print_verdict,
};

const RATIO_WANTED: f64 = 1.3;
const HITS_WANTED: f64 = 0.8;
/// Misses, over those that the loaders can bear.
const EXCESS: u32 = 5;
const LOADERS: usize = 32;
const QUEUE: usize = 1024;
const ORIGIN_TAKES: Duration = Duration::from_secs(1);
const ROUND: Duration = Duration::from_secs(1);
const HITS_A_MISS: u32 = 10;
/// Misses beyond the loaders and the queue, before a busy round begins.
const SURPLUS: usize = 64;
const HOT: &str = "hot";
const VALUE_BYTES: usize = 100;

fn main() {
    print_head("busy loaders: hits while all loaders are busy and their queue is full");
    let rounds = argument("--rounds", 20);
    let rate = argument("--rate", 5000);
    let gate = Arc::new(Gate::default());
    let of_origin = gate.clone();
    let origin = origin::start(move |_| {
        of_origin.wait();
        vec![b'x'; VALUE_BYTES]
    });
    let node = Server::node([
        "--group",
        &origin::group_argument(origin),
        "--cores",
        &SERVER_CORE.to_string(),
        "--loaders",
        &LOADERS.to_string(),
        "--load-queue",
        &QUEUE.to_string(),
    ]);
    leave_server_core();

    let bench = Bench {
        hits: connect(node.addr, 4),
        misses: connect(node.addr, 4),
        rate,
    };
    for client in bench.hits.iter().chain(&bench.misses) {
        get(client, HOT).expect("a value");
    }
    bench.round(None);
    println!(
        "load        {rounds} pairs of rounds of {ROUND:?}; {rate} hits a second, and in busy rounds {} misses; \
         {LOADERS} loaders, {QUEUE} places in the queue",
        rate / HITS_A_MISS as usize
    );

    let mut refused = 0;
    let mut quiet_rounds = Vec::new();
    let mut busy_rounds = Vec::new();
    for round in 0..rounds {
        quiet_rounds.push(bench.round(None));
        gate.set_slow_by(ORIGIN_TAKES);
        let mut misses = Misses::new(&bench.misses, round);
        misses.fill();
        busy_rounds.push(bench.round(Some(&mut misses)));
        let depth = stats(&bench.misses[0]).queue_depth as usize;
        assert!(depth + LOADERS >= QUEUE, "the queue has only {depth} loads");
        gate.set_slow_by(Duration::ZERO);
        refused += misses.drain();
    }
    print_rounds("quiet", &quiet_rounds);
    print_rounds("busy", &busy_rounds);
    println!("refused     {} misses a busy round", refused / rounds);
    let pairs = quiet_rounds.iter().zip(&busy_rounds);
    let ratio = Spread::new(pairs.map(|(quiet, busy)| busy.quantile(0.99) / quiet.quantile(0.99)));
    println!("busy/quiet  99th percentile: {ratio:.2}");
    print_verdict(
        &format!("a median of {RATIO_WANTED} or less"),
        ratio.median() <= RATIO_WANTED,
    );
    hits_beside_misses(&node, &bench, &gate, rounds);
}

fn hits_beside_misses(node: &Server, bench: &Bench, gate: &Gate, pairs: usize) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let Some(h2load) = H2load::new(folder.path(), HOT, VALUE_BYTES) else {
        println!(
            "left out    hits beside misses: there is no h2load (apt-get install nghttp2-client)"
        );
        return;
    };
    let load_takes = Duration::from_millis(argument("--load-ms", 100) as u64);
    let misses_a_second = EXCESS * (LOADERS as f64 / load_takes.as_secs_f64()) as u32;
    let calls = h2load.calls_a_second(node.addr, 50_000) as usize;
    println!(
        "load        {pairs} pairs of {calls} hits; {misses_a_second} misses a second beside one of each"
    );
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let mut asked = 0;
    for pair in 0..pairs {
        alone.push(h2load.calls_a_second(node.addr, calls));
        gate.set_slow_by(load_takes);
        let is_over = AtomicBool::new(false);
        let mut misses = Misses::new(&bench.misses, usize::MAX - pair);
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let start = Instant::now();
                while !is_over.load(Ordering::Relaxed) {
                    sleep_until(
                        start + Duration::from_secs(1) * misses.asked as u32 / misses_a_second,
                    );
                    misses.ask();
                }
                misses.asked as f64 / start.elapsed().as_secs_f64()
            });
            beside.push(h2load.calls_a_second(node.addr, calls));
            is_over.store(true, Ordering::Relaxed);
            let rate = asking.join().expect("it asks");
            assert!(
                rate > 0.9 * f64::from(misses_a_second),
                "only {rate:.0} misses a second"
            );
        });
        asked += misses.asked;
        gate.set_slow_by(Duration::ZERO);
        misses.drain();
    }
    let ratios = alone
        .iter()
        .zip(&beside)
        .map(|(alone, beside)| beside / alone);
    let ratio = Spread::new(ratios);
    println!("misses      {} a run", asked / pairs);
    println!(
        "alone       hits a second: {:.0}",
        Spread::new(alone.iter().copied())
    );
    println!(
        "beside      hits a second: {:.0}",
        Spread::new(beside.iter().copied())
    );
    println!("beside/alone {ratio:.3}");
    print_verdict(
        &format!("a median of {HITS_WANTED} or more"),
        ratio.median() >= HITS_WANTED,
    );
}

fn print_rounds(name: &str, rounds: &[Spread]) {
    for (percentile, q) in [("50th", 0.5), ("99th", 0.99)] {
        let of_rounds = Spread::new(rounds.iter().map(|round| round.quantile(q)));
        println!("{name:<12}us, {percentile} percentile of a round: {of_rounds:.0}");
    }
}

/// Lets the origin's answers wait, until they need not any more.
#[derive(Default)]
struct Gate {
    /// How long an answer takes on the mean: half as long at the least, and half as long again at the most, since those of an
    /// origin do not come all at once.
    slow_by: Mutex<Duration>,
    opened: Condvar,
    answers: AtomicU64,
}

impl Gate {
    fn set_slow_by(&self, span: Duration) {
        *self.slow_by.lock() = span;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let mut slow_by = self.slow_by.lock();
        let before = *slow_by;
        // The golden ratio's multiples lie evenly between 0 and 1, and near ones far from each other.
        let answer = self.answers.fetch_add(1, Ordering::Relaxed) as f64;
        let span = before.mul_f64(0.5 + (answer * 0.618_034).fract());
        self.opened
            .wait_while_for(&mut slow_by, |slow_by| *slow_by == before, span);
    }
}

struct Bench {
    hits: Vec<Client>,
    misses: Vec<Client>,
    rate: usize,
}

impl Bench {
    /// The latencies of the hits of one round, in microseconds.
    fn round(&self, mut misses: Option<&mut Misses<'_>>) -> Spread {
        let calls = (self.rate as f64 * ROUND.as_secs_f64()) as u32;
        let (done, latencies) = channel::unbounded();
        let start = Instant::now();
        for call in 0..calls {
            let due = start + ROUND * call / calls;
            sleep_until(due);
            hit(&self.hits[call as usize % self.hits.len()], done.clone());
            if let Some(misses) = &mut misses
                && call % HITS_A_MISS == 0
            {
                // Half-way to the next hit: the client's own work on a miss is not to delay one.
                sleep_until(due + ROUND / calls / 2);
                misses.ask();
            }
        }
        let late = start.elapsed().saturating_sub(ROUND);
        assert!(late < ROUND / 10, "the client can not hold the rate");
        drop(done);
        let latencies = Spread::new(latencies.iter().map(|time| time.as_secs_f64() * 1e6));
        assert_eq!(latencies.len(), calls as usize, "a hit has failed");
        latencies
    }
}

fn sleep_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

fn hit(client: &Client, done: Sender<Duration>) {
    let start = Instant::now();
    let call = client
        .unary_call_async(&GET, &get_request(HOT), patience())
        .expect("a call");
    client.spawn(async move {
        if call.await.is_ok() {
            let _ = done.send(start.elapsed());
        }
    });
}

/// The misses of one busy round.
struct Misses<'a> {
    clients: &'a [Client],
    round: usize,
    asked: usize,
    done: Sender<RpcStatusCode>,
    codes: Receiver<RpcStatusCode>,
}

impl<'a> Misses<'a> {
    fn new(clients: &'a [Client], round: usize) -> Self {
        let (done, codes) = channel::unbounded();
        Self {
            clients,
            round,
            asked: 0,
            done,
            codes,
        }
    }

    /// Asks for a key that nobody has asked for before.
    fn ask(&mut self) {
        let client = &self.clients[self.asked % self.clients.len()];
        let request = get_request(&format!("cold-{}-{}", self.round, self.asked));
        let call = client.unary_call_async(&GET, &request, patience());
        let (call, done) = (call.expect("a call"), self.done.clone());
        client.spawn(async move {
            let code = match call.await {
                Ok(_) => RpcStatusCode::OK,
                Err(grpcio::Error::RpcFailure(status)) => status.code(),
                Err(error) => panic!("no status: {error}"),
            };
            let _ = done.send(code);
        });
        self.asked += 1;
    }

    /// Returns when all loaders are busy, the queue is full, and the surplus was refused.
    fn fill(&mut self) {
        for _ in 0..LOADERS + QUEUE + SURPLUS {
            self.ask();
        }
        for _ in 0..SURPLUS {
            let code = self.codes.recv().expect("a call's end");
            assert_eq!(code, RpcStatusCode::RESOURCE_EXHAUSTED);
        }
    }

    /// Waits for the end of all calls; how many were refused.
    fn drain(self) -> usize {
        drop(self.done);
        let codes: Vec<_> = self.codes.iter().collect();
        let count = |wanted| codes.iter().filter(|code| **code == wanted).count();
        let refused = count(RpcStatusCode::RESOURCE_EXHAUSTED);
        assert_eq!(refused + count(RpcStatusCode::OK), codes.len());
        refused + SURPLUS
    }
}
