//! What a source has said, kept for those who ask and told to those who listen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use parking_lot::{Condvar, Mutex};

use super::{Doubt, Standing};
use crate::cluster::{Member, View};
use crate::engine::guarded;

/// Members that a line of the log names at the most.
const NAMED_MAX: usize = 16;

/// Where a source tells what it hears.
#[derive(Clone)]
pub struct Report {
    state: Arc<State>,
    silence: Receiver<()>,
}

impl Report {
    pub(super) fn new(state: Arc<State>, silence: Receiver<()>) -> Self {
        Self { state, silence }
    }

    /// The own member, as it was configured.
    pub fn own(&self) -> &Member {
        &self.state.own
    }

    /// These are the members now, the own one whether it is among them or not. What is no view counts as silence.
    pub fn members(&self, members: Vec<Member>) {
        self.state.take(members, Some(Instant::now()));
    }

    /// The same, and it stays so.
    pub fn once_and_for_all(&self, members: Vec<Member>) {
        self.state.take(members, None);
    }

    /// The members are still those that were told last.
    pub fn confirm(&self) {
        let mut heard = self.state.heard.lock();
        heard.confirmed = Some(Instant::now());
        self.state.up(&mut heard);
    }

    /// The source can not be heard. The view stays.
    pub fn down(&self, why: &str) {
        self.state.down(why);
    }

    /// Something speaks against the own address; or nothing does any more.
    pub fn doubt(&self, doubt: Doubt, words: Option<String>) {
        self.state.doubt(doubt, words);
    }

    /// Waits. Returns false, at once, if nobody listens any more.
    pub fn pause(&self, time: Duration) -> bool {
        self.silence.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
    }

    /// Disconnected when nobody listens any more: for a source that waits for something else too.
    pub fn silence(&self) -> &Receiver<()> {
        &self.silence
    }
}

type Subscriber = Box<dyn FnMut(Arc<View>) + Send>;

pub(super) struct State {
    source: &'static str,
    own: Member,
    /// Locked before `heard` by who changes the view, so that all subscribers see all views in one order.
    subscribers: Mutex<Vec<Subscriber>>,
    heard: Mutex<Heard>,
    first: Condvar,
}

struct Heard {
    view: Arc<View>,
    /// Whether the source has said who is in.
    any: bool,
    changes: u64,
    /// None for a source that says it once.
    confirmed: Option<Instant>,
    down: Option<(String, Instant)>,
    doubts: BTreeMap<Doubt, String>,
}

impl State {
    pub fn new(source: &'static str, own: Member) -> Self {
        let alone = View::new(vec![own.clone()]).unwrap_or_default();
        let heard = Heard {
            view: Arc::new(alone),
            any: false,
            changes: 0,
            confirmed: Some(Instant::now()),
            down: None,
            doubts: BTreeMap::new(),
        };
        Self {
            source,
            own,
            subscribers: Mutex::default(),
            heard: Mutex::new(heard),
            first: Condvar::new(),
        }
    }

    pub fn own(&self) -> &Member {
        &self.own
    }

    pub fn view(&self) -> Arc<View> {
        self.heard.lock().view.clone()
    }

    pub fn subscribe(&self, mut take: Subscriber) {
        let mut subscribers = self.subscribers.lock();
        take(self.view());
        subscribers.push(take);
    }

    pub fn wait(&self, deadline: Instant) -> bool {
        let mut heard = self.heard.lock();
        while !heard.any {
            if self.first.wait_until(&mut heard, deadline).timed_out() {
                return heard.any;
            }
        }
        true
    }

    pub fn standing(&self) -> Standing {
        let heard = self.heard.lock();
        let down = heard.down.as_ref();
        Standing {
            source: self.source,
            members: heard.view.members().len(),
            changes: heard.changes,
            age: heard
                .confirmed
                .map_or(Duration::ZERO, |last| last.elapsed()),
            down: down.map(|(why, since)| (why.clone(), since.elapsed())),
            doubts: heard
                .doubts
                .iter()
                .map(|(doubt, words)| (*doubt, words.clone()))
                .collect(),
        }
    }

    fn take(&self, mut members: Vec<Member>, confirmed: Option<Instant>) {
        if !members
            .iter()
            .any(|member| member.address == self.own.address)
        {
            members.push(self.own.clone());
        }
        let view = match View::new(members) {
            Ok(view) => Arc::new(view),
            Err(error) => return self.down(&error.to_string()),
        };
        self.doubt(Doubt::Loopback, Doubt::loopback(&self.own, &view));
        let mut subscribers = self.subscribers.lock();
        let mut heard = self.heard.lock();
        heard.confirmed = confirmed;
        heard.any = true;
        self.first.notify_all();
        self.up(&mut heard);
        let before = std::mem::replace(&mut heard.view, view.clone());
        if before == view {
            return;
        }
        heard.changes += 1;
        drop(heard);
        let count = view.members().len();
        log::info!(
            "members: {count}, by {}{}",
            self.source,
            Change(&before, &view)
        );
        for subscriber in subscribers.iter_mut() {
            guarded("who follows the members", || subscriber(view.clone()));
        }
    }

    fn up(&self, heard: &mut Heard) {
        if let Some((_, since)) = heard.down.take() {
            let seconds = since.elapsed().as_secs();
            log::info!("members: {} is heard again, after {seconds} s", self.source);
        }
    }

    fn down(&self, why: &str) {
        let mut heard = self.heard.lock();
        let kept = heard.view.members().len();
        match &mut heard.down {
            Some((known, _)) if known == why => return,
            Some((known, _)) => why.clone_into(known),
            none => *none = Some((why.to_owned(), Instant::now())),
        }
        log::warn!(
            "members: {}: {why}; the last view is kept, members: {kept}",
            self.source
        );
    }

    fn doubt(&self, doubt: Doubt, words: Option<String>) {
        let mut heard = self.heard.lock();
        let own = &self.own.address;
        match words {
            None if heard.doubts.remove(&doubt).is_some() => {
                log::info!(
                    "the doubt about the own address {own} is gone: {}",
                    doubt.name()
                );
            }
            None => {}
            Some(words) if heard.doubts.get(&doubt) == Some(&words) => {}
            Some(words) => {
                log::warn!("the own address {own} may be wrong: {words}");
                heard.doubts.insert(doubt, words);
            }
        }
    }
}

/// What has changed from one view to the next, in words.
struct Change<'a>(&'a View, &'a View);

impl std::fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Change(before, after) = self;
        let not_in = |of: &View, other: &View| -> Vec<Member> {
            let new = |member: &&Member| other.position(&member.address).is_none();
            of.members().iter().filter(new).cloned().collect()
        };
        let is_other = |member: &&Member| {
            let known = before.position(&member.address);
            known.is_some_and(|known| before.members()[known] != **member)
        };
        let changed: Vec<Member> = after.members().iter().filter(is_other).cloned().collect();
        let parts = [
            ("joined", not_in(after, before)),
            ("left", not_in(before, after)),
            ("changed", changed),
        ];
        for (word, members) in parts {
            if members.is_empty() {
                continue;
            }
            write!(f, "; {word}:")?;
            for member in members.iter().take(NAMED_MAX) {
                write!(f, " {member}")?;
            }
            if members.len() > NAMED_MAX {
                write!(f, " and {} more", members.len() - NAMED_MAX)?;
            }
        }
        Ok(())
    }
}
