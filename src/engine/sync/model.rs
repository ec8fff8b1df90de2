//! The model checker's side of [`super`]: what a model is run by, and what it is written with.
//!
//! Threads are those of `shuttle`, which runs one at a time and chooses at every access who goes on: at random, and by
//! PCT (S. Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010). It
//! finds deadlocks, lost wake-ups among them. What a load sees of the stores of others is up to [`memory`], which
//! knows `Ordering`, fences and `membarrier`, and logs every access.
//!
//! crossbeam's queue and channel are taken for right, and stand here as what they mean to the memory.
//!
//! Atomics are as large as std's and lie where they would, so what lies on one cache line here does so in a build.
//!
//! Every run starts from the same seed, so what fails once fails again. `MODEL_RUNS` sets the number of executions.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use shuttle::rand::RngCore;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

pub(crate) mod atomic;
pub(crate) mod channel;
pub(crate) mod lock;
mod memory;
pub(crate) mod plain;
pub(crate) mod queue;

pub(crate) use memory::Access;
pub(crate) use shuttle::thread::LocalKey;
pub(crate) use shuttle::thread_local;

const SEED: u64 = 0x636f_7265;
/// Executions of a model by each of the two schedulers.
const RUNS: usize = 4000;
/// Preemptions at the most, where PCT schedules.
const PREEMPTIONS: usize = 3;
/// An execution that takes more steps than these is stuck.
const STEPS: usize = 100_000;

/// Runs `model` under many schedules; panics if it panics, or if its threads all wait.
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    let runs = std::env::var("MODEL_RUNS").map_or(RUNS, |runs| {
        runs.parse().expect("MODEL_RUNS is a number of executions")
    });
    // The statics of the engine are the process's, and so is what a model changes in them.
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let model = Arc::new(model);
    run(RandomScheduler::new_from_seed(SEED, runs), model.clone());
    run(
        PctScheduler::new_from_seed(SEED, PREEMPTIONS + 1, runs),
        model,
    );
}

fn run<M: Fn() + Send + Sync + 'static>(scheduler: impl Scheduler + 'static, model: Arc<M>) {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.failure_persistence = FailurePersistence::None;
    Runner::new(scheduler, config).run(move || {
        memory::begin();
        model();
    });
    memory::end();
}

pub(crate) struct Joins<T>(shuttle::thread::JoinHandle<T>);

impl<T> Joins<T> {
    pub fn join(self) -> T {
        let thread = self.0.thread().id().into();
        let value = self.0.join().expect("a panic ends the execution");
        memory::with(|memory| memory.join(thread));
        value
    }
}

pub(crate) fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Joins<T> {
    let view = memory::with(|memory| memory.view());
    Joins(shuttle::thread::spawn(move || {
        memory::with(|memory| memory.start(&view));
        f()
    }))
}

/// A place where another thread may go on. While a panic unwinds none does.
fn switch() {
    if !std::thread::panicking() {
        shuttle::thread::sleep(Duration::ZERO);
    }
}

/// A choice of the checker's: a number below `options`.
pub(crate) fn choose(options: usize) -> usize {
    if options == 1 {
        return 0;
    }
    (shuttle::rand::thread_rng().next_u64() % options as u64) as usize
}

/// What the calling thread accesses while `f` runs.
pub(crate) fn accesses_of<R>(f: impl FnOnce() -> R) -> (R, Vec<Access>) {
    let me = memory::me();
    let before = memory::with(|memory| memory.log.len());
    let value = f();
    let log = memory::with(|memory| memory.log[before..].to_vec());
    (
        value,
        log.into_iter()
            .filter(|access| access.thread == me)
            .collect(),
    )
}

/// `membarrier(2)`, where the execution has it.
pub(crate) mod membarrier {
    pub(crate) fn register() -> bool {
        super::choose(2) == 0
    }

    pub(crate) fn run() {
        super::switch();
        super::memory::with(|memory| memory.fence_all());
    }
}

mod tests;
