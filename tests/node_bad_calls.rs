//! Calls that ask for what is not there or can not be: a clear error, and the node goes on.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use corecache::server::VALUE_LIMIT_BYTES;
use grpcio::RpcStatusCode;
use support::client::{Client, request};
use support::origin::{Answer, Origin};
use support::{Node, at_both_doors, folder, group};

const GET: &str = "/corecache.v1.Cache/Get";

#[test]
fn an_unknown_group_and_an_unknown_key_are_told_apart() {
    at_both_doors(|door| {
        let blobs = folder(&[("a", b"1")]);
        let node = Node::start(["--group", &group("blobs", &blobs)]);
        let client = Client::connect(door.of(&node));

        let no_group = client.get("pictures", "a").unwrap_err();
        no_group.expect(
            RpcStatusCode::NOT_FOUND,
            &["no group \"pictures\"", "its groups are: blobs"],
        );
        let no_key = client.get("blobs", "b").unwrap_err();
        let text = "no key \"b\" in group \"blobs\": the folder has no such file";
        no_key.expect(RpcStatusCode::NOT_FOUND, &[text]);
        assert_eq!(client.get("blobs", "a").unwrap(), b"1");

        // A key that was not there is there as soon as its file is.
        fs::write(blobs.path().join("b"), "2").unwrap();
        assert_eq!(client.get("blobs", "b").unwrap(), b"2");
    });
}

#[test]
fn a_key_has_1_to_4096_bytes() {
    at_both_doors(|door| {
        let origin = Origin::start(|path, _| Answer::Value(path.as_bytes().to_vec()));
        let node = Node::start(["--group", &origin.group("blobs")]);
        let client = Client::connect(door.of(&node));
        let longest = "k".repeat(4096);
        let too_long = "k".repeat(4097);

        let value = client.get("blobs", &longest).unwrap();
        assert_eq!(value, format!("/{longest}").as_bytes());
        client
            .get("blobs", "")
            .unwrap_err()
            .expect(RpcStatusCode::INVALID_ARGUMENT, &["blobs", "empty"]);
        client
            .get("blobs", &too_long)
            .unwrap_err()
            .expect(RpcStatusCode::INVALID_ARGUMENT, &["4097 bytes", "4096"]);
        assert_eq!(origin.requests("/"), 0);
        assert_eq!(origin.requests(&format!("/{too_long}")), 0);
        // Neither was looked for.
        assert_eq!(client.counters().misses, 1);
    });
}

#[test]
fn a_key_does_not_leave_the_folder() {
    at_both_doors(|door| {
        let outside = folder(&[("secret", b"s3cret")]);
        let blobs = folder(&[("sub/a", b"1")]);
        let secret = outside.path().join("secret");
        symlink(&secret, blobs.path().join("link")).unwrap();
        symlink(outside.path(), blobs.path().join("way")).unwrap();
        let made = Command::new("mkfifo")
            .arg(blobs.path().join("pipe"))
            .status();
        assert!(made.expect("mkfifo runs").success());
        let node = Node::start(["--group", &group("blobs", &blobs)]);
        let client = Client::connect(door.of(&node));

        let name = outside.path().file_name().unwrap().to_str().unwrap();
        let above = format!("../{name}/secret");
        let within = format!("sub/../../{name}/secret");
        let absolute = secret.to_str().unwrap();
        for key in [
            &above,
            &within,
            absolute,
            "..",
            "sub/../sub/a",
            "link",
            "way/secret",
            "pipe",
            "sub",
            "sub/",
            "sub//a",
            "./sub/a",
            "sub/a\0b",
        ] {
            let refusal = client.get("blobs", key).unwrap_err();
            refusal.expect(RpcStatusCode::INVALID_ARGUMENT, &["blobs"]);
            assert!(!refusal.text.contains("s3cret"), "{key:?}: {refusal:?}");
        }
        assert_eq!(client.get("blobs", "sub/a").unwrap(), b"1");
    });
}

#[test]
fn a_value_over_the_unary_limit_is_refused_with_both_sizes() {
    at_both_doors(|door| {
        let largest = vec![7; VALUE_LIMIT_BYTES];
        let larger = vec![8; VALUE_LIMIT_BYTES + 1];
        let blobs = folder(&[("largest", &largest), ("larger", &larger)]);
        let node = Node::start(["--group", &group("blobs", &blobs)]);
        let client = Client::connect(door.of(&node));

        assert!(client.get("blobs", "largest").unwrap() == largest);
        let refusal = client.get("blobs", "larger").unwrap_err();
        let sizes = [larger.len().to_string(), largest.len().to_string()];
        refusal.expect(
            RpcStatusCode::OUT_OF_RANGE,
            &["larger", &sizes[0], &sizes[1], "Read"],
        );
    });
}

#[test]
fn a_request_that_is_no_message_is_refused() {
    at_both_doors(|door| {
        let blobs = folder(&[("a", b"1")]);
        let node = Node::start(["--group", &group("blobs", &blobs)]);
        let client = Client::connect(door.of(&node));
        let mut cut_short = request("blobs", &[b"a"]);
        cut_short.pop();

        for malformed in [vec![0xff; 100], vec![0x0a], vec![0x0b], cut_short] {
            let refusal = client.call(GET, malformed.clone()).unwrap_err();
            refusal.expect(RpcStatusCode::INVALID_ARGUMENT, &["GetRequest"]);
            let many = "/corecache.v1.Cache/GetMany";
            let refusal = client.call(many, malformed).unwrap_err();
            refusal.expect(RpcStatusCode::INVALID_ARGUMENT, &["GetManyRequest"]);
        }
        for (path, name) in [
            ("/corecache.v1.Cache/Stats", "StatsRequest"),
            ("/corecache.v1.Cluster/Members", "MembersRequest"),
            ("/corecache.v1.Cluster/Peek", "PeekRequest"),
            ("/corecache.v1.Cluster/TopKeys", "TopKeysRequest"),
            ("/corecache.v1.Cluster/Weigh", "WeighRequest"),
            ("/grpc.health.v1.Health/Check", "HealthCheckRequest"),
            ("/grpc.health.v1.Health/List", "HealthListRequest"),
        ] {
            let refusal = client.call(path, vec![0x0a]).unwrap_err();
            refusal.expect(RpcStatusCode::INVALID_ARGUMENT, &[name]);
        }
        let unknown = client.call("/corecache.v1.Cache/Put", Vec::new());
        unknown
            .unwrap_err()
            .expect(RpcStatusCode::UNIMPLEMENTED, &[]);
        assert_eq!(client.get("blobs", "a").unwrap(), b"1");
    });
}

#[test]
fn keys_and_group_names_need_not_be_utf_8() {
    at_both_doors(|door| {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let blobs = folder(&[]);
        let key = b"\xff\xfe";
        fs::write(blobs.path().join(OsStr::from_bytes(key)), "odd").unwrap();
        let node = Node::start(["--group", &group("blobs", &blobs)]);
        let client = Client::connect(door.of(&node));

        assert_eq!(client.get("blobs", key).unwrap(), b"odd");
        let no_key = client.get("blobs", b"\xff\xfd").unwrap_err();
        no_key.expect(RpcStatusCode::NOT_FOUND, &["no key \"\\xff\\xfd\""]);
        let no_group = client.call(GET, b"\x0a\x02\xff\xfe\x12\x01a".to_vec());
        no_group
            .unwrap_err()
            .expect(RpcStatusCode::NOT_FOUND, &["no group \"\\xff\\xfe\""]);
    });
}
