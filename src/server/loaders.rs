//! The threads that load: bounded in number, each origin with a queue and a limit of its own, so that one slow origin
//! takes neither all loaders nor the others' places in the queue.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};

use crate::group::{Group, PendingLoad};

/// How many of what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Threads that load.
    pub loaders: usize,
    /// Loads of one group that run at once.
    pub running_a_group: usize,
    /// Loads of one group that wait.
    pub queued_a_group: usize,
}

pub(super) struct Loaders {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    /// By the group's name.
    index: HashMap<Box<str>, usize>,
    lanes: Vec<Lane>,
    /// The lane that is looked at first: they take turns.
    turn: usize,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<PendingLoad>,
    running: usize,
}

/// What the loaders are doing now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LaneStats {
    pub queued: usize,
    pub running: usize,
}

impl Loaders {
    /// Starts the threads.
    pub fn start<'a>(limits: Limits, groups: impl Iterator<Item = &'a Group>) -> io::Result<Self> {
        let index: HashMap<Box<str>, usize> = groups
            .enumerate()
            .map(|(lane, group)| (group.name().into(), lane))
            .collect();
        let shared = Arc::new(Shared {
            limits,
            state: Mutex::new(State {
                lanes: index.iter().map(|_| Lane::default()).collect(),
                index,
                turn: 0,
            }),
            work: Condvar::new(),
        });
        for number in 0..limits.loaders {
            let shared = shared.clone();
            thread::Builder::new()
                .name(format!("load-{number}"))
                .spawn(move || shared.run())?;
        }
        Ok(Self { shared })
    }

    /// Queues a load; where its group's queue is full it is refused, and who waits for it is told.
    pub fn submit(&self, group: &Group, load: PendingLoad) {
        let limit = self.shared.limits.queued_a_group;
        let mut state = self.shared.state.lock();
        let lane = state.index[group.name()];
        let queue = &mut state.lanes[lane].queue;
        if queue.len() < limit {
            queue.push_back(load);
            self.shared.work.notify_one();
            return;
        }
        drop(state);
        load.refuse(format!(
            "{limit} loads of the group are queued already; try again later"
        ));
    }

    pub fn stats(&self, group: &Group) -> LaneStats {
        let state = self.shared.state.lock();
        let lane = &state.lanes[state.index[group.name()]];
        LaneStats {
            queued: lane.queue.len(),
            running: lane.running,
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            let Some((lane, load)) = state.next(self.limits.running_a_group) else {
                self.work.wait(&mut state);
                continue;
            };
            state.lanes[lane].running += 1;
            drop(state);
            if load.is_hopeless() {
                load.refuse(
                    "most of the memory is held by replies that their callers do not read; try again later"
                        .to_owned(),
                );
            } else {
                load.run();
            }
            state = self.state.lock();
            state.lanes[lane].running -= 1;
            // The lane may have been at its limit, with more in its queue than this thread will take.
            if !state.lanes[lane].queue.is_empty() {
                self.work.notify_one();
            }
        }
    }
}

impl State {
    fn next(&mut self, running_a_group: usize) -> Option<(usize, PendingLoad)> {
        for _ in 0..self.lanes.len() {
            let lane = self.turn;
            self.turn = (self.turn + 1) % self.lanes.len();
            if self.lanes[lane].running < running_a_group
                && let Some(load) = self.lanes[lane].queue.pop_front()
            {
                return Some((lane, load));
            }
        }
        None
    }
}
