//! An I/O thread: a listener, an epoll, and the connections that have come in by it, which no other thread touches.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::admission::{Admission, Admitted};
use super::calls::Calls;
use super::connection::{Connection, Next};
use super::socket::{Socket, accept};
#[cfg(feature = "tls")]
use super::tls::Session;
use super::turns::Turns;
use super::waiters::{Call, Waiters};
use super::{Figures, Services};
use crate::http2::{self, Answer, Counts, Limits};
use crate::server::mail::{Letters, Slot};
use crate::server::peer::{self, Driver};
use crate::server::places::{Places, Token};
use crate::server::service::Status;

/// What is read from one connection before others have their turn. One buffer is there for all of a thread.
const INPUT_BYTES: usize = 64 << 10;
const EVENTS_MAX: usize = 256;
/// Connections that are taken in before others have their turn.
const ACCEPTS_MAX: usize = 64;
/// After so long no more handshakes go on before others have their turn. One takes up to some ms, with a large key.
const HANDSHAKES_MAX: Duration = Duration::from_micros(500);
/// How often deadlines of calls are looked at, while any wait.
const LOOK_AT_CALLS: Duration = Duration::from_millis(100);
/// How often connections are looked at, while there are any: at most, and at least.
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How long nothing is accepted when the system has no descriptor left, or no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const LISTENER: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;

/// What other threads have for this one.
pub(super) enum Letter {
    Answer(Call, Answer),
    /// For a call to another node.
    Peer(peer::Letter),
    /// No more connections; those that are open come to their end.
    ShutDown,
    /// Now.
    End,
}

/// What a thread shares with the others, and does not change.
pub(super) struct Common {
    pub services: Arc<Services>,
    pub admission: Arc<Admission>,
    #[cfg(feature = "tls")]
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub limits: Arc<Limits>,
    pub counts: Arc<Counts>,
    /// What all connections of a thread may keep together.
    pub memory_bytes: usize,
    /// How long a connection is used for new calls, and how long its calls may go on after that.
    pub age: Option<Duration>,
    pub age_grace: Duration,
}

pub(super) struct IoThread {
    common: Arc<Common>,
    figures: Arc<Figures>,
    poll: OwnedFd,
    listener: Option<OwnedFd>,
    letters: Letters<Letter>,
    /// For its own calls, whose answers come from elsewhere.
    slot: Slot<Letter>,
    connections: Places<Box<Connection>>,
    waiters: Waiters,
    turns: Turns,
    /// Calls to other nodes, and when they are to be looked at.
    peers: Driver,
    look_at_peers: Option<Instant>,
    input: Box<[u8]>,
    calls: u64,
    /// What the connections keep together.
    kept_bytes: usize,
    look_at_calls: Instant,
    look_at_connections: Instant,
    /// When connections are accepted again, after one could not be.
    listen_again: Option<Instant>,
    is_shut_down: bool,
    has_ended: bool,
}

impl IoThread {
    pub fn new(
        common: Arc<Common>,
        figures: Arc<Figures>,
        listener: OwnedFd,
        letters: Letters<Letter>,
        slot: Slot<Letter>,
    ) -> io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64;
        epoll::add(&poll, &listener, data(LISTENER), epoll::EventFlags::IN)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&poll, letters.bell(), data(BELL), edge)?;
        let now = Instant::now();
        Ok(Self {
            common,
            figures,
            poll,
            listener: Some(listener),
            letters,
            connections: Places::new(),
            waiters: Waiters::default(),
            turns: Turns::default(),
            peers: Driver::new(post(&slot)),
            look_at_peers: None,
            input: vec![0; INPUT_BYTES].into(),
            calls: 0,
            kept_bytes: 0,
            look_at_calls: now,
            look_at_connections: now,
            listen_again: None,
            is_shut_down: false,
            has_ended: false,
            slot,
        })
    }

    /// Serves until it is told to end. `tell` is told, once, when all connections have come to their end after it was shut
    /// down, and whether none of them was cut: until the end it goes on with calls to other nodes.
    pub fn run(mut self, tell: impl FnOnce(bool)) {
        let mut tell = Some(tell);
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut now = Instant::now();
        while !self.has_ended {
            if self.is_shut_down
                && self.connections.is_empty()
                && let Some(tell) = tell.take()
            {
                tell(true);
            }
            let patience = self.patience(now);
            if let Err(error) =
                epoll::wait(&self.poll, spare_capacity(&mut events), patience.as_ref())
                && error != rustix::io::Errno::INTR
            {
                log::error!(
                    "express: a thread can not wait for its connections, and ends: {error}"
                );
                break;
            }
            now = Instant::now();
            self.run_ready(now);
            for event in events.drain(..) {
                match event.data.u64() {
                    LISTENER => self.accept(now),
                    BELL => self.read_letters(now),
                    bits => match Driver::token(bits) {
                        Some(token) => self.peers.on_edge(token, event.flags),
                        None => self.on_edge(Token::from_bits(bits), event.flags, now),
                    },
                }
            }
            self.run_handshakes(now);
            self.look(now);
            // Last, as all else may have something to ask.
            self.look_at_peers = self.peers.run(&mut self.input);
            self.figures.calls.store(self.calls, Ordering::Relaxed);
        }
        let all_finished = self.connections.is_empty();
        self.end_all();
        self.peers.end_all();
        if let Some(tell) = tell {
            tell(all_finished);
        }
    }

    /// How long to wait for something to happen; none: for ever.
    fn patience(&self, now: Instant) -> Option<Timespec> {
        if !self.turns.is_empty() || self.peers.is_ready() {
            return Some(timespec(Duration::ZERO));
        }
        let calls = (!self.waiters.is_empty()).then_some(self.look_at_calls);
        let connections = (!self.connections.is_empty()).then_some(self.look_at_connections);
        let next = [calls, connections, self.listen_again, self.look_at_peers];
        let next = next.into_iter().flatten().min()?;
        Some(timespec(next.saturating_duration_since(now)))
    }

    fn on_edge(&mut self, token: Token, edge: epoll::EventFlags, now: Instant) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        connection.note(edge);
        match connection.next_step() {
            Some(_) => connection.enqueue(token, &mut self.turns),
            None => self.turn(token, now),
        }
    }

    fn run_ready(&mut self, now: Instant) {
        for token in self.turns.take_ready() {
            self.leave_queue(token, now);
        }
    }

    /// Lets handshakes go on, one at least.
    fn run_handshakes(&mut self, now: Instant) {
        let mut begun = None;
        while let Some(token) = self.turns.next_handshake() {
            let begun = *begun.get_or_insert_with(Instant::now);
            self.leave_queue(token, now);
            if begun.elapsed() >= HANDSHAKES_MAX {
                break;
            }
        }
    }

    fn leave_queue(&mut self, token: Token, now: Instant) {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.leave_queue();
            self.turn(token, now);
        }
    }

    fn turn(&mut self, token: Token, now: Instant) {
        self.on(token, |connection, input, calls| {
            connection.turn(now, input, calls)
        });
    }

    /// Does something with a connection, and then what that asks for.
    fn on(
        &mut self,
        token: Token,
        f: impl FnOnce(&mut Connection, &mut [u8], &mut Calls<'_>) -> Next,
    ) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        let mut calls = Calls {
            services: &self.common.services,
            waiters: &mut self.waiters,
            slot: &self.slot,
            token,
            count: &mut self.calls,
        };
        let input = &mut self.input;
        let next = catch_unwind(AssertUnwindSafe(|| f(connection, input, &mut calls)));
        let next = next.unwrap_or_else(|_| {
            log::error!("express: a connection is cut, on which something failed that should not");
            Next::End
        });
        let (before, after) = connection.weigh();
        self.kept_bytes = self.kept_bytes - before + after;
        match next {
            Next::Event => {}
            Next::Turn => connection.enqueue(token, &mut self.turns),
            Next::End => self.end(token),
        }
        if self.kept_bytes > self.common.memory_bytes {
            self.cut_heaviest();
        }
    }

    fn cut_heaviest(&mut self) {
        let connections = self.connections.iter_mut();
        let heaviest = connections.max_by_key(|(_, connection)| connection.weight_bytes());
        let Some((token, connection)) = heaviest else {
            return;
        };
        log::warn!(
            "express: {} bytes are kept for connections, over {}: the one with most of it, {}, is cut",
            self.kept_bytes,
            self.common.memory_bytes,
            connection.weight_bytes()
        );
        self.figures.cut.fetch_add(1, Ordering::Relaxed);
        self.end(token);
    }

    fn end(&mut self, token: Token) {
        let Some(mut connection) = self.connections.remove(token) else {
            return;
        };
        self.kept_bytes -= connection.weight_bytes();
        let mut calls = Calls {
            services: &self.common.services,
            waiters: &mut self.waiters,
            slot: &self.slot,
            token,
            count: &mut self.calls,
        };
        let ended = catch_unwind(AssertUnwindSafe(|| connection.end(&mut calls)));
        if ended.is_err() {
            log::error!("express: a connection failed at its end in a way that it should not");
        }
    }

    fn end_all(&mut self) {
        let all: Vec<_> = self
            .connections
            .iter_mut()
            .map(|(token, _)| token)
            .collect();
        all.into_iter().for_each(|token| self.end(token));
    }

    fn listen(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        let data = epoll::EventData::new_u64(LISTENER);
        if let Err(error) = epoll::add(&self.poll, listener, data, epoll::EventFlags::IN) {
            log::error!("express: a thread accepts no connections any more: {error}");
        }
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = &self.listener else {
                return;
            };
            let accepted = accept(listener).and_then(|(fd, peer)| {
                let admitted = self.common.admission.admit(fd.as_fd(), peer.ip());
                admitted
                    .map(|admitted| Ok((self.socket(fd)?, admitted)))
                    .transpose()
            });
            match accepted {
                Ok(Some((socket, admitted))) => self.take_in(socket, admitted, now),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It has gone again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    log::warn!("express: no connection is accepted for a moment: {error}");
                    let _ = epoll::delete(&self.poll, listener);
                    self.listen_again = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    #[cfg(feature = "tls")]
    fn socket(&self, fd: OwnedFd) -> io::Result<Socket> {
        match &self.common.tls {
            Some(config) => Ok(Socket::tls(fd, Session::new(config)?)),
            None => Ok(Socket::plain(fd)),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn socket(&self, fd: OwnedFd) -> io::Result<Socket> {
        Ok(Socket::plain(fd))
    }

    fn take_in(&mut self, socket: Socket, admitted: Admitted, now: Instant) {
        let limits = self.common.limits.clone();
        let http = http2::Connection::new(limits, self.common.counts.clone(), now);
        let connection = Connection::new(socket, http, admitted, now);
        if let Some(deadline) = connection.deadline() {
            self.look_at_connections = self.look_at_connections.max(now).min(deadline);
        }
        let token = self.connections.insert(Box::new(connection));
        let events = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(token.to_bits());
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        if let Err(error) = epoll::add(&self.poll, connection.socket(), data, events) {
            log::warn!("express: a connection can not be watched, and is closed: {error}");
            self.end(token);
        }
    }

    fn read_letters(&mut self, now: Instant) {
        self.letters.hush();
        while let Some(letter) = self.letters.take() {
            match letter {
                Letter::Answer(call, answer) => {
                    let (token, stream) = call;
                    if !self.waiters.take_answered(call) {
                        continue;
                    }
                    let Some(connection) = self.connections.get_mut(token) else {
                        continue;
                    };
                    connection.put(stream, answer);
                    connection.enqueue(token, &mut self.turns);
                }
                Letter::Peer(letter) => self.peers.on_letter(letter, &self.poll),
                Letter::ShutDown => self.shut_down(now),
                Letter::End => self.has_ended = true,
            }
        }
    }

    fn shut_down(&mut self, now: Instant) {
        self.is_shut_down = true;
        self.listener = None;
        for (token, connection) in self.connections.iter_mut() {
            connection.shut_down(now);
            connection.enqueue(token, &mut self.turns);
        }
    }

    /// Looks at what is overdue.
    fn look(&mut self, now: Instant) {
        if !self.waiters.is_empty() && self.look_at_calls <= now {
            self.look_at_calls = now + LOOK_AT_CALLS;
            for (token, stream) in self.waiters.take_overdue(now) {
                if let Some(connection) = self.connections.get_mut(token) {
                    let late = Answer::Failed(Status::too_late().into());
                    connection.put(stream, late);
                    connection.enqueue(token, &mut self.turns);
                }
            }
        }
        if !self.connections.is_empty() && self.look_at_connections <= now {
            self.look_at_all(now);
        }
        if self.listen_again.is_some_and(|at| at <= now) {
            self.listen_again = None;
            self.listen();
        }
    }

    fn look_at_all(&mut self, now: Instant) {
        let (age, grace) = (self.common.age, self.common.age_grace);
        let mut next = now + LOOK_MAX;
        let mut overdue = Vec::new();
        for (token, connection) in self.connections.iter_mut() {
            let too_old = connection.too_old(age, grace);
            match too_old.into_iter().chain(connection.deadline()).min() {
                Some(due) if due <= now => overdue.push(token),
                Some(due) => next = next.min(due),
                None => {}
            }
        }
        self.look_at_connections = next.max(now + LOOK_MIN);
        for token in overdue {
            self.on(token, |connection, _, calls| {
                if connection.too_old(age, grace).is_some_and(|at| at <= now) {
                    if connection.is_shut_down() {
                        return Next::End;
                    }
                    connection.shut_down(now);
                }
                connection.look(now, calls)
            });
        }
    }
}

/// Takes letters to a thread's driver of calls to other nodes.
pub(super) fn post(slot: &Slot<Letter>) -> peer::Post {
    let slot = slot.clone();
    Arc::new(move |letter| slot.put(Letter::Peer(letter)))
}

fn timespec(span: Duration) -> Timespec {
    // Rounded up: who wakes before the time has come only sleeps again.
    Timespec {
        tv_sec: span.as_secs() as i64,
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}
