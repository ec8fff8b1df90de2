//! corecache's engine against other caches, in one process, in turn: A B C ... A B C ..., medians of the rounds.
//!
//! What it can not show: more than the cores of the machine that it runs on, and values of other sizes than 100 bytes.

mod keys;
mod rivals;

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use keys::{key, mix, zipf};
use rivals::{
    Blobs, DashMap, Foyer, Lent, MiniMoka, Moka, Papaya, QuickCache, QuickCacheArc, Rival, Typed,
    value_of,
};

const LARGE: usize = 1 << 20;
const SMALL: usize = 1 << 14;
/// Operations of a thread in one round.
const OPS: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Get,
    /// One in twenty is an insert of a key that is there.
    GetInsert,
    /// One in five asks for a key that was never there.
    GetOrLoad,
    OneKey,
}

struct Workload {
    name: &'static str,
    entries: usize,
    threads: usize,
    operation: Operation,
}

const WORKLOADS: [Workload; 8] = [
    Workload { name: "get-1m-1t", entries: LARGE, threads: 1, operation: Operation::Get },
    Workload { name: "get-1m-2t", entries: LARGE, threads: 2, operation: Operation::Get },
    Workload { name: "get-16k-1t", entries: SMALL, threads: 1, operation: Operation::Get },
    Workload { name: "get-16k-2t", entries: SMALL, threads: 2, operation: Operation::Get },
    Workload { name: "hot-key-1t", entries: SMALL, threads: 1, operation: Operation::OneKey },
    Workload { name: "hot-key-2t", entries: SMALL, threads: 2, operation: Operation::OneKey },
    Workload { name: "get95-insert5-1m-2t", entries: LARGE, threads: 2, operation: Operation::GetInsert },
    Workload { name: "get-or-load-20-2t", entries: LARGE, threads: 2, operation: Operation::GetOrLoad },
];

/// A rival, filled and ready, behind one round of a workload.
struct Entrant {
    name: &'static str,
    round: Box<dyn FnMut(u64) -> Duration>,
    times: Vec<Duration>,
}

fn entrant<R: Rival>(workload: &'static Workload, ranks: &'static [u32]) -> Entrant {
    let cache: &'static R = Box::leak(Box::new(R::new(workload.entries)));
    for rank in 0..workload.entries as u32 {
        cache.insert(key(rank), value_of(&key(rank)));
    }
    cache.flush();
    Entrant {
        name: R::NAME,
        round: Box::new(move |round| run(cache, workload, ranks, round)),
        times: Vec::new(),
    }
}

fn run<R: Rival>(cache: &R, workload: &Workload, ranks: &[u32], round: u64) -> Duration {
    let start = Barrier::new(workload.threads + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workload.threads)
            .map(|thread| {
                let start = &start;
                scope.spawn(move || {
                    let offset = mix(round * 64 + thread as u64) as usize % ranks.len();
                    start.wait();
                    work(cache, workload, ranks, offset, round);
                })
            })
            .collect();
        start.wait();
        let begin = Instant::now();
        for thread in threads {
            thread.join().unwrap();
        }
        cache.flush();
        begin.elapsed()
    })
}

fn work<R: Rival>(cache: &R, workload: &Workload, ranks: &[u32], offset: usize, round: u64) {
    let (tail, head) = ranks.split_at(offset);
    let ranks = head.iter().chain(tail).cycle().take(OPS);
    match workload.operation {
        Operation::Get => {
            let hits = ranks.filter(|rank| cache.get(&key(**rank))).count();
            assert!(hits > OPS * 99 / 100, "{}: {hits} of {OPS} hit", R::NAME);
        }
        Operation::OneKey => {
            let hot = key(7);
            assert!((0..OPS).all(|_| cache.get(&hot)));
        }
        Operation::GetInsert => {
            for (i, rank) in ranks.enumerate() {
                let key = key(*rank);
                if i % 20 == 19 {
                    cache.insert(key, value_of(&key));
                } else {
                    cache.get(&key);
                }
            }
        }
        Operation::GetOrLoad => {
            let fresh = ((round as u32) << 22) ^ (offset as u32) | 1 << 31;
            for (i, rank) in ranks.enumerate() {
                let rank = if i % 5 == 4 { fresh.wrapping_add(i as u32) } else { *rank };
                cache.get_or_load(&key(rank));
            }
        }
    }
}

fn entrants(workload: &'static Workload, ranks: &'static [u32]) -> Vec<Entrant> {
    let mut all = vec![
        entrant::<Typed>(workload, ranks),
        entrant::<Blobs>(workload, ranks),
        entrant::<QuickCache>(workload, ranks),
        entrant::<QuickCacheArc>(workload, ranks),
        entrant::<Moka>(workload, ranks),
        entrant::<MiniMoka>(workload, ranks),
        entrant::<Foyer>(workload, ranks),
    ];
    if matches!(workload.operation, Operation::Get | Operation::OneKey) {
        all.push(entrant::<Lent>(workload, ranks));
        all.push(entrant::<Papaya>(workload, ranks));
        all.push(entrant::<DashMap>(workload, ranks));
    }
    all
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds: u64 = arguments.next().map_or(10, |rounds| rounds.parse().expect("rounds"));
    let chosen: Vec<String> = arguments.collect();
    for workload in &WORKLOADS {
        if chosen.is_empty() || chosen.iter().any(|name| workload.name.starts_with(name.as_str())) {
            // The caches of a workload are leaked; the next one starts in a process of its own size.
            measure(workload, rounds);
        }
    }
}

fn measure(workload: &'static Workload, rounds: u64) {
    let ranks: &'static [u32] = zipf(workload.entries, 0.99, 1 << 22, 42).leak();
    let mut entrants = entrants(workload, ranks);
    for round in 0..=rounds {
        for entrant in &mut entrants {
            let time = (entrant.round)(round);
            // The first round warms up.
            if round > 0 {
                entrant.times.push(time);
            }
        }
    }
    report(workload, &mut entrants);
}

fn report(workload: &Workload, entrants: &mut [Entrant]) {
    println!("\n{} ({} entries, {} threads, {OPS} operations each)", workload.name, workload.entries, workload.threads);
    println!("{:<20} {:>8} {:>8} {:>8}   ours to it, round by round: median (quartiles)", "", "ns/op", "min", "max");
    let ours = entrants[0].times.clone();
    for entrant in entrants {
        let ns = |time: &Duration| time.as_nanos() as f64 / OPS as f64;
        let mut times: Vec<f64> = entrant.times.iter().map(ns).collect();
        let mut ratios: Vec<f64> = times.iter().zip(&ours).map(|(its, ours)| its / ns(ours)).collect();
        times.sort_by(f64::total_cmp);
        ratios.sort_by(f64::total_cmp);
        let at = |sorted: &[f64], quarter: usize| sorted[(sorted.len() - 1) * quarter / 4];
        println!(
            "{:<20} {:>8.1} {:>8.1} {:>8.1}   {:.2} ({:.2} .. {:.2})",
            entrant.name,
            at(&times, 2),
            times[0],
            times[times.len() - 1],
            at(&ratios, 2),
            at(&ratios, 1),
            at(&ratios, 3),
        );
    }
}
