//! What a member draws for a slot: the lowest bid owns it.
//!
//! Each member draws a number of 32 bits for each slot, from its address and the slot alone. With `x` that number over 2^32,
//! it bids `-log2(1 - x) / weight`: an exponential variable whose rate is the weight, so that a member bids least with the
//! probability of its weight over the sum of all (weighted rendezvous hashing). What others draw changes nothing in it, so a
//! join or a leave moves no slot between two members that stay.
//!
//! A member's draws are no independent numbers but a shuffle: the upper 20 bits take each value once. So no member is lucky
//! or unlucky in its draws, only in those that they meet, and of the variance of the members' shares one half is gone.
//!
//! All of it is in integers, so that every machine comes to the same result.

use twox_hash::XxHash3_64;

use super::Member;
use super::slot::SLOT_BITS;

/// What of a member goes into its draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drawer {
    /// Parts of the hash of its address: two of 20 bits, and one of 32.
    keys: [u32; 3],
    /// 2^64 - 1 over its weight: other weights, other prices.
    price: u64,
}

/// What a member offers for a slot. No two are equal: draws may be rounded to one cost, and members may draw the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bid {
    /// In units of 2^-96.
    cost: u128,
    draw: u32,
    /// Of the member in its view, which is in the order of addresses.
    position: u16,
}

impl Drawer {
    pub(super) fn new(member: &Member) -> Self {
        let id = XxHash3_64::oneshot(member.address.as_bytes());
        Self {
            keys: [(id >> 44) as u32, (id >> 24) as u32 & SLOT_MASK, id as u32],
            price: u64::MAX / u64::from(member.weight),
        }
    }

    pub(super) fn price(&self) -> u64 {
        self.price
    }

    /// What it draws for a slot. Of members with one price, who draws least bids least.
    #[inline]
    pub(super) fn draw(&self, slot: u32) -> u32 {
        self.draw_shuffled(shuffled(slot))
    }

    /// The same for a slot that was [`shuffled`] before: once for all members.
    #[inline(always)]
    pub(super) fn draw_shuffled(&self, shuffled: u32) -> u32 {
        let [first, second, third] = self.keys;
        let x = shuffle(shuffled ^ first, 0x7feb_352d, 10);
        let x = shuffle(x.wrapping_add(second) & SLOT_MASK, 0x846c_a68b, 11);
        let x = x.wrapping_add(third).wrapping_mul(0xac4c_1b51);
        // The lower 20 bits are the shuffled ones. What is above them decides between members that have those in common.
        x.rotate_left(u32::BITS - SLOT_BITS)
    }

    /// What it bids, at its position, with this draw.
    #[inline]
    pub(super) fn bid(&self, position: u16, draw: u32) -> Bid {
        Bid {
            cost: u128::from(exponential(draw)) * u128::from(self.price),
            draw,
            position,
        }
    }

    /// The same, if it is below `best`. That most are not is seen without a logarithm, which is no less than the draw.
    #[inline]
    pub(super) fn bid_below(&self, best: &Bid, position: u16, draw: u32) -> Option<Bid> {
        match u128::from(draw) * u128::from(self.price) > best.cost {
            true => None,
            false => Some(self.bid(position, draw)).filter(|bid| bid < best),
        }
    }
}

impl Bid {
    /// Above all that are made.
    pub(super) const NONE: Self = Self {
        cost: u128::MAX,
        draw: u32::MAX,
        position: u16::MAX,
    };

    pub(super) fn position(&self) -> u16 {
        self.position
    }

    /// `-log2(1 - x) / weight`, for people.
    pub(super) fn cost(&self) -> f64 {
        self.cost as f64 / 2f64.powi(96)
    }
}

const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;

/// The part of all members' draws that is the same.
#[inline]
pub(super) fn shuffled(slot: u32) -> u32 {
    shuffle(slot, 0x9e37_79b1, 10)
}

/// A permutation of the numbers of 20 bits, since the factor is odd.
#[inline(always)]
fn shuffle(x: u32, factor: u32, shift: u32) -> u32 {
    let x = x.wrapping_mul(factor) & SLOT_MASK;
    x ^ (x >> shift)
}

/// `-log2(1 - draw / 2^32)` in units of 2^-32: never falls as draws grow, and is no less than the draw.
#[inline]
fn exponential(draw: u32) -> u64 {
    let rest = (1 << 32) - u64::from(draw);
    let whole = rest.ilog2();
    let fraction = (rest << (32 - whole)) & u64::from(u32::MAX);
    let (step, part) = (
        (fraction >> PART_BITS) as usize,
        fraction & ((1 << PART_BITS) - 1),
    );
    let (low, high) = (LOG2[step], LOG2[step + 1]);
    let log2 = low + (((high - low) * part) >> PART_BITS);
    (32 << 32) - ((u64::from(whole) << 32) + log2)
}

const STEP_BITS: u32 = 11;
const PART_BITS: u32 = 32 - STEP_BITS;

/// `log2(1 + i / 2^11)` in units of 2^-32, rounded down; in between, the chord, which lies below the curve.
static LOG2: [u64; (1 << STEP_BITS) + 1] = {
    let mut table = [0; (1 << STEP_BITS) + 1];
    let mut step = 0;
    while step < 1 << STEP_BITS {
        table[step] = log2(((1 << STEP_BITS) + step as u64) << (63 - STEP_BITS));
        step += 1;
    }
    table[1 << STEP_BITS] = 1 << 32;
    table
};

/// The logarithm of a number from 1 to 2, which is in units of 2^-63: each squaring shows a binary digit of it.
const fn log2(number: u64) -> u64 {
    let mut square = number as u128;
    let mut digits = 0;
    let mut left = 32;
    while left > 0 {
        square = (square * square) >> 63;
        let digit = square >> 64;
        square >>= digit;
        digits = digits << 1 | digit as u64;
        left -= 1;
    }
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drawer(address: &str, weight: u32) -> Drawer {
        Drawer::new(&Member {
            weight,
            ..Member::new(address)
        })
    }

    #[test]
    fn the_logarithm_is_one() {
        for (step, &log2) in LOG2.iter().enumerate() {
            let exact = (1.0 + step as f64 / f64::from(1 << STEP_BITS)).log2() * 2f64.powi(32);
            assert!(
                (exact - 1.01..=exact + 0.01).contains(&(log2 as f64)),
                "{step}"
            );
        }
        assert_eq!(exponential(0), 0);
        assert_eq!(exponential(1 << 31), 1 << 32);
        assert_eq!(exponential(u32::MAX), 32 << 32);
    }

    #[test]
    fn the_draws_of_a_member_are_a_shuffle() {
        let drawer = drawer("a:1", 1);
        let mut seen = vec![false; 1 << SLOT_BITS];
        (0..1 << SLOT_BITS).for_each(|slot| seen[(drawer.draw(slot) >> 12) as usize] = true);
        assert!(seen.into_iter().all(|seen| seen));
    }

    #[test]
    fn the_lower_bits_decide_between_draws_that_share_the_upper_ones() {
        let drawers: Vec<_> = (1..=6).map(|n| drawer(&format!("n:{n}"), 1)).collect();
        let (mut alike, mut same) = (0, 0);
        for slot in 0..1 << SLOT_BITS {
            let mut draws: Vec<_> = drawers.iter().map(|drawer| drawer.draw(slot)).collect();
            draws.sort_unstable();
            for pair in draws.windows(2) {
                alike += u32::from(pair[0] >> 12 == pair[1] >> 12);
                same += u32::from(pair[0] == pair[1]);
            }
        }
        // Each of the 15 pairs has one number in common, on the average.
        assert!((5..=30).contains(&alike), "{alike}");
        assert_eq!(same, 0);
    }

    #[test]
    fn draws_have_been_the_same_ever_since() {
        let draws = |address| [0, 1, 2, 0xf_ffff].map(|slot| drawer(address, 1).draw(slot));
        assert_eq!(
            draws("a:1"),
            [869_753_073, 902_174_454, 325_056_325, 2_043_008_395]
        );
        assert_eq!(
            draws("cache-1.local:8800"),
            [1_979_994_912, 3_243_146_089, 869_688_292, 4_050_799_820]
        );
        let bids = [0, 1, 1 << 20, 3 << 30, u32::MAX].map(exponential);
        assert_eq!(bids, [0, 2, 1_512_961, 2 << 32, 32 << 32]);
    }

    proptest! {
        #[test]
        fn a_higher_draw_bids_no_less(draw in 0..u32::MAX, weight in 1u32..) {
            prop_assert!(exponential(draw) <= exponential(draw + 1));
            prop_assert!(exponential(draw) >= u64::from(draw));
            let drawer = drawer("a:1", weight);
            let (bid, next) = (drawer.bid(1, draw), drawer.bid(0, draw + 1));
            prop_assert!(bid < next && next < Bid::NONE);
            prop_assert_eq!(drawer.bid_below(&next, 1, draw), Some(bid));
            prop_assert_eq!(drawer.bid_below(&bid, 1, draw), None);
            prop_assert!(drawer.bid_below(&bid, 0, draw) < Some(bid));
        }

        #[test]
        fn the_logarithm_is_near(draw in 1u32..) {
            let exact = -(-f64::from(draw) / 2f64.powi(32)).ln_1p() / 2f64.ln();
            let error = exponential(draw) as f64 / 2f64.powi(32) - exact;
            prop_assert!(error.abs() < exact / 4000.0 + 3.0 / 2f64.powi(32), "{} of {}", error, exact);
        }
    }
}
