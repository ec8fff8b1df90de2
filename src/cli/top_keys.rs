//! `corecache top-keys`.

use std::error::Error;

use clap::Args;
use corecache::client::{TopKey, TopKeys as Told};
use corecache::counted;
use serde_json::json;

use super::nodes::Nodes;
use super::{at_least_one, output};

#[derive(Args)]
pub struct TopKeys {
    /// The group; all of them if not given
    group: Option<String>,

    #[command(flatten)]
    nodes: Nodes,

    /// How many keys to show
    #[arg(long, value_name = "N", default_value = "20", value_parser = at_least_one)]
    count: usize,

    /// Print JSON, a line for each key, for programs
    #[arg(long)]
    json: bool,
}

impl TopKeys {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        let client = self.nodes.client()?;
        let told = client.top_keys(self.group.as_deref(), self.count);
        let refusals: Vec<_> = told.nodes.iter().filter_map(refusal).collect();
        if refusals.len() == told.nodes.len() {
            return Err(refusals.join("; ").into());
        }
        for refusal in refusals {
            eprintln!("corecache: {refusal}; its keys are left out");
        }
        let text = match self.json {
            true => told
                .keys
                .iter()
                .map(|key| line(key, told.hot_rate))
                .collect(),
            false => table(&told),
        };
        Ok(output::write(text.as_bytes())?)
    }
}

fn refusal((node, told): &(String, Result<(), String>)) -> Option<String> {
    let why = told.as_ref().err()?;
    Some(format!("{node}: {why}"))
}

fn table(told: &Told) -> String {
    let nodes = told.nodes.iter().filter(|(_, told)| told.is_ok()).count();
    let mut text = format!(
        "{}; hot from {} requests a second on\n\n{:>10}  {:<3}  {:<16}  {:<32}  at the most\n",
        counted(nodes, "node", "nodes"),
        told.hot_rate,
        "requests/s",
        "hot",
        "group",
        "key"
    );
    for key in &told.keys {
        let hot = if is_hot(key, told.hot_rate) {
            "yes"
        } else {
            ""
        };
        let (node, rate) = key.by_node.first().map_or(("", 0.0), |at| (&at.0, at.1));
        text += &format!(
            "{:>10.0}  {hot:<3}  {:<16}  {:<32}  {rate:.0} by {node}\n",
            key.rate,
            key.group,
            key.key.escape_ascii().to_string()
        );
    }
    text
}

fn line(key: &TopKey, hot_rate: f64) -> String {
    let by_node = key.by_node.iter();
    let by_node = by_node.map(|(node, rate)| (node.clone(), json!(rate)));
    let line = json!({
        "group": key.group,
        "key": String::from_utf8_lossy(&key.key),
        "rate": key.rate,
        "hot": is_hot(key, hot_rate),
        "by_node": by_node.collect::<serde_json::Map<_, _>>(),
    });
    format!("{line}\n")
}

/// Whether some node takes it for hot.
fn is_hot(key: &TopKey, hot_rate: f64) -> bool {
    key.by_node.iter().any(|(_, rate)| *rate >= hot_rate)
}
