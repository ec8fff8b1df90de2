//! Gathering what is left in spans of which little is used, so that their memory serves other sizes; see `arena`.
//!
//! A blob is immutable, so that a copy is as good: it takes the place of the first one in table and queue, and who holds
//! or borrows that one keeps it for as long as he likes. A typed value can not be copied bit by bit: it stays where it
//! is. (Entries of that kind have one size a cache.)

use std::ptr::NonNull;

use super::super::entry::{Body, Handle, Header};
use super::super::policy::Policy;
use super::{InTable, Owner, TOLD, header, token};

/// Buckets that are looked at in one of the owner's turns, and in one that was taken for something else.
pub(super) const OWNER_BUCKETS: usize = 256;
const BUCKETS: usize = 16;
/// Between two walks this part of the slots in use has come or gone.
const CHANGED_PART: usize = 16;
/// And so many bytes at the least.
const CHANGED_MIN_BYTES: usize = 4096;

impl<B: Body> Owner<B> {
    /// Whether there is something to gather.
    pub(super) fn is_sparse(&self) -> bool {
        B::IS_PLAIN && (self.gathering.is_some() || self.is_worth_gathering())
    }

    /// What is left after a walk can not be moved, or the next one would have: that waits for changes.
    fn is_worth_gathering(&self) -> bool {
        let changed = self.arena.used_bytes().abs_diff(self.gathered_bytes);
        let was_gathered = self.gathered_bytes > 0;
        let least =
            self.gathered_bytes / CHANGED_PART + usize::from(was_gathered) * CHANGED_MIN_BYTES;
        self.arena.is_sparse() && changed > least
    }

    /// Where more is emptied than the owner can follow, those who change the shard help it.
    pub(super) fn help_gathering(&mut self) {
        if B::IS_PLAIN && self.arena.is_very_sparse() {
            self.gather(BUCKETS);
        }
    }

    /// Goes on with a walk over the table, or begins one.
    pub(super) fn gather(&mut self, buckets: usize) {
        if !self.is_sparse() || self.counts_twice() {
            return;
        }
        let from = self.gathering.take().unwrap_or_else(|| {
            self.gathered_bytes = self.arena.used_bytes();
            self.arena.close_sparse_spans();
            self.writer.begin_walk();
            0
        });
        let to = (from + buckets).min(self.writer.buckets());
        for bucket in from..to {
            // SAFETY: the table holds a reference to each entry that it shows its writer.
            let is_moved = |entry: &NonNull<Header>| unsafe {
                // A copy of what somebody holds would free nothing.
                B::is_in_closed_span(*entry) && entry.as_ref().is_unshared()
            };
            let moved: Vec<_> = self.writer.bucket(bucket).filter(is_moved).collect();
            moved.into_iter().for_each(|entry| self.move_away(entry));
        }
        if to < self.writer.buckets() {
            self.gathering = Some(to);
            return;
        }
        self.writer.end_walk();
        self.sweep();
        self.arena.open_spans();
    }

    /// What the last walk has copied is dropped when the turn has ended. A walk that begins before that takes it for slots
    /// in use, and its drop for a change: one walk would be the reason for the next, without an end.
    fn counts_twice(&self) -> bool {
        self.gathering.is_none() && !self.dead.is_empty()
    }

    fn move_away(&mut self, old: NonNull<Header>) {
        // SAFETY: linked; plain, as `is_sparse` says.
        let new = unsafe { B::copy(&self.arena, old) };
        self.writer.exchange(old, new.as_ptr());
        let partition = usize::from(new.header().partition());
        let new: NonNull<Header> = Handle::into_raw(new);
        self.policies[partition].replace(
            token(old),
            token(new),
            &mut InTable::<B>::new(&self.writer),
        );
        let weight = self.weight_of(old);
        self.used_bytes += weight;
        self.retired_bytes += weight;
        header(token(old)).set_place(TOLD);
        self.retired.push(old);
    }
}
