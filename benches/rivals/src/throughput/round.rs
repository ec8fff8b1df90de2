//! One round of a workload on one cache.

use std::hint::black_box;
use std::ops::Range;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::workload::{Operation, Workload};
use crate::keys::{mix, scattered};
use crate::process::cpu_time;
use crate::rivals::Rival;

/// The key of [`Operation::GetOne`].
const HOT: u64 = 7;
/// Ranks from here on are of keys that the cache is not filled with.
const STRANGERS: u64 = 1 << 40;
/// What a cache still does after a round counts for its processor time, if it does it so soon.
const AFTERMATH: Duration = Duration::from_millis(10);
/// Of a round's operations this part comes before the clock starts: the contender before has left its own entries in the
/// processor's caches, and reading those of this one in again is not what is measured.
const WARM_UP: usize = 8;

/// What a round took.
pub struct Sample {
    /// Wall time by the operations of one thread.
    pub wall_ns: f64,
    /// Processor time of the whole process by the operations of all threads.
    pub cpu_ns: f64,
    /// Of all operations that read.
    pub miss_percent: f64,
}

/// What a thread of a round did.
struct Shift {
    begin: Instant,
    end: Instant,
    misses: usize,
}

pub fn fill<R: Rival>(cache: &R, workload: &Workload) {
    if workload.operation == Operation::GetOrLoad {
        let rest = workload.entries as u64 / 2;
        (0..rest).for_each(|i| cache.insert(STRANGERS + i));
    }
    scattered(workload.entries).for_each(|rank| cache.insert(rank));
    cache.tidy();
}

/// What to do in a round.
pub struct Round {
    pub workload: &'static Workload,
    pub ranks: &'static [u32],
    pub threads: usize,
    pub number: u64,
}

impl Round {
    pub fn run<R: Rival>(&self, cache: &R, name: &str) -> Sample {
        let operations = self.workload.operations;
        self.shifts(cache, 0..operations / WARM_UP);
        cache.flush();
        let cpu = cpu_time();
        let shifts = self.shifts(cache, operations / WARM_UP..operations);
        let joined = Instant::now();
        cache.flush();
        let flush = joined.elapsed();
        thread::sleep(AFTERMATH);
        let cpu = cpu_time() - cpu;

        // By the threads' own clocks: this one may come late where all cores have work.
        let begin = shifts.iter().map(|shift| shift.begin).min().unwrap();
        let end = shifts.iter().map(|shift| shift.end).max().unwrap();
        let misses: usize = shifts.iter().map(|shift| shift.misses).sum();
        let operations = (operations - operations / WARM_UP) as f64;
        let sample = Sample {
            wall_ns: (end - begin + flush).as_nanos() as f64 / operations,
            cpu_ns: cpu.as_nanos() as f64 / (operations * self.threads as f64),
            miss_percent: 100.0 * misses as f64 / (operations * self.threads as f64),
        };
        let has_all = self.workload.operation != Operation::GetOrLoad;
        assert!(
            !has_all || sample.miss_percent < 1.0,
            "{name}: {misses} missed, all should hit"
        );
        sample
    }

    /// These of the operations of each thread.
    fn shifts<R: Rival>(&self, cache: &R, part: Range<usize>) -> Vec<Shift> {
        let (start, part) = (&Barrier::new(self.threads), &part);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads as u64)
                .map(|thread| scope.spawn(move || self.shift(cache, thread, part.clone(), start)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        })
    }

    fn shift<R: Rival>(
        &self,
        cache: &R,
        thread: u64,
        part: Range<usize>,
        start: &Barrier,
    ) -> Shift {
        let operations = self.workload.operations;
        let places = (self.ranks.len() - operations) as u64;
        let first = (mix(self.number * 64 + thread) % places) as usize;
        let strangers = STRANGERS + ((self.number + 1) << 32) + (thread << 24) + part.start as u64;
        let ranks = &self.ranks[first..first + operations][part];
        start.wait();
        let begin = Instant::now();
        let misses = work(cache, self.workload.operation, ranks, strangers);
        Shift {
            begin,
            end: Instant::now(),
            misses,
        }
    }
}

/// Returns how many reads missed.
fn work<R: Rival>(cache: &R, operation: Operation, ranks: &[u32], strangers: u64) -> usize {
    let numbered = || ranks.iter().map(|rank| u64::from(*rank)).enumerate();
    match operation {
        Operation::Get => numbered().filter(|(_, rank)| !cache.get(*rank)).count(),
        Operation::GetOne => ranks.iter().filter(|_| !cache.get(black_box(HOT))).count(),
        Operation::GetInsert => numbered()
            .filter(|(i, rank)| {
                let is_insert = i % 20 == 19;
                if is_insert {
                    cache.insert(*rank);
                }
                !is_insert && !cache.get(*rank)
            })
            .count(),
        Operation::GetOrLoad => numbered()
            .filter(|(i, rank)| {
                let rank = if i % 5 == 4 {
                    strangers + *i as u64
                } else {
                    *rank
                };
                !cache.get_or_load(rank)
            })
            .count(),
    }
}
