//! Tokens in two queues. A queue is divided into classes by weight, each in the order in which entries came; with one
//! class it is a plain queue.

/// No token.
pub const NONE: u32 = u32::MAX;

/// Where a token is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
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
    /// When the entry came in at the head.
    since: u32,
    place: Place,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

pub struct Queue<const CLASSES: usize> {
    pub len: usize,
    pub weight: u64,
    lists: [List; CLASSES],
    /// A bit for each list that is not empty.
    occupied: u32,
}

impl<const CLASSES: usize> Queue<CLASSES> {
    const EMPTY: Self = Self {
        len: 0,
        weight: 0,
        lists: [List {
            head: NONE,
            tail: NONE,
        }; CLASSES],
        occupied: 0,
    };
}

/// Both queues, and the time: how many entries have come so far.
pub struct Queues<const CLASSES: usize> {
    pub small: Queue<CLASSES>,
    pub main: Queue<CLASSES>,
    /// Goes round after 2^32; what has been here for longer than that looks young for once.
    pub now: u32,
    nodes: Vec<Node>,
    free: u32,
}

impl<const CLASSES: usize> Default for Queues<CLASSES> {
    fn default() -> Self {
        Self {
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            now: 0,
            nodes: Vec::new(),
            free: NONE,
        }
    }
}

impl<const CLASSES: usize> Queues<CLASSES> {
    pub const BYTES_AN_ENTRY: usize = size_of::<Node>();

    pub fn len(&self) -> usize {
        self.small.len + self.main.len
    }

    pub fn weight(&self) -> u64 {
        self.small.weight + self.main.weight
    }

    /// # Panics
    /// If `place` is no queue.
    pub fn queue(&self, place: Place) -> &Queue<CLASSES> {
        match place {
            Place::Small => &self.small,
            Place::Main => &self.main,
            Place::Free => panic!("a free token is in no queue"),
        }
    }

    fn queue_mut(&mut self, place: Place) -> &mut Queue<CLASSES> {
        match place {
            Place::Small => &mut self.small,
            Place::Main => &mut self.main,
            Place::Free => panic!("a free token is in no queue"),
        }
    }

    /// Takes in a new entry at the head of a queue.
    pub fn admit(&mut self, weight: u32, place: Place) -> u32 {
        let node = Node {
            newer: NONE,
            older: NONE,
            weight,
            since: self.now,
            place: Place::Free,
        };
        let token = if self.free == NONE {
            self.nodes.push(node);
            u32::try_from(self.nodes.len() - 1).expect("a shard has fewer than 2^32 entries")
        } else {
            let token = self.free;
            self.free = self.nodes[token as usize].older;
            self.nodes[token as usize] = node;
            token
        };
        self.push(token, place);
        token
    }

    /// Takes an entry out.
    ///
    /// # Panics
    /// If `token` is not in use.
    pub fn remove(&mut self, token: u32) {
        self.unlink(token);
        let free = self.free;
        let node = &mut self.nodes[token as usize];
        (node.older, node.place) = (free, Place::Free);
        self.free = token;
    }

    /// Moves an entry to the head of a queue, as if it came only now.
    pub fn requeue(&mut self, token: u32, place: Place) {
        self.unlink(token);
        self.push(token, place);
    }

    /// The last of a queue: of the oldest in each class, the one with the highest [`rent`].
    pub fn tail(&self, place: Place) -> Option<u32> {
        let queue = self.queue(place);
        if queue.occupied.is_power_of_two() {
            return Some(queue.lists[queue.occupied.trailing_zeros() as usize].tail);
        }
        let classes = (0..CLASSES).filter(|class| queue.occupied >> class & 1 == 1);
        let tails = classes.map(|class| queue.lists[class].tail);
        tails.max_by(|&a, &b| self.rent(a).total_cmp(&self.rent(b)))
    }

    /// What an entry has cost since it came to where it is.
    pub fn rent(&self, token: u32) -> f64 {
        let node = &self.nodes[token as usize];
        rent(self.now.wrapping_sub(node.since), node.weight)
    }

    pub fn weight_of(&self, token: u32) -> u32 {
        self.nodes[token as usize].weight
    }

    pub fn place_of(&self, token: u32) -> Place {
        self.nodes[token as usize].place
    }

    fn push(&mut self, token: u32, place: Place) {
        let (now, weight) = (self.now, self.nodes[token as usize].weight);
        let class = class_of::<CLASSES>(weight);
        let queue = self.queue_mut(place);
        queue.len += 1;
        queue.weight += u64::from(weight);
        queue.occupied |= 1 << class;
        let list = &mut queue.lists[class];
        let head = std::mem::replace(&mut list.head, token);
        if head == NONE {
            list.tail = token;
        } else {
            self.nodes[head as usize].newer = token;
        }
        let node = &mut self.nodes[token as usize];
        (node.newer, node.older) = (NONE, head);
        (node.since, node.place) = (now, place);
    }

    fn unlink(&mut self, token: u32) {
        let node = self.nodes[token as usize];
        let class = class_of::<CLASSES>(node.weight);
        let queue = self.queue_mut(node.place);
        queue.len -= 1;
        queue.weight -= u64::from(node.weight);
        let list = &mut queue.lists[class];
        if list.head == token {
            list.head = node.older;
        }
        if list.tail == token {
            list.tail = node.newer;
        }
        if list.head == NONE {
            queue.occupied &= !(1 << class);
        }
        if node.newer != NONE {
            self.nodes[node.newer as usize].older = node.older;
        }
        if node.older != NONE {
            self.nodes[node.older as usize].newer = node.newer;
        }
    }
}

/// The class of a weight: its logarithm, where there is more than one class.
fn class_of<const CLASSES: usize>(weight: u32) -> usize {
    if CLASSES == 1 {
        return 0;
    }
    weight.max(1).ilog2() as usize
}

/// What it costs to keep a weight for so long: the time by the square root of the weight.
pub fn rent(age: u32, weight: u32) -> f64 {
    (f64::from(age) + 1.0) * f64::from(weight.max(1)).sqrt()
}

#[cfg(test)]
impl<const CLASSES: usize> Queues<CLASSES> {
    /// Checks every invariant of the queues.
    pub fn validate(&self) {
        let mut seen = std::collections::HashSet::new();
        for place in [Place::Small, Place::Main] {
            let queue = self.queue(place);
            let (mut len, mut weight) = (0, 0);
            for (class, list) in queue.lists.iter().enumerate() {
                let (mut newer, mut at) = (NONE, list.head);
                assert_eq!(queue.occupied >> class & 1 == 1, at != NONE);
                while at != NONE {
                    let node = self.nodes[at as usize];
                    assert!(seen.insert(at), "a token is in a queue twice");
                    assert_eq!((node.newer, node.place), (newer, place));
                    assert_eq!(class_of::<CLASSES>(node.weight), class);
                    let age = |token: u32| self.now.wrapping_sub(self.nodes[token as usize].since);
                    assert!(newer == NONE || age(newer) <= age(at), "out of order");
                    weight += u64::from(node.weight);
                    len += 1;
                    (newer, at) = (at, node.older);
                }
                assert_eq!(list.tail, newer);
            }
            assert_eq!((queue.len, queue.weight), (len, weight));
        }
        let mut free = self.free;
        while free != NONE {
            assert!(seen.insert(free), "a free token is in use");
            assert_eq!(self.nodes[free as usize].place, Place::Free);
            free = self.nodes[free as usize].older;
        }
        assert_eq!(seen.len(), self.nodes.len(), "a token is lost");
    }
}
