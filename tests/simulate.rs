//! `corecache simulate`, as a process: formats, figures and errors.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tempfile::TempDir;

/// Ten keys in a loop, a hundred times.
fn requests() -> String {
    (0..1000).map(|at| format!("key-{}\n", at % 10)).collect()
}

fn simulate(trace: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_corecache"))
        .arg("simulate")
        .arg(trace)
        .args(arguments)
        .output()
        .expect("the program runs")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// What it says on standard error when it fails.
fn error(trace: &[u8]) -> String {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("trace");
    fs::write(&path, trace).expect("a file");
    let output = simulate(&path, &[]);
    assert!(!output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stderr).expect("text");
    let prefix = format!("corecache: {}: ", path.display());
    said.strip_prefix(&prefix)
        .expect(&said)
        .trim_end()
        .to_owned()
}

fn gz(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

fn zst(text: &str) -> Vec<u8> {
    compress_to_vec(text.as_bytes(), CompressionLevel::Fastest)
}

const WHOLE: &str = r#"{"policy":"lru","size":10,"requests":1000,"hit_ratio":0.990000,"byte_hit_ratio":0.990000}
{"policy":"belady","size":10,"requests":1000,"hit_ratio":0.990000,"byte_hit_ratio":0.990000}
"#;

#[test]
fn a_trace_is_read_plain_or_compressed_in_one_piece_or_more() {
    let folder = TempDir::new().expect("a folder");
    let text = requests();
    let (first, second) = text.split_at(3333);
    let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
    let files = [
        text.clone().into_bytes(),
        gz(&text),
        [gz(first), gz(second)].concat(),
        zst(&text),
        [zst(first), skipped, zst(second)].concat(),
    ];
    for (number, bytes) in files.iter().enumerate() {
        let path = folder.path().join("trace");
        fs::write(&path, bytes).expect("a file");
        let arguments = ["--json", "--sizes", "100%", "--policy", "lru,belady"];
        assert_eq!(stdout(&simulate(&path, &arguments)), WHOLE, "file {number}");
    }
}

#[test]
fn standard_input_is_a_trace() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_corecache"))
        .args(["simulate", "-", "--json", "-s", "10", "-p", "lru,belady"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(&zst(&requests())).expect("it is read");
    drop(input);
    assert_eq!(stdout(&child.wait_with_output().expect("it ends")), WHOLE);
}

#[test]
fn a_loop_that_does_not_fit_shows_what_the_policies_are_worth() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("trace");
    let requests: String = (0..50_000).map(|at| format!("{} 10\n", at % 500)).collect();
    fs::write(&path, requests).expect("a file");
    let picture = folder.path().join("hits.svg");
    let picture_argument = picture.to_str().expect("text");
    let text = stdout(&simulate(
        &path,
        &["--sizes", "3KB", "--plot", picture_argument],
    ));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "50000 requests of 500 keys, 4.9 KiB in all");
    let figures: Vec<&str> = lines[3].split_whitespace().collect();
    let of = |column: usize| figures[column].parse::<f64>().expect("a number");
    // Size and unit, part of all, corecache, s3fifo, lru, belady.
    let (ours, lru, belady) = (of(3), of(5), of(6));
    assert_eq!(lru, 0.0);
    assert!(ours > 55.0 && ours <= belady, "{text}");
    let svg = fs::read_to_string(picture).expect("a picture");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    assert_eq!(
        error(b"a 1\nb 2\nc three\n"),
        "line 3: the size \"three\" is not a whole number of bytes"
    );
    assert_eq!(error(b""), "there is no request in it");
    for whole in [gz(&requests()), zst(&requests())] {
        let said = error(&whole[..whole.len() / 2]);
        assert!(said.starts_with("line "), "{said}");
        assert!(said.ends_with("is the file cut off, or damaged?"), "{said}");
        let said = error(&[&whole[..], b"garbage"].concat());
        assert!(said.contains("line 1001: what follows is no"), "{said}");
    }
    let mut damaged = zst(&requests());
    *damaged.last_mut().expect("bytes") ^= 1;
    assert!(error(&damaged).contains("checksum is wrong"));
}

#[test]
fn sizes_that_the_trace_can_not_have_are_told() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("trace");
    fs::write(&path, requests()).expect("a file");
    for (sizes, code, words) in [
        (
            "10,64MiB",
            1,
            ["--sizes 64.0 MiB is in bytes", "`key size`"],
        ),
        ("0", 2, ["size 0 holds nothing", "write 1 or more"]),
    ] {
        let output = simulate(&path, &["-s", sizes]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

#[test]
fn files_that_are_not_there_are_named() {
    let folder = TempDir::new().expect("a folder");
    let output = simulate(&folder.path().join("none"), &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("none: No such file"),
        "{said}"
    );
    let path = folder.path().join("trace");
    fs::write(&path, requests()).expect("a file");
    let output = simulate(&path, &["--plot", "/nowhere/hits.svg"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("--plot /nowhere/hits.svg: No such file"),
        "{said}"
    );
    // What was replayed is not lost.
    assert!(output.stdout.starts_with(b"1000 requests"), "{output:?}");
}

#[test]
fn what_is_too_large_to_be_counted_is_told() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("trace");
    fs::write(&path, "a 1\nb 5000000000\n").expect("a file");
    let output = simulate(&path, &["--policy", "lru,LRU", "--json", "-s", "10"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(
        said.ends_with("1 request of 4 GiB and more, counted as 4 GiB\n"),
        "{said}"
    );
    // A policy that is named twice is replayed once.
    assert_eq!(
        output.stdout.iter().filter(|byte| **byte == b'\n').count(),
        1
    );
}
