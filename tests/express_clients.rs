//! Stock clients at both doors, which must see the same: grpc-go, ghz and grpcurl, where Go is installed.

mod support;

use std::fmt::Write as _;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use support::client::request;
use support::{Node, at_both_doors, folder, go, group, run};

const GET: &str = "/corecache.v1.Cache/Get";
const GET_MANY: &str = "/corecache.v1.Cache/GetMany";

/// What is called, its compressor and its request.
type Call = (&'static str, &'static str, Vec<u8>);

/// Encoded, and what a client of another kind would make of bytes that are no text.
fn calls() -> Vec<Call> {
    let get = |key: &[u8]| (GET, "-", request("blobs", &[key]));
    let many = |keys: &[&[u8]]| (GET_MANY, "-", request("blobs", keys));
    let all_bytes: Vec<u8> = (0..=255).collect();
    let singles: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
    let singles: Vec<&[u8]> = singles.iter().map(|byte| &byte[..]).collect();
    vec![
        get(b"hello"),
        get(b"empty"),
        get(b"largest"),
        get(b"too large"),
        get(b"nope"),
        get("n\u{f6} 100%".as_bytes()),
        get(&all_bytes),
        get(b""),
        get(b"../hello"),
        get(&[b'k'; 4096]),
        get(&[0xff; 4097]),
        (GET, "-", request("teapots", &[b"hello"])),
        (GET, "-", Vec::new()),
        (GET, "-", vec![0xff; 3]),
        (GET, "-", vec![b'x'; 5 << 20]),
        many(&[b"hello", b"nope", b"", b"hello", b"../x"]),
        many(&[]),
        many(&singles),
        many(&[&b"hello"[..]; 10_000]),
        many(&[&b"hello"[..]; 10_001]),
        many(&[&b"half"[..]; 3]),
        ("/corecache.v1.Cluster/Members", "-", Vec::new()),
        ("/grpc.health.v1.Health/Check", "-", Vec::new()),
        ("/grpc.health.v1.Health/Check", "-", b"\x0a\x03tea".to_vec()),
        ("/grpc.health.v1.Health/List", "-", Vec::new()),
        // Their messages are each door's own.
        (GET, "gzip", request("blobs", &[b"hello"])),
        ("/corecache.v1.Cache/Nope", "-", Vec::new()),
        ("/no.Service/Nope", "-", Vec::new()),
    ]
}

/// One line each, as `tests/go/both_doors` takes and says them.
fn make(calls: &[Call], client: &mut Command) -> Vec<String> {
    let mut lines = String::new();
    for (path, compressor, request) in calls {
        let deadline_ms = support::PATIENCE.as_millis();
        write!(lines, "{deadline_ms} {compressor} {path} ").unwrap();
        request
            .iter()
            .for_each(|byte| write!(lines, "{byte:02x}").unwrap());
        lines.push('\n');
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let output = succeeds(client.stdin(Stdio::from(file)));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn succeeds(command: &mut Command) -> Output {
    let output = run(command);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
    output
}

#[test]
fn a_go_client_sees_the_same_at_both() {
    let Some(client) = go::build("both_doors") else {
        return;
    };
    let (largest, larger) = (vec![1; (4 << 20) - 5], vec![2; (4 << 20) - 4]);
    let blobs = folder(&[
        ("hello", b"Hello"),
        ("empty", b""),
        ("half", &vec![3; 2 << 20]),
        ("largest", &largest),
        ("too large", &larger),
    ]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let calls = calls();
    let [front, express] = [node.addr, node.express]
        .map(|door| make(&calls, Command::new(&client).arg(door.to_string())));
    assert_eq!((front.len(), express.len()), (calls.len(), calls.len()));
    let same = calls.len() - 4;
    for (at, ((path, _, request), (front, express))) in
        calls.iter().zip(front.iter().zip(&express)).enumerate()
    {
        let shown = request[..request.len().min(80)].escape_ascii();
        let is_too_long = request.len() > 4 << 20;
        let parts = |line: &str| match at < same && !is_too_long {
            true => line.to_owned(),
            false => line.split('|').next().unwrap().to_owned(),
        };
        assert_eq!(parts(front), parts(express), "{path} {shown}");
    }
    assert!(express[0].starts_with("OK|\"\"|"), "{}", express[0]);
    assert!(express[2].len() > 8 << 20, "the largest, in hex");
    assert!(
        express[4].starts_with("NotFound|\"no key"),
        "{}",
        express[4]
    );
    assert!(
        express[same + 1].starts_with("Unimplemented|"),
        "{}",
        express[same + 1]
    );
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
