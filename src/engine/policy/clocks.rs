use super::ghosts::{Ghost, Ghosts};
use super::queues::{Place, Queues, Tail, rent, root};
use super::{Entries, Policy, Token};

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

    fn admit(&mut self, token: Token, entries: &mut impl Entries) {
        self.queues.now = self.queues.now.wrapping_add(1);
        let place = match self.ghosts.take(entries.hash(token), self.queues.now) {
            Some(ghost) => self.place_of(ghost, entries.weight(token), entries),
            None => Place::Small,
        };
        self.queues.push(token, place, entries);
        if self.weight() > self.full_weight {
            self.fill_main(entries);
        }
    }

    fn replace(&mut self, old: Token, new: Token, entries: &mut impl Entries) {
        self.queues.replace(old, new, entries);
        self.forget_full_weight();
    }

    fn remove(&mut self, token: Token, entries: &mut impl Entries) {
        self.queues.remove(token, entries);
        self.forget_full_weight();
    }

    fn evict(&mut self, entries: &mut impl Entries) -> Option<Token> {
        self.full_weight = self.full_weight.max(self.weight());
        let small_weight_max = self.small_weight_max();
        for _ in 0..PASSES {
            let (place, token) = self.next(small_weight_max)?;
            if self.is_victim(place, token, entries) {
                return Some(self.take_out(place, token, entries));
            }
        }
        // No reader can keep the caller here: one that is hit as fast as it is looked at goes all the same.
        let (place, token) = self.next(small_weight_max)?;
        Some(self.take_out(place, token, entries))
    }
}

impl TwoClocks {
    /// All tokens, in no order.
    pub fn for_each(&self, f: impl FnMut(Token)) {
        self.queues.for_each(f);
    }

    /// Whether an entry with this [place](Entries::place) is in the main queue: it has been asked for again and again.
    pub fn is_main(place: u32) -> bool {
        Place::read(place) == Place::Main
    }

    /// A hint: an entry with this [hash](Entries::hash) will soon be admitted.
    #[inline]
    pub fn expect(&self, hash: u32) {
        self.ghosts.expect(hash);
    }

    /// The heap memory of queues and ghosts, as it is now.
    pub fn bytes(&self) -> usize {
        self.queues.bytes() + self.ghosts.bytes()
    }

    /// Which entry the hands point at, and where.
    fn next(&self, small_weight_max: f64) -> Option<(Place, Token)> {
        let queues = &self.queues;
        let is_over = queues.small.weight as f64 > small_weight_max;
        let place = if queues.main.len == 0 || is_over && queues.small.len > 0 {
            Place::Small
        } else {
            Place::Main
        };
        Some((place, queues.tail(place)?.token))
    }

    /// Whether an entry goes; if not, it is put where it belongs.
    fn is_victim(&mut self, place: Place, token: Token, entries: &mut impl Entries) -> bool {
        let counter = entries.counter(token);
        if counter == 0 {
            return true;
        }
        let (place, counter) = match place {
            Place::Small if counter < PROMOTE_AT => (Place::Small, 0),
            Place::Small => (Place::Main, 0),
            Place::Main => (Place::Main, counter - 1),
        };
        entries.set_counter(token, counter);
        self.queues.requeue(token, place, entries);
        false
    }

    fn take_out(&mut self, place: Place, token: Token, entries: &mut impl Entries) -> Token {
        let count = (GHOSTS * self.len() as f64) as usize;
        let hash = entries.hash(token);
        self.queues.remove(token, entries);
        let left_main = place == Place::Main;
        self.ghosts.insert(hash, left_main, self.queues.now, count);
        if !left_main {
            self.move_boundary(-STEP_BACK);
            self.give_away(entries);
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
            .map_or(0.0, |tail| tail.rent(self.queues.now));
        let away = rent(ghost.age, root(weight));
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
            let token = tail.token;
            let counter = entries.counter(token);
            if counter == 0 {
                return cost < MARGIN * tail.rent(self.queues.now);
            }
            entries.set_counter(token, counter - 1);
            self.queues.requeue(token, Place::Main, entries);
        }
        false
    }

    /// Makes the small queue larger by so many entries of mean weight.
    fn move_boundary(&mut self, entries: f64) {
        let share = self.share + entries / self.len().max(1) as f64;
        self.share = share.clamp(SHARE_MIN, SHARE_MAX);
    }

    /// While there is room, the small queue gives what it has too much to the main queue.
    fn fill_main(&mut self, entries: &mut impl Entries) {
        for _ in 0..LOOKS {
            if self.queues.small.len <= 1 || self.small_excess() <= 0.0 {
                return;
            }
            self.promote_tail(entries);
        }
    }

    /// Where there is none, it gives away one entry for each that it evicts, until it has its share.
    fn give_away(&mut self, entries: &mut impl Entries) {
        let (excess, slack) = (self.small_excess(), SHARE_SLACK * self.weight() as f64);
        if self.queues.small.len <= 1 || excess <= slack {
            return;
        }
        let tail = self.queues.tail(Place::Small);
        if tail.is_some_and(|tail| excess > f64::from(tail.weight) + slack) {
            self.promote_tail(entries);
        }
    }

    fn promote_tail(&mut self, entries: &mut impl Entries) {
        if let Some(&Tail { token, .. }) = self.queues.tail(Place::Small) {
            self.queues.requeue(token, Place::Main, entries);
        }
    }

    /// After a clear the cache fills as it did at first.
    #[inline]
    fn forget_full_weight(&mut self) {
        let at_most = 2 * self.weight();
        // Mostly nothing changes, and then nothing is written.
        if self.full_weight > at_most {
            self.full_weight = at_most;
        }
    }

    fn small_weight_max(&self) -> f64 {
        self.share * self.weight() as f64
    }

    /// The weight that the small queue has beyond its share.
    fn small_excess(&self) -> f64 {
        self.queues.small.weight as f64 - self.small_weight_max()
    }
}

#[cfg(test)]
impl TwoClocks {
    /// Checks every invariant.
    pub(super) fn validate(&self, entries: &impl Entries) {
        self.queues.validate(entries);
        self.ghosts.validate();
        assert!(
            (SHARE_MIN..=SHARE_MAX).contains(&self.share),
            "{}",
            self.share
        );
    }

    pub(super) fn ghost_count(&mut self) -> usize {
        self.ghosts.len()
    }

    pub(super) fn small_len(&self) -> usize {
        self.queues.small.len
    }
}
