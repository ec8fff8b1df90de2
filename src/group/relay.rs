//! Loads that another process is asked for: they stay with who asks it until its answer is there, and a loader's thread
//! takes no part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::ErrorKind;
use super::filling::{Filling, Room};
use super::load::PendingLoad;
use super::{GetError, Group, LoadError, Value, frame};
use crate::engine::{Blob, BlobBuilder, Bytes, Charge, Failure, Full, Lead, Loaded};

/// What is smaller is copied into the replies; those who wait for it are bounded.
const SMALL_BYTES: usize = 4096;

/// Why another process has no value, in its own words, which name group and key.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Relayed {
    pub kind: ErrorKind,
    pub message: String,
}

/// What becomes of a value of another process once those who wait have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    No,
    For(Duration),
    /// As one that was loaded here and does not expire.
    Always,
}

/// The key is being loaded, but by another process.
pub(crate) struct Elsewhere;

impl Group {
    /// As [`Group::ask_by`], for another process that asks: what is loaded by yet another one is not waited for.
    pub(crate) fn ask_here(
        &self,
        key: &[u8],
        deadline: Option<Instant>,
        answer: impl FnOnce(Result<Value, GetError>) + Send + 'static,
    ) -> Result<Option<PendingLoad>, Elsewhere> {
        self.join_by(key, deadline, answer, |flight| flight.keep_here())
            .map_err(|_| Elsewhere)
    }
}

/// A value of another process that comes in parts.
pub(crate) struct Incoming {
    value: Filling,
}

impl Incoming {
    pub fn len(&self) -> usize {
        self.value.len()
    }

    pub fn append(&mut self, part: &[u8]) -> Result<(), LoadError> {
        self.value.append(part)
    }
}

impl Group {
    /// Its place among the groups, from 0.
    pub(crate) fn number(&self) -> u16 {
        self.inner.partition
    }

    /// Stored frames that are held and so hot, from 0 to 3, in no order.
    pub(crate) fn as_hot_as(&self, counter: u8) -> impl Iterator<Item = Blob> {
        let held = self.inner.cache.iter_in(self.inner.partition);
        held.filter(move |blob| blob.counter() == counter)
    }

    /// How long an entry may be served still, in milliseconds; 0 for one that does not expire.
    pub(crate) fn lives_ms(&self, expiry_ns: Option<u64>) -> u64 {
        let clock = &self.inner.cache.core().clock;
        expiry_ns.map_or(0, |expiry_ns| {
            (clock.until(expiry_ns).as_millis() as u64).max(1)
        })
    }
}

impl PendingLoad {
    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    pub(crate) fn key(&self) -> &[u8] {
        let parked = self.parked.as_ref();
        parked.map_or(b"", |parked| &parked.flight().key().1)
    }

    /// Until when some of those who have asked so far wait for it.
    pub(crate) fn wanted_until(&self) -> Instant {
        let parked = self.parked.as_ref();
        let until = parked.and_then(|parked| parked.flight().wanted_until());
        until.unwrap_or(self.deadline).min(self.deadline)
    }

    /// Whether another process may be asked for it: not if one waits for it already.
    pub(crate) fn send_away(&self) -> bool {
        let parked = self.parked.as_ref();
        parked.is_some_and(|parked| parked.flight().send_away())
    }

    /// It is to be run here after all, and its value kept for so long if a time is given.
    pub(crate) fn take_back(&mut self, keep: Option<Duration>) {
        self.keep = keep;
        if let Some(parked) = &self.parked {
            parked.flight().take_back();
        }
    }

    /// Ends it with a stored frame that came from elsewhere, on a thread that does not block. It comes back if it is not to
    /// be kept, and there is no room for it beside the cache.
    pub(crate) fn fulfil(mut self, stored: &[u8], keep: Keep) -> Result<(), Self> {
        debug_assert!(frame::is_valid(stored), "it was looked at");
        let charge = match keep {
            Keep::No if stored.len() > SMALL_BYTES => self.charge(stored.len()),
            _ => Ok(None),
        };
        let Ok(charge) = charge else { return Err(self) };
        let Some(lead) = self.claim() else {
            return Ok(());
        };
        let mut value = BlobBuilder::new(&lead.flight().key().1, 0);
        if let Some(charge) = charge {
            value.set_charge(charge);
        }
        value.reserve(stored.len());
        value.extend(stored);
        self.conclude(lead, value, b"", keep);
        Ok(())
    }

    /// Room for a value of so many bytes that is to come in parts, if there is so much now.
    pub(crate) fn room_for(&self, value_bytes: usize) -> Option<Room> {
        let large = self.group.inner.large.as_ref()?;
        Room::take(&large.account, large.charged_bytes(value_bytes))
    }

    /// A value of so many bytes, whose parts are to come, in the room that was taken for it.
    pub(crate) fn begin(&self, value_bytes: usize, room: Room) -> Result<Incoming, LoadError> {
        let large = self.group.inner.large.clone();
        let mut value = Filling::with_room(self.key(), large, Some(room));
        value.expect(value_bytes)?;
        Ok(Incoming { value })
    }

    /// Ends it with a value that has come in parts, as [`PendingLoad::fulfil`] does.
    pub(crate) fn fulfil_with(mut self, value: Incoming, keep: Keep) {
        if let Some(lead) = self.claim() {
            let (value, prefix, used) = value.value.finish();
            self.conclude(lead, value, &prefix[..used], keep);
        }
    }

    fn conclude(&self, lead: Lead<Bytes>, value: BlobBuilder, prefix: &[u8], keep: Keep) {
        let inner = &self.group.inner;
        let core = inner.cache.core();
        let mut facts = inner.cache.facts(inner.partition, &lead.flight().key().1);
        if let Keep::For(keep) = keep {
            facts.expiry_ns = core.clock.expiry_after(keep);
        }
        let entry = inner.cache.seal(value, &facts, prefix);
        let stored = keep != Keep::No;
        // The outcome reaches the callers by the flight.
        let _ = core.conclude_soon(lead, Ok(Loaded { entry, stored }));
    }

    /// Until when a value that began to come then is waited for: it has as much time as a load has.
    pub(crate) fn may_come_until(&self, begun: Instant) -> Instant {
        let at_least = begun + self.group.inner.load_least;
        self.wanted_until().max(at_least).min(self.deadline)
    }

    /// For a value that no budget counts, as it is not kept, and that those who wait may read slowly.
    fn charge(&self, bytes: usize) -> Result<Option<Box<Charge>>, Full> {
        let Some(large) = &self.group.inner.large else {
            return Ok(None);
        };
        let mut charge = large.account.open();
        charge.set(bytes)?;
        Ok(Some(charge))
    }

    /// Ends it with what another process said.
    pub(crate) fn fail(mut self, relayed: Relayed) {
        if let Some(lead) = self.claim() {
            lead.finish(Err(Failure::Failed(Arc::new(relayed))));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::engine::Builder;
    use crate::group::{GroupConfig, Groups, LoadContext, LoadError, Sink};

    const BUDGET_BYTES: usize = 4 << 20;

    type Answers = Receiver<Result<Value, GetError>>;

    fn groups() -> Groups {
        let load = |_: &[u8], _: &LoadContext<'_>, _: &mut Sink| {
            Err(LoadError::Other("this process loads nothing".into()))
        };
        let config = GroupConfig::new("pages", load).chunks_over(1 << 20);
        Groups::new(&Builder::new(BUDGET_BYTES), [config]).unwrap()
    }

    fn ask(groups: &Groups, key: &[u8]) -> (Option<PendingLoad>, Answers) {
        let (answer, answers) = channel();
        let pages = groups.get("pages").unwrap();
        let load = pages.ask(key, move |value| drop(answer.send(value)));
        (load, answers)
    }

    fn stored(value: &[u8]) -> Vec<u8> {
        let (prefix, used) = frame::prefix(value.len());
        [&prefix[..used], value].concat()
    }

    #[test]
    fn what_comes_from_elsewhere_goes_to_all_who_wait_and_is_kept_if_it_is_to_be() {
        for keep in [Keep::No, Keep::For(Duration::from_secs(60)), Keep::Always] {
            let groups = groups();
            let (load, first) = ask(&groups, b"key");
            let (joined, second) = ask(&groups, b"key");
            assert!(joined.is_none(), "one load a key");
            assert!(load.unwrap().fulfil(&stored(b"value"), keep).is_ok());
            for answers in [first, second] {
                assert_eq!(*answers.recv().unwrap().unwrap(), *b"value");
            }
            let pages = groups.get("pages").unwrap();
            pages.flush();
            let held = pages.held(b"key").map(|value| value.to_vec());
            assert_eq!(held.is_some(), keep != Keep::No);
            assert!(held.is_none_or(|held| held == *b"value"));
            assert_eq!(pages.stats().loads, 0, "nothing was loaded here");
        }
    }

    #[test]
    fn a_value_is_kept_no_longer_than_it_is_to_be() {
        let groups = groups();
        let (load, answers) = ask(&groups, b"key");
        let keep = Keep::For(Duration::ZERO);
        assert!(load.unwrap().fulfil(&stored(b"value"), keep).is_ok());
        answers.recv().unwrap().unwrap();
        let pages = groups.get("pages").unwrap();
        pages.flush();
        assert!(pages.held(b"key").is_none());
    }

    #[test]
    fn another_process_is_not_made_to_wait_for_a_third_one() {
        let groups = groups();
        let pages = groups.get("pages").unwrap();
        let (load, _answers) = ask(&groups, b"away");
        let mut load = load.unwrap();
        assert!(load.send_away());
        assert!(pages.ask_here(b"away", None, |_| ()).is_err());
        load.take_back(None);
        assert!(
            pages
                .ask_here(b"away", None, |_| ())
                .is_ok_and(|load| load.is_none())
        );

        let load = pages.ask_here(b"here", None, |_| ()).ok().flatten();
        assert!(!load.unwrap().send_away(), "another process waits for it");

        // The other one came when nothing was decided yet.
        let (load, _answers) = ask(&groups, b"both");
        assert!(pages.ask_here(b"both", None, |_| ()).is_ok());
        assert!(!load.unwrap().send_away());
    }

    #[test]
    fn the_words_of_another_process_come_as_they_are() {
        let groups = groups();
        let (load, answers) = ask(&groups, b"key");
        load.unwrap().fail(Relayed {
            kind: ErrorKind::NotFound,
            message: "no key \"key\" in group \"pages\": gone".to_owned(),
        });
        let error = answers.recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "no key \"key\" in group \"pages\": gone");
    }

    /// In parts or not, it is stored as a value that was loaded here.
    #[test]
    fn a_value_that_comes_in_parts_is_stored_as_one_that_was_loaded() {
        const LEN: usize = (2 << 20) + 77;
        let value: Vec<u8> = (0..LEN).map(|at| (at ^ (at >> 11)) as u8).collect();
        let load = {
            let value = value.clone();
            move |_: &[u8], _: &LoadContext<'_>, sink: &mut Sink| sink.append(&value)
        };
        let config = GroupConfig::new("pages", load).chunks_over(1 << 20);
        let groups = Groups::new(&Builder::new(64 << 20), [config]).unwrap();
        let pages = groups.get("pages").unwrap();
        let loaded = pages.get(b"loaded").unwrap();
        for keep in [Keep::No, Keep::Always] {
            let (load, answers) = ask(&groups, b"came");
            let load = load.unwrap();
            let room = load.room_for(LEN).unwrap();
            assert!(groups.loading_bytes() >= LEN);
            let mut coming = load.begin(LEN, room).unwrap();
            for part in value.chunks(300_000) {
                coming.append(part).unwrap();
            }
            load.fulfil_with(coming, keep);
            let came = answers.recv().unwrap().unwrap();
            assert!(**came.frame() == **loaded.frame());
            pages.flush();
            assert_eq!(pages.held(b"came").is_some(), keep == Keep::Always);
            // Beside the budget as long as it is read, or in it.
            assert_eq!(groups.loading_bytes() >= LEN, keep == Keep::No);
        }
        assert_eq!(groups.loading_bytes(), 0);
    }

    /// A quarter of the budget may be read that is not kept; what comes then is to be loaded here, until some has been
    /// read.
    #[test]
    fn what_is_read_and_not_kept_is_bounded() {
        let groups = groups();
        let value = stored(&vec![7; 100_000]);
        let mut held = Vec::new();
        let (load, answers) = loop {
            let key = format!("{}", held.len());
            let (load, answers) = ask(&groups, key.as_bytes());
            match load.unwrap().fulfil(&value, Keep::No) {
                Ok(()) => held.push(answers.recv().unwrap().unwrap()),
                Err(load) => break (load, answers),
            }
        };
        let bytes = held.len() * value.len();
        assert!(
            (BUDGET_BYTES / 8..=BUDGET_BYTES).contains(&bytes),
            "{bytes}"
        );
        // One that is kept is in the budget.
        let load = load.fulfil(&value, Keep::For(Duration::from_secs(60)));
        assert!(load.is_ok() && answers.recv().unwrap().is_ok());
        held.clear();
        let (load, answers) = ask(&groups, b"more");
        assert!(load.unwrap().fulfil(&value, Keep::No).is_ok());
        assert!(answers.recv().unwrap().is_ok());
    }
}
