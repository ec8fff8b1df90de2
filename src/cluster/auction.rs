//! Who bids least for each of many slots.

use super::draw::{Bid, Drawer, shuffled};

/// So many slots are settled together: what is worked on stays in the first cache.
const BLOCK: usize = 512;

/// Members that bid for slots.
pub(super) struct Auction {
    /// Those of one price, in the order of their positions. In a class the lowest draw is the lowest bid, so that one member
    /// of each class needs a logarithm.
    classes: Vec<Vec<(u16, Drawer)>>,
}

impl Auction {
    pub(super) fn new(drawers: &[Drawer], positions: impl Iterator<Item = u16>) -> Self {
        let mut bidders: Vec<_> = positions
            .map(|position| (position, drawers[usize::from(position)]))
            .collect();
        bidders.sort_by_key(|&(position, drawer)| (drawer.price(), position));
        let classes = bidders.chunk_by(|a, b| a.1.price() == b.1.price());
        Self {
            classes: classes.map(<[_]>::to_vec).collect(),
        }
    }

    /// Gives slots that follow each other to who bids least, and to nobody of ours where `standing`, the bid of whoever has
    /// the slot, is lower.
    pub(super) fn settle_all(
        &self,
        first: u32,
        owners: &mut [u16],
        standing: impl Fn(u32, u16) -> Bid,
    ) {
        let (mut slots, mut bids) = ([0; BLOCK], [Bid::NONE; BLOCK]);
        let mut next = first;
        for owners in owners.chunks_mut(BLOCK) {
            for ((slot, bid), owner) in slots.iter_mut().zip(&mut bids).zip(&*owners) {
                *slot = next;
                *bid = standing(next, *owner);
                next += 1;
            }
            self.bid(&slots[..owners.len()], &mut bids);
            for (owner, bid) in owners.iter_mut().zip(&bids) {
                *owner = bid.position();
            }
        }
    }

    /// Gives these slots to who bids least.
    pub(super) fn settle(&self, slots: &[u32], owners: &mut [u16]) {
        for slots in slots.chunks(BLOCK) {
            let mut bids = [Bid::NONE; BLOCK];
            self.bid(slots, &mut bids);
            for (&slot, bid) in slots.iter().zip(&bids) {
                owners[slot as usize] = bid.position();
            }
        }
    }

    /// Puts the lowest bid for each of the slots, `BLOCK` at the most, in the place of a higher one.
    fn bid(&self, slots: &[u32], bids: &mut [Bid]) {
        let mut shuffled_slots = [0; BLOCK];
        let shuffled_slots = &mut shuffled_slots[..slots.len()];
        shuffled_slots
            .iter_mut()
            .zip(slots)
            .for_each(|(to, &slot)| *to = shuffled(slot));
        for class in &self.classes {
            let (mut draws, mut positions) = ([u32::MAX; BLOCK], [class[0].0.into(); BLOCK]);
            for (position, drawer) in class {
                lower(
                    drawer,
                    (*position).into(),
                    shuffled_slots,
                    &mut draws,
                    &mut positions,
                );
            }
            let (_, drawer) = class[0];
            for ((bid, draw), position) in bids.iter_mut().zip(draws).zip(positions) {
                if let Some(lower) = drawer.bid_below(bid, position as u16, draw) {
                    *bid = lower;
                }
            }
        }
    }
}

/// Puts the member's draws in the place of higher ones.
///
/// Almost all the time of a new table is spent here: without a branch, so that several slots are looked at at once.
fn lower(
    drawer: &Drawer,
    position: u32,
    shuffled_slots: &[u32],
    draws: &mut [u32; BLOCK],
    positions: &mut [u32; BLOCK],
) {
    for ((&shuffled, lowest), holder) in shuffled_slots.iter().zip(draws).zip(positions) {
        let draw = drawer.draw_shuffled(shuffled);
        let is_lower = draw < *lowest;
        *lowest = if is_lower { draw } else { *lowest };
        *holder = if is_lower { position } else { *holder };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::Member;
    use crate::cluster::slot::SLOT_BITS;

    proptest! {
        #[test]
        fn it_ends_as_if_all_bid_one_by_one(weights in prop::collection::vec(1u32..4, 1..20), first in 0..1u32 << SLOT_BITS) {
            let bidder = |(number, weight): (usize, &u32)| Drawer::new(&Member {
                weight: *weight,
                ..Member::new(format!("node-{number}:1"))
            });
            let drawers: Vec<_> = weights.iter().enumerate().map(bidder).collect();
            let slots: Vec<_> = (0..100).map(|slot| slot ^ first).collect();
            let mut bids = [Bid::NONE; 100];
            let all = 0..drawers.len() as u16;
            Auction::new(&drawers, all.clone()).bid(&slots, &mut bids);
            for (slot, bid) in slots.into_iter().zip(bids) {
                let each = all.clone().zip(&drawers);
                let lowest = each.map(|(position, drawer)| drawer.bid(position, drawer.draw(slot))).min();
                prop_assert_eq!(Some(bid), lowest);
            }
        }
    }
}
