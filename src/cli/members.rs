//! Who else is in the cluster, as flags of `corecache serve`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args};
use corecache::cluster::Member;
use corecache::server::{EtcdConfig, EtcdTls, Identity, MembersConfig, MembersSource};

use super::seconds;

/// Sources that have options of their own.
const DNS: &str = "--peers-dns";
const ETCD: &str = "--etcd";

/// What holds where nothing is said.
const DNS_EVERY: Duration = Duration::from_secs(5);
const ETCD_PREFIX: &str = "/corecache/members/";
const ETCD_TTL: Duration = Duration::from_secs(10);

#[derive(Args)]
#[command(next_help_heading = "Members of the cluster")]
#[command(group = ArgGroup::new("source").args(["peers", "peers_file", "peers_dns", "etcd"]))]
pub struct Members {
    /// The nodes of the cluster, as HOST:PORT or HOST:PORT=WEIGHT@ZONE; the same list for each of them
    #[arg(long, value_name = "NODE,...", value_delimiter = ',', value_parser = Member::parse)]
    peers: Option<Vec<Member>>,

    /// The same from a file, a node on each line and comments from # on; it is read again when it has changed
    #[arg(long, value_name = "PATH")]
    peers_file: Option<PathBuf>,

    /// The nodes are the addresses (A, AAAA) of this name, each at this port, as a Kubernetes headless service has them
    #[arg(long, value_name = "NAME:PORT", value_parser = address, conflicts_with_all = ["weight", "zone"])]
    peers_dns: Option<String>,

    /// Seconds between two questions to DNS [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = seconds::limit)]
    dns_every: Option<Duration>,

    /// Register in etcd (v3) and find the nodes there: endpoints, as HOST:PORT
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',', value_parser = endpoint)]
    etcd: Option<Vec<Endpoint>>,

    /// What the keys in etcd begin with; nodes with another prefix are another cluster [default: /corecache/members/]
    #[arg(long, value_name = "PREFIX", value_parser = NonEmptyStringValueParser::new())]
    etcd_prefix: Option<String>,

    /// Seconds after which a node that is silent leaves the cluster: the time of its lease in etcd, 2 at least [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(2..=3600))]
    etcd_ttl: Option<u32>,

    /// Call etcd by TLS, and trust the certificates in this PEM file
    #[arg(long, value_name = "FILE")]
    etcd_ca: Option<PathBuf>,

    /// The certificate chain that this node shows to etcd, a PEM file
    #[arg(long, value_name = "FILE", requires_all = ["etcd_key", "etcd_ca"])]
    etcd_cert: Option<PathBuf>,

    /// The private key of --etcd-cert, a PEM file
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,

    /// The user that logs in to etcd
    #[arg(long, value_name = "NAME", requires = "etcd_password_file")]
    etcd_user: Option<String>,

    /// A file with the password of --etcd-user
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    etcd_password_file: Option<PathBuf>,

    /// Where the other nodes reach this one, as HOST:PORT; its identity in the cluster [default: where it listens]
    #[arg(long, value_name = "ADDR", requires = "source", value_parser = address)]
    advertise: Option<String>,

    /// The share of the keys that this node gets, against the weights of the others, where no list says it [default: 100]
    #[arg(long, value_name = "N", requires = "source", value_parser = clap::value_parser!(u32).range(1..))]
    weight: Option<u32>,

    /// Where this node stands, such as a zone of a provider or a rack, where no list says it
    #[arg(long, value_name = "NAME", requires = "source", value_parser = zone)]
    zone: Option<String>,
}

impl Members {
    pub fn config(mut self) -> Result<MembersConfig, String> {
        self.check_options()?;
        Ok(MembersConfig {
            source: self.source()?,
            advertise: self.advertise,
            weight: self.weight,
            zone: self.zone.unwrap_or_default(),
        })
    }

    /// Refuses an option of a source that is not the one of this node. (clap's `requires` lets it pass beside another
    /// source.)
    fn check_options(&self) -> Result<(), String> {
        let sources = [
            ("--peers", self.peers.is_some()),
            ("--peers-file", self.peers_file.is_some()),
            (DNS, self.peers_dns.is_some()),
            (ETCD, self.etcd.is_some()),
        ];
        let options = [
            (DNS, "--dns-every", self.dns_every.is_some()),
            (ETCD, "--etcd-prefix", self.etcd_prefix.is_some()),
            (ETCD, "--etcd-ttl", self.etcd_ttl.is_some()),
            (ETCD, "--etcd-ca", self.etcd_ca.is_some()),
            (ETCD, "--etcd-cert", self.etcd_cert.is_some()),
            (ETCD, "--etcd-user", self.etcd_user.is_some()),
        ];
        let given = sources.iter().find(|(_, is_given)| *is_given);
        let given = given.map(|(source, _)| *source);
        let mut stray = options.iter();
        let stray = stray.find(|(source, _, is_given)| *is_given && given != Some(*source));
        match (stray, given) {
            (None, _) => Ok(()),
            (Some((source, option, _)), Some(given)) => Err(format!(
                "{option} is an option of {source}, and the members are said by {given}: leave {option} out, or give \
                 {source} in place of {given}"
            )),
            (Some((source, option, _)), None) => Err(format!(
                "{option} is an option of {source}, which is not given: give it, or leave {option} out"
            )),
        }
    }

    fn source(&mut self) -> Result<MembersSource, String> {
        if let Some(peers) = self.peers.take() {
            return Ok(MembersSource::List(peers));
        }
        if let Some(path) = self.peers_file.take() {
            return Ok(MembersSource::File(path));
        }
        if let Some((name, port)) = self
            .peers_dns
            .as_deref()
            .and_then(|text| text.rsplit_once(':'))
        {
            return Ok(MembersSource::Dns {
                name: name.to_owned(),
                port: port.parse().map_err(|_| "no port in --peers-dns")?,
                every: self.dns_every.unwrap_or(DNS_EVERY),
            });
        }
        match self.etcd.take() {
            Some(endpoints) => Ok(MembersSource::Etcd(self.etcd(endpoints)?)),
            None => Ok(MembersSource::Alone),
        }
    }

    fn etcd(&self, endpoints: Vec<Endpoint>) -> Result<EtcdConfig, String> {
        for endpoint in &endpoints {
            match (endpoint.tls, &self.etcd_ca) {
                (Some(true), None) => {
                    return Err(format!(
                        "--etcd https://{}: for TLS give --etcd-ca FILE, the certificates to trust",
                        endpoint.address
                    ));
                }
                (Some(false), Some(_)) => {
                    return Err(format!(
                        "--etcd http://{} is without TLS, and --etcd-ca asks for it",
                        endpoint.address
                    ));
                }
                _ => {}
            }
        }
        Ok(EtcdConfig {
            endpoints: endpoints
                .into_iter()
                .map(|endpoint| endpoint.address)
                .collect(),
            prefix: self
                .etcd_prefix
                .clone()
                .unwrap_or_else(|| ETCD_PREFIX.to_owned()),
            ttl: self
                .etcd_ttl
                .map_or(ETCD_TTL, |seconds| Duration::from_secs(seconds.into())),
            tls: self.etcd_tls()?,
            login: self.etcd_login()?,
        })
    }

    fn etcd_tls(&self) -> Result<Option<EtcdTls>, String> {
        let Some(ca) = &self.etcd_ca else {
            return Ok(None);
        };
        let identity = match (&self.etcd_cert, &self.etcd_key) {
            (Some(certificates), Some(key)) => Some(Identity {
                certificates: pem("--etcd-cert", certificates)?,
                key: pem("--etcd-key", key)?,
            }),
            _ => None,
        };
        let ca = super::pem::certificates("--etcd-ca", ca)?;
        Ok(Some(EtcdTls { ca, identity }))
    }

    fn etcd_login(&self) -> Result<Option<(String, String)>, String> {
        let (Some(user), Some(path)) = (&self.etcd_user, &self.etcd_password_file) else {
            return Ok(None);
        };
        let what = format!("--etcd-password-file {}", path.display());
        let password = super::password::read(&what, path)?;
        Ok(Some((user.clone(), password)))
    }
}

fn pem(flag: &str, path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |cause: String| format!("{flag} {}: {cause}", path.display());
    let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    match String::from_utf8_lossy(&text).contains("-----BEGIN") {
        true => Ok(text),
        false => Err(wrong("it is no PEM file".to_owned())),
    }
}

/// Where etcd is called, and whether the scheme asks for TLS.
#[derive(Clone)]
struct Endpoint {
    address: String,
    tls: Option<bool>,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let (rest, tls) = match text.split_once("://") {
        Some(("https", rest)) => (rest, Some(true)),
        Some(("http", rest)) => (rest, Some(false)),
        _ => (text, None),
    };
    let address = address(rest.strip_suffix('/').unwrap_or(rest))?;
    Ok(Endpoint { address, tls })
}

/// Host and port, in their one spelling.
fn address(text: &str) -> Result<String, String> {
    let member = Member::parse(text).map_err(|error| error.to_string())?;
    match text.contains(['=', '@']) {
        true => {
            Err("host and port alone; weight and zone are said with --weight and --zone".to_owned())
        }
        false => Ok(member.address),
    }
}

/// A zone as it may stand in a list of members.
fn zone(text: &str) -> Result<String, String> {
    match Member::parse(&format!("host:1@{text}")) {
        Ok(member) => Ok(member.zone),
        Err(_) => Err("write 1 to 64 letters, digits and any of - _ . : /".to_owned()),
    }
}
