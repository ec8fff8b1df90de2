//! How the nodes of a cluster ask each other, as flags of `corecache serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use corecache::server::LinkConfig;

use super::{pem, seconds};

#[derive(Args)]
#[command(next_help_heading = "Links to the other nodes")]
pub struct Links {
    /// Connections to each of the other nodes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = links)]
    peer_links: usize,

    /// Seconds that a node which says nothing is waited for, before the next one is asked
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = patience)]
    peer_patience: Duration,

    /// Seconds that a hot value of another node is kept; 0 for never
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = keep)]
    peer_keep: Duration,

    /// How often a second a key is asked for that is hot: here, or at the node that owns it
    #[arg(long, value_name = "RATE", default_value = "100", value_parser = rate)]
    hot_rate: u32,

    /// The part of the memory that hot values of other nodes may take, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 12, value_parser = clap::value_parser!(u8).range(0..=100))]
    hot_share: u8,

    /// Seconds after a change of the members in which a node asks the others for keys that have become its own, before it
    /// loads them; 0 for never
    #[arg(long, value_name = "SECONDS", default_value = "180", value_parser = keep)]
    handover: Duration,

    /// Seconds that a node which has started says that it is not ready, at the most: until hardly any of its keys come from
    /// those who held them before; 0 for not at all
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = keep)]
    wait_warm: Duration,

    /// Who signs the certificates of the other nodes, a PEM file; needed where the nodes have TLS
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    peer_ca: Option<PathBuf>,
}

impl Links {
    /// For a node with so much memory.
    pub fn config(&self, memory_bytes: usize) -> Result<LinkConfig, String> {
        let read = |path: &PathBuf| pem::certificates("--peer-ca", path);
        Ok(LinkConfig {
            links: self.peer_links,
            patience: self.peer_patience,
            keep: self.peer_keep,
            hot_rate: self.hot_rate,
            hot_share_bytes: memory_bytes / 100 * usize::from(self.hot_share),
            handover: self.handover,
            wait_warm: self.wait_warm,
            roots: self.peer_ca.as_ref().map(read).transpose()?,
        })
    }
}

fn links(text: &str) -> Result<usize, String> {
    match super::at_least_one(text)? {
        number @ ..=64 => Ok(number),
        _ => Err("at most 64: each is a connection to each node".to_owned()),
    }
}

fn patience(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(50);
    const MOST: Duration = Duration::from_secs(60);
    match seconds::limit(text)? {
        time if (LEAST..=MOST).contains(&time) => Ok(time),
        _ => Err("0.05 to 60 seconds: with less a busy node is taken for a dead one".to_owned()),
    }
}

fn rate(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(rate @ 1..) => Ok(rate),
        _ => Err("a whole number of requests a second, at least 1".to_owned()),
    }
}

fn keep(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(24 * 60 * 60);
    match seconds::parse(text)? {
        time if time <= MOST => Ok(time),
        _ => Err("a day at the most".to_owned()),
    }
}
