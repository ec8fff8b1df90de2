//! What a load may see: the memory model of C11, as a machine.
//!
//! Every place in memory keeps all that was ever stored there, and every thread has a *view*: for each place, the
//! oldest store that the thread may still read. A load picks a store that is not older. A store with `Release`
//! carries the view of its thread, and a load with `Acquire` that reads it takes that over; fences do so for the plain
//! accesses before and after them (J. Kang et al., "A Promising Semantics for Relaxed-Memory Concurrency", POPL 2017,
//! without the promises). Fences with `SeqCst` share one view; `membarrier` is such a fence on all threads at once.
//!
//! Less happens here than may: a load never sees a store that comes later (load buffering), the stores to a place are
//! ordered as they are executed, and a `compare_exchange` that fails sees the newest.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Release, SeqCst};

use super::choose;

/// By place, the number of the oldest store that may be read.
#[derive(Clone, Default)]
pub(super) struct View(Vec<usize>);

impl View {
    fn at(&self, place: usize) -> usize {
        self.0.get(place).copied().unwrap_or(0)
    }

    fn raise(&mut self, place: usize, store: usize) {
        if self.0.len() <= place {
            self.0.resize(place + 1, 0);
        }
        self.0[place] = self.0[place].max(store);
    }

    fn join(&mut self, other: &View) {
        for (place, &store) in other.0.iter().enumerate() {
            self.raise(place, store);
        }
    }
}

struct Store {
    bits: u64,
    /// What a thread learns that acquires this store.
    view: View,
}

#[derive(Default)]
struct Thread {
    view: View,
    /// What an acquire fence would add to the view.
    read: View,
    /// The view at the last release fence.
    released: View,
}

/// An access to an atomic or a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub thread: usize,
    pub address: usize,
    pub is_write: bool,
}

/// A moment in the life of a thread.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    clock: usize,
    time: usize,
}

#[derive(Default)]
pub(crate) struct Memory {
    places: HashMap<usize, usize>,
    stores: Vec<Vec<Store>>,
    threads: Vec<Thread>,
    /// What all `SeqCst` fences know that were before.
    fenced: View,
    /// What `membarrier` made known to all threads, those to come included.
    known: View,
    pub log: Vec<Access>,
}

std::thread_local! {
    /// The memory of the execution that this thread runs.
    static MEMORY: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

pub(super) fn begin() {
    MEMORY.set(Some(Memory::default()));
}

pub(super) fn end() {
    MEMORY.set(None);
}

pub(super) fn with<R>(f: impl FnOnce(&mut Memory) -> R) -> R {
    MEMORY.with_borrow_mut(|memory| {
        f(memory
            .as_mut()
            .expect("with `--cfg corecache_model` only models run: `cargo test --lib ::model::`"))
    })
}

/// What lies at `address` is gone, or was changed by its only user: what comes there starts anew.
pub(super) fn forget(address: usize) {
    MEMORY.with_borrow_mut(|memory| {
        if let Some(memory) = memory {
            memory.places.remove(&address);
        }
    });
}

pub(super) fn me() -> usize {
    shuttle::current::me().into()
}

impl Memory {
    /// The place at an address, where `bits` lie if nothing was stored there so far.
    pub fn place(&mut self, address: usize, bits: u64) -> usize {
        *self.places.entry(address).or_insert_with(|| {
            let view = View::default();
            self.stores.push(vec![Store { bits, view }]);
            self.stores.len() - 1
        })
    }

    fn thread(&mut self) -> &mut Thread {
        let me = me();
        if self.threads.len() <= me {
            self.threads.resize_with(me + 1, Thread::default);
        }
        &mut self.threads[me]
    }

    pub fn note(&mut self, address: usize, is_write: bool) {
        let thread = me();
        self.log.push(Access {
            thread,
            address,
            is_write,
        });
    }

    pub fn view(&mut self) -> View {
        self.thread().view.clone()
    }

    /// To be called first by a thread, with the view of the one that made it.
    pub fn start(&mut self, view: &View) {
        let known = self.known.clone();
        self.thread().view = known;
        self.thread().view.join(view);
    }

    /// `thread` has ended, and the calling one knows it.
    pub fn join(&mut self, thread: usize) {
        let view = self.threads[thread].view.clone();
        self.thread().view.join(&view);
    }

    pub fn load(&mut self, place: usize, order: Ordering) -> u64 {
        if order == SeqCst {
            let fenced = self.fenced.at(place);
            self.thread().view.raise(place, fenced);
        }
        let newest = self.stores[place].len() - 1;
        let older = newest - self.thread().view.at(place);
        // Mostly the newest, or a thread that waits for it would hardly come on.
        let back = match older {
            0 => 0,
            _ => choose(2) * choose(older + 1),
        };
        self.read(place, newest - back, order)
    }

    fn read(&mut self, place: usize, store: usize, order: Ordering) -> u64 {
        let Store { bits, ref view } = self.stores[place][store];
        let view = view.clone();
        let thread = self.thread();
        thread.view.raise(place, store);
        match order {
            Acquire | AcqRel | SeqCst => thread.view.join(&view),
            _ => thread.read.join(&view),
        }
        bits
    }

    pub fn store(&mut self, place: usize, bits: u64, order: Ordering) {
        self.write(place, bits, order, View::default());
    }

    /// Appends a store that carries `view` beside the view of its thread.
    fn write(&mut self, place: usize, bits: u64, order: Ordering, mut view: View) {
        let store = self.stores[place].len();
        let thread = self.thread();
        thread.view.raise(place, store);
        match order {
            Release | AcqRel | SeqCst => view.join(&thread.view),
            _ => view.join(&thread.released),
        }
        view.raise(place, store);
        if order == SeqCst {
            self.fenced.raise(place, store);
        }
        self.stores[place].push(Store { bits, view });
    }

    /// Reads the newest store and adds one after it, unless `f` gives none.
    pub fn update(
        &mut self,
        place: usize,
        success: Ordering,
        failure: Ordering,
        f: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<u64, u64> {
        let newest = self.stores[place].len() - 1;
        let Some(bits) = f(self.stores[place][newest].bits) else {
            return Err(self.read(place, newest, failure));
        };
        // Who acquires this one acquires what it has replaced, too: they are one release sequence.
        let view = self.stores[place][newest].view.clone();
        let old = self.read(place, newest, success);
        self.write(place, bits, success, view);
        Ok(old)
    }

    pub fn fence(&mut self, order: Ordering) {
        self.thread();
        self.fence_of(me(), order);
    }

    /// A `SeqCst` fence on all threads.
    pub fn fence_all(&mut self) {
        // In two rounds, so that all come to know what each knows.
        for thread in (0..self.threads.len()).chain(0..self.threads.len()) {
            self.fence_of(thread, SeqCst);
        }
        self.known = self.fenced.clone();
    }

    fn fence_of(&mut self, thread: usize, order: Ordering) {
        let thread = &mut self.threads[thread];
        if order != Release {
            thread.view.join(&thread.read);
        }
        if order == SeqCst {
            self.fenced.join(&thread.view);
            thread.view.join(&self.fenced);
        }
        if order != Acquire {
            thread.released = thread.view.clone();
        }
    }

    /// The calling thread's clock, which goes on by one. It travels with views, like a place that only its thread
    /// stores to.
    pub fn tick(&mut self) -> Moment {
        let clock = self.place(usize::MAX - me(), 0);
        let time = self.thread().view.at(clock) + 1;
        self.thread().view.raise(clock, time);
        Moment { clock, time }
    }

    /// Whether the calling thread knows that a moment is past.
    pub fn has_seen(&mut self, moment: Moment) -> bool {
        self.thread().view.at(moment.clock) >= moment.time
    }
}
