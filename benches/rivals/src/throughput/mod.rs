//! Operations a second: ours and its rivals in turn, A B C ... A B C ..., as ratios round by round.
//!
//! What it can not show: more than the cores of the machine that it runs on, values of other sizes than 100 bytes, and
//! a program that does something else between two reads.

mod report;
mod round;
mod workload;

use crate::keys::{mix, zipf};
use crate::rivals::{self, Rival, Role, Visitor};
use crate::verdict::Verdict;

use round::{Round, Sample};
use workload::{Operation, WORKLOADS, Workload};

/// Ranks to draw from; each thread of a round starts somewhere else among them.
const RANKS: usize = 1 << 22;

/// A contender, filled and ready, behind one round of a workload.
struct Entrant {
    name: &'static str,
    role: Role,
    round: Box<dyn FnMut(usize, u64) -> Sample>,
    /// By place in the workload's list of thread counts, then by round.
    samples: Vec<Vec<Sample>>,
}

struct Entrants {
    workload: &'static Workload,
    ranks: &'static [u32],
    all: Vec<Entrant>,
}

impl Visitor for Entrants {
    fn visit<R: Rival>(&mut self, name: &'static str, role: Role, make: fn(usize) -> R) {
        let (workload, ranks) = (self.workload, self.ranks);
        if role == Role::Map && workload.operation == Operation::GetOrLoad {
            return;
        }
        if role == Role::OurLoan && !workload.is_read_only() {
            return;
        }
        let cache = make(workload.entries * 3 / 2);
        round::fill(&cache, workload);
        self.all.push(Entrant {
            name,
            role,
            round: Box::new(move |threads, number| {
                Round {
                    workload,
                    ranks,
                    threads,
                    number,
                }
                .run(&cache, name)
            }),
            samples: workload.threads.iter().map(|_| Vec::new()).collect(),
        });
    }
}

pub fn names() -> Vec<&'static str> {
    WORKLOADS.iter().map(|workload| workload.name).collect()
}

/// Measures the workloads whose names start with one of `prefixes`, or all of them.
pub fn measure(prefixes: &[String], rounds: u64) -> Vec<Verdict> {
    let is_chosen = |workload: &&Workload| {
        prefixes.is_empty()
            || prefixes
                .iter()
                .any(|prefix| workload.name.starts_with(prefix.as_str()))
    };
    WORKLOADS
        .iter()
        .filter(is_chosen)
        .flat_map(|workload| measure_one(workload, rounds))
        .collect()
}

fn measure_one(workload: &'static Workload, rounds: u64) -> Vec<Verdict> {
    let ranks = zipf(workload.entries, 0.99, RANKS, 42).leak();
    let mut entrants = Entrants {
        workload,
        ranks,
        all: Vec::new(),
    };
    rivals::each(&mut entrants);
    // The first round warms up.
    for round in 0..=rounds {
        for (place, threads) in workload.threads.iter().enumerate() {
            for which in order(entrants.all.len(), round) {
                let entrant = &mut entrants.all[which];
                let sample = (entrant.round)(*threads, round);
                if round > 0 {
                    entrant.samples[place].push(sample);
                }
            }
        }
    }
    report::print(workload, &entrants.all);
    report::verdicts(workload, &entrants.all)
}

/// Another order in each round: what the one before leaves in the processor's caches is then left to all alike.
fn order(entrants: usize, round: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..entrants).collect();
    order.sort_by_key(|entrant| mix((round << 32) + *entrant as u64));
    order
}
