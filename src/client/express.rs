//! Whether a node's express door is open to this client. It answers the same calls for a part of what they cost the node at
//! its front door.
//!
//! A node says at which port it is, and the door that it is there: what lies between client and node may let one port pass
//! and not the other.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Calls by the front door before a node is asked for the other one: who asks for a key or two can do without.
const CALLS_BEFORE: u32 = 8;
/// How long a door that is not there, or has failed, is left alone.
const PAUSE: Duration = Duration::from_secs(30);

/// One node's; `S` is what calls are made with.
pub(super) struct Express<S>(Mutex<State<S>>);

enum State<S> {
    Unknown { calls: u32 },
    Asked,
    Open(S),
    Shut { until: Instant },
}

/// Which way a call goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way<S> {
    Front,
    /// By the front door, and the caller is to find out about the other one.
    Ask,
    Express(S),
}

impl<S> Default for Express<S> {
    fn default() -> Self {
        Self(Mutex::new(State::Unknown { calls: 0 }))
    }
}

impl<S: Clone> Express<S> {
    pub fn way(&self, now: Instant) -> Way<S> {
        let mut state = self.0.lock();
        match &mut *state {
            State::Open(stub) => return Way::Express(stub.clone()),
            State::Unknown { calls } if *calls < CALLS_BEFORE => {
                *calls += 1;
                return Way::Front;
            }
            State::Asked => return Way::Front,
            State::Shut { until } if *until > now => return Way::Front,
            State::Unknown { .. } | State::Shut { .. } => {}
        }
        *state = State::Asked;
        Way::Ask
    }

    /// What calls are made with there, if it is open.
    pub fn stub(&self) -> Option<S> {
        match &*self.0.lock() {
            State::Open(stub) => Some(stub.clone()),
            _ => None,
        }
    }

    /// It has answered.
    pub fn open(&self, stub: S) {
        *self.0.lock() = State::Open(stub);
    }

    /// It is not there, or has failed.
    pub fn shut(&self, now: Instant) {
        *self.0.lock() = State::Shut { until: now + PAUSE };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_is_asked_for_once_and_left_alone_when_it_has_failed() {
        let (express, start) = (Express::default(), Instant::now());
        for _ in 0..CALLS_BEFORE {
            assert_eq!(express.way(start), Way::Front);
        }
        assert_eq!(express.way(start), Way::Ask);
        assert_eq!(express.way(start), Way::Front, "who asks has no answer yet");
        express.open("door");
        assert_eq!(express.way(start), Way::Express("door"));
        express.shut(start);
        let almost = start + PAUSE - Duration::from_millis(1);
        assert_eq!(express.way(almost), Way::Front);
        assert_eq!(express.way(start + PAUSE), Way::Ask);
        assert_eq!(express.way(start + PAUSE), Way::Front);
    }
}
