//! Who is in the cluster, as one trusted source says it: a list, a file, DNS, etcd. There is no gossip.
//!
//! A [`Source`] is followed on a thread of its own and tells what it hears to a [`Report`]. What a [`Membership`] shows is
//! the last view that was heard: where the source is silent or talks nonsense the view stays, and its age and the reason
//! are shown. The own member is always in the own view.
//!
//! ```
//! use corecache::cluster::Member;
//! use corecache::cluster::membership::{List, Membership};
//!
//! let own = Member::new("cache-1:8800");
//! let list = List::new(vec![Member::new("cache-2:8800"), own.clone()])?;
//! let membership = Membership::start(own, list)?;
//! membership.subscribe(|view| println!("{} members", view.members().len()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod dns;
mod file;
mod list;
mod own;
mod report;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, Sender};
use parking_lot::Mutex;

use super::{Member, View};
use crate::engine::guarded;

pub use dns::Dns;
pub use file::{FileError, PeersFile};
pub use list::List;
pub use own::Doubt;
pub use report::Report;
use report::State;

/// Says who is in the cluster.
pub trait Source: Send + 'static {
    /// What it is called in the log and among the figures.
    fn name(&self) -> &'static str;

    /// Tells what it hears until [`Report::pause`] says that nobody listens any more, or until there is nothing more to be
    /// heard. What it has registered it takes back before it returns.
    fn follow(&mut self, report: &Report);
}

/// What is known of the members, and how well. Stops following its source when it is dropped.
pub struct Membership {
    state: Arc<State>,
    /// Goes when the source is to end.
    listening: Mutex<Option<Sender<()>>>,
    /// Ends when the source has.
    ended: Receiver<()>,
}

/// How well the members are known.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The name of the source.
    pub source: &'static str,
    /// How many members there are.
    pub members: usize,
    /// How often they have changed.
    pub changes: u64,
    /// How long ago the source said, or confirmed, who is in. Zero for a source that says it once and for all.
    pub age: Duration,
    /// Why the source can not be heard, and for how long that has been so.
    pub down: Option<(String, Duration)>,
    /// What speaks against the own address.
    pub doubts: Vec<(Doubt, String)>,
}

impl Membership {
    /// Follows `source` on a thread. Until it has said something, the own member is alone.
    ///
    /// # Errors
    ///
    /// The system gave no thread.
    pub fn start(own: Member, mut source: impl Source) -> io::Result<Self> {
        let state = Arc::new(State::new(source.name(), own));
        let (listening, silence) = channel::bounded(0);
        let (ending, ended) = channel::bounded(0);
        let report = Report::new(state.clone(), silence);
        own::watch(&report)?;
        let thread = thread::Builder::new().name("members".to_owned());
        thread.spawn(move || {
            let _ending: Sender<()> = ending;
            if guarded("a source of members", || source.follow(&report)).is_none() {
                report.down(
                    "it has failed in a way that it should not, and is not followed any more",
                );
            }
        })?;
        Ok(Self {
            state,
            listening: Mutex::new(Some(listening)),
            ended,
        })
    }

    /// The own address: the node's identity in each view.
    pub fn own_address(&self) -> &str {
        &self.state.own().address
    }

    /// The newest view. The own member is in it.
    pub fn view(&self) -> Arc<View> {
        self.state.view()
    }

    /// Calls `take` with the view that there is, before this returns, and then with each new one, in their order, on the
    /// thread of the source. `take` must not subscribe in turn.
    pub fn subscribe(&self, take: impl FnMut(Arc<View>) + Send + 'static) {
        self.state.subscribe(Box::new(take));
    }

    /// Waits for the source's first word on who is in. Returns whether it came.
    pub fn wait(&self, patience: Duration) -> bool {
        self.state.wait(Instant::now() + patience)
    }

    /// How well the members are known.
    pub fn standing(&self) -> Standing {
        self.state.standing()
    }

    /// Leaves the cluster: what the source has registered is taken back, and it is not followed any more. The view stays as
    /// it is. Returns whether that was done in time.
    pub fn leave(&self, patience: Duration) -> bool {
        drop(self.listening.lock().take());
        !matches!(
            self.ended.recv_timeout(patience),
            Err(channel::RecvTimeoutError::Timeout)
        )
    }
}

#[cfg(test)]
mod tests;
