//! Calls to other nodes, each over a connection of its own.
//!
//! ```text
//! open ──► dial: looks up, connects, speaks TLS ──► thread: epoll, reads, writes ──► Talk: what is said
//!          (a thread of its own, for so long)       (one a core, started when it is needed)
//! ```
//!
//! [`crate::http2::Solo`] is the protocol. Nothing is known here of keys and values: who has something to say is a [`Talk`].

mod dial;
mod thread;

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;

pub(in crate::server) use self::dial::LinkTls;
use self::dial::{Dials, Speech};
use self::thread::{Letter, Thread};
use crate::cluster::link::Next;
pub(super) use crate::http2::End;
use crate::server::mail::{Slot, letter_box};

/// What is said in a call, by this side and by the other. Whoever drives it is one thread at a time.
pub(super) trait Talk: Send {
    /// Which method is called.
    fn path(&self) -> &'static str;

    /// The next message, if there is room for one, as `can_send` says. If there is none, `waker` is woken when that may
    /// have changed.
    fn next(&mut self, waker: &Waker, can_send: bool) -> Next<Vec<u8>>;

    /// Whether the first message is the last.
    fn is_brief(&self) -> bool;

    /// Takes a message that has come; else the call ends, with these words.
    fn take(&mut self, message: &[u8]) -> Result<(), String>;

    /// When [`look`](Self::look) is to be called.
    fn look_at(&self) -> Option<Instant> {
        None
    }

    /// Looks at the time. It may end the call.
    fn look(&mut self, _: Instant) -> Option<End> {
        None
    }

    /// The call has ended, and not by [`Next::Stop`].
    fn end(self: Box<Self>, end: End);
}

/// Makes the calls of a node.
pub(in crate::server) struct Calls {
    tls: Option<Arc<LinkTls>>,
    dials: Arc<Dials>,
    /// As many as there may be threads; none yet where none was needed.
    threads: Mutex<Threads>,
}

struct Threads {
    slots: Vec<Option<Slot<Letter>>>,
    next: usize,
}

impl Calls {
    /// With so many threads at the most.
    pub fn new(tls: Option<LinkTls>, threads: usize) -> Self {
        Self {
            tls: tls.map(Arc::new),
            dials: Arc::default(),
            threads: Mutex::new(Threads {
                slots: vec![None; threads.max(1)],
                next: 0,
            }),
        }
    }

    /// Calls the node at an address.
    pub(in crate::server::peer) fn open(
        &self,
        address: &str,
        message_max_bytes: usize,
        talk: Box<dyn Talk>,
    ) {
        let slot = match self.threads.lock().next() {
            Ok(slot) => slot,
            Err(error) => {
                let why = format!("the system starts no thread for it: {error}");
                return talk.end(End::Broken(why));
            }
        };
        let speech = Speech {
            address: address.to_owned(),
            tls: self.tls.clone(),
            message_max_bytes,
            talk,
        };
        dial::dial(&self.dials, speech, slot);
    }
}

impl Threads {
    /// They take turns.
    fn next(&mut self) -> std::io::Result<Slot<Letter>> {
        let index = self.next % self.slots.len();
        self.next += 1;
        let slot = &mut self.slots[index];
        if let Some(slot) = slot {
            return Ok(slot.clone());
        }
        let (new, letters) = letter_box()?;
        let thread = Thread::new(letters, new.clone())?;
        std::thread::Builder::new()
            .name(format!("peers-{index}"))
            .spawn(move || thread.run())?;
        Ok(slot.insert(new).clone())
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        for slot in self.threads.lock().slots.iter().flatten() {
            slot.put(Letter::End);
        }
    }
}
