use std::collections::BTreeSet;

use super::{Cache, NONE, Request, Trace};

/// Knows when each key comes next, and evicts the one that comes last.
pub struct Belady {
    /// By request: when its key comes next; [`NONE`] if it does not.
    next: Vec<u32>,
    now: usize,
    /// Stored keys by the time of their next request. Those that never come have no time of their own.
    stored: BTreeSet<(u32, u32)>,
    /// By key, while it is stored.
    weights: Vec<Option<u32>>,
    weight: u64,
    size: u64,
}

impl Belady {
    pub fn new(trace: &Trace, size: u64) -> Self {
        let mut seen = vec![NONE; trace.keys()];
        let mut next = vec![NONE; trace.requests().len()];
        for (time, request) in trace.requests().iter().enumerate().rev() {
            next[time] = std::mem::replace(&mut seen[request.key as usize], time as u32);
        }
        Self {
            next,
            now: 0,
            stored: BTreeSet::new(),
            weights: vec![None; trace.keys()],
            weight: 0,
            size,
        }
    }
}

impl Cache for Belady {
    fn request(&mut self, Request { key, weight }: Request) -> bool {
        let (now, next) = (self.now as u32, self.next[self.now]);
        self.now += 1;
        if self.weights[key as usize].is_some() {
            self.stored.remove(&(now, key));
            self.stored.insert((next, key));
            return true;
        }
        if u64::from(weight) > self.size {
            return false;
        }
        while self.weight + u64::from(weight) > self.size {
            let (_, victim) = self.stored.pop_last().expect("what has weight is stored");
            let weight = self.weights[victim as usize].take();
            self.weight -= u64::from(weight.expect("a stored key has a weight"));
        }
        self.stored.insert((next, key));
        self.weights[key as usize] = Some(weight);
        self.weight += u64::from(weight);
        false
    }
}
