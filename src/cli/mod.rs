//! Arguments, and which command they call.

mod client;
mod explain;
mod get;
mod limits;
mod links;
mod members;
mod memory;
mod nodes;
mod output;
mod password;
mod pem;
mod plan;
mod renewing;
mod ring;
mod seconds;
mod serve;
mod simulate;
mod size;
mod stats;
mod systemd;
mod top_keys;

use std::env;
use std::error::Error;
use std::ffi::OsString;

use clap::{Parser, Subcommand};

/// A cache that fills itself: ask a node for a key, and it answers from memory or loads the key once from its origin.
#[derive(Parser)]
#[command(name = "corecache", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a node until SIGTERM or SIGINT.
    Serve(Box<serve::Serve>),
    /// Asks for a key, at the node of a cluster that owns it, and writes the value to standard output.
    Get(get::Get),
    /// Shows what a node has done and holds.
    Stats(stats::Stats),
    /// Shows which members of a cluster are asked for a key, and why.
    Ring(ring::Ring),
    /// Shows which nodes of a cluster are asked for a key, and which of them hold it.
    Explain(explain::Explain),
    /// Shows which keys the nodes of a cluster are asked for most, and how often.
    TopKeys(top_keys::TopKeys),
    /// Shows what would move if nodes joined or left.
    Plan(plan::Plan),
    /// Replays a trace of requests: how large should a cache be?
    Simulate(simulate::Simulate),
}

/// Reads the arguments and runs the command.
pub fn run() -> Result<(), Box<dyn Error>> {
    match Arguments::parse_from(arguments()).command {
        Command::Serve(serve) => serve.run(),
        Command::Get(get) => get.run(),
        Command::Stats(stats) => stats.run(),
        Command::Ring(ring) => ring.run(),
        Command::Explain(explain) => explain.run(),
        Command::TopKeys(top) => top.run(),
        Command::Plan(plan) => plan.run(),
        Command::Simulate(simulate) => simulate.run(),
    }
}

/// Those that the program was called with. After `help` clap takes each for the name of a command: what asks for help once more
/// is left out.
fn arguments() -> impl Iterator<Item = OsString> {
    let is_help = env::args_os().nth(1).is_some_and(|first| first == "help");
    env::args_os().filter(move |argument| !(is_help && (argument == "--help" || argument == "-h")))
}

/// Reads how many there are to be of something.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed".to_owned()),
        Ok(number @ 1..=65_536) => Ok(number),
        Ok(_) => Err("at most 65536".to_owned()),
        Err(_) => Err("write a whole number".to_owned()),
    }
}
