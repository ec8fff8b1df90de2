//! Room: what an owner evicts, leases, borrows and gives back, so that the budget holds.

use crossbeam::utils::CachePadded;

use super::super::budget::Pool;
use super::super::entry::Body;
use super::super::policy::Policy;
use super::super::stats::{Cause, ShardGauges};
use super::super::sync::Ordering;
use super::super::sync::channel::Sender;
use super::{InTable, Owner, entry_of};

/// Room is made, and garbage swept, in batches, so that a sweep serves many entries: one part in this many of what the
/// shard uses, but not so much that whoever has the turn is kept for long. A sweep interrupts every core that runs a
/// thread of the program, and is much shorter than the eviction of as much.
const BATCH_PART: usize = 64;
/// What is evicted at once is a small part of the small queue, even where that is a hundredth of all: it would lose
/// what has just come otherwise, before anybody could ask for it again.
const EVICTED_PART: usize = 256;
const EVICTED_MAX_BYTES: usize = 64 << 10;
const SWEPT_MAX_BYTES: usize = 256 << 10;
/// Buckets that are merged, where the table has become too large, before the next entry is evicted.
const MERGES: usize = 256;
/// What is evicted for other shards in a turn that was taken for something else, and in one of the owner's.
const YIELD_BYTES: usize = 16 << 10;
pub(super) const OWNER_YIELD_BYTES: usize = 256 << 10;

impl<B: Body> Owner<B> {
    /// Sees to it that `need` bytes more for `partition` are within the budget.
    pub(super) fn make_room(&mut self, partition: usize, need: usize) -> bool {
        self.make_room_in(partition, need) && self.make_room_here(partition, need)
    }

    /// Whether there is room for `need` bytes more without evicting; if so, it is leased.
    pub(super) fn has_room(&mut self, partition: usize, need: usize) -> bool {
        if self.pool.partitions[partition].excess_with(need) > 0 {
            return false;
        }
        let short = need.saturating_sub(self.unused());
        let leased = if short > 0 { self.pool.lease(short) } else { 0 };
        self.leased_bytes += leased;
        leased >= short
    }

    /// The partition's own bound. What others of its shards hold is left to them: a shard that has nothing left to
    /// evict may go over it by its entry.
    fn make_room_in(&mut self, partition: usize, need: usize) -> bool {
        if self.pool.partitions[partition].share.largest_bytes >= self.pool.budget_bytes() {
            return true;
        }
        while self.pool.partitions[partition].excess_with(need) > 0 {
            if self.evict_from(partition) == 0 {
                let account = &self.pool.partitions[partition];
                let is_over_already = account.excess_with(0) > account.share.largest_bytes / 16;
                return !is_over_already;
            }
        }
        true
    }

    #[inline]
    fn make_room_here(&mut self, partition: usize, need: usize) -> bool {
        self.unused() >= need || self.find_room(partition, need)
    }

    fn find_room(&mut self, partition: usize, need: usize) -> bool {
        loop {
            let unused = self.unused();
            if unused >= need {
                return true;
            }
            let short = need - unused;
            // Before it is taken: who takes credit after that has to know whom to ask.
            let may_lease = self.leased_bytes + short.max(self.pool.quantum_bytes());
            let gauges = &self.gauges[self.shard];
            gauges
                .leased_bytes
                .store(may_lease as u64, Ordering::Relaxed);
            let leased = self.pool.lease(short);
            self.leased_bytes += leased;
            if leased > 0 || (self.retired_bytes >= short && self.sweep() > 0) {
                continue;
            }
            if self.writer.is_loose() {
                self.writer.shrink(MERGES);
                self.charge_table();
                continue;
            }
            let batch = short.max((self.used_bytes / EVICTED_PART).min(EVICTED_MAX_BYTES));
            if self.evict(batch, Some(partition)) > 0 {
                self.sweep();
                continue;
            }
            if !self.pool.borrow(short) {
                return false;
            }
            self.leased_bytes += short;
            self.ask_to_yield(short);
            return true;
        }
    }

    /// Evicts `bytes` or all that there is; returns how many it evicted.
    fn evict(&mut self, bytes: usize, needy: Option<usize>) -> usize {
        let mut evicted = 0;
        while evicted < bytes {
            let Some(victim) = self.choose_partition(needy) else {
                break;
            };
            evicted += self.evict_from(victim);
        }
        evicted
    }

    /// Whose entry is to go: one of those over their guarantee, at random by weight, as if they shared one queue.
    /// Where none is over, the partition that needs the room pays itself; where none does, the one that holds most.
    fn choose_partition(&mut self, needy: Option<usize>) -> Option<usize> {
        if self.policies.len() == 1 {
            return (!self.policies[0].is_empty()).then_some(0);
        }
        let weight_of = |index: usize| {
            let is_fair = self.pool.partitions[index].is_over_guarantee();
            if is_fair {
                self.policies[index].weight()
            } else {
                0
            }
        };
        let total: u64 = (0..self.policies.len()).map(weight_of).sum();
        if total == 0 {
            let weight = |index: &usize| self.policies[*index].weight();
            let payer = needy.or_else(|| (0..self.policies.len()).max_by_key(weight));
            return payer.filter(|&index| !self.policies[index].is_empty());
        }
        let mut at = next_random(&mut self.random) % total;
        for index in 0..self.policies.len() {
            let weight = weight_of(index);
            if at < weight {
                return Some(index);
            }
            at -= weight;
        }
        None
    }

    fn evict_from(&mut self, partition: usize) -> usize {
        let Some(token) = self.policies[partition].evict(&mut InTable::<B>::new(&self.writer))
        else {
            return 0;
        };
        let entry = entry_of(token);
        self.writer.unlink(entry);
        let cause = if self.is_expired(entry) {
            Cause::Expired
        } else {
            Cause::Evicted
        };
        let weight = self.weight_of(entry);
        self.retire(entry, cause);
        weight
    }

    /// How much garbage is left until it is worth a sweep.
    pub(super) fn batch_bytes(&self) -> usize {
        (self.used_bytes / BATCH_PART).min(SWEPT_MAX_BYTES)
    }

    /// The table's lines are charged after they are there: they are small against a quantum.
    pub(super) fn charge_table(&mut self) {
        let bytes = self.writer.bytes();
        if bytes != self.table_bytes {
            self.used_bytes = self.used_bytes - self.table_bytes + bytes;
            self.table_bytes = bytes;
        }
    }

    fn ask_to_yield(&self, bytes: usize) {
        let except = Some(self.shard);
        ask_to_yield(&self.pool, &self.gauges, &self.alarms, except, bytes);
    }

    /// Gives back what the pool is short of, and what this shard does not need itself.
    pub(super) fn settle(&mut self) {
        self.charge_table();
        if self.retired_bytes >= self.sweep_at_bytes {
            self.sweep();
        }
        self.help_gathering();
        let debt = self.pool.debt_bytes();
        if debt > 0 {
            self.yield_owed(YIELD_BYTES);
        }
        let spare = if debt > 0 {
            self.unused().min(debt)
        } else {
            self.unused().saturating_sub(2 * self.pool.quantum_bytes())
        };
        if spare > 0 {
            self.leased_bytes -= spare;
            self.owes_bytes = self.owes_bytes.saturating_sub(spare);
            self.pool.give_back(spare);
        }
    }

    /// Gives way to other shards, or to a smaller budget: evicts so much at the most.
    pub(super) fn yield_owed(&mut self, at_most_bytes: usize) {
        self.owes_bytes += self.pool.take_owed(self.shard);
        let debt = self.pool.debt_bytes();
        self.owes_bytes = self.owes_bytes.min(debt);
        if self.owes_bytes > 0 && self.writer.is_loose() {
            // The table's own memory comes first.
            self.writer.shrink(MERGES);
            self.charge_table();
        }
        let short = self.owes_bytes.saturating_sub(self.unused());
        if short == 0 {
            return;
        }
        if self.evict(short.min(at_most_bytes), None) > 0 {
            self.sweep();
        } else {
            // There is nothing more to give.
            self.owes_bytes = self.unused();
        }
    }

    pub(super) fn unused(&self) -> usize {
        self.leased_bytes.saturating_sub(self.used_bytes)
    }
}

/// Asks the shards, all or all but one, for `bytes`, each in proportion to what it has leased.
pub(crate) fn ask_to_yield(
    pool: &Pool,
    gauges: &[CachePadded<ShardGauges>],
    alarms: &[Sender<()>],
    except: Option<usize>,
    bytes: usize,
) {
    let leased = |shard: usize| gauges[shard].leased_bytes.load(Ordering::Relaxed);
    let asked = || (0..alarms.len()).filter(|&shard| Some(shard) != except);
    let total: u64 = asked().map(leased).sum();
    for shard in asked() {
        let part = bytes as u128 * u128::from(leased(shard));
        let part = part.div_ceil(u128::from(total.max(1)));
        pool.ask_back(shard, part as usize);
        // An owner that has been called already will do: what it is asked for stands in the pool.
        let _ = alarms[shard].try_send(());
    }
}

/// xorshift64 (G. Marsaglia, 2003).
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
