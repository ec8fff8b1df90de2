//! A shard's turn under the model checker, see [`super::super::sync::model`]: threads that change one shard, beside its
//! owner, which comes by when it is woken.
//!
//! Bugs that were planted by hand are found, each by the test that names it.

use super::*;
use crate::engine::core::Core;
use crate::engine::core::model::{hash_of, look, new_core, new_entry, settle, with_owners};
use crate::engine::entry::{Handle, Typed};
use crate::engine::reclaim::model::reader;
use crate::engine::stats::Cause;
use crate::engine::sync::model::{check, choose};

type Numbers = Core<Typed<u64, u64>>;

const BUDGET_BYTES: usize = 64 << 10;

fn insert_soon(core: &Numbers, key: u64, value: u64) {
    core.insert_soon(hash_of(key), new_entry(core, key, value, 100));
}

fn insert(core: &Numbers, key: u64, value: u64) {
    assert!(core.insert(hash_of(key), new_entry(core, key, value, 100)));
}

fn get(core: &Numbers, key: u64) -> Option<u64> {
    look(core, key).map(|entry| *entry.value())
}

/// Runs `callers` beside each other, and beside an owner. When all are through nothing may be left to do.
fn run(core: Numbers, callers: &[fn(&Numbers)], then: impl FnOnce(&Numbers)) {
    with_owners(core, |core| {
        let threads: Vec<_> = callers
            .iter()
            .map(|&caller| {
                let core = core.clone();
                reader(move || caller(&core))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join());
        settle(core);
        then(core);
    });
}

/// Planted: a turn is given back though changes are queued; who queues leaves it at that if nobody has the turn; what
/// was said is unsaid after the queue was looked at. All: "a change is left in the queue". Or it is given back with
/// `Relaxed`: "a change is lost".
#[test]
fn what_is_queued_is_made_without_another_call() {
    check(|| {
        let two_by_two: [fn(&Numbers); 2] = [
            |core| {
                insert_soon(core, 1, 10);
                insert_soon(core, 2, 20);
            },
            |core| {
                insert_soon(core, 3, 30);
                insert_soon(core, 4, 40);
            },
        ];
        run(new_core(BUDGET_BYTES, 1), &two_by_two, |core| {
            for key in 1..=4 {
                assert_eq!(get(core, key), Some(key * 10), "a change is lost");
            }
        });
    });
}

/// Planted: `Turn::wake_sleepers` does not lock, or `Turn::wait` says that it sleeps before it locks: "deadlock".
#[test]
fn what_is_queued_while_the_listener_is_told_is_made_as_well() {
    check(|| {
        let callers: [fn(&Numbers); 2] = [|core| insert_soon(core, 1, 10), |core| core.flush()];
        run(new_core(BUDGET_BYTES, 1), &callers, |core| {
            assert_eq!(get(core, 1), Some(10), "a change is lost");
        });
    });
}

/// Planted: `Shard::take` makes what is queued after its own change; it makes no more than one of those that are
/// queued. Both: "read before it was written".
#[test]
fn the_changes_of_a_thread_are_made_in_their_order() {
    check(|| {
        let callers: [fn(&Numbers); 2] = [
            |core| {
                insert_soon(core, 1, 10);
                insert_soon(core, 1, 11);
                insert_soon(core, 2, 20);
                insert(core, 2, 21);
                assert_eq!(get(core, 2), Some(21), "read before it was written");
            },
            |core| insert_soon(core, 3, 30),
        ];
        run(new_core(BUDGET_BYTES, 1), &callers, |core| {
            assert_eq!(get(core, 1), Some(11), "an older value came later");
        });
    });
}

/// A value that does something when it is dropped.
#[derive(Default)]
struct Last(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Last {
    fn drop(&mut self) {
        if let Some(last) = self.0.take() {
            last();
        }
    }
}

/// Planted: who queues inside of a turn wakes nobody: "a change is left in the queue".
#[test]
fn what_a_value_changes_when_it_is_dropped_is_made() {
    check(|| {
        with_owners(
            new_core(BUDGET_BYTES, 2),
            |core: &Arc<Core<Typed<u64, Last>>>| {
                // In the same shard, or in the other one.
                let changed = 2 + choose(2) as u64;
                let entry = |key, last| new_entry(core, key, last, 100);
                let later = entry(changed, Last::default());
                let theirs = Arc::downgrade(core);
                let last = Last(Some(Box::new(move || {
                    if let Some(core) = theirs.upgrade() {
                        core.insert_soon(hash_of(changed), later);
                    }
                })));
                assert!(core.insert(hash_of(1), entry(1, last)));
                let another = entry(1, Last::default());
                let theirs = core.clone();
                let other = reader(move || assert!(theirs.insert(hash_of(1), another)));
                other.join();
                settle(core);
                assert!(look(core, changed).is_some(), "a change is lost");
            },
        );
    });
}

/// An entry that expires, but not while the model runs.
fn insert_for_an_hour(core: &Numbers, key: u64) {
    let mut facts = core.facts(hash_of(key), 0);
    facts.expiry_ns = core.clock.expiry_after(Duration::from_secs(3600));
    let entry = Handle::typed(core.arena(facts.hash), &facts, 100, key, 0);
    assert!(core.insert(facts.hash, entry));
}

/// Planted: garbage does not call the owner; it does if the owner would sleep without an end, but not if it sleeps
/// until something expires. Both: "garbage is left".
#[test]
fn what_readers_held_is_freed_in_the_end() {
    check(|| {
        let core = new_core(BUDGET_BYTES, 1);
        insert(&core, 1, 10);
        if choose(2) == 0 {
            insert_for_an_hour(&core, 2);
        }
        let hold = |core: &Numbers| {
            let held = look(core, 1);
            get(core, 2);
            drop(held);
        };
        let remove = |core: &Numbers| assert!(core.remove(hash_of(1), 1));
        run(core, &[hold, remove], |_| ());
    });
}

/// Planted: there is no turn of telling; what is untold is taken before that. Both: "the listener was told otherwise".
#[test]
fn the_listener_is_told_of_all_that_left_in_order() {
    check(|| {
        let core: Numbers = new_core(BUDGET_BYTES, 1);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        core.listen(Box::new(move |entry, cause| {
            tell.lock().push((*entry.value(), cause));
        }));
        let callers: [fn(&Numbers); 2] = [
            |core| {
                insert(core, 1, 10);
                insert(core, 1, 11);
                core.remove(hash_of(1), 1);
            },
            |core| core.flush(),
        ];
        run(core, &callers, |_| {
            let left = [(10, Cause::Replaced), (11, Cause::Removed)];
            assert_eq!(*told.lock(), left, "the listener was told otherwise");
        });
    });
}

/// Planted: `Pool::ask_back` adds with `Relaxed`; `ask_to_yield` rings no alarm. Both: "it is over the budget".
#[test]
fn what_is_over_a_smaller_budget_is_given_back() {
    check(|| {
        let core: Numbers = new_core(BUDGET_BYTES, 1);
        let heavy = |core: &Numbers, key| {
            core.insert(hash_of(key), new_entry(core, key, 0, BUDGET_BYTES / 5));
        };
        (1..=4).for_each(|key| heavy(&core, key));
        with_owners(core, |core| {
            let theirs = core.clone();
            let other = reader(move || heavy(&theirs, 1));
            core.resize(BUDGET_BYTES / 2).expect("it is large enough");
            other.join();
            settle(core);
        });
    });
}

/// Planted: a shard leases before it says how much; `Pool::borrow` takes with `Relaxed`. Both: "it is over the budget".
#[test]
fn what_is_taken_on_credit_is_given_back() {
    check(|| {
        let insert = |core: &Numbers, key| {
            let weight = BUDGET_BYTES / 5 * 3;
            assert!(core.insert(hash_of(key), new_entry(core, key, 0, weight)));
        };
        with_owners(new_core(BUDGET_BYTES, 2), |core| {
            let theirs = core.clone();
            let other = reader(move || insert(&theirs, 1));
            insert(core, 2);
            other.join();
            settle(core);
        });
    });
}

/// Planted: `Shard::sleep` does not fence when it is woken: "deadlock".
#[test]
fn an_owner_that_is_awake_ends_with_its_cache() {
    check(|| {
        with_owners(new_core(BUDGET_BYTES, 1), |core| {
            insert(core, 1, 10);
            // What has left is the owner's to sweep.
            insert(core, 1, 11);
        });
    });
}
