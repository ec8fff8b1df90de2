//! Who else is in the cluster, as flags of `corecache serve`.

use clap::{ArgGroup, Args};
use corecache::cluster::Member;
use corecache::server::{MembersConfig, MembersSource};

#[derive(Args)]
#[command(next_help_heading = "Members of the cluster")]
#[command(group = ArgGroup::new("source").args(["peers"]))]
pub struct Members {
    /// The nodes of the cluster, as HOST:PORT, or HOST:PORT=WEIGHT@ZONE; the same list for each of them
    #[arg(long, value_name = "NODE,...", value_delimiter = ',', value_parser = Member::parse)]
    peers: Option<Vec<Member>>,

    /// Where the other nodes reach this one, as HOST:PORT; its identity in the cluster [default: where it listens]
    #[arg(long, value_name = "ADDR", requires = "source", value_parser = address)]
    advertise: Option<String>,

    /// The share of the keys that this node gets, against the weights of the others, where --peers does not say
    /// [default: 100]
    #[arg(long, value_name = "N", requires = "source", value_parser = clap::value_parser!(u32).range(1..))]
    weight: Option<u32>,

    /// Where this node stands, such as a zone of a provider or a rack, where --peers does not say
    #[arg(long, value_name = "NAME", requires = "source", value_parser = zone)]
    zone: Option<String>,
}

impl Members {
    pub fn config(self) -> MembersConfig {
        MembersConfig {
            advertise: self.advertise,
            weight: self.weight,
            zone: self.zone.unwrap_or_default(),
            source: match self.peers {
                Some(peers) => MembersSource::List(peers),
                None => MembersSource::Alone,
            },
        }
    }
}

fn address(text: &str) -> Result<String, String> {
    let member = Member::parse(text).map_err(|error| error.to_string())?;
    match member == Member::new(&*member.address) {
        true => Ok(member.address),
        false => Err("the weight and the zone are said with --weight and --zone".to_owned()),
    }
}

/// A zone as it may stand in a list of members.
fn zone(text: &str) -> Result<String, String> {
    match Member::parse(&format!("host:1@{text}")) {
        Ok(member) if !text.contains('@') => Ok(member.zone),
        _ => Err("write 1 to 64 letters, digits and any of - _ . : /".to_owned()),
    }
}
