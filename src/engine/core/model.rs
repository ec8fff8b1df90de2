//! A core under the model checker, for models that use all of it; and what a hit writes: the atomics lie where they do
//! in a build, and their accesses are logged.

use std::collections::HashSet;

use super::*;
use crate::engine::entry::Typed;
use crate::engine::policy::COUNTER_TOP;
use crate::engine::reclaim::model::{begin, reader};
use crate::engine::sync::model::{Access, accesses_of, check};

/// A core whose shards no thread looks after. To be called first by an execution, and dropped last.
pub(crate) fn new_core<B: Body>(budget_bytes: usize, shards: usize) -> Core<B> {
    begin();
    let share = Share {
        guaranteed_bytes: 0,
        largest_bytes: budget_bytes,
    };
    let pool = Arc::new(Pool::new(budget_bytes, shards, &[share]));
    let mut core = Core::start(pool, 0, &[]).expect("no thread is started");
    let (alarms, ringing): (Vec<_>, Vec<_>) = (0..shards).map(|_| channel::bounded(1)).unzip();
    let counters = |_| [CachePadded::<PartitionCounters>::default()].into();
    core.counters = (0..shards).map(counters).collect();
    core.gauges = (0..shards).map(|_| CachePadded::default()).collect();
    core.alarms = alarms.into();
    core.make_shards(ringing);
    core
}

/// Runs `f` on a core that its owners look after, until all end.
pub(crate) fn with_owners<B: Body>(core: Core<B>, f: impl FnOnce(&Arc<Core<B>>)) {
    let shards = core.shards.clone();
    let start = |index: usize| {
        let shards = shards.clone();
        reader(move || shards[index].run(|| clear_wanted(&shards)))
    };
    let owners: Vec<_> = (0..shards.len()).map(start).collect();
    let core = Arc::new(core);
    f(&core);
    drop(Arc::into_inner(core).expect("who had the core is through"));
    owners.into_iter().for_each(|owner| owner.join());
    // Now that this thread knows all that was done.
    drop(shards);
}

/// Waits until all owners sleep for good; then nothing may be left to do.
pub(crate) fn settle<B: Body>(core: &Core<B>) {
    let sleeps = || -> Vec<_> {
        let alarms = core.alarms.iter();
        alarms.map(Sender::until_receiver_sleeps).collect()
    };
    // The last one may have woken the first.
    let mut seen = sleeps();
    loop {
        let now = sleeps();
        if now == seen {
            break;
        }
        seen = now;
    }
    let stats = core.partition_stats(0);
    assert_eq!(stats.queued, 0, "a change is left in the queue");
    assert_eq!(stats.overshoot_bytes, 0, "it is over the budget");
    assert_eq!(stats.garbage_bytes, 0, "garbage is left");
}

pub(crate) fn flights<B: Body>(core: &Core<B>) -> &Arc<Flights<B>> {
    &core.shards[0].flights
}

/// An entry that takes so many bytes of the budget.
pub(crate) fn new_entry<V: Send + Sync + 'static>(
    core: &Core<Typed<u64, V>>,
    key: u64,
    value: V,
    weight_bytes: usize,
) -> Handle<Typed<u64, V>> {
    let facts = core.facts(hash_of(key), 0);
    Handle::typed(core.arena(facts.hash), &facts, weight_bytes, key, value)
}

/// Of two shards, the keys that are odd lie in the second.
pub(crate) fn hash_of(key: u64) -> u64 {
    key << 56 | key << 47 | key
}

/// A counted reference to the entry of a key.
pub(crate) fn look<V: Send + Sync + 'static>(
    core: &Core<Typed<u64, V>>,
    key: u64,
) -> Option<Handle<Typed<u64, V>>> {
    // SAFETY: protected while it is looked at, and of this body.
    let is_it = |entry| unsafe { *Typed::<u64, V>::key_at(entry) == key };
    core.look(0, hash_of(key), is_it)
}

/// Planted: `Core::clear` starts the generation after its walk; `Owner::publish` does not look at it. Both: "counted,
/// but not read".
#[test]
fn what_is_cleared_is_neither_read_nor_counted() {
    check(|| {
        let core = Arc::new(new_core::<Typed<u64, u64>>(1 << 20, 1));
        let insert = |core: &Core<_>, key| core.insert(hash_of(key), new_entry(core, key, 0, 100));
        insert(&core, 1);
        let theirs = core.clone();
        let other = reader(move || insert(&theirs, 2));
        core.clear(0);
        other.join();
        assert!(look(&core, 1).is_none(), "read after it was cleared");
        let entries = usize::from(look(&core, 2).is_some());
        let stats = core.partition_stats(0);
        assert_eq!(stats.entries, entries as u64, "counted, but not read");
        assert_eq!(stats.entry_bytes, 100 * entries as u64);
    });
}

const KEY: u64 = 7;
/// What a core fetches or claims at a time; some fetch two at once.
const LINE_BYTES: usize = 128;

fn core_with_a_hot_entry() -> Core<Typed<u64, u64>> {
    let core = new_core(1 << 20, 1);
    let entry = new_entry(&core, KEY, 70, 100);
    entry.header().set_counter(COUNTER_TOP);
    assert!(core.insert(hash_of(KEY), entry));
    core
}

fn hit(core: &Core<Typed<u64, u64>>) {
    // SAFETY: protected, and of this body.
    let value_at = |entry| unsafe { *Typed::<u64, u64>::value_at(entry) };
    let value = core.read(0, hash_of(KEY), |_| true, value_at);
    assert_eq!(value, Some(70));
}

fn accesses_of_a_hit(core: &Core<Typed<u64, u64>>) -> Vec<Access> {
    let ((), accesses) = accesses_of(|| hit(core));
    assert!(accesses.iter().any(|access| access.is_write));
    accesses
}

fn lines(accesses: &[Access], is_wanted: impl Fn(&Access) -> bool) -> HashSet<usize> {
    let wanted = accesses.iter().filter(|access| is_wanted(access));
    wanted.map(|access| access.address / LINE_BYTES).collect()
}

/// Planted: `Header::touch` stores the counter even if it is at its top; `Record` is not padded; `ReadCounters::count`
/// counts in its shared stripe, or its stripes are not padded: "a hit writes to a line that another reader touches".
#[test]
fn a_hit_on_a_saturated_entry_writes_to_no_line_that_another_reader_touches() {
    check(|| {
        let core = Arc::new(core_with_a_hot_entry());
        let shared = core.clone();
        let both = reader(move || {
            // The first hit makes a reader what is its own, until it ends: so one lives while the other does.
            hit(&shared);
            let theirs = shared.clone();
            let other = reader(move || {
                hit(&theirs);
                accesses_of_a_hit(&theirs)
            });
            (accesses_of_a_hit(&shared), other.join())
        });
        let (one, other) = both.join();
        for (one, other) in [(&one, &other), (&other, &one)] {
            let written = lines(one, |access| access.is_write);
            let touched = lines(other, |_| true);
            assert!(
                written.is_disjoint(&touched),
                "a hit writes to a line that another reader touches"
            );
        }
    });
}
