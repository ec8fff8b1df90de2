//! Giving back the memory of what has expired: the owner walks its table, some buckets a turn, once something in it
//! has expired.
//!
//! Entries that expire are in no list: a list costs each of them memory, and what is replaced again and again leaves
//! its traces in it. What is kept is the earliest expiry, so that nothing is walked for nothing, and how long a walk
//! took, so that walks take a small part of the time. What has expired is not served meanwhile.

use std::ptr::NonNull;

use super::super::clock::NEVER;
use super::super::entry::{Body, Header};
use super::super::stats::Cause;
use super::{Owner, expiry_ns};

/// Buckets that are looked at in one turn.
const BUCKETS_A_TURN: usize = 256;
/// A walk begins so many of its lengths after the last one did, and so long after it at the least.
const REST: u64 = 50;
const REST_MIN_NS: u64 = 100_000_000;

pub(super) struct Patrol {
    /// No entry expires earlier.
    earliest_ns: u64,
    walk: Option<Walk>,
    /// The next walk begins no earlier.
    rested_ns: u64,
}

struct Walk {
    bucket: usize,
    begun_ns: u64,
    earliest_ns: u64,
}

impl Default for Patrol {
    fn default() -> Self {
        Self {
            earliest_ns: NEVER,
            walk: None,
            rested_ns: 0,
        }
    }
}

impl Patrol {
    /// An entry has come that expires then.
    #[inline]
    pub fn expect(&mut self, expiry_ns: u64) {
        self.earliest_ns = self.earliest_ns.min(expiry_ns);
        if let Some(walk) = &mut self.walk {
            walk.earliest_ns = walk.earliest_ns.min(expiry_ns);
        }
    }

    /// When there is something to be done; [`NEVER`] while nothing expires.
    #[inline]
    pub fn due_ns(&self) -> u64 {
        match self.walk {
            Some(_) => 0,
            None if self.earliest_ns == NEVER => NEVER,
            None => self.earliest_ns.max(self.rested_ns),
        }
    }
}

impl<B: Body> Owner<B> {
    /// Goes on with a walk, or begins one if it is time.
    pub(super) fn patrol(&mut self) {
        let now_ns = self.clock.now_ns();
        if self.patrol.due_ns() > now_ns {
            return;
        }
        let mut walk = self.patrol.walk.take().unwrap_or_else(|| {
            self.writer.begin_walk();
            Walk {
                bucket: 0,
                begun_ns: now_ns,
                earliest_ns: NEVER,
            }
        });
        let to = (walk.bucket + BUCKETS_A_TURN).min(self.writer.buckets());
        for bucket in walk.bucket..to {
            walk.earliest_ns = walk.earliest_ns.min(self.drop_expired(bucket, now_ns));
        }
        if to < self.writer.buckets() {
            walk.bucket = to;
            self.patrol.walk = Some(walk);
            return;
        }
        self.writer.end_walk();
        let took_ns = self.clock.now_ns() - walk.begun_ns;
        self.patrol = Patrol {
            earliest_ns: walk.earliest_ns,
            walk: None,
            rested_ns: now_ns + (REST * took_ns).max(REST_MIN_NS),
        };
        self.sweep();
    }

    /// Returns the earliest expiry among those that stay.
    fn drop_expired(&mut self, bucket: usize, now_ns: u64) -> u64 {
        let mut earliest_ns = NEVER;
        let mut is_past = |entry: &NonNull<Header>| {
            let expiry_ns = expiry_ns::<B>(*entry);
            if expiry_ns > now_ns {
                earliest_ns = earliest_ns.min(expiry_ns);
            }
            expiry_ns <= now_ns
        };
        let past: Vec<_> = self.writer.bucket(bucket).filter(&mut is_past).collect();
        for entry in past {
            self.writer.unlink(entry);
            self.drop_out(entry, Cause::Expired);
        }
        earliest_ns
    }
}
