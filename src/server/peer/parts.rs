//! Large values for other nodes: what is too large for a link is read in parts from the node that holds it. This is that
//! node's side. Nothing is loaded for a read, so that no read waits for another node.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::wire::{self, Question};
use crate::group::error::Shown;
use crate::group::{Group, Value};
use crate::server::read::Reading;
use crate::server::service::{Code, Service, Status};

/// How long a value that was loaded for another node is there for it, even if it was not kept.
const AT_HAND: Duration = Duration::from_secs(2);
/// How many are.
const AT_HAND_MAX: usize = 64;

/// The checksum of a value that is being sent, and how long it may be kept.
pub(in super::super) struct Seal {
    hasher: crc32fast::Hasher,
    lives_ms: u64,
}

impl Seal {
    pub fn new(key: &[u8], lives_ms: u64) -> Self {
        Self {
            hasher: wire::hasher(key),
            lives_ms,
        }
    }

    pub fn add(&mut self, part: &[u8]) {
        self.hasher.update(part);
    }

    /// The last part.
    pub fn end(self) -> Vec<u8> {
        wire::last_part(self.hasher.finalize(), self.lives_ms)
    }
}

/// Large values that were loaded for other nodes a moment ago. They are about to be read, and may have been evicted by
/// then, or not be for keeping; what else is charged for them stays charged meanwhile.
#[derive(Default)]
pub(super) struct AtHand(Mutex<VecDeque<(Group, Value, Instant)>>);

impl AtHand {
    pub fn put(&self, group: &Group, value: Value, now: Instant) {
        let mut values = self.0.lock();
        if values.len() < AT_HAND_MAX {
            values.push_back((group.clone(), value, now + AT_HAND));
        }
    }

    fn find(&self, group: &Group, key: &[u8]) -> Option<Value> {
        let values = self.0.lock();
        let mut values = values.iter();
        let (_, value, _) = values
            .find(|(of, value, _)| of.name() == group.name() && value.frame().key() == key)?;
        Some(value.clone())
    }

    /// Lets go of those whose time is over. Returns whether there are none left.
    pub fn forget(&self, now: Instant) -> bool {
        let mut values = self.0.lock();
        let over = values.partition_point(|(_, _, until)| *until <= now);
        let over: Vec<_> = values.drain(..over).collect();
        let is_empty = values.is_empty();
        drop(values);
        drop(over);
        is_empty
    }
}

impl Service {
    /// Begins to answer a `Question` that asks for a value in parts.
    pub fn read_for_peer(&self, question: &[u8]) -> Result<Reading, Status> {
        let Question { group, key, .. } = Question::parse_alone(question)?;
        let group = self.group(group)?;
        group.check_key(key)?;
        // It was counted when it was asked for on a link.
        let held = group
            .look(key)
            .or_else(|| self.peers.at_hand.find(group, key));
        let Some(value) = held else {
            let message = format!(
                "key {} of group {:?} is not held here any more",
                Shown(key),
                group.name()
            );
            return Err(Status::new(Code::NotFound, message));
        };
        let lives_ms = group.lives_ms(value.frame().expiry_ns());
        self.read_sealed(group, value, Seal::new(key, lives_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Builder;
    use crate::group::{GroupConfig, Groups, LoadContext, Sink};

    #[test]
    fn what_is_at_hand_is_let_go_of_in_time_and_bounded() {
        let load = |key: &[u8], _: &LoadContext<'_>, sink: &mut Sink| sink.append(key);
        let groups = ["a", "b"].map(|name| GroupConfig::new(name, load));
        let groups = Groups::new(&Builder::new(1 << 20), groups).unwrap();
        let (a, b) = (groups.get("a").unwrap(), groups.get("b").unwrap());
        let (at_hand, now) = (AtHand::default(), Instant::now());
        at_hand.put(a, a.get(b"key").unwrap(), now);
        assert_eq!(*at_hand.find(a, b"key").unwrap(), *b"key");
        assert!(at_hand.find(b, b"key").is_none() && at_hand.find(a, b"other").is_none());
        assert!(!at_hand.forget(now + AT_HAND / 2));
        assert!(at_hand.forget(now + AT_HAND));
        assert!(at_hand.find(a, b"key").is_none());
        for number in 0..2 * AT_HAND_MAX {
            at_hand.put(a, a.get(&number.to_le_bytes()).unwrap(), now);
        }
        assert_eq!(at_hand.0.lock().len(), AT_HAND_MAX);
    }
}
