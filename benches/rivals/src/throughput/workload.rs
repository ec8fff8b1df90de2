//! What is done, and how fast it is wanted.

use crate::verdict::Goal;

const LARGE: usize = 1 << 20;
const SMALL: usize = 1 << 14;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// All hits.
    Get,
    /// All of the same key.
    GetOne,
    /// One in twenty is an insert of a key that is there.
    GetInsert,
    /// One in five asks for a key that was never there, of a cache that is full.
    GetOrLoad,
}

pub struct Workload {
    pub name: &'static str,
    pub entries: usize,
    /// Measured with each of these numbers of threads, in the same rounds.
    pub threads: &'static [usize],
    pub operation: Operation,
    /// Operations of a thread in one round.
    pub operations: usize,
    /// Our `get` against quick_cache's, by place in `threads`.
    pub goals: &'static [Goal],
    /// Throughput of our `get_with`, with the last number of threads over the first.
    pub scaling: Goal,
}

impl Workload {
    pub fn is_read_only(&self) -> bool {
        matches!(self.operation, Operation::Get | Operation::GetOne)
    }
}

pub static WORKLOADS: [Workload; 5] = [
    Workload {
        name: "get-1m",
        entries: LARGE,
        threads: &[1, 2],
        operation: Operation::Get,
        operations: 1 << 20,
        goals: &[at_least(1.2, 2.0), at_least(1.2, 2.0)],
        scaling: Goal::Free,
    },
    Workload {
        name: "get-16k",
        entries: SMALL,
        threads: &[1, 2],
        operation: Operation::Get,
        operations: 1 << 21,
        goals: &[Goal::Free, at_least(1.25, 2.0)],
        scaling: Goal::Free,
    },
    Workload {
        name: "get-hot-key",
        entries: SMALL,
        threads: &[1, 2],
        operation: Operation::GetOne,
        operations: 1 << 21,
        goals: &[Goal::Free, at_least(1.2, 2.0)],
        scaling: at_least(1.8, 2.0),
    },
    Workload {
        name: "get95-insert5-1m",
        entries: LARGE,
        threads: &[2],
        operation: Operation::GetInsert,
        operations: 1 << 20,
        goals: &[at_least(1.0, 1.5)],
        scaling: Goal::Free,
    },
    Workload {
        name: "get-or-load-1m",
        entries: LARGE,
        threads: &[2],
        operation: Operation::GetOrLoad,
        operations: 1 << 20,
        goals: &[at_least(0.5, 1.0)],
        scaling: Goal::Free,
    },
];

const fn at_least(wanted: f64, aim: f64) -> Goal {
    Goal::AtLeast { wanted, aim }
}
