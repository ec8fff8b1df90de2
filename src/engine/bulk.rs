//! Many keys at once: read with their memory fetched together, and loaded in one call.

use std::time::Instant;

use super::core::{Core, LoadTimer, Loaded};
use super::entry::{Body, Handle};
use super::flight::{Failure, Joined, Waited};
use crate::counted;

/// Keys whose lines and entries are fetched together: more than that a core does not fetch at a time anyway.
pub(super) const BATCH: usize = 16;

impl<B: Body> Core<B> {
    /// Reads the keys of many hashes: calls `read` with the index of each, in their order.
    pub fn read_many<R>(&self, hashes: &[u64], mut read: impl FnMut(usize) -> R) -> Vec<R> {
        let mut results = Vec::with_capacity(hashes.len());
        for batch in hashes.chunks(BATCH) {
            self.prefetch(batch);
            let from = results.len();
            results.extend((from..from + batch.len()).map(&mut read));
        }
        results
    }

    /// Brings what was missed. `load` is called once with the indexes of all keys that nobody loads yet, and again with
    /// those that others gave up loading, and brings an entry for each; what others load is waited for after that.
    ///
    /// No circle of waits can come of it: who waits here leads nothing any more that others could wait for.
    pub fn load_many(
        &self,
        partition: u16,
        missed: impl Iterator<Item = (usize, Joined<B>)>,
        mut load: impl FnMut(&[usize]) -> Result<Vec<Loaded<B>>, Failure>,
    ) -> Result<Vec<(usize, Handle<B>)>, Failure> {
        let (mut found, mut led, mut followed) = (Vec::new(), Vec::new(), Vec::new());
        for (index, joined) in missed {
            match joined {
                Joined::Hit(entry) => found.push((index, entry)),
                Joined::Lead(lead) => led.push((index, lead)),
                Joined::Follow(flight) => followed.push((index, flight)),
            }
        }
        if !led.is_empty() {
            let indexes: Vec<_> = led.iter().map(|(index, _)| *index).collect();
            let leading: Vec<_> = led.iter().map(|(_, lead)| lead.enter()).collect();
            let timed = LoadTimer::start(self.load_counters(partition));
            let outcome = load(&indexes);
            timed.stop(outcome.is_ok());
            drop(leading);
            match outcome {
                Ok(loaded) => {
                    for ((index, lead), loaded) in led.into_iter().zip(loaded) {
                        found.push((index, self.conclude(lead, Ok(loaded))?));
                    }
                }
                Err(failure) => {
                    for (_, lead) in led {
                        let _ = self.conclude(lead, Err(failure.clone()));
                    }
                    return Err(failure);
                }
            }
        }
        for (index, flight) in followed {
            self.count_joined(partition);
            let entry = match flight.wait(None::<Instant>) {
                Waited::Outcome(outcome) => outcome?,
                Waited::Lead | Waited::LateLead => {
                    let lead = self.take_over(flight);
                    self.lead(partition, lead, |_| {
                        let mut loaded = load(&[index])?;
                        Ok(loaded.pop().expect("one was brought for each"))
                    })?
                }
            };
            found.push((index, entry));
        }
        Ok(found)
    }
}

/// Refuses what a loader brought if it is not a value for each key.
pub(super) fn check_number(brought: usize, asked: usize) -> Result<(), Failure> {
    if brought == asked {
        return Ok(());
    }
    let text = format!(
        "the loader brought {} for {}; it has to bring one for each, in their order",
        counted(brought, "value", "values"),
        counted(asked, "key", "keys")
    );
    Err(Failure::Failed(
        Box::<dyn std::error::Error + Send + Sync>::from(text).into(),
    ))
}
