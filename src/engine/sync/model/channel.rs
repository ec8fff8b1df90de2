//! crossbeam's bounded channel, for signals: one receiver, which the checker can be asked to wait for.
//!
//! To the memory it is two counters, with the orderings that crossbeam has. So who finds it full knows no more than
//! that: what was done before need not be seen by who receives what is in there.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub(crate) use crossbeam::channel::RecvTimeoutError;
use crossbeam::channel::{RecvError, TrySendError};
use shuttle::sync::{Condvar, Mutex, MutexGuard};

use super::atomic::{AtomicUsize, fence};
use super::{choose, memory, switch};
use crate::engine::sync::Ordering::{Acquire, Relaxed, SeqCst};

pub(crate) struct Sender<T>(Arc<Channel<T>>);
pub(crate) struct Receiver<T>(Arc<Channel<T>>);

struct Channel<T> {
    sent: AtomicUsize,
    received: AtomicUsize,
    capacity: usize,
    /// Not seen by the memory.
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    items: Vec<T>,
    /// The receiver, if it sleeps until something is sent.
    sleeper: Option<Sleeper>,
    /// How often it has slept.
    sleeps: usize,
}

#[derive(Clone, Copy)]
struct Sleeper {
    thread: usize,
    is_for_good: bool,
}

/// What is later than this is not waited for.
const LONG: Duration = Duration::from_secs(60);

pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let channel = Arc::new(Channel {
        sent: AtomicUsize::new(0),
        received: AtomicUsize::new(0),
        capacity,
        state: Mutex::new(State {
            items: Vec::new(),
            sleeper: None,
            sleeps: 0,
        }),
        changed: Condvar::new(),
    });
    (Sender(channel.clone()), Receiver(channel))
}

impl<T> Channel<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        let waited = self.changed.wait(state);
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Sender<T> {
    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        let channel = &*self.0;
        loop {
            let sent = channel.sent.load(Relaxed);
            if sent >= channel.received.load(Acquire) + channel.capacity {
                fence(SeqCst);
                if sent == channel.received.load(Relaxed) + channel.capacity {
                    return Err(TrySendError::Full(item));
                }
                continue;
            }
            let taken = channel
                .sent
                .compare_exchange(sent, sent + 1, SeqCst, Relaxed);
            if taken.is_ok() {
                channel.state().items.push(item);
                channel.changed.notify_all();
                return Ok(());
            }
        }
    }

    /// Waits until the receiver sleeps for good: other sleeps end by their deadline. Tells how often it has slept. As
    /// after a join, the caller knows of all that the receiver has done.
    pub fn until_receiver_sleeps(&self) -> usize {
        let mut state = self.0.state();
        loop {
            match state.sleeper {
                Some(sleeper) if state.items.is_empty() && sleeper.is_for_good => {
                    memory::with(|memory| memory.join(sleeper.thread));
                    return state.sleeps;
                }
                Some(sleeper) if !sleeper.is_for_good => {
                    state.sleeper = None;
                    self.0.changed.notify_all();
                }
                _ => (),
            }
            state = self.0.wait(state);
        }
    }
}

impl<T> Receiver<T> {
    pub fn recv(&self) -> Result<T, RecvError> {
        self.sleep(true);
        Ok(self.take())
    }

    /// The deadline passes when the checker says so, or when somebody waits for the receiver to sleep for good.
    pub fn recv_timeout(&self, at_most: Duration) -> Result<T, RecvTimeoutError> {
        if choose(2) == 0 {
            switch();
            if self.0.state().items.is_empty() {
                return Err(RecvTimeoutError::Timeout);
            }
        }
        if !self.sleep(at_most > LONG) {
            return Err(RecvTimeoutError::Timeout);
        }
        Ok(self.take())
    }

    /// Sleeps until something is there, or the deadline has passed. False: it has.
    fn sleep(&self, is_for_good: bool) -> bool {
        let channel = &*self.0;
        let mut state = channel.state();
        if state.items.is_empty() {
            state.sleeps += 1;
            state.sleeper = Some(Sleeper {
                thread: memory::me(),
                is_for_good,
            });
            channel.changed.notify_all();
        }
        while state.items.is_empty() && state.sleeper.is_some() {
            state = channel.wait(state);
        }
        state.sleeper = None;
        !state.items.is_empty()
    }

    fn take(&self) -> T {
        let channel = &*self.0;
        loop {
            let received = channel.received.load(Relaxed);
            if channel.sent.load(Acquire) <= received {
                continue;
            }
            let taken = channel
                .received
                .compare_exchange(received, received + 1, SeqCst, Relaxed);
            if taken.is_ok() {
                return channel.state().items.remove(0);
            }
        }
    }
}
