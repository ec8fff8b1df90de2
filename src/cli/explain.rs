//! `corecache explain`.

use std::error::Error;

use clap::Args;
use corecache::client::{Explanation, Held, Ranked};
use serde_json::json;

use super::nodes::{Nodes, words};
use super::{at_least_one, output, size};

#[derive(Args)]
pub struct Explain {
    /// The group
    group: String,

    /// The key
    key: String,

    #[command(flatten)]
    nodes: Nodes,

    /// How many of the nodes to ask that are asked for the key, the owner first
    #[arg(long, value_name = "N", default_value = "16", value_parser = at_least_one)]
    ranks: usize,

    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        let client = self.nodes.client()?;
        let explained = client.explain(&self.group, &self.key, self.ranks);
        let explained = explained.map_err(|error| words(&error))?;
        let text = match self.json {
            true => self.json(&explained),
            false => self.table(&explained),
        };
        Ok(output::write(text.as_bytes())?)
    }

    fn table(&self, explained: &Explanation) -> String {
        let Explanation { slot, epoch, ranks } = explained;
        let mut text = format!(
            "key {:?} of group {:?}: slot {slot}, epoch {:016x}\n",
            self.key, self.group, epoch.0
        );
        let width = ranks.iter().map(|rank| rank.node.len()).max();
        let width = width.unwrap_or(0).max("node".len());
        text += &format!("rank  {:width$}  held\n", "node");
        for (number, Ranked { node, seen }) in (1..).zip(ranks) {
            let mut words = match seen {
                Ok(seen) => seen.held.map_or_else(|| "no".to_owned(), held),
                Err(words) => format!("not known: {words}"),
            };
            if let Ok(seen) = seen
                && let Some(load) = seen.last_load
            {
                words += &format!(
                    "; loaded {:.1} s ago in {} ms: {}",
                    load.age.as_secs_f64(),
                    load.took.as_millis(),
                    load.code_name()
                );
            }
            if let Ok(seen) = seen
                && seen.epoch != *epoch
            {
                words += &format!("; it goes by epoch {:016x}", seen.epoch.0);
            }
            text += &format!("{number:>4}  {node:width$}  {words}\n");
        }
        text
    }

    fn json(&self, explained: &Explanation) -> String {
        let ranks = explained.ranks.iter().map(|rank| match &rank.seen {
            Ok(seen) => json!({
                "node": rank.node,
                "epoch": format!("{:016x}", seen.epoch.0),
                "held": seen.held.is_some(),
                "value_bytes": seen.held.map(|held| held.value_bytes),
                "entry_bytes": seen.held.map(|held| held.entry_bytes),
                "expires_in_seconds": seen.held.and_then(|held| held.expires_in).map(|left| left.as_secs_f64()),
                "last_load": seen.last_load.map(|load| json!({
                    "age_seconds": load.age.as_secs_f64(),
                    "took_seconds": load.took.as_secs_f64(),
                    "code": load.code_name(),
                })),
            }),
            Err(words) => json!({ "node": rank.node, "error": words }),
        });
        let line = json!({
            "group": self.group,
            "key": self.key,
            "slot": explained.slot,
            "epoch": format!("{:016x}", explained.epoch.0),
            "ranks": ranks.collect::<Vec<_>>(),
        });
        format!("{line}\n")
    }
}

fn held(held: Held) -> String {
    let mut words = format!(
        "{} in an entry of {}",
        size::show(held.value_bytes),
        size::show(held.entry_bytes)
    );
    if let Some(left) = held.expires_in {
        words += &format!(", for {:.1} s more at the most", left.as_secs_f64());
    }
    words
}
