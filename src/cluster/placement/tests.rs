use proptest::prelude::*;

use super::*;

/// Few enough for many tables.
const FEW_SLOTS: usize = 3000;

fn view(texts: &[&str]) -> View {
    View::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
}

fn few(view: &View) -> Placement {
    Placement::with_slots(view, FEW_SLOTS)
}

fn positions(placement: &Placement, slot: usize) -> Vec<usize> {
    let ranks = placement.ranks(slot, usize::MAX);
    ranks.into_iter().map(|rank| rank.position).collect()
}

/// The address of each slot's owner.
fn addresses(placement: &Placement) -> impl Iterator<Item = &str> {
    let owner = |&owner: &u16| placement.members()[usize::from(owner)].address.as_str();
    placement.owners().iter().map(owner)
}

// The vectors come from another program, which was written from the rules.

#[test]
fn three_alike_have_owned_the_same_ever_since() {
    let placement = Placement::new(&view(&["c:8800", "a:8800", "b:8800"]));
    assert_eq!(placement.epoch(), Epoch(0xb3cd_d08c_d28b_c727));
    assert_eq!(placement.checksum(), 0x8a54_4986_05bb_b58c);
    assert_eq!(placement.owners()[..8], [0, 0, 2, 2, 2, 2, 0, 1]);
    assert_eq!(placement.shares(), [348_919, 350_157, 349_500]);
    assert_eq!(
        positions(&placement, slot(b"blobs", b"hello.txt")),
        [1, 2, 0]
    );
    assert_eq!(positions(&placement, 0), [0, 2, 1]);
    assert_eq!(positions(&placement, SLOTS - 1), [1, 2, 0]);
    assert_eq!(
        placement.owner(b"blobs", b"hello.txt").unwrap().address,
        "b:8800"
    );
}

#[test]
fn weights_and_zones_have_decided_the_same_ever_since() {
    let placement = Placement::new(&view(&[
        "cache-1.local:8800=50@eu",
        "cache-2.local:8800=100@eu",
        "10.0.0.3:8800=100@us",
        "[fe80::4]:8800=300@us",
        "cache-5.local:8800=77@asia",
    ]));
    assert_eq!(placement.epoch(), Epoch(0x066d_db4d_b76b_a6cc));
    assert_eq!(placement.checksum(), 0x5cb0_165e_f981_e510);
    assert_eq!(placement.owners()[..8], [3, 0, 4, 1, 4, 1, 1, 3]);
    assert_eq!(
        placement.shares(),
        [167_435, 501_159, 83_746, 167_147, 129_089]
    );
    assert_eq!(
        positions(&placement, slot(b"blobs", b"hello.txt")),
        [1, 3, 4, 0, 2]
    );
    assert_eq!(positions(&placement, 0), [3, 1, 4, 2, 0]);
}

#[test]
fn sixteen_have_owned_the_same_ever_since() {
    let addresses: Vec<_> = (1..=16).map(|n| format!("10.0.0.{n}:8800")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let placement = Placement::new(&view(&addresses));
    assert_eq!(placement.epoch(), Epoch(0x5159_5fb0_7208_7868));
    assert_eq!(placement.checksum(), 0xe1c4_4f63_d10f_ffb2);
    assert_eq!(placement.owners()[..8], [15, 12, 14, 13, 9, 1, 5, 9]);
    let ranks = [0, 10, 4, 15, 5, 2, 14, 11, 9, 8, 13, 12, 6, 7, 1, 3];
    assert_eq!(positions(&placement, SLOTS - 1), ranks);
}

#[test]
fn a_table_that_all_cores_make_is_the_one_that_one_makes() {
    let members = |count| (0..count).map(|n| Member::new(format!("n{n}:1"))).collect();
    let view = View::new(members(100)).unwrap();
    let alone = drawers(&view);
    let slots = DRAWS_ALONE / 100 / 64;
    let mut owners = vec![0; slots].into_boxed_slice();
    everybody(&alone).settle_all(0, &mut owners, |_, _| Bid::NONE);
    assert_eq!(settle_parts(&everybody(&alone), slots, 3), owners);
    assert_eq!(settle_parts(&everybody(&alone), slots, 1), owners);
}

#[test]
fn nobody_owns_anything_where_nobody_is() {
    let nobody = Placement::new(&View::default());
    assert_eq!(nobody.owner(b"g", b"k"), None);
    assert_eq!(nobody.rank(b"g", b"k", &mut [0; 3]), 0);
    assert_eq!(nobody.ranks(0, 3), []);
    let one = view(&["a:1"]);
    assert_eq!(nobody.next(&one), Placement::new(&one));
    assert_eq!(nobody.next(&one).next(&View::default()), nobody);
    assert_eq!(nobody.next(&View::default()), nobody);
}

#[test]
fn all_that_decides_is_in_the_epoch() {
    let views = [
        view(&[]),
        view(&["a:1"]),
        view(&["b:1"]),
        view(&["a:1", "b:1"]),
        view(&["a:1=99"]),
        view(&["a:1@z"]),
        view(&["a:1@zb:1"]),
    ];
    let mut epochs: Vec<_> = views.iter().map(|view| epoch(view).0).collect();
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), views.len());
}

#[test]
fn who_stands_in_is_in_another_zone_while_there_is_one() {
    let view = view(&["a:1@x", "b:1@x", "c:1@x", "d:1@y", "e:1@y", "f:1", "g:1"]);
    let zone = |position: usize| view.members()[position].zone.as_str();
    let placement = few(&view);
    for slot in 0..FEW_SLOTS {
        let ranks = positions(&placement, slot);
        let mut once = ranks.clone();
        once.sort_unstable();
        assert_eq!(once, [0, 1, 2, 3, 4, 5, 6]);
        // Of x, of y, and the two that are in none, in whatever order.
        let mut first: Vec<_> = ranks[..4].iter().map(|&rank| zone(rank)).collect();
        first.sort_unstable();
        assert_eq!(first, ["", "", "x", "y"]);
        let bids: Vec<_> = placement
            .ranks(slot, 7)
            .iter()
            .map(|rank| rank.bid)
            .collect();
        assert!(bids[1..4].is_sorted() && bids[4..].is_sorted() && bids[0] <= bids[1]);
    }
}

#[test]
fn slots_are_shared_by_weight() {
    let placement = Placement::new(&view(&["a:1=1", "b:1=10", "c:1=100", "d:1=1000"]));
    for (share, weight) in placement
        .shares()
        .into_iter()
        .zip([1.0, 10.0, 100.0, 1000.0])
    {
        let expected: f64 = SLOTS as f64 * weight / 1111.0;
        let sigmas = (share as f64 - expected) / expected.sqrt();
        assert!(
            sigmas.abs() < 4.0,
            "weight {weight}: {share} slots, not {expected}"
        );
    }
}

fn member() -> impl Strategy<Value = Member> {
    let weights = prop_oneof![4 => Just(100), 1 => 1u32..500, 1 => Just(u32::MAX)];
    let zones = prop_oneof!["", "x", "y"];
    (0..12u8, weights, zones).prop_map(|(n, weight, zone)| Member {
        address: format!("node-{n}:8800"),
        weight,
        zone,
    })
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    prop::collection::vec(member(), 0..12).prop_map(|mut members| {
        members.sort_by(|a, b| a.address.cmp(&b.address));
        members.dedup_by(|a, b| a.address == b.address);
        members
    })
}

proptest! {
    #[test]
    fn the_order_of_members_is_nothing(members in members().prop_shuffle(), also in any::<prop::sample::Index>()) {
        let mut turned = members.clone();
        if !turned.is_empty() {
            turned.rotate_left(also.index(members.len()));
        }
        let [one, other] = [members, turned].map(|members| few(&View::new(members).unwrap()));
        prop_assert_eq!(one, other);
    }

    #[test]
    fn the_next_table_is_the_one_made_from_nothing(
        mut now in members(),
        changes in prop::collection::vec((member(), any::<bool>()), 1..10),
    ) {
        let mut placement = few(&View::new(now.clone()).unwrap());
        for (member, stays) in changes {
            now.retain(|other| other.address != member.address);
            if stays {
                now.push(member);
            }
            let view = View::new(now.clone()).unwrap();
            placement = placement.next(&view);
            prop_assert_eq!(&placement, &few(&view));
        }
    }

    #[test]
    fn the_next_table_may_be_of_quite_another_view(one in members(), other in members()) {
        let [one, other] = [one, other].map(|members| View::new(members).unwrap());
        prop_assert_eq!(few(&one).next(&other), few(&other));
    }

    #[test]
    fn only_slots_of_members_that_come_or_go_move(members in members(), changed in any::<prop::sample::Index>()) {
        prop_assume!(members.len() > 1);
        let mut fewer = members.clone();
        let member = fewer.remove(changed.index(members.len()));
        let [with, without] = [members, fewer].map(|members| few(&View::new(members).unwrap()));
        for (owner, other) in addresses(&with).zip(addresses(&without)) {
            prop_assert_eq!(owner == other, owner != member.address);
        }
    }

    #[test]
    fn ranks_are_what_is_left_when_the_first_go(members in members(), slot in 0..FEW_SLOTS) {
        let members: Vec<_> = members.into_iter().map(|member| Member { zone: String::new(), ..member }).collect();
        let mut placement = few(&View::new(members).unwrap());
        let ranks = placement.ranks(slot, usize::MAX);
        let ranked: Vec<_> = ranks.iter().map(|rank| placement.members()[rank.position].clone()).collect();
        for first in ranked {
            prop_assert_eq!(addresses(&placement).nth(slot), Some(first.address.as_str()));
            let mut members = placement.members().to_vec();
            members.retain(|member| *member != first);
            placement = placement.next(&View::new(members).unwrap());
        }
        prop_assert!(placement.members().is_empty());
    }
}
