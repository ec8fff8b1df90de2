use clap::Parser;
use corecache::engine::policy::simulate::Trace;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    simulate: Simulate,
}

fn line(arguments: &[&str]) -> Result<Simulate, clap::Error> {
    let arguments = ["simulate"].iter().chain(arguments);
    Line::try_parse_from(arguments).map(|line| line.simulate)
}

fn rows(trace: &Trace, sizes: &[u64]) -> Vec<Row> {
    replay_all(trace, sizes, &Contender::ALL)
}

fn trace(text: &str) -> Trace {
    Trace::read(text.as_bytes()).expect("a good trace")
}

#[test]
fn sizes_are_numbers_bytes_or_parts_of_all() {
    let trace = trace("a 1000\nb 2000\n");
    let asked = line(&["t", "--sizes", "10%,5KB,64", "--sizes", "10%,0.01%"]).unwrap();
    assert_eq!(asked.cache_sizes(&trace).unwrap(), [1, 64, 300, 5000]);
    for wrong in [
        "101%", "-1%", "x%", "%", "NaN%", "many", "", "0", "0%", "0KiB", "5,0",
    ] {
        assert!(line(&["t", "--sizes", wrong]).is_err(), "{wrong}");
    }
}

#[test]
fn without_sizes_there_is_a_ladder_up_to_half_of_all() {
    let keys = |keys: u32| trace(&(0..keys).map(|key| format!("{key}\n")).collect::<String>());
    let ladder = line(&["t"]).unwrap();
    assert_eq!(
        ladder.cache_sizes(&keys(1024)).unwrap(),
        [2, 4, 8, 16, 32, 64, 128, 256, 512]
    );
    assert_eq!(ladder.cache_sizes(&keys(5)).unwrap(), [1, 2]);
    assert_eq!(ladder.cache_sizes(&keys(1)).unwrap(), [1]);
}

#[test]
fn one_is_told_as_one() {
    let one = trace("a\n");
    let text = table(&one, &[1], &[Contender::Lru], &rows(&one, &[1]));
    assert!(
        text.starts_with("1 request of 1 key, 1 entry in all\n"),
        "{text}"
    );
}

#[test]
fn policies_are_chosen_by_name() {
    let two = line(&["t", "--policy", "lru,corecache"]).unwrap();
    assert_eq!(two.policy, [Contender::Lru, Contender::Corecache]);
    let error = line(&["t", "--policy", "best"])
        .err()
        .expect("there is none");
    assert!(
        error.to_string().contains("\"best\" is no policy"),
        "{error}"
    );
}

#[test]
fn json_has_a_line_for_each_size_and_policy() {
    let text = json(&rows(&trace("a\nb\na\nb\n"), &[1, 2]));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 8);
    assert_eq!(
        lines[4],
        r#"{"policy":"corecache","size":2,"requests":4,"hit_ratio":0.500000,"byte_hit_ratio":0.500000}"#
    );
    for (line, policy) in lines.iter().zip(Contender::ALL.iter().cycle()) {
        assert!(
            line.starts_with(&format!("{{\"policy\":\"{policy}\",")),
            "{line}"
        );
    }
}

#[test]
fn the_table_shows_bytes_where_there_are_sizes() {
    let sized = trace("a 1024\nb 1024\na 1024\n");
    let text = table(&sized, &[2048], &Contender::ALL, &rows(&sized, &[2048]));
    assert!(
        text.starts_with("3 requests of 2 keys, 2.0 KiB in all\n"),
        "{text}"
    );
    assert!(
        text.contains("hits %") && text.contains("bytes %"),
        "{text}"
    );
    assert_eq!(text.matches("33.33").count(), 8, "{text}");
    let plain = trace("a\nb\na\n");
    let text = table(&plain, &[2], &Contender::ALL, &rows(&plain, &[2]));
    assert!(
        text.starts_with("3 requests of 2 keys, 2 entries in all\n"),
        "{text}"
    );
    assert!(!text.contains("bytes %"), "{text}");
}

/// Whether every tag is closed, in the right order.
fn is_well_formed(svg: &str) -> bool {
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap_or_default();
        match tag.strip_prefix('/') {
            Some(name) => {
                if open.pop() != Some(name) {
                    return false;
                }
            }
            None if tag.ends_with('/') => {}
            None => open.push(tag.split_whitespace().next().unwrap_or_default()),
        }
    }
    open.is_empty()
}

#[test]
fn a_plot_has_a_line_and_a_name_for_each_policy() {
    let trace = trace("a\nb\nc\na\nb\na\n");
    for sizes in [&[1, 2, 3][..], &[2], &[0]] {
        let svg = plot::draw("R&D <1>", false, &rows(&trace, sizes));
        assert!(is_well_formed(&svg), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 4);
        assert!(svg.contains("R&amp;D &lt;1>"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        for policy in Contender::ALL {
            assert_eq!(svg.matches(&format!(">{policy}</text>")).count(), 1);
        }
    }
}
