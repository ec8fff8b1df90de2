//! Processor time of an engine that has nothing to do.

use std::thread;
use std::time::{Duration, Instant};

use corecache::engine::{BlobCache, Builder};

use crate::process::cpu_time;
use crate::verdict::{Goal, Verdict};

const OWNERS: usize = 8;
const BUDGET_BYTES: usize = 64 << 20;
const VALUE: [u8; 100] = [1; 100];
/// What the start, or the work before it, leaves to be done is over by then.
const CALM: Duration = Duration::from_millis(200);
const WATCHED: Duration = Duration::from_secs(4);

pub fn measure() -> Vec<Verdict> {
    println!("\nprocessor time of an idle engine with {OWNERS} owners, in percent of a core");
    let cache = BlobCache::from_builder(&Builder::new(BUDGET_BYTES).shards(OWNERS)).unwrap();
    let goal = Goal::AtMost {
        wanted: 0.1,
        aim: 0.0,
    };
    let empty = verdict("new and empty", goal);
    // Three times what fits, so that all owners have evicted.
    let keys = || (0..3 * BUDGET_BYTES / 100).map(|i| i.to_le_bytes());
    for key in keys() {
        cache.insert_soon(&key, &VALUE).unwrap();
    }
    cache.flush();
    let full = verdict("full, after evictions", goal);
    // Garbage that a reader holds is looked at now and then.
    let held = keys()
        .rev()
        .find_map(|key| cache.get(&key))
        .expect("the cache is full");
    cache.clear();
    cache.flush();
    let holding = verdict("cleared, one value still held", Goal::Free);
    drop(held);
    vec![empty, full, holding]
}

fn verdict(state: &str, goal: Goal) -> Verdict {
    thread::sleep(CALM);
    let (cpu, begin) = (cpu_time(), Instant::now());
    thread::sleep(WATCHED);
    let cpu = cpu_time() - cpu;
    let percent = 100.0 * cpu.as_secs_f64() / begin.elapsed().as_secs_f64();
    println!("{state:<32} {percent:.4}");
    Verdict {
        what: format!("core taken by {OWNERS} idle owners, {state}"),
        goal,
        measured: percent,
        unit: "%",
        beside: String::new(),
    }
}
