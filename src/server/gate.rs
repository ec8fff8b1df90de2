//! The gate that answers leave by. It is shut for a moment when a node begins to drain.
//!
//! Once its shutdown has begun, the gRPC core cancels every call that reaches it, also those whose callers could not
//! know yet. So a node that drains first keeps its answers: a caller that waits for one sends no other call, and what
//! was on its way arrives. Then the node begins the shutdown, which tells each connection so (GOAWAY), and opens the
//! gate: the answers follow the news. Only a caller that sends without waiting can still lose calls, those that it
//! sends before the news has reached it.
//!
//! The messages of a stream need not be held back. But a stream that its caller keeps open would never end: from then on
//! it reads no more, answers what it has read, and ends by itself.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::Shared;
use parking_lot::Mutex;

pub(super) struct Gate {
    shut: AtomicBool,
    /// Dropped, they wake those who wait. No more of them than there are calls in flight.
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
    /// Dropped when the gate opens.
    serving: Mutex<Option<oneshot::Sender<()>>>,
    closing: Closing,
}

/// Is done, with an error that means nothing, when a stream is to come to its end.
pub(super) type Closing = Shared<oneshot::Receiver<()>>;

impl Default for Gate {
    fn default() -> Self {
        let (serving, closing) = oneshot::channel();
        Self {
            shut: AtomicBool::default(),
            waiting: Mutex::default(),
            serving: Mutex::new(Some(serving)),
            closing: closing.shared(),
        }
    }
}

impl Gate {
    pub fn is_open(&self) -> bool {
        !self.shut.load(Ordering::Relaxed)
    }

    pub fn shut(&self) {
        self.shut.store(true, Ordering::Relaxed);
    }

    pub fn open(&self) {
        let mut waiting = self.waiting.lock();
        self.shut.store(false, Ordering::Relaxed);
        waiting.clear();
        drop(waiting);
        drop(self.serving.lock().take());
    }

    /// Tells a stream when it is to come to its end: the shutdown has begun.
    pub fn closing(&self) -> Closing {
        self.closing.clone()
    }

    /// Waits until the gate is open.
    pub async fn pass(&self) {
        if let Some(opened) = self.queue() {
            // That the other end was dropped is what it waits for.
            let _ = opened.await;
        }
    }

    fn queue(&self) -> Option<oneshot::Receiver<()>> {
        if self.is_open() {
            return None;
        }
        let mut waiting = self.waiting.lock();
        // Under the lock: who was not there when the gate opened does not wait.
        if self.is_open() {
            return None;
        }
        let (opener, opened) = oneshot::channel();
        waiting.push(opener);
        Some(opened)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use futures_executor::block_on;

    use super::*;

    #[test]
    fn who_comes_while_it_is_shut_waits_until_it_opens() {
        let gate = Arc::new(Gate::default());
        block_on(gate.pass());
        gate.shut();
        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let gate = gate.clone();
                thread::spawn(move || block_on(gate.pass()))
            })
            .collect();
        while gate.waiting.lock().len() < waiters.len() {
            thread::yield_now();
        }
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        gate.open();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        block_on(gate.pass());
    }

    #[test]
    fn streams_are_told_when_it_opens_again_and_those_that_come_later_at_once() {
        let gate = Gate::default();
        let mut early = gate.closing();
        gate.shut();
        assert!((&mut early).now_or_never().is_none());
        gate.open();
        assert!(early.now_or_never().is_some());
        assert!(gate.closing().now_or_never().is_some());
    }
}
