//! What goes wrong with an origin, for the log: callers are told less.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::http::Uri;

use super::address::Site;
use crate::group::LoadError;
use crate::group::error::Shown;

/// How often the log is told.
const EVERY: Duration = Duration::from_secs(1);

/// A load that failed.
#[derive(Debug)]
pub(super) struct Failed {
    /// What callers are told.
    pub error: LoadError,
    /// What only the log is told, if anything.
    pub details: String,
}

impl From<LoadError> for Failed {
    fn from(error: LoadError) -> Self {
        Self {
            error,
            details: String::new(),
        }
    }
}

/// Tells the log, seldom enough that an origin which is down does not fill it.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    /// Failures since then.
    untold: u64,
}

impl Complaints {
    /// Logs that `key` could not be had from the host of `uri`, if that is the origin's doing.
    pub fn log(&self, group: &str, key: &[u8], uri: &Uri, failed: &Failed) {
        let Failed { error, details } = failed;
        if !is_of_origin(error) {
            return;
        }
        let Some(untold) = self.0.lock().turn(Instant::now()) else {
            return;
        };
        let site = Site::of(uri).map_or_else(|_| "no host".to_owned(), |site| site.to_string());
        let colon = if details.is_empty() { "" } else { ": " };
        let others = match untold {
            0 => String::new(),
            _ => format!(" (and {untold} other loads since the last such line)"),
        };
        log::warn!(
            "group {group:?}, key {}: {error} ({site}){colon}{details}{others}",
            Shown(key)
        );
    }
}

impl Told {
    /// Whether it is time for a line; if so, how many have had none.
    fn turn(&mut self, now: Instant) -> Option<u64> {
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < EVERY)
        {
            self.untold += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// Whether somebody should look after the origin, and not after the key, the value's size or the node's own limits.
fn is_of_origin(error: &LoadError) -> bool {
    matches!(
        error,
        LoadError::Unavailable(_)
            | LoadError::TimedOut(_)
            | LoadError::Refused(_)
            | LoadError::Other(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_second_counts_those_without_one() {
        let mut told = Told::default();
        let start = Instant::now();
        assert_eq!(told.turn(start), Some(0));
        assert_eq!(told.turn(start), None);
        assert_eq!(told.turn(start + EVERY / 2), None);
        assert_eq!(told.turn(start + EVERY), Some(2));
        assert_eq!(told.turn(start + 3 * EVERY), Some(0));
    }

    #[test]
    fn keys_that_are_not_there_are_no_complaint() {
        assert!(is_of_origin(&LoadError::Refused(String::new())));
        assert!(!is_of_origin(&LoadError::NotFound(String::new())));
        assert!(!is_of_origin(&LoadError::TooLarge(String::new())));
    }
}
