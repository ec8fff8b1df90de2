use std::cell::Cell;
use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Default)]
pub struct Held {
    counter: u8,
    hash: u32,
    pub weight: u32,
    place: u32,
}

/// By token; the first stands for none.
#[derive(Clone)]
pub struct Hits(pub Vec<Held>);

impl Default for Hits {
    fn default() -> Self {
        Self(vec![Held::default()])
    }
}

impl Entries for Hits {
    fn counter(&self, token: Token) -> u8 {
        self.0[token as usize].counter
    }

    fn set_counter(&mut self, token: Token, counter: u8) {
        self.0[token as usize].counter = counter;
    }

    fn hash(&self, token: Token) -> u32 {
        self.0[token as usize].hash
    }

    fn weight(&self, token: Token) -> u32 {
        self.0[token as usize].weight
    }

    fn place(&self, token: Token) -> u32 {
        self.0[token as usize].place
    }

    fn set_place(&mut self, token: Token, place: u32) {
        self.0[token as usize].place = place;
    }
}

impl Hits {
    pub fn add(&mut self, key: u64, weight: u32) -> Token {
        let hash = (key.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32;
        self.0.push(Held {
            hash,
            weight,
            ..Held::default()
        });
        self.0.len() as Token - 1
    }

    fn admit(&mut self, queues: &mut impl Policy, key: u64, weight: u32) -> Token {
        let token = self.add(key, weight);
        queues.admit(token, self);
        token
    }

    fn hit(&mut self, token: Token) {
        let counter = &mut self.0[token as usize].counter;
        *counter = (*counter + 1).min(COUNTER_TOP);
    }

    fn counters(&self) -> Vec<u8> {
        self.0.iter().map(|held| held.counter).collect()
    }
}

/// S3-FIFO as the paper has it, over plain queues: (token, weight, key), the oldest first.
#[derive(Default)]
struct Plain {
    small: VecDeque<(Token, u64, u64)>,
    main: VecDeque<(Token, u64, u64)>,
    ghost: VecDeque<(u64, bool)>,
    has_evicted: bool,
}

fn weight(queue: &VecDeque<(Token, u64, u64)>) -> u64 {
    queue.iter().map(|entry| entry.1).sum()
}

impl Plain {
    fn is_small_over(&self) -> bool {
        weight(&self.small) * 10 > weight(&self.small) + weight(&self.main)
    }

    fn admit(&mut self, token: Token, weight: u32, key: u64) {
        let mut ghosts = self.ghost.iter_mut();
        let entry = (token, u64::from(weight), key);
        if let Some(ghost) = ghosts.find(|ghost| **ghost == (key, true)) {
            ghost.1 = false;
            self.main.push_back(entry);
        } else {
            self.small.push_back(entry);
        }
        while !self.has_evicted && self.small.len() > 1 && self.is_small_over() {
            self.main.extend(self.small.pop_front());
        }
    }

    fn replace(&mut self, old: Token, new: Token, weight: u32) {
        let mut entries = self.small.iter_mut().chain(&mut self.main);
        let entry = entries.find(|entry| entry.0 == old).expect("it is there");
        (entry.0, entry.1) = (new, u64::from(weight));
    }

    fn remove(&mut self, token: Token) {
        self.small.retain(|entry| entry.0 != token);
        self.main.retain(|entry| entry.0 != token);
    }

    fn evict(&mut self, hits: &mut Hits) -> Option<Token> {
        self.has_evicted = true;
        loop {
            if self.main.is_empty() || !self.small.is_empty() && self.is_small_over() {
                let entry = self.small.pop_front()?;
                if hits.counter(entry.0) >= 2 {
                    hits.set_counter(entry.0, 0);
                    self.main.push_back(entry);
                    continue;
                }
                // A key stands once, at its newest place.
                let ghosts = self.ghost.iter_mut().filter(|ghost| ghost.0 == entry.2);
                ghosts.for_each(|ghost| ghost.1 = false);
                self.ghost.push_back((entry.2, true));
                while self.ghost.len() > (self.small.len() + self.main.len()).max(1) {
                    self.ghost.pop_front();
                }
                return Some(entry.0);
            }
            let entry = self.main.pop_front()?;
            let counter = hits.counter(entry.0);
            if counter == 0 {
                return Some(entry.0);
            }
            hits.set_counter(entry.0, counter - 1);
            self.main.push_back(entry);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Admit { key: u64, weight: u32 },
    Hit(usize),
    Replace { at: usize, weight: u32 },
    Remove(usize),
    Evict,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let weight = prop_oneof![Just(1), Just(10), 0u32..1000, any::<u32>()];
    let step = prop_oneof![
        4 => (0u64..60, weight.clone()).prop_map(|(key, weight)| Step::Admit { key, weight }),
        6 => any::<usize>().prop_map(Step::Hit),
        1 => (any::<usize>(), weight).prop_map(|(at, weight)| Step::Replace { at, weight }),
        1 => any::<usize>().prop_map(Step::Remove),
        2 => Just(Step::Evict),
    ];
    vec(step, 1..300)
}

proptest! {
    #[test]
    fn s3_fifo_chooses_as_the_paper_says(steps in steps()) {
        let (mut queues, mut plain) = (S3Fifo::default(), Plain::default());
        let mut hits = Hits::default();
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Admit { key, weight } => {
                    let token = hits.admit(&mut queues, key, weight);
                    plain.admit(token, weight, key);
                    held.push(token);
                }
                Step::Hit(at) if !held.is_empty() => hits.hit(held[at % held.len()]),
                Step::Remove(at) if !held.is_empty() => {
                    let token = held.swap_remove(at % held.len());
                    queues.remove(token, &mut hits);
                    plain.remove(token);
                }
                Step::Replace { at, weight } if !held.is_empty() => {
                    let at = at % held.len();
                    let new = hits.add(0, weight);
                    let old = std::mem::replace(&mut held[at], new);
                    hits.0[new as usize].hash = hits.hash(old);
                    queues.replace(old, new, &mut hits);
                    plain.replace(old, new, weight);
                }
                Step::Evict => {
                    let mut plain_hits = hits.clone();
                    let victim = queues.evict(&mut hits);
                    prop_assert_eq!(victim, plain.evict(&mut plain_hits));
                    prop_assert_eq!(hits.counters(), plain_hits.counters());
                    held.retain(|token| Some(*token) != victim);
                }
                Step::Hit(_) | Step::Replace { .. } | Step::Remove(_) => {}
            }
            queues.validate(&hits);
            prop_assert_eq!(queues.weight(), weight(&plain.small) + weight(&plain.main));
        }
    }

    #[test]
    fn two_clocks_hold_what_was_admitted_and_not_yet_evicted(steps in steps()) {
        let (mut queues, mut hits) = (TwoClocks::default(), Hits::default());
        let mut held: Vec<(Token, u32)> = Vec::new();
        for step in steps {
            match step {
                Step::Admit { key, weight } => {
                    let token = hits.admit(&mut queues, key, weight);
                    held.push((token, weight));
                }
                Step::Hit(at) if !held.is_empty() => hits.hit(held[at % held.len()].0),
                Step::Remove(at) if !held.is_empty() => {
                    queues.remove(held.swap_remove(at % held.len()).0, &mut hits);
                }
                Step::Replace { at, weight } if !held.is_empty() => {
                    let at = at % held.len();
                    let new = hits.add(0, weight);
                    let (old, _) = std::mem::replace(&mut held[at], (new, weight));
                    queues.replace(old, new, &mut hits);
                }
                Step::Evict => {
                    let victim = queues.evict(&mut hits);
                    prop_assert_eq!(victim.is_some(), !held.is_empty());
                    let before = held.len();
                    held.retain(|entry| Some(entry.0) != victim);
                    prop_assert_eq!(held.len() + usize::from(victim.is_some()), before);
                }
                Step::Hit(_) | Step::Replace { .. } | Step::Remove(_) => {}
            }
            queues.validate(&hits);
            prop_assert_eq!(queues.len(), held.len());
            let mut tokens = Vec::new();
            queues.for_each(|token| tokens.push(token));
            tokens.sort_unstable();
            held.sort_unstable();
            prop_assert!(tokens.iter().eq(held.iter().map(|(token, _)| token)));
            let weight: u64 = held.iter().map(|entry| u64::from(entry.1)).sum();
            prop_assert_eq!(queues.weight(), weight);
            prop_assert!(queues.ghost_count() <= 60);
        }
        while queues.evict(&mut hits).is_some() {
            queues.validate(&hits);
        }
        prop_assert!(queues.is_empty());
    }
}

/// As readers that hit every entry as fast as it is looked at; counts the looks.
#[derive(Default)]
struct AlwaysHot {
    looks: Cell<usize>,
    places: Vec<u32>,
}

impl Entries for AlwaysHot {
    fn counter(&self, _token: Token) -> u8 {
        self.looks.set(self.looks.get() + 1);
        COUNTER_TOP
    }

    fn set_counter(&mut self, _token: Token, _counter: u8) {}

    fn hash(&self, token: Token) -> u32 {
        token as u32
    }

    fn weight(&self, _token: Token) -> u32 {
        10
    }

    fn place(&self, token: Token) -> u32 {
        self.places[token as usize]
    }

    fn set_place(&mut self, token: Token, place: u32) {
        let places = self.places.len().max(token as usize + 1);
        self.places.resize(places, 0);
        self.places[token as usize] = place;
    }
}

fn evict_all_hot<P: Policy>(looks_max: usize) {
    let (mut queues, mut hot) = (P::default(), AlwaysHot::default());
    for token in 1..=5000 {
        queues.admit(token, &mut hot);
    }
    for left in (0..5000).rev() {
        hot.looks.set(0);
        assert!(queues.evict(&mut hot).is_some());
        assert_eq!(queues.len(), left);
        assert!(hot.looks.get() <= looks_max, "{} looks", hot.looks.get());
    }
    assert_eq!(queues.evict(&mut hot), None);
}

#[test]
fn readers_that_never_stop_hitting_do_not_stop_eviction() {
    evict_all_hot::<TwoClocks>(1000);
    evict_all_hot::<S3Fifo>(4 * 5000);
}

#[test]
fn an_insertion_looks_at_few_entries() {
    let (mut queues, mut hot) = (TwoClocks::default(), AlwaysHot::default());
    for token in 1..=1000 {
        queues.admit(token, &mut hot);
        if queues.len() > 100 {
            queues.evict(&mut hot);
        }
    }
    for token in 1001..=2000 {
        hot.looks.set(0);
        queues.admit(token, &mut hot);
        assert!(hot.looks.get() <= 8, "{} looks", hot.looks.get());
    }
}

#[test]
fn an_entry_that_comes_back_soon_goes_to_the_main_queue() {
    let (mut queues, mut hits) = (S3Fifo::default(), Hits::default());
    for key in 0..10 {
        hits.admit(&mut queues, key, 1);
    }
    assert_eq!(queues.lens(), (1, 9));
    assert_eq!(queues.evict(&mut hits), Some(1));
    assert_eq!(queues.lens(), (1, 8));
    hits.admit(&mut queues, 10, 1);
    assert_eq!(queues.evict(&mut hits), Some(10));
    hits.admit(&mut queues, 9, 1);
    assert_eq!(queues.lens(), (1, 9));
}

fn keeps_hot_ones_through_a_scan<P: Policy>() {
    let (mut queues, mut hits) = (P::default(), Hits::default());
    let hot: Vec<Token> = (0..50).map(|key| hits.admit(&mut queues, key, 1)).collect();
    for key in 1000..3000 {
        hot.iter().for_each(|&token| hits.hit(token));
        hits.admit(&mut queues, key, 1);
        if queues.len() > 100 {
            let victim = queues.evict(&mut hits).expect("there are entries");
            assert!(!hot.contains(&victim), "a hot entry left");
        }
    }
}

#[test]
fn a_scan_does_not_push_out_what_is_hit() {
    keeps_hot_ones_through_a_scan::<TwoClocks>();
    keeps_hot_ones_through_a_scan::<S3Fifo>();
}

#[test]
fn a_scan_leaves_the_small_queue_next_to_no_room() {
    let (mut queues, mut hits) = (TwoClocks::default(), Hits::default());
    for key in 0..20_000 {
        hits.admit(&mut queues, key, 1);
        if queues.len() > 1000 {
            queues.evict(&mut hits);
        }
    }
    assert!(queues.small_len() <= 25, "{} of 1000", queues.small_len());
}

#[test]
fn the_small_queue_grows_while_keys_come_back_just_after_they_left_it() {
    let (mut queues, mut hits) = (TwoClocks::default(), Hits::default());
    let mut tokens = std::collections::HashMap::new();
    // Each key comes twice, 130 insertions apart, and never again; the small queue of 100 is a little too small.
    for step in 0..40_000_u64 {
        for key in [step, step.wrapping_sub(130)] {
            if let Some(&token) = tokens.get(&key) {
                hits.hit(token);
                continue;
            }
            let token = hits.admit(&mut queues, key, 1);
            tokens.insert(key, token);
            if queues.len() > 1000 {
                let victim = queues.evict(&mut hits).expect("there are entries");
                tokens.retain(|_, token| *token != victim);
            }
        }
    }
    assert!(queues.small_len() >= 135, "{} of 1000", queues.small_len());
}

#[test]
fn after_a_clear_the_main_queue_fills_as_it_did_at_first() {
    let (mut queues, mut hits) = (TwoClocks::default(), Hits::default());
    let fill = |queues: &mut TwoClocks, hits: &mut Hits, from: u64| -> Vec<Token> {
        let keys = from..from + 1000;
        keys.map(|key| hits.admit(queues, key, 1)).collect()
    };
    let tokens = fill(&mut queues, &mut hits, 0);
    let victim = queues.evict(&mut hits);
    let left = tokens.into_iter().filter(|token| Some(*token) != victim);
    left.for_each(|token| queues.remove(token, &mut hits));
    fill(&mut queues, &mut hits, 5000);
    assert!(queues.small_len() <= 101, "{} of 1000", queues.small_len());
    queues.validate(&hits);
}

fn hundred_of_a_hundred() -> (TwoClocks, Hits) {
    let (mut queues, mut hits) = (TwoClocks::default(), Hits::default());
    for key in 0..100 {
        hits.admit(&mut queues, key, 100);
    }
    (queues, hits)
}

#[test]
fn what_replaces_an_entry_leaves_when_that_would_have_left() {
    let (mut queues, mut hits) = hundred_of_a_hundred();
    let victim = queues.evict(&mut hits).expect("there are entries");

    let (mut queues, mut hits) = hundred_of_a_hundred();
    let as_heavy = hits.add(0, 110);
    queues.replace(victim, as_heavy, &mut hits);
    queues.validate(&hits);
    assert_eq!(queues.weight(), 10_010);
    assert_eq!(queues.evict(&mut hits), Some(as_heavy));

    let (mut queues, mut hits) = hundred_of_a_hundred();
    let light = hits.add(0, 10);
    queues.replace(victim, light, &mut hits);
    queues.validate(&hits);
    assert_eq!(queues.weight(), 9910);
    assert_ne!(queues.evict(&mut hits), Some(light));
}

#[test]
fn memory_follows_the_number_of_entries() {
    let (mut queues, mut hits) = (TwoClocks::default(), Hits::default());
    assert_eq!(queues.bytes(), 0);
    for key in 0..10_000 {
        hits.admit(&mut queues, key, 1);
    }
    let full = queues.bytes();
    assert!(full <= 10_100 * TwoClocks::BYTES_AN_ENTRY, "{full} bytes");
    let mut tokens = Vec::new();
    queues.for_each(|token| tokens.push(token));
    tokens
        .iter()
        .for_each(|&token| queues.remove(token, &mut hits));
    assert!(queues.is_empty());
    // The numbers of the blocks are kept.
    assert!(queues.bytes() <= full / 3, "{} of {full}", queues.bytes());
}

#[test]
#[should_panic(expected = "a token is where its place says")]
fn a_token_is_removed_once() {
    let (mut queues, mut hits) = (TwoClocks::default(), Hits::default());
    let token = hits.admit(&mut queues, 1, 1);
    queues.remove(token, &mut hits);
    queues.remove(token, &mut hits);
}
