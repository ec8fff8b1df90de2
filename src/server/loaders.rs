//! The threads that load: bounded in number, and each origin with a limit of its own, so that one slow origin takes
//! neither all loaders nor the others' places in the queue. Groups that load from one host share that host's limit;
//! each group has a queue of its own.
//!
//! Queues are judged by how long loads stay in them, after CoDel (K. Nichols, V. Jacobson, "Controlling Queue Delay", ACM
//! Queue 2012) in the form that servers use (B. Maurer, "Fail at Scale", ACM Queue 2015). A burst is served in its order. A
//! queue whose oldest load has waited for half of what one may wait is *overloaded*: more comes than can be loaded, so
//! whoever comes to its end waits in vain. Then the newest load is begun first, whose callers are still there. One that
//! has waited too long is refused, also while all loaders are busy. A load that nobody waits for any more is dropped.
//!
//! A large value for which there is no room beside the others that are being loaded is given up where it is and goes to
//! the *roomless* of its lane, without a loader. It is begun again, with its room taken beforehand, when there is so much:
//! so no two loads wait for each other's room. It is refused as others are when it has waited too long.
//!
//! Loaders run at a lower priority than the threads that answer hits.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::last_loads::{LastLoad, LastLoads};
use super::pace::Pace;
use crate::counted;
use crate::group::{Group, PendingLoad, Room, Roomless};

/// How often queues are looked at for what has waited too long.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(250);

/// How many of what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Threads that load.
    pub loaders: usize,
    /// Loads from one origin that run at once; if not given, no origin can take all loaders from the others.
    pub running_an_origin: Option<usize>,
    /// Loads from one origin that begin in a second, on all nodes together; any number if not given.
    pub rate_an_origin: Option<u32>,
    /// Loads of one group that wait.
    pub queued_a_group: usize,
    /// How long a load waits.
    pub wait: Duration,
}

impl Limits {
    /// What a load waits for that is not large.
    fn turn(&self) -> String {
        match self.rate_an_origin {
            None => "a loader".to_owned(),
            Some(rate) => {
                let loads = counted(rate, "load", "loads");
                format!("its turn among the {loads} a second of all nodes")
            }
        }
    }
}

#[derive(Clone)]
pub(super) struct Loaders {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    running_an_origin: usize,
    /// This node's part of the loads that all nodes may begin, as the bits of a fraction.
    share: AtomicU64,
    state: Mutex<State>,
    last: LastLoads,
    work: Condvar,
    /// A queue is not empty any more.
    aging: Condvar,
}

struct State {
    /// By the group's name.
    index: HashMap<Box<str>, usize>,
    lanes: Vec<Lane>,
    /// Loads that run, by origin.
    running: Vec<usize>,
    /// How fast they begin, by origin.
    paces: Vec<Pace>,
    /// Until then a loader sleeps for the next load that may begin; the others sleep until there is work.
    paced_until: Option<Instant>,
    /// The lane that is looked at first: they take turns.
    turn: usize,
}

/// A group's queue.
struct Lane {
    origin: usize,
    queue: VecDeque<Queued>,
    /// Large values that wait for room, those that have waited longest first. With the queue they are within its limit, but
    /// for as many as there are loaders.
    roomless: VecDeque<Waiting>,
    /// Since when the queue has not been empty.
    standing_since: Option<Instant>,
    stats: LaneStats,
}

struct Queued {
    load: PendingLoad,
    since: Instant,
}

/// A load that waits for room.
struct Waiting {
    queued: Queued,
    bytes: usize,
}

/// A load that is to begin.
struct Job {
    lane: usize,
    load: PendingLoad,
    room: Option<Room>,
}

/// What the loaders are doing for a group now, and what they have not done for it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LaneStats {
    pub queued: usize,
    /// Those among `queued` that wait for room for a large value.
    pub roomless: usize,
    pub running: usize,
    /// Loads that were refused: the queue was full, or they had waited too long, or there was no memory.
    pub shed: u64,
    /// Loads that nobody waited for any more when a loader was free.
    pub given_up: u64,
    /// How long the queue has not been empty.
    pub standing: Duration,
}

/// By what a load is chosen.
#[derive(Clone, Copy)]
struct Terms {
    running_an_origin: usize,
    rate_an_origin: Option<f64>,
    wait: Duration,
}

/// What a loader is to do.
enum Next {
    /// Begin this.
    Load(Job),
    /// Wait until then: origins have had their loads for now.
    At(Instant),
    Nothing,
}

impl Next {
    fn or_at(self, then: Instant) -> Self {
        match self {
            Self::At(sooner) if sooner < then => self,
            _ => Self::At(then),
        }
    }
}

/// How a load left the queue.
enum End {
    Loaded,
    Shed,
    GivenUp,
    Roomless(Roomless),
}

impl Loaders {
    /// Starts the threads.
    pub fn start<'a>(limits: Limits, groups: impl Iterator<Item = &'a Group>) -> io::Result<Self> {
        let state = State::new(groups);
        let running_an_origin = limits
            .running_an_origin
            .unwrap_or(match state.running.len() {
                1 => limits.loaders,
                _ => (limits.loaders * 3 / 4).max(1),
            });
        let shared = Arc::new(Shared {
            limits,
            running_an_origin,
            share: AtomicU64::new(1.0_f64.to_bits()),
            state: Mutex::new(state),
            last: LastLoads::new(),
            work: Condvar::new(),
            aging: Condvar::new(),
        });
        let aged = shared.clone();
        thread::Builder::new()
            .name("load-ages".to_owned())
            .spawn(move || aged.refuse_overdue())?;
        for number in 0..limits.loaders {
            let shared = shared.clone();
            thread::Builder::new()
                .name(format!("load-{number}"))
                .spawn(move || {
                    lower_priority();
                    shared.run();
                })?;
        }
        Ok(Self { shared })
    }

    /// Queues a load; where its group's queue is full it is refused, and who waits for it is told.
    pub fn submit(&self, group: &Group, load: PendingLoad) {
        let limits = &self.shared.limits;
        let mut state = self.shared.state.lock();
        let lane = state.index[group.name()];
        let lane = &mut state.lanes[lane];
        if lane.len() < limits.queued_a_group {
            let is_first = lane.len() == 0;
            lane.push(load, Instant::now());
            drop(state);
            self.shared.work.notify_one();
            if is_first {
                self.shared.aging.notify_one();
            }
        } else {
            lane.stats.shed += 1;
            drop(state);
            load.refuse(format!(
                "{} queued already; try again later",
                counted(
                    limits.queued_a_group,
                    "load of the group is",
                    "loads of the group are"
                )
            ));
        }
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.shared.state.lock().lanes.len()
    }

    /// How the last load of a key ended here, if that is remembered.
    pub fn last(&self, group: &Group, key: &[u8]) -> Option<LastLoad> {
        let last = &self.shared.last;
        last.last(last.hash(group.name(), key))
    }

    /// This node is to load such a part of what all nodes may.
    pub fn set_share(&self, share: f64) {
        self.shared.share.store(share.to_bits(), Ordering::Relaxed);
    }

    pub fn stats(&self, group: &Group) -> LaneStats {
        let state = self.shared.state.lock();
        let lane = &state.lanes[state.index[group.name()]];
        LaneStats {
            queued: lane.len(),
            roomless: lane.roomless.len(),
            standing: lane
                .standing_since
                .map_or(Duration::ZERO, |since| since.elapsed()),
            ..lane.stats
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            let job = match state.next(self.terms()) {
                Next::Load(job) => job,
                Next::At(then) if state.paced_until.is_none_or(|until| then < until) => {
                    state.paced_until = Some(then);
                    self.work.wait_until(&mut state, then);
                    state.paced_until = None;
                    continue;
                }
                Next::At(_) | Next::Nothing => {
                    self.work.wait(&mut state);
                    continue;
                }
            };
            let is_paced = self.limits.rate_an_origin.is_some();
            if is_paced
                && state.paced_until.is_none()
                && state.lanes.iter().any(|lane| !lane.queue.is_empty())
            {
                // Another one is to see to what comes next.
                self.work.notify_one();
            }
            drop(state);
            let Job { lane, load, room } = job;
            let end = if let Some(cause) = hopeless(&load) {
                load.refuse(cause);
                End::Shed
            } else if !load.is_wanted() {
                load.give_up();
                End::GivenUp
            } else {
                self.run_one(load, room)
            };
            let is_roomless = matches!(end, End::Roomless(_));
            state = self.state.lock();
            if matches!(end, End::Shed | End::GivenUp) {
                state.give_back(lane);
            }
            if state.end(lane, end) {
                self.work.notify_one();
            }
            if is_roomless {
                self.aging.notify_one();
            }
        }
    }
}

impl Shared {
    fn terms(&self) -> Terms {
        let share = f64::from_bits(self.share.load(Ordering::Relaxed));
        Terms {
            running_an_origin: self.running_an_origin,
            rate_an_origin: self
                .limits
                .rate_an_origin
                .map(|rate| f64::from(rate) * share),
            wait: self.limits.wait,
        }
    }

    fn run_one(&self, load: PendingLoad, room: Option<Room>) -> End {
        let hash = self.last.hash(load.group().name(), load.key());
        let begun = Instant::now();
        let outcome = match load.run_and_tell(room) {
            Ok(outcome) => outcome,
            Err(roomless) => return End::Roomless(roomless),
        };
        if let Some(outcome) = outcome {
            let took = begun.elapsed();
            let ended = begun + took;
            self.last.note(
                hash,
                LastLoad {
                    ended,
                    took,
                    outcome,
                },
            );
        }
        End::Loaded
    }

    /// Refuses what has waited too long, while loaders may all be busy. Room that readers have given back is news to nobody,
    /// so that it is looked for here too.
    fn refuse_overdue(&self) {
        let (wait, turn) = (self.limits.wait, self.limits.turn());
        let look_every = (wait / 8).clamp(LOOK_MIN, LOOK_MAX);
        let mut state = self.state.lock();
        loop {
            if state.lanes.iter().all(|lane| lane.len() == 0) {
                self.aging.wait(&mut state);
            }
            self.aging.wait_for(&mut state, look_every);
            let now = Instant::now();
            let lanes = state.lanes.iter_mut();
            let overdue: Vec<_> = lanes
                .flat_map(|lane| lane.overdue(now, wait, &turn))
                .collect();
            let waits_for_room = state.lanes.iter().any(|lane| !lane.roomless.is_empty());
            drop(state);
            if waits_for_room {
                self.work.notify_one();
            }
            for (load, cause) in overdue {
                load.refuse(cause);
            }
            state = self.state.lock();
        }
    }
}

/// Why no load should begin now, if so.
fn hopeless(load: &PendingLoad) -> Option<String> {
    let cause =
        "most of the memory is held by replies that their callers do not read; try again later";
    load.is_hopeless().then(|| cause.to_owned())
}

impl State {
    fn new<'a>(groups: impl Iterator<Item = &'a Group>) -> Self {
        let mut index = HashMap::new();
        let mut origins = HashMap::new();
        let mut lanes = Vec::new();
        for group in groups {
            // One that shares its origin with no other has its own name for it.
            let origin = (group.site().is_some(), group.site().unwrap_or(group.name()));
            let next = origins.len();
            lanes.push(Lane::new(*origins.entry(origin).or_insert(next)));
            index.insert(group.name().into(), lanes.len() - 1);
        }
        Self {
            index,
            lanes,
            running: vec![0; origins.len()],
            paces: origins.iter().map(|_| Pace::new(Instant::now())).collect(),
            paced_until: None,
            turn: 0,
        }
    }

    /// The next load: large values for which there is room now go first, as they have come before the others.
    fn next(&mut self, terms: Terms) -> Next {
        let now = Instant::now();
        let mut next = Next::Nothing;
        for _ in 0..self.lanes.len() {
            let number = self.turn;
            self.turn = (self.turn + 1) % self.lanes.len();
            let lane = &mut self.lanes[number];
            if self.running[lane.origin] >= terms.running_an_origin || lane.len() == 0 {
                continue;
            }
            let pace = &mut self.paces[lane.origin];
            if let Some(Err(then)) = terms.rate_an_origin.map(|rate| pace.take(rate, now)) {
                next = next.or_at(then);
            } else if let Some((load, room)) = lane.take(now, terms.wait) {
                lane.stats.running += 1;
                self.running[lane.origin] += 1;
                return Next::Load(Job {
                    lane: number,
                    load,
                    room,
                });
            } else if terms.rate_an_origin.is_some() {
                pace.give_back();
            }
        }
        next
    }

    /// The origin was not asked.
    fn give_back(&mut self, lane: usize) {
        let origin = self.lanes[lane].origin;
        self.paces[origin].give_back();
    }

    /// Returns whether more of that origin waits: it may have been at its limit, with more in its queues than the
    /// thread that comes from there will take.
    fn end(&mut self, lane: usize, end: End) -> bool {
        let lane = &mut self.lanes[lane];
        lane.stats.running -= 1;
        match end {
            End::Loaded => {}
            End::Shed => lane.stats.shed += 1,
            End::GivenUp => lane.stats.given_up += 1,
            End::Roomless(roomless) => lane.push_roomless(roomless, Instant::now()),
        }
        let origin = lane.origin;
        self.running[origin] -= 1;
        // The load may have left room, whatever its origin is.
        let waits = |lane: &Lane| {
            lane.origin == origin && !lane.queue.is_empty() || !lane.roomless.is_empty()
        };
        self.lanes.iter().any(waits)
    }
}

impl Lane {
    fn new(origin: usize) -> Self {
        Self {
            origin,
            queue: VecDeque::new(),
            roomless: VecDeque::new(),
            standing_since: None,
            stats: LaneStats::default(),
        }
    }

    fn push(&mut self, load: PendingLoad, now: Instant) {
        self.standing_since.get_or_insert(now);
        self.queue.push_back(Queued { load, since: now });
    }

    fn push_roomless(&mut self, Roomless { load, bytes }: Roomless, now: Instant) {
        self.standing_since.get_or_insert(now);
        let queued = Queued { load, since: now };
        self.roomless.push_back(Waiting { queued, bytes });
    }

    /// Loads that wait.
    fn len(&self) -> usize {
        self.queue.len() + self.roomless.len()
    }

    /// Whether the oldest load has waited for half of what one may wait. A caller that asks for many keys, a few at a
    /// time, always has some in the queue; what tells overload is how long they stay there.
    fn is_overloaded(&self, now: Instant, wait: Duration) -> bool {
        let oldest = self.queue.front();
        oldest.is_some_and(|oldest| now.saturating_duration_since(oldest.since) >= wait / 2)
    }

    /// Takes the load that is to begin: the newest of an overloaded queue, else the oldest.
    fn take(&mut self, now: Instant, wait: Duration) -> Option<(PendingLoad, Option<Room>)> {
        if let Some(first) = self.roomless.front()
            && let Some(room) = first.queued.load.take_room(first.bytes)
            && let Some(first) = self.roomless.pop_front()
        {
            self.note_end();
            return Some((first.queued.load, Some(room)));
        }
        let next = match self.is_overloaded(now, wait) {
            true => self.queue.pop_back(),
            false => self.queue.pop_front(),
        };
        self.note_end();
        next.map(|queued| (queued.load, None))
    }

    /// Takes the loads that have waited too long, with what is to be said of that: the small ones for their `turn`.
    fn overdue(&mut self, now: Instant, wait: Duration, turn: &str) -> Vec<(PendingLoad, String)> {
        let waited = |queued: &Queued| now.saturating_duration_since(queued.since);
        let overdue = self.queue.partition_point(|queued| waited(queued) >= wait);
        let is_overdue = |waiting: &Waiting| waited(&waiting.queued) >= wait;
        let overdue_roomless = self.roomless.partition_point(is_overdue);
        let rest = self.len() - overdue - overdue_roomless;
        self.stats.shed += (overdue + overdue_roomless) as u64;
        let refuse = |queued: Queued, what: &str| {
            let waited_seconds = waited(&queued).as_secs_f64();
            let cause = format!(
                "it has waited for {what} for {waited_seconds:.1} s, and {rest} more loads of the group wait; try again later"
            );
            (queued.load, cause)
        };
        let queued = self.queue.drain(..overdue);
        let mut refused: Vec<_> = queued.map(|queued| refuse(queued, turn)).collect();
        for Waiting { queued, bytes } in self.roomless.drain(..overdue_roomless) {
            let room = format!("{bytes} bytes beside the large values that are being loaded");
            refused.push(refuse(queued, &room));
        }
        self.note_end();
        refused
    }

    fn note_end(&mut self) {
        if self.len() == 0 {
            self.standing_since = None;
        }
    }
}

/// Hits go before loads. A thread has a priority of its own; where it can not be had, nothing is lost but that.
fn lower_priority() {
    /// Steps of nice(2): where they compete, a loader gets a tenth of the time that a thread with hits gets.
    const NICER: i32 = 10;
    if let Err(error) = rustix::process::nice(NICER) {
        log::warn!("the loaders run at the priority of the threads that answer hits: {error}");
    }
}
