//! Who is asked for what is missed, and what is made of the answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::super::service::Code;
use super::wire::{self, Outcome, Refusal};
use super::{Aim, Forward, KEEP_ALONE, Peer, Peers, Roster};
use crate::cluster::link::{Lost, Refused};
use crate::group::PendingLoad;
use crate::group::error::ErrorKind;
use crate::group::frame;
use crate::group::relay::Relayed;

impl Peers {
    /// Has a load done by the node that owns its key, or the next best.
    pub fn load(&self, load: PendingLoad) {
        let roster = self.roster.read().clone();
        let Some(ring) = &roster.ring else {
            return self.load_here(load);
        };
        let mut owner = [0];
        let ranks = ring.rank(load.group().name().as_bytes(), load.key(), &mut owner);
        let is_own = |position: u16| roster.peers[usize::from(position)].is_none();
        // Another node may wait for it here: it must not wait for yet another one.
        if ranks == 0 || is_own(owner[0]) {
            return self.hand_over(load, roster);
        }
        if !load.send_away() {
            return self.load_here(load);
        }
        self.counts.asked.fetch_add(1, Ordering::Relaxed);
        self.go_on(Forward {
            until: load.wanted_until(),
            load,
            aim: Aim::Ranks {
                owner: owner[0],
                next: 0,
                was_gone: false,
            },
            roster,
        });
    }

    /// Does a load for another node, which takes this one for the owner of the key or the next best.
    pub fn load_own(&self, load: PendingLoad) {
        let roster = self.roster.read().clone();
        match roster.is_own(&load) {
            true => self.hand_over(load, roster),
            false => self.load_here(load),
        }
    }

    /// Has a key of this node's from who held it until now, or loads it.
    fn hand_over(&self, load: PendingLoad, roster: Arc<Roster>) {
        let holders = roster.holders(&load, Instant::now());
        if holders.is_empty() {
            return self.load_here(load);
        }
        self.go_on(Forward {
            until: load.wanted_until(),
            load,
            aim: Aim::Holders(Box::new(holders)),
            roster,
        });
    }

    /// Asks the next one.
    pub fn go_on(&self, forward: Forward) {
        match forward.is_peek() {
            true => self.peek_on(forward),
            false => self.rank_on(forward),
        }
    }

    fn rank_on(&self, mut forward: Forward) {
        while let Some(position) = forward.take_next() {
            let Some(peer) = forward.roster.peers[usize::from(position)].clone() else {
                // All before this node have failed: it stands in for them.
                forward.load.take_back(None);
                return self.load_here(forward.load);
            };
            if forward.is_passed_over() {
                self.counts.passed_over.fetch_add(1, Ordering::Relaxed);
            }
            match peer.ask(forward) {
                Ok(()) => return,
                Err((back, Refused::Unreachable)) => forward = back,
                Err((back, Refused::Full(full))) => {
                    let cause = format!("node {} is asked for too much: {full}", peer.address);
                    return back.load.refuse(cause);
                }
            }
        }
        self.counts.alone.fetch_add(1, Ordering::Relaxed);
        forward.load.take_back(Some(KEEP_ALONE));
        self.load_here(forward.load);
    }

    pub fn load_here(&self, load: PendingLoad) {
        let group = load.group().clone();
        self.loaders.submit(&group, load);
    }

    /// Takes what another node has answered; false if that is not what it was asked for.
    pub fn answered(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        forward: Forward,
        outcome: &Outcome<'_>,
    ) -> bool {
        match *outcome {
            Outcome::Value(sent) => {
                let is_its = wire::checksum(forward.load.key(), sent.frame) == sent.checksum;
                let is_good = is_its && frame::is_valid(sent.frame);
                match is_good {
                    true => self.take(forward, &sent),
                    false => self.go_on(forward),
                }
                is_good
            }
            Outcome::TooLarge(value_bytes) => {
                self.pull(forward, peer, value_bytes);
                true
            }
            // It was a peek: the next one may hold it.
            Outcome::Failure(..) | Outcome::Refusal(_) if forward.is_peek() => {
                self.go_on(forward);
                true
            }
            Outcome::Failure(code, message) => match kind_of(code) {
                Some(ErrorKind::TimedOut) if forward.is_wanted_longer() => {
                    self.ask_again(forward);
                    true
                }
                Some(kind) => {
                    let message = String::from_utf8_lossy(message).into_owned();
                    forward.load.fail(Relayed { kind, message });
                    true
                }
                None => {
                    self.go_on(forward);
                    false
                }
            },
            Outcome::Refusal(Refusal::LoadItYourself) => {
                self.counts.sent_back.fetch_add(1, Ordering::Relaxed);
                let mut load = forward.load;
                load.take_back(Some(KEEP_ALONE));
                self.load_here(load);
                true
            }
            // It was not a peek; and what loads is not taken from the link.
            Outcome::Refusal(Refusal::NotHeld) | Outcome::Loading | Outcome::Nothing => {
                self.go_on(forward);
                false
            }
        }
    }

    pub fn lost(&self, forward: Forward, why: Lost) {
        match why {
            _ if forward.is_peek() => self.go_on(forward),
            Lost::Broken | Lost::Unheard => self.go_on(forward),
            Lost::TooLate if forward.load.wanted_until() > Instant::now() => {
                self.ask_again(forward);
            }
            Lost::TooLate => forward.load.give_up(),
        }
    }

    /// Others have come who have more time: the same node is asked once more.
    pub fn ask_again(&self, mut forward: Forward) {
        if let Aim::Ranks { next, .. } = &mut forward.aim {
            *next -= 1;
        }
        self.go_on(forward);
    }
}

/// What a code means that came with a failure; none for one that no node answers a key with.
fn kind_of(code: i32) -> Option<ErrorKind> {
    const KINDS: [ErrorKind; 8] = [
        ErrorKind::NotFound,
        ErrorKind::InvalidKey,
        ErrorKind::TooLarge,
        ErrorKind::TimedOut,
        ErrorKind::Unavailable,
        ErrorKind::Refused,
        ErrorKind::Busy,
        ErrorKind::Other,
    ];
    let mut kinds = KINDS.into_iter();
    kinds.find(|kind| Code::from(*kind) as i32 == code)
}
