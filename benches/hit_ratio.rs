//! Hit ratios on real traces, beside those that twelve other policies have on them.
//!
//! `TRACES=DIR` names a folder with `NAME.trace.zst`, a request a line; the policies' ratios stand in a table in
//! Markdown, a row for each trace and size, in the file `BASELINE` or else `DIR/../baselines/hit_ratio.md`. Printed is,
//! for each row, our policy's ratio, the best of the twelve, and the distance; then the mean distance and the worst over
//! rows of 100 entries or more: of all traces, of each, and of all but each, so that one trace can not hide the others.
//! Rows `/b` are ratios of bytes, and count in no mean.
//!
//! With `--engine` each trace is also replayed by two threads through a cache of eight shards, at the sizes that leave
//! a shard 256 entries or more, and compared with the pure policy.
//!
//! What this can't show: how our policy does on traces that nobody has looked at while it was made.
//!
//! `TRACES=DIR cargo bench --bench hit_ratio [-- --engine]`

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use corecache::engine::policy::simulate::{Contender, Trace};
use corecache::engine::{Builder, Cache};
use ruzstd::decoding::StreamingDecoder;

/// Smaller caches are shown, but count in no mean.
const ENTRIES_MIN: u64 = 100;
const MEAN_WANTED: f64 = 0.6;
const WORST_WANTED: f64 = 3.5;

const SHARDS: usize = 8;
const SHARD_ENTRIES_MIN: u64 = 256;
const THREADS: usize = 2;
const ENGINE_WANTED: f64 = 0.5;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(folder) = env::var_os("TRACES").map(PathBuf::from) else {
        println!("hit_ratio: skipped, there are no traces; TRACES=DIR names their folder");
        return Ok(());
    };
    let table = env::var_os("BASELINE").map(PathBuf::from);
    let table = table.unwrap_or_else(|| folder.join("../baselines/hit_ratio.md"));
    let rows =
        fs::read_to_string(&table).map_err(|error| format!("{}: {error}", table.display()))?;
    let rows = read_table(&rows);
    let mut traces = BTreeMap::new();
    for row in &rows {
        if !traces.contains_key(&row.trace) {
            traces.insert(row.trace.clone(), read_trace(&folder, &row.trace)?);
        }
    }
    let distances = compare(&rows, &traces);
    summarize(&distances);
    if env::args().any(|argument| argument == "--engine") {
        through_the_engine(&rows, &traces)?;
    }
    Ok(())
}

/// A row of the table, in percent.
struct Row {
    trace: String,
    is_bytes: bool,
    size: u64,
    best: f64,
    best_policy: String,
    s3_fifo: f64,
    belady: f64,
}

/// Reads the rows of a Markdown table whose first row names its columns; passes over everything else.
fn read_table(text: &str) -> Vec<Row> {
    let mut names = Vec::new();
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells[0] == "trace" {
            names = cells;
            continue;
        }
        rows.extend(read_row(&names, &cells));
    }
    rows
}

fn read_row(names: &[&str], cells: &[&str]) -> Option<Row> {
    let size = cells.get(1)?.parse().ok()?;
    let (trace, is_bytes) = match cells[0].strip_suffix("/b") {
        Some(trace) => (trace.trim(), true),
        None => (cells[0], false),
    };
    let ratios = names.iter().zip(cells).skip(2);
    let ratios: Vec<(&str, f64)> = ratios
        .filter_map(|(name, cell)| Some((*name, cell.parse().ok()?)))
        .collect();
    let of = |name: &str| {
        ratios
            .iter()
            .find(|ratio| ratio.0 == name)
            .map(|ratio| ratio.1)
    };
    let policies = ratios
        .iter()
        .filter(|ratio| !["Belady", "best"].contains(&ratio.0));
    let best = policies.max_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(Row {
        trace: trace.to_owned(),
        is_bytes,
        size,
        best: best.1,
        best_policy: best.0.to_owned(),
        s3_fifo: of("S3FIFO")?,
        belady: of("Belady")?,
    })
}

fn read_trace(folder: &Path, name: &str) -> Result<Trace, Box<dyn Error>> {
    let path = folder.join(format!("{name}.trace.zst"));
    let failed = |error: &dyn Error| format!("{}: {error}", path.display());
    let file = File::open(&path).map_err(|error| failed(&error))?;
    let text = StreamingDecoder::new(BufReader::new(file)).map_err(|error| failed(&error))?;
    Ok(Trace::read(BufReader::new(text)).map_err(|error| failed(&error))?)
}

/// Prints every row; returns the distances to the best that count, by trace.
fn compare(rows: &[Row], traces: &BTreeMap<String, Trace>) -> BTreeMap<String, Vec<f64>> {
    println!(
        "{:<20} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  best of the twelve",
        "trace", "size", "corecache", "best", "distance", "S3FIFO", "Belady"
    );
    let mut distances = BTreeMap::<String, Vec<f64>>::new();
    for row in rows {
        let trace = &traces[&row.trace];
        let outcome = trace.replay(Contender::Corecache, row.size, |_| ());
        let (ours, unit) = match row.is_bytes {
            true => (100.0 * outcome.byte_hit_ratio(), " /b"),
            false => (100.0 * outcome.hit_ratio(), ""),
        };
        let distance = row.best - ours;
        let name = format!("{}{unit}", row.trace);
        println!(
            "{name:<20} {:>9} {ours:>9.2} {:>9.2} {distance:>9.2} {:>9.2} {:>9.2}  {}",
            row.size, row.best, row.s3_fifo, row.belady, row.best_policy
        );
        if !row.is_bytes && row.size >= ENTRIES_MIN {
            distances
                .entry(row.trace.clone())
                .or_default()
                .push(distance);
        }
    }
    distances
}

fn summarize(distances: &BTreeMap<String, Vec<f64>>) {
    let all: Vec<f64> = distances.values().flatten().copied().collect();
    println!(
        "\n{:<20} {:>20} {:>22}",
        "distance to the best", "mean, worst", "without: mean, worst"
    );
    for (trace, own) in distances {
        let others = distances.iter().filter(|other| other.0 != trace);
        let others: Vec<f64> = others.flat_map(|other| other.1).copied().collect();
        let ((mean, worst), (mean_without, worst_without)) =
            (mean_and_worst(own), mean_and_worst(&others));
        println!("{trace:<20} {mean:>12.2} {worst:>7.2} {mean_without:>14.2} {worst_without:>7.2}");
    }
    let (mean, worst) = mean_and_worst(&all);
    println!("{:<20} {mean:>12.2} {worst:>7.2}", "all");
    let behind: Vec<f64> = all.iter().map(|distance| distance.max(0.0)).collect();
    println!(
        "{:<20} {:>12.2}",
        "all, ahead as 0",
        mean_and_worst(&behind).0
    );
    let is_met = mean <= MEAN_WANTED && worst <= WORST_WANTED;
    let verdict = if is_met { "met" } else { "missed" };
    println!("wanted: {MEAN_WANTED} at the most, and {WORST_WANTED} in the worst row: {verdict}");
}

fn mean_and_worst(distances: &[f64]) -> (f64, f64) {
    let mean = distances.iter().sum::<f64>() / distances.len().max(1) as f64;
    (mean, distances.iter().copied().fold(f64::MIN, f64::max))
}

/// What an entry weighs: so much that what the engine keeps beside it does not matter. It is only said, not allocated.
const ENTRY_BYTES: usize = 1 << 20;

fn through_the_engine(
    rows: &[Row],
    traces: &BTreeMap<String, Trace>,
) -> Result<(), Box<dyn Error>> {
    println!("\n{SHARDS} shards, {THREADS} threads");
    println!(
        "{:<20} {:>9} {:>9} {:>9} {:>9}",
        "trace", "size", "policy", "engine", "distance"
    );
    let mut worst = f64::MIN;
    for row in rows {
        let trace = &traces[&row.trace];
        if trace.is_sized() || row.size < SHARDS as u64 * SHARD_ENTRIES_MIN {
            continue;
        }
        let pure = 100.0
            * trace
                .replay(Contender::Corecache, row.size, |_| ())
                .hit_ratio();
        let engine = 100.0 * engine_hit_ratio(trace, row.size as usize)?;
        let distance = pure - engine;
        worst = worst.max(distance);
        println!(
            "{:<20} {:>9} {pure:>9.2} {engine:>9.2} {distance:>9.2}",
            row.trace, row.size
        );
    }
    let verdict = if worst <= ENGINE_WANTED {
        "met"
    } else {
        "missed"
    };
    println!("wanted: {ENGINE_WANTED} less at the most: {verdict}");
    Ok(())
}

fn engine_hit_ratio(trace: &Trace, entries: usize) -> Result<f64, Box<dyn Error>> {
    let own = Cache::<u32, ()>::new(1 << 20)?;
    own.insert(0, ())?;
    let overhead = own.stats().entry_bytes as usize;
    let builder = Builder::new(entries * ENTRY_BYTES).shards(SHARDS);
    let cache =
        Cache::<u32, ()>::from_builder(&builder)?.weigh_with(move |_, ()| ENTRY_BYTES - overhead);
    // Who comes while another loads waits for it, and has not missed: else two threads would miss what one does not.
    let (next, loads) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let load = |_: &u32| {
        loads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(request) = trace.requests().get(next.fetch_add(1, Ordering::Relaxed))
                {
                    cache
                        .get_or_load(&request.key, load)
                        .expect("the load does not fail");
                }
            });
        }
    });
    Ok(1.0 - loads.into_inner() as f64 / trace.requests().len() as f64)
}
