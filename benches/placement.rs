//! The table of a cluster's slots: how evenly it shares keys out, what a change moves, what a lookup and a new table cost.
//!
//! Balance is counted in slots, and in random keys, whose own scatter comes on top. Names of nodes decide it, so there are
//! several sets of them. Lookups go over random keys in a loop, each of 8 to 24 bytes, group and key hashed each time; the
//! sum of what they found is printed, so that nothing is left out. A table after a change is made by one core, one from
//! nothing by all.
//!
//! What this can't show: lookups in a node that does other work between them. The row `cold` is the worst of it: 64 MiB of
//! other memory are written before each 256 lookups, so that nothing of the table is in the core's caches.
//!
//! `cargo bench --bench placement [-- balance | movement | lookups | tables]`

mod support;

use std::env;
use std::hint::black_box;
use std::time::{Duration, Instant};

use corecache::cluster::{Member, Movement, Placement, Ring, View};
use support::{Spread, print_head, print_verdict};

const KEYS: usize = 1 << 16;
const GROUP: &[u8] = b"blobs";
const ROUNDS: usize = 21;

fn main() {
    print_head("placement: balance, movement, lookups, new tables");
    let parts: [(&str, fn()); 4] = [
        ("balance", balance),
        ("movement", movement),
        ("lookups", lookups),
        ("tables", tables),
    ];
    let is_asked = |name: &str| env::args().any(|argument| argument == name);
    let are_all = !parts.iter().any(|(name, _)| is_asked(name));
    let parts = parts.iter().filter(|(name, _)| are_all || is_asked(name));
    parts.for_each(|(_, measure)| measure());
}

/// Nodes as people name them.
fn member(scheme: usize, number: usize) -> Member {
    Member::new(match scheme % 4 {
        0 => format!("node-{number}:{}", 8800 + scheme),
        1 => format!("10.{scheme}.{}.{}:8800", number / 250, number % 250 + 1),
        2 => format!("cache-{number}.cache.zone-{scheme}.svc.cluster.local:8800"),
        _ => format!("[fd00:{scheme}::{number:x}]:8800"),
    })
}

fn view(scheme: usize, nodes: usize) -> View {
    View::new((0..nodes).map(|number| member(scheme, number)).collect()).expect("names differ")
}

fn over_mean(shares: &[usize]) -> f64 {
    let busiest = *shares.iter().max().expect("there are nodes");
    (busiest * shares.len()) as f64 / shares.iter().sum::<usize>() as f64
}

fn balance() {
    for (nodes, sets, keys, wanted) in [
        (3, 40, 16 << 20, 1.04),
        (10, 40, 16 << 20, 1.04),
        (100, 40, 64 << 20, 1.04),
        (1000, 8, 256 << 20, 1.13),
    ] {
        let (mut slots, mut of_keys) = (Vec::new(), Vec::new());
        for scheme in 0..sets {
            let placement = Placement::new(&view(scheme, nodes));
            slots.push(over_mean(&placement.shares()));
            if scheme < 4 {
                of_keys.push(over_mean(&keys_by_owner(&placement, keys)));
            }
        }
        let (slots, of_keys) = (Spread::new(slots), Spread::new(of_keys));
        println!(
            "balance     {nodes} nodes, busiest over mean: slots {:.4} (at most {:.4} of {sets} sets), {} million keys {:.4} (at most {:.4} of 4)",
            slots.median(),
            slots.quantile(1.0),
            keys >> 20,
            of_keys.median(),
            of_keys.quantile(1.0)
        );
        let worst = slots.quantile(1.0).max(of_keys.quantile(1.0));
        print_verdict(&format!("at most {wanted}"), worst <= wanted);
    }
    weights();
}

fn keys_by_owner(placement: &Placement, keys: usize) -> Vec<usize> {
    let mut counts = vec![0; placement.members().len()];
    for number in 0..keys as u64 {
        let mut owner = [0];
        placement.rank(GROUP, &number.to_le_bytes(), &mut owner);
        counts[usize::from(owner[0])] += 1;
    }
    counts
}

/// A quarter of the nodes has three times the weight of the others.
fn weights() {
    let weighted = |number| Member {
        weight: if number % 4 == 0 { 300 } else { 100 },
        ..member(0, number)
    };
    let view = View::new((0..100).map(weighted).collect()).expect("names differ");
    let placement = Placement::new(&view);
    let of = |weight: u32| {
        let members = placement.members().iter().zip(placement.shares());
        let shares: Vec<_> = members
            .filter(|(member, _)| member.weight == weight)
            .collect();
        shares.iter().map(|(_, share)| *share as f64).sum::<f64>() / shares.len() as f64
    };
    println!(
        "weights     25 of 100 nodes with 3 x the weight have {:.4} x the slots of the others",
        of(300) / of(100)
    );
}

fn movement() {
    for nodes in [3, 10, 100, 1000] {
        let before = Placement::new(&view(0, nodes));
        let (mut excess, mut share) = (Vec::new(), Vec::new());
        for change in 0..20 {
            let mut members = before.members().to_vec();
            match change % 2 {
                0 => members.push(member(1, change)),
                _ => drop(members.remove(change * 7 % nodes)),
            }
            let after = before.next(&View::new(members).expect("names differ"));
            let movement = Movement::between(&before, &after);
            excess.push(movement.excess());
            share.push(movement.moved as f64 / before.owners().len() as f64 * nodes as f64);
        }
        let (excess, share) = (Spread::new(excess), Spread::new(share));
        println!(
            "movement    {nodes} nodes, 10 joins and 10 leaves: moved over needed {:.4} at most; moved over a mean node's part {:.3} ({:.3} to {:.3})",
            excess.quantile(1.0),
            share.median(),
            share.quantile(0.0),
            share.quantile(1.0)
        );
        print_verdict(
            "moved over needed at most 1.02",
            excess.quantile(1.0) <= 1.02,
        );
    }
}

/// Random keys of 8 to 24 bytes, one after the other in memory.
struct Keys {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Keys {
    fn new() -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let mut random = 1_u64;
        for _ in 0..KEYS {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let len = 8 + (random >> 32) as usize % 17;
            bytes.extend_from_slice(&format!("{random:024x}").as_bytes()[24 - len..]);
            ends.push(bytes.len() as u32);
        }
        Self { bytes, ends }
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let key = &self.bytes[start..end as usize];
            start = end as usize;
            key
        })
    }
}

fn lookups() {
    let keys = Keys::new();
    for nodes in [4, 100, 1000] {
        let placement = Placement::new(&view(0, nodes));
        let ring: &dyn Ring = &placement;
        for ranks in [1, 3] {
            let mut sum = 0;
            let mut round = || {
                let start = Instant::now();
                for key in keys.iter() {
                    let mut ranked = [0; 3];
                    ring.rank(GROUP, key, &mut ranked[..ranks]);
                    sum += usize::from(ranked[0]) + usize::from(ranked[ranks - 1]);
                }
                start.elapsed().as_secs_f64() * 1e9 / KEYS as f64
            };
            let took = Spread::new((0..ROUNDS).map(|_| round()));
            println!(
                "lookup      {nodes} nodes, ranks {ranks}: {:.1} ns (quartiles {:.1} to {:.1}), sum {sum}",
                took.median(),
                took.quantile(0.25),
                took.quantile(0.75)
            );
            if ranks == 1 {
                print_verdict("at most 20 ns", took.median() <= 20.0);
            }
        }
    }
    cold(&keys);
}

fn cold(keys: &Keys) {
    let placement = Placement::new(&view(0, 100));
    let mut other = vec![1_u8; 64 << 20];
    let mut took = Vec::new();
    let mut keys = keys.iter();
    for _ in 0..40 {
        other.iter_mut().step_by(64).for_each(|byte| *byte += 1);
        black_box(&mut other);
        let start = Instant::now();
        for key in keys.by_ref().take(256) {
            black_box(placement.owner(GROUP, key));
        }
        took.push(start.elapsed().as_secs_f64() * 1e9 / 256.0);
    }
    let took = Spread::new(took);
    println!("lookup      100 nodes, cold: {:.1} ns", took.median());
}

fn tables() {
    for nodes in [3, 100, 1000] {
        let before = view(0, nodes);
        let table = Placement::new(&before);
        let others = |change: &dyn Fn(&mut Vec<Member>, usize)| {
            let view = |round| {
                let mut members = before.members().to_vec();
                change(&mut members, round);
                View::new(members).expect("names differ")
            };
            (0..ROUNDS).map(view).collect::<Vec<_>>()
        };
        let changes = [
            (
                "a join",
                others(&|members, round| members.push(member(1, round))),
            ),
            (
                "a leave",
                others(&|members, round| drop(members.remove(round * 7 % nodes))),
            ),
            (
                "a weight",
                others(&|members, round| members[round * 7 % nodes].weight = 150),
            ),
        ];
        for (name, views) in changes {
            let took = Spread::new(views.iter().map(|view| ms(|| table.next(view))));
            println!(
                "table       {nodes} nodes, after {name}: {:.1} ms (quartiles {:.1} to {:.1})",
                took.median(),
                took.quantile(0.25),
                took.quantile(0.75)
            );
            if nodes == 1000 {
                print_verdict("at most 500 ms", took.quantile(1.0) <= 500.0);
            }
        }
        let weighted = (0..).zip(before.members()).map(|(number, member)| Member {
            weight: 100 + number,
            ..member.clone()
        });
        let weighted = View::new(weighted.collect()).expect("names differ");
        for (name, view) in [
            ("of one weight", &before),
            ("of as many weights", &weighted),
        ] {
            let took = Spread::new((0..3).map(|_| ms(|| Placement::new(view))));
            println!(
                "table       {nodes} nodes {name}, from nothing: {:.0} ms",
                took.median()
            );
        }
    }
}

fn ms(make: impl FnOnce() -> Placement) -> f64 {
    let start = Instant::now();
    black_box(make());
    start.elapsed().div_duration_f64(Duration::from_millis(1))
}
