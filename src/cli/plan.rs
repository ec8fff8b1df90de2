//! `corecache plan`.

use std::error::Error;

use clap::{ArgGroup, Args};
use corecache::client::{Amount, Change, Plan as Planned};
use corecache::cluster::{Member, SLOTS};
use corecache::counted;
use serde_json::json;

use super::nodes::Nodes;
use super::{output, size};

const WHY: &str = "Each node counts the entries that it owns now and another node would own. Nothing is changed: the members \
are where the nodes have them from.";

#[derive(Args)]
#[command(after_help = WHY)]
#[command(group = ArgGroup::new("change").args(["add", "remove"]).multiple(true).required(true))]
pub struct Plan {
    /// Nodes that would join, as HOST:PORT or HOST:PORT=WEIGHT@ZONE; with the address of a member: its weight then
    #[arg(long, value_name = "NODE,...", value_delimiter = ',')]
    add: Vec<Member>,

    /// Members that would leave, as HOST:PORT
    #[arg(long, value_name = "NODE,...", value_delimiter = ',')]
    remove: Vec<Member>,

    #[command(flatten)]
    nodes: Nodes,

    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Plan {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        let client = self.nodes.client()?;
        let plan = client.plan(&Change {
            add: self.add,
            remove: self
                .remove
                .into_iter()
                .map(|member| member.address)
                .collect(),
        })?;
        let text = match self.json {
            true => json(&plan),
            false => table(&plan),
        };
        Ok(output::write(text.as_bytes())?)
    }
}

fn table(plan: &Planned) -> String {
    let (moved, needed) = (plan.movement.moved, plan.movement.needed);
    let mut text = format!(
        "{} now, {} then; epoch {:016x}\n{moved} of {SLOTS} slots move ({:.1} %), {needed} have to\n\n",
        counted(plan.members.0, "member", "members"),
        plan.members.1,
        plan.epoch.0,
        100.0 * moved as f64 / SLOTS as f64
    );
    let width = plan.nodes.iter().map(|(node, _)| node.len()).max();
    let width = width.unwrap_or(0).max("node".len());
    text += &format!(
        "{:width$} {:>12} {:>10} {:>12} {:>10}\n",
        "node", "owns entries", "size", "would lose", "size"
    );
    for (node, weighed) in &plan.nodes {
        text += &match weighed {
            Ok(weighed) => {
                let (mut owned, mut moving) = (Amount::default(), Amount::default());
                for group in &weighed.groups {
                    owned.add(group.owned);
                    moving.add(group.moving);
                }
                let other = match weighed.epoch == plan.epoch {
                    true => String::new(),
                    false => format!("  it goes by epoch {:016x}", weighed.epoch.0),
                };
                format!(
                    "{node:width$} {:>12} {:>10} {:>12} {:>10}{other}\n",
                    owned.entries,
                    size::show(owned.bytes),
                    moving.entries,
                    size::show(moving.bytes)
                )
            }
            Err(words) => format!("{node:width$} not known: {words}\n"),
        };
    }
    text += "\nif each key is asked for again, and its new owner does not get it from another node, the origins load:\n";
    for (name, origin, moving) in plan.moving() {
        text += &format!(
            "{name:<16} {:>15}, {} in the cache, from {origin}\n",
            counted(moving.entries, "key", "keys"),
            size::show(moving.bytes)
        );
    }
    if plan.nodes.iter().any(|(_, weighed)| weighed.is_err()) {
        text += "and what those hold that are not known\n";
    }
    text
}

fn json(plan: &Planned) -> String {
    let amount = |amount: Amount| json!({ "entries": amount.entries, "bytes": amount.bytes });
    let nodes = plan.nodes.iter().map(|(node, weighed)| match weighed {
        Ok(weighed) => {
            let groups = weighed.groups.iter().map(|group| {
                json!({
                    "name": group.name,
                    "held": amount(group.held),
                    "owned": amount(group.owned),
                    "moving": amount(group.moving),
                })
            });
            json!({
                "node": node,
                "epoch": format!("{:016x}", weighed.epoch.0),
                "groups": groups.collect::<Vec<_>>(),
            })
        }
        Err(words) => json!({ "node": node, "error": words }),
    });
    let loads = plan.moving().into_iter().map(|(name, origin, moving)| {
        json!({ "group": name, "origin": origin, "keys": moving.entries, "bytes": moving.bytes })
    });
    let line = json!({
        "members_now": plan.members.0,
        "members_then": plan.members.1,
        "epoch": format!("{:016x}", plan.epoch.0),
        "slots": SLOTS,
        "slots_moved": plan.movement.moved,
        "slots_needed": plan.movement.needed,
        "nodes": nodes.collect::<Vec<_>>(),
        "loads_at_most": loads.collect::<Vec<_>>(),
    });
    format!("{line}\n")
}
