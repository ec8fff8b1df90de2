//! `Read`: values that are too large for a unary reply, and parts of them.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use grpcio::RpcStatusCode;
use support::client::{Client, Refusal};
use support::origin::{Answer, Latch, Origin};
use support::{Node, PATIENCE, eventually, folder, group};

const MIB: usize = 1 << 20;
/// Hundreds of MiB take a machine with other work longer than a load may take by default.
const LOAD_LONG: [&str; 2] = ["--load-timeout", "300"];

/// Bytes of which no two parts are alike.
fn value(len: usize) -> Vec<u8> {
    let word = |at: usize| (at as u32).wrapping_mul(0x9e37_79b9).to_be_bytes();
    let mut value: Vec<u8> = (0..len.div_ceil(4)).flat_map(word).collect();
    value.truncate(len);
    value
}

/// A figure of the admin port.
fn metric(node: &Node, name: &str) -> u64 {
    let (_, figures) = support::http::get(node.admin, "/metrics");
    let name = format!("corecache_{name} ");
    let line = figures.lines().find_map(|line| line.strip_prefix(&name));
    let figure = line.unwrap_or_else(|| panic!("no {name} in {figures}"));
    figure.parse::<f64>().expect("a figure is a number") as u64
}

fn rss_bytes(node: &Node) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse::<usize>();
    kib.unwrap() << 10
}

/// Reads parts that begin and end at and beside the edges of chunks.
fn check_parts(client: &Client, group: &str, key: &str, value: &[u8]) {
    let len = value.len();
    let last = (len - 1) / MIB * MIB;
    let edges = [0, MIB, 2 * MIB, 4 * MIB, last, len];
    let places = edges.map(|edge| [edge.saturating_sub(1), edge, (edge + 1).min(len)]);
    for from in places.into_iter().flatten().filter(|&from| from <= len) {
        for length in [1, 40_000, MIB - 1, MIB, MIB + 1, 2 * MIB + 1] {
            let (value_bytes, part) = client.read(group, key, from as u64, length as u64).unwrap();
            assert_eq!(value_bytes, len as u64);
            let expected = &value[from..(from + length).min(len)];
            assert!(part == expected, "{length} bytes from {from} of {len}");
        }
    }
    let (value_bytes, read) = client.read(group, key, 0, 0).unwrap();
    assert!(value_bytes == len as u64 && read == value);
}

#[test]
fn a_large_file_is_read_as_it_is_and_in_parts() {
    let value = value(64 * MIB);
    let blobs = folder(&[("large", &value), ("odd", &value[..5 * MIB + 77])]);
    let node = Node::start(["--group", &group("blobs", &blobs), "--shards", "2"]);
    let client = Client::connect(node.addr);
    // The load, and then what is held.
    let (value_bytes, read) = client.read("blobs", "large", 0, 0).unwrap();
    assert!(value_bytes as usize == value.len() && read == value);
    check_parts(&client, "blobs", "large", &value);
    check_parts(&client, "blobs", "odd", &value[..5 * MIB + 77]);
    assert_eq!(client.counters().loads, 2);
    eventually("nothing is loading", || metric(&node, "loading_bytes") == 0);
    eventually("nothing is read", || metric(&node, "reads_open") == 0);
}

#[test]
fn a_large_answer_of_a_web_server_is_read_as_it_is() {
    let large = value(200 * MIB + 3);
    let answer = large.clone();
    let origin = Origin::start(move |path, _| match path {
        "/length" => Answer::Value(answer.clone()),
        _ => Answer::Chunks(answer.clone()),
    });
    let group = origin.group("pages");
    let limits = ["--memory", "512MiB", "--entry-limit", "201MiB"];
    let node = Node::start([&["--group", &group][..], &limits, &LOAD_LONG].concat());
    let client = Client::connect(node.addr);
    for key in ["length", "chunks"] {
        let (value_bytes, read) = client.read("pages", key, 0, 0).unwrap();
        assert!(
            value_bytes as usize == large.len() && read == large,
            "{key}"
        );
        check_parts(&client, "pages", key, &large);
    }
    assert_eq!(client.counters().loads, 2);
    assert_eq!(client.counters().refused, 0);
}

#[test]
fn small_values_are_read_too() {
    let blobs = folder(&[
        ("empty", b""),
        ("small", b"0123456789"),
        ("4 MiB", &value(4 * MIB - 5)),
    ]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let client = Client::connect(node.addr);
    let read = |key, offset, length| client.read("blobs", key, offset, length);
    assert_eq!(read("empty", 0, 0).unwrap(), (0, Vec::new()));
    assert_eq!(read("small", 0, 0).unwrap(), (10, b"0123456789".to_vec()));
    assert_eq!(read("small", 3, 4).unwrap(), (10, b"3456".to_vec()));
    assert_eq!(read("small", 8, 4).unwrap(), (10, b"89".to_vec()));
    assert_eq!(read("small", 10, 4).unwrap(), (10, Vec::new()));
    check_parts(&client, "blobs", "4 MiB", &value(4 * MIB - 5));

    let beyond = read("small", 11, 0).unwrap_err();
    beyond.expect(
        RpcStatusCode::OUT_OF_RANGE,
        &["offset 11", "small", "10 bytes"],
    );
    let nothing = read("missing", 0, 0).unwrap_err();
    nothing.expect(
        RpcStatusCode::NOT_FOUND,
        &["no key \"missing\" in group \"blobs\""],
    );
    let nowhere = client.read("pictures", "a", 0, 0).unwrap_err();
    nowhere.expect(RpcStatusCode::NOT_FOUND, &["no group \"pictures\""]);
    let no_key = read("", 0, 0).unwrap_err();
    no_key.expect(RpcStatusCode::INVALID_ARGUMENT, &["empty"]);
}

#[test]
fn unary_calls_say_what_to_do_about_a_large_value() {
    let blobs = folder(&[("large", &value(5 * MIB))]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let client = Client::connect(node.addr);
    let words = ["\"large\"", "5242880 bytes", "4194304", "with Read"];
    // As it is loaded, and once it is held.
    for _ in 0..2 {
        let refusal = client.get("blobs", "large").unwrap_err();
        refusal.expect(RpcStatusCode::OUT_OF_RANGE, &words);
        let reply = client.get_many("blobs", &[b"large"]).unwrap();
        let failure = reply.answers[0].failure();
        assert_eq!(failure.code, 11, "{failure:?}");
        assert!(failure.message.contains("with Read"), "{failure:?}");
        eventually("the value is held", || client.counters().entries == 1);
    }
    assert_eq!(client.counters().loads, 1);
}

#[test]
fn a_value_that_is_larger_than_what_there_is_room_for_is_refused() {
    let blobs = folder(&[("100 MiB", b""), ("70 MiB", b"")]);
    for (name, mib) in [("100 MiB", 100), ("70 MiB", 70)] {
        let file = File::options()
            .write(true)
            .open(blobs.path().join(name))
            .unwrap();
        file.set_len(mib << 20).unwrap();
        file.set_modified(SystemTime::now() - PATIENCE).unwrap();
    }
    let group = group("blobs", &blobs);
    let node = Node::start([
        "--group",
        &group,
        "--memory",
        "80MiB",
        "--entry-limit",
        "80MiB",
    ]);
    let client = Client::connect(node.addr);
    let refusal = client.read("blobs", "100 MiB", 0, 0).unwrap_err();
    let words = [
        "\"100 MiB\"",
        "too large",
        "104857600 bytes",
        "memory of the group",
    ];
    refusal.expect(RpcStatusCode::OUT_OF_RANGE, &words);
    // What just fits is kept.
    assert_eq!(
        client.read("blobs", "70 MiB", 0, 1).unwrap(),
        (70 << 20, vec![0])
    );
    eventually("the value is held", || client.counters().entries == 1);
    drop(node);

    let node = Node::start(["--group", &group]);
    let refusal = Client::connect(node.addr).read("blobs", "70 MiB", 0, 0);
    let words = [
        "73400320 bytes",
        "limit is 67108864 bytes, as --entry-limit says",
    ];
    refusal
        .unwrap_err()
        .expect(RpcStatusCode::OUT_OF_RANGE, &words);
}

#[test]
fn a_gibibyte_is_read_to_its_end() {
    const LEN: u64 = 1 << 30;
    let blobs = folder(&[]);
    let file = File::create(blobs.path().join("sparse")).unwrap();
    file.set_len(LEN).unwrap();
    let marks = [0, (1 << 29) - 3, LEN - 8];
    for at in marks {
        file.write_all_at(&at.to_be_bytes(), at).unwrap();
    }
    file.set_modified(SystemTime::now() - PATIENCE).unwrap();
    let group = group("blobs", &blobs);
    let node = Node::start([
        "--group",
        &group,
        "--memory",
        "1100MiB",
        "--entry-limit",
        "1GiB",
        LOAD_LONG[0],
        LOAD_LONG[1],
    ]);
    let client = Client::connect(node.addr);
    // Once as it is loaded, and once as it is held.
    for _ in 0..2 {
        let mut reader = client.start_read(5 * PATIENCE, "blobs", "sparse", 0, 0);
        let mut expected = vec![0; 1 << 21];
        let mut at = 0;
        while let Some(chunk) = reader.next().unwrap() {
            let len = chunk.data.len();
            expected.fill(0);
            for mark in marks {
                for (byte, place) in mark.to_be_bytes().into_iter().zip(mark..) {
                    if (at..at + len as u64).contains(&place) {
                        expected[(place - at) as usize] = byte;
                    }
                }
            }
            assert!(chunk.data == expected[..len], "at {at}");
            at += len as u64;
        }
        assert_eq!(at, LEN);
        eventually("the value is held", || client.counters().entries == 1);
    }
    assert_eq!(client.counters().loads, 1);
}

#[test]
fn readers_that_stop_cost_next_to_nothing_and_end_by_their_deadline() {
    const READERS: usize = 300;
    let blobs = folder(&[("large", &value(64 * MIB))]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let client = Client::connect(node.addr);
    client.read("blobs", "large", 0, 0).unwrap();
    let before = rss_bytes(&node);
    // Long enough for all of them to begin.
    let timeout = Duration::from_secs(20);
    // Half of them read whole chunks, half begin and end within one.
    let mut readers: Vec<_> = (0..READERS as u64)
        .map(|reader| client.start_read(timeout, "blobs", "large", reader % 2, (64 << 20) - 2))
        .collect();
    for reader in &mut readers {
        assert!(reader.next().unwrap().is_some());
    }
    assert_eq!(metric(&node, "reads_open"), READERS as u64);
    let more = rss_bytes(&node).saturating_sub(before);
    assert!(
        more < 64 * MIB,
        "{} KiB for each reader",
        (more / READERS) >> 10
    );
    // The others are served meanwhile.
    assert_eq!(client.read("blobs", "large", 7, 1).unwrap().1.len(), 1);
    eventually("they have ended", || metric(&node, "reads_open") == 0);
    for reader in &mut readers {
        let end = loop {
            match reader.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it can not have been read to its end"),
                Err(refusal) => break refusal,
            }
        };
        end.expect(RpcStatusCode::DEADLINE_EXCEEDED, &[]);
    }
}

/// Their deadlines are far away; without a look at them they would keep the value as long.
#[test]
fn a_reader_that_stands_still_is_let_go_and_a_slow_one_is_not() {
    let blobs = folder(&[("large", &value(64 * MIB))]);
    let node = Node::start(["--group", &group("blobs", &blobs), "--read-stall", "4"]);
    let client = Client::connect(node.addr);
    let mut still = client.start_read(PATIENCE, "blobs", "large", 0, 0);
    still.next().unwrap();
    let slow = Client::connect_narrow(node.addr);
    let mut slow = slow.start_read(PATIENCE, "blobs", "large", 0, 0);
    let mut read = slow.next().unwrap().unwrap().data.len();
    let begun = Instant::now();
    let limit = Duration::from_secs(4);
    let mut reads_open = 2;
    while let Some(chunk) = slow.next().unwrap() {
        read += chunk.data.len();
        // It takes longer than the limit in all, and never as long for a chunk.
        if begun.elapsed() < 2 * limit {
            thread::sleep(limit / 20);
            reads_open = metric(&node, "reads_open");
        }
    }
    assert_eq!(
        (read, reads_open),
        (64 * MIB, 1),
        "the slow one was read on, alone"
    );
    eventually("nothing is read", || metric(&node, "reads_open") == 0);
    let end = std::iter::from_fn(|| still.next().transpose()).find_map(Result::err);
    end.unwrap().expect(RpcStatusCode::CANCELLED, &[]);
}

#[test]
fn readers_that_go_away_let_go_of_what_they_held() {
    let (first, second) = (value(60 * MIB), value(50 * MIB));
    let blobs = folder(&[("first", &first), ("second", &second)]);
    let group = group("blobs", &blobs);
    let node = Node::start(["--group", &group, "--memory", "100MiB", "--shards", "1"]);
    let client = Client::connect(node.addr);
    let mut readers: Vec<_> = (0..8)
        .map(|_| client.start_read(PATIENCE, "blobs", "first", 0, 0))
        .collect();
    for reader in &mut readers {
        reader.next().unwrap();
    }
    // Both do not fit: the first one has to go, and is still read; the second one can not be kept meanwhile.
    let held = client.read("blobs", "second", 0, 0).unwrap();
    assert!(held.1 == second);
    let garbage = || client.stats().garbage_bytes;
    eventually("the first one is garbage", || {
        garbage() >= first.len() as u64
    });
    drop(readers);
    eventually("it has been let go", || garbage() == 0);
    eventually("nothing is read", || metric(&node, "reads_open") == 0);
    let held = client.read("blobs", "second", 0, 0).unwrap();
    assert!(held.1 == second);
}

/// Neither table nor garbage counts these; without a count of their own, each reader could hold one more.
#[test]
fn values_that_are_not_kept_are_bounded_while_they_are_read() {
    let large = value(50 * MIB);
    let origin = Origin::start(move |_, _| Answer::UntilClosed(large.clone()));
    let node = Node::start(["--group", &origin.group("pages")]);
    let client = Client::connect(node.addr);
    let mut reader = client.start_read(PATIENCE, "pages", "one", 0, 0);
    assert_eq!(reader.next().unwrap().unwrap().value_bytes, 50 << 20);
    let unkept = || metric(&node, "loading_bytes");
    eventually("the value is charged as it is", || {
        unkept() / (1 << 20) == 50
    });
    assert_eq!(client.counters().entries, 0);

    let refusal = client.read("pages", "two", 0, 0).unwrap_err();
    let words = ["\"two\"", "large values", "try again later"];
    refusal.expect(RpcStatusCode::RESOURCE_EXHAUSTED, &words);
    drop(reader);
    eventually("nothing is held", || unkept() == 0);
    assert_eq!(client.read("pages", "two", 0, 1).unwrap().0, 50 << 20);
}

#[test]
fn loads_of_large_values_are_bounded_and_outlive_their_callers() {
    let latch = Latch::default();
    let held = latch.clone();
    let large = value(50 * MIB);
    let answer = large.clone();
    let origin = Origin::start(move |path, _| match path {
        "/small" => Answer::Value(b"small".to_vec()),
        _ => Answer::Halves(answer.clone(), held.clone()),
    });
    let node = Node::start(["--group", &origin.group("pages")]);
    let client = Client::connect(node.addr);
    let first = client.start_read(PATIENCE, "pages", "first", 0, 0);
    let loading = || metric(&node, "loading_bytes");
    eventually("the first one is loading", || {
        loading() >= large.len() as u64
    });
    let refusal = client.read("pages", "second", 0, 0).unwrap_err();
    let words = ["\"second\"", "large values", "try again later"];
    refusal.expect(RpcStatusCode::RESOURCE_EXHAUSTED, &words);
    assert_eq!(client.get("pages", "small").unwrap(), b"small");

    drop(first);
    eventually("its caller has gone", || metric(&node, "reads_open") == 0);
    latch.open();
    eventually("it is held all the same", || client.counters().entries == 2);
    assert!(client.read("pages", "first", 0, 0).unwrap().1 == large);
    assert_eq!(origin.requests("/first"), 1);
    assert_eq!(loading(), 0);
}

#[test]
fn large_values_wait_for_room_and_no_loader_waits_with_them() {
    let latch = Latch::default();
    let held = latch.clone();
    let large = value(50 * MIB);
    let answer = large.clone();
    let origin = Origin::start(move |path, _| match path {
        "/small" => Answer::Value(b"small".to_vec()),
        "/first" => Answer::Halves(answer.clone(), held.clone()),
        "/untold" => Answer::Chunks(answer.clone()),
        _ => Answer::Value(answer.clone()),
    });
    let group = origin.group("pages");
    let limits = [
        "--loaders",
        "2",
        "--load-wait",
        "60",
        "--load-timeout",
        "60",
    ];
    let node = Node::start([&["--group", &group], &limits[..]].concat());
    let client = Client::connect(node.addr);
    let read = |key: &'static str| {
        let client = Client::connect(node.addr);
        std::thread::spawn(move || client.read("pages", key, 0, 0))
    };
    let first = read("first");
    eventually("the first one is loading", || {
        metric(&node, "loading_bytes") >= large.len() as u64
    });
    let others = ["told", "untold"].map(read);
    eventually("the others wait for room", || {
        metric(&node, "group_loads_roomless{group=\"pages\"}") == 2
    });
    assert_eq!(client.get("pages", "small").unwrap(), b"small");
    assert_eq!(client.counters().load_failures, 0);

    latch.open();
    for reader in others.into_iter().chain([first]) {
        let (_, read) = reader.join().unwrap().unwrap();
        assert!(read == large);
    }
    assert_eq!(client.counters().loads, 4);
    eventually("nothing is charged", || metric(&node, "loading_bytes") == 0);
}

#[test]
fn a_read_in_flight_outlives_the_begin_of_a_drain() {
    let large = value(64 * MIB);
    let blobs = folder(&[("large", &large)]);
    let mut node = Node::start(["--group", &group("blobs", &blobs)]);
    let client = Client::connect(node.addr);
    let mut reader = client.start_read(PATIENCE, "blobs", "large", 0, 0);
    let mut read = reader.next().unwrap().unwrap().data;
    node.signal("TERM");
    eventually("the node drains", || {
        support::http::get(node.admin, "/readyz").0 == 503
    });
    while let Some(chunk) = reader.next().unwrap() {
        read.extend(chunk.data);
    }
    assert!(read == large);
    assert!(node.wait().success());
}

#[test]
fn a_read_that_stands_still_is_cut_when_the_drain_is_over() {
    let blobs = folder(&[("large", &value(64 * MIB))]);
    let mut node = Node::start(["--group", &group("blobs", &blobs), "--drain", "1"]);
    let client = Client::connect(node.addr);
    let mut reader = client.start_read(PATIENCE, "blobs", "large", 0, 0);
    reader.next().unwrap();
    assert!(node.terminate().success());
    let end = std::iter::from_fn(|| reader.next().transpose()).find_map(Result::err);
    let end: Refusal = end.expect("it was cut");
    assert_ne!(end.code, RpcStatusCode::OK);
}
