//! Whether the own address is one at which the others reach this node.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use super::Report;
use crate::cluster::{Member, View};

const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Members of a list that are looked up at the most.
const LOOKED_UP_MAX: usize = 256;

/// What may speak against the own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// Its host has no address.
    Unresolved,
    /// The source does not name it.
    Unlisted,
    /// Another node has registered it and is alive.
    Taken,
    /// It is on the loopback, and others are not.
    Loopback,
    /// The source names this node, and by another address.
    Alias,
}

impl Doubt {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Unresolved,
        Self::Unlisted,
        Self::Taken,
        Self::Loopback,
        Self::Alias,
    ];

    /// What it is called among the figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::Unlisted => "unlisted",
            Self::Taken => "taken",
            Self::Loopback => "loopback",
            Self::Alias => "alias",
        }
    }

    /// Others can not reach a loopback address, unless all are on one machine.
    pub(super) fn loopback(own: &Member, view: &View) -> Option<String> {
        if !is_loopback(own)? {
            return None;
        }
        let remote = |member: &&Member| is_loopback(member) == Some(false);
        let remote = view.members().iter().find(remote)?;
        Some(format!(
            "it is on the loopback, and {} is not: other machines do not reach this node there; say with --advertise where \
             they do",
            remote.address
        ))
    }
}

/// None for a host that is a name.
fn is_loopback(member: &Member) -> Option<bool> {
    let (host, _) = member.address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr = host.parse().ok()?;
    Some(address.is_loopback())
}

/// Looks until the own host has an address. A name server that hangs holds up nothing else.
pub(super) fn watch(report: &Report) -> io::Result<()> {
    let report = report.clone();
    let thread = thread::Builder::new().name("own-address".to_owned());
    if is_loopback(report.own()).is_some() {
        return Ok(());
    }
    thread.spawn(move || {
        loop {
            let words = match report.own().address.to_socket_addrs() {
                Ok(addresses) if addresses.len() > 0 => None,
                Ok(_) => Some("its host has no address".to_owned()),
                Err(error) => Some(format!("its host has no address here: {error}")),
            };
            let is_known = words.is_none();
            report.doubt(Doubt::Unresolved, words);
            if is_known || !report.pause(TRY_AGAIN) {
                return;
            }
        }
    })?;
    Ok(())
}

/// Looks, on a thread, whether a list that does not have the own address has this node by another one: it would be two
/// members, and for the others another one than for itself.
pub(super) fn seek_alias(report: &Report, members: &[Member]) {
    let own = report.own();
    if members.iter().any(|member| member.address == own.address) {
        return report.doubt(Doubt::Alias, None);
    }
    let port = port(own);
    let with_port = members.iter().filter(|member| self::port(member) == port);
    let candidates: Vec<_> = with_port.take(LOOKED_UP_MAX).cloned().collect();
    let report = report.clone();
    let look = move || {
        let own = addresses(report.own());
        let is_own = |member: &&Member| {
            addresses(member)
                .iter()
                .any(|address| own.contains(address))
        };
        let alias = candidates.iter().find(is_own).map(|member| {
            format!(
                "the members have this node as {}, and do not have this address; give it the same one with --advertise",
                member.address
            )
        });
        report.doubt(Doubt::Alias, alias);
    };
    let thread = thread::Builder::new().name("own-alias".to_owned());
    if let Err(error) = thread.spawn(look) {
        log::warn!("members: no thread to look whether one of them is this node: {error}");
    }
}

fn port(member: &Member) -> Option<&str> {
    member.address.rsplit_once(':').map(|(_, port)| port)
}

fn addresses(member: &Member) -> Vec<SocketAddr> {
    let addresses = member.address.to_socket_addrs();
    addresses.map_or_else(|_| Vec::new(), Iterator::collect)
}
