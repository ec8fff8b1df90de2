//! `corecache ring --simulate`: how slots are shared by nodes that do not exist.

use std::time::{Duration, Instant};

use corecache::cluster::{Member, Movement, Placement, SLOTS, View};
use corecache::counted;
use serde_json::{Value, json};

/// So many nodes join, and so many leave, each by itself.
const CHANGES: usize = 16;

/// What a kind of change does, on the whole.
struct Change {
    name: &'static str,
    /// The one that moved most over what it had to.
    worst: Movement,
    /// What the new tables took, all together.
    took: Duration,
    count: usize,
}

/// Simulates `nodes` nodes of one weight.
pub fn run(nodes: usize, as_json: bool) -> String {
    let start = Instant::now();
    let placement = Placement::new(&view(nodes, |_| ()));
    let took = start.elapsed();
    let joins =
        (0..CHANGES).map(|change| view(nodes, |members| members.push(node(nodes + change))));
    let leavers = (0..CHANGES.min(nodes)).map(|change| change * nodes / CHANGES.min(nodes));
    let leaves = leavers.map(|leaver| view(nodes, |members| drop(members.remove(leaver))));
    let joins = Change::of("join", &placement, joins);
    let leaves = Change::of("leave", &placement, leaves);
    let changes = [&joins, &leaves];
    match as_json {
        true => format!("{}\n", figures(&placement, took, changes)),
        false => table(&placement, took, changes),
    }
}

fn node(number: usize) -> Member {
    Member::new(format!("node-{number}:8800"))
}

fn view(nodes: usize, change: impl FnOnce(&mut Vec<Member>)) -> View {
    let mut members = (0..nodes).map(node).collect();
    change(&mut members);
    View::new(members).expect("the nodes have names that differ")
}

impl Change {
    fn of(name: &'static str, before: &Placement, views: impl Iterator<Item = View>) -> Self {
        let mut took = Duration::ZERO;
        let movements = views.map(|view| {
            let start = Instant::now();
            let after = before.next(&view);
            took += start.elapsed();
            Movement::between(before, &after)
        });
        let movements: Vec<_> = movements.collect();
        let by_excess = |a: &&Movement, b: &&Movement| a.excess().total_cmp(&b.excess());
        Self {
            name,
            worst: *movements
                .iter()
                .max_by(by_excess)
                .expect("there are changes"),
            took,
            count: movements.len(),
        }
    }

    fn table_ms(&self) -> f64 {
        ms(self.took) / self.count as f64
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The least and the most that a node has, over what it would have if all had the same.
fn balance(placement: &Placement) -> [f64; 2] {
    let shares = placement.shares();
    let over_mean = |share: Option<&usize>| {
        share.map_or(0.0, |&share| (share * shares.len()) as f64 / SLOTS as f64)
    };
    [
        over_mean(shares.iter().min()),
        over_mean(shares.iter().max()),
    ]
}

fn table(placement: &Placement, took: Duration, changes: [&Change; 2]) -> String {
    let nodes = placement.view().members().len();
    let [least, most] = balance(placement);
    let mut text = format!(
        "{} of one weight, {SLOTS} slots, {:.1} a node\n\
         busiest node over mean {most:.4}, idlest {least:.4}\n\n\
         {:>8} {:>12} {:>8} {:>12} {:>14} {:>12}\n",
        counted(nodes, "node", "nodes"),
        SLOTS as f64 / nodes as f64,
        "one node",
        "slots moved",
        "of all",
        "had to move",
        "moved over it",
        "table in ms"
    );
    for change in changes {
        let Movement { moved, needed } = change.worst;
        text += &format!(
            "{:>8} {moved:>12} {:>7.3}% {needed:>12} {:>14.4} {:>12.1}\n",
            format!("{}s", change.name),
            100.0 * moved as f64 / SLOTS as f64,
            change.worst.excess(),
            change.table_ms()
        );
    }
    let [joins, leaves] = changes.map(|change| change.count);
    text + &format!(
        "\nthe worst of {joins} joins and {leaves} leaves; the first table took {:.0} ms, on all cores\n",
        ms(took)
    )
}

fn figures(placement: &Placement, took: Duration, changes: [&Change; 2]) -> Value {
    let [least, most] = balance(placement);
    let change = |change: &Change| {
        json!({
            "change": change.name,
            "slots_moved": change.worst.moved,
            "slots_needed": change.worst.needed,
            "moved_over_needed": change.worst.excess(),
            "table_ms": change.table_ms(),
        })
    };
    json!({
        "nodes": placement.view().members().len(),
        "slots": SLOTS,
        "busiest_over_mean": most,
        "idlest_over_mean": least,
        "table_ms": ms(took),
        "changes": changes.map(change),
    })
}
