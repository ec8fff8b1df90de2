//! What a change of members moves.

use super::Placement;

/// How a table differs from the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movement {
    /// Slots that have another owner.
    pub moved: usize,
    /// Slots that had to move, whichever they are, for each member to have as many as it has now: those by which members
    /// have more than before.
    pub needed: usize,
}

impl Movement {
    /// From `old` to `new`.
    pub fn between(old: &Placement, new: &Placement) -> Self {
        let members = old.view().members().iter();
        let now: Vec<_> = members
            .map(|member| new.view().position(&member.address))
            .collect();
        // Of nobody's slots no position is known.
        let now_of = |owner: u16| now.get(usize::from(owner)).copied().flatten();
        let owners = old.owners().iter().zip(new.owners());
        let moved = owners.filter(|&(&old, &new)| now_of(old) != Some(new.into()));
        let mut before = vec![0; new.view().members().len()];
        for (slots, now) in old.shares().into_iter().zip(&now) {
            now.iter().for_each(|&now| before[now] = slots);
        }
        let more = new.shares().into_iter().zip(before);
        Self {
            moved: moved.count(),
            needed: more.map(|(now, before)| now.saturating_sub(before)).sum(),
        }
    }

    /// How many times more moved than had to; 1 where nothing did.
    pub fn excess(&self) -> f64 {
        match self.needed {
            0 if self.moved == 0 => 1.0,
            needed => self.moved as f64 / needed as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Member, SLOTS, View};

    fn placement(members: &[&str]) -> Placement {
        let members = members.iter().map(|text| text.parse::<Member>().unwrap());
        Placement::new(&View::new(members.collect()).unwrap())
    }

    #[test]
    fn what_moved_is_told_by_addresses() {
        let three = placement(&["a:1", "b:1", "c:1"]);
        let two = placement(&["b:1", "c:1"]);
        let of_a = three.shares()[0];
        for movement in [
            Movement::between(&three, &two),
            Movement::between(&two, &three),
        ] {
            assert_eq!((movement.moved, movement.needed), (of_a, of_a));
        }
        let still = Movement::between(&three, &three);
        assert_eq!((still.moved, still.needed, still.excess()), (0, 0, 1.0));
    }

    #[test]
    fn a_weight_that_grows_moves_what_it_gains() {
        let [one, other] = [placement(&["a:1", "b:1"]), placement(&["b:1", "a:1=200"])];
        let more = other.shares()[0] - one.shares()[0];
        let grown = Movement::between(&one, &other);
        assert_eq!((grown.moved, grown.needed), (more, more));
        let renamed = Movement::between(&placement(&["a:1"]), &placement(&["b:1"]));
        assert_eq!((renamed.moved, renamed.needed), (SLOTS, SLOTS));
    }

    #[test]
    fn to_the_first_members_all_slots_move() {
        let all = Movement::between(&placement(&[]), &placement(&["a:1", "b:1"]));
        assert_eq!((all.moved, all.needed), (SLOTS, SLOTS));
    }
}
