//! Drives calls on the thread that has it: what has come is taken, and what there is to say is written.
//!
//! It has no epoll of its own: whoever has one says what has happened, and calls [`Driver::run`] before it waits again.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Instant;

use rustix::event::epoll;

use super::dial::Stream;
use super::{ENDS_HERE, End, Talk};
use crate::cluster::link::Next;
use crate::engine::guarded;
use crate::http2::Solo;
use crate::server::places::{Places, Token};

/// How often one call is read from before others have their turn.
const READS_A_TURN: usize = 4;
/// By this the events of calls are told from others: a token does not have it.
const OF_A_CALL: u64 = 1 << 63;

/// What other threads have for a driver.
pub(in crate::server) enum Letter {
    Opened(Box<Opened>),
    /// A call may have something to say.
    Woken(Token),
}

/// Takes letters to the thread that has the driver.
pub(in crate::server) type Post = Arc<dyn Fn(Letter) + Send + Sync>;

/// A connection on which nothing has been said.
pub(in crate::server) struct Opened {
    pub(super) stream: Stream,
    pub(super) solo: Solo,
    pub(super) talk: Box<dyn Talk>,
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
    /// The other node has ended its side, or all of it: no edge follows that.
    is_ending: bool,
    /// It stands in the queue for another turn.
    is_queued: bool,
}

/// Wakes a call's thread for it.
struct Bell {
    post: Post,
    /// Where the driver is.
    home: usize,
    token: Token,
    has_rung: AtomicBool,
}

thread_local! {
    /// What tells this thread from others.
    static HERE: Cell<u8> = const { Cell::new(0) };
    /// Calls of this thread's driver that it has woken itself: that takes no letter.
    static WOKEN: RefCell<Vec<Token>> = const { RefCell::new(Vec::new()) };
}

fn here() -> usize {
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.has_rung.swap(true, Ordering::AcqRel) {
            return;
        }
        match self.home == here() {
            true => WOKEN.with_borrow_mut(|woken| woken.push(self.token)),
            false => (self.post)(Letter::Woken(self.token)),
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

/// The calls of a thread, which alone drives them.
pub(in crate::server) struct Driver {
    post: Post,
    calls: Places<Call>,
    ready: VecDeque<Token>,
    /// When a call wants to be looked at, if any does.
    look_at: Option<Instant>,
}

impl Driver {
    pub fn new(post: Post) -> Self {
        Self {
            post,
            calls: Places::new(),
            ready: VecDeque::new(),
            look_at: None,
        }
    }

    /// The call that an event is about, if it is a call's.
    pub fn token(data: u64) -> Option<Token> {
        (data & OF_A_CALL != 0).then(|| Token::from_bits(data & !OF_A_CALL))
    }

    pub fn on_letter(&mut self, letter: Letter, poll: &OwnedFd) {
        match letter {
            Letter::Opened(opened) => self.take_in(*opened, poll),
            Letter::Woken(token) => self.enqueue(token),
        }
    }

    pub fn on_edge(&mut self, token: Token, edge: epoll::EventFlags) {
        let Some(call) = self.calls.get_mut(token) else {
            return;
        };
        let ends = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        let is_ending = edge.intersects(ends);
        call.is_ending |= is_ending;
        call.is_readable |= is_ending || edge.contains(epoll::EventFlags::IN);
        call.is_writable |= is_ending || edge.contains(epoll::EventFlags::OUT);
        self.enqueue(token);
    }

    /// Gives each call its turn that waits for one; `input` is what is read into. Returns when it is to be called again,
    /// whatever else happens.
    pub fn run(&mut self, input: &mut [u8]) -> Option<Instant> {
        self.take_woken();
        for _ in 0..self.ready.len() {
            if let Some(token) = self.ready.pop_front() {
                self.turn(token, input);
            }
        }
        if let Some(at) = self.look_at {
            let now = Instant::now();
            if at <= now {
                self.look(now);
            }
        }
        // Last: turns wake calls, and so does what ends when it is looked at.
        self.take_woken();
        match self.ready.is_empty() {
            true => self.look_at,
            false => Some(Instant::now()),
        }
    }

    /// Whether a call waits for its turn.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Ends all calls: the thread ends.
    pub fn end_all(&mut self) {
        let all: Vec<_> = self.calls.iter_mut().map(|(token, _)| token).collect();
        for token in all {
            self.end(token, Over::Ended(End::Broken(ENDS_HERE.to_owned())));
        }
    }

    fn take_in(&mut self, opened: Opened, poll: &OwnedFd) {
        let Opened { stream, solo, talk } = opened;
        let post = self.post.clone();
        self.look_at = self.look_at.into_iter().chain(talk.look_at()).min();
        let token = self.calls.insert_with(|token| {
            let bell = Arc::new(Bell {
                post,
                home: here(),
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
                is_ending: false,
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
        let data = epoll::EventData::new_u64(token.to_bits() | OF_A_CALL);
        match epoll::add(poll, &call.stream, data, events) {
            Ok(()) => self.enqueue(token),
            Err(error) => self.end(token, io::Error::from(error).into()),
        }
    }

    fn take_woken(&mut self) {
        // The borrow ends before the calls have their turn.
        while let Some(token) = WOKEN.with_borrow_mut(Vec::pop) {
            self.enqueue(token);
        }
    }

    fn enqueue(&mut self, token: Token) {
        if let Some(call) = self.calls.get_mut(token)
            && !std::mem::replace(&mut call.is_queued, true)
        {
            self.ready.push_back(token);
        }
    }

    fn turn(&mut self, token: Token, input: &mut [u8]) {
        let Some(call) = self.calls.get_mut(token) else {
            return;
        };
        call.is_queued = false;
        let turned = guarded("a call to another node", || call.turn(input));
        match turned.unwrap_or_else(panicked) {
            Ok(true) => self.enqueue(token),
            Ok(false) => {}
            Err(over) => self.end(token, over),
        }
    }

    /// Looks at the calls whose time has come.
    fn look(&mut self, now: Instant) {
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
        // Sees what was there to say when it has rung already.
        self.bell.has_rung.swap(false, Ordering::AcqRel);
        self.speak()?;
        for _ in 0..READS_A_TURN {
            if !self.is_readable {
                break;
            }
            self.read(input)?;
            // The other node has something to do while the rest is read.
            self.speak()?;
        }
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
                let is_all = self.stream.is_plain() && len < input.len();
                self.is_readable = !is_all || self.is_ending;
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
            let (had_room, mut has_said) = (self.solo.is_ready(), false);
            loop {
                match self.talk.next(&self.waker, self.solo.is_ready()) {
                    Next::Send(message) => self.solo.send(&message, false),
                    Next::Stop => return Err(Over::Stopped),
                    Next::Wait => break,
                }
                has_said = true;
            }
            self.flush()?;
            // What is there to say is said if that was for lack of room, and there is some now.
            let has_room_now = !had_room && self.solo.is_ready();
            if !has_said && !has_room_now {
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
