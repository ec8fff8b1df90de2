use super::ghosts::{Ghost, Ghosts};
use super::queues::{Place, Queues, rent};
use super::{Entries, Policy};

/// Classes of weight, one for each bit.
const CLASSES: usize = 32;

/// An entry in the small queue with this count moves to the main queue.
const PROMOTE_AT: u8 = 2;

/// The small queue's share of all weight, at first and at its bounds.
const SHARE: f64 = 0.1;
const SHARE_MIN: f64 = 0.01;
const SHARE_MAX: f64 = 0.8;
/// A small queue that is larger than its share by this part of all weight gives entries away.
const SHARE_SLACK: f64 = 0.005;

/// A queue is asked whether it would have kept a key if it were larger by this part of all weight.
const WINDOW: f64 = 0.08;
/// By how many entries the boundary moves for a key that the small queue, or the main one, would have kept, and how
/// far it moves back when an entry leaves the small queue.
const STEP_FOR_SMALL: f64 = 3.0;
const STEP_FOR_MAIN: f64 = 4.5;
const STEP_BACK: f64 = 0.02;

/// A key goes to the main queue if it costs less than this part of what the last entry there does: one that is as
/// good as the other is no reason to change them, and its age is known only roughly.
const MARGIN: f64 = 0.8;
/// So many entries at the most are looked at, or moved, when one is admitted.
const LOOKS: usize = 8;

/// Ghosts for each entry.
const GHOSTS: f64 = 1.5;

/// So many entries at the most are passed over in one choice.
const PASSES: usize = 1000;

/// Two clocks and their ghosts; see the [module](super).
pub struct TwoClocks {
    queues: Queues<CLASSES>,
    ghosts: Ghosts,
    /// The small queue's share of all weight.
    share: f64,
    /// The highest weight at which something had to be evicted. Below it there is no telling whether there is room
    /// for more; above it there is.
    full_weight: u64,
}

impl Default for TwoClocks {
    fn default() -> Self {
        Self {
            queues: Queues::default(),
            ghosts: Ghosts::default(),
            share: SHARE,
            full_weight: 0,
        }
    }
}

impl Policy for TwoClocks {
    const BYTES_AN_ENTRY: usize = Queues::<CLASSES>::BYTES_AN_ENTRY + 2 * Ghosts::BYTES_A_GHOST;

    fn len(&self) -> usize {
        self.queues.len()
    }

    fn weight(&self) -> u64 {
        self.queues.weight()
    }

    fn admit(&mut self, hash: u64, weight: u32, entries: &mut impl Entries) -> u32 {
        self.queues.now = self.queues.now.wrapping_add(1);
        let place = match self.ghosts.take(hash, self.queues.now) {
            Some(ghost) => self.place_of(ghost, weight, entries),
            None => Place::Small,
        };
        let token = self.queues.admit(weight, place);
        if self.weight() > self.full_weight {
            self.fill_main();
        }
        token
    }

    fn remove(&mut self, token: u32) {
        self.queues.remove(token);
        // After a clear the cache fills as it did at first.
        self.full_weight = self.full_weight.min(2 * self.weight());
    }

    fn evict(&mut self, entries: &mut impl Entries) -> Option<u32> {
        self.full_weight = self.full_weight.max(self.weight());
        for _ in 0..PASSES {
            let token = self.next()?;
            if self.is_victim(token, entries) {
                return Some(self.take_out(token, entries));
            }
        }
        // No reader can keep the caller here: one that is hit as fast as it is looked at goes all the same.
        let token = self.next()?;
        Some(self.take_out(token, entries))
    }
}

impl TwoClocks {
    /// Which entry the hands point at.
    fn next(&self) -> Option<u32> {
        let queues = &self.queues;
        let is_over = queues.small.weight as f64 > self.share * queues.weight() as f64;
        let place = if queues.main.len == 0 || is_over && queues.small.len > 0 {
            Place::Small
        } else {
            Place::Main
        };
        queues.tail(place)
    }

    /// Whether an entry goes; if not, it is put where it belongs.
    fn is_victim(&mut self, token: u32, entries: &mut impl Entries) -> bool {
        let counter = entries.counter(token);
        if counter == 0 {
            return true;
        }
        let (place, counter) = match self.queues.place_of(token) {
            Place::Small if counter < PROMOTE_AT => (Place::Small, 0),
            Place::Small => (Place::Main, 0),
            _ => (Place::Main, counter - 1),
        };
        entries.set_counter(token, counter);
        self.queues.requeue(token, place);
        false
    }

    fn take_out(&mut self, token: u32, entries: &impl Entries) -> u32 {
        let left_main = self.queues.place_of(token) == Place::Main;
        let count = (GHOSTS * self.len() as f64) as usize;
        self.queues.remove(token);
        self.ghosts
            .insert(entries.hash(token), left_main, self.queues.now, count);
        if !left_main {
            self.move_boundary(-STEP_BACK);
            self.give_away();
        }
        token
    }

    /// Where a key goes that was evicted and comes back; moves the boundary.
    fn place_of(&mut self, ghost: Ghost, weight: u32, entries: &mut impl Entries) -> Place {
        let left = if ghost.left_main {
            Place::Main
        } else {
            Place::Small
        };
        // What an entry of that queue costs by the time that it leaves.
        let reach = self
            .queues
            .tail(left)
            .map_or(0.0, |tail| self.queues.rent(tail));
        let away = rent(ghost.age, weight);
        let queue_weight = self.queues.queue(left).weight.max(1) as f64;
        if away <= reach * WINDOW * self.weight() as f64 / queue_weight {
            self.move_boundary(if ghost.left_main {
                -STEP_FOR_MAIN
            } else {
                STEP_FOR_SMALL
            });
        }
        if self.is_better_than_main(reach + away, entries) {
            Place::Main
        } else {
            Place::Small
        }
    }

    /// Whether what costs so much between two requests is better than what is last in the main queue.
    fn is_better_than_main(&mut self, cost: f64, entries: &mut impl Entries) -> bool {
        for _ in 0..LOOKS {
            let Some(tail) = self.queues.tail(Place::Main) else {
                return true;
            };
            let counter = entries.counter(tail);
            if counter == 0 {
                return cost < MARGIN * self.queues.rent(tail);
            }
            entries.set_counter(tail, counter - 1);
            self.queues.requeue(tail, Place::Main);
        }
        false
    }

    /// Makes the small queue larger by so many entries of mean weight.
    fn move_boundary(&mut self, entries: f64) {
        let share = self.share + entries / self.len().max(1) as f64;
        self.share = share.clamp(SHARE_MIN, SHARE_MAX);
    }

    /// While there is room, the small queue gives what it has too much to the main queue.
    fn fill_main(&mut self) {
        for _ in 0..LOOKS {
            if self.queues.small.len > 1 && self.small_excess() > 0.0 {
                self.promote_tail();
            }
        }
    }

    /// Where there is none, it gives away one entry for each that it evicts, until it has its share.
    fn give_away(&mut self) {
        let Some(tail) = self.queues.tail(Place::Small) else {
            return;
        };
        let kept = f64::from(self.queues.weight_of(tail)) + SHARE_SLACK * self.weight() as f64;
        if self.queues.small.len > 1 && self.small_excess() > kept {
            self.promote_tail();
        }
    }

    fn promote_tail(&mut self) {
        if let Some(tail) = self.queues.tail(Place::Small) {
            self.queues.requeue(tail, Place::Main);
        }
    }

    /// The weight that the small queue has beyond its share.
    fn small_excess(&self) -> f64 {
        self.queues.small.weight as f64 - self.share * self.weight() as f64
    }
}

#[cfg(test)]
impl TwoClocks {
    /// Checks every invariant.
    pub(super) fn validate(&self) {
        self.queues.validate();
        self.ghosts.validate();
        assert!(
            (SHARE_MIN..=SHARE_MAX).contains(&self.share),
            "{}",
            self.share
        );
    }

    pub(super) fn ghost_count(&self) -> usize {
        self.ghosts.len()
    }

    pub(super) fn small_len(&self) -> usize {
        self.queues.small.len
    }
}
