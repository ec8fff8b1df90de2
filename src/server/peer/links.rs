//! A node with the links to it, and the thread that looks after all links.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::tries::Tries;
use super::{Forward, Peers, agreement, asking, handover};
use crate::cluster::link::{Figures, Link, Refused};

/// How often links are looked at while something is under way on them, and while nothing is.
const LOOK_BUSY: Duration = Duration::from_millis(20);
const LOOK_IDLE: Duration = Duration::from_millis(200);
/// So old a stream gets, where there is another: nodes close connections after a time.
const RETIRE_AFTER: Duration = Duration::from_secs(20 * 60);
/// A question beside its key.
const QUESTION_BYTES: usize = 64;

thread_local! {
    /// The link to each node that this thread asks by, if it can.
    static PREFERRED: Cell<usize> = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Cell::new(NEXT.fetch_add(1, Ordering::Relaxed))
    };
}

/// Has this thread ask by the link of that number to each node, or of the next, around the end.
pub(in super::super) fn prefer(number: usize) {
    PREFERRED.set(number);
}

/// A node, and the links to it.
pub(in super::super) struct Peer {
    pub address: String,
    pub(super) links: Vec<Arc<Link<Forward>>>,
    spread: u64,
    noted: Mutex<Noted>,
    pub(super) odds: agreement::Known,
}

/// What was last said of a node: what is said again and again is logged once.
#[derive(Default)]
struct Noted {
    words: String,
    /// It has ended a link in order: that it can not be reached after that is no failure.
    has_left: bool,
}

impl Peer {
    pub fn new(address: &str, peers: &Peers) -> Self {
        let (config, groups) = (&peers.config, peers.loaders.groups());
        let link = |number| {
            let seed = peers.hasher.hash_one((address, number));
            Arc::new(Link::new(config.patience, seed, groups))
        };
        Self {
            address: address.to_owned(),
            links: (0..config.links).map(link).collect(),
            spread: peers.hasher.hash_one(address),
            noted: Mutex::default(),
            odds: agreement::Known::default(),
        }
    }

    /// Each thread has a link that it prefers, so that what it asks in a row is one message.
    pub fn ask(&self, mut forward: Forward) -> Result<(), (Forward, Refused)> {
        let first = PREFERRED.get();
        let bytes = QUESTION_BYTES + forward.load.key().len();
        let group = forward.load.group().number();
        forward.until = match forward.is_peek() {
            true => Instant::now() + handover::PATIENCE,
            false => forward.load.wanted_until(),
        };
        let until = forward.until;
        let mut refused = Refused::Unreachable;
        for offset in 0..self.links.len() {
            let link = &self.links[(first + offset) % self.links.len()];
            match link.ask(forward, group, bytes, until) {
                Ok(()) => return Ok(()),
                Err((back, why)) => {
                    forward = back;
                    if why != Refused::Unreachable {
                        refused = why;
                    }
                }
            }
        }
        Err((forward, refused))
    }

    /// The thread that drives its link of a number. With as many links as threads each thread drives the one that it asks
    /// by; with fewer those of different nodes are on different threads.
    pub(super) fn thread_of(&self, number: usize, threads: usize) -> usize {
        match self.links.len() >= threads {
            true => number % threads,
            false => (self.spread as usize).wrapping_add(number) % threads,
        }
    }

    /// A link to it is open.
    pub fn note_open(&self) {
        *self.noted.lock() = Noted::default();
        log::info!("node {} is linked to", self.address);
    }

    /// It has ended a link in order, as it does when it is shut down.
    pub fn note_leaving(&self) {
        let had_left = std::mem::replace(&mut self.noted.lock().has_left, true);
        if !had_left {
            log::info!(
                "node {} has ended its links: it is being shut down",
                self.address
            );
        }
    }

    /// A link to it has failed.
    pub fn note(&self, why: &str) {
        let address = &self.address;
        let mut noted = self.noted.lock();
        if noted.words == why {
            return;
        }
        why.clone_into(&mut noted.words);
        if noted.has_left {
            log::info!("node {address} is not back yet: {why}; it is tried again");
        } else {
            log::warn!("a link to node {address} has failed: {why}; it is tried again");
        }
    }

    /// Whether another link than that one takes questions.
    fn can_do_without(&self, number: usize) -> bool {
        let mut others = self.links.iter().enumerate();
        others.any(|(other, link)| other != number && link.is_asked())
    }

    /// Whether one of its links takes questions.
    pub fn is_asked(&self) -> bool {
        self.links.iter().any(|link| link.is_asked())
    }

    fn is_busy(&self) -> bool {
        self.links.iter().any(|link| link.is_busy())
    }

    /// What its links are at.
    pub fn figures(&self) -> impl Iterator<Item = Figures> {
        self.links.iter().map(|link| link.figures())
    }
}

impl Peers {
    /// Looks after the links; sleeps while there are none.
    pub fn run(self: &Arc<Self>) {
        let mut tries = Tries::new(Instant::now());
        let mut turn = 0;
        let mut look = self.look.lock();
        loop {
            let peers = self.linked();
            let pulls_wait = self.pulls.waiting() > 0;
            let is_busy = pulls_wait || peers.iter().any(|peer| peer.is_busy());
            let nothing_is_at_hand = self.at_hand.forget(Instant::now());
            if peers.is_empty() && nothing_is_at_hand {
                self.changed.wait(&mut look);
            } else if is_busy {
                self.changed.wait_for(&mut look, LOOK_BUSY);
            } else {
                self.changed.wait_for(&mut look, LOOK_IDLE);
            }
            parking_lot::MutexGuard::unlocked(&mut look, || {
                self.forget_former(Instant::now());
                // Where not all may be tried, those are first that come after the last one that was.
                let mut peers = self.linked();
                let first = turn % peers.len().max(1);
                peers.rotate_left(first);
                for (number, peer) in peers.iter().enumerate() {
                    if self.look_at(peer, &mut tries) {
                        turn = first + number + 1;
                    }
                }
                self.compare_rings(Instant::now());
                if pulls_wait {
                    // Room that readers have given back is news to nobody.
                    self.begin_pulls();
                }
            });
        }
    }

    /// Returns whether it was tried to reach the node. One that is gone is tried by one of its links, and by the others when
    /// it is back.
    fn look_at(self: &Arc<Self>, peer: &Arc<Peer>, tries: &mut Tries) -> bool {
        let now = Instant::now();
        let mut is_tried = false;
        let mut doubted_since: Option<Instant> = None;
        for (number, link) in peer.links.iter().enumerate() {
            if link.age(now) > RETIRE_AFTER && peer.can_do_without(number) {
                link.retire();
            }
            let may_retry = (number == 0 || peer.is_asked()) && tries.may(now);
            let tick = link.tick(now, may_retry);
            if tick.is_silent {
                peer.note("it says nothing");
            }
            doubted_since = doubted_since.into_iter().chain(tick.doubted_since).min();
            for (forward, why) in tick.lost {
                self.lost(forward, why);
            }
            if let Some(stream) = tick.connect {
                tries.spend();
                is_tried = true;
                asking::open(self, peer, number, stream);
            }
        }
        if let Some(since) = doubted_since {
            peer.links.iter().for_each(|link| link.doubt(since));
        }
        is_tried
    }
}
