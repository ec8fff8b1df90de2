//! Calls to other nodes, each over a connection of its own.
//!
//! ```text
//! open ──► dial: looks up, connects, speaks TLS ──► driver: reads, writes ──► Talk: what is said
//!          (a thread of its own, for so long)       (on the I/O threads of the express door, or on threads of its own)
//! ```
//!
//! [`crate::http2::Solo`] is the protocol. Nothing is known here of keys and values: who has something to say is a [`Talk`].

mod dial;
mod driver;
mod thread;

use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::thread::Builder;
use std::time::Instant;

use parking_lot::Mutex;

pub(in crate::server) use self::dial::LinkTls;
use self::dial::{Dials, Speech};
pub(in crate::server) use self::driver::{Driver, Letter, Post};
use crate::cluster::link::Next;
pub(super) use crate::http2::End;
use crate::server::mail::letter_box;

/// Why calls end that were under way when this node did.
pub(super) const ENDS_HERE: &str = "this node ends";

/// How a call begins.
pub(super) struct Opening {
    /// Which method is called.
    pub path: &'static str,
    /// All that this side has to say; none if that is for its [`Talk`].
    pub request: Option<Vec<u8>>,
    /// The largest message of the other side.
    pub message_max_bytes: usize,
}

/// What is said in a call, by this side and by the other. Whoever drives it is one thread at a time.
pub(super) trait Talk: Send {
    /// The next message, if there is room for one, as `can_send` says. If there is none, `waker` is woken when that may
    /// have changed.
    fn next(&mut self, _waker: &Waker, _can_send: bool) -> Next<Vec<u8>> {
        Next::Wait
    }

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
    threads: Mutex<Threads>,
}

/// Those that drive calls, in turns.
struct Threads {
    /// None yet where none was needed.
    posts: Vec<Option<Post>>,
    next: usize,
}

impl Calls {
    /// With so many threads of their own at the most.
    pub fn new(tls: Option<LinkTls>, threads: usize) -> Self {
        Self {
            tls: tls.map(Arc::new),
            dials: Arc::default(),
            threads: Mutex::new(Threads {
                posts: vec![None; threads.max(1)],
                next: 0,
            }),
        }
    }

    /// Has these threads drive the calls from now on: each has a [`Driver`].
    pub fn use_threads(&self, posts: impl IntoIterator<Item = Post>) {
        self.threads.lock().posts = posts.into_iter().map(Some).collect();
    }

    /// How many threads there may be.
    pub(in crate::server::peer) fn threads(&self) -> usize {
        self.threads.lock().posts.len()
    }

    /// Calls the node at an address, on the thread of that number, or of the next, around the end.
    pub(in crate::server::peer) fn open(
        &self,
        address: &str,
        thread: Option<usize>,
        opening: Opening,
        talk: Box<dyn Talk>,
    ) {
        let post = match self.threads.lock().choose(thread) {
            Ok(post) => post,
            Err(error) => {
                let why = format!("the system starts no thread for it: {error}");
                return talk.end(End::Broken(why));
            }
        };
        let speech = Speech {
            address: address.to_owned(),
            tls: self.tls.clone(),
            opening,
            talk,
        };
        dial::dial(&self.dials, speech, post);
    }
}

impl Threads {
    fn choose(&mut self, thread: Option<usize>) -> io::Result<Post> {
        let next = || {
            self.next += 1;
            self.next
        };
        let index = thread.unwrap_or_else(next) % self.posts.len();
        let post = &mut self.posts[index];
        if let Some(post) = post {
            return Ok(post.clone());
        }
        let (slot, letters) = letter_box()?;
        let new: Post = Arc::new(move |letter| slot.put(letter));
        let own = new.clone();
        Builder::new()
            .name(format!("peers-{index}"))
            .spawn(move || {
                if let Err(error) = thread::run(&letters, own) {
                    log::error!("a thread can not wait for other nodes, and ends: {error}");
                }
            })?;
        Ok(post.insert(new).clone())
    }
}

#[cfg(test)]
mod tests;
