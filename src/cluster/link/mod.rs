//! A link: one stream to a peer, with many questions under way. No transport is named here: whoever drives the stream
//! takes messages from the link and tells it what has come.
//!
//! ```text
//! ask ──► queued ──► sent ──► [the peer says: loading] ──► answered
//!            │         │                │
//!            └─────────┴────────────────┴──► lost: the peer is silent, gone, or too late
//! ```
//!
//! What is asked while a message is being sent is the next message, so that batches grow with the load by themselves.
//! A link that has questions out, or has been quiet for long, pings its peer; one that hears nothing for as long as its
//! patience goes is broken, whatever the system says of the connection. All that was asked is then given back, and the
//! breaker is open until the peer has said hello again. Links to the same peer ping together, and so find out together.

mod backoff;
mod breaker;
mod outstanding;

use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Epoch;
use breaker::Breaker;
pub use breaker::Condition;
use outstanding::Outstanding;
pub use outstanding::{Full, Lost};

/// A peer that has questions and says nothing is pinged after so long.
const PING_AFTER: Duration = Duration::from_millis(100);
/// One that has none is pinged as often.
const PING_IDLE: Duration = Duration::from_secs(2);
/// So long it may take to reach a peer: to look up its name, and to try its addresses.
const REACH_MAX: Duration = Duration::from_secs(30);
/// Messages in a row with answers that are not what was asked for.
const GARBAGE_MAX: u32 = 3;

/// Why a question was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The breaker is open.
    Unreachable,
    /// Too many wait already.
    Full(Full),
}

/// What the one who drives a stream is to do.
pub enum Next<M> {
    /// Send this.
    Send(M),
    /// Wait to be woken.
    Wait,
    /// Leave: the stream is not wanted any more.
    Stop,
}

/// What is to be done after a look at the time.
pub struct Tick<Q> {
    /// Questions that are not waited for any longer.
    pub lost: Vec<(Q, Lost)>,
    /// The peer has been silent for too long: all that it was asked is lost.
    pub is_silent: bool,
    /// Since when the peer owes an answer to a ping.
    pub doubted_since: Option<Instant>,
    /// The number of a stream that is to be opened.
    pub connect: Option<u64>,
}

/// What a link is at, and what has become of it.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// What its breaker is at.
    pub condition: Condition,
    /// How often that has opened.
    pub opened: u64,
    /// Questions without an answer.
    pub outstanding: usize,
    /// Questions that were answered.
    pub answered: u64,
    /// Answers that were not what was asked for.
    pub garbage: u64,
    /// The ring that the peer goes by, as far as it has said.
    pub epoch: Option<Epoch>,
}

/// One stream to a peer, opened again when it breaks, and the questions on it.
pub struct Link<Q> {
    patience: Duration,
    state: Mutex<State<Q>>,
}

struct State<Q> {
    outstanding: Outstanding<Q>,
    breaker: Breaker,
    /// The number of the stream that counts; others are to end.
    stream: u64,
    /// Somebody drives it: the peer has been reached.
    is_driven: bool,
    waker: Option<Waker>,
    heard_at: Instant,
    /// When the ping was sent that the peer has not answered.
    pinged_at: Option<Instant>,
    ping_is_due: bool,
    answered: u64,
    garbage: u64,
    garbage_in_a_row: u32,
    epoch: Option<Epoch>,
    /// The stream is to end when all is answered, and another one to be opened.
    is_retiring: bool,
    is_closed: bool,
}

impl<Q> Link<Q> {
    /// A link for questions of so many groups, that gives its peer so long to say anything. Links of different seeds do not
    /// come back together.
    pub fn new(patience: Duration, seed: u64, groups: usize) -> Self {
        let now = Instant::now();
        Self {
            patience,
            state: Mutex::new(State {
                outstanding: Outstanding::new(groups),
                breaker: Breaker::new(seed, now),
                stream: 0,
                is_driven: false,
                waker: None,
                heard_at: now,
                pinged_at: None,
                ping_is_due: false,
                answered: 0,
                garbage: 0,
                garbage_in_a_row: 0,
                epoch: None,
                is_retiring: false,
                is_closed: false,
            }),
        }
    }

    /// Asks a question of so many bytes, of a group by its number, whose answer is waited for until `until`.
    ///
    /// # Errors
    /// The question comes back with [`Refused`].
    pub fn ask(
        &self,
        question: Q,
        group: u16,
        bytes: usize,
        until: Instant,
    ) -> Result<(), (Q, Refused)> {
        let mut state = self.state.lock();
        if !state.is_asked() {
            return Err((question, Refused::Unreachable));
        }
        let now = Instant::now();
        let pushed = state.outstanding.push(question, group, bytes, until, now);
        pushed.map_err(|(question, full)| (question, Refused::Full(full)))?;
        if state.breaker.condition() == Condition::Closed {
            state.wake();
        }
        Ok(())
    }

    /// Whether a question would be taken.
    pub fn is_asked(&self) -> bool {
        self.state.lock().is_asked()
    }

    /// How long its stream has been open.
    pub fn age(&self, now: Instant) -> Duration {
        self.state.lock().breaker.closed_for(now)
    }

    /// Takes no more questions, and when all are answered opens another stream in place of this one: the peer, or what
    /// lies between, may cut what is old.
    pub fn retire(&self) {
        self.state.lock().is_retiring = true;
    }

    /// The next message of a stream: `write` is shown the questions (see [`Sending`]). If there is none, or `can_send`
    /// is not so, `waker` is woken when that may have changed.
    pub fn next<M>(
        &self,
        stream: u64,
        waker: &Waker,
        can_send: bool,
        write: impl FnOnce(Sending<'_, Q>) -> M,
    ) -> Next<M> {
        let mut state = self.state.lock();
        if state.stream != stream {
            return Next::Stop;
        }
        if !std::mem::replace(&mut state.is_driven, true) {
            state.breaker.reached(Instant::now());
        }
        let has_news = state.outstanding.has_queued() || state.ping_is_due;
        if can_send && has_news && state.breaker.condition() == Condition::Closed {
            let ping = std::mem::take(&mut state.ping_is_due);
            let outstanding = &mut state.outstanding;
            return Next::Send(write(Sending { ping, outstanding }));
        }
        match &mut state.waker {
            Some(known) => known.clone_from(waker),
            None => state.waker = Some(waker.clone()),
        }
        Next::Wait
    }

    /// The peer has said hello, and is to be asked from now on.
    pub fn greeted(&self, stream: u64) {
        let mut state = self.state.lock();
        if state.stream == stream {
            state.breaker.close(Instant::now());
            state.wake();
        }
    }

    /// A message has come, from a peer that goes by this ring, if it says so: `read` is shown what is waited for.
    pub fn heard<R>(
        &self,
        stream: u64,
        epoch: Option<Epoch>,
        read: impl FnOnce(&mut Answers<'_, Q>) -> R,
    ) -> Option<R> {
        let mut state = self.state.lock();
        if state.stream != stream {
            return None;
        }
        state.heard_at = Instant::now();
        state.pinged_at = None;
        state.epoch = epoch.or(state.epoch);
        Some(read(&mut Answers(&mut state)))
    }

    /// Counts answers of a message that were what was asked for, and that were not. After some messages that had nothing
    /// good in them the peer is not asked any more for a while; the other questions come back.
    pub fn judge(&self, stream: u64, good: usize, garbage: usize) -> Vec<Q> {
        let mut state = self.state.lock();
        state.garbage += garbage as u64;
        if good > 0 {
            state.garbage_in_a_row = 0;
        }
        if garbage == 0 {
            return Vec::new();
        }
        state.garbage_in_a_row += 1;
        if state.garbage_in_a_row < GARBAGE_MAX || state.stream != stream {
            return Vec::new();
        }
        state.garbage_in_a_row = 0;
        state.break_off(Instant::now())
    }

    /// The stream has ended, or could not be opened. The questions on it come back.
    pub fn ended(&self, stream: u64) -> Vec<Q> {
        let mut state = self.state.lock();
        match state.stream == stream {
            true => state.break_off(Instant::now()),
            false => Vec::new(),
        }
    }

    /// Looks at the time. A peer that has failed is tried again if `may_retry` is so.
    pub fn tick(&self, now: Instant, may_retry: bool) -> Tick<Q> {
        let mut state = self.state.lock();
        let mut lost: Vec<_> = state.outstanding.overdue(now, self.patience);
        let quiet = now.saturating_duration_since(state.heard_at);
        let is_silent = state
            .pinged_at
            .is_some_and(|at| now.saturating_duration_since(at) >= self.patience);
        let is_late = state.breaker.is_stuck(now, self.patience * 2);
        let may_be_reached = !state.is_driven && !state.breaker.is_stuck(now, REACH_MAX);
        let is_silent = is_silent || (is_late && !may_be_reached);
        if is_late && may_be_reached {
            // It takes long to reach it. What has waited for that goes elsewhere.
            state.breaker.expect_nothing();
            let rest = state.outstanding.take_all();
            lost.extend(rest.into_iter().map(|question| (question, Lost::Broken)));
        } else if is_silent {
            let rest = state.break_off(now);
            lost.extend(rest.into_iter().map(|question| (question, Lost::Broken)));
        } else if state.breaker.condition() == Condition::Closed && state.pinged_at.is_none() {
            let ping_after = match state.outstanding.len() {
                0 => PING_IDLE,
                _ => PING_AFTER,
            };
            if quiet >= ping_after {
                state.ping(now);
            }
        }
        if state.is_retiring && state.outstanding.len() == 0 {
            state.breaker.renew(now);
            state.leave_stream();
        }
        let may_try = !state.is_closed && (may_retry || state.breaker.is_new());
        let connect = (may_try && state.breaker.try_now(now)).then(|| {
            state.stream += 1;
            state.is_driven = false;
            state.heard_at = now;
            state.stream
        });
        Tick {
            lost,
            is_silent,
            doubted_since: state.pinged_at,
            connect,
        }
    }

    /// Another link to the same peer has heard nothing since then, though it has asked. This one asks too, unless it has heard
    /// something meanwhile: if the peer is gone, all links find out at the same time.
    pub fn doubt(&self, since: Instant) {
        let mut state = self.state.lock();
        let is_closed = state.breaker.condition() == Condition::Closed;
        if is_closed && state.pinged_at.is_none() && state.heard_at < since {
            state.ping(since);
        }
    }

    /// Whether something is to be looked at soon.
    pub fn is_busy(&self) -> bool {
        let state = self.state.lock();
        state.outstanding.len() > 0 || state.breaker.condition() != Condition::Closed
    }

    /// Ends the link: its peer is in the cluster no more.
    pub fn close(&self) -> Vec<Q> {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.break_off(Instant::now())
    }

    /// What it is at.
    pub fn figures(&self) -> Figures {
        let state = self.state.lock();
        Figures {
            condition: state.breaker.condition(),
            opened: state.breaker.opened(),
            outstanding: state.outstanding.len(),
            answered: state.answered,
            garbage: state.garbage,
            epoch: state.epoch,
        }
    }
}

impl<Q> State<Q> {
    /// Wakes who drives the stream. What a waker does is to queue a task: it does not come back to the link.
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Asks the peer whether it is there; it has its patience from `at` on.
    fn ping(&mut self, at: Instant) {
        self.pinged_at = Some(at);
        self.ping_is_due = true;
        self.wake();
    }

    fn break_off(&mut self, now: Instant) -> Vec<Q> {
        self.breaker.open(now);
        self.leave_stream();
        self.outstanding.take_all()
    }

    fn leave_stream(&mut self) {
        self.pinged_at = None;
        self.ping_is_due = false;
        self.is_retiring = false;
        // Who drives the old stream is told by that.
        self.stream += 1;
        self.wake();
    }

    fn is_asked(&self) -> bool {
        self.breaker.is_asked() && !self.is_retiring && !self.is_closed
    }
}

/// What goes into a message.
pub struct Sending<'a, Q> {
    /// The peer is to say that it is there.
    pub ping: bool,
    outstanding: &'a mut Outstanding<Q>,
}

impl<Q> Sending<'_, Q> {
    /// Shows `put` questions with their ids and the ends of their time, until it says that there is no room for one.
    pub fn questions(self, put: impl FnMut(u64, &Q, Instant) -> bool) {
        self.outstanding.send(put);
    }
}

/// What a message is told to.
pub struct Answers<'a, Q>(&'a mut State<Q>);

impl<Q> Answers<'_, Q> {
    /// Takes the question that was answered, if it is waited for.
    pub fn take(&mut self, id: u64) -> Option<Q> {
        let question = self.0.outstanding.take(id)?;
        self.0.answered += 1;
        Some(question)
    }

    /// The peer is loading it.
    pub fn loading(&mut self, id: u64) {
        self.0.outstanding.loading(id);
    }
}

#[cfg(test)]
mod tests;
