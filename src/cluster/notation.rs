//! How a member is written: `host:port`, and where it is to be said `host:port=weight@zone`.

use std::fmt::{self, Display, Formatter};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::Member;
use super::member::USUAL_WEIGHT;

/// The longest name of a host, and of a part of it between dots, that DNS knows.
const HOST_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;
const ZONE_LEN_MAX: usize = 64;

/// A text that names no member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("member {text:?}: {fault}")]
pub struct ParseMemberError {
    text: String,
    fault: Fault,
}

/// What is wrong with it, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("no port; write host:port, such as cache-1:8800")]
    NoPort,
    #[error("{0:?} is no port; write a number from 1 to 65535")]
    Port(String),
    #[error("no host; write host:port, the host as the other nodes know it")]
    NoHost,
    #[error("{0:?} is no host; write a name of letters, digits, - and ., or an address")]
    Host(String),
    #[error("an IPv6 address goes in brackets, such as [::1]:8800")]
    NoBrackets,
    #[error("{0:?} is no IPv6 address")]
    Ipv6(String),
    #[error("{0} is nobody's address; write one at which the other nodes reach it")]
    Unspecified(String),
    #[error("{0:?} is no weight; write a whole number from 1 to 4294967295")]
    Weight(String),
    #[error("the weight goes before the zone: host:port=weight@zone")]
    WeightLast,
    #[error("{0:?} is no zone; write 1 to 64 letters, digits and any of - _ . : /")]
    Zone(String),
}

impl Member {
    /// Reads `host:port`, `host:port=weight`, `host:port@zone` or `host:port=weight@zone`; an IPv6 address as host goes in
    /// brackets.
    ///
    /// The address comes out in one spelling, since it is the member's identity: names in small letters and without the dot
    /// at their end, IPv6 addresses in their short form.
    ///
    /// # Errors
    ///
    /// [`ParseMemberError`], which says what to write.
    ///
    /// ```
    /// # use corecache::cluster::Member;
    /// let member = Member::parse("Cache-1:8800=200@eu-1")?;
    /// assert_eq!((member.address.as_str(), member.weight, member.zone.as_str()), ("cache-1:8800", 200, "eu-1"));
    /// # Ok::<(), corecache::cluster::ParseMemberError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, ParseMemberError> {
        read(text).map_err(|fault| ParseMemberError {
            text: text.to_owned(),
            fault,
        })
    }
}

impl FromStr for Member {
    type Err = ParseMemberError;

    fn from_str(text: &str) -> Result<Self, ParseMemberError> {
        Self::parse(text)
    }
}

/// As [`Member::parse`] reads it.
impl Display for Member {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)?;
        if self.weight != USUAL_WEIGHT {
            write!(f, "={}", self.weight)?;
        }
        if !self.zone.is_empty() {
            write!(f, "@{}", self.zone)?;
        }
        Ok(())
    }
}

fn read(text: &str) -> Result<Member, Fault> {
    let (rest, zone) = match text.split_once('@') {
        Some((rest, zone)) => (rest, read_zone(zone)?),
        None => (text, String::new()),
    };
    let (address, weight) = match rest.split_once('=') {
        Some((address, weight)) => (address, read_weight(weight)?),
        None => (rest, USUAL_WEIGHT),
    };
    Ok(Member {
        address: read_address(address)?,
        weight,
        zone,
    })
}

fn read_zone(zone: &str) -> Result<String, Fault> {
    if zone.contains('=') {
        return Err(Fault::WeightLast);
    }
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    match (1..=ZONE_LEN_MAX).contains(&zone.len()) && zone.bytes().all(usual) {
        true => Ok(zone.to_owned()),
        false => Err(Fault::Zone(zone.to_owned())),
    }
}

fn read_weight(weight: &str) -> Result<u32, Fault> {
    let wrong = || Fault::Weight(weight.to_owned());
    digits(weight)
        .filter(|&weight| weight > 0)
        .ok_or_else(wrong)
}

fn read_address(address: &str) -> Result<String, Fault> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .ok_or_else(|| Fault::Ipv6(rest.to_owned()))?;
            (read_ipv6(host)?, port.strip_prefix(':'))
        }
        None if address.parse::<Ipv6Addr>().is_ok() => return Err(Fault::NoBrackets),
        None => match address.rsplit_once(':') {
            Some((host, _)) if host.parse::<Ipv6Addr>().is_ok() => return Err(Fault::NoBrackets),
            Some((host, port)) => (read_host(host)?, Some(port)),
            None => return Err(Fault::NoPort),
        },
    };
    let port = port.ok_or(Fault::NoPort)?;
    let number = digits::<u16>(port).filter(|&number| number > 0);
    let number = number.ok_or_else(|| Fault::Port(port.to_owned()))?;
    Ok(format!("{host}:{number}"))
}

fn read_ipv6(host: &str) -> Result<String, Fault> {
    match host.parse::<Ipv6Addr>() {
        Ok(address) if address.is_unspecified() => Err(Fault::Unspecified(host.to_owned())),
        Ok(address) => Ok(format!("[{address}]")),
        Err(_) => Err(Fault::Ipv6(host.to_owned())),
    }
}

fn read_host(host: &str) -> Result<String, Fault> {
    if host.is_empty() {
        return Err(Fault::NoHost);
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    match name.parse::<Ipv4Addr>() {
        Ok(address) if address.is_unspecified() => Err(Fault::Unspecified(host.to_owned())),
        Ok(address) => Ok(address.to_string()),
        Err(_) if is_name(name) => Ok(name.to_ascii_lowercase()),
        Err(_) => Err(Fault::Host(host.to_owned())),
    }
}

/// Whether DNS could know it; the last part is not a number, or it would be an address.
fn is_name(name: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label =
        |label: &str| (1..=LABEL_LEN_MAX).contains(&label.len()) && label.bytes().all(usual);
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= HOST_LEN_MAX
        && name.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// A number in digits alone: `parse` takes a sign too.
fn digits<N: FromStr>(text: &str) -> Option<N> {
    let all = text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(text: &str) -> String {
        Member::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn a_member_is_read_and_written() {
        let of = |address: &str, weight, zone: &str| Member {
            address: address.to_owned(),
            weight,
            zone: zone.to_owned(),
        };
        for (text, member) in [
            ("a:1", of("a:1", 100, "")),
            ("cache-1.local:8800=7", of("cache-1.local:8800", 7, "")),
            (
                "10.0.0.1:8800@eu-1/r:7",
                of("10.0.0.1:8800", 100, "eu-1/r:7"),
            ),
            (
                "[fe80::1]:65535=4294967295@b",
                of("[fe80::1]:65535", u32::MAX, "b"),
            ),
        ] {
            assert_eq!(text.parse(), Ok(member.clone()), "{text}");
            assert_eq!(member.to_string(), text);
        }
    }

    #[test]
    fn an_address_has_one_spelling() {
        for (text, address) in [
            ("Cache-1.Local.:08800", "cache-1.local:8800"),
            ("[0:0:0:0:0:0:0:1]:1", "[::1]:1"),
            ("[FE80::A]:1", "[fe80::a]:1"),
        ] {
            assert_eq!(Member::parse(text).unwrap().address, address);
        }
    }

    #[test]
    fn what_names_no_member_is_refused_and_says_what_to_write() {
        for (text, part) in [
            ("", "no port"),
            ("a", "no port"),
            ("[::1]", "no port"),
            ("[::1]8800", "no port"),
            ("a:", "\"\" is no port"),
            ("a:0", "is no port"),
            ("a:65536", "is no port"),
            ("a:+1", "is no port"),
            (":8800", "no host"),
            ("a b:1", "\"a b\" is no host"),
            ("a..b:1", "is no host"),
            ("http://a:1", "is no host"),
            ("10.0.0.256:1", "is no host"),
            ("::1:8800", "in brackets"),
            ("fe80::1", "in brackets"),
            ("[::1:8800", "is no IPv6 address"),
            ("[a]:8800", "is no IPv6 address"),
            ("[fe80::1%eth0]:8800", "is no IPv6 address"),
            ("0.0.0.0:8800", "nobody's address"),
            ("[::]:8800", "nobody's address"),
            ("a:1=0", "\"0\" is no weight"),
            ("a:1=", "is no weight"),
            ("a:1=-1", "is no weight"),
            ("a:1=1.5", "is no weight"),
            ("a:1=4294967296", "is no weight"),
            ("a:1@", "\"\" is no zone"),
            ("a:1@b,c", "is no zone"),
            ("a:1@b@c", "is no zone"),
            ("a:1@b=7", "the weight goes before the zone"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(part), "{refusal}");
            assert!(
                refusal.starts_with(&format!("member {text:?}: ")),
                "{refusal}"
            );
        }
        assert!(refusal(&format!("{}:1", "a".repeat(64))).contains("is no host"));
        assert!(refusal(&format!("a:1@{}", "z".repeat(65))).contains("is no zone"));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_and_read_again(text in r"(\PC{0,20}|\[?[0-9a-fA-F:.]{1,20}\]?|[a-zA-Z0-9.-]{1,9}):?\PC{0,5}(=[0-9]{1,11})?(@\PC{0,9})?") {
            if let Ok(member) = Member::parse(&text) {
                prop_assert!(member.weight > 0);
                prop_assert_eq!(Member::parse(&member.to_string()), Ok(member));
            }
        }

        #[test]
        fn a_good_member_is_read(
            host in r"[a-zA-Z][a-zA-Z0-9-]{0,20}(\.[a-z]{1,9}){0,3}|\[fd00::[1-9a-f]{1,4}\]|10\.[0-9]\.[0-9]\.[0-9]",
            port in 1u16..,
            weight in 1u32..,
            zone in "[a-z0-9-]{1,64}",
        ) {
            let member = Member::parse(&format!("{host}:{port}={weight}@{zone}"));
            let address = format!("{}:{port}", host.to_lowercase());
            prop_assert_eq!(member, Ok(Member { address, weight, zone }));
        }
    }
}
