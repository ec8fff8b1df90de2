//! The longest gap of a reader while its table grows from nothing to four million entries.
//!
//! One thread inserts. Beside it runs, in turn, a reader that takes the time after each `get`, and a control that only
//! takes the time: each of them has the same company, since with both at once there would be one more thread than
//! that on a machine of two cores. Each run has a cache of its own. What counts is the longest gap of the reader less
//! that of the control, the median over the rounds.
//!
//! What it can not show by this: stalls that are shorter than what the scheduler does. Where inserter, owners and
//! reader are more threads than there are cores, each waits for a core for some milliseconds now and then, the control
//! too, and the difference of two such maxima varies by as much. Therefore the same is shown net, each gap less what
//! the thread waited for a core in it: the system keeps count of that. A wait for a lock or for memory is none of it,
//! and stays in.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::keys::mix;
use crate::process::CoreWaits;
use crate::rivals::{self, Rival, Role, Visitor};
use crate::spread::Spread;
use crate::verdict::{Goal, Verdict};

const ENTRIES: u64 = 4 << 20;
/// What is told to the reader at a time, so that telling it costs the two nothing.
const STEP: u64 = 1 << 10;
/// Shorter gaps are not looked at.
const NOTABLE: Duration = Duration::from_micros(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    Reader,
    Control,
}

#[derive(Clone, Copy, Default)]
struct Gaps {
    longest: Duration,
    /// Each gap less the thread's waits for a core.
    longest_net: Duration,
}

struct Entrant {
    name: &'static str,
    role: Role,
    run: Box<dyn Fn(Watch) -> Gaps>,
    rounds: Vec<(Gaps, Gaps)>,
}

struct Entrants(Vec<Entrant>);

impl Visitor for Entrants {
    fn visit<R: Rival>(&mut self, name: &'static str, role: Role, make: fn(usize) -> R) {
        // Room for entries that take more while the table grows.
        let run = move |watch| run(&make(2 * ENTRIES as usize), name, watch);
        self.0.push(Entrant {
            name,
            role,
            run: Box::new(run),
            rounds: Vec::new(),
        });
    }
}

pub fn names() -> Vec<&'static str> {
    rivals::names(rivals::each_growing)
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

/// Measures the contenders whose names start with one of `prefixes`, or all of them.
pub fn measure(prefixes: &[String], rounds: u64) -> Vec<Verdict> {
    let mut entrants = Entrants(Vec::new());
    rivals::each_growing(&mut entrants);
    let Entrants(mut entrants) = entrants;
    entrants.retain(|entrant| {
        prefixes.is_empty()
            || prefixes
                .iter()
                .any(|prefix| entrant.name.starts_with(prefix.as_str()))
    });
    for _ in 0..rounds {
        for entrant in &mut entrants {
            entrant
                .rounds
                .push(((entrant.run)(Watch::Reader), (entrant.run)(Watch::Control)));
        }
    }
    println!("\nlongest gap in ms while a table grows to {ENTRIES} entries: medians (quartiles)");
    println!("{:<15} {:^44} {:^44}", "", "", "net of waits for a core");
    let columns = format!("{:>9} {:>9} {:>24}", "reader", "control", "difference");
    println!("{:<15} {columns} {columns}", "");
    entrants.iter().map(report).collect()
}

fn report(entrant: &Entrant) -> Verdict {
    let (gross, difference) = columns(entrant, |gaps| gaps.longest);
    let (net, net_difference) = columns(entrant, |gaps| gaps.longest_net);
    println!("{:<15} {gross} {net}", entrant.name);
    let is_ours = entrant.role == Role::Ours;
    Verdict {
        what: format!("longest gap while growing, over control, {}", entrant.name),
        goal: if is_ours {
            Goal::AtMost {
                wanted: 2.0,
                aim: 0.1,
            }
        } else {
            Goal::Free
        },
        measured: difference.median(),
        unit: "ms",
        beside: format!("net of waits for a core {net_difference}"),
    }
}

/// Reader, control, and the difference of the two, which is also returned.
fn columns(entrant: &Entrant, gap: fn(&Gaps) -> Duration) -> (String, Spread) {
    let ms = |gaps: &Gaps| gap(gaps).as_secs_f64() * 1e3;
    let rounds = entrant.rounds.iter();
    let reader = Spread::of(rounds.clone().map(|(reader, _)| ms(reader)));
    let control = Spread::of(rounds.clone().map(|(_, control)| ms(control)));
    let difference = Spread::of(rounds.map(|(reader, control)| ms(reader) - ms(control)));
    let text = difference.to_string();
    (
        format!(
            "{:>9.2} {:>9.2} {text:>24}",
            reader.median(),
            control.median()
        ),
        difference,
    )
}

/// How far the inserting thread is.
#[derive(Default)]
struct Progress {
    inserted: AtomicU64,
    is_done: AtomicBool,
}

fn run<R: Rival>(cache: &R, name: &str, watch: Watch) -> Gaps {
    let progress = Progress::default();
    let start = Barrier::new(2);
    let gaps = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            start.wait();
            match watch {
                Watch::Reader => watched(&progress, |rank| cache.get(rank)),
                Watch::Control => watched(&progress, |rank| rank == 0),
            }
        });
        start.wait();
        for rank in 0..ENTRIES {
            cache.insert(rank);
            if rank % STEP == 0 {
                progress.inserted.store(rank, Ordering::Relaxed);
            }
        }
        cache.flush();
        progress.is_done.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    });
    let missing = (0..ENTRIES)
        .step_by(1009)
        .filter(|rank| !cache.get(*rank))
        .count();
    assert!(
        missing < 40,
        "{name}: {missing} of {} keys are missing",
        ENTRIES / 1009
    );
    gaps
}

/// Does `read` until all is inserted.
fn watched(progress: &Progress, read: impl Fn(u64) -> bool) -> Gaps {
    let mut gaps = Gaps::default();
    let waits = CoreWaits::of_this_thread();
    let mut waited = waits.total();
    let mut draw = 0;
    let mut last = Instant::now();
    while !progress.is_done.load(Ordering::Relaxed) {
        draw += 1;
        let inserted = progress.inserted.load(Ordering::Relaxed);
        black_box(read(mix(draw) % inserted.max(1)));
        let now = Instant::now();
        let gap = now - last;
        last = now;
        if gap > NOTABLE {
            let now_waited = waits.total();
            gaps.longest = gaps.longest.max(gap);
            gaps.longest_net = gaps
                .longest_net
                .max(gap.saturating_sub(now_waited - waited));
            waited = now_waited;
            last = Instant::now();
        }
    }
    gaps
}
