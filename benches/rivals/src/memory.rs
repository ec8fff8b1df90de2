//! Resident bytes an entry over its key and value. Each contender is measured in a process of its own, so that none
//! finds memory that another one has freed.
//!
//! What it can not show: other allocators than the system's. Those that hold key and value side by side have 4 bytes
//! of padding between them, which they would not have with keys of bytes.

use std::env;
use std::process::Command;

use crate::keys::scattered;
use crate::process::resident_bytes;
use crate::rivals::{self, Rival, Role, Visitor};
use crate::verdict::{Goal, Verdict};

const ENTRIES: usize = 1 << 20;
/// Of a key and a value.
const PAYLOAD_BYTES: f64 = 116.0;
const WANTED: &str = "corecache blobs";

/// The contenders that can be told apart here.
pub fn names() -> Vec<&'static str> {
    // Reading a cache in another way takes no other memory.
    let others = rivals::names(rivals::each)
        .into_iter()
        .filter(|(_, role)| *role != Role::OurLoan);
    others.map(|(name, _)| name).collect()
}

/// Measures the contenders whose names start with one of `prefixes`, or all of them, in a child process each.
pub fn measure(prefixes: &[String]) -> Vec<Verdict> {
    println!("\nresident bytes an entry over 116 of key and value, {ENTRIES} entries");
    let is_chosen = |name: &&str| {
        prefixes.is_empty()
            || prefixes
                .iter()
                .any(|prefix| name.starts_with(prefix.as_str()))
    };
    names()
        .into_iter()
        .filter(is_chosen)
        .map(measure_apart)
        .collect()
}

fn measure_apart(name: &str) -> Verdict {
    let program = env::current_exe().expect("the path of this program");
    let output = Command::new(program)
        .args(["memory-of", name])
        .output()
        .expect("a child process");
    let text = String::from_utf8_lossy(&output.stdout);
    let Ok(over_bytes) = text.trim().parse::<f64>() else {
        panic!(
            "measuring {name}: {} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    };
    println!("{name:<20} {over_bytes:>8.1}");
    Verdict {
        what: format!("bytes an entry over its 116, {name}"),
        goal: if name == WANTED {
            Goal::AtMost {
                wanted: 56.0,
                aim: 32.0,
            }
        } else {
            Goal::Free
        },
        measured: over_bytes,
        unit: "B",
        beside: String::new(),
    }
}

/// Measures in this process, and prints the number alone. Whether there is a contender of that name.
pub fn measure_here(name: &str) -> bool {
    let mut filling = Filling {
        name,
        is_done: false,
    };
    rivals::each(&mut filling);
    filling.is_done
}

struct Filling<'a> {
    name: &'a str,
    is_done: bool,
}

impl Visitor for Filling<'_> {
    fn visit<R: Rival>(&mut self, name: &'static str, _: Role, make: fn(usize) -> R) {
        if name != self.name {
            return;
        }
        let before = resident_bytes();
        // With room to spare: what is remembered of evicted keys is no part of this.
        let cache = make(ENTRIES + ENTRIES / 4);
        scattered(ENTRIES).for_each(|rank| cache.insert(rank));
        cache.tidy();
        let resident = resident_bytes() - before;
        let held = (0..ENTRIES as u64).filter(|rank| cache.get(*rank)).count();
        assert!(
            held > ENTRIES * 99 / 100,
            "{name}: only {held} of {ENTRIES} entries are held"
        );
        println!("{:.2}", resident as f64 / held as f64 - PAYLOAD_BYTES);
        self.is_done = true;
    }
}
