//! Calls that wait for something, and are let go when their time is over or their connection has ended. The gRPC core
//! tells of neither while a call waits, so both are looked at now and then.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use parking_lot::{Condvar, Mutex};

/// How often deadlines are looked at, while anybody waits.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often connections are: each takes a system call.
const LOOKS_A_CONNECTION: u32 = 5;

/// What a call came by. Calls that came by the same have the same.
pub(super) trait Line: Send + Sync {
    /// Whether nobody is at its other end any more.
    fn is_cut(&self) -> bool;
}

/// Who has made a call, as far as that is known.
#[derive(Clone, Default)]
pub(super) struct Caller {
    /// When he stops waiting, if he ever does.
    pub deadline: Option<Instant>,
    pub line: Option<Arc<dyn Line>>,
}

impl Caller {
    /// Whether nobody waits any more.
    pub fn has_gone(&self) -> bool {
        let is_over = self
            .deadline
            .is_some_and(|deadline| deadline <= Instant::now());
        is_over || self.line.as_ref().is_some_and(|line| line.is_cut())
    }
}

/// The calls that wait.
pub(super) struct Lookout {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    calls: Mutex<Calls>,
    /// The first call has come, or the end.
    changed: Condvar,
}

#[derive(Default)]
struct Calls {
    by_number: HashMap<u64, Call>,
    next_number: u64,
    /// The thread that looks waits for the next call.
    asleep: bool,
    ended: bool,
}

struct Call {
    caller: Caller,
    /// Dropped with the call, it wakes who waits.
    _let_go: oneshot::Sender<()>,
}

impl Lookout {
    /// Starts the thread that looks. It sleeps while nobody waits.
    pub fn start(thread_name: &str) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let looked_at = shared.clone();
        thread::Builder::new()
            .name(thread_name.to_owned())
            .spawn(move || looked_at.run())?;
        Ok(Self { shared })
    }

    /// Lets a caller wait until the ticket is dropped, or he has gone.
    pub fn enter(&self, caller: Caller) -> Ticket {
        let (let_go, over) = oneshot::channel();
        let mut calls = self.shared.calls.lock();
        if std::mem::take(&mut calls.asleep) {
            self.shared.changed.notify_one();
        }
        let number = calls.next_number;
        calls.next_number += 1;
        let call = Call {
            caller,
            _let_go: let_go,
        };
        calls.by_number.insert(number, call);
        drop(calls);
        Ticket {
            shared: self.shared.clone(),
            number,
            over,
        }
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.shared.calls.lock().ended = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        let mut looks = 0_u32;
        let mut calls = self.calls.lock();
        while !calls.ended {
            if calls.by_number.is_empty() {
                calls.asleep = true;
                self.changed.wait(&mut calls);
                continue;
            }
            self.changed.wait_for(&mut calls, LOOK_EVERY);
            looks = looks.wrapping_add(1);
            let mut over = calls.overdue(Instant::now());
            if looks.is_multiple_of(LOOKS_A_CONNECTION) {
                let lines = calls.lines();
                drop(calls);
                let cut: HashMap<_, _> = lines.into_iter().filter(|(_, l)| l.is_cut()).collect();
                calls = self.calls.lock();
                over.extend(calls.cut_off(&cut));
            }
            // Who is woken gives its ticket back, and wants the lock for that.
            drop(calls);
            drop(over);
            calls = self.calls.lock();
        }
    }
}

/// Lines by their addresses.
type Lines = HashMap<*const (), Arc<dyn Line>>;

fn address(line: &Arc<dyn Line>) -> *const () {
    Arc::as_ptr(line).cast()
}

impl Calls {
    fn overdue(&mut self, now: Instant) -> Vec<Call> {
        let is_over = |call: &Call| call.caller.deadline.is_some_and(|deadline| deadline <= now);
        self.take(is_over)
    }

    /// Each line once, however many calls came by it.
    fn lines(&self) -> Lines {
        let calls = self.by_number.values();
        let lines = calls.filter_map(|call| call.caller.line.as_ref());
        lines.map(|line| (address(line), line.clone())).collect()
    }

    fn cut_off(&mut self, cut: &Lines) -> Vec<Call> {
        if cut.is_empty() {
            return Vec::new();
        }
        self.take(|call| {
            let line = call.caller.line.as_ref();
            line.is_some_and(|line| cut.contains_key(&address(line)))
        })
    }

    fn take(&mut self, is_over: impl Fn(&Call) -> bool) -> Vec<Call> {
        let over = self.by_number.extract_if(|_, call| is_over(call));
        over.map(|(_, call)| call).collect()
    }
}

/// A call that waits. As a future it is done when the caller has gone.
pub(super) struct Ticket {
    shared: Arc<Shared>,
    number: u64,
    over: oneshot::Receiver<()>,
}

impl Ticket {
    /// Lets the caller wait until then instead, if he has not gone yet.
    pub fn put_off(&self, deadline: Instant) {
        let mut calls = self.shared.calls.lock();
        if let Some(call) = calls.by_number.get_mut(&self.number) {
            call.caller.deadline = Some(deadline);
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
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_executor::block_on;

    use super::*;

    fn until(deadline: Instant) -> Caller {
        Caller {
            deadline: Some(deadline),
            line: None,
        }
    }

    fn len(lookout: &Lookout) -> usize {
        lookout.shared.calls.lock().by_number.len()
    }

    #[test]
    fn whose_time_is_over_is_let_go_and_the_others_wait_on() {
        let lookout = Lookout::start("test").unwrap();
        let hour = Instant::now() + Duration::from_secs(3600);
        let mut patient = [Caller::default(), until(hour)].map(|caller| lookout.enter(caller));
        let hasty = lookout.enter(until(Instant::now()));
        block_on(hasty);
        assert_eq!(len(&lookout), 2);
        patient[1].put_off(Instant::now());
        let [_, hasty] = &mut patient;
        block_on(hasty);
        assert_eq!(len(&lookout), 1);
        drop(patient);
        assert_eq!(len(&lookout), 0);
    }

    #[test]
    fn whose_connection_has_ended_is_let_go_and_the_others_wait_on() {
        struct Cut(AtomicBool);
        impl Line for Cut {
            fn is_cut(&self) -> bool {
                self.0.load(Ordering::Relaxed)
            }
        }
        let lookout = Lookout::start("test").unwrap();
        let lines = [(); 2].map(|()| Arc::new(Cut(AtomicBool::new(false))));
        let by = |line: &Arc<Cut>| {
            lookout.enter(Caller {
                deadline: None,
                line: Some(line.clone()),
            })
        };
        let gone = [by(&lines[0]), by(&lines[0])];
        let _stays = by(&lines[1]);
        lines[0].0.store(true, Ordering::Relaxed);
        gone.into_iter().for_each(block_on);
        assert_eq!(len(&lookout), 1);
    }
}
