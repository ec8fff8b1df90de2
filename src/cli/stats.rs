//! `corecache stats`.

use std::error::Error;

use clap::Args;
use corecache::counted;
use corecache::server::pb::cache::{Counters, StatsReply, StatsRequest};

use super::client::Target;
use super::{output, size};

#[derive(Args)]
pub struct Stats {
    #[command(flatten)]
    target: Target,

    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Stats {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        let request = StatsRequest::new();
        let reply: StatsReply = self.target.call("/corecache.v1.Cache/Stats", &request)?;
        let text = if self.json {
            json(&reply)
        } else {
            table(&reply)
        };
        output::write(format!("{text}\n").as_bytes())?;
        Ok(())
    }
}

fn table(reply: &StatsReply) -> String {
    let mut lines = vec![
        format!(
            "corecache {}, up {} s, {}",
            reply.version,
            reply.uptime_seconds,
            counted(reply.shards, "shard", "shards")
        ),
        format!(
            "memory   {} used of {}, {} of it garbage",
            size::show(reply.used_bytes),
            size::show(reply.budget_bytes),
            size::show(reply.garbage_bytes)
        ),
        format!(
            "loads    {} queued, {} shed, {} given up",
            reply.queue_depth, reply.total.shed, reply.total.given_up
        ),
        String::new(),
        format!(
            "{:<16} {:>10} {:>10} {:>12} {:>10} {:>7} {:>10} {:>8} {:>9} {:>9} {:>10}",
            "group",
            "entries",
            "size",
            "hits",
            "misses",
            "hit %",
            "joined",
            "loads",
            "not found",
            "failed",
            "evicted"
        ),
    ];
    for group in &reply.groups {
        lines.push(row(&group.name, &group.counters));
    }
    if reply.groups.len() > 1 {
        lines.push(row("total", &reply.total));
    }
    lines.push(String::new());
    for group in &reply.groups {
        lines.push(format!("{:<16} {}", group.name, group.origin));
    }
    lines.join("\n")
}

fn row(name: &str, counters: &Counters) -> String {
    let asked = counters.hits + counters.misses;
    let hit_percent = match asked {
        0 => "-".to_owned(),
        _ => format!("{:.1}", 100.0 * counters.hits as f64 / asked as f64),
    };
    format!(
        "{:<16} {:>10} {:>10} {:>12} {:>10} {:>7} {:>10} {:>8} {:>9} {:>9} {:>10}",
        name,
        counters.entries,
        size::show(counters.bytes),
        counters.hits,
        counters.misses,
        hit_percent,
        counters.joined,
        counters.loads,
        counters.not_found,
        counters.load_failures,
        counters.evictions
    )
}

fn json(reply: &StatsReply) -> String {
    let groups: Vec<_> = reply
        .groups
        .iter()
        .map(|group| {
            serde_json::json!({
                "name": group.name,
                "origin": group.origin,
                "guaranteed_bytes": group.guaranteed_bytes,
                "largest_bytes": group.largest_bytes,
                "counters": counters(&group.counters),
            })
        })
        .collect();
    serde_json::json!({
        "version": reply.version,
        "uptime_seconds": reply.uptime_seconds,
        "shards": reply.shards,
        "budget_bytes": reply.budget_bytes,
        "used_bytes": reply.used_bytes,
        "garbage_bytes": reply.garbage_bytes,
        "queue_depth": reply.queue_depth,
        "total": counters(&reply.total),
        "groups": groups,
    })
    .to_string()
}

fn counters(counters: &Counters) -> serde_json::Value {
    serde_json::json!({
        "entries": counters.entries,
        "bytes": counters.bytes,
        "hits": counters.hits,
        "misses": counters.misses,
        "joined": counters.joined,
        "loads": counters.loads,
        "not_found": counters.not_found,
        "load_failures": counters.load_failures,
        "load_ns": counters.load_ns,
        "evictions": counters.evictions,
        "refused": counters.refused,
        "shed": counters.shed,
        "given_up": counters.given_up,
    })
}
