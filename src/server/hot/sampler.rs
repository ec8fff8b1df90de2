//! Which requests are looked at: one in so many, by steps of random size, so that requests that come in a pattern are
//! sampled as others are.

use std::cell::Cell;

use super::SAMPLED;

struct Sampler {
    /// Requests up to the next one that is looked at, that one counted.
    left: Cell<u32>,
    random: Cell<u32>,
}

thread_local! {
    static SAMPLER: Sampler = const {
        Sampler {
            left: Cell::new(SAMPLED),
            random: Cell::new(0x9e37_79b9),
        }
    };
}

/// Goes over so many requests of this thread. If one of them is to be looked at, returns its index, and has gone no
/// further than that.
#[inline]
pub(super) fn skip(requests: usize) -> Option<usize> {
    SAMPLER.with(|sampler| {
        let left = sampler.left.get();
        if left as usize > requests {
            sampler.left.set(left - requests as u32);
            return None;
        }
        sampler.step();
        Some(left as usize - 1)
    })
}

impl Sampler {
    #[cold]
    fn step(&self) {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        self.random.set(random);
        // From 1 to 127, all as likely but for one in millions.
        self.left.set(1 + random % (2 * SAMPLED - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_in_so_many_is_looked_at() {
        const REQUESTS: usize = 1_000_000;
        let one_by_one = (0..REQUESTS).filter(|_| skip(1).is_some()).count();
        let (mut in_batches, mut left) = (0, REQUESTS);
        while left > 0 {
            let mut batch = left.min(100);
            left -= batch;
            while let Some(index) = skip(batch) {
                in_batches += 1;
                batch -= index + 1;
            }
        }
        let expected = REQUESTS / SAMPLED as usize;
        for sampled in [one_by_one, in_batches] {
            assert!(sampled.abs_diff(expected) < expected / 20, "{sampled}");
        }
    }

    #[test]
    fn requests_in_a_pattern_are_sampled_evenly() {
        let mut sampled = [0; 64];
        for request in 0..640_000 {
            sampled[request % 64] += usize::from(skip(1).is_some());
        }
        assert!(
            sampled.iter().all(|&times| (90..230).contains(&times)),
            "{sampled:?}"
        );
    }
}
