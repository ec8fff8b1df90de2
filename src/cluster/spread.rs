//! How many nodes a hot key is asked of, and which: for clients that are told how hot a key is.

/// Nodes that one key is spread over at the most.
pub(crate) const SPREAD_MAX: usize = 16;

/// Over how many of the first ranks a key is to be spread that was spread over `width` until now.
///
/// `heat` is what one of them has said: how many times the rate from which on a key is hot it is asked for this one, in
/// whole numbers. So each of them is asked for it once to twice that rate in the end, goes on to take it for hot, and to
/// say so: the width stays as it is.
pub(crate) fn width(heat: u32, width: usize, members: usize) -> usize {
    let (heat, width) = (heat.max(1) as usize, width.max(1));
    let most = members.clamp(1, SPREAD_MAX);
    heat.saturating_mul(width).min(most)
}

/// The rank to ask, 0 for the owner, of a key that is spread over `width` ranks, by an evenly distributed number.
pub(crate) fn rank(width: usize, random: u32) -> usize {
    let ranks = width.clamp(1, SPREAD_MAX) as u64;
    // Evenly, and without a division.
    ((u64::from(random) * ranks) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hotter_a_key_the_more_nodes_it_is_asked_of() {
        assert_eq!([0, 1, 2, 9].map(|heat| width(heat, 1, 100)), [1, 1, 2, 9]);
        assert_eq!(
            [1000, u32::MAX].map(|heat| width(heat, 1, 100)),
            [SPREAD_MAX; 2]
        );
        assert_eq!(width(7, 1, 4), 4, "all there are");
        assert_eq!([0, 1].map(|members| width(7, 1, members)), [1, 1]);
        assert_eq!(width(9, 3, 2), 2, "some have left");
    }

    #[test]
    fn a_width_stays_when_all_share_the_rate() {
        for all in 1..40 {
            let first = width(all, 1, 100);
            let each = all / first as u32;
            let second = width(each, first, 100);
            assert_eq!(second, first, "{all}");
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
