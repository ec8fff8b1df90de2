//! How many nodes a hot key is asked of, and which: for clients that are told how hot a key is.

/// Nodes that one key is spread over at the most.
pub const SPREAD_MAX: usize = 16;

/// Over how many of the first ranks a key is to be spread.
///
/// `rate` is what a node has said: how often a second it is asked for the key, while that is asked of `width` nodes. From
/// `hot_rate` on for all of them together a key is hot; with each more of that it has another node, up to all `members` or
/// [`SPREAD_MAX`]. By the rates of all together, the width that a spread leads to is the one that it comes from.
pub fn width(rate: f64, width: usize, hot_rate: f64, members: usize) -> usize {
    let all = rate * width.max(1) as f64;
    if hot_rate <= 0.0 || all < hot_rate || all.is_nan() {
        return 1;
    }
    let wanted = ((all / hot_rate) as usize).saturating_add(1);
    wanted.min(members).clamp(1, SPREAD_MAX)
}

/// The rank to ask, 0 for the owner, of a key that is spread over `width` ranks, by an evenly distributed number.
pub fn rank(width: usize, random: u32) -> usize {
    let ranks = width.clamp(1, SPREAD_MAX) as u64;
    // Evenly, and without a division.
    ((u64::from(random) * ranks) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hotter_a_key_the_more_nodes_it_is_asked_of() {
        let width = |rate| width(rate, 1, 100.0, 100);
        assert_eq!([0.0, 99.9].map(width), [1, 1], "not hot");
        assert_eq!([100.0, 250.0, 800.0].map(width), [2, 3, 9]);
        assert_eq!([1e5, f64::INFINITY].map(width), [SPREAD_MAX; 2]);
        assert_eq!(width(f64::NAN), 1);
    }

    #[test]
    fn a_width_is_bounded_by_the_members_and_stays_when_they_share_the_rate() {
        assert_eq!(width(1e6, 1, 100.0, 4), 4);
        assert_eq!(width(1e6, 1, 100.0, 1), 1);
        assert_eq!(width(1e6, 1, 100.0, 0), 1);
        assert_eq!(width(1e6, 1, 0.0, 4), 1, "nothing is hot");
        for rate in [100.0, 170.0, 300.0, 2000.0] {
            let first = width(rate, 1, 100.0, 100);
            assert_eq!(
                width(rate / first as f64, first, 100.0, 100),
                first,
                "{rate}"
            );
        }
    }

    #[test]
    fn each_rank_is_asked_as_often_as_the_others() {
        assert_eq!(rank(1, u32::MAX), 0);
        assert_eq!(rank(0, 7), 0);
        for width in 2..=SPREAD_MAX {
            let mut asked = vec![0; width];
            let numbers = (0..10_000_u32).map(|number| number.wrapping_mul(0x9e37_79b9));
            for number in numbers {
                asked[rank(width, number)] += 1;
            }
            let (least, most) = (asked.iter().min().unwrap(), asked.iter().max().unwrap());
            assert!(most - least <= 8, "{asked:?}");
        }
    }
}
