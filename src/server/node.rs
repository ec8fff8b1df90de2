//! A node: groups, loaders, the front door and the admin port, from start to drain.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel;
use grpcio::{
    ChannelBuilder, EnvBuilder, Environment, ResourceQuota, Server, ServerBuilder,
    ServerCredentials,
};
#[cfg(feature = "tls")]
use parking_lot::Mutex;

use super::cluster::Cluster;
use super::connections::Connections;
use super::cores::Cores;
use super::express::{Express, ExpressConfig, OpenError, Services};
use super::gate::Gate;
use super::health::Health;
use super::hot::Hot;
use super::identity::{Identity, Renewal, Shown};
use super::limits::ConnectionLimits;
use super::loaders::{Limits, Loaders};
use super::members::{self, MembersConfig, MembersError};
use super::outgoing::Outgoing;
use super::peer::{Calls, LinkConfig, LinkTls, Peers};
use super::read::Reads;
use super::readiness::Readiness;
use super::reflection::Pool;
use super::service::{
    Miss, Service, Status as ServiceStatus, UNARY_LIMIT_BYTES, VALUE_LIMIT_BYTES,
};
use super::waiting::Waiting;
use super::{admin, brake, front, pb, reflection, stats};
use crate::cluster::membership::Membership;
use crate::counted;
use crate::engine::{Builder, pin_or_warn};
use crate::group::{Group, GroupConfig, Groups, GroupsError, Value};

/// The name under which load balancers ask for the cache's health.
const CACHE_SERVICE: &str = "corecache.v1.Cache";
/// After so much silence a peer is asked whether it is still there, and cut off if it does not answer.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Descriptors that are left to files, origins, admin pages and what else a node opens, beside two for each loader.
const DESCRIPTORS_KEPT: usize = 512;
/// Of the gRPC core's compression algorithms, by the bits of their numbers, the one that does nothing.
const IDENTITY_ALONE: i32 = 1;
/// What is read from a connection at a time: all calls in it are begun before anything else is looked at.
const READ_MAX_BYTES: i32 = 64 << 10;
const PING_INTERVAL_MIN: Duration = Duration::from_secs(10);
/// How long the answers are held back when a drain begins. Calls that are on their way arrive in that time.
const HOLD: Duration = Duration::from_millis(100);
/// After the drain time is over, calls are cancelled; that they end is waited for so long.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// What it may take to tell the source of members that the node leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// How a node is made.
pub struct NodeConfig {
    /// Where it serves gRPC; port 0 for any free one.
    pub listen: SocketAddr,
    /// Where it serves its admin pages, if it does.
    pub admin: Option<SocketAddr>,
    /// Where its express door is, if it has one; port 0 for any free one.
    pub express: Option<SocketAddr>,
    /// The budget of the cache, in bytes.
    pub memory_bytes: usize,
    /// The groups.
    pub groups: Vec<GroupConfig>,
    /// The cores to run on.
    pub cores: Cores,
    /// The number of shards; one for each core if not given.
    pub shards: Option<usize>,
    /// Threads that load.
    pub loaders: usize,
    /// Loads from one origin that run at once; if not given, all loaders for a single origin, else three in four.
    pub loads_an_origin: Option<usize>,
    /// Loads from one origin that begin in a second, on all nodes of the cluster together; any number if not given. Each
    /// node has a part of them, by its weight.
    pub load_rate: Option<u32>,
    /// Loads of one group that wait.
    pub load_queue: usize,
    /// What a caller has to take a chunk of a `Read`, and any other reply that is not small.
    pub read_stall: Duration,
    /// How long a load waits for a loader, or for room for a large value.
    pub load_wait: Duration,
    /// What callers may take.
    pub limits: ConnectionLimits,
    /// The certificate chain and the private key, both PEM; without them the port is plain text.
    pub tls: Option<Identity>,
    /// Who else is in the cluster.
    pub members: MembersConfig,
    /// How the node asks the others.
    pub links: LinkConfig,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Something about the groups or the budget.
    #[error(transparent)]
    Groups(#[from] GroupsError),
    /// The gRPC address is taken, or not one of this machine.
    #[error("can not listen on {0}: {1}; choose another address with --listen")]
    Listen(SocketAddr, String),
    /// The admin address is taken, or not one of this machine.
    #[error(
        "can not listen on {0} for the admin pages: {1}; choose another address with --admin, or --admin off"
    )]
    Admin(SocketAddr, io::Error),
    /// The address of the express door is taken, or not one of this machine.
    #[error(
        "can not listen on {0} for the express door: {1}; choose another address with --express, or --express off"
    )]
    Express(SocketAddr, io::Error),
    /// The system gave no threads.
    #[error("no threads for the loaders and what is watched: {0}")]
    Threads(io::Error),
    /// The gRPC core refused.
    #[error("the gRPC server did not start: {0}")]
    Grpc(String),
    /// The gRPC core can not use the certificates or the key.
    #[error(
        "can not serve TLS with this certificate chain and private key: both are to be PEM, the server's own \
         certificate first, and the key is to be that certificate's, without a password"
    )]
    Identity,
    /// TLS was asked for, and this build or this node has none.
    #[error(
        "there is no TLS here: a build has it by the feature `tls`, and a node by certificates and key"
    )]
    NoTls,
    /// It has TLS, and is not told whose certificates the other nodes have.
    #[error(
        "a node with TLS asks the other nodes over TLS too: give --peer-ca with the PEM file of those who sign the nodes' \
         certificates"
    )]
    LinkRoots,
    /// It is no member of its cluster.
    #[error(transparent)]
    Members(#[from] MembersError),
    /// A description of the services could not be encoded.
    #[error("the services can not be described: {0}")]
    Reflection(#[from] protobuf::Error),
}

/// What [`Node::asker`] tells.
#[doc(hidden)]
pub type AskerAnswer = Box<dyn FnOnce(Result<Value, String>) + Send>;

/// A node that serves.
pub struct Node {
    server: Server,
    service: Arc<Service>,
    health: Health,
    gate: Arc<Gate>,
    readiness: Arc<Readiness>,
    members: Arc<Membership>,
    listen: SocketAddr,
    admin: Option<SocketAddr>,
    express: Option<Express>,
    renewal: Renewal,
    memory_bytes: usize,
}

impl Node {
    /// Starts a node. It serves when this returns.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(mut config: NodeConfig) -> Result<Self, StartError> {
        let connections = Connections::new(connections_max(&config));
        // What the C-core has to say goes where everything else is logged.
        grpcio::redirect_log();
        let env = Arc::new(environment(&config.cores));
        let wait_warm = config.links.wait_warm;
        let shown = config.tls.take().map(Shown::new);
        let service = Arc::new(service(&mut config, shown.as_ref())?);
        let health = Health::new();
        let gate = Arc::new(Gate::default());
        let cluster = Arc::new(Cluster::new(service.clone()));
        let files = pb::files();
        let services = [
            front::service(&service, &gate, connections),
            front::cluster_service(&service, &cluster, &gate, connections),
            front::peer_service(&service, &gate, connections, config.limits.request_bytes),
            health.service(),
            reflection::service(&files)?,
        ];
        let limit_bytes = brake::limit_bytes(config.memory_bytes, config.limits.core_bytes);
        brake::start(connections, limit_bytes).map_err(StartError::Threads)?;
        let listened = listen(&config, shown.as_ref(), &connections, services, &env);
        let (server, listen) = listened?;
        let members = Arc::new(members::join(config.members, listen)?);
        let express = match config.express {
            None => None,
            Some(address) => {
                let services = Services {
                    service: service.clone(),
                    cluster: cluster.clone(),
                    health: health.clone(),
                    reflection: Pool::new(&files)?,
                    front: listen,
                };
                let door = ExpressConfig {
                    address,
                    cores: &config.cores,
                    limits: &config.limits,
                    read_stall: config.read_stall,
                    connections,
                    identity: shown.as_ref(),
                };
                let opened = Express::open(&door, services);
                Some(opened.map_err(|error| match error {
                    OpenError::System(error) => StartError::Express(address, error),
                    #[cfg(feature = "tls")]
                    OpenError::Identity => StartError::Identity,
                })?)
            }
        };
        if let Some(express) = &express {
            cluster.tell_express(express.address(), listen);
            service.peers.use_threads(express.posts());
        }
        service.peers.follow(&members);
        let readiness = Readiness::new(health.clone(), &["", CACHE_SERVICE]);
        let figures = express.as_ref().map(Express::figures);
        let admin = match config.admin {
            None => None,
            Some(address) => {
                let figures = (connections, figures);
                let started = admin::start(address, &service, figures, &members, readiness.clone());
                Some(started.map_err(|error| StartError::Admin(address, error))?)
            }
        };
        let mut node = Self {
            server,
            service,
            health,
            gate,
            readiness,
            members,
            listen,
            admin,
            express,
            renewal: Renewal(shown),
            memory_bytes: config.memory_bytes,
        };
        node.server.start();
        let readiness = &node.readiness;
        readiness
            .when_warm(&node.service, wait_warm)
            .map_err(StartError::Threads)?;
        Ok(node)
    }

    /// Where it serves gRPC.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where it serves its admin pages.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Where its express door is.
    pub fn express(&self) -> Option<SocketAddr> {
        self.express.as_ref().map(Express::address)
    }

    /// Who is in the cluster.
    pub fn members(&self) -> &Arc<Membership> {
        &self.members
    }

    /// Asks for keys as callers do whose calls have missed, without calls. For the benchmark of the links.
    #[doc(hidden)]
    pub fn asker(&self) -> impl Fn(&str, &[u8], AskerAnswer) + Send + Sync + 'static {
        let service = self.service.clone();
        move |group, key, answer| {
            let answer = |value: Result<Value, ServiceStatus>| {
                answer(value.map_err(|status| status.message));
            };
            match service.group(group.as_bytes()) {
                Ok(group) => service.load_any(&Miss { group, key }, None, answer),
                Err(status) => answer(Err(status)),
            }
        }
    }

    /// A look through the node, which comes back when it has got all the way: it takes each shard's turn, and the locks
    /// of loads and of callers that wait.
    pub fn pulse(&self) -> impl Fn() + Send + 'static {
        let service = Arc::downgrade(&self.service);
        move || {
            let Some(service) = service.upgrade() else {
                return;
            };
            // The groups share their shards.
            service.groups.iter().take(1).for_each(Group::flush);
            drop(stats::reply(&service));
            service.waiting.len();
        }
    }

    /// Says that the node is about to stop, and gives the hottest of its keys to the nodes that will own them, within
    /// `patience`. It answers as before.
    pub fn hand_over(&self, patience: Duration) {
        self.readiness.drain();
        let begun = Instant::now();
        let peers = &self.service.peers;
        let offered = peers.offer_hottest(&self.service.groups, self.memory_bytes, patience);
        if offered.keys > 0 {
            log::info!(
                "{} offered to {}, {} held there {} ms later",
                counted(offered.keys, "key was", "keys were"),
                counted(offered.nodes, "node", "nodes"),
                offered.held,
                begun.elapsed().as_millis()
            );
        }
    }

    /// By this the node's certificates and key can be renewed.
    pub fn renewal(&self) -> Renewal {
        self.renewal.clone()
    }

    /// Says that the node is about to stop, and answers as before for a time, in which who watches its health turns to
    /// other nodes.
    pub fn linger(&self, time: Duration) {
        self.readiness.drain();
        self.leave();
        thread::sleep(time);
    }

    /// Stops taking calls and lets those in flight finish, for `patience`; then cancels them. Returns whether all
    /// had finished.
    pub fn drain(mut self, patience: Duration) -> bool {
        self.readiness.drain();
        self.leave();
        self.health.close();
        let deadline = Instant::now() + patience;
        if let Some(express) = &self.express {
            express.shut_down();
        }
        self.gate.shut();
        thread::sleep(HOLD.min(patience));
        let shutdown = self.server.shutdown();
        self.gate.open();
        let (done, finished) = channel::bounded(1);
        // The future is completed by a completion-queue thread; this thread only waits for it.
        thread::spawn(move || {
            let _ = futures_executor::block_on(shutdown);
            let _ = done.send(());
        });
        let all_finished = finished.recv_deadline(deadline).is_ok();
        let express = self.express.take();
        let express_finished = express.is_none_or(|express| express.wait(deadline, CANCEL_TIMEOUT));
        if !all_finished {
            self.server.cancel_all_calls();
            let _ = finished.recv_timeout(CANCEL_TIMEOUT);
        }
        all_finished && express_finished
    }

    fn leave(&self) {
        if !self.members.leave(LEAVE_TIMEOUT) {
            log::warn!(
                "members: {} took over {} s to be told that the node leaves; the others will see",
                self.members.standing().source,
                LEAVE_TIMEOUT.as_secs()
            );
        }
    }
}

fn service(config: &mut NodeConfig, shown: Option<&Arc<Shown>>) -> Result<Service, StartError> {
    let cache = Builder::new(config.memory_bytes)
        .shards(config.shards.unwrap_or(config.cores.len()))
        .pin_to(config.cores.pinned().iter().copied());
    let configs = std::mem::take(&mut config.groups).into_iter();
    let in_chunks = |group: GroupConfig| group.chunks_over(VALUE_LIMIT_BYTES);
    let configs = configs.map(|group| in_chunks(group).limit_is(", as --entry-limit says"));
    let groups = Groups::new(&cache, configs)?;
    let limits = Limits {
        loaders: config.loaders,
        running_an_origin: config.loads_an_origin,
        rate_an_origin: config.load_rate,
        queued_a_group: config.load_queue,
        wait: config.load_wait,
    };
    let loaders = Loaders::start(limits, groups.iter()).map_err(StartError::Threads)?;
    let calls = Calls::new(link_tls(config, shown)?, config.cores.len());
    let hot = Hot::start(config.links.hot_rate).map_err(StartError::Threads)?;
    let peers = Peers::start(config.links.clone(), loaders.clone(), hot.clone(), calls);
    let waiting = Waiting::start(groups.iter()).map_err(StartError::Threads)?;
    Ok(Service {
        groups,
        loaders,
        peers: peers.map_err(StartError::Threads)?,
        hot,
        outgoing: Outgoing::new(config.memory_bytes),
        reads: Reads::start(config.read_stall).map_err(StartError::Threads)?,
        waiting,
        started: Instant::now(),
    })
}

/// What the links to other nodes take to speak TLS, if this node does: they are taken to do so too.
fn link_tls(
    config: &NodeConfig,
    shown: Option<&Arc<Shown>>,
) -> Result<Option<LinkTls>, StartError> {
    let (is_alone, roots) = (config.members.is_alone(), &config.links.roots);
    match (shown, roots) {
        (None, _) => Ok(None),
        (Some(_), None) if is_alone => Ok(None),
        (Some(_), None) => Err(StartError::LinkRoots),
        (Some(shown), Some(roots)) => Ok(Some(LinkTls {
            roots: roots.clone(),
            identity: shown.clone(),
        })),
    }
}

/// How many connections there may be: as many as are asked for, if the system gives descriptors for them. The others
/// that a node needs are not for connections to take: where accepting fails, so does opening a file.
fn connections_max(config: &NodeConfig) -> usize {
    let asked = config.limits.connections;
    let Some(descriptors) = raise_descriptor_limit() else {
        return asked;
    };
    let kept = DESCRIPTORS_KEPT + 2 * config.loaders;
    let most = descriptors.saturating_sub(kept).max(1);
    if most < asked {
        log::warn!(
            "{most} connections may be open instead of {asked}: this process may have {descriptors} descriptors, \
             {kept} of which are kept for others; raise its limit (ulimit -n, LimitNOFILE=)"
        );
    }
    asked.min(most)
}

/// As many descriptors as this process may have are asked for; a refusal changes nothing. Returns how many there are,
/// if there is a limit.
fn raise_descriptor_limit() -> Option<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    let now = getrlimit(Resource::Nofile).current?;
    usize::try_from(now).ok()
}

/// The completion queues, one thread each, bound to the cores.
fn environment(cores: &Cores) -> Environment {
    let pinned = cores.pinned().to_vec();
    let next = AtomicUsize::new(0);
    EnvBuilder::new()
        .cq_count(cores.len())
        .name_prefix("cq")
        .after_start(move || {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if !pinned.is_empty() {
                pin_or_warn(pinned[index % pinned.len()]);
            }
        })
        .build()
}

fn listen(
    config: &NodeConfig,
    shown: Option<&Arc<Shown>>,
    connections: &Connections,
    services: impl IntoIterator<Item = grpcio::Service>,
    env: &Arc<Environment>,
) -> Result<(Server, SocketAddr), StartError> {
    let builder = ServerBuilder::new(env.clone());
    let builder = connections.count(builder, core_arguments(&config.limits, env));
    let mut server = services
        .into_iter()
        .fold(builder, ServerBuilder::register_service)
        .build()
        .map_err(|error| StartError::Grpc(error.to_string()))?;
    let credentials = credentials(shown)?;
    let port = server
        .add_listening_port(config.listen.to_string(), credentials)
        .map_err(|_| why_not(config, shown.is_some()))?;
    let mut bound = config.listen;
    bound.set_port(port);
    Ok((server, bound))
}

/// How the gRPC core is to treat connections. Public for the benchmark of what they cost.
#[doc(hidden)]
pub fn core_arguments(limits: &ConnectionLimits, env: &Arc<Environment>) -> ChannelBuilder {
    let number = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    // To the core 0 is no limit.
    let ms = |span: Duration| i32::try_from(span.as_millis()).unwrap_or(i32::MAX).max(1);
    // Without a limit of ours the core has one for neither.
    let ms_or_never = |span: Option<Duration>| span.map_or(i32::MAX, ms);
    let quota = ResourceQuota::new(Some("connections")).resize_memory(limits.core_bytes);
    let settings = [
        (c"grpc.server_handshake_timeout_ms", ms(limits.handshake)),
        (c"grpc.max_connection_idle_ms", ms_or_never(limits.idle)),
        (c"grpc.max_connection_age_ms", ms_or_never(limits.age)),
        (c"grpc.max_connection_age_grace_ms", ms(limits.age_grace)),
        // Between the two a call would be refused by chance.
        (c"grpc.max_metadata_size", number(limits.metadata_bytes)),
        (
            c"grpc.absolute_max_metadata_size",
            number(limits.metadata_bytes),
        ),
        // The core would decompress a message of any size, and look at its size after that: 4 MiB can become 4 GiB. So
        // no compressed request is taken; callers are told by UNIMPLEMENTED, before they send more.
        (
            c"grpc.compression_enabled_algorithms_bitset",
            IDENTITY_ALONE,
        ),
        (c"grpc.per_message_decompression", 0),
        // Nobody asks for channelz's figures, and requests are too small for receive windows to grow with the line.
        (c"grpc.enable_channelz", 0),
        // The core would end a call more than once, which clients may take for an error of the connection (docs/express.md):
        // calls are ended by who answers them, see `deadline`.
        (c"grpc.enable_deadline_checking", 0),
        (c"grpc.http2.bdp_probe", 0),
        (c"grpc.experimental.tcp_max_read_chunk_size", READ_MAX_BYTES),
        // A peer that pings more often than it may is cut off at the third time.
        (c"grpc.http2.max_ping_strikes", 2),
    ];
    let builder = ChannelBuilder::new(env.clone())
        // Two nodes on one port would share its calls without a word.
        .reuse_port(false)
        .set_resource_quota(quota)
        .max_concurrent_stream(number(limits.streams_a_connection))
        .max_receive_message_len(number(limits.request_bytes))
        .max_send_message_len(UNARY_LIMIT_BYTES as i32)
        // A peer that is gone without a word.
        .keepalive_time(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE_TIMEOUT)
        // Clients may look after us as often as that.
        .http2_min_recv_ping_interval_without_data(PING_INTERVAL_MIN);
    settings
        .into_iter()
        .fold(builder, |builder, (name, value)| {
            builder.raw_cfg_int(name.into(), value)
        })
}

/// The gRPC core does not say why it could not listen; the system does.
fn why_not(config: &NodeConfig, has_tls: bool) -> StartError {
    match std::net::TcpListener::bind(config.listen) {
        Ok(_) if has_tls => StartError::Identity,
        Ok(_) => StartError::Listen(config.listen, "the gRPC core refused it".to_owned()),
        Err(error) => StartError::Listen(config.listen, error.to_string()),
    }
}

#[cfg(feature = "tls")]
fn credentials(shown: Option<&Arc<Shown>>) -> Result<ServerCredentials, StartError> {
    let Some(shown) = shown else {
        return Ok(ServerCredentials::insecure());
    };
    let fetcher = Box::new(Fetcher {
        shown: shown.clone(),
        fetched: Mutex::new(None),
    });
    // Callers are not asked who they are.
    let asks = grpcio::CertificateRequestType::DontRequestClientCertificate;
    Ok(ServerCredentials::with_fetcher(fetcher, asks))
}

/// Who tells the gRPC core at each connection whether the identity is another one by now.
#[cfg(feature = "tls")]
struct Fetcher {
    shown: Arc<Shown>,
    fetched: Mutex<Option<u64>>,
}

#[cfg(feature = "tls")]
impl grpcio::ServerCredentialsFetcher for Fetcher {
    fn fetch(
        &self,
    ) -> Result<Option<grpcio::ServerCredentialsBuilder>, Box<dyn std::error::Error>> {
        let (version, identity) = self.shown.now();
        if self.fetched.lock().replace(version) == Some(version) {
            return Ok(None);
        }
        let builder = grpcio::ServerCredentialsBuilder::new();
        Ok(Some(builder.add_cert(
            identity.certificates.clone(),
            identity.key.clone(),
        )))
    }
}

#[cfg(not(feature = "tls"))]
fn credentials(shown: Option<&Arc<Shown>>) -> Result<ServerCredentials, StartError> {
    match shown {
        None => Ok(ServerCredentials::insecure()),
        Some(_) => Err(StartError::NoTls),
    }
}
