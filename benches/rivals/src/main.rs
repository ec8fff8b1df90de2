//! corecache's engine against other caches: all that is claimed of it, measured in one run.

mod growth;
mod idle;
mod keys;
mod memory;
mod process;
mod rivals;
mod spread;
mod throughput;
mod verdict;

use std::process::ExitCode;
use std::thread;

const USAGE: &str = "\
usage: corecache-rivals [MODE] [--rounds N] [NAME...]

modes, all of them where none is given (20 minutes, 4 GB):
  throughput   operations a second; NAME: the start of a workload's name
  memory       resident bytes an entry; NAME: the start of a contender's name
  growth       longest gap of a reader while the table grows; NAME: as for memory
  idle         processor time of an engine that has nothing to do

--rounds N     1 to 200 rounds; 10 for throughput and 5 for growth where it is not given";

const THROUGHPUT_ROUNDS: u64 = 10;
const GROWTH_ROUNDS: u64 = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    All,
    Throughput,
    Memory,
    Growth,
    Idle,
}

struct Arguments {
    mode: Mode,
    rounds: Option<u64>,
    names: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, name] = arguments.as_slice()
        && mode == "memory-of"
    {
        return if memory::measure_here(name) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    match parse(&arguments) {
        Ok(arguments) => {
            run(&arguments);
            ExitCode::SUCCESS
        }
        Err(mistake) => {
            eprintln!("{mistake}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        mode: Mode::All,
        rounds: None,
        names: Vec::new(),
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "throughput" => parsed.mode = Mode::Throughput,
            "memory" => parsed.mode = Mode::Memory,
            "growth" => parsed.mode = Mode::Growth,
            "idle" => parsed.mode = Mode::Idle,
            "--rounds" => {
                let rounds = rest.next().and_then(|rounds| rounds.parse().ok());
                let rounds = rounds.filter(|rounds| (1..=200).contains(rounds));
                parsed.rounds = Some(rounds.ok_or("--rounds takes a number from 1 to 200")?);
            }
            name => parsed.names.push(name.to_owned()),
        }
    }
    check_names(&parsed)?;
    Ok(parsed)
}

fn check_names(arguments: &Arguments) -> Result<(), String> {
    let known = match arguments.mode {
        Mode::All | Mode::Idle => Vec::new(),
        Mode::Throughput => throughput::names(),
        Mode::Memory => memory::names(),
        Mode::Growth => growth::names(),
    };
    let is_known = |name: &&String| known.iter().any(|known| known.starts_with(name.as_str()));
    match arguments.names.iter().find(|name| !is_known(name)) {
        Some(name) if known.is_empty() => Err(format!("{name} is no mode, and names need one")),
        Some(name) => Err(format!(
            "nothing is called {name}, there is: {}",
            known.join(", ")
        )),
        None => Ok(()),
    }
}

fn run(
    Arguments {
        mode,
        rounds,
        names,
    }: &Arguments,
) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!("{cores} cores; run it on a machine that does nothing else");
    let is_on = |part| *mode == Mode::All || *mode == part;
    let mut verdicts = Vec::new();
    if is_on(Mode::Throughput) {
        verdicts.extend(throughput::measure(
            names,
            rounds.unwrap_or(THROUGHPUT_ROUNDS),
        ));
    }
    if is_on(Mode::Growth) {
        verdicts.extend(growth::measure(names, rounds.unwrap_or(GROWTH_ROUNDS)));
    }
    if is_on(Mode::Memory) {
        verdicts.extend(memory::measure(names));
    }
    if is_on(Mode::Idle) {
        verdicts.extend(idle::measure());
    }
    verdict::print(&verdicts);
}
