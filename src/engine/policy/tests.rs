use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Hits(Vec<u8>);

impl Counters for Hits {
    fn get(&self, token: u32) -> u8 {
        self.0[token as usize]
    }

    fn set(&mut self, token: u32, counter: u8) {
        self.0[token as usize] = counter;
    }
}

impl Hits {
    fn admit(&mut self, queues: &mut S3Fifo, fingerprint: u32, weight: u32) -> u32 {
        let token = queues.admit(fingerprint, weight);
        self.0.resize(self.0.len().max(token as usize + 1), 0);
        self.set(token, 0);
        token
    }
}

impl S3Fifo {
    /// Checks every invariant of the queues.
    fn validate(&self) {
        let mut seen = HashSet::new();
        for (queue, place) in [(&self.small, Place::Small), (&self.main, Place::Main)] {
            let (mut newer, mut at, mut weight) = (NONE, queue.head, 0);
            let mut len = 0;
            while at != NONE {
                let node = self.nodes[at as usize];
                assert!(seen.insert(at), "a token is in a queue twice");
                assert_eq!((node.newer, node.place), (newer, place));
                weight += u64::from(node.weight);
                len += 1;
                (newer, at) = (at, node.older);
            }
            assert_eq!((queue.tail, queue.len, queue.weight), (newer, len, weight));
        }
        let mut free = self.free;
        while free != NONE {
            assert!(seen.insert(free), "a free token is in use");
            assert_eq!(self.nodes[free as usize].place, Place::Free);
            free = self.nodes[free as usize].older;
        }
        assert_eq!(seen.len(), self.nodes.len(), "a token is lost");
        assert!(self.ghost.numbers.len() <= self.ghost.order.len());
    }
}

/// S3-FIFO as the paper has it, over plain queues: (token, weight, fingerprint), the oldest first.
#[derive(Default)]
struct Plain {
    small: VecDeque<(u32, u64, u32)>,
    main: VecDeque<(u32, u64, u32)>,
    ghost: VecDeque<(u32, bool)>,
}

fn weight(queue: &VecDeque<(u32, u64, u32)>) -> u64 {
    queue.iter().map(|entry| entry.1).sum()
}

impl Plain {
    fn admit(&mut self, token: u32, weight: u32, fingerprint: u32) {
        let mut ghosts = self.ghost.iter_mut();
        let ghost = ghosts.find(|ghost| **ghost == (fingerprint, true));
        let entry = (token, u64::from(weight), fingerprint);
        if let Some(ghost) = ghost {
            ghost.1 = false;
            self.main.push_back(entry);
        } else {
            self.small.push_back(entry);
        }
    }

    fn remove(&mut self, token: u32) {
        self.small.retain(|entry| entry.0 != token);
        self.main.retain(|entry| entry.0 != token);
    }

    fn evict(&mut self, hits: &mut Hits) -> Option<u32> {
        loop {
            let (small, all) = (
                weight(&self.small),
                weight(&self.small) + weight(&self.main),
            );
            if self.main.is_empty() || small * 10 > all {
                let entry = self.small.pop_front()?;
                if hits.get(entry.0) >= 2 {
                    hits.set(entry.0, 0);
                    self.main.push_back(entry);
                    continue;
                }
                // A fingerprint stands once, at its newest place.
                let mut ghosts = self.ghost.iter_mut();
                ghosts
                    .by_ref()
                    .filter(|ghost| ghost.0 == entry.2)
                    .for_each(|ghost| ghost.1 = false);
                self.ghost.push_back((entry.2, true));
                while self.ghost.len() > (self.small.len() + self.main.len()).max(1) {
                    self.ghost.pop_front();
                }
                return Some(entry.0);
            }
            let entry = self.main.pop_front()?;
            let counter = hits.get(entry.0);
            if counter == 0 {
                return Some(entry.0);
            }
            hits.set(entry.0, counter - 1);
            self.main.push_back(entry);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Admit { fingerprint: u32, weight: u32 },
    Hit(usize),
    Remove(usize),
    Evict,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u32..60, prop_oneof![Just(1), Just(10), 0u32..1000])
            .prop_map(|(fingerprint, weight)| Step::Admit { fingerprint, weight }),
        6 => any::<usize>().prop_map(Step::Hit),
        1 => any::<usize>().prop_map(Step::Remove),
        2 => Just(Step::Evict),
    ];
    vec(step, 1..300)
}

proptest! {
    #[test]
    fn chooses_as_the_paper_says(steps in steps()) {
        let (mut queues, mut plain) = (S3Fifo::new(), Plain::default());
        let (mut hits, mut plain_hits) = (Hits::default(), Hits::default());
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Admit { fingerprint, weight } => {
                    let token = hits.admit(&mut queues, fingerprint, weight);
                    prop_assert!(!held.contains(&token));
                    plain.admit(token, weight, fingerprint);
                    held.push(token);
                }
                Step::Hit(at) if !held.is_empty() => {
                    let token = held[at % held.len()];
                    hits.set(token, (hits.get(token) + 1).min(3));
                }
                Step::Remove(at) if !held.is_empty() => {
                    let token = held.swap_remove(at % held.len());
                    queues.remove(token);
                    plain.remove(token);
                }
                Step::Evict => {
                    plain_hits.0.clone_from(&hits.0);
                    let victim = queues.evict(&mut hits);
                    prop_assert_eq!(victim, plain.evict(&mut plain_hits));
                    prop_assert_eq!(&hits.0, &plain_hits.0);
                    held.retain(|token| Some(*token) != victim);
                }
                Step::Hit(_) | Step::Remove(_) => {}
            }
            queues.validate();
            prop_assert_eq!(queues.len(), held.len());
            prop_assert_eq!(queues.weight(), weight(&plain.small) + weight(&plain.main));
        }
        while let Some(victim) = queues.evict(&mut hits) {
            prop_assert!(held.contains(&victim));
            held.retain(|token| *token != victim);
        }
        prop_assert!(held.is_empty() && queues.is_empty());
    }
}

/// As readers that hit every entry as fast as it is looked at.
struct AlwaysHot;

impl Counters for AlwaysHot {
    fn get(&self, _token: u32) -> u8 {
        3
    }

    fn set(&mut self, _token: u32, _counter: u8) {}
}

#[test]
fn readers_that_never_stop_hitting_do_not_stop_eviction() {
    let mut queues = S3Fifo::new();
    for fingerprint in 0..100 {
        queues.admit(fingerprint, 10);
    }
    for left in (0..100).rev() {
        assert!(queues.evict(&mut AlwaysHot).is_some());
        assert_eq!(queues.len(), left);
        queues.validate();
    }
    assert_eq!(queues.evict(&mut AlwaysHot), None);
}

#[test]
fn an_entry_that_comes_back_soon_goes_to_the_main_queue() {
    let (mut queues, mut hits) = (S3Fifo::new(), Hits::default());
    for fingerprint in 0..10 {
        hits.admit(&mut queues, fingerprint, 1);
    }
    assert_eq!(queues.evict(&mut hits), Some(0));
    hits.admit(&mut queues, 0, 1);
    assert_eq!((queues.small.len, queues.main.len), (9, 1));
}

#[test]
fn a_scan_does_not_push_out_what_was_hit_twice() {
    let (mut queues, mut hits) = (S3Fifo::new(), Hits::default());
    let hot: Vec<u32> = (0..50).map(|key| hits.admit(&mut queues, key, 1)).collect();
    hot.iter().for_each(|&token| hits.set(token, 2));
    for key in 1000..2000 {
        hits.admit(&mut queues, key, 1);
        if queues.len() > 100 {
            let victim = queues.evict(&mut hits).expect("there are entries");
            assert!(!hot.contains(&victim));
        }
    }
}

#[test]
#[should_panic(expected = "a free token is in no queue")]
fn a_token_is_removed_once() {
    let mut queues = S3Fifo::new();
    let token = queues.admit(1, 1);
    queues.remove(token);
    queues.remove(token);
}
