//! A thread that drives calls: it reads what has come, has it taken, and writes what there is to say.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::dial::Stream;
use super::{End, Talk};
use crate::cluster::link::Next;
use crate::engine::guarded;
use crate::http2::Solo;
use crate::server::mail::{Letters, Slot};
use crate::server::places::{Places, Token};

/// What is read at a time. One buffer is there for all calls of a thread.
const INPUT_BYTES: usize = 256 << 10;
/// How often one call is read from before others have their turn.
const READS_A_TURN: usize = 4;
const EVENTS_MAX: usize = 64;
const BELL: u64 = u64::MAX;

/// What other threads have for this one.
pub(super) enum Letter {
    Opened(Opened),
    /// A call may have something to say.
    Woken(Token),
    /// All calls end.
    End,
}

/// A connection on which nothing has been said.
pub(super) struct Opened {
    pub stream: Stream,
    pub solo: Solo,
    pub talk: Box<dyn Talk>,
}

/// A call that is under way.
struct Call {
    stream: Stream,
    solo: Solo,
    talk: Box<dyn Talk>,
    bell: Arc<Bell>,
    waker: Waker,
    is_readable: bool,
    is_writable: bool,
    /// It stands in the queue for another turn.
    is_queued: bool,
}

/// Wakes a call's thread for it.
struct Bell {
    slot: Slot<Letter>,
    token: Token,
    has_rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.has_rung.swap(true, Ordering::AcqRel) {
            self.slot.put(Letter::Woken(self.token));
        }
    }
}

/// Why a call is over.
enum Over {
    /// It is not wanted any more.
    Stopped,
    Ended(End),
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Self {
        Self::Ended(End::Broken(error.to_string()))
    }
}

pub(super) struct Thread {
    poll: OwnedFd,
    letters: Letters<Letter>,
    slot: Slot<Letter>,
    calls: Places<Call>,
    ready: VecDeque<Token>,
    input: Box<[u8]>,
    /// When a call wants to be looked at, if any does.
    look_at: Option<Instant>,
    has_ended: bool,
}

impl Thread {
    pub fn new(letters: Letters<Letter>, slot: Slot<Letter>) -> io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&poll, letters.bell(), epoll::EventData::new_u64(BELL), edge)?;
        Ok(Self {
            poll,
            letters,
            slot,
            calls: Places::new(),
            ready: VecDeque::new(),
            input: vec![0; INPUT_BYTES].into(),
            look_at: None,
            has_ended: false,
        })
    }

    pub fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while !self.has_ended {
            let patience = self.patience();
            match epoll::wait(&self.poll, spare_capacity(&mut events), patience.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    log::error!("a thread can not wait for other nodes, and ends: {error}");
                    break;
                }
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    BELL => self.read_letters(),
                    bits => self.on_edge(Token::from_bits(bits), event.flags),
                }
            }
            for _ in 0..self.ready.len() {
                if let Some(token) = self.ready.pop_front() {
                    self.turn(token);
                }
            }
            self.look();
        }
        let all: Vec<_> = self.calls.iter_mut().map(|(token, _)| token).collect();
        for token in all {
            self.end(token, Over::Ended(End::Broken("this node ends".to_owned())));
        }
    }

    /// How long to wait for something to happen; none: for ever.
    fn patience(&self) -> Option<Timespec> {
        let wait = match self.ready.is_empty() {
            false => Duration::ZERO,
            true => self.look_at?.saturating_duration_since(Instant::now()),
        };
        Some(Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        })
    }

    fn read_letters(&mut self) {
        self.letters.hush();
        while let Some(letter) = self.letters.take() {
            match letter {
                Letter::Opened(opened) => self.take_in(opened),
                Letter::Woken(token) => self.enqueue(token),
                Letter::End => self.has_ended = true,
            }
        }
    }

    fn take_in(&mut self, opened: Opened) {
        let Opened { stream, solo, talk } = opened;
        let slot = self.slot.clone();
        self.look_at = self.look_at.into_iter().chain(talk.look_at()).min();
        let token = self.calls.insert_with(|token| {
            let bell = Arc::new(Bell {
                slot,
                token,
                has_rung: AtomicBool::new(false),
            });
            Call {
                stream,
                solo,
                talk,
                waker: Waker::from(bell.clone()),
                bell,
                is_readable: false,
                is_writable: true,
                is_queued: false,
            }
        });
        let Some(call) = self.calls.get_mut(token) else {
            return;
        };
        let events = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(token.to_bits());
        match epoll::add(&self.poll, &call.stream, data, events) {
            Ok(()) => self.enqueue(token),
            Err(error) => self.end(token, io::Error::from(error).into()),
        }
    }

    fn on_edge(&mut self, token: Token, edge: epoll::EventFlags) {
        let Some(call) = self.calls.get_mut(token) else {
            return;
        };
        let ends = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        let is_ending = edge.intersects(ends);
        call.is_readable |= is_ending || edge.contains(epoll::EventFlags::IN);
        call.is_writable |= is_ending || edge.contains(epoll::EventFlags::OUT);
        self.enqueue(token);
    }

    fn enqueue(&mut self, token: Token) {
        if let Some(call) = self.calls.get_mut(token)
            && !std::mem::replace(&mut call.is_queued, true)
        {
            self.ready.push_back(token);
        }
    }

    fn turn(&mut self, token: Token) {
        let Some(call) = self.calls.get_mut(token) else {
            return;
        };
        call.is_queued = false;
        let input = &mut self.input;
        let turned = guarded("a call to another node", || call.turn(input));
        match turned.unwrap_or_else(panicked) {
            Ok(true) => self.enqueue(token),
            Ok(false) => {}
            Err(over) => self.end(token, over),
        }
    }

    /// Looks at the calls whose time has come.
    fn look(&mut self) {
        let now = Instant::now();
        if self.look_at.is_none_or(|at| at > now) {
            return;
        }
        let mut over = Vec::new();
        for (token, call) in self.calls.iter_mut() {
            if call.talk.look_at().is_some_and(|at| at <= now)
                && let Some(end) = call.talk.look(now)
            {
                over.push((token, end));
            }
        }
        for (token, end) in over {
            self.end(token, Over::Ended(end));
        }
        let calls = self.calls.iter_mut();
        self.look_at = calls.filter_map(|(_, call)| call.talk.look_at()).min();
    }

    fn end(&mut self, token: Token, over: Over) {
        let Some(Call { stream, talk, .. }) = self.calls.remove(token) else {
            return;
        };
        drop(stream);
        if let Over::Ended(end) = over {
            guarded("the end of a call to another node", || talk.end(end));
        }
    }
}

fn panicked() -> Result<bool, Over> {
    let why = "it has failed here in a way that it should not";
    Err(Over::Ended(End::Broken(why.to_owned())))
}

impl Call {
    /// Reads, and writes what there is to say. Whether another turn is to follow.
    fn turn(&mut self, input: &mut [u8]) -> Result<bool, Over> {
        self.bell.has_rung.store(false, Ordering::Release);
        for _ in 0..READS_A_TURN {
            if !self.is_readable {
                break;
            }
            self.read(input)?;
        }
        self.speak()?;
        Ok(self.is_readable)
    }

    fn read(&mut self, input: &mut [u8]) -> Result<(), Over> {
        match self.stream.read(input) {
            Ok(0) => {
                let why = "the node has ended the connection";
                Err(Over::Ended(End::Broken(why.to_owned())))
            }
            Ok(len) => {
                let talk = &mut self.talk;
                let received = self
                    .solo
                    .receive(&input[..len], |message| talk.take(message));
                received.map_err(Over::Ended)?;
                self.is_readable = !(self.stream.is_plain() && len < input.len());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_readable = false;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes until there is nothing to say, or no room.
    fn speak(&mut self) -> Result<(), Over> {
        loop {
            let mut has_said = false;
            loop {
                match self.talk.next(&self.waker, self.solo.is_ready()) {
                    Next::Send(message) => self.solo.send(&message, self.talk.is_brief()),
                    Next::Stop => return Err(Over::Stopped),
                    Next::Wait => break,
                }
                has_said = true;
            }
            self.flush()?;
            if !has_said {
                return Ok(());
            }
        }
    }

    fn flush(&mut self) -> Result<(), Over> {
        while self.is_writable && !self.solo.unwritten().is_empty() {
            match self.stream.write(self.solo.unwritten()) {
                Ok(len) => self.solo.written(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
