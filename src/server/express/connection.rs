//! One connection: its socket, and what is said on it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::admission::Admitted;
use super::calls::Calls;
use super::socket::{Got, Handshake, Socket};
use super::turns::Turns;
use crate::http2::{self, Answer, Closing, Handler, Progress, StreamId};
use crate::server::places::Token;

/// Calls of one connection that are begun before others have their turn.
const CALLS_A_TURN: usize = 128;
/// Pieces that are written by one system call.
const PIECES_MAX: usize = 64;
/// How long what a peer sends is thrown away after it was told why it is closed: closed at once, it would not read that.
const LINGER: Duration = Duration::from_secs(1);
/// The same for a peer whose calls have all ended: he may still be reading, and the kernel throws away what it has for him
/// when he sends something to a socket that is closed. Anew with all that comes, which tells that he reads, up to so long.
const PARTING: Duration = Duration::from_secs(2);
const PARTING_MAX: Duration = Duration::from_secs(30);

pub(super) struct Connection {
    socket: Socket,
    http: http2::Connection,
    /// What the last edge said and no call has refuted since.
    is_readable: bool,
    is_writable: bool,
    /// The peer sends no more, or is gone: it is read until that shows.
    is_ending: bool,
    has_ended: bool,
    /// Calls are kept for lack of turns; or for lack of room, until something is written.
    has_more: bool,
    is_blocked: bool,
    /// It is in the queue for another turn.
    is_queued: bool,
    stage: Stage,
    since: Instant,
    is_shut_down: bool,
    /// What it kept when it was last weighed.
    weight_bytes: usize,
    _admitted: Admitted,
}

enum Stage {
    Open,
    /// Its end is to be written, until then.
    Closing(Instant),
    /// Its end is written; what comes is thrown away until then.
    Lingering(Lingering),
}

#[derive(Clone, Copy)]
struct Lingering {
    until: Instant,
    /// It is put off with what comes, up to this.
    longest: Instant,
}

impl Lingering {
    fn after_an_error(now: Instant) -> Self {
        let until = now + LINGER;
        Self {
            until,
            longest: until,
        }
    }

    fn after_all_calls(now: Instant) -> Self {
        Self {
            until: now + PARTING,
            longest: now + PARTING_MAX,
        }
    }

    fn put_off(&mut self, now: Instant) {
        self.until = self.until.max(now + PARTING).min(self.longest);
    }
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Event,
    Turn,
    /// Nothing: it is over.
    End,
}

impl Connection {
    pub fn new(socket: Socket, http: http2::Connection, admitted: Admitted, now: Instant) -> Self {
        Self {
            socket,
            http,
            is_readable: false,
            is_writable: true,
            is_ending: false,
            has_ended: false,
            has_more: false,
            is_blocked: false,
            is_queued: false,
            stage: Stage::Open,
            since: now,
            is_shut_down: false,
            weight_bytes: 0,
            _admitted: admitted,
        }
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Has it wait for another turn, once.
    pub fn enqueue(&mut self, token: Token, turns: &mut Turns) {
        if !self.is_queued {
            self.is_queued = true;
            turns.wait(token, self.next_step());
        }
    }

    /// The handshake that its next turn goes on with.
    pub fn next_step(&self) -> Option<Handshake> {
        self.socket.handshake().filter(|_| self.is_readable)
    }

    pub fn leave_queue(&mut self) {
        self.is_queued = false;
    }

    pub fn note(&mut self, edge: EventFlags) {
        let is_ending = edge.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.is_ending |= is_ending;
        self.is_readable |= is_ending || edge.contains(EventFlags::IN);
        self.is_writable |= is_ending || edge.contains(EventFlags::OUT);
    }

    /// Reads once, answers, and writes once if all goes well.
    pub fn turn(&mut self, now: Instant, input: &mut [u8], calls: &mut Calls<'_>) -> Next {
        // Who has gone before he got an answer does not get it.
        if self.is_ending && self.socket.handshake() == Some(Handshake::New) {
            return Next::End;
        }
        let turned = match self.stage {
            Stage::Lingering(_) => self.throw_away(now, input),
            _ => self.answer(now, input, calls).and_then(|()| self.flush()),
        };
        match turned {
            Ok(()) => self.next(now),
            Err(error) => {
                log::trace!("express: a connection was lost: {error}");
                Next::End
            }
        }
    }

    fn answer(&mut self, now: Instant, input: &mut [u8], calls: &mut Calls<'_>) -> io::Result<()> {
        if !matches!(self.stage, Stage::Open) {
            return Ok(());
        }
        let mut len = 0;
        if self.is_readable && self.http.wants_read() {
            len = self.read(input)?;
        }
        if len > 0 || self.has_more {
            match self.http.receive(&input[..len], now, CALLS_A_TURN, calls) {
                Ok(progress) => {
                    self.has_more = progress == Progress::More;
                    self.is_blocked = progress == Progress::Blocked;
                }
                Err(closing) => self.close(closing, now),
            }
        }
        Ok(())
    }

    /// What there is, up to the buffer's end; 0 for nothing as well as for the end.
    fn read(&mut self, input: &mut [u8]) -> io::Result<usize> {
        match self.socket.read(input) {
            Ok(Got { len_bytes: 0, .. }) => {
                self.is_readable = false;
                self.has_ended = true;
                Ok(0)
            }
            Ok(Got { len_bytes, is_all }) => {
                self.is_readable = !is_all || self.is_ending;
                Ok(len_bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_readable = false;
                Ok(0)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.is_writable && self.wants_write() {
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let (mut count, mut bytes) = (0, 0);
            for (slice, piece) in pieces.iter_mut().zip(self.http.pieces()) {
                *slice = IoSlice::new(piece);
                count += 1;
                bytes += piece.len();
            }
            match self.socket.write(&pieces[..count], bytes) {
                Ok(wrote) => {
                    self.is_writable = !wrote.is_full;
                    self.http.written(wrote.len_bytes);
                    self.has_more |= std::mem::take(&mut self.is_blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wants_write(&self) -> bool {
        self.http.wants_write() || self.socket.wants_write()
    }

    fn next(&mut self, now: Instant) -> Next {
        let is_written = !self.wants_write();
        match self.stage {
            Stage::Open => {
                if self.has_more {
                    return Next::Turn;
                }
                if is_written && self.has_ended {
                    return Next::End;
                }
                if is_written && self.http.is_finished() {
                    return self.linger(Lingering::after_all_calls(now));
                }
                match self.is_readable && self.http.wants_read() {
                    true => Next::Turn,
                    false => Next::Event,
                }
            }
            Stage::Closing(_) if self.has_ended => Next::End,
            Stage::Closing(_) if is_written => self.linger(Lingering::after_an_error(now)),
            Stage::Closing(_) => Next::Event,
            Stage::Lingering(_) if self.has_ended => Next::End,
            Stage::Lingering(_) => match self.is_readable {
                true => Next::Turn,
                false => Next::Event,
            },
        }
    }

    fn linger(&mut self, lingering: Lingering) -> Next {
        self.socket.finish();
        self.stage = Stage::Lingering(lingering);
        Next::Turn
    }

    fn throw_away(&mut self, now: Instant, input: &mut [u8]) -> io::Result<()> {
        if self.is_readable
            && self.read(input)? > 0
            && let Stage::Lingering(lingering) = &mut self.stage
        {
            lingering.put_off(now);
        }
        Ok(())
    }

    fn close(&mut self, closing: Closing, now: Instant) {
        log::debug!("express: a connection is closed: {closing}");
        self.stage = Stage::Closing(now + LINGER);
    }

    /// An answer that has come late. The next turn writes it.
    pub fn put(&mut self, stream: StreamId, answer: Answer) {
        self.http.answer(stream, answer);
    }

    /// Looks at what is overdue. Another turn is to follow.
    pub fn look(&mut self, now: Instant, calls: &mut Calls<'_>) -> Next {
        match self.stage {
            Stage::Open => {
                if let Err(closing) = self.http.tick(now, calls) {
                    self.close(closing, now);
                    // Without a key it can not be told why.
                    return match self.socket.handshake() {
                        Some(_) => Next::End,
                        None => Next::Turn,
                    };
                }
                match self.wants_write() {
                    true => Next::Turn,
                    false => Next::Event,
                }
            }
            // Its time to read the end is over as well when it has not read the rest.
            Stage::Closing(until) if until <= now => Next::End,
            Stage::Lingering(Lingering { until, .. }) if until <= now => Next::End,
            Stage::Closing(_) | Stage::Lingering(_) => Next::Event,
        }
    }

    /// When to look next.
    pub fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Open => self.http.deadline(),
            Stage::Closing(until) | Stage::Lingering(Lingering { until, .. }) => Some(until),
        }
    }

    /// Says to the client that it should go elsewhere.
    pub fn shut_down(&mut self, now: Instant) {
        self.is_shut_down = true;
        self.http.shut_down(now);
    }

    /// Looks how much it keeps. Returns what it was the last time, and what it is now.
    pub fn weigh(&mut self) -> (usize, usize) {
        let weight_bytes = self.http.memory_bytes() + self.socket.memory_bytes();
        let before = std::mem::replace(&mut self.weight_bytes, weight_bytes);
        (before, self.weight_bytes)
    }

    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    pub fn is_shut_down(&self) -> bool {
        self.is_shut_down
    }

    /// When its age is up: first to be told so, and then to be cut.
    pub fn too_old(&self, age: Option<Duration>, grace: Duration) -> Option<Instant> {
        let told = self.since.checked_add(age?)?;
        match self.is_shut_down {
            false => Some(told),
            true => told.checked_add(grace),
        }
    }

    /// Tells the calls that wait that nobody hears their answers.
    pub fn end(&mut self, handler: &mut impl Handler) {
        self.http.end(handler);
    }
}
