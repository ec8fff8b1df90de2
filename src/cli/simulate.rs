//! `corecache simulate`.

mod plot;
mod progress;
mod source;

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::Args;
use corecache::counted;
use corecache::engine::policy::simulate::{Contender, Outcome, Trace};

use super::size;
use progress::Progress;

/// How many sizes are tried where none are given, each twice the one before; the last holds half of all keys.
const LADDER: u32 = 9;

#[derive(Args)]
pub struct Simulate {
    /// The trace: a request a line, `key` or `key size`, plain or compressed (.gz, .zst); - is standard input
    trace: PathBuf,

    /// Sizes of the cache: 5000 entries if the lines are `key`; 5000 bytes, or 64MiB, if they are `key size`; 10% of all
    /// that the trace asks for
    #[arg(short, long, value_name = "SIZE,...", value_delimiter = ',', value_parser = CacheSize::parse)]
    sizes: Vec<CacheSize>,

    /// Policies: corecache (what the server uses), s3fifo, lru, belady (the clairvoyant optimum)
    #[arg(short, long, value_name = "POLICY,...", value_delimiter = ',', default_values_t = Contender::ALL)]
    policy: Vec<Contender>,

    /// Print a line of JSON for each size and policy
    #[arg(long)]
    json: bool,

    /// Draw the hit ratios by size into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// A size as it was asked for.
#[derive(Clone, Copy)]
enum CacheSize {
    /// Of what the trace is measured in.
    Whole(u64),
    Bytes(u64),
    Percent(f64),
}

impl CacheSize {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.trim().strip_suffix('%') {
            let percent = percent.trim().parse().ok();
            return percent
                .filter(|percent| *percent > 0.0 && *percent <= 100.0)
                .map(Self::Percent)
                .ok_or_else(|| format!("{text:?} is no part; write more than 0%, up to 100%"));
        }
        let has_unit = text
            .trim()
            .ends_with(|last: char| last.is_ascii_alphabetic());
        match size::parse(text) {
            Ok(0) => Err(
                "a cache of size 0 holds nothing; write 1 or more, or a part such as 10%"
                    .to_owned(),
            ),
            Ok(size) if has_unit => Ok(Self::Bytes(size as u64)),
            Ok(size) => Ok(Self::Whole(size as u64)),
            Err(_) => Err(format!(
                "{text:?} is no size; write 5000, 64MiB or 10%, with a comma between sizes"
            )),
        }
    }

    fn of(self, trace: &Trace) -> Result<u64, String> {
        match self {
            Self::Bytes(size) if !trace.is_sized() => Err(format!(
                "--sizes {} is in bytes, and the trace does not say how large its values are: write how many entries the \
                 cache is to hold, such as 5000, or a part, such as 10%; or give a trace whose lines are `key size`",
                size::show(size)
            )),
            Self::Whole(size) | Self::Bytes(size) => Ok(size),
            Self::Percent(percent) => {
                Ok(((trace.footprint() as f64 * percent / 100.0) as u64).max(1))
            }
        }
    }
}

/// One line of the answer.
struct Row {
    policy: Contender,
    size: u64,
    outcome: Outcome,
}

impl Simulate {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        let name = self.trace.display().to_string();
        let trace = source::read(&self.trace).map_err(|error| format!("{name}: {error}"))?;
        if trace.capped() > 0 {
            let capped = counted(trace.capped(), "request", "requests");
            eprintln!("corecache: {name}: {capped} of 4 GiB and more, counted as 4 GiB");
        }
        let sizes = self.cache_sizes(&trace);
        let sizes = sizes.map_err(|error| format!("{name}: {error}"))?;
        let policies = each_once(&self.policy);
        let rows = replay_all(&trace, &sizes, &policies);
        let text = if self.json {
            json(&rows)
        } else {
            table(&trace, &sizes, &policies, &rows)
        };
        io::stdout().lock().write_all(text.as_bytes())?;
        // What was replayed is told before anything can go wrong with its picture.
        if let Some(path) = &self.plot {
            let title = self.trace.file_name().unwrap_or(self.trace.as_os_str());
            let picture = plot::draw(&title.to_string_lossy(), trace.is_sized(), &rows);
            fs::write(path, picture)
                .map_err(|error| format!("--plot {}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// Ascending, each once.
    fn cache_sizes(&self, trace: &Trace) -> Result<Vec<u64>, String> {
        let footprint = trace.footprint();
        let mut sizes: Vec<u64> = if self.sizes.is_empty() {
            let ladder = (1..=LADDER).map(|step| footprint >> step);
            ladder.filter(|&size| size > 0).collect()
        } else {
            let asked = self.sizes.iter().map(|size| size.of(trace));
            asked.collect::<Result<_, _>>()?
        };
        if sizes.is_empty() {
            sizes.push(footprint.max(1));
        }
        sizes.sort_unstable();
        sizes.dedup();
        Ok(sizes)
    }
}

fn each_once(policies: &[Contender]) -> Vec<Contender> {
    let mut once = Vec::new();
    for &policy in policies {
        if !once.contains(&policy) {
            once.push(policy);
        }
    }
    once
}

/// Replays the trace for each size and policy, on as many threads as there are cores.
fn replay_all(trace: &Trace, sizes: &[u64], policies: &[Contender]) -> Vec<Row> {
    let each = |size: u64| policies.iter().map(move |&policy| (size, policy));
    let runs: Vec<_> = sizes.iter().flat_map(|&size| each(size)).collect();
    let total = trace.requests().len() as u64 * runs.len() as u64;
    let progress = Progress::new("replaying", total);
    let threads = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(runs.len());
    let next = AtomicUsize::new(0);
    let replay = || {
        let mut rows = Vec::new();
        loop {
            let run = next.fetch_add(1, Ordering::Relaxed);
            let Some(&(size, policy)) = runs.get(run) else {
                return rows;
            };
            let outcome = trace.replay(policy, size, |requests| progress.add(requests));
            rows.push((
                run,
                Row {
                    policy,
                    size,
                    outcome,
                },
            ));
        }
    };
    let mut rows: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(replay)).collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().expect("a replay does not panic"));
        joined.flatten().collect()
    });
    rows.sort_by_key(|row| row.0);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn json(rows: &[Row]) -> String {
    let line = |row: &Row| {
        format!(
            "{{\"policy\":\"{}\",\"size\":{},\"requests\":{},\"hit_ratio\":{:.6},\"byte_hit_ratio\":{:.6}}}\n",
            row.policy,
            row.size,
            row.outcome.requests,
            row.outcome.hit_ratio(),
            row.outcome.byte_hit_ratio()
        )
    };
    rows.iter().map(line).collect()
}

fn table(trace: &Trace, sizes: &[u64], policies: &[Contender], rows: &[Row]) -> String {
    let footprint = trace.footprint();
    let all = match trace.is_sized() {
        true => size::show(footprint),
        false => counted(footprint, "entry", "entries"),
    };
    let requests = counted(trace.requests().len(), "request", "requests");
    let keys = counted(trace.keys(), "key", "keys");
    let mut text = format!("{requests} of {keys}, {all} in all\n");
    let mut block = |heading: &str, ratio: fn(&Outcome) -> f64| {
        text += &format!("\n{:>12} {:>8}", "size", "of all");
        policies
            .iter()
            .for_each(|policy| text += &format!(" {policy:>10}"));
        text += &format!("   {heading}\n");
        for &size in sizes {
            let shown = match trace.is_sized() {
                true => size::show(size),
                false => size.to_string(),
            };
            let part = 100.0 * size as f64 / footprint.max(1) as f64;
            text += &format!("{shown:>12} {part:>7.2}%");
            for row in rows.iter().filter(|row| row.size == size) {
                text += &format!(" {:>10.2}", 100.0 * ratio(&row.outcome));
            }
            text += "\n";
        }
    };
    block("hits %", Outcome::hit_ratio);
    if trace.is_sized() {
        block("bytes %", Outcome::byte_hit_ratio);
    }
    text
}

#[cfg(test)]
mod tests;
