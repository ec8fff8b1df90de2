//! The gate that answers leave by. It is shut for a moment when a node begins to drain.
//!
//! Once its shutdown has begun, the gRPC core cancels every call that reaches it, also those whose callers could not
//! know yet. So a node that drains first keeps its answers: a caller that waits for one sends no other call, and what
//! was on its way arrives. Then the node begins the shutdown, which tells each connection so (GOAWAY), and opens the
//! gate: the answers follow the news. Only a caller that sends without waiting can still lose calls, those that it
//! sends before the news has reached it.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_channel::oneshot;
use parking_lot::Mutex;

#[derive(Default)]
pub(super) struct Gate {
    shut: AtomicBool,
    /// Dropped, they wake those who wait. No more of them than there are calls in flight.
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
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
}
