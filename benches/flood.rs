//! Resident memory while distinct keys are inserted without end: it is to stay flat, whoever holds what.
//!
//! Three runs, each with a cache of its own: nothing held; one value borrowed all the while; one blob held in each
//! thousand inserts, a thousand of them at the most. Values have 0 to 199 bytes. A tenth of the keys comes back once.
//!
//! What this can't show: memory under many threads that insert, or under sizes that change over time (`footprint`).
//!
//! `cargo bench --no-default-features --bench flood [-- --inserts MILLIONS --budget-mib MIB]`

use std::collections::VecDeque;
use std::time::Instant;

use corecache::engine::{Blob, BlobCache, Builder};

const MIB: usize = 1 << 20;
const ROWS: u64 = 10;
const HELD: usize = 1000;

fn main() {
    let inserts = argument("--inserts", 100) as u64 * 1_000_000;
    let budget_bytes = argument("--budget-mib", 64) * MIB;
    println!(
        "flood: {inserts} inserts, budget {} MiB",
        budget_bytes / MIB
    );
    println!("| held | million inserts | resident MiB over the start | M inserts/s | used MiB |");
    println!("|---|---|---|---|---|");
    run("nothing", inserts, budget_bytes, |cache, flood| {
        flood(cache, &mut |_| ())
    });
    run("a borrow", inserts, budget_bytes, |cache, flood| {
        cache.insert(b"borrowed", &[7; 100]).expect("it is small");
        cache.get_with(b"borrowed", |value| {
            flood(cache, &mut |_| ());
            assert!(value.iter().all(|&byte| byte == 7));
        });
    });
    run("1000 blobs", inserts, budget_bytes, |cache, flood| {
        let mut held: VecDeque<Blob> = VecDeque::new();
        flood(cache, &mut |blob| {
            held.push_back(blob);
            (held.len() > HELD).then(|| held.pop_front());
        });
    });
}

type Flood<'a> = &'a dyn Fn(&BlobCache, &mut dyn FnMut(Blob));

fn run(name: &str, inserts: u64, budget_bytes: usize, hold: impl FnOnce(&BlobCache, Flood)) {
    let before = resident_bytes();
    let cache = BlobCache::from_builder(&Builder::new(budget_bytes).shards(2));
    let cache = cache.expect("the budget is large enough");
    hold(&cache, &|cache, keep| {
        let mut begun = Instant::now();
        for number in 0..inserts {
            let key = (number - number % 10 * u64::from(number % 10 == 9)).to_le_bytes();
            let len = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let value = [number as u8; 200];
            cache
                .insert_soon(&key, &value[..len as usize % 200])
                .expect("it is small");
            if number % 1000 == 0 {
                cache.get(&key).into_iter().for_each(&mut *keep);
            }
            if (number + 1) % (inserts / ROWS) == 0 {
                let rate = (inserts / ROWS) as f64 / begun.elapsed().as_secs_f64() / 1e6;
                let over = resident_bytes().saturating_sub(before) / MIB;
                let used = cache.stats().used_bytes as usize / MIB;
                println!(
                    "| {name} | {} | {over} | {rate:.2} | {used} |",
                    (number + 1) / 1_000_000
                );
                begun = Instant::now();
            }
        }
    });
}

fn argument(name: &str, default: usize) -> usize {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    let value = arguments.nth(1).and_then(|value| value.parse().ok());
    value.unwrap_or(default)
}

/// The process's resident set, by the kernel's count of 4 KiB pages.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0_usize) * 4096
}
