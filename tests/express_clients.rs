//! Stock clients at both doors, which must see the same: tonic, and grpc-go, ghz and grpcurl where Go is installed.

mod support;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Seek, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use corecache::server::pb::health::HealthListResponse;
use protobuf::Message;
use support::client::request;
use support::origin::{Answer, Latch, Origin};
use support::{Node, PATIENCE, at_both_doors, eventually, folder, go, group, http, run, tonic};

const GET: &str = "/corecache.v1.Cache/Get";
const GET_MANY: &str = "/corecache.v1.Cache/GetMany";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// What a call has that is not to be answered in time.
const HASTY: Duration = Duration::from_millis(500);

/// What is the same at both doors, and to all clients.
enum Same {
    /// Code, message and reply.
    All,
    /// The same, but for the order in which the entries of the reply come.
    List,
    /// The code. The message is a door's own, or a client's.
    Code,
}

struct Call {
    path: &'static str,
    request: Vec<u8>,
    deadline: Duration,
    /// `@` where only the node is to know of the deadline. Tonic alone can do that.
    whose: &'static str,
    compressor: &'static str,
    /// The code that it ends with.
    code: &'static str,
    same: Same,
}

/// How a call ended.
struct End {
    code: String,
    message: String,
    reply: Vec<u8>,
}

fn call(code: &'static str, path: &'static str, request: Vec<u8>) -> Call {
    Call {
        path,
        request,
        deadline: PATIENCE,
        whose: "",
        compressor: "-",
        code,
        same: Same::All,
    }
}

fn by_code(call: Call) -> Call {
    Call {
        same: Same::Code,
        ..call
    }
}

/// Encoded, and what a client of another kind would make of bytes that are no text.
fn calls() -> Vec<Call> {
    let get = |code, key: &[u8]| call(code, GET, request("blobs", &[key]));
    let many = |code, keys: &[&[u8]]| call(code, GET_MANY, request("blobs", keys));
    let all_bytes: Vec<u8> = (0..=255).collect();
    let singles: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
    let singles: Vec<&[u8]> = singles.iter().map(|byte| &byte[..]).collect();
    let held = call("DeadlineExceeded", GET, request("held", &[b"hello"]));
    let hasty = Call {
        deadline: HASTY,
        ..held
    };
    vec![
        get("OK", b"hello"),
        get("OK", b"empty"),
        get("OK", b"largest"),
        get("OutOfRange", b"too large"),
        get("NotFound", b"nope"),
        get("NotFound", "n\u{f6} 100%".as_bytes()),
        get("InvalidArgument", &all_bytes),
        get("InvalidArgument", b""),
        get("InvalidArgument", b"../hello"),
        get("InvalidArgument", &[b'k'; 4096]),
        get("InvalidArgument", &[0xff; 4097]),
        call("NotFound", GET, request("teapots", &[b"hello"])),
        call("NotFound", GET, Vec::new()),
        call("InvalidArgument", GET, vec![0xff; 3]),
        many("OK", &[b"hello", b"nope", b"", b"hello", b"../x"]),
        many("OK", &[]),
        many("OK", &singles),
        many("OK", &[&b"hello"[..]; 10_000]),
        many("InvalidArgument", &[&b"hello"[..]; 10_001]),
        many("OK", &[&b"half"[..]; 3]),
        // Whoever sees first that its time is over.
        by_code(hasty),
        call("OK", "/corecache.v1.Cluster/Members", Vec::new()),
        call("OK", CHECK, Vec::new()),
        call("NotFound", CHECK, b"\x0a\x03tea".to_vec()),
        Call {
            same: Same::List,
            ..call("OK", "/grpc.health.v1.Health/List", Vec::new())
        },
        by_code(call(
            "Unimplemented",
            "/corecache.v1.Cache/Nope",
            Vec::new(),
        )),
        by_code(call("Unimplemented", "/no.Service/Nope", Vec::new())),
    ]
}

/// Those that the C-core ends. Each has a connection of its own: it ends such a call more than once, and tonic takes that for
/// an error of the connection, with whatever calls it has.
fn calls_cut_short() -> [Call; 2] {
    let larger = call("ResourceExhausted", GET, vec![b'x'; 5 << 20]);
    let packed = call("Unimplemented", GET, request("blobs", &[b"hello"]));
    let compressor = "gzip";
    [
        by_code(larger),
        by_code(Call {
            compressor,
            ..packed
        }),
    ]
}

/// One line each, as `tests/go/both_doors` takes them.
fn write(calls: &[Call]) -> File {
    let mut lines = String::new();
    for call in calls {
        let (deadline_ms, whose) = (call.deadline.as_millis(), call.whose);
        let (compressor, path) = (call.compressor, call.path);
        write!(lines, "{deadline_ms}{whose} {compressor} {path} ").unwrap();
        let bytes = call.request.iter();
        bytes.for_each(|byte| write!(lines, "{byte:02x}").unwrap());
        lines.push('\n');
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

/// The end of each, of which so many are open at once.
fn make(calls: &[Call], client: &Path, door: SocketAddr, at_once: usize) -> Vec<End> {
    let output = succeeds(
        Command::new(client)
            .args([door.to_string(), at_once.to_string()])
            .stdin(Stdio::from(write(calls))),
    );
    let ends = String::from_utf8(output.stdout).unwrap();
    let ends: Vec<End> = ends.lines().map(read).collect();
    assert_eq!(ends.len(), calls.len());
    ends
}

fn read(line: &str) -> End {
    let parts: Vec<&str> = line.split('|').collect();
    let [code, message, reply] = parts[..] else {
        panic!("not an end: {line}");
    };
    End {
        code: code.to_owned(),
        message: String::from_utf8(from_hex(message)).unwrap(),
        reply: from_hex(reply),
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
    let bytes = digits.map(|digits| u8::from_str_radix(digits, 16));
    bytes.collect::<Result<_, _>>().unwrap()
}

fn succeeds(command: &mut Command) -> Output {
    let output = run(command);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
    output
}

#[test]
fn go_and_tonic_see_the_same_at_both() {
    let (largest, larger) = (vec![1; (4 << 20) - 5], vec![2; (4 << 20) - 4]);
    let blobs = folder(&[
        ("hello", b"Hello"),
        ("empty", b""),
        ("half", &vec![3; 2 << 20]),
        ("largest", &largest),
        ("too large", &larger),
    ]);
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |_, _| {
        held.wait();
        Answer::Value(Vec::new())
    });
    let groups = [group("blobs", &blobs), origin.group("held")];
    let node = Node::start(groups.iter().flat_map(|group| ["--group", group]));

    let (calls, cut_short) = (calls(), calls_cut_short());
    let clients = [Some(tonic::build()), go::build("both_doors")];
    let mut first: Option<Vec<End>> = None;
    for client in clients.iter().flatten() {
        for door in [node.addr, node.express] {
            for at_once in [1, 16] {
                // Shown of a test that fails.
                println!("{at_once} calls at once: {} {door}", client.display());
                let ends = make(&calls, client, door, at_once);
                expect_codes(&calls, &ends);
                expect_same(&calls, first.as_ref().unwrap_or(&ends), &ends);
                first.get_or_insert(ends);
            }
            for call in cut_short.chunks(1) {
                expect_codes(call, &make(call, client, door, 1));
            }
        }
    }
    let hello = &first.expect("a client")[0];
    assert_eq!(hello.reply, b"\x0a\x05Hello");
}

/// The front door's own test: what the C-core does when it ends a call is an error of the connection to tonic.
#[test]
fn a_call_whose_time_is_over_at_the_node_takes_no_other_with_it() {
    const PATIENT: usize = 15;
    let latch = Latch::default();
    let held = latch.clone();
    let origin = Origin::start(move |_, _| {
        held.wait();
        Answer::Value(b"value".to_vec())
    });
    let group = origin.group("held");
    let times = ["--load-least", "600", "--load-timeout", "600"];
    let node = Node::start([&["--group", &*group][..], &times].concat());
    let mut calls: Vec<_> = (0..PATIENT)
        .map(|key| call("OK", GET, request("held", &[format!("{key}").as_bytes()])))
        .collect();
    let hasty = Call {
        deadline: HASTY,
        whose: "@",
        ..call("DeadlineExceeded", GET, request("held", &[b"hasty"]))
    };
    calls.insert(PATIENT / 2, hasty);
    let waiting = || {
        let (_, figures) = http::get(node.admin, "/metrics");
        let mut lines = figures.lines();
        let line = lines.find_map(|line| line.strip_prefix("corecache_calls_waiting "));
        line.expect("the figure is there").parse::<usize>().unwrap()
    };
    let client = tonic::build();
    let ends = thread::scope(|scope| {
        let ends = scope.spawn(|| make(&calls, &client, node.addr, calls.len()));
        eventually("all calls wait", || waiting() == PATIENT + 1);
        eventually("one is over", || waiting() <= PATIENT);
        latch.open();
        ends.join().unwrap()
    });
    expect_codes(&calls, &ends);
    let late = "the deadline passed while the key was being loaded";
    assert_eq!(ends[PATIENT / 2].message, late);
}

fn expect_codes(calls: &[Call], ends: &[End]) {
    for (call, end) in calls.iter().zip(ends) {
        assert_eq!(call.code, end.code, "{}: {}", shown(call), end.message);
    }
}

fn expect_same(calls: &[Call], first: &[End], ends: &[End]) {
    for (call, (first, end)) in calls.iter().zip(first.iter().zip(ends)) {
        let list = |end: &End| HealthListResponse::parse_from_bytes(&end.reply).unwrap();
        let is_same = match call.same {
            Same::All => first.reply == end.reply,
            Same::List => list(first) == list(end),
            Same::Code => continue,
        };
        assert_eq!(first.message, end.message, "{}", shown(call));
        assert!(is_same, "another reply: {}", shown(call));
    }
}

fn shown(call: &Call) -> String {
    let request = &call.request[..call.request.len().min(80)];
    format!("{} {}", call.path, request.escape_ascii())
}

#[test]
fn ghz_and_grpcurl_need_no_flag_but_the_port() {
    let (Some(ghz), Some(grpcurl)) = (
        go::install("github.com/bojand/ghz/cmd/ghz@v0.93.0"),
        go::install("github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"),
    ) else {
        return;
    };
    let blobs = folder(&[("hello", b"Hello")]);
    at_both_doors(|door| {
        let node = Node::start(["--group", &group("blobs", &blobs)]);
        let address = door.of(&node).to_string();
        let say = |args: &[&str]| {
            let output = run(Command::new(&grpcurl).arg("-plaintext").args(args));
            let [out, err] =
                [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
            (output.status.success(), out, err)
        };
        let get = "corecache.v1.Cache/Get";
        let (ok, reply, _) = say(&["-d", r#"{"group":"blobs","key":"hello"}"#, &address, get]);
        assert!(ok && reply.contains("SGVsbG8="), "{reply}");
        let (ok, _, error) = say(&["-d", r#"{"group":"blobs","key":"n\u00f6"}"#, &address, get]);
        assert!(!ok && error.contains("Code: NotFound"), "{error}");
        assert!(error.contains(r#"no key "n\xc3\xb6" in group"#), "{error}");
        let (ok, services, error) = say(&[&address, "list"]);
        assert!(ok && services.contains("corecache.v1.Cache"), "{error}");
        let (ok, described, error) = say(&[&address, "describe", "corecache.v1.Cache.GetMany"]);
        assert!(ok && described.contains("GetManyRequest"), "{error}");
        let output = succeeds(
            Command::new(&ghz)
                .args(["--insecure", "--call", get, "-O", "csv"])
                .args(["-d", r#"{"group":"blobs","key":"hello"}"#])
                .args(["-c", "16", "--connections", "4", "-n", "2000", &address]),
        );
        let report = String::from_utf8(output.stdout).unwrap();
        let answered = report.lines().filter(|line| line.contains(",OK,"));
        assert_eq!(answered.count(), 2000, "{report}");
    });
}
