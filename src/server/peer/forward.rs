//! A load on its way to another node, and who is asked next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Roster;
use super::handover::Holders;
use crate::cluster::Epoch;
use crate::group::PendingLoad;

/// Nodes that are asked for a key, one after the other, before a node does it alone.
pub(super) const RANKS: usize = 3;

/// A load on its way to another node.
pub(in super::super) struct Forward {
    pub(super) load: PendingLoad,
    pub(super) roster: Arc<Roster>,
    pub(super) aim: Aim,
    /// What was said to be left to the one who was asked last.
    pub(super) until: Instant,
}

/// Who is asked.
pub(super) enum Aim {
    /// Those in rank for the key, until one has loaded it.
    Ranks {
        /// Who is first. Who follows is looked for when that one has failed.
        owner: u16,
        /// The rank that is the next to be asked.
        next: usize,
        /// Whether a large value was not there any more when it was to be read.
        was_gone: bool,
    },
    /// Those who may hold a key of this node's, whether they do.
    Holders(Box<Holders>),
}

impl Forward {
    /// The ring by which it is asked for.
    pub fn epoch(&self) -> Epoch {
        self.roster.epoch()
    }

    /// Whether only what is held is asked for.
    pub fn is_peek(&self) -> bool {
        matches!(self.aim, Aim::Holders(_))
    }

    /// Whether one that comes before who is asked now has failed.
    pub fn is_passed_over(&self) -> bool {
        matches!(self.aim, Aim::Ranks { next: 2.., .. })
    }

    /// The next in rank.
    pub fn take_next(&mut self) -> Option<u16> {
        let Aim::Ranks { owner, next, .. } = &mut self.aim else {
            return None;
        };
        let rank = *next;
        *next += 1;
        if rank == 0 {
            return Some(*owner);
        }
        let mut ranked = [0; RANKS];
        let (group, key) = (self.load.group().name(), self.load.key());
        let ring = self.roster.ring.as_ref()?;
        let ranks = ring.rank(group.as_bytes(), key, &mut ranked);
        ranked[..ranks].get(rank).copied()
    }

    /// Whether the one who was asked had less time than those have who wait now, and that time is over.
    pub fn is_wanted_longer(&self) -> bool {
        /// What messages may take on their way.
        const SLACK: Duration = Duration::from_millis(100);
        let now = Instant::now();
        self.until <= now + SLACK && self.load.wanted_until() > self.until.max(now)
    }
}
