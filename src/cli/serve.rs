//! `corecache serve`.

use std::error::Error;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use corecache::group::GroupConfig;
use corecache::server::origin::Origin;
use corecache::server::{Cores, Node, NodeConfig};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::renewing::IdentityFiles;
use super::{
    at_least_one, limits, links, members, memory, output, password, seconds, size, systemd,
};

/// The largest value, where none is given; a small memory may have room for less.
const ENTRY_LIMIT_BYTES: usize = 64 << 20;

/// Where the express door is, where nothing is said of it.
const EXPRESS: &str = "127.0.0.1:8802";

/// Signals that end a node.
const STOP: [i32; 2] = [SIGTERM, SIGINT];

/// What stops a node may signal it twice, itself and as one of its process group. What comes within this time of the
/// first signal is no second wish.
const ECHO: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Serve {
    /// Where to serve gRPC: host and port, or port 0 for any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8800", value_parser = address)]
    listen: SocketAddr,

    /// Where to serve /metrics, /healthz and /readyz over HTTP; `off` for nowhere
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8801", value_parser = admin_address)]
    admin: AdminAddress,

    /// Where to serve the express door, which does unary calls alone, and fast; port 0 for any free one, `off` for nowhere
    #[arg(long, value_name = "ADDR", default_value = EXPRESS, value_parser = express_address)]
    express: ExpressAddress,

    /// The memory that the cache may use, such as 256MiB or 8GiB
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size::parse)]
    memory: usize,

    /// A group and its origin: dir:PATH, http://HOST/PATH or https://HOST/PATH; may be given several times
    #[arg(long = "group", value_name = "NAME=ORIGIN", required = true, value_parser = group)]
    groups: Vec<GroupArgument>,

    /// A file with the password of the user in a group's origin, http://USER@HOST/PATH; may be given several times
    #[arg(long = "origin-password-file", value_name = "NAME=FILE", value_parser = password_file)]
    password_files: Vec<(String, PathBuf)>,

    /// The part of the memory that other groups can not take from this one; may be given several times
    #[arg(long = "guarantee", value_name = "NAME=SIZE", value_parser = share)]
    guarantees: Vec<(String, usize)>,

    /// The most memory that a group may use; may be given several times
    #[arg(long = "largest", value_name = "NAME=SIZE", value_parser = largest)]
    largest: Vec<(String, usize)>,

    /// The largest value that is loaded and kept, 1GiB at the most, and never more than the memory has room for [default:
    /// 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = entry_limit)]
    entry_limit: Option<usize>,

    /// The cores to bind the threads to, such as 0-3 or 0,2 [default: those that the system gives]
    #[arg(long, value_name = "LIST")]
    cores: Option<Cores>,

    /// The number of shards, each changed by one thread at a time [default: one for each core]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    shards: Option<usize>,

    /// Threads that load from the origins
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = threads)]
    loaders: usize,

    /// Loads from one origin that run at once; groups of one host share them [default: all loaders for a single origin,
    /// else three in four]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    group_loads: Option<usize>,

    /// Loads from one origin that may begin in a second, on all nodes of the cluster together; each node has a part of them,
    /// by its weight [default: any number]
    #[arg(long, value_name = "N", value_parser = rate)]
    load_rate: Option<u32>,

    /// Loads of one group that may wait for a loader; one more is refused
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_least_one)]
    load_queue: usize,

    /// Seconds that a load may wait for a loader, or for room for a large value; from half of that on the newest is loaded first
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds::limit)]
    load_wait: Duration,

    /// Seconds that a load may take, waiting included
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds::limit)]
    load_timeout: Duration,

    /// Seconds that a load gets once it has begun, even if nobody waits so long for it
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds::parse)]
    load_least: Duration,

    /// Seconds that a caller has to take a chunk of up to 1 MiB of a Read, or a reply of a Fetch, a GetMany or a Get: down to 5
    /// where room for replies is short
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds::limit)]
    read_stall: Duration,

    /// Seconds that the node goes on taking calls after SIGTERM or SIGINT, while its health says NOT_SERVING
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds::parse)]
    linger: Duration,

    /// Seconds that calls in flight get to finish after SIGTERM or SIGINT
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds::parse)]
    drain: Duration,

    /// The certificate chain for TLS, a PEM file; read again when it has changed
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The private key for TLS, a PEM file; read again when it has changed
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Listen beyond loopback without TLS: whoever reaches the port reads the blobs
    #[arg(long)]
    insecure: bool,

    #[command(flatten)]
    members: members::Members,

    #[command(flatten)]
    links: links::Links,

    #[command(flatten)]
    limits: limits::Limits,
}

impl Serve {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        self.check_exposure()?;
        let (linger, drain) = (self.linger, self.drain);
        // As the files are before they are read: what is changed from then on is news.
        let identity = self.identity_files().map(|files| (files.stamp(), files));
        let config = self.config()?;
        // Before the node takes its first call: a signal that comes early must not be lost.
        let mut signals = Signals::new(STOP)?;
        let node = Node::start(config)?;
        if let Some((stamp, files)) = identity {
            files.follow(stamp, node.renewal())?;
        }
        say_where(&node);
        systemd::serving(&node);
        let signal = signals.forever().next();
        let first = Instant::now();
        let lingers = match linger.as_secs_f64() {
            0.0 => String::new(),
            seconds => format!("taking calls for {seconds} s more (--linger), then "),
        };
        log::info!(
            "{}: {lingers}draining for up to {} s; another signal, from {} s on, ends the node at once",
            signal.map_or("signal", signal_name),
            drain.as_secs_f64(),
            ECHO.as_secs()
        );
        thread::spawn(move || {
            if signals.forever().any(|_| first.elapsed() > ECHO) {
                log::warn!("a second signal: ending at once");
                std::process::exit(1);
            }
        });
        systemd::stopping(linger + drain);
        // While the others still take it for a member: they fetch what it offers.
        let begun = Instant::now();
        node.hand_over(drain / 2);
        let left = drain.saturating_sub(begun.elapsed());
        node.linger(linger);
        if node.drain(left) {
            log::info!("all calls have finished");
        } else {
            log::warn!(
                "the drain time is over; calls or connections that were still open were cut"
            );
        }
        Ok(())
    }

    fn check_exposure(&self) -> Result<(), String> {
        let doors = [
            ("--listen", Some(self.listen)),
            ("--express", self.express.0),
        ];
        for (flag, address) in doors {
            let Some(address) = address else { continue };
            if self.tls_cert.is_none() && !self.insecure && !address.ip().is_loopback() {
                return Err(format!(
                    "{flag} {address} is reachable from other machines, and without TLS: give --tls-cert and --tls-key, \
                     or --insecure if the network is to be trusted"
                ));
            }
        }
        if let AdminAddress(Some(admin)) = self.admin
            && !admin.ip().is_loopback()
            && !self.insecure
        {
            return Err(format!(
                "--admin {admin} is reachable from other machines, and never has TLS: give --insecure if the network \
                 is to be trusted"
            ));
        }
        Ok(())
    }

    fn config(self) -> Result<NodeConfig, Box<dyn Error>> {
        self.check_names()?;
        self.check_sizes()?;
        memory::check(self.memory, self.limits.core_memory())?;
        let cores = match &self.cores {
            Some(cores) => cores.clone().where_allowed(),
            None => Cores::available(),
        };
        let groups: Result<Vec<_>, _> = self.groups.iter().map(|group| self.group(group)).collect();
        Ok(NodeConfig {
            listen: self.listen,
            admin: self.admin.0,
            express: self.express.0,
            memory_bytes: self.memory,
            groups: groups?,
            cores,
            shards: self.shards,
            loaders: self.loaders,
            loads_an_origin: self.group_loads,
            load_rate: self.load_rate,
            load_queue: self.load_queue,
            read_stall: self.read_stall,
            load_wait: self.load_wait,
            limits: self.limits.of_connections(),
            tls: self
                .identity_files()
                .map(|files| files.read())
                .transpose()?,
            links: self.links.config(self.memory)?,
            members: self.members.config()?,
        })
    }

    fn group(&self, group: &GroupArgument) -> Result<GroupConfig, Box<dyn Error>> {
        let origin = match last_of(&self.password_files, &group.name) {
            None => Origin::open(&group.origin),
            Some(path) => {
                let what = format!("--origin-password-file {}={}", group.name, path.display());
                let password = password::read(&what, path)?;
                Origin::open_with_password(&group.origin, password.as_bytes())
            }
        };
        let origin = origin.map_err(|error| format!("--group {}: {error}", group.name))?;
        let (shown, site) = (origin.to_string(), origin.site());
        let mut config = GroupConfig::new(&group.name, origin)
            .origin(shown)
            .entry_limit_bytes(self.entry_limit.unwrap_or(ENTRY_LIMIT_BYTES))
            .load_timeout(self.load_timeout)
            .load_least(self.load_least);
        if let Some(site) = site {
            config = config.site(site);
        }
        if let Some(bytes) = last_of(&self.guarantees, &group.name) {
            config = config.guaranteed_bytes(*bytes);
        }
        if let Some(bytes) = last_of(&self.largest, &group.name) {
            config = config.largest_bytes(*bytes);
        }
        Ok(config)
    }

    fn check_names(&self) -> Result<(), String> {
        let shares = self.guarantees.iter().chain(&self.largest);
        let shares = shares.map(|(name, _)| ("share", name));
        let passwords = self.password_files.iter();
        let passwords = passwords.map(|(name, _)| ("password", name));
        for (what, name) in shares.chain(passwords) {
            if !self.groups.iter().any(|group| group.name == *name) {
                return Err(format!(
                    "a {what} is given for group {name:?}, but there is no --group {name}=..."
                ));
            }
        }
        Ok(())
    }

    /// Refuses what can not be had beside something else that was asked for.
    fn check_sizes(&self) -> Result<(), String> {
        let show = |bytes: usize| size::show(bytes as u64);
        let memory = show(self.memory);
        if let Some(bytes) = self.entry_limit
            && bytes > self.memory
        {
            return Err(format!(
                "--entry-limit {} is more than --memory {memory}: no such value could be held; lower the one or raise \
                 the other",
                show(bytes)
            ));
        }
        if let Some((name, bytes)) = self.largest.iter().find(|share| share.1 > self.memory) {
            return Err(format!(
                "--largest {name}={} is more than --memory {memory}, which all groups share",
                show(*bytes)
            ));
        }
        if let Some(loads) = self.group_loads
            && loads > self.loaders
        {
            return Err(format!(
                "--group-loads {loads} is more than --loaders {}: one origin can not have more loads at once than there \
                 are loaders",
                self.loaders
            ));
        }
        self.limits.check()
    }

    fn identity_files(&self) -> Option<IdentityFiles> {
        Some(IdentityFiles {
            certificates: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
        })
    }
}

/// A node whose standard output nobody reads serves all the same.
fn say_where(node: &Node) {
    let mut text = format!("listening on {}\n", node.listen());
    if let Some(admin) = node.admin() {
        text += &format!("admin on {admin}\n");
    }
    if let Some(express) = node.express() {
        text += &format!("express on {express}\n");
    }
    if let Err(error) = output::write(text.as_bytes()) {
        log::warn!("{error}; {}", text.trim_end().replace('\n', ", "));
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        _ => "signal",
    }
}

#[derive(Clone)]
struct GroupArgument {
    name: String,
    origin: String,
}

fn group(text: &str) -> Result<GroupArgument, String> {
    match text.split_once('=') {
        Some((name, origin)) if !name.is_empty() && !origin.is_empty() => Ok(GroupArgument {
            name: name.to_owned(),
            origin: origin.to_owned(),
        }),
        _ => Err("write NAME=ORIGIN, such as blobs=dir:PATH or pages=http://HOST/PATH".to_owned()),
    }
}

fn password_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), path.into()))
        }
        _ => Err("write NAME=FILE, such as pages=/run/secrets/pages".to_owned()),
    }
}

fn share(text: &str) -> Result<(String, usize), String> {
    match text.split_once('=') {
        Some((name, bytes)) if !name.is_empty() => Ok((name.to_owned(), size::parse(bytes)?)),
        _ => Err("write NAME=SIZE, such as blobs=64MiB".to_owned()),
    }
}

fn largest(text: &str) -> Result<(String, usize), String> {
    const LEAST_BYTES: usize = 64 << 10;
    match share(text)? {
        (_, ..LEAST_BYTES) => Err("a group with less than 64KiB holds next to nothing".to_owned()),
        share => Ok(share),
    }
}

fn entry_limit(text: &str) -> Result<usize, String> {
    const LARGEST_BYTES: usize = 1 << 30;
    match size::parse(text)? {
        0 => Err("at least 1 byte is needed, or no value could be loaded".to_owned()),
        bytes @ ..=LARGEST_BYTES => Ok(bytes),
        bytes => Err(format!(
            "values have 1GiB ({LARGEST_BYTES} bytes) at the most, {bytes} were asked for"
        )),
    }
}

/// What was said last of the group of that name.
fn last_of<'a, T>(said: &'a [(String, T)], name: &str) -> Option<&'a T> {
    let of_group = said.iter().rfind(|(group, _)| group == name);
    of_group.map(|(_, value)| value)
}

#[derive(Clone)]
struct AdminAddress(Option<SocketAddr>);

fn admin_address(text: &str) -> Result<AdminAddress, String> {
    if text == "off" {
        return Ok(AdminAddress(None));
    }
    Ok(AdminAddress(Some(address(text)?)))
}

#[derive(Clone)]
struct ExpressAddress(Option<SocketAddr>);

fn express_address(text: &str) -> Result<ExpressAddress, String> {
    match text {
        "off" => Ok(ExpressAddress(None)),
        _ => match address(text) {
            Ok(address) => Ok(ExpressAddress(Some(address))),
            Err(error) => Err(format!("{error}, or `off`")),
        },
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text
        .to_socket_addrs()
        .map_err(|error| format!("{error}; write HOST:PORT, such as 127.0.0.1:8800"))?;
    addresses
        .next()
        .ok_or_else(|| "the host has no address".to_owned())
}

fn rate(text: &str) -> Result<u32, String> {
    let number = at_least_one(text)?;
    u32::try_from(number).map_err(|_| format!("at most {}", u32::MAX))
}

fn threads(text: &str) -> Result<usize, String> {
    const THREADS_MAX: usize = 4096;
    match at_least_one(text)? {
        number @ ..=THREADS_MAX => Ok(number),
        _ => Err(format!("at most {THREADS_MAX}: each is a thread")),
    }
}
