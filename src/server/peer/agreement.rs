//! Whether the other nodes go by the ring of this one. For a moment after a change they do not. Who does not for long sees other
//! members: what is missed is loaded by each of the two then, and whoever runs them is to be told.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Peer, Peers};
use crate::cluster::Epoch;
use crate::cluster::link::{Condition, Figures};

/// So long two nodes may differ before it is said: sources of members are heard by one node after the other.
const LONG: Duration = Duration::from_secs(10);

/// A node that goes by another ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Odds {
    own: Epoch,
    theirs: Epoch,
    since: Instant,
    is_said: bool,
}

impl Odds {
    /// Whether that is so for long, and news.
    fn is_due(&self, now: Instant) -> bool {
        !self.is_said && now.saturating_duration_since(self.since) >= LONG
    }

    fn words(&self, address: &str) -> String {
        let seconds = self.since.elapsed().as_secs();
        let (theirs, own) = (self.theirs.0, self.own.0);
        format!(
            "node {address} sees other members than this one, for {seconds} s: it goes by epoch {theirs:016x}, this one by \
             {own:016x}, and each loads what it misses; their members, weights and zones are to be the same"
        )
    }
}

/// What is known of a node's ring, after a look: what was known before, and what it goes by if that is another one than `own`.
fn looked(before: Option<Odds>, own: Epoch, theirs: Option<Epoch>, now: Instant) -> Option<Odds> {
    let theirs = theirs?;
    let new = Odds {
        own,
        theirs,
        since: now,
        is_said: false,
    };
    // A ring that is new here is to be heard of there first.
    let before = before.filter(|before| before.own == own);
    Some(before.map_or(new, |before| Odds { theirs, ..before }))
}

impl Peers {
    /// Whether all other members that can be reached go by the ring of this node.
    pub fn is_agreed(&self) -> bool {
        let roster = self.roster.read().clone();
        let epoch = roster.epoch();
        roster.peers.iter().flatten().all(|peer| peer.agrees(epoch))
    }

    /// Which members have gone by another ring for long, in words.
    pub fn at_odds(&self) -> Vec<String> {
        let said = self.all().into_iter().filter_map(|peer| {
            let odds = peer.odds.lock().filter(|odds| odds.is_said)?;
            Some(odds.words(&peer.address))
        });
        said.collect()
    }

    /// Looks by which rings the members go, and says in the log who goes by another one for long.
    pub(super) fn compare_rings(&self, now: Instant) {
        let roster = self.roster.read().clone();
        let own = roster.epoch();
        for peer in roster.peers.iter().flatten() {
            let mut known = peer.odds.lock();
            let before = *known;
            *known = looked(before, own, peer.other_ring(own), now);
            match &mut *known {
                Some(odds) if odds.is_due(now) => {
                    odds.is_said = true;
                    log::warn!("{}", odds.words(&peer.address));
                }
                None if before.is_some_and(|odds| odds.is_said) => {
                    log::info!("node {} sees the members that this one sees", peer.address);
                }
                _ => {}
            }
        }
    }
}

impl Peer {
    /// The ring that it goes by, as far as it can be reached, if that is another one.
    fn other_ring(&self, own: Epoch) -> Option<Epoch> {
        let open = self
            .figures()
            .filter(|link| link.condition == Condition::Closed);
        open.filter_map(|link| link.epoch)
            .find(|epoch| *epoch != own)
    }

    /// Whether it is known to go by that ring, or can not be reached.
    fn agrees(&self, ring: Epoch) -> bool {
        let says_so =
            |link: &Figures| link.condition == Condition::Closed && link.epoch == Some(ring);
        let is_gone = |link: Figures| link.condition != Condition::Closed && link.opened > 0;
        self.figures().any(|link| says_so(&link)) || self.figures().all(is_gone)
    }
}

/// What is known of it.
pub(super) type Known = Mutex<Option<Odds>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_differs_for_long_is_told_once_and_a_change_begins_anew() {
        let (own, other, now) = (Epoch(1), Epoch(2), Instant::now());
        let at =
            |odds, own, seconds| looked(odds, own, Some(other), now + Duration::from_secs(seconds));
        let due = |odds: Option<Odds>, seconds| {
            odds.is_some_and(|odds| odds.is_due(now + Duration::from_secs(seconds)))
        };
        let odds = at(None, own, 0);
        assert!(!due(at(odds, own, 9), 9) && due(at(odds, own, 10), 10));
        let said = odds.map(|odds| Odds {
            is_said: true,
            ..odds
        });
        assert!(!due(at(said, own, 20), 20));
        assert!(!due(at(odds, Epoch(3), 9), 18), "another ring here");
        assert!(looked(said, own, None, now).is_none());
        let words = odds.unwrap().words("a:1");
        assert!(
            words.contains("epoch 0000000000000002, this one by 0000000000000001"),
            "{words}"
        );
    }
}
