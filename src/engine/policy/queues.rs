//! Tokens in two queues. A queue is divided into classes by weight, each in the order in which entries came; with one
//! class it is a plain queue.

use super::blocks::{Blocks, Item, List};
use super::{Entries, Token};

/// Which queue a token is in.
///
/// ```text
/// an entry's place   | in main, 1 bit | spot among the queue's blocks, 31 bits |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Small,
    Main,
}

const IN_MAIN: u32 = 1 << 31;

impl Place {
    pub fn of(token: Token, entries: &impl Entries) -> Self {
        Self::read(entries.place(token))
    }

    /// The queue of an entry with this place.
    pub fn read(place: u32) -> Self {
        if place & IN_MAIN == 0 {
            Self::Small
        } else {
            Self::Main
        }
    }

    fn at(self, spot: u32) -> u32 {
        match self {
            Self::Small => spot,
            Self::Main => spot | IN_MAIN,
        }
    }
}

/// What stands last in a class, with what its rent comes of, so that the last of a queue is found without a look at
/// any entry.
#[derive(Clone, Copy)]
pub struct Tail {
    pub token: Token,
    pub weight: u32,
    since: u32,
    root: f64,
}

impl Tail {
    const NONE: Self = Self {
        token: 0,
        weight: 0,
        since: 0,
        root: 0.0,
    };

    #[inline]
    fn new(token: Token, since: u32, weight: u32) -> Self {
        Self {
            token,
            weight,
            since,
            root: root(weight),
        }
    }

    /// The next of its class has come to the tail.
    #[inline]
    fn become_next(&mut self, next: Item, entries: &impl Entries) {
        let weight = entries.weight(next.token);
        if weight != self.weight {
            self.root = root(weight);
        }
        (self.token, self.since, self.weight) = (next.token, next.since, weight);
    }

    /// What the entry has cost since it came to where it is.
    #[inline]
    pub fn rent(&self, now: u32) -> f64 {
        rent(now.wrapping_sub(self.since), self.root)
    }
}

#[derive(Clone, Copy)]
struct Class {
    list: List,
    /// Of no meaning while the class is empty.
    tail: Tail,
}

impl Class {
    const EMPTY: Self = Self {
        list: List::EMPTY,
        tail: Tail::NONE,
    };
}

pub struct Queue<const CLASSES: usize> {
    pub len: usize,
    pub weight: u64,
    place: Place,
    classes: [Class; CLASSES],
    /// A bit for each class that is not empty.
    occupied: u32,
    blocks: Blocks,
}

impl<const CLASSES: usize> Queue<CLASSES> {
    fn new(place: Place) -> Self {
        Self {
            len: 0,
            weight: 0,
            place,
            classes: [Class::EMPTY; CLASSES],
            occupied: 0,
            blocks: Blocks::default(),
        }
    }

    /// The last of the queue: of the oldest in each class, the one with the highest [`rent`].
    pub fn tail(&self, now: u32) -> Option<&Tail> {
        let mut occupied = self.occupied;
        if occupied == 0 {
            return None;
        }
        let tail = |occupied: u32| &self.classes[occupied.trailing_zeros() as usize].tail;
        let mut last = tail(occupied);
        occupied &= occupied - 1;
        if occupied == 0 {
            return Some(last);
        }
        let mut highest = last.rent(now);
        while occupied != 0 {
            let rent = tail(occupied).rent(now);
            if rent >= highest {
                (last, highest) = (tail(occupied), rent);
            }
            occupied &= occupied - 1;
        }
        Some(last)
    }

    fn push(&mut self, token: Token, now: u32, entries: &mut impl Entries) {
        let weight = entries.weight(token);
        let number = class_of::<CLASSES>(weight);
        let class = &mut self.classes[number];
        let spot = self.blocks.push(&mut class.list, token, now);
        entries.set_place(token, self.place.at(spot));
        if self.occupied >> number & 1 == 0 {
            self.occupied |= 1 << number;
            class.tail = Tail::new(token, now, weight);
        }
        self.len += 1;
        self.weight += u64::from(weight);
    }

    fn take(&mut self, token: Token, entries: &mut impl Entries) {
        let weight = entries.weight(token);
        let number = class_of::<CLASSES>(weight);
        let class = &mut self.classes[number];
        if self.occupied >> number & 1 == 1 && token == class.tail.token {
            match self.blocks.pop(&mut class.list) {
                Some(next) => {
                    class.tail.become_next(next, entries);
                    entries.expect(next.token, self.blocks.second(&class.list));
                }
                None => self.occupied &= !(1 << number),
            }
        } else {
            let spot = entries.place(token) & !IN_MAIN;
            self.blocks.take(&mut class.list, token, spot);
            let moved = |token, spot| entries.set_place(token, self.place.at(spot));
            self.blocks.close_hole(&mut class.list, spot, moved);
        }
        self.len -= 1;
        self.weight -= u64::from(weight);
    }

    /// Puts a token in another's place. Both are of the same class.
    fn replace(&mut self, old: Token, new: Token, entries: &mut impl Entries) {
        let (before, after) = (entries.weight(old), entries.weight(new));
        let place = entries.place(old);
        self.blocks.replace(old, new, place & !IN_MAIN);
        entries.set_place(new, place);
        let tail = &mut self.classes[class_of::<CLASSES>(after)].tail;
        if old == tail.token {
            *tail = Tail::new(new, tail.since, after);
        }
        self.weight = self.weight - u64::from(before) + u64::from(after);
    }
}

/// Both queues, and the time: how many entries have come so far.
pub struct Queues<const CLASSES: usize> {
    pub small: Queue<CLASSES>,
    pub main: Queue<CLASSES>,
    /// Goes round after 2^32; what has been here for longer than that looks young for once.
    pub now: u32,
}

impl<const CLASSES: usize> Default for Queues<CLASSES> {
    fn default() -> Self {
        Self {
            small: Queue::new(Place::Small),
            main: Queue::new(Place::Main),
            now: 0,
        }
    }
}

impl<const CLASSES: usize> Queues<CLASSES> {
    pub const BYTES_AN_ENTRY: usize = Blocks::BYTES_A_TOKEN;

    pub fn len(&self) -> usize {
        self.small.len + self.main.len
    }

    pub fn weight(&self) -> u64 {
        self.small.weight + self.main.weight
    }

    /// The heap memory that they take.
    pub fn bytes(&self) -> usize {
        self.small.blocks.bytes() + self.main.blocks.bytes()
    }

    pub fn queue(&self, place: Place) -> &Queue<CLASSES> {
        match place {
            Place::Small => &self.small,
            Place::Main => &self.main,
        }
    }

    fn queue_mut(&mut self, place: Place) -> &mut Queue<CLASSES> {
        match place {
            Place::Small => &mut self.small,
            Place::Main => &mut self.main,
        }
    }

    /// The last of a queue.
    pub fn tail(&self, place: Place) -> Option<&Tail> {
        self.queue(place).tail(self.now)
    }

    /// Takes in an entry at the head of a queue.
    pub fn push(&mut self, token: Token, place: Place, entries: &mut impl Entries) {
        let now = self.now;
        self.queue_mut(place).push(token, now, entries);
    }

    /// Takes an entry out.
    ///
    /// # Panics
    /// If `token` is in no queue.
    pub fn remove(&mut self, token: Token, entries: &mut impl Entries) {
        let place = Place::of(token, entries);
        self.queue_mut(place).take(token, entries);
    }

    /// Moves an entry to the head of a queue, as if it came only now.
    pub fn requeue(&mut self, token: Token, place: Place, entries: &mut impl Entries) {
        self.remove(token, entries);
        self.push(token, place, entries);
    }

    /// Gives an entry's place to another, if both are of one class; if not, the other is put at the head of the queue.
    ///
    /// # Panics
    /// If `old` is in no queue.
    pub fn replace(&mut self, old: Token, new: Token, entries: &mut impl Entries) {
        let place = Place::of(old, entries);
        let class = |token| class_of::<CLASSES>(entries.weight(token));
        if class(old) == class(new) {
            self.queue_mut(place).replace(old, new, entries);
        } else {
            self.remove(old, entries);
            self.push(new, place, entries);
        }
    }

    /// All tokens, in no order.
    pub fn for_each(&self, mut f: impl FnMut(Token)) {
        self.small.blocks.for_each(&mut f);
        self.main.blocks.for_each(f);
    }
}

/// The class of a weight: its logarithm, where there is more than one class.
#[inline]
fn class_of<const CLASSES: usize>(weight: u32) -> usize {
    if CLASSES == 1 {
        return 0;
    }
    weight.max(1).ilog2() as usize
}

/// What it costs to keep a weight for so long: the time by the square root of the weight.
pub fn rent(age: u32, root: f64) -> f64 {
    (f64::from(age) + 1.0) * root
}

#[inline]
pub fn root(weight: u32) -> f64 {
    f64::from(weight.max(1)).sqrt()
}

#[cfg(test)]
impl<const CLASSES: usize> Queues<CLASSES> {
    /// Checks every invariant of the queues.
    pub fn validate(&self, entries: &impl Entries) {
        let mut seen = std::collections::HashSet::new();
        for place in [Place::Small, Place::Main] {
            let queue = self.queue(place);
            let (mut len, mut weight) = (0, 0);
            for (number, class) in queue.classes.iter().enumerate() {
                let items = queue.blocks.validate(&class.list);
                assert_eq!(queue.occupied >> number & 1 == 1, !items.is_empty());
                let age = |since: u32| self.now.wrapping_sub(since);
                assert!(items.is_sorted_by_key(|(item, _)| std::cmp::Reverse(age(item.since))));
                for (item, spot) in &items {
                    assert!(seen.insert(item.token), "a token is in a queue twice");
                    assert_eq!(entries.place(item.token), place.at(*spot));
                    assert_eq!(class_of::<CLASSES>(entries.weight(item.token)), number);
                    weight += u64::from(entries.weight(item.token));
                }
                if let Some((item, _)) = items.first() {
                    let tail = (class.tail.token, class.tail.since, class.tail.weight);
                    assert_eq!(tail, (item.token, item.since, entries.weight(item.token)));
                }
                len += items.len();
            }
            queue.blocks.validate_all(len);
            assert_eq!((queue.len, queue.weight), (len, weight));
        }
    }
}

#[cfg(test)]
mod tests;
