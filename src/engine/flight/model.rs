//! Flights under the model checker, see [`super::super::sync::model`]: callers that ask, and that write to the key, in
//! as many orders as fit the time, on a shard that is all there.
//!
//! Bugs that were planted by hand are found, each by the test that names it.

use std::time::Duration;

use super::*;
use crate::engine::core::model::{flights, hash_of, look, new_core, new_entry};
use crate::engine::core::{Core, Loaded};
use crate::engine::entry::Typed;
use crate::engine::reclaim::model::reader;
use crate::engine::sync::model::{check, choose, spawn};

type Body = Typed<u64, u64>;
type Entry = Handle<Body>;

const KEY: u64 = 1;

/// A cache of one shard, which counts how often the key was loaded.
struct Cache {
    core: Core<Body>,
    loads: AtomicU64,
}

/// What a load comes to; none: its leader is lost.
type Brought = Option<Result<u64, Failure>>;
type Caller = Box<dyn FnOnce(&Cache) + Send>;

impl Cache {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            core: new_core(64 << 10, 1),
            loads: AtomicU64::new(0),
        })
    }

    fn flights(&self) -> &Arc<Flights<Body>> {
        flights(&self.core)
    }

    fn look(&self) -> Option<Entry> {
        look(&self.core, KEY)
    }

    fn join(&self) -> Joined<Body> {
        // SAFETY: protected while it is looked at, and of this body.
        let is_it = |entry| unsafe { *Body::key_at(entry) == KEY };
        self.core
            .join(0, hash_of(KEY), is_it, |key| *key == KEY, || KEY)
    }

    /// As `Core::load`, with a loader that can be lost.
    fn get(&self, deadline: Option<Instant>, load: impl FnOnce() -> Brought) -> Outcome<Body> {
        if let Some(entry) = self.look() {
            return Ok(entry);
        }
        let lead = match self.join() {
            Joined::Hit(entry) => return Ok(entry),
            Joined::Lead(lead) => lead,
            Joined::Follow(flight) => match flight.wait(deadline) {
                Waited::Outcome(outcome) => return outcome,
                Waited::Lead => self.core.take_over(flight),
                Waited::LateLead => {
                    drop(self.core.take_over(flight));
                    return Err(Failure::TimedOut);
                }
            },
        };
        self.load(lead, load)
    }

    fn load(&self, lead: Lead<Body>, load: impl FnOnce() -> Brought) -> Outcome<Body> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let leading = lead.enter();
        let facts = self.core.facts(hash_of(KEY), 0);
        let brought = load();
        drop(leading);
        let Some(brought) = brought else {
            drop(lead);
            return Err(Failure::Panicked("on purpose".into()));
        };
        let arena = self.core.arena(facts.hash);
        let loaded = brought.map(|value| Loaded {
            entry: Entry::typed(arena, &facts, 100, KEY, value),
            stored: true,
        });
        self.core.conclude(lead, loaded)
    }

    fn insert(&self, value: u64) {
        let entry = new_entry(&self.core, KEY, value, 100);
        assert!(self.core.insert(hash_of(KEY), entry));
    }
}

/// Runs `callers` beside each other.
fn run<F: FnOnce(&Cache) + Send + 'static>(
    cache: &Arc<Cache>,
    callers: impl IntoIterator<Item = F>,
) {
    let mut threads = Vec::new();
    for caller in callers {
        let cache = cache.clone();
        threads.push(reader(move || caller(&cache)));
    }
    threads.into_iter().for_each(|thread| thread.join());
    assert_eq!(cache.flights().len(), 0, "a flight is left in the map");
}

fn value_of(outcome: Outcome<Body>) -> Option<u64> {
    outcome.map(|entry| *entry.value()).ok()
}

/// What a loader fails with if the checker says so.
fn failed() -> Failure {
    Failure::Failed(Arc::new(std::io::Error::other("the origin is down")))
}

fn later() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(1))
}

/// Planted: `Flights::join` looks into the table before it locks the map; `Owner::make` closes a flight before it
/// publishes. Both: "loaded twice".
#[test]
fn a_key_is_loaded_once_however_many_ask() {
    check(|| {
        let cache = Cache::new();
        let ask = |cache: &Cache| {
            for _ in 0..2 {
                assert_eq!(value_of(cache.get(None, || Some(Ok(7)))), Some(7));
            }
        };
        run(&cache, [ask; 3]);
        assert_eq!(cache.loads.load(Ordering::Relaxed), 1, "loaded twice");
    });
}

/// Planted: `Lead::drop` wakes nobody; `Flight::wait` does not look whether there is a leader when it is woken. Both:
/// "deadlock".
#[test]
fn whoever_leads_may_go_and_another_leads() {
    check(|| {
        let ask = |deadline: fn() -> Option<Instant>| {
            move |cache: &Cache| {
                let load = || match choose(3) {
                    0 => None,
                    1 => Some(Err(failed())),
                    _ => Some(Ok(7)),
                };
                match cache.get(deadline(), load) {
                    Ok(entry) => assert_eq!(*entry.value(), 7),
                    Err(Failure::Panicked(_) | Failure::Failed(_)) => (),
                    Err(Failure::TimedOut) => assert!(deadline().is_some()),
                    Err(other) => panic!("{other}"),
                }
            }
        };
        run(&Cache::new(), [ask(|| None), ask(later), ask(|| None)]);
    });
}

/// Planted: `Shard::end` does not fence; `Flights::join` tells the turn after it has looked into the table, or `Turn::say`
/// is `Relaxed`; `Flights::fence` tells it that there are none while there are; `Owner::publish` stores what is fenced; `Flights::fence` takes the flight out of the map, but does not
/// fence it. All: "the load came after the write".
#[test]
fn a_load_does_not_undo_a_write_that_came_after_it_began() {
    check(|| {
        let cache = Cache::new();
        let load = |cache: &Cache| {
            assert!(cache.get(None, || Some(Ok(1))).is_ok());
        };
        let callers: [fn(&Cache); 3] = [load, |cache| cache.insert(2), load];
        run(&cache, callers);
        let stored = cache.look().map(|entry| *entry.value());
        assert_eq!(stored, Some(2), "the load came after the write");
    });
}

/// Planted: `Owner::make` does not fence for the change before it: "the load came after the write".
#[test]
fn a_load_does_not_undo_a_write_that_was_queued() {
    check(|| {
        let cache = Cache::new();
        let callers: [fn(&Cache); 3] = [
            |cache| assert!(cache.get(None, || Some(Ok(1))).is_ok()),
            |cache| {
                let entry = new_entry(&cache.core, KEY, 2, 100);
                cache.core.insert_soon(hash_of(KEY), entry);
            },
            // Has the turn meanwhile.
            |cache| cache.core.flush(),
        ];
        run(&cache, callers);
        let stored = cache.look().map(|entry| *entry.value());
        assert_eq!(stored, Some(2), "the load came after the write");
    });
}

/// Planted: `Flights::fence` fences the flight, but does not take it out of the map; `Core::clear` does not fence what
/// is being loaded. Both: "from before the removal".
#[test]
fn who_asks_after_a_removal_gets_what_was_loaded_after_it() {
    check(|| {
        let origin = Arc::new(Mutex::new(1));
        let (read, write) = (origin.clone(), origin);
        let callers: [Caller; 2] = [
            Box::new(move |cache| {
                assert!(cache.get(None, || Some(Ok(*read.lock()))).is_ok());
            }),
            Box::new(move |cache| {
                *write.lock() = 2;
                match choose(2) {
                    0 => cache.core.clear(0),
                    _ => drop(cache.core.remove(hash_of(KEY), KEY)),
                }
                let value = value_of(cache.get(None, || Some(Ok(*write.lock()))));
                assert_eq!(value, Some(2), "from before the removal");
            }),
        ];
        run(&Cache::new(), callers);
    });
}

/// Planted: `Flight::complete` takes the callbacks before it sets the outcome, under a lock of its own: "not all were
/// told"; `Parked::claim` does not look whether the flight is led: "loaded twice".
#[test]
fn a_parked_load_is_run_once_and_all_are_told() {
    check(|| {
        let cache = Cache::new();
        let told = Arc::new(AtomicU64::new(0));
        let ask = |told: Arc<AtomicU64>| {
            move |cache: &Cache| {
                let tell = move |outcome: Outcome<Body>| {
                    assert_eq!(value_of(outcome), Some(7));
                    told.fetch_add(1, Ordering::Relaxed);
                };
                let lead = match cache.join() {
                    Joined::Hit(entry) => return tell(Ok(entry)),
                    Joined::Follow(flight) => {
                        assert!(flight.subscribe(Instant::now(), Box::new(tell), 9).is_ok());
                        return;
                    }
                    Joined::Lead(lead) => lead,
                };
                assert!(
                    lead.flight()
                        .subscribe(Instant::now(), Box::new(tell), 9)
                        .is_ok()
                );
                if let Some(lead) = lead.park().claim() {
                    assert!(cache.load(lead, || Some(Ok(7))).is_ok());
                }
            }
        };
        let wait = |told: Arc<AtomicU64>| {
            move |cache: &Cache| {
                assert_eq!(value_of(cache.get(None, || Some(Ok(7)))), Some(7));
                told.fetch_add(1, Ordering::Relaxed);
            }
        };
        let callers: [Caller; 3] = [
            Box::new(ask(told.clone())),
            Box::new(wait(told.clone())),
            Box::new(ask(told.clone())),
        ];
        run(&cache, callers);
        assert_eq!(told.load(Ordering::Relaxed), 3, "not all were told");
        assert_eq!(cache.loads.load(Ordering::Relaxed), 1, "loaded twice");
    });
}

fn lone(key: u64) -> Entry {
    Entry::lone(key, key, 7)
}

/// Each of `ring` threads leads a key and asks for the next one's. Returns how many were refused.
fn circle(ring: u64) -> usize {
    let flights = Flights::<Body>::new();
    let threads: Vec<_> = (0..ring)
        .map(|key| {
            let flights = flights.clone();
            let join = move |flights: &Arc<Flights<Body>>, key| {
                flights.join(key, |other| *other == key, || key, || None)
            };
            spawn(move || {
                let Joined::Lead(lead) = join(&flights, key) else {
                    // The one before has come first, and loads this key.
                    return 0;
                };
                let leading = lead.enter();
                let outcome = match join(&flights, (key + 1) % ring) {
                    Joined::Follow(flight) => match flight.wait(None) {
                        Waited::Outcome(outcome) => outcome,
                        _ => panic!("no leader goes"),
                    },
                    Joined::Lead(next) => {
                        next.finish(Ok(lone(key + 1)));
                        Ok(lone(key))
                    }
                    Joined::Hit(_) => panic!("nothing is stored"),
                };
                drop(leading);
                let is_refused = matches!(outcome, Err(Failure::Reentrant));
                lead.finish(Ok(lone(key)));
                usize::from(is_refused)
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join()).sum()
}

/// Planted: `Wait::enter` gives the lock back between its look at the waits and its entry; it looks only one step far,
/// as would do for two threads. Both: "deadlock".
#[test]
fn a_circle_of_waits_does_not_close() {
    let refused = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = refused.clone();
    check(move || {
        let count = circle(2 + choose(2) as u64);
        assert!(count <= 1, "one who is refused opens the circle");
        seen.fetch_add(count, Ordering::Relaxed);
    });
    let refused = refused.load(Ordering::Relaxed);
    assert!(refused > 0, "the checker has never closed a circle");
}

/// Planted: `Flights::close_all` does not complete the flights: "deadlock".
#[test]
fn a_cache_that_goes_tells_all_who_wait() {
    check(|| {
        let ask = |cache: &Cache| match cache.get(None, || Some(Ok(7))) {
            Ok(entry) => assert_eq!(*entry.value(), 7),
            Err(failure) => assert!(matches!(failure, Failure::Closed)),
        };
        let lose = |cache: &Cache| {
            if let Joined::Lead(lead) = cache.join() {
                // A leader that never comes back.
                std::mem::forget(lead);
            }
            cache.flights().close_all();
        };
        let callers: [fn(&Cache); 3] = [ask, lose, ask];
        run(&Cache::new(), callers);
    });
}
