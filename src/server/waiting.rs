//! The callers that wait for a load: bounded over all keys and connections, and let go when their time is over. The gRPC
//! core does not tell when a caller has given up, so their deadlines are looked at now and then.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use parking_lot::{Condvar, Mutex};

/// Callers that may wait; the gRPC core keeps some 20 KB for each.
const WAITING_MAX: usize = 8192;
/// How often the deadlines are looked at, while anybody waits.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) struct Waiting {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    calls: Mutex<Calls>,
    /// The first caller has come, or the end.
    changed: Condvar,
}

#[derive(Default)]
struct Calls {
    by_number: HashMap<u64, Call>,
    next_number: u64,
    ended: bool,
}

struct Call {
    deadline: Option<Instant>,
    /// Dropped with the call, it wakes who waits.
    _let_go: oneshot::Sender<()>,
}

/// Too many callers wait already.
#[derive(Debug, thiserror::Error)]
#[error("{WAITING_MAX} calls wait for loads on this node already; try again later")]
pub(super) struct Crowded;

impl Waiting {
    /// Starts the thread that looks at the deadlines. It sleeps while nobody waits.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let looked_at = shared.clone();
        thread::Builder::new()
            .name("deadlines".to_owned())
            .spawn(move || looked_at.run())?;
        Ok(Self { shared })
    }

    /// Lets a caller wait until the ticket is dropped, or its deadline has passed.
    pub fn enter(&self, deadline: Option<Instant>) -> Result<Ticket, Crowded> {
        let (let_go, over) = oneshot::channel();
        let mut calls = self.shared.calls.lock();
        if calls.by_number.len() >= WAITING_MAX {
            return Err(Crowded);
        }
        if calls.by_number.is_empty() {
            self.shared.changed.notify_one();
        }
        let number = calls.next_number;
        calls.next_number += 1;
        let call = Call {
            deadline,
            _let_go: let_go,
        };
        calls.by_number.insert(number, call);
        drop(calls);
        Ok(Ticket {
            shared: self.shared.clone(),
            number,
            over,
        })
    }

    /// Callers that wait now.
    pub fn len(&self) -> usize {
        self.shared.calls.lock().by_number.len()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.calls.lock().ended = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        let mut calls = self.calls.lock();
        while !calls.ended {
            if calls.by_number.is_empty() {
                self.changed.wait(&mut calls);
                continue;
            }
            self.changed.wait_for(&mut calls, LOOK_EVERY);
            let now = Instant::now();
            let is_over = |call: &Call| call.deadline.is_some_and(|deadline| deadline <= now);
            let over: Vec<Call> = calls
                .by_number
                .extract_if(|_, call| is_over(call))
                .map(|(_, call)| call)
                .collect();
            // Who is woken gives its ticket back, and wants the lock for that.
            drop(calls);
            drop(over);
            calls = self.calls.lock();
        }
    }
}

/// A place among those who wait. As a future it is done when the caller's time is over.
pub(super) struct Ticket {
    shared: Arc<Shared>,
    number: u64,
    over: oneshot::Receiver<()>,
}

impl Ticket {
    /// Lets the caller wait until then instead, if it is not over yet.
    pub fn put_off(&self, deadline: Instant) {
        let mut calls = self.shared.calls.lock();
        if let Some(call) = calls.by_number.get_mut(&self.number) {
            call.deadline = Some(deadline);
        }
    }
}

impl Future for Ticket {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Nothing is ever sent: that the sender was dropped is the news.
        Pin::new(&mut self.over).poll(context).map(drop)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let call = self.shared.calls.lock().by_number.remove(&self.number);
        // Outside the lock: it wakes.
        drop(call);
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;

    #[test]
    fn one_more_than_may_wait_is_refused_until_one_has_gone() {
        let waiting = Waiting::start().unwrap();
        let mut tickets: Vec<_> = (0..WAITING_MAX)
            .map(|_| waiting.enter(None).unwrap())
            .collect();
        assert!(waiting.enter(None).is_err());
        assert_eq!(waiting.len(), WAITING_MAX);
        tickets.pop();
        assert!(waiting.enter(None).is_ok());
        drop(tickets);
        assert_eq!(waiting.len(), 0);
    }

    #[test]
    fn whose_time_is_over_is_let_go_and_the_others_wait_on() {
        let waiting = Waiting::start().unwrap();
        let hour = Instant::now() + Duration::from_secs(3600);
        let mut patient = [None, Some(hour)].map(|deadline| waiting.enter(deadline).unwrap());
        let hasty = waiting.enter(Some(Instant::now())).unwrap();
        block_on(hasty);
        assert_eq!(waiting.len(), 2);
        patient[1].put_off(Instant::now());
        let [_, hasty] = &mut patient;
        block_on(hasty);
        assert_eq!(waiting.len(), 1);
        drop(patient);
        assert_eq!(waiting.len(), 0);
    }
}
