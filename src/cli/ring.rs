//! `corecache ring`.

mod simulate;

use std::error::Error;
use std::fmt::Write as _;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use corecache::cluster::{MEMBERS_MAX, Member, Placement, Ring as _, SLOTS, View, slot};
use corecache::counted;
use serde_json::json;

use super::{at_least_one, output};

/// Draws are in units of 2^-32.
const DRAWS: f64 = (1u64 << 32) as f64;

const WHY: &str = "Each member draws a number from 0 to 1 for each slot, and bids -log2(1 - draw) / weight. The lowest bid \
owns the slot. Who stands in follows by bids, too, but those in a zone that is not there yet come before the others.";

#[derive(Args)]
#[command(
    after_help = WHY,
    override_usage = "corecache ring GROUP KEY... --peers MEMBER,... [--ranks N] [--json]\n       \
                            corecache ring --simulate N [--json]"
)]
pub struct Ring {
    /// The group that the keys are of
    #[arg(required_unless_present = "simulate")]
    group: Option<String>,

    /// Keys of the group
    #[arg(value_name = "KEY", required_unless_present = "simulate", value_parser = NonEmptyStringValueParser::new())]
    keys: Vec<String>,

    /// The members of the cluster, as the nodes write them: host:port, host:port=WEIGHT (100 if not said), host:port@ZONE,
    /// host:port=WEIGHT@ZONE
    #[arg(
        long,
        value_name = "MEMBER",
        value_delimiter = ',',
        required_unless_present = "simulate"
    )]
    peers: Vec<Member>,

    /// How many members to show of those who are asked for a key: its owner, and who stands in for it
    #[arg(long, value_name = "N", default_value = "3", value_parser = at_least_one)]
    ranks: usize,

    /// Show instead how evenly N nodes share the slots, and how many slots move when one joins or leaves
    #[arg(long, value_name = "N", value_parser = nodes, conflicts_with_all = ["group", "peers", "ranks"])]
    simulate: Option<usize>,

    /// Print JSON, a line for each key
    #[arg(long)]
    json: bool,
}

impl Ring {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        let text = match (self.simulate, &self.group) {
            (Some(nodes), _) => simulate::run(nodes, self.json),
            (None, group) => self.ranks(group.as_deref().unwrap_or_default())?,
        };
        Ok(output::write(text.as_bytes())?)
    }

    fn ranks(&self, group: &str) -> Result<String, Box<dyn Error>> {
        let view = View::new(self.peers.clone()).map_err(|error| format!("--peers: {error}"))?;
        let placement = Placement::new(&view);
        let lines = |key: &String| match self.json {
            true => self.json(&placement, group, key),
            false => self.table(&placement, group, key),
        };
        let keys: String = self.keys.iter().map(lines).collect();
        let head = format!(
            "{}, {SLOTS} slots, epoch {:016x}, checksum {:016x}\n",
            counted(view.members().len(), "member", "members"),
            placement.epoch().0,
            placement.checksum()
        );
        Ok(if self.json { keys } else { head + &keys })
    }

    fn table(&self, placement: &Placement, group: &str, key: &str) -> String {
        let slot = slot(group.as_bytes(), key.as_bytes());
        let ranks = placement.ranks(slot, self.ranks);
        let member = |position: usize| &placement.members()[position];
        let addresses = ranks.iter().map(|rank| member(rank.position).address.len());
        let width = addresses.max().unwrap_or(0).max("member".len());
        let mut text = format!("\nkey {key:?} of group {group:?}: slot {slot}\n");
        text += &format!(
            "{:>4}  {:width$} {:>10} {:>10} {:>13}  zone\n",
            "rank", "member", "weight", "draw", "bid"
        );
        for (number, rank) in (1..).zip(&ranks) {
            let Member {
                address,
                weight,
                zone,
            } = member(rank.position);
            let (draw, bid) = (f64::from(rank.draw) / DRAWS, rank.bid);
            let line = format!(
                "{number:>4}  {address:width$} {weight:>10} {draw:>10.6} {bid:>13.6e}  {zone}"
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    fn json(&self, placement: &Placement, group: &str, key: &str) -> String {
        let slot = slot(group.as_bytes(), key.as_bytes());
        let ranks = placement.ranks(slot, self.ranks).into_iter().map(|rank| {
            let Member { address, weight, zone } = &placement.members()[rank.position];
            let draw = f64::from(rank.draw) / DRAWS;
            json!({ "member": address, "weight": weight, "zone": zone, "draw": draw, "bid": rank.bid })
        });
        let line = json!({
            "group": group,
            "key": key,
            "slot": slot,
            "epoch": format!("{:016x}", placement.epoch().0),
            "checksum": format!("{:016x}", placement.checksum()),
            "ranks": ranks.collect::<Vec<_>>(),
        });
        format!("{line}\n")
    }
}

/// Reads how many nodes to simulate: one more joins, and one leaves.
fn nodes(text: &str) -> Result<usize, String> {
    let most = MEMBERS_MAX - 1;
    match text.parse() {
        Ok(nodes) if (2..=most).contains(&nodes) => Ok(nodes),
        _ => Err(format!("write a number of nodes from 2 to {most}")),
    }
}
