//! How a cache is made, and why not.

use std::io;
use std::sync::Arc;
use std::thread;

use super::budget::{Pool, Share};
use super::core::Core;
use super::entry::Body;
use super::reclaim;
use crate::counted;

/// Less than this a shard has no use for.
pub(super) const SHARD_MIN_BYTES: usize = 16 << 10;
/// Leaves room for sums, and for what is taken on credit.
const BUDGET_MAX_BYTES: usize = isize::MAX as usize / 4;

/// How to make a cache: [`Builder::new`] with a budget, and what is not to be as it comes.
#[derive(Debug, Clone)]
pub struct Builder {
    budget_bytes: usize,
    shards: Option<usize>,
    cores: Vec<usize>,
    shares: Vec<Share>,
}

/// Why a cache was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The number of shards was set to 0.
    #[error("0 shards were asked for; ask for one at least, or leave it to the cache")]
    NoShards,
    /// More shards than can be told apart.
    #[error(
        "{0} shards were asked for; a cache has 65536 at the most, and one for each core is enough"
    )]
    TooManyShards(usize),
    /// The budget is smaller than the shards need for themselves.
    #[error(
        "a budget of {budget_bytes} bytes is too small: for {} the least is {least_bytes} bytes; give more, or ask for fewer \
         shards", counted(*.shards, "shard", "shards")
    )]
    BudgetTooSmall {
        /// The budget that was asked for.
        budget_bytes: usize,
        /// The shards that were to share it.
        shards: usize,
        /// The least that they need.
        least_bytes: usize,
    },
    /// The budget is larger than any address space.
    #[error(
        "a budget of {0} bytes is more than any machine has, at most {BUDGET_MAX_BYTES} can be asked for"
    )]
    BudgetTooLarge(usize),
    /// The guaranteed shares add up to more than the budget.
    #[error(
        "the guaranteed shares add up to {guaranteed_bytes} bytes, the budget is {budget_bytes} bytes"
    )]
    TooMuchGuaranteed {
        /// The sum of the guarantees.
        guaranteed_bytes: usize,
        /// The budget.
        budget_bytes: usize,
    },
    /// The system gave no thread.
    #[error("no thread for a shard: {0}")]
    Thread(#[from] io::Error),
}

impl Builder {
    /// A cache that takes `budget_bytes` of memory: entries, their overhead, and what was evicted but is still held.
    pub fn new(budget_bytes: usize) -> Self {
        Self {
            budget_bytes,
            shards: None,
            cores: Vec::new(),
            shares: Vec::new(),
        }
    }

    /// The number of shards, each with an owner thread, which sleeps while there is nothing to look after. Without this
    /// there is one for each core, eight at the most, and fewer where the budget is small.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Binds the owner of shard i to the i-th of these cores, going round. Where the system refuses a core, the owner
    /// runs unbound, and the log has one warning for all of them.
    pub fn pin_to(mut self, cores: impl IntoIterator<Item = usize>) -> Self {
        self.cores = cores.into_iter().collect();
        self
    }

    pub(crate) fn budget(&self) -> usize {
        self.budget_bytes
    }

    /// Divides the budget. Partitions are numbered from 0 in the order of these shares.
    pub(crate) fn partitions(mut self, shares: Vec<Share>) -> Self {
        self.shares = shares;
        self
    }

    fn shard_count(&self) -> Result<usize, BuildError> {
        let shards = self.shards.unwrap_or_else(|| {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            cores.min(8).min(self.budget_bytes >> 20).max(1)
        });
        match shards {
            0 => Err(BuildError::NoShards),
            65537.. => Err(BuildError::TooManyShards(shards)),
            _ => Ok(shards),
        }
    }

    fn check(&self, shards: usize) -> Result<(), BuildError> {
        let budget_bytes = self.budget_bytes;
        check_budget(budget_bytes, shards)?;
        let guaranteed = self.shares.iter().map(|share| share.guaranteed_bytes);
        let guaranteed_bytes = guaranteed.fold(0, usize::saturating_add);
        if guaranteed_bytes > budget_bytes {
            return Err(BuildError::TooMuchGuaranteed {
                guaranteed_bytes,
                budget_bytes,
            });
        }
        Ok(())
    }

    pub(super) fn build<B: Body>(&self) -> Result<Core<B>, BuildError> {
        let shards = self.shard_count()?;
        self.check(shards)?;
        reclaim::prepare();
        let shares = if self.shares.is_empty() {
            &[Share::WHOLE][..]
        } else {
            &self.shares
        };
        Core::start(
            Arc::new(Pool::new(self.budget_bytes, shards, shares)),
            shards,
            &self.cores,
        )
    }
}

/// Whether so many shards can share such a budget.
pub(super) fn check_budget(budget_bytes: usize, shards: usize) -> Result<(), BuildError> {
    let least_bytes = shards * SHARD_MIN_BYTES;
    if budget_bytes > BUDGET_MAX_BYTES {
        return Err(BuildError::BudgetTooLarge(budget_bytes));
    }
    if budget_bytes < least_bytes {
        return Err(BuildError::BudgetTooSmall {
            budget_bytes,
            shards,
            least_bytes,
        });
    }
    Ok(())
}
