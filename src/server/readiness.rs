//! Whether the node says that it is ready, at the admin port and by its health. One that has joined a cluster may wait with
//! that until it is warm: until hardly anything that it is asked for comes from those who held it before.
//!
//! It is warm when all members that it reaches go by its ring, so that they know it, and when for two looks in a row at most
//! one in [`SHARE`] of the keys that it was asked for were handed over. The wait ends in any case when its time is over, and
//! with the time in which keys are handed over at all. A node without others is ready at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};
use std::{io, mem};

use parking_lot::{Condvar, Mutex};

use super::health::{Health, Status};
use super::service::Service;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many looks in a row are to be good.
const GOOD_LOOKS: u32 = 2;
/// One in so many keys may still come from others.
const SHARE: u64 = 50;

/// What the node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Not yet, and why; at the latest then.
    Warming(String, Instant),
    Ready,
    Draining,
}

pub(super) struct Readiness {
    state: Mutex<State>,
    /// It drains.
    changed: Condvar,
    health: Health,
    services: &'static [&'static str],
}

impl Readiness {
    /// Of a node that is not ready, until it is told how long to wait. These services are what it has.
    pub fn new(health: Health, services: &'static [&'static str]) -> Arc<Self> {
        for service in services {
            health.set(service, Status::NotServing);
        }
        Arc::new(Self {
            state: Mutex::new(State::Warming("starting".to_owned(), Instant::now())),
            changed: Condvar::new(),
            health,
            services,
        })
    }

    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// Has the node be ready when it is warm, and after so long in any case.
    pub fn when_warm(
        self: &Arc<Self>,
        service: &Arc<Service>,
        at_most: Duration,
    ) -> io::Result<()> {
        if at_most.is_zero() || !service.peers.expects_handover() {
            self.admit();
            return Ok(());
        }
        let until = Instant::now() + at_most;
        self.note("it has just started".to_owned(), until);
        let (readiness, service) = (self.clone(), service.clone());
        let thread = thread::Builder::new().name("warming".to_owned());
        thread.spawn(move || readiness.wait(&service, until))?;
        Ok(())
    }

    /// Not ready from now on.
    pub fn drain(&self) {
        *self.state.lock() = State::Draining;
        self.changed.notify_all();
        self.health.set_all_not_serving();
    }

    fn admit(&self) {
        let mut state = self.state.lock();
        if *state != State::Draining {
            *state = State::Ready;
            for service in self.services {
                self.health.set(service, Status::Serving);
            }
        }
    }

    fn note(&self, why: String, until: Instant) {
        let mut state = self.state.lock();
        if *state != State::Draining {
            *state = State::Warming(why, until);
        }
    }

    fn wait(&self, service: &Service, until: Instant) {
        let begun = Instant::now();
        let mut seen = Seen::by(service);
        let mut good = 0;
        while good < GOOD_LOOKS && service.peers.expects_handover() {
            let next = until.min(Instant::now() + LOOK_EVERY);
            let mut state = self.state.lock();
            while *state != State::Draining && Instant::now() < next {
                self.changed.wait_until(&mut state, next);
            }
            if *state == State::Draining {
                return;
            }
            drop(state);
            let before = mem::replace(&mut seen, Seen::by(service));
            match seen.doubt(&before, service.peers.is_agreed()) {
                None => good += 1,
                Some(why) if Instant::now() < until => {
                    good = 0;
                    self.note(why, until);
                }
                Some(why) => {
                    log::warn!(
                        "the node is ready although it is not warm, as --wait-warm is over: {why}"
                    );
                    break;
                }
            }
        }
        log::info!("ready after {} ms", begun.elapsed().as_millis());
        self.admit();
    }
}

/// What was counted by then.
struct Seen {
    asked: u64,
    handed_over: u64,
}

impl Seen {
    fn by(service: &Service) -> Self {
        let asked = service.groups.iter().map(|group| {
            let stats = group.stats();
            stats.hits + stats.misses
        });
        Self {
            asked: asked.sum(),
            handed_over: service.peers.counts.handed_over.load(Ordering::Relaxed),
        }
    }

    /// Why the node is not warm, if so.
    fn doubt(&self, before: &Self, is_agreed: bool) -> Option<String> {
        let asked = self.asked.saturating_sub(before.asked);
        let handed_over = self.handed_over - before.handed_over;
        if !is_agreed {
            Some("other nodes see other members, and may not know of this one".to_owned())
        } else if handed_over * SHARE > asked {
            Some(format!(
                "{handed_over} of {asked} keys that were asked for in the last second came from other nodes"
            ))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_warm_when_hardly_anything_comes_from_others() {
        let seen = |asked, handed_over| Seen { asked, handed_over };
        let before = seen(1000, 100);
        assert_eq!(seen(1000, 100).doubt(&before, true), None, "nobody asks");
        assert_eq!(seen(1100, 102).doubt(&before, true), None);
        let words = seen(1100, 103).doubt(&before, true).unwrap();
        assert!(words.starts_with("3 of 100 keys"), "{words}");
        let words = seen(1100, 100).doubt(&before, false).unwrap();
        assert!(words.contains("other members"), "{words}");
    }

    #[test]
    fn a_node_that_drains_is_not_ready_again() {
        let readiness = Readiness::new(Health::new(), &[""]);
        assert!(matches!(readiness.state(), State::Warming(..)));
        readiness.admit();
        assert_eq!(readiness.state(), State::Ready);
        readiness.drain();
        readiness.admit();
        readiness.note(String::new(), Instant::now());
        assert_eq!(readiness.state(), State::Draining);
    }
}
