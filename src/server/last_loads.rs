//! How the loads of keys have ended, of the keys that were loaded last.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::group::ErrorKind;

/// Loads that are remembered at the most. A new one takes the place of another.
const PLACES: usize = 8192;

/// A load that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastLoad {
    pub ended: Instant,
    pub took: Duration,
    pub outcome: Result<(), ErrorKind>,
}

/// A load, with the hash of its key.
type Place = Mutex<Option<(u64, LastLoad)>>;

/// A place for each load, by the hash of its key. What is at the place of another key's is not shown.
pub(super) struct LastLoads {
    places: Box<[Place]>,
    hasher: ahash::RandomState,
}

impl LastLoads {
    pub fn new() -> Self {
        Self {
            places: (0..PLACES).map(|_| Mutex::new(None)).collect(),
            hasher: ahash::RandomState::new(),
        }
    }

    pub fn hash(&self, group: &str, key: &[u8]) -> u64 {
        self.hasher.hash_one((group, key))
    }

    pub fn note(&self, hash: u64, load: LastLoad) {
        *self.place(hash).lock() = Some((hash, load));
    }

    /// The last load of the key with this hash, unless it was forgotten.
    pub fn last(&self, hash: u64) -> Option<LastLoad> {
        let place = *self.place(hash).lock();
        place.and_then(|(of, load)| (of == hash).then_some(load))
    }

    fn place(&self, hash: u64) -> &Place {
        &self.places[hash as usize % PLACES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_load_of_a_key_is_remembered_until_its_place_is_taken() {
        let loads = LastLoads::new();
        let load = |outcome| LastLoad {
            ended: Instant::now(),
            took: Duration::ZERO,
            outcome,
        };
        let [one, other] = [loads.hash("a", b"bc"), loads.hash("ab", b"c")];
        assert_ne!(one, other);
        assert!(loads.last(one).is_none());
        loads.note(one, load(Err(ErrorKind::NotFound)));
        loads.note(one, load(Ok(())));
        assert_eq!(loads.last(one).unwrap().outcome, Ok(()));
        loads.note(one + PLACES as u64, load(Ok(())));
        assert!(loads.last(one).is_none());
    }
}
