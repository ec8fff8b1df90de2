use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn trace(text: &str) -> Trace {
    Trace::read(text.as_bytes()).expect("a good trace")
}

fn keys(keys: impl IntoIterator<Item = u32>) -> Trace {
    let lines: Vec<String> = keys.into_iter().map(|key| key.to_string()).collect();
    trace(&lines.join("\n"))
}

fn hits(trace: &Trace, contender: Contender, size: u64) -> u64 {
    trace.replay(contender, size, |_| ()).hits
}

fn error(text: impl AsRef<[u8]>) -> String {
    Trace::read(text.as_ref()).unwrap_err().to_string()
}

#[test]
fn a_line_is_a_key_or_a_key_and_a_size() {
    let plain = trace("a\nb/ü\r\n\n  a  \n7");
    assert_eq!(
        (plain.keys(), plain.is_sized(), plain.footprint()),
        (3, false, 3)
    );
    let numbers: Vec<_> = plain.requests().iter().map(|request| request.key).collect();
    assert_eq!(numbers, [0, 1, 0, 2]);
    let sized = trace("x 10\ny\t0\nx 12\nz 99999999999\n");
    assert!(sized.is_sized());
    assert_eq!(sized.footprint(), 10 + u64::from(u32::MAX));
    assert_eq!(sized.requests()[2], Request { key: 0, weight: 12 });
}

#[test]
fn sizes_over_4_gib_are_counted_as_that_and_told() {
    let sized = trace("a 1\nb 4294967296\nc 99999999999999999999999\n");
    assert_eq!((sized.capped(), sized.footprint()), (2, (2 << 32) - 1));
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_key() {
    assert_eq!(trace("\u{feff}a\nb\na\n").keys(), 2);
}

#[test]
fn a_bad_line_is_named() {
    assert_eq!(
        error("a 1\nb two\n"),
        "line 2: the size \"two\" is not a whole number of bytes"
    );
    assert_eq!(
        error("a -1\n"),
        "line 1: the size \"-1\" is not a whole number of bytes"
    );
    let words = "has 1 words; each line is `key`, or each is `key size`";
    assert_eq!(error("a 1\n\nb\n"), format!("line 3 {words}"));
    assert!(error("a\nb 1\n").starts_with("line 2 has 2 words"));
    assert!(error("a 1 1\n").starts_with("line 1 has 3 words"));
    assert_eq!(error(""), "there is no request in it");
    assert_eq!(error(" \n\n"), "there is no request in it");
    assert!(error(vec![b'x'; 100_000]).starts_with("line 1 has more than 65536 bytes"));
    assert!(error(b"a \xff\xfe\n").starts_with("line 1: the size"));
}

#[test]
fn a_source_that_fails_is_an_error_at_its_line() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is gone"))
        }
    }
    let input = std::io::Read::chain(&b"a\nb\n"[..], Broken);
    let error = Trace::read(std::io::BufReader::new(input)).unwrap_err();
    assert_eq!(error.to_string(), "line 3: the disk is gone");
}

#[test]
fn policies_are_known_by_their_names() {
    for contender in Contender::ALL {
        assert_eq!(contender.name().parse::<Contender>().ok(), Some(contender));
    }
    let error = "arc".parse::<Contender>().unwrap_err().to_string();
    assert!(error.contains("\"arc\" is no policy"), "{error}");
}

#[test]
fn a_cache_of_all_there_is_misses_each_key_once() {
    let trace = trace("a 5\nb 7\na 5\nc 0\nb 7\nc 0\n");
    for contender in Contender::ALL {
        let mut seen = 0;
        let outcome = trace.replay(contender, 12, |requests| seen += requests);
        assert_eq!(
            (outcome.requests, outcome.hits, seen),
            (6, 3, 6),
            "{contender}"
        );
        assert_eq!((outcome.bytes, outcome.hit_bytes), (24, 12), "{contender}");
        assert_eq!(outcome.hit_ratio(), 0.5);
    }
}

#[test]
fn what_does_not_fit_is_not_stored_and_pushes_nothing_out() {
    let trace = trace("a 5\nbig 11\na 5\nbig 11\na 5\n");
    for contender in Contender::ALL {
        assert_eq!(hits(&trace, contender, 10), 2, "{contender}");
        assert_eq!(hits(&trace, contender, 0), 0, "{contender}");
    }
}

#[test]
fn a_loop_larger_than_the_cache_is_kept_in_part() {
    let trace = keys((0..30_000).map(|at| at % 1000));
    assert_eq!(hits(&trace, Contender::Lru, 700), 0);
    let ours = hits(&trace, Contender::Corecache, 700) as f64;
    let optimum = hits(&trace, Contender::Belady, 700) as f64;
    assert!(ours > 0.95 * optimum, "{ours} of {optimum}");
}

#[test]
fn a_loop_that_follows_another_takes_its_place() {
    // How fast depends on how evenly the ghosts of its keys lie, so several sets of keys are tried.
    let part_of_optimum = |set: u32| {
        let before = 0..1000 * set;
        let first = (0..30_000).map(|at| 100_000 + at % 900);
        let second = (0..60_000).map(|at| 200_000 + at % 900);
        let trace = keys(before.chain(first).chain(second));
        let optimum = hits(&trace, Contender::Belady, 600) as f64;
        hits(&trace, Contender::Corecache, 600) as f64 / optimum
    };
    let mean = (0..8).map(part_of_optimum).sum::<f64>() / 8.0;
    assert!(mean > 0.85, "{mean} of the optimum");
}

#[test]
fn light_entries_stay_longer_than_heavy_ones() {
    // Both kinds are asked for alike: 1000 keys of 1 and 1000 of 100, in an order that has none.
    let mut random = 1_u64;
    let mut text = String::new();
    for _ in 0..100_000 {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let key = random >> 33;
        let weight = if key.is_multiple_of(2) { 1 } else { 100 };
        text += &format!("{} {weight}\n", key % 2000);
    }
    let trace = trace(&text);
    let ours = hits(&trace, Contender::Corecache, 20_000) as f64;
    let lru = hits(&trace, Contender::Lru, 20_000) as f64;
    assert!(ours > 1.5 * lru, "{ours} hits, LRU {lru}");
}

/// The hits of LRU by its definition: a key is stored if less than `size` others were asked for since.
fn plain_lru(keys: &[u32], size: usize) -> u64 {
    let is_hit = |at: &usize| {
        let before = &keys[..*at];
        let last = before.iter().rposition(|key| *key == keys[*at]);
        last.is_some_and(|last| {
            let mut since = before[last + 1..].to_vec();
            since.sort_unstable();
            since.dedup();
            since.len() < size
        })
    };
    (0..keys.len()).filter(is_hit).count() as u64
}

/// The most hits that any choice of victims leads to, by trying all.
fn best_of_all(requests: &[u32], stored: &mut Vec<u32>, size: usize) -> u64 {
    let Some((key, rest)) = requests.split_first() else {
        return 0;
    };
    if stored.contains(key) {
        return 1 + best_of_all(rest, stored, size);
    }
    if stored.len() < size {
        stored.push(*key);
        let hits = best_of_all(rest, stored, size);
        stored.pop();
        return hits;
    }
    let choices = (0..size).map(|victim| {
        let mut stored = stored.clone();
        stored[victim] = *key;
        best_of_all(rest, &mut stored, size)
    });
    choices.max().unwrap_or(0)
}

proptest! {
    #[test]
    fn lru_is_what_it_is_said_to_be(requests in vec(0u32..30, 1..200), size in 1usize..20) {
        let lru = hits(&keys(requests.iter().copied()), Contender::Lru, size as u64);
        prop_assert_eq!(lru, plain_lru(&requests, size));
    }

    #[test]
    fn nothing_is_better_than_belady(requests in vec(0u32..6, 1..12), size in 1usize..4) {
        let belady = hits(&keys(requests.iter().copied()), Contender::Belady, size as u64);
        prop_assert_eq!(belady, best_of_all(&requests, &mut Vec::new(), size));
    }

    #[test]
    fn no_policy_beats_the_optimum(requests in vec(0u32..100, 1..500), size in 1u64..60) {
        let trace = keys(requests);
        let optimum = hits(&trace, Contender::Belady, size);
        for contender in Contender::ALL {
            prop_assert!(hits(&trace, contender, size) <= optimum);
        }
    }

    #[test]
    fn any_bytes_are_a_trace_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(trace) = Trace::read(&bytes[..]) {
            for contender in Contender::ALL {
                let outcome = trace.replay(contender, 1 << 20, |_| ());
                prop_assert_eq!(outcome.requests, trace.requests().len() as u64);
            }
        }
    }
}
