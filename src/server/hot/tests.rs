use super::*;
use crate::engine::Builder;
use crate::group::{GroupConfig, Groups, LoadContext, Sink};

fn groups() -> Groups {
    let load = |key: &[u8], _: &LoadContext<'_>, sink: &mut Sink| sink.append(key);
    let groups = ["pages", "tiles"].map(|name| GroupConfig::new(name, load));
    Groups::new(&Builder::new(4 << 20), groups).unwrap()
}

/// Notes a second of requests: one key asked for `rate` times, others once each.
fn second(hot: &Hot, group: &Group, rate: u32, others: u32) {
    for number in 0..rate.max(others) {
        if number < rate {
            hot.note(group, b"hot");
        }
        if number < others {
            hot.note_all(group, &[format!("{number}").as_bytes(), b""]);
        }
    }
    hot.measure(TICK);
}

#[test]
fn a_rate_is_measured_and_decays() {
    let (groups, hot) = (groups(), Hot::new(100));
    let pages = groups.get("pages").unwrap();
    let rate = || hot.top().rate(pages, b"hot");
    for _ in 0..20 {
        second(&hot, pages, 20_000, 20_000);
    }
    // Some 1,250 samples count: a tenth is three times what is to be expected.
    assert!((rate() - 20_000.0).abs() < 2000.0, "{}", rate());
    let tiles = groups.get("tiles").unwrap();
    assert_eq!(hot.top().rate(tiles, b"hot"), 0.0, "another group's");
    let top = hot.top();
    let first = &top.keys()[0];
    assert_eq!((first.group.name(), &*first.key), ("pages", &b"hot"[..]));
    // One request in 64 is told, and what is told is measured in hot rates.
    let heats = || (0..10_000).map(|_| hot.note(pages, b"hot"));
    let told: Vec<_> = heats().filter(|heat| *heat > 0).collect();
    assert!((100..220).contains(&told.len()), "{}", told.len());
    assert!(told.iter().all(|heat| (180..=220).contains(heat)));
    assert!((0..1000).all(|_| hot.note(tiles, b"hot") == 0));
    let many = hot.note_all(pages, &[&b"cold"[..], b"hot"].repeat(1000));
    assert!(
        !many.is_empty()
            && many
                .iter()
                .all(|(index, heat)| index % 2 == 1 && *heat >= 180)
    );
    hot.sketches.iter().for_each(|at| drop(at.lock().take()));
    let before = rate();
    for _ in 0..4 {
        second(&hot, pages, 0, 0);
    }
    let left = rate() / before;
    assert!((0.36..0.38).contains(&left), "{left} after 4 s");
    for _ in 0..60 {
        second(&hot, pages, 0, 0);
    }
    assert!(hot.top().keys().is_empty(), "all are forgotten");
}

#[test]
fn what_is_asked_for_once_is_not_hot_and_what_is_remembered_is_bounded() {
    let (groups, hot) = (groups(), Hot::new(100));
    let pages = groups.get("pages").unwrap();
    for _ in 0..20 {
        second(&hot, pages, 0, 200_000);
        let top = hot.top();
        assert!(top.keys().len() <= TOP_MAX);
        assert_eq!(top.places.len(), top.keys().len());
    }
    // Each of these keys is asked for once a second.
    let most = hot.top().keys()[0].rate;
    assert!(most < 100.0, "{most}");
}
