//! Members from a name server: all addresses of one name, as a Kubernetes headless service has them.
//!
//! A node is known by its address, and DNS tells no weights and no zones. Of a name with addresses of both families those
//! of the own address's family count: a node with both would be two members.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use super::{Doubt, Report, Source};
use crate::cluster::Member;

/// Finds the addresses of a name; the system's resolver does.
type Resolve = dyn FnMut(&str, u16) -> io::Result<Vec<IpAddr>> + Send;

/// A name whose addresses are the members.
pub struct Dns {
    name: String,
    port: u16,
    ask_every: Duration,
    resolve: Box<Resolve>,
}

impl Dns {
    /// A source that says that the addresses of `name` are the members, each at `port`, and asks again and again.
    pub fn new(name: impl Into<String>, port: u16, ask_every: Duration) -> Self {
        Self::with(name, port, ask_every, system)
    }

    /// The same, with another resolver than the system's.
    pub fn with(
        name: impl Into<String>,
        port: u16,
        ask_every: Duration,
        resolve: impl FnMut(&str, u16) -> io::Result<Vec<IpAddr>> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            port,
            ask_every,
            resolve: Box::new(resolve),
        }
    }

    fn ask(&mut self, report: &Report) {
        let (name, port) = (&self.name, self.port);
        let answer = match (self.resolve)(name, port) {
            Ok(answer) if !answer.is_empty() => answer,
            Ok(_) => return report.down(&format!("{name} has no address")),
            Err(error) => return report.down(&format!("{name} has no address: {error}")),
        };
        let own = report.own().address.parse().ok();
        let members = of_family(&answer, own.map(|own: SocketAddr| own.ip()));
        let is_listed = own.is_some_and(|own| own.port() == port && members.contains(&own.ip()));
        let doubt = (!is_listed).then(|| {
            format!(
                "{name} does not have it, only {}; the other nodes do not know this one",
                shown(&members, port)
            )
        });
        report.doubt(Doubt::Unlisted, doubt);
        let member = |address: &IpAddr| Member::new(SocketAddr::new(*address, port).to_string());
        report.members(members.iter().map(member).collect());
    }
}

impl Source for Dns {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn follow(&mut self, report: &Report) {
        loop {
            self.ask(report);
            if !report.pause(self.ask_every) {
                return;
            }
        }
    }
}

fn system(name: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    let addresses = (name, port).to_socket_addrs()?;
    Ok(addresses.map(|address| address.ip()).collect())
}

/// Each address once, in order; of one family, if there are two.
fn of_family(answer: &[IpAddr], own: Option<IpAddr>) -> Vec<IpAddr> {
    let mut members: Vec<_> = answer.iter().map(IpAddr::to_canonical).collect();
    members.sort();
    members.dedup();
    let is_v4 = own.is_none_or(|own| own.is_ipv4());
    if members.iter().any(|address| address.is_ipv4() == is_v4) {
        members.retain(|address| address.is_ipv4() == is_v4);
    }
    members
}

fn shown(members: &[IpAddr], port: u16) -> String {
    const SHOWN_MAX: usize = 8;
    let mut shown: Vec<_> = members
        .iter()
        .take(SHOWN_MAX)
        .map(|address| SocketAddr::new(*address, port).to_string())
        .collect();
    if members.len() > SHOWN_MAX {
        shown.push(format!("{} more", members.len() - SHOWN_MAX));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use crossbeam::channel::{self, Sender};

    use super::super::{Membership, Standing};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A membership whose resolver answers what the test sends.
    fn start(own: &str) -> (Membership, Sender<io::Result<Vec<IpAddr>>>) {
        let (say, answers) = channel::bounded(0);
        let resolve = move |name: &str, port: u16| {
            assert_eq!((name, port), ("cache.local", 8800));
            answers
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("the test is over")))
        };
        let dns = Dns::with("cache.local", 8800, Duration::from_millis(1), resolve);
        (Membership::start(Member::new(own), dns).unwrap(), say)
    }

    fn ips(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn eventually(membership: &Membership, is_so: impl Fn(&Standing, &[&str]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (view, standing) = (membership.view(), membership.standing());
            let members = view.members().iter();
            let addresses: Vec<_> = members.map(|member| &*member.address).collect();
            if is_so(&standing, &addresses) {
                return;
            }
            assert!(Instant::now() < deadline, "{addresses:?}, {standing:?}");
            thread::yield_now();
        }
    }

    #[test]
    fn the_addresses_of_the_name_are_the_members() {
        let (membership, say) = start("10.0.0.1:8800");
        say.send(Ok(ips(&["10.0.0.2", "10.0.0.1", "10.0.0.2"])))
            .unwrap();
        eventually(&membership, |standing, members| {
            members == ["10.0.0.1:8800", "10.0.0.2:8800"] && standing.doubts.is_empty()
        });
        say.send(Err(io::Error::other("nobody answers"))).unwrap();
        eventually(&membership, |standing, members| {
            let down = standing.down.as_ref();
            members.len() == 2 && down.is_some_and(|(why, _)| why.contains("nobody answers"))
        });
        say.send(Ok(Vec::new())).unwrap();
        eventually(&membership, |standing, members| {
            let down = standing.down.as_ref();
            members.len() == 2 && down.is_some_and(|(why, _)| why == "cache.local has no address")
        });
        say.send(Ok(ips(&["10.0.0.3", "10.0.0.1"]))).unwrap();
        eventually(&membership, |standing, members| {
            members == ["10.0.0.1:8800", "10.0.0.3:8800"] && standing.down.is_none()
        });
    }

    #[test]
    fn an_own_address_that_the_name_does_not_have_is_doubted_and_kept() {
        let (membership, say) = start("10.0.0.1:8800");
        say.send(Ok(ips(&["10.0.0.2"]))).unwrap();
        eventually(&membership, |standing, members| {
            members.len() == 2
                && standing.doubts.first().is_some_and(|(doubt, words)| {
                    *doubt == Doubt::Unlisted && words.contains("10.0.0.2:8800")
                })
        });
        say.send(Ok(ips(&["10.0.0.2", "10.0.0.1"]))).unwrap();
        eventually(&membership, |standing, _| standing.doubts.is_empty());
    }

    #[test]
    fn a_node_with_two_families_is_one_member() {
        let both = ips(&["fd00::1", "10.0.0.1", "10.0.0.2", "fd00::2"]);
        let of = |own: &str| of_family(&both, own.parse().ok());
        assert_eq!(of("10.0.0.1"), ips(&["10.0.0.1", "10.0.0.2"]));
        assert_eq!(of("fd00::1"), ips(&["fd00::1", "fd00::2"]));
        // Better the wrong family than nobody; the own address is doubted then.
        let one = ips(&["10.0.0.1"]);
        assert_eq!(of_family(&one, "fd00::1".parse().ok()), one);
        assert_eq!(of_family(&ips(&["::ffff:10.0.0.1"]), None), one);
    }

    #[test]
    fn the_system_knows_localhost() {
        let addresses = system("localhost", 8800).unwrap();
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
        assert!(!addresses.is_empty());
        assert!(system("nobody.invalid", 8800).is_err());
    }
}
