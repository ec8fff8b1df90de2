use proptest::collection::vec;
use proptest::prelude::*;

use super::super::tests::Hits;
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Push { weight: u32, place: Place },
    Remove(usize),
    Requeue { from: Place, to: Place },
    Replace { at: usize, weight: u32 },
    Pass(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // A fourfold weight costs the same in half the time.
    let weight = || prop_oneof![4 => Just(5u32), 3 => Just(20), 2 => 0u32..9, 1 => any::<u32>()];
    let place = || prop_oneof![Just(Place::Small), Just(Place::Main)];
    let step = prop_oneof![
        8 => (weight(), place()).prop_map(|(weight, place)| Step::Push { weight, place }),
        5 => any::<usize>().prop_map(Step::Remove),
        3 => (place(), place()).prop_map(|(from, to)| Step::Requeue { from, to }),
        2 => (any::<usize>(), weight()).prop_map(|(at, weight)| Step::Replace { at, weight }),
        3 => prop_oneof![3 => 0u32..4, 1 => 15u32..25, 1 => 0u32..200_000].prop_map(Step::Pass),
    ];
    vec(step, 1..400)
}

/// An entry of the plain model.
#[derive(Clone, Copy, PartialEq)]
struct Plain {
    token: Token,
    weight: u32,
    since: u32,
    place: Place,
}

/// Entries in the order in which they came to where they are.
#[derive(Default)]
struct Model(Vec<Plain>);

impl Model {
    fn tail(&self, place: Place, now: u32) -> Option<(Token, f64)> {
        let oldest = (0..32).filter_map(|class| {
            let mut entries = self.0.iter().filter(|entry| entry.place == place);
            entries.find(|entry| class_of::<32>(entry.weight) == class)
        });
        let rent = |entry: &Plain| {
            rent(
                now.wrapping_sub(entry.since),
                f64::from(entry.weight.max(1)).sqrt(),
            )
        };
        let tail = oldest.max_by(|a, b| rent(a).total_cmp(&rent(b)))?;
        Some((tail.token, rent(tail)))
    }

    fn requeue(&mut self, token: Token, place: Place, now: u32) {
        let at = self.0.iter().position(|entry| entry.token == token);
        let mut entry = self.0.remove(at.expect("it is there"));
        (entry.place, entry.since) = (place, now);
        self.0.push(entry);
    }

    fn replace(&mut self, at: usize, token: Token, weight: u32, now: u32) {
        let old = &mut self.0[at];
        let is_same_class = class_of::<32>(old.weight) == class_of::<32>(weight);
        (old.token, old.weight) = (token, weight);
        let place = old.place;
        if !is_same_class {
            self.requeue(token, place, now);
        }
    }
}

/// Tokens, each used again as soon as it is free.
#[derive(Default)]
struct Tokens {
    hits: Hits,
    free: Vec<Token>,
}

impl Tokens {
    fn next(&mut self, weight: u32) -> Token {
        match self.free.pop() {
            Some(token) => {
                self.hits.0[token as usize].weight = weight;
                token
            }
            None => self.hits.add(0, weight),
        }
    }
}

proptest! {
    #[test]
    fn queues_are_as_plain_lists_are(steps in steps(), start in prop_oneof![Just(0), Just(u32::MAX - 500)]) {
        let (mut queues, mut model) = (Queues::<32>::default(), Model::default());
        let mut tokens = Tokens::default();
        queues.now = start;
        for step in steps {
            let now = queues.now;
            match step {
                Step::Push { weight, place } => {
                    let token = tokens.next(weight);
                    queues.push(token, place, &mut tokens.hits);
                    model.0.push(Plain { token, weight, since: now, place });
                }
                Step::Remove(at) if !model.0.is_empty() => {
                    let entry = model.0.remove(at % model.0.len());
                    queues.remove(entry.token, &mut tokens.hits);
                    tokens.free.push(entry.token);
                }
                Step::Requeue { from, to } => {
                    if let Some((token, _)) = model.tail(from, now) {
                        queues.requeue(token, to, &mut tokens.hits);
                        model.requeue(token, to, now);
                    }
                }
                Step::Replace { at, weight } if !model.0.is_empty() => {
                    let at = at % model.0.len();
                    let (old, new) = (model.0[at].token, tokens.next(weight));
                    queues.replace(old, new, &mut tokens.hits);
                    model.replace(at, new, weight, now);
                    tokens.free.push(old);
                }
                Step::Pass(entries) => queues.now = now.wrapping_add(entries),
                Step::Remove(_) | Step::Replace { .. } => {}
            }
            queues.validate(&tokens.hits);
            for place in [Place::Small, Place::Main] {
                let tail = queues.tail(place).map(|tail| (tail.token, tail.rent(queues.now)));
                prop_assert_eq!(tail, model.tail(place, queues.now));
                let entries = model.0.iter().filter(|entry| entry.place == place);
                prop_assert_eq!(queues.queue(place).len, entries.count());
            }
        }
        for entry in model.0 {
            queues.remove(entry.token, &mut tokens.hits);
        }
        prop_assert_eq!((queues.len(), queues.weight(), blocks(&queues)), (0, 0, 0));
    }
}

fn blocks(queues: &Queues<32>) -> usize {
    queues.small.blocks.len() + queues.main.blocks.len()
}

#[test]
fn what_comes_and_goes_leaves_no_blocks_behind_what_stays() {
    let (mut queues, mut tokens) = (Queues::<32>::default(), Tokens::default());
    let stays = tokens.next(1);
    queues.push(stays, Place::Main, &mut tokens.hits);
    for _ in 0..10_000 {
        let token = tokens.next(1);
        queues.push(token, Place::Main, &mut tokens.hits);
        queues.remove(token, &mut tokens.hits);
        tokens.free.push(token);
        queues.now += 1;
    }
    assert!(blocks(&queues) <= 2, "{} blocks", blocks(&queues));
    let numbers = queues.main.blocks.bytes();
    assert!(numbers < 1000, "{numbers} bytes");
}

#[test]
fn few_that_stay_of_many_are_put_together() {
    for step in [3, 7, 16] {
        let (mut queues, mut tokens) = (Queues::<32>::default(), Tokens::default());
        let all: Vec<Token> = (0..4096).map(|_| tokens.next(1)).collect();
        for &token in &all {
            queues.push(token, Place::Main, &mut tokens.hits);
        }
        assert_eq!(blocks(&queues), 1024);
        // In an order that jumps about.
        for at in (0..4096).map(|at| at * 1021 % 4096) {
            if at % step != 0 {
                queues.remove(all[at], &mut tokens.hits);
            }
        }
        queues.validate(&tokens.hits);
        // Two neighbours hold more than half a block, so three at the least.
        let blocks_max = 2 * (queues.len() / 3 + 1);
        assert!(
            blocks(&queues) <= blocks_max,
            "{} blocks for {}",
            blocks(&queues),
            queues.len()
        );
    }
}
