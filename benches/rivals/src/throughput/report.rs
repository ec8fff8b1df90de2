//! The table of a workload, and what it says about the goals.

use super::workload::Workload;
use super::{Entrant, Sample};
use crate::rivals::Role;
use crate::spread::Spread;
use crate::verdict::{Goal, Verdict};

pub fn print(workload: &Workload, entrants: &[Entrant]) {
    for (place, threads) in workload.threads.iter().enumerate() {
        print_table(workload, place, *threads, entrants);
    }
    if let [first, .., last] = workload.threads {
        println!(
            "\n{}: throughput of {last} threads over that of {first}",
            workload.name
        );
        for entrant in entrants {
            println!("{:<20} {}", entrant.name, scaling(workload, entrant));
        }
    }
}

fn print_table(workload: &Workload, place: usize, threads: usize, entrants: &[Entrant]) {
    let Workload {
        name,
        entries,
        operations,
        ..
    } = workload;
    println!("\n{name}, threads: {threads} ({entries} entries, {operations} operations a thread)");
    println!(
        "{:<20} {:>8} {:>8} {:>8} {:>8} {:>7}   ours to it: median (quartiles)",
        "", "ns/op", "min", "max", "cpu/op", "misses"
    );
    let ours = walls(ours(entrants), place);
    for entrant in entrants {
        let samples = &entrant.samples[place];
        let times = walls(entrant, place);
        let wall = Spread::of(times.iter().copied());
        let cpu = Spread::of(samples.iter().map(|sample| sample.cpu_ns));
        let misses = Spread::of(samples.iter().map(|sample| sample.miss_percent));
        println!(
            "{:<20} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>5.1} %   {}",
            entrant.name,
            wall.median(),
            wall.quantile(0.0),
            wall.quantile(1.0),
            cpu.median(),
            misses.median(),
            Spread::of_ratios(&times, &ours),
        );
    }
}

fn walls(entrant: &Entrant, place: usize) -> Vec<f64> {
    entrant.samples[place]
        .iter()
        .map(|Sample { wall_ns, .. }| *wall_ns)
        .collect()
}

fn scaling(workload: &Workload, entrant: &Entrant) -> Spread {
    let last = workload.threads.len() - 1;
    let more = workload.threads[last] as f64 / workload.threads[0] as f64;
    let ratios = walls(entrant, 0).into_iter().zip(walls(entrant, last));
    Spread::of(ratios.map(|(few, many)| few * more / many))
}

fn of_role(entrants: &[Entrant], role: Role) -> Option<&Entrant> {
    entrants.iter().find(|entrant| entrant.role == role)
}

fn ours(entrants: &[Entrant]) -> &Entrant {
    of_role(entrants, Role::Ours).expect("ours is in all workloads")
}

pub fn verdicts(workload: &Workload, entrants: &[Entrant]) -> Vec<Verdict> {
    let mut all = Vec::new();
    for (place, threads) in workload.threads.iter().enumerate() {
        let what = format!(
            "{}, threads: {threads}, quick_cache's time over ours",
            workload.name
        );
        all.push(against_quick(
            what,
            workload.goals[place],
            ours(entrants),
            place,
            entrants,
        ));
        let loan = of_role(entrants, Role::OurLoan);
        if let Some(loan) = loan {
            let what = String::from("  the same by get_with");
            all.push(against_quick(what, Goal::Free, loan, place, entrants));
        }
    }
    if let (Goal::AtLeast { .. }, Some(loan)) = (workload.scaling, of_role(entrants, Role::OurLoan))
    {
        let scaling = scaling(workload, loan);
        all.push(Verdict {
            what: format!(
                "{}, get_with, throughput by threads {:?}",
                workload.name, workload.threads
            ),
            goal: workload.scaling,
            measured: scaling.median(),
            unit: "x",
            beside: scaling.to_string(),
        });
    }
    all
}

fn against_quick(
    what: String,
    goal: Goal,
    ours: &Entrant,
    place: usize,
    entrants: &[Entrant],
) -> Verdict {
    let is_quick = |entrant: &&Entrant| entrant.role == Role::QuickCache;
    let quick = fastest(entrants.iter().filter(is_quick), place);
    let best = fastest(
        entrants.iter().filter(|entrant| entrant.role.is_rival()),
        place,
    );
    let our_times = walls(ours, place);
    let ratio = |rival| Spread::of_ratios(&walls(rival, place), &our_times);
    let cpu = |entrant: &Entrant| {
        Spread::of(entrant.samples[place].iter().map(|sample| sample.cpu_ns)).median()
    };
    let measured = ratio(quick);
    Verdict {
        what,
        goal,
        measured: measured.median(),
        unit: "x",
        beside: format!(
            "{measured} of {}, cpu {:.2}; best rival {}: {:.2}",
            quick.name,
            cpu(quick) / cpu(ours),
            best.name,
            ratio(best).median(),
        ),
    }
}

fn fastest<'a>(entrants: impl Iterator<Item = &'a Entrant>, place: usize) -> &'a Entrant {
    let median = |entrant: &Entrant| Spread::of(walls(entrant, place)).median();
    entrants
        .min_by(|a, b| median(a).total_cmp(&median(b)))
        .expect("there are rivals")
}
