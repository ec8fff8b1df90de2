//! What was evicted lately: tags of hashes, in a table that forgets the oldest by itself.
//!
//! ```text
//! ghost   | tag, 16 bits | left main, 1 bit | time, 15 bits |      a row is 16 ghosts: one cache line
//! ```
//!
//! A hash chooses a row; a full row loses its oldest ghost. So the table remembers about as many evictions as it has
//! places, some of them a little longer than others. The time is cut to a thousandth of that, and goes round after
//! some thirty times as long, which no ghost lives to see. One stranger in four thousand is taken for a ghost; among
//! more than a million ghosts, where row and tag have bits in common, as many in 2^32 as there are ghosts.

use crate::engine::table::prefetch;

/// Ghosts in a row.
const ROW: usize = 16;
/// In how many steps the table's length in evictions is measured.
const STEPS: u32 = 1024;

const LEFT_MAIN: u32 = 1 << 15;
const TIME: u32 = LEFT_MAIN - 1;
const TAG: u32 = !(LEFT_MAIN | TIME);
/// No ghost, since its time would be 0.
const EMPTY: u32 = 0;

/// What is known of an entry that was evicted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ghost {
    /// Whether it left the main queue, not the small one.
    pub left_main: bool,
    /// How many entries have come since.
    pub age: u32,
}

#[repr(align(64))]
struct Row([u32; ROW]);

#[derive(Default)]
pub struct Ghosts {
    rows: Vec<Row>,
    /// The hash that was evicted last, and its ghost without its tag. It is put in its row when the table is used next: the
    /// row's memory comes meanwhile.
    late: Option<(u32, u32)>,
    /// How many entries come in one step of the time.
    step: u32,
}

impl Ghosts {
    pub const BYTES_A_GHOST: usize = size_of::<u32>();

    /// The heap memory that they take.
    pub fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Row>()
    }

    /// Remembers an eviction, as one of about `count`. A table that has become much too small for that, or much too
    /// large, is begun anew: this happens while a cache fills, when there are no ghosts, and seldom after that.
    pub fn insert(&mut self, hash: u32, left_main: bool, now: u32, count: usize) {
        self.catch_up();
        let rows = count.div_ceil(ROW).max(1);
        if rows > self.rows.len() + self.rows.len() / 4 || rows < self.rows.len() / 4 {
            self.rows.clear();
            self.rows.resize_with(rows, || Row([EMPTY; ROW]));
            self.rows.shrink_to_fit();
            self.step = ((rows * ROW) as u32 / STEPS).max(1);
        }
        let left_main = if left_main { LEFT_MAIN } else { 0 };
        self.late = Some((hash, left_main | self.time(now)));
        self.expect(hash);
    }

    /// A hint: this hash will be asked for soon.
    #[inline]
    pub fn expect(&self, hash: u32) {
        let (row, _) = self.place(hash);
        prefetch(self.rows.as_ptr().wrapping_add(row));
    }

    /// Puts the last ghost in its row.
    #[inline]
    fn catch_up(&mut self) {
        if let Some((hash, ghost)) = self.late.take() {
            let (row, tag) = self.find(hash);
            row[oldest(row, ghost & TIME)] = tag | ghost;
        }
    }

    /// Forgets a ghost; returns what was known of it.
    pub fn take(&mut self, hash: u32, now: u32) -> Option<Ghost> {
        if self.rows.is_empty() {
            return None;
        }
        self.catch_up();
        let (time, step) = (self.time(now), self.step);
        let (row, tag) = self.find(hash);
        let index = matches(row, tag).trailing_zeros() as usize;
        let found = row.get_mut(index)?;
        let ghost = std::mem::replace(found, EMPTY);
        Some(Ghost {
            left_main: ghost & LEFT_MAIN != 0,
            age: (time.wrapping_sub(ghost) & TIME) * step,
        })
    }

    /// At least 1, so that no ghost is [`EMPTY`].
    fn time(&self, now: u32) -> u32 {
        ((now / self.step) & TIME).max(1)
    }

    /// The number of a hash's row, and its tag where a ghost has it.
    #[inline]
    fn place(&self, hash: u32) -> (usize, u32) {
        let mixed = mix(hash);
        let row = (u64::from(mixed) * self.rows.len() as u64) >> 32;
        (row as usize, mixed << 16)
    }

    fn find(&mut self, hash: u32) -> (&mut [u32; ROW], u32) {
        let (row, tag) = self.place(hash);
        (&mut self.rows[row].0, tag)
    }
}

/// A bit for each ghost that has the tag. All are compared, without a branch.
fn matches(row: &[u32; ROW], tag: u32) -> u32 {
    let is_it = |ghost: u32| ghost != EMPTY && ghost & TAG == tag;
    let ghosts = row.iter().enumerate();
    ghosts.fold(0, |bits, (index, &ghost)| {
        bits | u32::from(is_it(ghost)) << index
    })
}

/// Where the oldest ghost is, or none.
fn oldest(row: &[u32; ROW], time: u32) -> usize {
    let age = |ghost: u32| match ghost {
        EMPTY => TIME + 1,
        ghost => time.wrapping_sub(ghost) & TIME,
    };
    let ghosts = row.iter().zip(0..);
    let oldest = ghosts.fold(0, |oldest: u32, (&ghost, index)| {
        oldest.max(age(ghost) * ROW as u32 + index)
    });
    oldest as usize % ROW
}

/// A permutation after which each bit depends on all, however few of a shard's hashes differ (lowbias32, C. Wellons,
/// 2018): so that the rows are filled alike, and those in one row have different tags.
fn mix(hash: u32) -> u32 {
    let hash = (hash ^ hash >> 16).wrapping_mul(0x7feb_352d);
    let hash = (hash ^ hash >> 15).wrapping_mul(0x846c_a68b);
    hash ^ hash >> 16
}

#[cfg(test)]
impl Ghosts {
    /// How many are remembered.
    pub fn len(&mut self) -> usize {
        self.catch_up();
        let ghosts = self.rows.iter().flat_map(|row| row.0);
        ghosts.filter(|&ghost| ghost != EMPTY).count()
    }

    /// Checks every invariant of the table.
    pub fn validate(&self) {
        for &ghost in self.rows.iter().flat_map(|row| &row.0) {
            assert!(ghost == EMPTY || ghost & TIME != 0, "a ghost has no time");
        }
        assert_eq!(self.rows.is_empty(), self.step == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: u64) -> u32 {
        (key.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
    }

    /// Evicts one key at each time, from 0.
    fn evicted(keys: u64, count: usize) -> Ghosts {
        let mut ghosts = Ghosts::default();
        for key in 0..keys {
            ghosts.insert(hash(key), key % 3 == 0, key as u32, count);
        }
        ghosts.validate();
        ghosts
    }

    #[test]
    fn a_ghost_is_taken_once_with_what_is_known_of_it() {
        let mut ghosts = evicted(10, 100);
        assert_eq!(ghosts.len(), 10);
        let ghost = ghosts.take(hash(6), 50).expect("it is among the last ten");
        assert_eq!((ghost.left_main, ghost.age), (true, 44));
        assert!(!ghosts.take(hash(7), 50).expect("the same").left_main);
        assert_eq!(ghosts.take(hash(6), 50), None);
        assert_eq!(ghosts.len(), 8);
    }

    #[test]
    fn what_left_lately_is_remembered_and_what_left_long_ago_is_not() {
        for count in [100, 1000, 100_000] {
            let keys = 10 * count as u64;
            let mut ghosts = evicted(keys, count);
            assert!(ghosts.len() <= count.next_multiple_of(ROW));
            let mut known = |from: u64, to: u64| {
                let keys = from * keys / 1000..to * keys / 1000;
                let (all, now) = (keys.end - keys.start, 10 * count as u32);
                let found = keys.filter(|&key| {
                    let ghost = ghosts.take(hash(key), now);
                    let step = (count as u32 / STEPS).max(1);
                    ghost.is_some_and(|ghost| ghost.age.abs_diff(now - key as u32) <= step)
                });
                found.count() as f64 / all as f64
            };
            assert!(
                known(950, 1000) > 0.95,
                "the last half of what there is room for"
            );
            assert!(known(0, 700) < 0.02, "three times as long ago");
        }
    }

    #[test]
    fn hardly_any_stranger_is_taken_for_a_ghost() {
        let mut ghosts = evicted(20_000, 10_000);
        let strangers =
            (1_000_000..1_100_000).filter(|&key| ghosts.take(hash(key), 20_000).is_some());
        assert!(strangers.count() < 60);
    }

    #[test]
    fn a_shards_hashes_differ_enough_though_they_have_bits_in_common() {
        let mut ghosts = Ghosts::default();
        let of_shard = |key: u64| hash(key) & !(0xff << 8);
        for key in 0..10_000 {
            ghosts.insert(of_shard(key), false, key as u32, 15_000);
        }
        let known = (0..10_000).filter(|&key| ghosts.take(of_shard(key), 10_000).is_some());
        assert!(known.count() > 9_500);
    }
}
