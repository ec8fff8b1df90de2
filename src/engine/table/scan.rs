//! A walk through a table that everybody goes on using.
//!
//! It takes the buckets in the order of their numbers read backwards, from the lowest bit on, after P. Noordhuis's
//! SCAN in Redis. In that order a bucket holds an interval of the hashes; a split cuts an interval in two, and a merge
//! makes one of two. So no entry ever moves past a walk, whichever way, and where the walk is takes one number.

use std::ptr::NonNull;

use super::{Header, Shape, Table, prefetch};
use crate::engine::reclaim::{Guard, Slot};

/// How far a walk has come: the hashes that are lower, read backwards, are behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position(u64);

const END: u64 = 1 << u32::BITS;

impl Position {
    pub const START: Self = Self(0);

    /// The hash at which the walk goes on.
    fn hash(self) -> u32 {
        (self.0 as u32).reverse_bits()
    }

    /// Whether a hash is still before the walk.
    fn is_before(self, hash: u32) -> bool {
        u64::from(hash.reverse_bits()) >= self.0
    }

    /// Behind a bucket of this depth.
    fn behind(bucket: usize, depth: u32) -> Option<Self> {
        let begins = u64::from((bucket as u32).reverse_bits());
        let next = begins + (END >> depth);
        (next < END).then_some(Self(next))
    }
}

/// How many of their lower bits the hashes of a bucket have in common, among `buckets` of them.
fn depth_of(bucket: usize, buckets: usize) -> u32 {
    let level = buckets.ilog2();
    let half = 1 << level;
    let is_split = bucket >= half || bucket + half < buckets;
    (level + u32::from(is_split)).min(u32::BITS)
}

/// Whether a hash belongs to a bucket of this depth.
fn is_in(hash: u32, bucket: usize, depth: u32) -> bool {
    let differs = u64::from(hash) ^ bucket as u64;
    differs & ((1 << depth) - 1) == 0
}

impl Table {
    /// Fills `found` with what `take` makes of the entries at a position, each protected while it runs; returns where
    /// to go on. An entry that is there all the while comes once.
    pub fn scan<T>(
        &self,
        position: Position,
        found: &mut Vec<T>,
        take: impl Fn(NonNull<Header>) -> T,
    ) -> Option<Position> {
        let guard = Guard::enter();
        let mut shape = self.shape();
        loop {
            let bucket = shape.bucket_of(position.hash().into());
            let depth = depth_of(bucket, shape.buckets as usize);
            found.clear();
            self.scan_bucket(bucket, guard.slot(), |entry| {
                // SAFETY: protected while this closure runs.
                let hash = unsafe { entry.as_ref() }.hash;
                // A split that is announced may have left a copy of what it moved, until it clears the place; and a merge
                // may have brought what the walk has seen.
                if is_in(hash, bucket, depth) && position.is_before(hash) {
                    found.push(take(entry));
                }
            });
            // As in `find`: places are cleared only after the new shape is out.
            let now = self.shape();
            let is_same = now.bucket_of(position.hash().into()) == bucket
                && depth_of(bucket, now.buckets as usize) == depth;
            if is_same && now.merges == shape.merges {
                let next = Position::behind(bucket, depth)?;
                self.prefetch_from(next, now);
                return Some(next);
            }
            shape = now;
        }
    }

    /// Has the entries of the next bucket fetched, and the line of the one after it.
    fn prefetch_from(&self, next: Position, shape: Shape) {
        let bucket = shape.bucket_of(next.hash().into());
        let places = self.line(bucket).places.iter();
        places.for_each(|place| self.prefetch_place(place));
        let depth = depth_of(bucket, shape.buckets as usize);
        if let Some(after) = Position::behind(bucket, depth) {
            prefetch(self.line(shape.bucket_of(after.hash().into())));
        }
    }

    fn scan_bucket(&self, bucket: usize, slot: &Slot, mut take: impl FnMut(NonNull<Header>)) {
        let mut line = Some(self.line(bucket));
        while let Some(at) = line {
            for place in &at.places {
                self.protect(place, slot).into_iter().for_each(&mut take);
            }
            line = at.tags().link().map(|number| self.overflow_line(number));
        }
    }
}

#[cfg(test)]
mod tests;
