//! The express door: unary calls alone, at little more than the price of a system call.
//!
//! ```text
//! thread 0 ── listener, epoll ── connections ── calls ──► service (reads the shards' tables in place)
//! thread 1 ── listener, epoll ── connections ── calls ──►    │ miss
//!    ▲                                                        ▼
//!    └───────────────────── mail: answers ──────────── loaders, links
//! ```
//!
//! An I/O thread for each core, with its own listener at the same port. It reads from a connection once, has each call that is
//! there answered in place ([`crate::http2`] is the protocol), and writes all answers at once. What it has of a connection no
//! other thread touches. A call that has to wait for a load is put away among `waiters`; its answer comes by `mail`.

mod admission;
mod calls;
mod connection;
mod listener;
mod socket;
mod thread;
#[cfg(feature = "tls")]
mod tls;
mod turns;
mod waiters;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver};

use self::admission::Admission;
use self::thread::{Common, IoThread, Letter};
#[cfg(feature = "tls")]
pub(super) use self::tls::certified;
use super::cluster::Cluster;
use super::connections::Connections;
use super::cores::Cores;
use super::health::Health;
use super::identity::Shown;
use super::limits::ConnectionLimits;
use super::mail::{Slot, letter_box};
use super::peer::{self, Post};
use super::reflection::Pool;
use super::service::Service;
use crate::engine::pin_or_warn;
use crate::http2::{Abuse, Allowance, Body, Counts, Limits};

/// What a request may keep until it is there as a whole, all of a connection taken together: at least two of the largest.
const ASSEMBLING_MIN_BYTES: usize = 8 << 20;

/// How a door is made.
pub(super) struct ExpressConfig<'a> {
    pub address: SocketAddr,
    pub cores: &'a Cores,
    pub limits: &'a ConnectionLimits,
    /// How long a caller may leave replies unread.
    pub read_stall: Duration,
    pub connections: Connections,
    /// What it shows its callers, if it speaks TLS.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub identity: Option<&'a Arc<Shown>>,
}

/// Why a door was not opened.
pub(super) enum OpenError {
    System(io::Error),
    /// The certificates or the key can not be used.
    #[cfg(feature = "tls")]
    Identity,
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// What answers the calls.
pub(super) struct Services {
    pub service: Arc<Service>,
    pub cluster: Arc<Cluster>,
    pub health: Health,
    pub reflection: Pool,
    /// Where the front door is.
    pub front: SocketAddr,
}

/// The door, open. Dropped, it is shut at once.
pub(super) struct Express {
    address: SocketAddr,
    slots: Vec<Slot<Letter>>,
    /// A word of each thread, when it has no connection any more: whether none was cut.
    ended: Receiver<bool>,
    figures: Arc<ExpressFigures>,
}

/// What the door has done.
pub(super) struct ExpressFigures {
    threads: Vec<Arc<Figures>>,
    counts: Arc<Counts>,
    admission: Arc<Admission>,
}

/// What one thread has done; it alone writes them.
#[derive(Default)]
struct Figures {
    calls: AtomicU64,
    cut: AtomicU64,
}

impl Express {
    pub fn open(config: &ExpressConfig<'_>, services: Services) -> Result<Self, OpenError> {
        let ExpressConfig { cores, limits, .. } = *config;
        let (listeners, address) = listener::listen_at(config.address, cores.len())?;
        let an_address = limits.connections_an_address;
        let an_address = an_address.unwrap_or(limits.connections.div_ceil(4) * 3);
        let common = Arc::new(Common {
            services: Arc::new(services),
            admission: Admission::new(config.connections, an_address),
            #[cfg(feature = "tls")]
            tls: match config.identity {
                None => None,
                Some(identity) => Some(tls::config(identity).ok_or(OpenError::Identity)?),
            },
            limits: Arc::new(of_a_connection(limits, config.read_stall)),
            counts: Arc::default(),
            memory_bytes: memory_of_a_thread(limits, cores.len()),
            age: limits.age,
            age_grace: limits.age_grace,
        });
        let (end, ended) = channel::bounded(listeners.len());
        let (mut slots, mut threads) = (Vec::new(), Vec::new());
        for (index, listener) in listeners.into_iter().enumerate() {
            let (slot, letters) = letter_box()?;
            let figures = Arc::new(Figures::default());
            let thread = IoThread::new(
                common.clone(),
                figures.clone(),
                listener,
                letters,
                slot.clone(),
            )?;
            slots.push(slot);
            threads.push(figures);
            let (end, pinned) = (end.clone(), cores.pinned().to_vec());
            Builder::new().name(format!("io-{index}")).spawn(move || {
                if !pinned.is_empty() {
                    pin_or_warn(pinned[index % pinned.len()]);
                }
                peer::prefer(index);
                thread.run(|all_finished| {
                    // Who does not wait for it any more has ended too.
                    let _ = end.send(all_finished);
                });
            })?;
        }
        let figures = Arc::new(ExpressFigures {
            threads,
            counts: common.counts.clone(),
            admission: common.admission.clone(),
        });
        Ok(Self {
            address,
            slots,
            ended,
            figures,
        })
    }

    /// Its threads, for calls to other nodes.
    pub fn posts(&self) -> impl Iterator<Item = Post> {
        self.slots.iter().map(thread::post)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn figures(&self) -> Arc<ExpressFigures> {
        self.figures.clone()
    }

    /// Takes no more connections, and asks the callers to go elsewhere; calls that are open are answered.
    pub fn shut_down(&self) {
        self.slots
            .iter()
            .for_each(|slot| slot.put(Letter::ShutDown));
    }

    /// Waits until all connections have come to their end. What is left at the deadline is cut. Returns whether nothing was.
    pub fn wait(self, deadline: Instant, cut: Duration) -> bool {
        let mut all_finished = true;
        for _ in &self.slots {
            match self.ended.recv_deadline(deadline) {
                Ok(finished) => all_finished &= finished,
                Err(_) => {
                    all_finished = false;
                    break;
                }
            }
        }
        if !all_finished {
            self.end();
            let deadline = Instant::now() + cut;
            while self.ended.recv_deadline(deadline).is_ok() {}
        }
        all_finished
    }

    fn end(&self) {
        self.slots.iter().for_each(|slot| slot.put(Letter::End));
    }
}

impl Drop for Express {
    fn drop(&mut self) {
        self.end();
    }
}

impl ExpressFigures {
    /// Calls that have been begun.
    pub fn calls(&self) -> u64 {
        self.sum(|thread| &thread.calls)
    }

    /// Connections that were cut because all of a thread's kept too much.
    pub fn cut(&self) -> u64 {
        self.sum(|thread| &thread.cut)
    }

    fn sum(&self, figure: fn(&Figures) -> &AtomicU64) -> u64 {
        let figures = self.threads.iter().map(|thread| figure(thread));
        figures.map(|figure| figure.load(Ordering::Relaxed)).sum()
    }

    /// How often each kind of abuse was met.
    pub fn abuses(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let kinds = Abuse::ALL.into_iter();
        kinds.map(|(kind, name)| (name, self.counts.of(kind)))
    }

    /// Connections that were closed because their address had too many.
    pub fn refused_by_address(&self) -> u64 {
        self.admission.refused()
    }
}

/// What the connections of a thread may keep. However many threads share it, two requests that are taken do not end any.
fn memory_of_a_thread(limits: &ConnectionLimits, threads: usize) -> usize {
    (limits.core_bytes / threads).max(2 * limits.request_bytes)
}

fn of_a_connection(limits: &ConnectionLimits, read_stall: Duration) -> Limits {
    let streams_max = u32::try_from(limits.streams_a_connection).unwrap_or(u32::MAX);
    let resets = Limits::default().resets;
    Limits {
        streams_max,
        // Who gives up all its calls at once floods nobody.
        resets: Allowance {
            burst: resets.burst.max(streams_max),
            ..resets
        },
        header_list_bytes: u32::try_from(limits.metadata_bytes).unwrap_or(u32::MAX),
        message_bytes: limits.request_bytes,
        assembling_bytes: ASSEMBLING_MIN_BYTES.max(2 * limits.request_bytes),
        handshake: limits.handshake,
        idle: limits.idle,
        stalled_reader: read_stall,
        ..Limits::default()
    }
}
