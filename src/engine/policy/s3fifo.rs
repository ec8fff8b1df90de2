use std::collections::{HashMap, VecDeque};

use super::queues::{Place, Queues};
use super::{Entries, Policy, Token};

/// An entry in the small queue with this count moves to the main queue.
const PROMOTE_AT: u8 = 2;
/// The small queue's part of all bytes: one in ...
const SMALL_PART: u64 = 10;
/// How often one entry may be passed over in one choice.
const PASSES: usize = 4;

/// S3-FIFO as its authors have it (J. Yang et al., SOSP 2023), by bytes.
///
/// ```text
/// new ──────────► small (a tenth) ──hit twice──► main ◄──hit: counter down, once more──┐
///  │                   └──else──► ghost            └───────────────────────────────────┘
///  └─hash in ghost─────────────────────────────► main ──counter at 0──► evicted
/// ```
///
/// As in libCacheSim, what comes while the small queue is full and the cache is not goes to the main queue.
#[derive(Default)]
pub struct S3Fifo {
    queues: Queues<1>,
    ghosts: Ghosts,
    has_evicted: bool,
}

impl Policy for S3Fifo {
    const BYTES_AN_ENTRY: usize = Queues::<1>::BYTES_AN_ENTRY + 2 * Ghosts::BYTES_A_GHOST;

    fn len(&self) -> usize {
        self.queues.len()
    }

    fn weight(&self) -> u64 {
        self.queues.weight()
    }

    fn admit(&mut self, token: Token, entries: &mut impl Entries) {
        self.queues.now = self.queues.now.wrapping_add(1);
        let place = if self.ghosts.forget(entries.hash(token)) {
            Place::Main
        } else {
            Place::Small
        };
        self.queues.push(token, place, entries);
        while !self.has_evicted && self.queues.small.len > 1 && self.is_small_over() {
            let tail = self.queues.tail(Place::Small);
            let token = tail.expect("it is not empty").token;
            self.queues.requeue(token, Place::Main, entries);
        }
    }

    fn replace(&mut self, old: Token, new: Token, entries: &mut impl Entries) {
        self.queues.replace(old, new, entries);
    }

    fn remove(&mut self, token: Token, entries: &mut impl Entries) {
        self.queues.remove(token, entries);
    }

    fn evict(&mut self, entries: &mut impl Entries) -> Option<Token> {
        self.has_evicted = true;
        // An entry is passed over once in the small queue and three times in the main one, unless hits come in
        // meanwhile: then it goes all the same, so that no reader can keep the caller here.
        for _ in 0..PASSES * self.len() {
            let victim = self.try_one(entries);
            if victim.is_some() {
                return victim;
            }
        }
        self.try_one(&mut Cold(entries))
    }
}

impl S3Fifo {
    fn is_small_over(&self) -> bool {
        self.queues.small.weight * SMALL_PART > self.weight()
    }

    fn try_one(&mut self, entries: &mut impl Entries) -> Option<Token> {
        let is_small_over = self.queues.small.len > 0 && self.is_small_over();
        if self.queues.main.len == 0 || is_small_over {
            self.try_small(entries)
        } else {
            self.try_main(entries)
        }
    }

    fn try_small(&mut self, entries: &mut impl Entries) -> Option<Token> {
        let token = self.queues.tail(Place::Small)?.token;
        if entries.counter(token) >= PROMOTE_AT {
            entries.set_counter(token, 0);
            self.queues.requeue(token, Place::Main, entries);
            return None;
        }
        self.queues.remove(token, entries);
        let count = self.len();
        self.ghosts.remember(entries.hash(token), count);
        Some(token)
    }

    fn try_main(&mut self, entries: &mut impl Entries) -> Option<Token> {
        let token = self.queues.tail(Place::Main)?.token;
        let counter = entries.counter(token);
        if counter > 0 {
            entries.set_counter(token, counter - 1);
            self.queues.requeue(token, Place::Main, entries);
            return None;
        }
        self.queues.remove(token, entries);
        Some(token)
    }
}

/// The entries as they would be if nobody asked for any.
struct Cold<'a, E>(&'a mut E);

impl<E: Entries> Entries for Cold<'_, E> {
    fn counter(&self, _token: Token) -> u8 {
        0
    }

    fn set_counter(&mut self, token: Token, counter: u8) {
        self.0.set_counter(token, counter);
    }

    fn hash(&self, token: Token) -> u32 {
        self.0.hash(token)
    }

    fn weight(&self, token: Token) -> u32 {
        self.0.weight(token)
    }

    fn place(&self, token: Token) -> u32 {
        self.0.place(token)
    }

    fn set_place(&mut self, token: Token, place: u32) {
        self.0.set_place(token, place);
    }
}

/// The fingerprints of what left the small queue lately, as many as there are entries at the most.
#[derive(Default)]
struct Ghosts {
    order: VecDeque<(u32, u32)>,
    /// Fingerprint to the number under which it stands in `order`; an older number there is void.
    numbers: HashMap<u32, u32, ahash::RandomState>,
    next_number: u32,
}

impl Ghosts {
    /// A queue place, and a map entry at the map's usual load.
    const BYTES_A_GHOST: usize = 8 + 14;

    fn remember(&mut self, fingerprint: u32, at_most: usize) {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        self.numbers.insert(fingerprint, number);
        self.order.push_back((fingerprint, number));
        while self.order.len() > at_most.max(1) {
            let Some((oldest, number)) = self.order.pop_front() else {
                break;
            };
            if self.numbers.get(&oldest) == Some(&number) {
                self.numbers.remove(&oldest);
            }
        }
    }

    fn forget(&mut self, fingerprint: u32) -> bool {
        self.numbers.remove(&fingerprint).is_some()
    }
}

#[cfg(test)]
impl S3Fifo {
    /// Checks every invariant.
    pub(super) fn validate(&self, entries: &impl Entries) {
        self.queues.validate(entries);
        assert!(self.ghosts.numbers.len() <= self.ghosts.order.len());
    }

    /// Entries in the small queue, and in the main one.
    pub(super) fn lens(&self) -> (usize, usize) {
        (self.queues.small.len, self.queues.main.len)
    }
}
