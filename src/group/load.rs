//! Filling a group: on the caller's thread, or on another one with the answer by callback.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::filling::{Filling, Room};
use super::loader::{LoadContext, LoadError, Sink};
use super::{GetError, Group, Value};
use crate::engine::{
    Blob, Bytes, Failure, Flight, Joined, Lead, Loaded, Outcome, Parked, panic_text,
};

impl Group {
    pub(super) fn load_here(&self, key: &[u8], deadline: Instant) -> Result<Value, GetError> {
        let cache = &self.inner.cache;
        let joined = cache.join_in(self.inner.partition, key);
        let load = |_key: &_| self.run_loader(key, deadline);
        let outcome = cache
            .core()
            .load(self.inner.partition, joined, Some(deadline), load);
        self.answer(key, outcome)
    }

    fn answer(&self, key: &[u8], outcome: Outcome<Bytes>) -> Result<Value, GetError> {
        match outcome {
            Ok(entry) => Ok(Value(Blob::new(entry))),
            Err(failure) => Err(GetError::from_failure(self.name(), key, &failure)),
        }
    }

    fn run_loader(&self, key: &[u8], deadline: Instant) -> Result<Loaded<Bytes>, Failure> {
        self.fill(key, deadline, None, &mut Attempt::default())
    }

    fn fill(
        &self,
        key: &[u8],
        deadline: Instant,
        keep: Option<Duration>,
        attempt: &mut Attempt,
    ) -> Result<Loaded<Bytes>, Failure> {
        attempt.lacks_bytes = None;
        let inner = &self.inner;
        let mut facts = inner.cache.facts(inner.partition, key);
        let value = Filling::with_room(key, inner.large.clone(), attempt.room.take());
        let mut sink = Sink::new(value, inner.entry_limit_bytes);
        let loaded = inner
            .loader
            .load(key, &LoadContext::new(&inner.name, deadline), &mut sink);
        loaded.map_err(|error| {
            // Whatever the loader makes of that.
            attempt.lacks_bytes = sink.value.lacks_bytes();
            if matches!(error, LoadError::NotFound(_)) {
                inner.not_found.fetch_add(1, Ordering::Relaxed);
            }
            Failure::Failed(Arc::new(error))
        })?;
        if let Some(at) = sink.expires_at {
            facts.expiry_ns = inner.cache.core().clock.expiry_at(at);
        }
        if let Some(keep) = keep {
            let no_longer = inner.cache.core().clock.expiry_after(keep);
            facts.expiry_ns = facts.expiry_ns.min(no_longer);
        }
        let (value, prefix, used) = sink.value.finish();
        Ok(Loaded {
            entry: inner.cache.seal(value, &facts, &prefix[..used]),
            stored: sink.stored,
        })
    }
}

/// One call of a loader.
#[derive(Default)]
struct Attempt {
    /// Taken for a large value beforehand.
    room: Option<Room>,
    /// It failed because there was no room for a large value.
    lacks_bytes: Option<usize>,
}

/// A load that is to wait for room.
#[cfg(feature = "server")]
pub(crate) struct Roomless {
    pub load: PendingLoad,
    pub bytes: usize,
}

/// Callers that may wait for one load.
const WAITERS_MAX: usize = 1 << 16;

impl Group {
    /// Asks for the value of `key` on a thread that must not block: `answer` is called once, with the value or the
    /// error, at once or on the thread that brings it.
    ///
    /// If nobody is loading the key yet, the load comes back: the caller is to run it, on a thread that may block.
    ///
    /// ```
    /// # use corecache::engine::Builder;
    /// # use corecache::group::{GroupConfig, Groups, LoadContext, Sink};
    /// # let load = |key: &[u8], _: &LoadContext<'_>, sink: &mut Sink| sink.append(key);
    /// # let groups = Groups::new(&Builder::new(1 << 20), [GroupConfig::new("pages", load)])?;
    /// # let pages = groups.get("pages").expect("it was just made");
    /// let (answer, answers) = std::sync::mpsc::channel();
    /// if let Some(load) = pages.ask(b"index", move |value| answer.send(value).unwrap()) {
    ///     std::thread::spawn(move || load.run());
    /// }
    /// assert_eq!(answers.recv()??.bytes(), b"index");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ask(
        &self,
        key: &[u8],
        answer: impl FnOnce(Result<Value, GetError>) + Send + 'static,
    ) -> Option<PendingLoad> {
        self.ask_by(key, None, answer)
    }

    /// As [`Group::ask`], for a caller that waits until `deadline`. The load is told the latest deadline of all who
    /// wait, and is not [wanted](PendingLoad::is_wanted) any more when that has passed. The answer may come later than
    /// the deadline.
    pub fn ask_by(
        &self,
        key: &[u8],
        deadline: Option<Instant>,
        answer: impl FnOnce(Result<Value, GetError>) + Send + 'static,
    ) -> Option<PendingLoad> {
        // What may be loaded anywhere is never refused for being loaded elsewhere.
        self.join_by(key, deadline, answer, |_| true).ok().flatten()
    }

    /// Joins the flight of `key`, if it is one that `is_fit`, or opens one.
    pub(super) fn join_by(
        &self,
        key: &[u8],
        deadline: Option<Instant>,
        answer: impl FnOnce(Result<Value, GetError>) + Send + 'static,
        is_fit: impl FnOnce(&Flight<Bytes>) -> bool,
    ) -> Result<Option<PendingLoad>, Unfit> {
        if let Err(error) = self.check_key(key) {
            answer(Err(error));
            return Ok(None);
        }
        let group = self.clone();
        let owned_key: Box<[u8]> = key.into();
        let callback = move |outcome| answer(group.answer(&owned_key, outcome));
        let core = self.inner.cache.core();
        let at_most = Instant::now() + self.inner.load_timeout;
        let wanted_until = deadline.map_or(at_most, |deadline| deadline.min(at_most));
        match self.inner.cache.join_in(self.inner.partition, key) {
            Joined::Hit(entry) => {
                callback(Ok(entry));
                Ok(None)
            }
            Joined::Follow(flight) => {
                if !is_fit(&flight) {
                    return Err(Unfit);
                }
                core.count_joined(self.inner.partition);
                if let Err(callback) =
                    flight.subscribe(wanted_until, Box::new(callback), WAITERS_MAX)
                {
                    let cause = format!("{WAITERS_MAX} callers wait for it already; try again");
                    callback(Err(busy(cause)));
                }
                Ok(None)
            }
            Joined::Lead(lead) => {
                let flight = lead.flight();
                is_fit(flight);
                let subscribed = flight.subscribe(wanted_until, Box::new(callback), WAITERS_MAX);
                debug_assert!(
                    subscribed.is_ok(),
                    "a new flight has room for its first waiter"
                );
                Ok(Some(PendingLoad {
                    group: self.clone(),
                    deadline: at_most,
                    parked: Some(lead.park()),
                    keep: None,
                }))
            }
        }
    }
}

/// There is a flight of the key, but not one to be joined.
pub(super) struct Unfit;

fn is_timed_out<T>(outcome: &Result<T, Failure>) -> bool {
    let Err(Failure::Failed(error)) = outcome else {
        return false;
    };
    matches!(error.downcast_ref(), Some(LoadError::TimedOut(_)))
}

fn too_late() -> Failure {
    let cause = "its time had passed before a loader was free";
    Failure::Failed(Arc::new(LoadError::TimedOut(cause.to_owned())))
}

fn busy(cause: String) -> Failure {
    Failure::Failed(Arc::new(LoadError::Busy(cause)))
}

/// A load that waits for a thread. Dropped, it fails those who wait for it.
#[must_use = "others wait for this load"]
pub struct PendingLoad {
    pub(super) group: Group,
    pub(super) deadline: Instant,
    pub(super) parked: Option<Parked<Bytes>>,
    /// How long its value is kept, if not for as long as it is wanted.
    pub(super) keep: Option<Duration>,
}

impl PendingLoad {
    /// Loads on this thread. A panic of the loader becomes an error of those who wait.
    pub fn run(mut self) {
        let Some(lead) = self.claim() else { return };
        let inner = &self.group.inner;
        let flight = lead.flight().clone();
        let attempt = &mut Attempt::default();
        let load = |key: &(u16, Box<[u8]>)| self.load(&flight, &key.1, attempt);
        // The outcome reaches the callers by the flight.
        let _ = inner.cache.core().lead(inner.partition, lead, load);
    }

    /// As [`PendingLoad::run`], with room that was taken for a large value. Where there is too little for it, it is still
    /// to be loaded: from its beginning, when there is so much.
    ///
    /// None: there was nothing to load any more.
    #[cfg(feature = "server")]
    pub(super) fn run_with(
        mut self,
        room: Option<Room>,
    ) -> Result<Option<Outcome<Bytes>>, Roomless> {
        let Some(lead) = self.claim() else {
            return Ok(None);
        };
        let inner = &self.group.inner;
        let flight = lead.flight().clone();
        let mut attempt = Attempt {
            room,
            lacks_bytes: None,
        };
        let load = |key: &(u16, Box<[u8]>)| {
            let outcome = self.load(&flight, &key.1, &mut attempt);
            attempt.lacks_bytes.is_none().then_some(outcome)
        };
        let lead = match inner.cache.core().try_lead(inner.partition, lead, load) {
            Ok(outcome) => return Ok(Some(outcome)),
            Err(lead) => lead,
        };
        self.parked = Some(lead.park());
        Err(Roomless {
            load: self,
            bytes: attempt.lacks_bytes.unwrap_or(0),
        })
    }

    /// Takes room for a large value, if there is so much now.
    #[cfg(feature = "server")]
    pub(crate) fn take_room(&self, bytes: usize) -> Option<Room> {
        let large = self.group.inner.large.as_ref()?;
        Room::take(&large.account, bytes)
    }

    fn load(
        &self,
        flight: &Flight<Bytes>,
        key: &[u8],
        attempt: &mut Attempt,
    ) -> Result<Loaded<Bytes>, Failure> {
        if self.deadline <= Instant::now() {
            return Err(too_late());
        }
        let at_least = Instant::now() + self.group.inner.load_least;
        let deadline = || {
            let wanted_until = flight.wanted_until().unwrap_or(self.deadline);
            wanted_until.max(at_least).min(self.deadline)
        };
        let mut until = deadline();
        loop {
            let run = || self.group.fill(key, until, self.keep, attempt);
            let outcome = catch_unwind(AssertUnwindSafe(run))
                .unwrap_or_else(|panic| Err(Failure::Panicked(panic_text(&*panic))));
            // Who has joined since then may have more time than those before. They get another try.
            let was_cut = is_timed_out(&outcome) && until <= Instant::now();
            match deadline() {
                later if was_cut && later > until => until = later,
                _ => return outcome,
            }
        }
    }

    /// Whether the time of some who wait for it is not over yet.
    pub fn is_wanted(&self) -> bool {
        let parked = self.parked.as_ref();
        let until = parked.and_then(|parked| parked.flight().wanted_until());
        until.is_some_and(|until| until > Instant::now())
    }

    /// Fails those who wait with [`ErrorKind::TimedOut`](super::ErrorKind::TimedOut): for one that is not wanted.
    pub fn give_up(mut self) {
        if let Some(lead) = self.claim() {
            lead.finish(Err(too_late()));
        }
    }

    /// Whether more than half of the budget is taken by values that left the cache but are still held, by replies
    /// that their callers do not read, say. What is loaded then can not be kept, and adds to what is held.
    pub fn is_hopeless(&self) -> bool {
        let core = self.group.inner.cache.core();
        core.garbage_bytes() > core.budget_bytes() / 2
    }

    /// Fails those who wait with [`ErrorKind::Busy`](super::ErrorKind::Busy) and this cause.
    pub fn refuse(mut self, cause: String) {
        if let Some(lead) = self.claim() {
            lead.finish(Err(busy(cause)));
        }
    }

    pub(super) fn claim(&mut self) -> Option<Lead<Bytes>> {
        self.parked.take()?.claim()
    }
}

impl Drop for PendingLoad {
    fn drop(&mut self) {
        drop(self.claim());
    }
}
