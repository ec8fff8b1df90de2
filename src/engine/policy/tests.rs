use std::cell::Cell;
use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Counter and hash of each token.
#[derive(Default)]
struct Hits(Vec<(u8, u64)>);

impl Entries for Hits {
    fn counter(&self, token: u32) -> u8 {
        self.0[token as usize].0
    }

    fn set_counter(&mut self, token: u32, counter: u8) {
        self.0[token as usize].0 = counter;
    }

    fn hash(&self, token: u32) -> u64 {
        self.0[token as usize].1
    }
}

impl Hits {
    fn admit(&mut self, queues: &mut impl Policy, key: u64, weight: u32) -> u32 {
        let hash = key.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let token = queues.admit(hash, weight, self);
        self.0.resize(self.0.len().max(token as usize + 1), (0, 0));
        self.0[token as usize] = (0, hash);
        token
    }

    fn hit(&mut self, token: u32) {
        let counter = &mut self.0[token as usize].0;
        *counter = (*counter + 1).min(COUNTER_TOP);
    }
}

/// S3-FIFO as the paper has it, over plain queues: (token, weight, key), the oldest first.
#[derive(Default)]
struct Plain {
    small: VecDeque<(u32, u64, u64)>,
    main: VecDeque<(u32, u64, u64)>,
    ghost: VecDeque<(u64, bool)>,
    has_evicted: bool,
}

fn weight(queue: &VecDeque<(u32, u64, u64)>) -> u64 {
    queue.iter().map(|entry| entry.1).sum()
}

impl Plain {
    fn is_small_over(&self) -> bool {
        weight(&self.small) * 10 > weight(&self.small) + weight(&self.main)
    }

    fn admit(&mut self, token: u32, weight: u32, key: u64) {
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

    fn remove(&mut self, token: u32) {
        self.small.retain(|entry| entry.0 != token);
        self.main.retain(|entry| entry.0 != token);
    }

    fn evict(&mut self, hits: &mut Hits) -> Option<u32> {
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
    Remove(usize),
    Evict,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let weight = prop_oneof![Just(1), Just(10), 0u32..1000, any::<u32>()];
    let step = prop_oneof![
        4 => (0u64..60, weight).prop_map(|(key, weight)| Step::Admit { key, weight }),
        6 => any::<usize>().prop_map(Step::Hit),
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
                    queues.remove(token);
                    plain.remove(token);
                }
                Step::Evict => {
                    let mut plain_hits = Hits(hits.0.clone());
                    let victim = queues.evict(&mut hits);
                    prop_assert_eq!(victim, plain.evict(&mut plain_hits));
                    prop_assert_eq!(&hits.0, &plain_hits.0);
                    held.retain(|token| Some(*token) != victim);
                }
                Step::Hit(_) | Step::Remove(_) => {}
            }
            queues.validate();
            prop_assert_eq!(queues.weight(), weight(&plain.small) + weight(&plain.main));
        }
    }

    #[test]
    fn two_clocks_hold_what_was_admitted_and_not_yet_evicted(steps in steps()) {
        let (mut queues, mut hits) = (TwoClocks::default(), Hits::default());
        let mut held: Vec<(u32, u32)> = Vec::new();
        for step in steps {
            match step {
                Step::Admit { key, weight } => {
                    let token = hits.admit(&mut queues, key, weight);
                    prop_assert!(held.iter().all(|entry| entry.0 != token));
                    held.push((token, weight));
                }
                Step::Hit(at) if !held.is_empty() => hits.hit(held[at % held.len()].0),
                Step::Remove(at) if !held.is_empty() => {
                    queues.remove(held.swap_remove(at % held.len()).0);
                }
                Step::Evict => {
                    let victim = queues.evict(&mut hits);
                    prop_assert_eq!(victim.is_some(), !held.is_empty());
                    let before = held.len();
                    held.retain(|entry| Some(entry.0) != victim);
                    prop_assert_eq!(held.len() + usize::from(victim.is_some()), before);
                }
                Step::Hit(_) | Step::Remove(_) => {}
            }
            queues.validate();
            prop_assert_eq!(queues.len(), held.len());
            let weight: u64 = held.iter().map(|entry| u64::from(entry.1)).sum();
            prop_assert_eq!(queues.weight(), weight);
            prop_assert!(queues.ghost_count() <= 60);
        }
        while queues.evict(&mut hits).is_some() {
            queues.validate();
        }
        prop_assert!(queues.is_empty());
    }
}

/// As readers that hit every entry as fast as it is looked at; counts the looks.
#[derive(Default)]
struct AlwaysHot {
    looks: Cell<usize>,
}

impl Entries for AlwaysHot {
    fn counter(&self, _token: u32) -> u8 {
        self.looks.set(self.looks.get() + 1);
        COUNTER_TOP
    }

    fn set_counter(&mut self, _token: u32, _counter: u8) {}

    fn hash(&self, token: u32) -> u64 {
        u64::from(token) << 32
    }
}

fn evict_all_hot<P: Policy>(looks_max: usize) {
    let (mut queues, mut hot) = (P::default(), AlwaysHot::default());
    for key in 0..5000 {
        queues.admit(key << 32, 10, &mut hot);
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
    for key in 0..1000 {
        queues.admit(key << 32, 1, &mut hot);
        if queues.len() > 100 {
            queues.evict(&mut hot);
        }
    }
    for key in 0..1000 {
        hot.looks.set(0);
        queues.admit(key << 32, 1, &mut hot);
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
    assert_eq!(queues.evict(&mut hits), Some(0));
    assert_eq!(queues.lens(), (1, 8));
    hits.admit(&mut queues, 10, 1);
    assert_eq!(queues.evict(&mut hits), Some(9));
    hits.admit(&mut queues, 9, 1);
    assert_eq!(queues.lens(), (1, 9));
}

fn keeps_hot_ones_through_a_scan<P: Policy>() {
    let (mut queues, mut hits) = (P::default(), Hits::default());
    let hot: Vec<u32> = (0..50).map(|key| hits.admit(&mut queues, key, 1)).collect();
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
    let fill = |queues: &mut TwoClocks, hits: &mut Hits, from: u64| -> Vec<u32> {
        let keys = from..from + 1000;
        keys.map(|key| hits.admit(queues, key, 1)).collect()
    };
    let tokens = fill(&mut queues, &mut hits, 0);
    let victim = queues.evict(&mut hits);
    let left = tokens.into_iter().filter(|token| Some(*token) != victim);
    left.for_each(|token| queues.remove(token));
    fill(&mut queues, &mut hits, 5000);
    assert!(queues.small_len() <= 101, "{} of 1000", queues.small_len());
    queues.validate();
}

#[test]
#[should_panic(expected = "a free token is in no queue")]
fn a_token_is_removed_once() {
    let (mut queues, mut hits) = (TwoClocks::default(), Hits::default());
    let token = hits.admit(&mut queues, 1, 1);
    queues.remove(token);
    queues.remove(token);
}
