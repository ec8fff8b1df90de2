//! Who is asked for a key.

use super::Member;

/// The name of a ring: nodes with the same members, weights, zones and rules have the same one, others do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

/// Ranks the members of one view for each key, in the same way on every node and in every version.
pub trait Ring: Send + Sync {
    /// Its name.
    fn epoch(&self) -> Epoch;

    /// The members that it ranks, in the order of their addresses.
    fn members(&self) -> &[Member];

    /// Fills `ranked` with positions in [`members`](Self::members), the owner of the key first, then who stands in for it.
    /// Returns how many it filled: all of `ranked`, or as many as there are members.
    fn rank(&self, group: &[u8], key: &[u8], ranked: &mut [u16]) -> usize;
}
