//! Which streams a client has ever opened (RFC 9113, 5.1.1): all up to the last, but those that it has skipped.

use std::collections::VecDeque;

/// Gaps that are remembered. Clients count by two, so there are hardly any.
const GAPS_MAX: usize = 16;

#[derive(Default)]
pub(super) struct Opened {
    last: u32,
    /// First and last of the numbers that were skipped.
    gaps: VecDeque<(u32, u32)>,
}

impl Opened {
    pub fn last(&self) -> u32 {
        self.last
    }

    /// A stream that is higher than all before.
    pub fn open(&mut self, id: u32) {
        if id > self.last + 2 && !(self.last == 0 && id == 1) {
            if self.gaps.len() == GAPS_MAX {
                self.gaps.pop_front();
            }
            self.gaps.push_back((self.last + 1, id - 1));
        }
        self.last = id;
    }

    /// This number has been passed over, and is closed without ever having been open.
    pub fn was_skipped(&self, id: u32) -> bool {
        self.gaps
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_passed_over_is_known() {
        let mut opened = Opened::default();
        for id in [1, 3, 9, 11] {
            opened.open(id);
        }
        let skipped: Vec<u32> = (1..=11)
            .step_by(2)
            .filter(|id| opened.was_skipped(*id))
            .collect();
        assert_eq!(skipped, [5, 7]);
        let mut opened = Opened::default();
        opened.open(5);
        assert!(opened.was_skipped(1) && opened.was_skipped(3) && !opened.was_skipped(5));
        for id in (101..10_000).step_by(4) {
            opened.open(id);
        }
        assert!(opened.gaps.len() <= GAPS_MAX && opened.was_skipped(9_995));
    }
}
