//! What to evict: S3-FIFO (J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023), by bytes.
//!
//! Pure and single-threaded: it knows tokens, weights and fingerprints, no keys, no values, no clock. Who drives it
//! keeps a counter for each token, which hits bump and which [`Counters`] shows.
//!
//! ```text
//! new ──────────► small (a tenth) ──hit twice──► main ◄──hit: counter down, once more──┐
//!  │                   └──else──► ghost            └───────────────────────────────────┘
//!  └─fingerprint in ghost──────────────────────► main ──counter at 0──► evicted
//! ```

use std::collections::{HashMap, VecDeque};

/// The counters that hits bump, 0 to 3.
pub trait Counters {
    /// The counter of a token.
    fn get(&self, token: u32) -> u8;
    /// Sets it.
    fn set(&mut self, token: u32, counter: u8);
}

/// An entry in the small queue with this count moves to the main queue.
const PROMOTE_AT: u8 = 2;
/// The small queue's part of all bytes: one in ...
const SMALL_PART: u64 = 10;

/// How often one entry may be passed over in one choice.
const PASSES: usize = 4;

const NONE: u32 = u32::MAX;

/// The counters of entries that nobody asks for.
struct Cold;

impl Counters for Cold {
    fn get(&self, _token: u32) -> u8 {
        0
    }

    fn set(&mut self, _token: u32, _counter: u8) {}
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Free,
    Small,
    Main,
}

#[derive(Clone, Copy)]
struct Node {
    /// Towards the head, where entries come in.
    newer: u32,
    /// Towards the tail, where they leave; in a free node the next free one.
    older: u32,
    weight: u32,
    fingerprint: u32,
    place: Place,
}

#[derive(Clone, Copy)]
struct Queue {
    head: u32,
    tail: u32,
    len: usize,
    weight: u64,
}

impl Queue {
    const EMPTY: Queue = Queue {
        head: NONE,
        tail: NONE,
        len: 0,
        weight: 0,
    };
}

/// The queues of one partition of one shard.
pub struct S3Fifo {
    nodes: Vec<Node>,
    free: u32,
    small: Queue,
    main: Queue,
    ghost: Ghost,
}

impl Default for S3Fifo {
    fn default() -> Self {
        Self::new()
    }
}

impl S3Fifo {
    /// What an entry costs in these queues, its share of the ghosts included.
    pub const BYTES_AN_ENTRY: usize = size_of::<Node>() + 2 * Ghost::BYTES_AN_ENTRY;

    /// Empty queues.
    pub fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: NONE,
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            ghost: Ghost::default(),
        }
    }

    /// Entries in both queues.
    pub fn len(&self) -> usize {
        self.small.len + self.main.len
    }

    /// Whether both queues are empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The weight of all entries.
    pub fn weight(&self) -> u64 {
        self.small.weight + self.main.weight
    }

    /// Takes in a new entry; the caller sets its counter to 0. Tokens are small and used again.
    pub fn admit(&mut self, fingerprint: u32, weight: u32) -> u32 {
        let place = if self.ghost.forget(fingerprint) {
            Place::Main
        } else {
            Place::Small
        };
        let token = self.new_node(fingerprint, weight);
        self.push(token, place);
        token
    }

    /// Takes an entry out that was removed, not evicted.
    ///
    /// # Panics
    /// If `token` is not in use.
    pub fn remove(&mut self, token: u32) {
        self.unlink(token);
        self.free_node(token);
    }

    /// Chooses an entry, takes it out and returns its token; none if there is none.
    pub fn evict(&mut self, counters: &mut impl Counters) -> Option<u32> {
        // An entry is passed over once in the small queue and three times in the main one, unless hits come in
        // meanwhile: then it goes all the same, so that no reader can keep the caller here.
        for _ in 0..PASSES * self.len() {
            let victim = self.try_one(counters);
            if victim.is_some() {
                return victim;
            }
        }
        self.try_one(&mut Cold)
    }

    fn try_one(&mut self, counters: &mut impl Counters) -> Option<u32> {
        let is_small_large = self.small.len > 0 && self.small.weight * SMALL_PART > self.weight();
        if self.is_empty() {
            None
        } else if self.main.len == 0 || is_small_large {
            self.try_small(counters)
        } else {
            self.try_main(counters)
        }
    }

    fn try_small(&mut self, counters: &mut impl Counters) -> Option<u32> {
        let token = self.small.tail;
        self.unlink(token);
        if counters.get(token) >= PROMOTE_AT {
            counters.set(token, 0);
            self.push(token, Place::Main);
            return None;
        }
        let fingerprint = self.nodes[token as usize].fingerprint;
        self.free_node(token);
        self.ghost
            .remember(fingerprint, self.small.len + self.main.len);
        Some(token)
    }

    fn try_main(&mut self, counters: &mut impl Counters) -> Option<u32> {
        let token = self.main.tail;
        let counter = counters.get(token);
        self.unlink(token);
        if counter > 0 {
            counters.set(token, counter - 1);
            self.push(token, Place::Main);
            return None;
        }
        self.free_node(token);
        Some(token)
    }

    fn queue(&mut self, place: Place) -> &mut Queue {
        match place {
            Place::Small => &mut self.small,
            Place::Main => &mut self.main,
            Place::Free => panic!("a free token is in no queue"),
        }
    }

    fn push(&mut self, token: u32, place: Place) {
        let weight = u64::from(self.nodes[token as usize].weight);
        let queue = self.queue(place);
        let head = queue.head;
        queue.head = token;
        queue.len += 1;
        queue.weight += weight;
        if queue.tail == NONE {
            queue.tail = token;
        }
        if head != NONE {
            self.nodes[head as usize].newer = token;
        }
        let node = &mut self.nodes[token as usize];
        (node.newer, node.older, node.place) = (NONE, head, place);
    }

    fn unlink(&mut self, token: u32) {
        let node = self.nodes[token as usize];
        if node.newer != NONE {
            self.nodes[node.newer as usize].older = node.older;
        }
        if node.older != NONE {
            self.nodes[node.older as usize].newer = node.newer;
        }
        let queue = self.queue(node.place);
        if queue.head == token {
            queue.head = node.older;
        }
        if queue.tail == token {
            queue.tail = node.newer;
        }
        queue.len -= 1;
        queue.weight -= u64::from(node.weight);
    }

    fn new_node(&mut self, fingerprint: u32, weight: u32) -> u32 {
        let node = Node {
            newer: NONE,
            older: NONE,
            weight,
            fingerprint,
            place: Place::Free,
        };
        if self.free == NONE {
            self.nodes.push(node);
            return u32::try_from(self.nodes.len() - 1)
                .expect("a shard has fewer than 2^32 entries");
        }
        let token = self.free;
        self.free = self.nodes[token as usize].older;
        self.nodes[token as usize] = node;
        token
    }

    fn free_node(&mut self, token: u32) {
        let free = self.free;
        let node = &mut self.nodes[token as usize];
        (node.older, node.place) = (free, Place::Free);
        self.free = token;
    }
}

/// The fingerprints of what left the small queue lately, as many as there are entries at the most.
#[derive(Default)]
struct Ghost {
    order: VecDeque<(u32, u32)>,
    /// Fingerprint to the number under which it stands in `order`; an older number there is void.
    numbers: HashMap<u32, u32, ahash::RandomState>,
    next_number: u32,
}

impl Ghost {
    /// A queue place, and a map entry at the map's usual load.
    const BYTES_AN_ENTRY: usize = 8 + 14;

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
mod tests;
