//! Resident memory over the budget, by how sizes and lifetimes change: what slots of one size cost when sizes shift.
//!
//! Each row has a cache of its own. The patterns are played in turn, from easy to hostile. What stays of each phase is asked
//! for all the time from then on. Small budgets show less: tables and the last span of each size weigh more.
//!
//! `cargo bench --no-default-features --bench footprint [-- --budget-mib MIB]`

use std::collections::HashSet;

use corecache::engine::{BlobCache, Builder};

const MIB: usize = 1 << 20;
/// The engine's: so much memory serves entries of one size.
const SPAN_BYTES: usize = 64 << 10;

/// Which entries of a phase are asked for from then on, so that they stay.
#[derive(Clone, Copy)]
enum Stay {
    None,
    /// One in so many, whichever it is.
    OneIn(u64),
    /// The first in each span of slots: nothing is worse.
    OneASpan,
}

fn main() {
    let budget_bytes = argument("--budget-mib", 16) * MIB;
    println!("footprint: budget {} MiB, 2 shards", budget_bytes / MIB);
    println!(
        "| sizes | what stays | resident / budget, at the most | at the end | used / budget | entries |"
    );
    println!("|---|---|---|---|---|---|");
    let growing: Vec<usize> = (0..24).map(|phase| 40 + phase * 24).collect();
    let shrinking: Vec<usize> = growing.iter().rev().copied().collect();
    let stays = [
        Stay::None,
        Stay::OneIn(1000),
        Stay::OneIn(100),
        Stay::OneIn(20),
        Stay::OneASpan,
    ];
    let sizes: [(&str, &[usize]); 4] = [
        ("100, 300, 40 B", &[100, 300, 40]),
        ("24 sizes, 40 to 592 B, growing", &growing),
        ("24 sizes, 592 to 40 B, shrinking", &shrinking),
        ("random, 1 to 8000 B", &[0; 8]),
    ];
    for stay in stays {
        for (name, lens) in sizes {
            in_a_child(|| play(name, budget_bytes, stay, lens));
        }
    }
    in_a_child(|| shrink(budget_bytes));
}

/// Runs a row in a process of its own: what one row gave back would hide what the next one takes.
fn in_a_child(row: impl FnOnce()) {
    // SAFETY: there is one thread, and the child ends with its row.
    unsafe {
        match libc::fork() {
            0 => {
                row();
                libc::_exit(0);
            }
            child => assert_eq!(libc::waitpid(child, &mut 0, 0), child),
        }
    }
}

/// Fills the cache twice over with values of each length in turn (0: of lengths at random), and removes those that are
/// not to stay.
fn play(name: &str, budget_bytes: usize, stay: Stay, lens: &[usize]) {
    let before = resident_bytes();
    let cache = BlobCache::from_builder(&Builder::new(budget_bytes).shards(2));
    let cache = cache.expect("the budget is large enough");
    let (mut number, mut most, mut random) = (0_u64, 0, 1_u64);
    let mut hot: Vec<u64> = Vec::new();
    let value = [7; 8000];
    for &phase_len in lens {
        let (mut spans, mut cold) = (HashSet::new(), Vec::new());
        let mut bytes = 0;
        while bytes < 2 * budget_bytes {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let len = match phase_len {
                0 => 1 + (random >> 33) as usize % 8000,
                len => len,
            };
            number += 1;
            bytes += len + 70;
            let key = number.to_le_bytes();
            cache.insert_soon(&key, &value[..len]).expect("it is small");
            let is_hot = match stay {
                Stay::None => false,
                Stay::OneIn(many) => number.is_multiple_of(many),
                Stay::OneASpan => {
                    let at = cache.get_with(&key, |value| value.as_ptr().addr());
                    spans.insert(at.unwrap_or(0) / SPAN_BYTES)
                }
            };
            if is_hot {
                hot.push(number);
                (0..4).for_each(|_| drop(cache.get(&key)));
            } else {
                cold.push(number);
            }
            for at in 0..2 {
                if let Some(key) = hot.get((number * 2 + at) as usize % hot.len().max(1)) {
                    cache.get_with(&key.to_le_bytes(), <[u8]>::len);
                }
            }
            if number.is_multiple_of(4096) {
                most = most.max(resident_bytes());
            }
        }
        // As if it had expired: a policy that keeps what is small would keep the sizes from changing.
        for key in cold {
            cache.remove(&key.to_le_bytes());
        }
        hot.retain(|key| cache.get_with(&key.to_le_bytes(), <[u8]>::len).is_some());
    }
    cache.flush();
    let ratio = |bytes: usize| bytes.saturating_sub(before) as f64 / budget_bytes as f64;
    let stats = cache.stats();
    let stay = match stay {
        Stay::None => "nothing".to_owned(),
        Stay::OneIn(many) => format!("1 in {many}"),
        Stay::OneASpan => "1 a span".to_owned(),
    };
    println!(
        "| {name} | {stay} | {:.2} | {:.2} | {:.2} | {} ({} stay) |",
        ratio(most),
        ratio(resident_bytes()),
        stats.used_bytes as f64 / budget_bytes as f64,
        stats.entries,
        hot.len(),
    );
}

/// A sixteenth of the budget, after the whole of it was full.
fn shrink(budget_bytes: usize) {
    let before = resident_bytes();
    let cache = BlobCache::from_builder(&Builder::new(budget_bytes).shards(2));
    let cache = cache.expect("the budget is large enough");
    for number in 0..(budget_bytes / 700) as u64 * 2 {
        cache
            .insert(&number.to_le_bytes(), &[1; 600])
            .expect("it is small");
        for back in [1, 100, 10_000] {
            cache.get_with(&(number / back).to_le_bytes(), <[u8]>::len);
        }
    }
    let full = resident_bytes() - before;
    cache.resize(budget_bytes / 16).expect("it is large enough");
    cache.flush();
    for number in 0..10_000_u64 {
        cache
            .insert(&(number << 32).to_le_bytes(), &[1; 600])
            .expect("it is small");
    }
    let stats = cache.stats();
    println!(
        "| resized to a sixteenth | | {:.2} | {:.2} of the new one | {:.2} of the new one | {} |",
        full as f64 / budget_bytes as f64,
        resident_bytes().saturating_sub(before) as f64 / (budget_bytes / 16) as f64,
        stats.used_bytes as f64 / stats.budget_bytes as f64,
        stats.entries,
    );
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
