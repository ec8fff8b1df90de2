//! Rounds in turn, and what is printed of them.

use std::time::Instant;

use crate::process::{Server, own_cpu};
use crate::spread::Spread;

/// How long a round is to take.
const ROUND_S: f64 = 0.6;
/// Busier than that is as busy as can be.
const SATURATED: f64 = 0.93;

/// A server, and how it is loaded.
pub struct Contender<'a> {
    pub name: String,
    pub server: &'a Server,
    /// What one call counts for.
    pub a_call: usize,
    /// Makes so many calls, or panics.
    pub run: Box<dyn Fn(usize) + 'a>,
}

/// One round: what was done in a second, and the processor time that it took.
#[derive(Clone, Copy)]
pub struct Round {
    pub a_second: f64,
    server_us: f64,
    server_busy: f64,
    load_us: f64,
    load_busy: f64,
}

impl Contender<'_> {
    /// How many calls take a round.
    pub fn calls_a_round(&self) -> usize {
        let mut calls = 512;
        loop {
            let round = self.round(calls);
            let seconds = (calls * self.a_call) as f64 / round.a_second;
            if seconds > ROUND_S / 4.0 {
                return ((calls as f64 * ROUND_S / seconds) as usize).next_multiple_of(64);
            }
            calls *= 4;
        }
    }

    pub fn round(&self, calls: usize) -> Round {
        let (server, load, start) = (self.server.cpu(), own_cpu(), Instant::now());
        (self.run)(calls);
        let seconds = start.elapsed().as_secs_f64();
        let server = (self.server.cpu() - server).as_secs_f64();
        let load = (own_cpu() - load).as_secs_f64();
        let count = (calls * self.a_call) as f64;
        Round {
            a_second: count / seconds,
            server_us: server / count * 1e6,
            server_busy: server / seconds,
            load_us: load / count * 1e6,
            load_busy: load / seconds,
        }
    }
}

/// What the median of a ratio is to be.
#[derive(Clone, Copy)]
pub enum Goal {
    AtLeast { wanted: f64, aim: f64 },
    AtMost { wanted: f64, aim: f64 },
}

impl Goal {
    pub fn verdict(self, ratio: &Spread) -> String {
        let median = ratio.median();
        let (is_met, is_reached, wanted, aim) = match self {
            Self::AtLeast { wanted, aim } => (median >= wanted, median >= aim, wanted, aim),
            Self::AtMost { wanted, aim } => (median <= wanted, median <= aim, wanted, aim),
        };
        let verdict = match (is_met, is_reached) {
            (_, true) => "aim reached",
            (true, _) => "reached",
            _ => "NOT REACHED",
        };
        format!("{ratio}; wanted {wanted}, aim {aim}: {verdict}")
    }
}

/// Lets two take turns, and prints what the first does over what the second does.
pub fn compare(first: &Contender<'_>, second: &Contender<'_>, pairs: usize, wanted: f64, aim: f64) {
    let [speed, cpu] = ratios(first, second, pairs);
    let goal = Goal::AtLeast { wanted, aim };
    println!("ratio               {}", goal.verdict(&speed));
    println!("ratio of CPU        {cpu}");
}

/// The same, where it is the CPU that something is wanted of, or nothing is.
pub fn compare_cpu(
    first: &Contender<'_>,
    second: &Contender<'_>,
    pairs: usize,
    goal: Option<Goal>,
) {
    let [speed, cpu] = ratios(first, second, pairs);
    println!("ratio               {speed}");
    let cpu = goal.map_or_else(|| cpu.to_string(), |goal| goal.verdict(&cpu));
    println!("ratio of CPU        {cpu}");
}

/// What the first does over what the second does: in a second, and CPU each.
fn ratios(first: &Contender<'_>, second: &Contender<'_>, pairs: usize) -> [Spread; 2] {
    let (calls_of_first, calls_of_second) = (first.calls_a_round(), second.calls_a_round());
    let rounds: Vec<(Round, Round)> = (0..pairs)
        .map(|_| (first.round(calls_of_first), second.round(calls_of_second)))
        .collect();
    print_rounds(first, rounds.iter().map(|pair| pair.0));
    print_rounds(second, rounds.iter().map(|pair| pair.1));
    let ratio = |figure: fn(&Round) -> f64| {
        Spread::of(
            rounds
                .iter()
                .map(|(first, second)| figure(first) / figure(second)),
        )
    };
    [
        ratio(|round| round.a_second),
        ratio(|round| round.server_us),
    ]
}

fn print_rounds(contender: &Contender<'_>, rounds: impl Iterator<Item = Round>) {
    let rounds: Vec<Round> = rounds.collect();
    let of = |figure: fn(&Round) -> f64| Spread::of(rounds.iter().map(figure));
    println!(
        "{:<19} {} thousand a second; server {:.3} us each, load {:.3}",
        contender.name,
        of(|round| round.a_second / 1e3),
        of(|round| round.server_us).median(),
        of(|round| round.load_us).median()
    );
    let (server, load) = (
        of(|round| round.server_busy).median(),
        of(|round| round.load_busy).median(),
    );
    let whose = match (server >= SATURATED, load >= SATURATED) {
        (false, true) => "; THE LOAD IS THE LIMIT, not the server",
        _ => "",
    };
    println!(
        "                    server's core busy {:.0} % of the time, load's {:.0} %{whose}",
        server * 100.0,
        load * 100.0
    );
}
