//! The ring of our own: a table of who owns which slot.

use std::collections::HashMap;
use std::hash::Hasher;
use std::num::NonZero;
use std::thread;

use twox_hash::XxHash3_64;

use super::auction::Auction;
use super::draw::{Bid, Drawer, shuffled};
use super::{Epoch, Member, Ring, SLOTS, View, slot};

/// The version of all that decides who owns a key and who follows: `slot`, `draw`, `auction` and this file.
const RULES: u32 = 1;

/// A table for more draws than this is made by all cores.
const DRAWS_ALONE: usize = 1 << 26;

/// Who owns which slot, for one view.
///
/// The owner of a slot is the member with the lowest bid for it, by weighted rendezvous hashing of the members' addresses.
/// The owners are in a table of 2 MiB; who follows them is found when it is asked for, by letting all members bid again.
///
/// ```
/// use corecache::cluster::{Member, Placement, View};
///
/// let members = ["a:8800", "b:8800", "c:8800=200"].map(|text| text.parse::<Member>().unwrap());
/// let placement = Placement::new(&View::new(members.into())?);
/// let owner = placement.owner(b"blobs", b"hello.txt").unwrap();
/// assert_eq!(owner.address, "b:8800");
/// # Ok::<(), corecache::cluster::MemberError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    epoch: Epoch,
    checksum: u64,
    view: View,
    drawers: Vec<Drawer>,
    /// For each member the first one of its zone.
    zones: Vec<u16>,
    /// By slot, as positions in the view.
    owners: Box<[u16]>,
}

/// A place among those who are asked for a slot, and why a member has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rank {
    /// The member's position in the view.
    pub position: usize,
    /// What it drew for the slot, in units of 2^-32.
    pub draw: u32,
    /// What it bids with that draw: `-log2(1 - draw) / weight`.
    pub bid: f64,
}

impl Placement {
    /// The table of a view, from nothing.
    pub fn new(view: &View) -> Self {
        Self::with_slots(view, SLOTS)
    }

    fn with_slots(view: &View, slots: usize) -> Self {
        let drawers = drawers(view);
        let owners = settle_all(&drawers, slots);
        Self::of(view, drawers, owners)
    }

    /// The table of another view: the same as [`new`](Self::new) makes, sooner if most members are in both.
    pub fn next(&self, view: &View) -> Self {
        let change = Change::between(&self.view, view);
        if change.joined.len() * 2 >= view.members().len() {
            return Self::with_slots(view, self.owners.len());
        }
        let drawers = drawers(view);
        let mut owners = self.owners.clone();
        let orphans = change.rename(&mut owners);
        everybody(&drawers).settle(&orphans, &mut owners);
        if !change.joined.is_empty() {
            let standing = |slot, owner: u16| {
                let drawer = &drawers[usize::from(owner)];
                drawer.bid(owner, drawer.draw(slot))
            };
            Auction::new(&drawers, change.joined.into_iter()).settle_all(0, &mut owners, standing);
        }
        Self::of(view, drawers, owners)
    }

    fn of(view: &View, drawers: Vec<Drawer>, owners: Box<[u16]>) -> Self {
        Self {
            epoch: epoch(view),
            checksum: checksum(&owners),
            zones: zones(view),
            view: view.clone(),
            drawers,
            owners,
        }
    }

    /// A fingerprint of the table. Nodes of one epoch that have not the same have computed wrong.
    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    /// The view that it is the table of.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The owners of all slots, as positions in the view.
    pub fn owners(&self) -> &[u16] {
        &self.owners
    }

    /// How many slots each member owns, by its position.
    pub fn shares(&self) -> Vec<usize> {
        let mut shares = vec![0; self.drawers.len()];
        for &owner in &self.owners {
            // Without members the owner is nobody.
            if let Some(share) = shares.get_mut(usize::from(owner)) {
                *share += 1;
            }
        }
        shares
    }

    /// Who owns a key; none where there are no members.
    #[inline]
    pub fn owner(&self, group: &[u8], key: &[u8]) -> Option<&Member> {
        let owner = self.owners[slot(group, key)];
        self.view.members().get(usize::from(owner))
    }

    /// The first `count` of those who are asked for a slot, or all members if there are fewer.
    ///
    /// # Panics
    ///
    /// There are [`SLOTS`] slots.
    pub fn ranks(&self, slot: usize, count: usize) -> Vec<Rank> {
        let mut ranked = vec![0; count.min(self.drawers.len())];
        self.rank_slot(slot, &mut ranked);
        let rank = |position: u16| {
            let drawer = &self.drawers[usize::from(position)];
            let draw = drawer.draw(slot as u32);
            Rank {
                position: position.into(),
                draw,
                bid: drawer.bid(position, draw).cost(),
            }
        };
        ranked.into_iter().map(rank).collect()
    }

    fn rank_slot(&self, slot: usize, ranked: &mut [u16]) -> usize {
        let count = ranked.len().min(self.drawers.len());
        for at in 0..count {
            ranked[at] = match at {
                0 => self.owners[slot],
                _ => self.follower(slot, &ranked[..at]),
            };
        }
        count
    }

    /// Who follows those that are ranked: the lowest bid from a zone that none of them is in; the lowest of all, if there
    /// is no such zone.
    fn follower(&self, slot: usize, ranked: &[u16]) -> u16 {
        let shuffled = shuffled(slot as u32);
        let (mut near, mut far) = (Bid::NONE, Bid::NONE);
        for (position, drawer) in (0..).zip(&self.drawers) {
            let draw = drawer.draw_shuffled(shuffled);
            // While there is no bid from afar, that is any bid.
            let Some(bid) = drawer.bid_below(&far, position, draw) else {
                continue;
            };
            let zone = self.zone(position);
            if !ranked.iter().any(|&other| self.zone(other) == zone) {
                far = bid;
            } else if !ranked.contains(&position) {
                near = near.min(bid);
            }
        }
        match far == Bid::NONE {
            true => near.position(),
            false => far.position(),
        }
    }

    fn zone(&self, position: u16) -> u16 {
        self.zones[usize::from(position)]
    }
}

impl Ring for Placement {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn members(&self) -> &[Member] {
        self.view.members()
    }

    #[inline]
    fn rank(&self, group: &[u8], key: &[u8], ranked: &mut [u16]) -> usize {
        self.rank_slot(slot(group, key), ranked)
    }
}

/// What a view has that another had not.
struct Change {
    /// For each member of the old view its position in the new one, if it is there with the same weight.
    stayed: Vec<Option<u16>>,
    /// Positions in the new view of all others.
    joined: Vec<u16>,
}

impl Change {
    fn between(old: &View, new: &View) -> Self {
        let mut joined = vec![true; new.members().len()];
        let position = |member: &Member| {
            let position = new.position(&member.address)?;
            let is_same = new.members()[position].weight == member.weight;
            joined[position] = !is_same;
            is_same.then_some(position as u16)
        };
        let stayed = old.members().iter().map(position).collect();
        let joined = (0..).zip(joined).filter(|&(_, joined)| joined);
        Self {
            stayed,
            joined: joined.map(|(position, _)| position).collect(),
        }
    }

    /// Gives the owners that stayed their new positions, and lists the slots of all others.
    fn rename(&self, owners: &mut [u16]) -> Vec<u32> {
        let mut orphans = Vec::new();
        for (slot, owner) in (0..).zip(owners) {
            match self.stayed[usize::from(*owner)] {
                Some(position) => *owner = position,
                None => orphans.push(slot),
            }
        }
        orphans
    }
}

fn drawers(view: &View) -> Vec<Drawer> {
    view.members().iter().map(Drawer::new).collect()
}

/// Who is in no zone is near nobody.
fn zones(view: &View) -> Vec<u16> {
    let mut first = HashMap::<&str, u16>::new();
    let mut zones = Vec::with_capacity(view.members().len());
    for (position, member) in (0..).zip(view.members()) {
        zones.push(match member.zone.as_str() {
            "" => position,
            zone => *first.entry(zone).or_insert(position),
        });
    }
    zones
}

fn everybody(drawers: &[Drawer]) -> Auction {
    Auction::new(drawers, 0..drawers.len() as u16)
}

/// Lets all members bid for all slots.
fn settle_all(drawers: &[Drawer], slots: usize) -> Box<[u16]> {
    let parts = match slots * drawers.len() > DRAWS_ALONE {
        true => thread::available_parallelism().map_or(1, NonZero::get),
        false => 1,
    };
    settle_parts(&everybody(drawers), slots, parts)
}

fn settle_parts(all: &Auction, slots: usize, parts: usize) -> Box<[u16]> {
    let mut owners = vec![0; slots].into_boxed_slice();
    let part = slots.div_ceil(parts);
    let settle = |first, owners: &mut [u16]| all.settle_all(first, owners, |_, _| Bid::NONE);
    thread::scope(|scope| {
        let (mine, others) = owners.split_at_mut(part);
        for (number, owners) in (1..).zip(others.chunks_mut(part)) {
            scope.spawn(move || settle((number * part) as u32, owners));
        }
        settle(0, mine);
    });
    owners
}

/// What nodes must agree on to rank alike: the rules, and all of each member, told apart by their lengths.
fn epoch(view: &View) -> Epoch {
    let mut hasher = XxHash3_64::new();
    let mut write = |bytes: &[u8]| {
        hasher.write(&(bytes.len() as u32).to_le_bytes());
        hasher.write(bytes);
    };
    write(b"corecache placement");
    write(&RULES.to_le_bytes());
    for member in view.members() {
        write(member.address.as_bytes());
        write(&member.weight.to_le_bytes());
        write(member.zone.as_bytes());
    }
    Epoch(hasher.finish())
}

fn checksum(owners: &[u16]) -> u64 {
    let mut hasher = XxHash3_64::new();
    for owners in owners.chunks(512) {
        let mut bytes = [0; 1024];
        for (bytes, owner) in bytes.chunks_exact_mut(2).zip(owners) {
            bytes.copy_from_slice(&owner.to_le_bytes());
        }
        hasher.write(&bytes[..2 * owners.len()]);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
